"""Two runs compared, result by result: the same, faster, slower or ambiguous; and whether something got worse.

Times of kernels are compared by statistics.compare_times, a rank test with a least effect. Those of a model are paired,
seed by seed, since seeds differ more than runs do: a t test of the ratios of medians, one of each seed, because the
repetitions of a fit share whatever moved that fit. Scores are compared in pairs too, like those of two precisions;
but where each is the same to the last digit, nothing was changed. Runs on different devices or at different scales are
refused: what differs between them is not what changed.
"""
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from numprec.harness.judge import statistics
from numprec.harness.judge.outcomes import by_model
from numprec.harness.record import store
from numprec.harness.record.wording import signed, span
from numprec.harness.show.tables.layout import NOTHING, Table, chance, filled, number, title

OK, REGRESSION = 0, 4
SAME_IN = ("device", "scale")    # of the environments
SCORES = {"equal": "same", "better": "better", "worse": "worse", "undecided": "ambiguous"}

KERNELS = """\
ms: medians. B / A: ratio of medians with its 95 % bootstrap interval. p: Mann-Whitney rank test, two-sided. slower,
faster: p below {alpha:g} and a median more than {least:g} % away; same: the interval lies within {least:g} %;
ambiguous: neither, as with fewer than 5 samples each."""
TRAINING = """\
ms: median over the seeds of each seed's median. B / A: geometric mean over the seeds of the ratio of medians, with its
95 % interval of Student's t on logarithms. p: t test of those, two-sided. slower, faster: p below {alpha:g}, from
{pairs} seeds, and a mean more than {least:g} % away; same: the interval lies within {least:g} %. score B - A: mean over
the seeds that both have, with its 95 % interval; same: equal to the last digit, or within the margin of {margins} by
two one-sided tests at 5 %; better, worse: the interval excludes 0, and a loss exceeds the margin. fails: more than
one fit did not finish; newly fails: also where one did not that finished in A."""


@dataclass(frozen=True)
class Found:
    """One comparison: of what, and "same", "faster", "slower", "better", "worse", "ambiguous", "newly fails",
    "no longer fails", "fails in both" or "not run"."""

    kind: str    # "kernel times", "training times" or "scores"
    name: str
    verdict: str


def runs(before, after):
    """(text, exit code): 4 where something in the folder `after` is slower, worse or fails that was not in `before`.
    Raises FileNotFoundError where there is no run, and ValueError where the two cannot be compared."""
    (first, rows), (second, others) = store.read(before), store.read(after)
    for name in SAME_IN:
        if first.get(name) != second.get(name):
            raise ValueError(f"these runs cannot be compared: {name.replace('_', ' ')} is {first.get(name)!r} in "
                             f"{before} and {second.get(name)!r} in {after}")
    emulated, found = first["is_emulator"], []
    tables = [_kernels(rows, others, first, found), _training(rows, others, first, found)]
    if not found:
        raise ValueError(f"{before} and {after} have no result in common")
    counted = ("worse", "newly fails") if emulated else ("slower", "worse", "newly fails")
    regressions = [f"{each.name}: {each.verdict}" for each in found if each.verdict in counted]
    parts = ["\n".join(_about(name, folder, environment)
                       for name, folder, environment in (("A", before, first), ("B", after, second)))]
    parts += [table.text() for table in tables if table]
    parts.append("\n".join(_summary(found, regressions, _missing(rows, others), emulated)))
    return "\n\n".join(parts), REGRESSION if regressions else OK


def _about(name, folder, environment):
    commit = (environment.get("git_commit") or "no commit")[:12] + ", changed" * bool(environment.get("git_dirty"))
    return f"{name}  {Path(folder)}  {environment.get('time', '')}  {commit}  {environment['device']}"


# ---- kernels

def _kernels(rows, others, environment, found):
    rows, others = _by_key(rows), _by_key(others)
    blocks = {}
    for key in (key for key in rows if key in others):
        operation, rung, shape, precision = key
        a, b = rows[key], others[key]
        name = f"{operation}/{rung} {shape} {precision}"
        change, verdict = _status(a["status"], b["status"]), None
        if change is None:
            verdict = statistics.compare_times(a["samples_s"], b["samples_s"])
            change = verdict.verdict
        found.append(Found("kernel times", name, change))
        cells = _times(np.median(a["samples_s"]), np.median(b["samples_s"]), verdict) if verdict else [NOTHING] * 4
        blocks.setdefault(f"{operation} {shape}", []).append((rung, precision, *cells, change))
    if not blocks:
        return None
    return Table(title("Kernels", environment), ("rung", "precision", "A ms", "B ms", "B / A", "p", "verdict"),
                 "llrrlrl", list(blocks.items()),
                 KERNELS.format(alpha=statistics.RANK_ALPHA, least=100 * statistics.LEAST_EFFECT))


