"""The table of kernels: time, traffic, arithmetic, what bounds them, and how far they are from the oracle."""
import numpy as np

from numprec.harness.judge import statistics
from numprec.harness.show import roofline
from numprec.harness.show.tables.layout import NOTHING, Table, between, number, reasons, scientific, title

REFERENCE = "fp32"    # of the speed-up, rung by rung

LEGEND = """\
Every result was compared with the chapter's fp64 oracle in this run, before it was timed. error: largest deviation
over the oracle's largest magnitude. /bound: largest deviation over the chapter's error bound, element by element; a
result is right up to 1; beyond, or where there is no finite bound, it has no time. ms: median of the repeated
launches{clock}, with the 10th and 90th percentile beside it. end to end: one launch and the wait for it, by the host's
clock. first s: the first launch, which compiles the kernel or loads it from the cache. GFLOP/s and GB/s count what the
operation needs, not what the rung does. bound: the largest of the least times that the peaks measured in this run allow
for the launches (each by itself), the bytes and the operations, as a share of the time; over 100 % where a cache, or
arithmetic on several numbers at a time, beats the peak."""
SPEED_UP = " vs fp32: how many times as fast as fp32 on the same rung in this run, by medians."
WITHHELD = " Speed-ups are not shown, because the times are the emulator's."


def table(rows, environment):
    """The Table, or None where no kernel ran."""
    rows = [row for row in rows if row["kind"] == "kernel"]
    if not rows:
        return None
    emulated = environment["is_emulator"]
    columns = ("rung", "precision", "ms", "p10 - p90", "end to end", "GB/s", "GFLOP/s", "bound",
               *(() if emulated else ("vs fp32",)), "error", "/bound", "first s", "status")
    reference = references(rows)
    blocks, above = {}, None
    for row in rows:
        heading = f"{row['operation']} {'x'.join(map(str, row['shape']))}"
        rung = "" if (heading, row["rung"]) == above else row["rung"]
        above = heading, row["rung"]
        blocks.setdefault(heading, []).append(_cells(row, rung, reference.get(ladder(row)), environment))
    clock = " by the host's clock" if emulated else " between CUDA events"
    return Table(title("Kernels", environment), columns, "llrrrrrr" + ("" if emulated else "r") + "rrrl",
                 list(blocks.items()), LEGEND.format(clock=clock) + (WITHHELD if emulated else SPEED_UP),
                 reasons(rows, lambda row: f"{row['operation']}/{row['rung']} {row['precision']}"))


def _cells(row, rung, reference, environment):
    cells = [rung, row["precision"]]
    if row["samples_s"]:
        low, middle, high = statistics.spread(row["samples_s"])
        bound = roofline.bound(row, environment)
        cells += [number(1e3 * middle), between(low, high, 1e3), number(_milliseconds(row["end_to_end_s"])),
                  number(row["bytes"] / middle / 1e9), number(row["flops"] / middle / 1e9), str(bound or NOTHING)]
    else:
        middle = None
        cells += [NOTHING] * 6
    if not environment["is_emulator"]:
        cells.append(number(reference / middle) if reference and middle else NOTHING)
    return [*cells, scientific(row["error"]), number(row["error_over_bound"]),
            number(row["compile_s"] if row["status"] == "ok" else None),
            status(row, environment)]


def status(row, environment):
    """The row's status; on a GPU it also says where a precision is not native there, and where the clock was cut."""
    text = row["status"]
    if text == "ok" and row["availability"] != "native" and not environment["is_emulator"]:
        text += f", {row['availability']}"
    return text + (", throttled" if (row.get("clocks") or {}).get("throttled") else "")


def references(rows):
    """{ladder of a row: median seconds}, of the rows that speed-ups refer to."""
    return {ladder(row): median(row) for row in rows if row["precision"] == REFERENCE and row["samples_s"]}


def ladder(row):
    return row["operation"], row["rung"], tuple(row["shape"])


def median(row, column="samples_s"):
    return float(np.median(row[column])) if row.get(column) else None


def _milliseconds(samples):
    return 1e3 * float(np.median(samples)) if samples else None
