"""One cell, whatever its kind: its rows, one per precision.

No number stands in a row unless the same run has shown the result behind it to be right: see `launches` for kernels,
`fits` for models and `peers` for other libraries. Whatever goes wrong in a cell stays in its rows.
"""
from numprec.harness.record import rows


def execute(cell, device):
    """The rows of a cell, but for those that a fault of CUDA left open. Raises nothing but what interrupts it."""
    try:
        return _measure(cell)(cell, device)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return [rows.failed(cell, p, reason, device) for p in cell.precisions]


def complete(cell, run):
    """All rows of a cell, in the order of its precisions, by `run(cell)`, which after a fault of CUDA leaves some open:
    these run anew, together without the one that failed, or each by itself where it is not known which one did."""
    found, todo = {}, [cell]
    while todo:
        part = todo.pop(0)
        new = {row["precision"]: row for row in run(part)}
        found.update(new)
        rest = [p for p in part.precisions if str(p) not in new]
        if rest:
            todo += [part.only(rest)] if new else [part.only([p]) for p in rest]
    return [found[str(p)] for p in cell.precisions]


def _measure(cell):
    if cell.kind == "kernel":
        from numprec.harness.measure.launches import kernel_rows
        return kernel_rows
    if cell.kind == "peer":
        from numprec.harness.measure.peers import peer_rows
        return peer_rows
    from numprec.harness.measure.fits import training_rows
    return training_rows