def _by_key(rows):
    return {(row["operation"], row["rung"], "x".join(map(str, row["shape"])), row["precision"]): row
            for row in rows if row["kind"] == "kernel"}


def _status(a, b):
    """What two statuses say by themselves; None where both have a time."""
    if a == b == "ok":
        return None
    if b == "FAIL":
        return "fails in both" if a == "FAIL" else "newly fails"
    return "no longer fails" if a == "FAIL" and b == "ok" else "not run"


def _times(a, b, change):
    interval = change.ratio
    spread = "" if np.isnan(interval.low) else f" [{interval.low:.3f}, {interval.high:.3f}]"
    return [number(1e3 * a), number(1e3 * b), f"{interval.value:.3f}{spread}", chance(change.p)]


# ---- models

def _training(rows, others, environment, found):
    first, second = by_model(rows), by_model(others)
    blocks, margins = [], set()
    for label, precisions in first.items():
        lines = []
        for name, a in precisions.items():
            b = second.get(label, {}).get(name)
            if b is None:
                continue
            timing, times = _fits(a, b)
            scoring, scores = _scores(a, b)
            found += [Found("training times", f"{label}, {name}, time", timing),
                      Found("scores", f"{label}, {name}, score", scoring)]
            margins.add(f"{a.margin:g} of {a.metric}" if a.metric else "")
            lines.append((name, *times, timing, *scores, scoring))
        if lines:
            blocks.append((label, lines))
    if not blocks:
        return None
    columns = ("precision", "A ms", "B ms", "B / A", "p", "time", "A", "B", "score B - A", "score")
    return Table(title("Training", environment), columns, "lrrlrlrrll", blocks,
                 TRAINING.format(margins=" and ".join(sorted(margins - {""})), alpha=statistics.RANK_ALPHA,
                                 pairs=statistics.LEAST_PAIRS, least=100 * statistics.LEAST_EFFECT))


def _fits(a, b):
    """(verdict, cells) of the times of a fit."""
    seeds = [seed for seed in a.medians if seed in b.medians]
    if not seeds:
        return "not run" if not (a.run and b.run) else "ambiguous", [NOTHING] * 4
    change = statistics.compare_pairs([a.medians[seed] for seed in seeds], [b.medians[seed] for seed in seeds])
    return change.verdict, _times(*(np.median([each.medians[seed] for seed in seeds]) for each in (a, b)), change)


def _scores(a, b):
    """(verdict, cells) of the scores."""
    shown = [f"{each.score.value:.4f}" if each.score else NOTHING for each in (a, b)]
    if not (a.run and b.run):
        return "not run", [*shown, NOTHING]
    e = b.against(a) if a.metric else None
    difference = NOTHING if e is None else signed(e.difference.value)
    if e is not None and not np.isnan(e.difference.low):
        difference += f" {span(e.difference)}"
    finished_before = {row["seed"] for row in a.run} - set(a.unfinished)
    if finished_before & set(b.unfinished):
        verdict = "newly fails"
    elif a.fails or b.fails:
        verdict = "newly fails" if not a.fails else "fails in both" if b.fails else "no longer fails"
    elif _identical(a.scores, b.scores):
        verdict = "same"
    else:
        verdict = SCORES[e.verdict] if e else "ambiguous"
    return verdict, [*shown, difference]


def _identical(ours, theirs):
    return len(ours) > 1 and ours == theirs


# ---- in the end

def _missing(rows, others):
    """What one of the runs has and the other has not."""
    def names(found):
        return {f"{'/'.join(key[:2])} {key[2]} {key[3]}" for key in _by_key(found)} | {
            f"{label}, {name}" for label, precisions in by_model(found).items() for name in precisions}
    a, b = names(rows), names(others)
    return {"A": sorted(a - b), "B": sorted(b - a)}


def _summary(found, regressions, missing, emulated):
    lines = []
    for kind in dict.fromkeys(each.kind for each in found):
        counts = Counter(each.verdict for each in found if each.kind == kind)
        lines.append(f"{kind}: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()))
    for name, names in missing.items():
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            lines.append(filled(f"only in {name}: {'; '.join(names[:5])}{more}", "  "))
    tests = sum(each.verdict in ("same", "faster", "slower", "ambiguous") for each in found if each.kind != "scores")
    lines.append(filled(f"Were nothing changed, up to {tests * statistics.RANK_ALPHA:.2g} of {tests} comparisons of "
                        "times would be called faster or slower by chance; and a machine that is busy or warm makes "
                        "two runs differ without a change. A regression that matters shows again when repeated."))
    if emulated:
        lines.append("The times are CPU emulation, not comparable with a GPU: shown, but none counts as a regression.")
    lines.append(filled("regressions: " + "; ".join(regressions), "  ") if regressions else "no regression")
    return lines
