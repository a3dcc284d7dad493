"""A run in three small tables, for those who do not read them all: what is safe, what a fit costs, what kernels take.

They hold the same numbers as the full tables; cells that need care say so.
"""
import math
from collections import Counter

import numpy as np

from numprec.harness.judge import verdicts
from numprec.harness.judge.outcomes import by_model
from numprec.harness.show import roofline
from numprec.harness.show.tables.layout import NOTHING, Table, number, plus_minus, title
from numprec.precision import PRECISIONS

SAFE = """\
Mean score on held-out data ± half its 95 % interval; below it the verdict on the difference to fp64, seed by seed:
equal within {margins}, better, worse, undecided, or fails, because fits did not finish. No label differs: every
prediction is that of fp64, but so few do not show that the scores are equal."""
COST = """\
ms of a fit, host to host, transfers included, compiling not: median over the seeds; "-" unless every fit finished."""
FAST = """\
µs of a launch on the highest rung of each operation that the device runs, median; in brackets what bounds it, and the
share of that ceiling that it reaches; "-": no time on that rung in that precision, because it failed or was not run."""


def in_order(names):
    """Precisions as their table has them, others behind."""
    known = list(PRECISIONS)
    return sorted(dict.fromkeys(names), key=lambda name: known.index(name) if name in known else len(known))


def safe(rows, environment):
    """Scores and verdicts, a line per model, a column per precision; None where no model was trained."""
    models, judged = by_model(rows), {(v.label, v.precision): v for v in verdicts.judge(rows)}
    if not models:
        return None
    names = in_order(name for precisions in models.values() for name in precisions)
    lines = []
    for label, precisions in models.items():
        metric = next((o.metric for o in precisions.values() if o.metric), None)
        lines.append((f"{label}, {metric}" if metric else label,
                      *(_safe_cell(precisions.get(name), judged.get((label, name))) for name in names)))
    margins = sorted({f"{o.margin:g} of {o.metric}" for each in models.values() for o in each.values() if o.metric})
    return Table("Verdicts", ("model and data", *names), "l" * (1 + len(names)), [("", lines)],
                 SAFE.format(margins=" and ".join(margins)))


def _safe_cell(outcome, verdict):
    if outcome is None:
        return "not run"
    if not outcome.run:
        return f"skipped: {outcome.rows[0]['reason']}"
    parts = [plus_minus(outcome.score) if outcome.score else "", verdict.brief if verdict else ""]
    return "\n".join(part for part in parts if part) or NOTHING


def cost(rows, environment):
    """Milliseconds of a fit, a line per model, a column per precision; None where no fit was timed."""
    models = {label: found for label, found in by_model(rows).items() if any(o.medians for o in found.values())}
    if not models:
        return None
    names = in_order(name for precisions in models.values() for name in precisions)
    lines = [(label, *(_milliseconds(precisions.get(name)) for name in names)) for label, precisions in models.items()]
    return Table(title("Time of a fit", environment), ("model and data", *names), "l" + "r" * len(names),
                 [("", lines)], COST)


def _milliseconds(outcome):
    return number(1e3 * float(np.median(list(outcome.medians.values())))) if outcome and outcome.medians else NOTHING


def main_shapes(rows):
    """The timed kernel rows of the one shape of each operation that most of its rows have, the largest if several: the
    others are there for their errors."""
    timed = [row for row in rows if row["kind"] == "kernel" and row["samples_s"]]
    counts = Counter((row["operation"], tuple(row["shape"])) for row in timed)
    main = {}
    for (operation, shape), count in counts.items():
        main[operation] = max(main.get(operation, ()), (count, math.prod(shape), shape))
    return [row for row in timed if tuple(row["shape"]) == main[row["operation"]][-1]]


def fast(rows, environment):
    """Microseconds of the highest rung of each operation, even where its launches failed; None without kernels."""
    timed = main_shapes(rows)
    if not timed:
        return None
    shapes = {row["operation"]: row["shape"] for row in timed}
    highest = {row["operation"]: row["rung"] for row in rows    # rungs come slowest first
               if row["kind"] == "kernel" and row["status"] != "SKIP" and row["shape"] == shapes.get(row["operation"])}
    top = {(row["operation"], row["precision"]): row for row in timed if row["rung"] == highest[row["operation"]]}
    names = in_order(row["precision"] for row in timed)
    lines = [(f"{operation} {'x'.join(map(str, shape))}", highest[operation],
              *(_microseconds(top.get((operation, name)), environment) for name in names))
             for operation, shape in shapes.items()]
    return Table(title("Kernels", environment), ("operation", "rung", *names), "ll" + "r" * len(names),
                 [("", lines)], FAST)


def _microseconds(row, environment):
    if row is None:
        return NOTHING
    bound = roofline.bound(row, environment)
    return number(1e6 * float(np.median(row["samples_s"]))) + (f" ({bound})" if bound else "")
