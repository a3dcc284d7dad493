"""One cell, whatever its kind: its rows, one per precision.

No number stands in a row unless the same run has shown the result behind it to be right: see `launches` for kernels,
`fits` for models and `peers` for other libraries. Whatever goes wrong in a cell stays in its rows.
"""
from numprec.harness import rows


def execute(cell, device):
    """The rows of a cell, in the order of its precisions. Raises nothing but what interrupts it."""
    try:
        return _measure(cell)(cell, device)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return [rows.failed(cell, p, reason, device) for p in cell.precisions]


def _measure(cell):
    if cell.kind == "kernel":
        from numprec.harness.launches import kernel_rows
        return kernel_rows
    if cell.kind == "peer":
        from numprec.harness.peers import peer_rows
        return peer_rows
    from numprec.harness.fits import training_rows
    return training_rows
