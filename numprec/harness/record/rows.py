"""How a row begins, before anything is measured, and how it fails."""
from numprec.harness.record import schema

LONGEST = 500    # characters of a reason
CUDA_ERRORS = ("CudaAPIError", "CudaDriverError", "CUDAError", "NvrtcError")    # of numba.cuda and cuda.core
COSTS = ("samples_s", "calls_per_sample", "end_to_end_s", "compile_s", "first_fit_s", "transfer_s", "predict_s",
         "target_s", "energy_j")


def blank(cell, p, **values):
    """The row of one precision of a cell that has not run: nulls, but for what the cell says of itself."""
    return {**dict.fromkeys([*schema.COLUMNS["row"], *schema.COLUMNS[cell.kind]]), "kind": cell.kind, "cell": cell.key,
            "schema_version": schema.VERSION, "precision": str(p), "roles": getattr(p, "roles", str(p)),
            **cell.columns(), **values}


def begin(cell, p, device, **values):
    """The row of one precision of a cell. Where the device lacks the precision, it is a SKIP with the reason."""
    available = device.availability(p)
    status, reason = ("SKIP", available.reason) if available.status == "unavailable" else ("ok", "")
    return blank(cell, p, device=device.name, availability=available.status, status=status, reason=reason, **values)


def failed(cell, p, reason, device=None):
    """The row of one precision of a cell that did not live to write its own."""
    return blank(cell, p, device=getattr(device, "name", None), status="FAIL", reason=_kept(reason))


def fail(row, reason):
    """Makes a row a failure; it then has no time, in its history neither."""
    row.update(status="FAIL", reason=_kept(reason), **{name: None for name in COSTS if name in row})
    for epoch in row.get("history") or ():
        epoch.update(seconds=None, elapsed_s=None)


def _kept(reason):
    """As much of it as a row holds; what no file can, half of a surrogate pair, is spelled out."""
    return reason.encode("utf-8", "backslashreplace").decode()[:LONGEST]


def broken(row):
    """Whether a row reports an error of CUDA, which can leave every later call of its process failing."""
    return row["status"] == "FAIL" and row["reason"].startswith(CUDA_ERRORS)


def before_fault(found):
    """Of the rows of a cell in which CUDA failed, those that hold: what had ended before, and the failure if it is of
    one row alone. The others are to be made in another process, see `worker.complete`."""
    faults = sum(map(broken, found))
    return [row for row in found if row["status"] != "ok" and (faults == 1 or not broken(row))]


class Blame:
    """Context manager: an exception inside becomes the failure of these rows."""

    def __init__(self, *rows):
        self.rows = rows

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if not isinstance(error, Exception):
            return False
        for row in self.rows:
            fail(row, " ".join(f"{kind.__name__}: {error}".split()))
        return True
