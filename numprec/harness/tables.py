"""The rows of a run as text: one table for kernels, one for training, a legend under each."""
import re
import textwrap

import numpy as np
from tabulate import tabulate

from numprec.harness import statistics
from numprec.harness.environment import NOT_COMPARABLE

BASELINE = "fp64"

KERNEL_LEGEND = """\
Every result was compared with the chapter's fp64 oracle in this run, before it was timed. error: largest deviation
over the oracle's largest magnitude. /bound: largest deviation over the chapter's error bound, element by element; a
result is right up to 1; beyond, or where there is no finite bound, it has no time. ms: median of the repeated
launches, with quartiles beside it. first s: the first launch, which compiles the kernel or loads it from the cache.
GFLOP/s and GB/s count what the operation needs, not what the rung does."""

TRAINING_LEGEND = """\
ms: one fit, host to host, transfers included, compiling not; median over the seeds of each seed's median, with
quartiles beside it; "-" where a fit did not end as it should. first s: the first fit, which compiles. The metric is
computed in float64 on held-out data, the same splits for every precision. Intervals are 95 %: {method}. stop: how the
fits ended, and how many. launches: kernel launches of one fit."""

CORRECTED = """Student's t over {n} seeds, corrected for the overlap of the splits (Nadeau and Bengio 2003)"""
PLAIN = """Student's t over {n} seeds"""


def title(name, environment):
    return f"{name} ({NOT_COMPARABLE})" if environment["is_emulator"] else name


def kernels(rows, environment):
    """The kernel table, or "" where no kernel ran."""
    rows = [row for row in rows if row["kind"] == "kernel"]
    if not rows:
        return ""
    columns = ("operation", "rung", "precision", "shape", "ms", "quartiles", "GFLOP/s", "GB/s", "error", "/bound",
               "first s", "status")
    lines = []
    for row in rows:
        median, spread, flops, traffic = "-", "-", "-", "-"
        if row["samples_s"]:
            low, middle, high = statistics.quartiles(row["samples_s"])
            median, spread = number(1e3 * middle), f"{number(1e3 * low)} - {number(1e3 * high)}"
            flops, traffic = number(row["flops"] / middle / 1e9), number(row["bytes"] / middle / 1e9)
        lines.append((row["operation"], row["rung"], row["precision"], "x".join(map(str, row["shape"])),
                      median, spread, flops, traffic, scientific(row["error"]), number(row["error_over_bound"]),
                      number(row["compile_s"]), status(row, environment)))
    return _table(title("Kernels", environment), columns, _in_blocks(lines, 2), "llllrrrrrrrl",
                  KERNEL_LEGEND, reasons(rows, lambda row: f"{row['operation']}/{row['rung']} {row['precision']}"))


def training(rows, environment):
    """The training table, or "" where no model was trained."""
    groups = by_model(rows)
    if not groups:
        return ""
    columns = ("model", "data", "precision", "ms", "quartiles", "held out", f"minus {BASELINE}", "stop",
               "launches", "first s", "status")
    lines, corrected, seeds = [], False, 0
    for (model, data, metric), precisions in groups.items():
        for precision, found in precisions.items():
            summary = summarize(found, precisions.get(BASELINE))
            unfinished = next((row for row in found if row["status"] != "ok"), found[0])
            corrected |= found[0]["test_to_train"] > 0
            seeds = max(seeds, len(found))
            median, spread = "-", "-"
            if summary["times"] is not None:
                low, middle, high = summary["times"]
                median, spread = number(1e3 * middle), f"{number(1e3 * low)} - {number(1e3 * high)}"
            stand_in = next((f" (in place of {row['stand_in']})" for row in found if row["stand_in"]), "")
            lines.append((model, data + stand_in, precision, median, spread,
                          f"{metric} {plus_minus(summary['score'], '{:.4f}')}",
                          plus_minus(summary["difference"], "{:+.1e}"),
                          summary["stop"], summary["launches"], number(summary["first_fit_s"]),
                          status(unfinished, environment)))
    method = (CORRECTED if corrected else PLAIN).format(n=seeds)
    legend = TRAINING_LEGEND.format(method=method)
    if not any(BASELINE in precisions for precisions in groups.values()):
        legend += f" {BASELINE} was not chosen, so there is no difference to it."
    rows = [row for precisions in groups.values() for found in precisions.values() for row in found]
    return _table(title("Training", environment), columns, _in_blocks(lines, 2), "lllrrlllrrl", legend,
                  reasons(rows, lambda row: f"{row['model']} {row['precision']}"))


