"""The tables of training: what came out, what it cost, how much faster it was, and what other libraries do."""
from collections import Counter

import numpy as np

from numprec.harness.judge import statistics, verdicts
from numprec.harness.judge.outcomes import BASELINE, by_model
from numprec.harness.record.wording import signed, span
from numprec.harness.show.tables.layout import (NOTHING, Table, between, chance, number, plus_minus, reasons, title,
                                                whole)

PREDICTIONS = """\
Predictions are NumPy's in float64 on the host, from master weights where there are some (the tree: on the device, in
storage); so scores depend on training alone."""
OUTCOME = """\
held out: the metric, computed in float64 on data that were not trained on, the same splits and seeds in every
precision; mean over the seeds with a 95 % interval of Student's t, which where splits overlap is the wider one of
Nadeau and Bengio 2003. minus fp64: difference seed by seed, mean and 95 % interval; where it is the same on
every seed, the interval of what may have been missed, by the number of predictions (Clopper and Pearson 1934; those of
overlapping splits count as so many fewer as Nadeau and Bengio's interval is wider), and none without labels. p: of the
two one-sided tests (Schuirmann 1987) that the difference lies beyond a margin that was fixed before any run, {margins};
below 0.05 the verdict is equal. better, worse: the 95 % interval excludes 0, and a loss exceeds the margin; a
smaller one is undecided, worse within the margin. No test is corrected for the number of tests. fails: more than one
fit did not finish; flagged: one. labels: predictions unlike those of fp64, of all. stop: how the fits ended, each
binary problem by itself where there are several. iterations: of a fit, all of its problems together; epochs where there
are epochs. counts: overflow: gradients that were not finite; skipped: steps, for that reason; stalled: fits or binary
problems; in all fits together; underflow: share of gradients that were subnormal; lost: share of updates that left
their weight as it was; mean over the fits. """ + PREDICTIONS
COST = """\
ms: one fit, host to host, transfers included, compiling not; median over the seeds of each seed's median, with the 10th
and 90th percentile over the seeds; "-" unless every fit finished. JIT s: compiling, or loading from the cache, once in
a process; the longest of the seeds. What a process has to import and set up before its first kernel is in that of the
precision whose turn is first there. transfer ms: the training data to the device. predict ms: the held-out set, which
says nothing about how fast a GPU would predict in that precision. to target s: training until the held-out score first
reached the target, median of those that did, and how many did; where there are epochs, the sum of the epochs alone up
to the first whose score, of at most 1000 held-out samples, did, without what a fit does before and after them; else the
whole fit. launches: of a fit. model kB: what predictions are made from, master weights where there are some; peak MB:
the most device memory of a fit (1 kB is 1000 bytes). J: energy of one fit, if the device measures it. Medians over the
seeds. "-": not measured. """ + PREDICTIONS
SHARES = ("underflow", "lost")    # of the counts

SPEED = """\
Ratio of median times, each fit paired with that of the same seed: geometric mean over the seeds, with its 95 % interval
of Student's t on logarithms (of one seed: by a bootstrap of its times); above 1 is faster. launches: the cost of that
many empty launches in a graph of many, as a share of the time."""
PEERS = """\
Other libraries on the same splits, in the same run, each with its own algorithm and defaults but for the parameters
that the models share; they may run on a CPU. Their results are not verified: the score is all that is
known. stop: how the fits ended, if the library says; a fit of which it says nothing counts as finished.
ms: a fit, after one of a few rows. numprec's own fits stand beside them."""


def tables(rows, environment):
    """[Table], those that the rows allow."""
    models, peers, found = by_model(rows), by_model(rows, "peer"), []
    if models:
        found += [_outcome(models, rows, environment), _cost(models, environment)]
    if models and not environment["is_emulator"]:
        found.append(_speed(models, rows, environment))
    if peers:
        found.append(_peers(models, peers, environment))
    return found


# ---- what came out

