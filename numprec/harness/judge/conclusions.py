"""What follows from the verdicts of a run: a recommendation for each model, and the answer to the question that the
project asks, whether low precision training is a general-purpose method.

Every statement is put together from the rows; where something was not measured the text says so. Low precision is
what stores numbers in fewer than 32 bits.
"""
import math

import numpy as np

from numprec.harness.judge.outcomes import BASELINE, storage_bytes
from numprec.harness.record.models import MODELS, VARIANTS
from numprec.harness.record.wording import listed, signed, size, times_as_fast

LAUNCH_BOUND = 0.5    # share of the time that the launches alone take, from which on precision cannot matter much
SINGLE = 4            # bytes of a stored number; fewer are low precision


def recommendations(models, verdicts, environment):
    """[line], one for each model."""
    lines = []
    for label, precisions in models.items():
        about = {v.precision: v for v in verdicts if v.label == label}
        baseline = precisions.get(BASELINE)
        if baseline is None or not baseline.run:
            lines.append(f"{label}: no recommendation, because {BASELINE} was not run.")
        elif baseline.fails:
            lines.append(f"{label}: no recommendation, because {BASELINE} itself fails ({baseline.trouble}).")
        else:
            safe = [name for name in precisions if name in about and about[name].safe]
            if environment["is_emulator"]:
                chosen, line = _by_bytes(precisions, safe, about)
            else:
                chosen, line = _by_time(precisions, safe, about, environment)
            about = {name: v for name, v in about.items() if name not in chosen}
            lines.append(f"{label}: {line}{_warned(precisions, chosen)}{_not_safe(about)}.")
    return lines


def _by_bytes(precisions, safe, about):
    """(precisions, sentence): the smallest storage, then the smallest master copy, then the smallest sums."""
    cost = {name: storage_bytes(outcome.run[0]) for name, outcome in precisions.items() if outcome.run}
    least = min(cost[name] for name in (BASELINE, *safe))
    cheapest = [name for name in safe if cost[name] == least]
    if least == cost[BASELINE]:
        unchanged = _unchanged(about, (name for name in cost if cost[name] < least))
        if unchanged[0]:
            return unchanged
    if not safe:
        return [], f"stay with {BASELINE}: nothing smaller is shown to be as good"
    if not cheapest:
        return [], f"stay with {BASELINE}: what is as good is not smaller"
    return cheapest, (f"{listed(cheapest, 'or')}, the smallest precision as good as {BASELINE}: {least[0]} bytes a "
                      f"stored number instead of {cost[BASELINE][0]}; speed is not judged under CPU emulation")


def _unchanged(about, names):
    """(precisions, sentence): those of `names` that changed no prediction, though equality is not shown."""
    found = {}
    for name in names:
        if name in about and about[name].unchanged and not about[name].flagged:
            found.setdefault(about[name].labels[1], []).append(name)
    if not found:
        return [], ""
    margin = next(v.margin for v in about.values() if v.unchanged)
    parts = [f"{listed(alike)} changed no prediction of {of}" for of, alike in found.items()]
    return sum(found.values(), []), f"{'; '.join(parts)}; too few data to show equality within {margin:g}"


def _by_time(precisions, safe, about, environment):
    """(precisions, sentence): the fastest of those that the GPU has, unless launches take most of the time."""
    native = {name: float(np.median(list(outcome.medians.values()))) for name, outcome in precisions.items()
              if outcome.medians and outcome.run[0]["availability"] == "native"}
    times = {name: native[name] for name in (BASELINE, *safe) if name in native}
    if BASELINE not in times:
        return [], f"no recommendation, because {BASELINE} has no time"
    bound = _launches(precisions[BASELINE], times[BASELINE], environment)
    if bound:
        return [], bound
    fastest = min(times, key=times.get)
    unchanged = _unchanged(about, (name for name in native if native[name] < times[BASELINE]))
    if fastest == BASELINE and unchanged[0]:
        return unchanged
    if fastest == BASELINE:
        return [], f"stay with {BASELINE}: nothing faster is shown to be as good"
    gain = precisions[fastest].speed_up(precisions[BASELINE])
    if not gain.low > 1:
        return [], f"stay with {BASELINE}: the fastest that is as good, {fastest}, is not shown to be faster " \
                   f"({times_as_fast(gain)})"
    return [fastest], f"{fastest}, {times_as_fast(gain)} as fast as {BASELINE} and as good"


def _launches(baseline, seconds, environment):
    peaks = environment.get("peaks") or {}
    launch_s = peaks.get("launch_in_graph_s") or peaks.get("launch_s")
    counts = baseline.values("launches")
    if not launch_s or not counts or not seconds:
        return ""
    count = float(np.median(counts))
    share = count * launch_s / seconds
    if share < LAUNCH_BOUND:
        return ""
    text = f"{count:.0f} of {1e6 * launch_s:.2g} µs in a fit of {1e3 * seconds:.3g} ms"
    if share >= 1:
        return (f"any precision that is as good, since the time is mostly launches ({text}: more than the whole, so "
                "the cost of a launch is over-estimated, and gives no bound on what a precision can gain); "
                "--grow enlarges the problem")
    return (f"any precision that is as good, since the time is bound by launches ({text}): at this size no precision "
            f"can speed it up by more than {1 / (1 - share):.2g} times; --grow enlarges the problem")