def by_model(rows):
    """{(model, data, metric): {precision: its rows, a seed each}}."""
    groups = {}
    for row in rows:
        if row["kind"] == "training":
            key = row["model"], row["data"], row["metric"]
            groups.setdefault(key, {}).setdefault(row["precision"], []).append(row)
    return groups


def summarize(rows, baseline=None):
    """What the rows of one model and precision, a seed each, say together; `baseline` holds the same in fp64."""
    done = [row for row in rows if row["status"] == "ok"]
    ratio = rows[0]["test_to_train"]
    scores = {row["seed"]: row["score"] for row in done}
    reference = {row["seed"]: row["score"] for row in baseline or () if row["status"] == "ok"}
    pairs = [seed for seed in scores if seed in reference]
    difference = None
    if pairs and rows[0]["precision"] != BASELINE:
        difference = statistics.paired_difference([scores[s] for s in pairs], [reference[s] for s in pairs], ratio)
    ended = [str(reason) for row in done for reason in np.ravel(row["stop_reason"])]
    medians = [float(np.median(row["samples_s"])) for row in done if row["samples_s"]]
    trusted = len(done) == len(rows) and all(row["finished"] for row in done) and len(medians) == len(rows)
    return {
        "times": statistics.quartiles(medians) if trusted else None,
        "score": statistics.mean(list(scores.values()), ratio) if scores else None,
        "difference": difference,
        "stop": ", ".join(f"{reason} {ended.count(reason)}" for reason in dict.fromkeys(ended)) or "-",
        "launches": "/".join(str(n) for n in sorted({row["launches"] for row in done})) or "-",
        "first_fit_s": done[0]["first_fit_s"] if done else None,
    }


# ---- numbers

def number(x):
    """Three significant digits, never in exponent form between 0.001 and 999999."""
    if x is None:
        return "-"
    if x == 0 or not np.isfinite(x):
        return f"{x:g}"
    if not 1e-3 <= abs(x) < 1e6:
        return f"{x:.1e}"
    exponent = int(f"{x:.2e}".partition("e")[2])
    return f"{x:.{max(0, 2 - exponent)}f}"


def scientific(x):
    return "-" if x is None else "0" if x == 0 else f"{x:.1e}"


def plus_minus(interval, form):
    if interval is None:
        return "-"
    if interval.value == 0 and interval.half_width == 0:
        return "0"
    value = form.format(interval.value)
    if not np.isfinite(interval.half_width):
        return value
    return f"{value} ± {form.replace('+', '').format(interval.half_width)}"


def status(row, environment):
    """The row's status; on a GPU it also says where a precision is not native there."""
    if row["status"] == "ok" and row["availability"] != "native" and not environment["is_emulator"]:
        return f"ok, {row['availability']}"
    return row["status"]


def reasons(rows, name):
    """A line for each distinct failure, skip or warning; those that differ in their numbers alone share one."""
    lines = {}
    for row in rows:
        said = [(row["status"], row["reason"])] if row["status"] != "ok" else []
        for kind, text in said + [("warning", warning) for warning in row.get("warnings") or ()]:
            text = " ".join(text.split())
            lines.setdefault((kind, re.sub(r"\d[\d.e+-]*", "#", text)), []).append((name(row), text))
    notes = []
    for (kind, _), said in lines.items():
        names, texts = (list(dict.fromkeys(each)) for each in zip(*said))
        others = "" if len(texts) == 1 else f" (and {len(texts) - 1} times with other numbers)"
        notes.append(f"{kind} {_some(names)}: {texts[0]}{others}")
    return notes


def _some(names, most=4):
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _in_blocks(lines, by):
    """Blanks what repeats the line above in the first `by` columns, and leaves a line between values of the first, so
    that a ladder reads as a block."""
    shown, above = [], None
    for line in lines:
        if above and line[0] != above[0]:
            shown.append([""] * len(line))
        same = 0
        while above and same < by and line[same] == above[same]:
            same += 1
        shown.append([""] * same + list(line[same:]))
        above = line
    return shown


def _table(heading, columns, lines, align, legend, notes):
    body = tabulate(lines, columns, tablefmt="simple", disable_numparse=True,
                    colalign=[{"l": "left", "r": "right"}[a] for a in align])
    notes = [textwrap.fill(note, 118, subsequent_indent="  ") for note in notes]
    return "\n".join([heading, "", body, "", textwrap.fill(" ".join(legend.split()), 118), *notes])