def _outcome(models, rows, environment):
    judged = {(v.label, v.precision): v for v in verdicts.judge(rows)}
    blocks = []
    for label, precisions in models.items():
        lines = []
        for name, outcome in precisions.items():
            equivalence = None if name == BASELINE else outcome.against(precisions.get(BASELINE))
            verdict = judged.get((label, name))
            lines.append((name, plus_minus(outcome.score), _difference(equivalence),
                          chance(equivalence and equivalence.p), verdict.brief if verdict else NOTHING,
                          _labels(outcome), outcome.ends or statuses(outcome), whole(iterations(outcome)),
                          events(outcome)))
        blocks.append((_heading(label, precisions), lines))
    margins = " and ".join(sorted({f"{o.margin:g} of {o.metric}" for each in models.values() for o in each.values()
                                   if o.metric}))
    own = [row for row in rows if row["kind"] == "training"]
    columns = ("precision", "held out", f"minus {BASELINE} [95 %]", "p", "verdict", "labels", "stop", "iterations",
               "counts")
    name = "Training: outcome"
    if environment["is_emulator"]:
        name += " (a GPU's arithmetic, emulated on a CPU)"
    return Table(name, columns, "lllrlrlrl", blocks, OUTCOME.format(margins=margins),
                 reasons(own, lambda row: f"{row['model']} {row['precision']}"))


def _heading(label, precisions):
    """The model with its metric, seeds and sizes."""
    row = next((row for o in precisions.values() for row in o.run if row["metric"]), None)
    if row is None:
        return label
    seeds = sorted({len(outcome.run) for outcome in precisions.values() if outcome.run})
    seeds = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    target = f", target {row['target']:g}" if row["target"] is not None else ""
    return f"{label}: {row['metric']}{target}, seeds {seeds}, trained on {row['n_train']}, held out {row['n_test']}"


def _difference(equivalence):
    if equivalence is None:
        return NOTHING
    d = equivalence.difference
    return signed(d.value) + (f" {span(d)}" if np.isfinite(d.low) else "")


def _labels(outcome):
    return "{} of {}".format(*outcome.labels) if outcome.labels and outcome.precision != BASELINE else NOTHING


def iterations(outcome):
    return [float(np.sum(n)) for n in outcome.values("n_iter")]


def events(outcome):
    """Events by name, those that did not happen left out: numbers of them in all fits, and mean shares."""
    counted = outcome.values("counts")
    if not counted:
        return NOTHING
    parts = []
    for name in counted[0]:
        values = [counts[name] for counts in counted if counts[name] is not None]
        if any(values):
            parts.append(f"{name} {100 * np.mean(values):.2g} %" if name in SHARES else f"{name} {sum(values):.0f}")
    return ", ".join(parts) or "none"


# ---- what it cost

def _cost(models, environment):
    blocks = []
    for label, precisions in models.items():
        lines = []
        for name, outcome in precisions.items():
            cost = costs(outcome)
            time = [number(1e3 * cost["train_s"]), between(cost["train_p10_s"], cost["train_p90_s"], 1e3)] \
                if cost["train_s"] is not None else [NOTHING] * 2
            lines.append((name, *time, number(cost["epoch_s"]), number(cost["compile_s"]),
                          _scaled(cost["transfer_s"], 1e3), _scaled(cost["predict_s"], 1e3), _to_target(cost),
                          whole(outcome.values("launches")), _scaled(cost["model_bytes"], 1e-3),
                          _scaled(cost["peak_bytes"], 1e-6), number(cost["energy_j"]), _status(outcome, environment)))
        blocks.append((_heading(label, precisions), lines))
    columns = ("precision", "ms", "p10 - p90", "s/epoch", "JIT s", "transfer ms", "predict ms",
               "to target s", "launches", "model kB", "peak MB", "J", "status")
    return Table(title("Training: cost", environment), columns, "lrrrrrrrrrrrl", blocks, COST)