def _warned(precisions, chosen):
    """Whether fits in a recommended precision raised warnings that those in fp64 did not."""
    usual, notes = precisions[BASELINE].warnings, []
    for name in chosen:
        count = sum(bool(warned - usual) for warned in precisions[name].warnings_by_seed)
        if count:
            notes.append(f"{name} warned in {count} of {len(precisions[name].run)} fits, see the table of outcomes")
    return f" (but {'; '.join(notes)})" if notes else ""


def _not_safe(about):
    """The precisions that were not recommended, with their verdicts."""
    alike = {}
    for name, v in about.items():
        if not v.safe and name != BASELINE:
            alike.setdefault(v.brief, []).append(name)
    return f" [{'; '.join(f'{listed(names)}: {brief}' for brief, names in alike.items())}]" if alike else ""


# ---- the question

def conclusion(models, verdicts, environment):
    """The answer, as paragraphs; "" where no model was trained."""
    models = {label: precisions for label, precisions in models.items() if any(o.run for o in precisions.values())}
    if not models:
        return ""
    every = [v for v in verdicts if v.precision != BASELINE]
    aside = {label: precisions for label, precisions in models.items() if _is_aside(precisions)}
    main = {label: precisions for label, precisions in models.items() if label not in aside}
    verdicts = [v for v in every if v.label in main]
    names = list(dict.fromkeys(v.precision for v in verdicts))
    low = [name for name in names if _is_low(main, name)]
    said = _answer(main, verdicts, low) if main else \
        "This run does not answer it: only variants of models and enlarged, synthetic data were run."
    parts = [f"Is low precision training a general-purpose method? {said}",
             _not_counted([v for v in every if v.label in aside])]
    alike = {}
    for name in names:
        alike.setdefault(_of_precision([v for v in verdicts if v.precision == name]), []).append(name)
    parts += [f"{listed(found)}: {said}" for said, found in alike.items()]
    if not environment["is_emulator"]:
        parts.append(_gains(models, every))
    parts.append(_scope(models, environment))
    return "\n".join(part for part in parts if part)


def _is_aside(precisions):
    """Whether a model is a variant that was made to show what a precision breaks, or its data were grown: neither
    says whether training in that precision works for a model and data as they come."""
    row = next((row for outcome in precisions.values() for row in outcome.rows), {})
    return row.get("model") in {model.label for model in VARIANTS} or (row.get("grow") or 1) > 1


def _not_counted(found):
    """The verdicts on what does not count in the answer."""
    alike = {}
    for v in found:
        text = f"fails ({v.reason.removeprefix('fails, because ')})" if v.verdict == "fails" else v.brief
        alike.setdefault(v.label, {}).setdefault(text, []).append(v.precision)
    parts = [f"{label}: " + "; ".join(f"{listed(names)} {text}" for text, names in each.items())
             for label, each in alike.items()]
    return f"Not counted above: {'. '.join(parts)}." if parts else ""


def _answer(models, verdicts, low):
    if not low:
        return "This run does not answer it: no precision below 32 bits was run."
    by_name = {name: [v for v in verdicts if v.precision == name] for name in low}
    unchanged = _without_a_change(by_name)
    if not any(v.verdict != "undecided" for found in by_name.values() for v in found):
        return " ".join(filter(None, (f"This run does not answer it: nothing is decided about {listed(low)}.",
                                      unchanged)))
    total, kinds = len(models), sum(any(label.startswith(m.name) for label in models) for m in MODELS)
    general = [name for name, found in by_name.items() if len(found) == total and all(v.safe for v in found)]
    refuted = [name for name, found in by_name.items() if any(v.verdict in ("worse", "fails") for v in found)]
    open_ = [name for name in low if name not in general and name not in refuted]
    said = []
    if general:
        every = "the one model" if total == 1 else f"each of the {total} models" if total == kinds else \
            f"each of the {total} pairs of model and data"
        said.append(f"In {listed(general)} training was as good as in {BASELINE} for {every} measured here: as far as "
                    f"this run reaches, {kinds} of {len(MODELS)} models, yes, in "
                    + ("that precision." if len(general) == 1 else "those precisions."))
    elif not refuted:
        said.append("Not shown, and not refuted.")
    else:
        said.append("Not in every precision and for every model." if open_ else
                    "Not as it stands: each low precision did worse than fp64, or failed, in at least one model.")
    if refuted:
        said.append("Against it: " + "; ".join(f"{name} {_list_where(by_name[name], ('worse', 'fails'))}"
                                               for name in refuted) + ".")
    if open_:
        complete = all(len(by_name[name]) == total for name in open_)
        said.append(f"Open for {listed(open_)}: no model is worse or fails, but not every one "
                    + ("is decided" if complete else "was run or is decided")
                    + (" or free of a flag." if any(v.flagged for name in open_ for v in by_name[name]) else "."))
    if unchanged:
        said.append(unchanged)
    everywhere = [label for label in models if all(v.safe for v in verdicts if v.label == label and v.precision in low)
                  and any(v.label == label and v.precision in low for v in verdicts)]
    if everywhere and len(everywhere) < total:
        said.append(f"Every low precision that was run is as good as {BASELINE} for {listed(everywhere)}.")
    return " ".join(said)