def costs(outcome):
    """Medians over the seeds, None where not measured; no time of a fit unless every fit finished."""
    medians = list(outcome.medians.values())
    low, middle, high = statistics.spread(medians) if medians else (None, None, None)
    epochs = [e["seconds"] for history in outcome.values("history") for e in history if e.get("seconds") is not None]
    aimed = [row for row in outcome.run if row["target"] is not None]
    arrived = [row["target_s"] for row in aimed if row["target_s"] is not None]
    worked = [row for row in outcome.run if row["status"] == "ok"]

    def measured(name):
        return [row[name] for row in worked if row.get(name) is not None]
    return {"train_s": middle, "train_p10_s": low, "train_p90_s": high,
            "epoch_s": median(epochs) if medians else None,
            "compile_s": max(measured("compile_s"), default=None),
            **{name: median(measured(name)) for name in ("transfer_s", "predict_s", "model_bytes", "peak_bytes",
                                                         "energy_j")},
            "target_s": None if outcome.fails else median(arrived), "arrived": len(arrived), "aimed": len(aimed)}


def _to_target(cost):
    if not cost["aimed"]:
        return NOTHING
    return f"{number(cost['target_s'])} ({cost['arrived']}/{cost['aimed']})"


def _status(outcome, environment):
    text = statuses(outcome)
    if text == "ok" and outcome.unfinished:
        text = f"{len(outcome.unfinished)} unfinished"
    if not environment["is_emulator"]:
        available = {row["availability"] for row in outcome.run} - {"native", None}
        text += "".join(f", {each}" for each in sorted(available))
    throttled = any((row.get("clocks") or {}).get("throttled") for row in outcome.run)
    return text + (", throttled" if throttled else "")


def statuses(outcome):
    """"ok" where every seed is, else how many are what."""
    counted = Counter(row["status"] for row in outcome.rows)
    if len(counted) == 1:
        return next(iter(counted))
    return ", ".join(f"{status} {n}" for status, n in sorted(counted.items()))


# ---- how much faster

def _speed(models, rows, environment):
    speeds, peaks = verdicts.speed(rows, environment), environment.get("peaks") or {}
    launch_s = peaks.get("launch_in_graph_s") or peaks.get("launch_s")
    blocks = []
    for label, precisions in models.items():
        lines = []
        for name, outcome in precisions.items():
            seconds, launches = median(list(outcome.medians.values())), median(outcome.values("launches"))
            share = f"{100 * launches * launch_s / seconds:.0f} %" if seconds and launches and launch_s else NOTHING
            lines.append((name, _scaled(seconds, 1e3), _ratio(speeds[label][name][BASELINE]),
                          _ratio(speeds[label][name]["fp32"]), share))
        blocks.append((_heading(label, precisions), lines))
    return Table("Training: speed", ("precision", "ms", f"vs {BASELINE} [95 %]", "vs fp32 [95 %]", "launches"),
                 "lrrrr", blocks, SPEED)


def _ratio(interval):
    if interval is None:
        return NOTHING
    return number(interval.value) + ("" if np.isnan(interval.low) else
                                     f" [{number(interval.low)}, {number(interval.high)}]")


# ---- other libraries

def _peers(models, peers, environment):
    blocks, failures = [], []
    for label, libraries in peers.items():
        lines = []
        for name, outcome in [*((f"numprec {p}", o) for p, o in models.get(label, {}).items()), *libraries.items()]:
            cost = costs(outcome)
            lines.append((name, _scaled(cost["train_s"], 1e3), plus_minus(outcome.score),
                          _scaled(cost["predict_s"], 1e3), outcome.ends or NOTHING, _status(outcome, environment)))
            failures += outcome.rows if name in libraries else ()
        blocks.append((_heading(label, libraries), lines))
    name = "Other libraries"
    if environment["is_emulator"]:
        name += " (times of numprec are CPU emulation, not comparable with theirs)"
    return Table(name, ("library", "ms", "held out", "predict ms", "stop", "status"),
                 "lrlrll", blocks, PEERS, reasons(failures, lambda row: f"{row['library']} {row['model']}"))


def median(values):
    return float(np.median(values)) if values else None


def _scaled(value, factor):
    return number(None if value is None else factor * value)