def _without_a_change(by_name):
    """Where not one prediction differs, which is not decided for want of data."""
    by_label, alike = {}, {}
    for name, found in by_name.items():
        for v in found:
            if v.unchanged:
                by_label.setdefault(v.label, []).append(name)
    for label, names in by_label.items():
        alike.setdefault(tuple(names), []).append(label)
    parts = [f"in {listed(names)} for {listed(labels)}" for names, labels in alike.items()]
    return f"No label differs, on data too few to show equality: {'; '.join(parts)}." if parts else ""


def _list_where(found, kinds):
    return " and ".join(f"{'is ' if kind == 'worse' else ''}{kind} for {listed([v.label for v in chosen])}"
                        for kind in kinds if (chosen := [v for v in found if v.verdict == kind]))


def _of_precision(found):
    """One precision over all the models: the counts, then what was found against it."""
    total = len(found)
    parts = []
    for kind in ("equal", "better", "worse", "no label differs, not decided", "undecided", "fails"):
        chosen = [v for v in found if kind == ("no label differs, not decided" if v.unchanged else v.verdict)]
        if not chosen:
            continue
        about = [_short(v) for v in chosen]
        parts.append(f"{kind} in {len(chosen)} of {total} ({'; '.join(about)})")
    return ", ".join(parts) + "."


def _short(v):
    """A model with what its verdict rests on, for a list."""
    flag = f", flagged: {v.flagged}" if v.flagged else ""
    if v.verdict == "fails":
        return f"{v.label}: {v.reason.removeprefix('fails, because ')}"
    if v.verdict in ("worse", "better"):
        return f"{v.label} by {size(v.interval.value)}{flag}"
    if v.verdict == "undecided" and v.interval is not None and not math.isnan(v.interval.low):
        return f"{v.label}, {signed(v.interval.low)} to {signed(v.interval.high)} at 95 %{flag}"
    if v.verdict == "undecided":
        return f"{v.label}, {v.reason.removeprefix('undecided: ')}{flag}"
    return v.label + flag


def _gains(models, verdicts):
    """How much faster the precisions that are as good are."""
    lines = []
    for v in verdicts:
        gain = v.safe and models[v.label][v.precision].speed_up(models[v.label].get(BASELINE))
        if gain:
            lines.append(f"{v.label} in {v.precision} {times_as_fast(gain)}")
    return f"Speed, where as good, as a multiple of {BASELINE}'s: {'; '.join(lines)}." if lines else ""


def _scope(models, environment):
    """What was measured, and what was not."""
    outcomes = [outcome for precisions in models.values() for outcome in precisions.values() if outcome.run]
    seeds = sorted({len(outcome.run) for outcome in outcomes})
    margins = listed(sorted({f"{outcome.margin:g} of {outcome.metric}" for outcome in outcomes if outcome.metric}))
    text = [f"Measured: {listed(list(models))}; {'-'.join(map(str, {seeds[0]: 0, seeds[-1]: 0}))} seeds; as good means "
            f"within {margins}, or better.", "Hyper-parameters were the same in every precision, so a failure is one "
            "at these hyper-parameters."]
    missing = [m.name for m in MODELS if not any(label.startswith(m.name) for label in models)]
    if missing:
        text.append(f"Not measured: {listed(missing)}.")
    standing_in = sorted({row["stand_in"] for outcome in outcomes for row in outcome.run if row["stand_in"]})
    if standing_in:
        text.append(f"Other data stood in for {listed(standing_in)}: nothing here is about {listed(standing_in)}.")
    absent = sorted({o.precision for precisions in models.values() for o in precisions.values() if not o.run})
    if absent:
        text.append(f"Not available on {environment['device']}: {listed(absent)}.")
    if environment["is_emulator"]:
        text.append("The arithmetic is a GPU's, emulated on a CPU; whether low precision is faster was not measured.")
    return " ".join(text)


def _is_low(models, name):
    rows = [row for precisions in models.values() if name in precisions for row in precisions[name].rows]
    return 0 < storage_bytes(rows[0])[0] < SINGLE
