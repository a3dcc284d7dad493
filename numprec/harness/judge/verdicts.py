"""What a run says of each model in each precision: as good as fp64, better, worse, undecided, or it fails.

A verdict rests on pairs of scores, one of each seed, and on statistics.equivalence with a margin that was fixed before
any run. A precision whose fits did not finish has failed whatever it scored: an SMO that stalled may well predict as
well as one that converged, and says nothing about the next data set. One such fit is flagged, more than one fail; this
is the rule by which MLPerf Training (training_rules.adoc) treats runs that do not converge. What was not measured gets
no verdict, and a precision that the device lacks does not fail.
"""
import math
from dataclasses import dataclass

from numprec.harness.judge import conclusions
from numprec.harness.judge.outcomes import BASELINE, by_model
from numprec.harness.judge.statistics import Equivalence
from numprec.harness.record.wording import listed, signed, size, span

VERDICTS = ("equal", "better", "worse", "undecided", "fails")


@dataclass(frozen=True)
class Verdict:
    """That of one model, as `label` names it with its data, in one precision."""

    label: str
    model: str
    data: str
    precision: str
    verdict: str                          # one of VERDICTS
    reason: str                           # the sentence, without the names and the flag
    flagged: str = ""                     # what else one has to know, where one fit of several did not finish
    equivalence: Equivalence | None = None
    labels: tuple | None = None           # (how many predictions differ from fp64's, out of how many)

    @property
    def sentence(self):
        return f"{self.label}: {self.precision} {self.finding}"

    @property
    def finding(self):
        return self.reason + (f"; flagged: {self.flagged}" if self.flagged else "")

    @property
    def safe(self):
        """Whether one may train in it: no worse than fp64, and every fit finished."""
        return self.verdict in ("equal", "better") and not self.flagged

    @property
    def unchanged(self):
        """Whether not one prediction differs from fp64's, and yet equality is not shown, the data being too few."""
        return (self.verdict == "undecided" and bool(self.labels) and self.labels[0] == 0 < self.labels[1]
                and abs(self.equivalence.difference.value) < 1e-12)

    @property
    def interval(self):
        """The difference to fp64 at 95 %, or None."""
        return self.equivalence and self.equivalence.difference

    @property
    def margin(self):
        return self.equivalence and self.equivalence.margin

    @property
    def needed_seeds(self):
        """How many would decide it, at least; inf where none would; None where it is decided or one cannot say."""
        return self.equivalence and self.equivalence.needed

    @property
    def brief(self):
        """For a column of a table."""
        text, needed = self.verdict, self.needed_seeds if self.verdict == "undecided" else None
        if self.unchanged:
            text += ", no label differs"
        elif self.equivalence and self.equivalence.worse_within_margin:
            text += ", worse within the margin"
        elif needed and math.isinf(needed):
            text += ", more data"
        if needed and not math.isinf(needed):
            text += f", >= {needed} seeds"
        return text + (" (flagged)" if self.flagged else "")


def sentences(verdicts):
    """One for each finding: precisions of a model of which the same is found share it."""
    alike = {}
    for v in verdicts:
        alike.setdefault((v.label, v.finding), []).append(v.precision)
    return [f"{label}: {listed(names)} {finding}" for (label, finding), names in alike.items()]


def judge(rows):
    """A Verdict for each model and precision that was run, but fp64 itself, which has one only where it fails."""
    found = []
    for label, precisions in by_model(rows).items():
        baseline = precisions.get(BASELINE)
        for outcome in precisions.values():
            if outcome.run and (outcome.precision != BASELINE or outcome.fails):
                found.append(_judge(label, outcome, baseline))
    return found


def _judge(label, outcome, baseline):
    equivalence = None if outcome is baseline else outcome.against(baseline)
    row = next((row for row in outcome.rows if row["model"]), outcome.rows[0])
    named = label, row["model"], row["data"], outcome.precision
    if outcome.fails:
        return Verdict(*named, "fails", f"fails, because {outcome.trouble}{_looks(outcome, baseline)}")
    flags = [outcome.trouble] if outcome.flagged else []
    if baseline is None or not baseline.run:
        return Verdict(*named, "undecided", f"undecided: {BASELINE} was not run", "; ".join(flags))
    if baseline.fails:
        return Verdict(*named, "undecided", f"undecided: {BASELINE}, to compare with, fails itself", "; ".join(flags))
    if baseline.flagged:
        flags.append(f"of {BASELINE}, to compare with, {baseline.trouble}")
    if equivalence is None:
        return Verdict(*named, "undecided", f"undecided: no seed has a score both here and in {BASELINE}",
                       "; ".join(flags))
    return Verdict(*named, equivalence.verdict, _reason(outcome, equivalence), "; ".join(flags), equivalence,
                   outcome.labels if outcome.metric == "accuracy" else None)


def _looks(outcome, baseline):
    """A warning of scores that look as if nothing had happened."""
    if outcome is baseline or not baseline or not outcome.score or not baseline.score:
        return ""
    ours, theirs = outcome.score.value, baseline.score.value
    if ours < theirs - outcome.margin:
        return f"; {outcome.metric} {ours:.4f}, where {BASELINE} has {theirs:.4f}"
    return f", which its {outcome.metric} does not show: {ours:.4f}, where {BASELINE} has {theirs:.4f}"


def _reason(outcome, e):
    metric = outcome.metric
    if "predictions differ" in e.difference.method:
        return _reason_by_labels(outcome, e)
    if e.verdict == "equal":
        return (f"equal to {BASELINE} within {e.margin:g} of {metric}: difference {signed(e.difference.value)}, "
                f"90 % interval {span(e.narrow)}, {e.narrow.n} seeds")
    if e.difference.method == "no spread":
        return _reason_without_spread(outcome, e)
    if e.verdict in ("better", "worse"):
        return (f"{e.verdict} than {BASELINE} by {size(e.difference.value)} of {metric}: difference "
                f"{signed(e.difference.value)}, 95 % interval {span(e.difference)}, {e.difference.n} seeds")
    if e.difference.n < 2:
        return f"undecided: difference {signed(e.difference.value)} of {metric} on one seed, which has no interval"
    seen = f"worse than {BASELINE}, by less than the margin of {e.margin:g} so far: " if e.worse_within_margin else ""
    return (f"undecided: {seen}difference {signed(e.difference.value)} of {metric}, 95 % interval "
            f"{span(e.difference)}, {e.difference.n} seeds; {_what_would_decide(e)}")


def _reason_without_spread(outcome, e):
    seen = f"{signed(e.difference.value)} of {outcome.metric} on each of {e.difference.n} seeds"
    if e.verdict in ("better", "worse"):
        return f"{e.verdict} than {BASELINE} by {size(e.difference.value)} of {outcome.metric}: difference {seen}, " \
               f"sign test, p = {0.5 ** e.difference.n:.2g}"
    return f"undecided: difference {seen}, so there is no spread to judge it by, and no predictions were compared"


def _reason_by_labels(outcome, e):
    differ, of = outcome.labels
    seen = f"no prediction of {of} differs" if differ == 0 else \
        f"the same difference of {outcome.metric} on every seed, and {differ} of {of} predictions differ"
    if e.verdict == "equal":
        return f"equal to {BASELINE} within {e.margin:g} of {outcome.metric}: {seen}, so that accuracy differs by at " \
               f"most {size(e.narrow.high)} (95 %)"
    if e.verdict in ("better", "worse"):
        return f"{e.verdict} than {BASELINE} by {size(e.difference.value)} of {outcome.metric}: {seen}, " \
               f"95 % interval {span(e.difference)}, {e.difference.n} seeds"
    if abs(e.difference.value) > e.margin:
        return f"undecided: {seen}, {signed(e.difference.value)}, 95 % interval {span(e.difference)}"
    room = f"leave room for {size(e.narrow.high)} of {outcome.metric} (95 %)"
    if e.needed and math.isinf(e.needed):
        return f"undecided: {seen}, but splits of so few samples {room}; more data would decide"
    left = f"undecided: {seen}, but so few predictions {room}"
    return left + (f"; {e.needed} seeds would decide, if still none differed" if e.needed else "")


def _what_would_decide(e):
    if math.isinf(e.needed):
        return f"more seeds would not decide, because splits that overlap leave ±{size(e.floor)} around the mean " \
               "however many there are, if mean and spread stay as they are: more data would"
    return f"at least {e.needed} seeds would decide, if mean and spread stay as they are"


# ---- speed

def speed(rows, environment):
    """{label: {precision: {"fp64": how many times as fast, "fp32": ...}}}, each an Interval or None; empty on the
    emulator, whose times say nothing about a GPU."""
    if environment["is_emulator"]:
        return {}
    return {label: {name: {other: outcome.speed_up(precisions.get(other)) if other != name else None
                           for other in (BASELINE, "fp32")}
                    for name, outcome in precisions.items()}
            for label, precisions in by_model(rows).items()}


def recommend(rows, environment):
    """A line for each model: the cheapest precision that is as good as fp64."""
    return conclusions.recommendations(by_model(rows), judge(rows), environment)


def answer(rows, environment):
    """A paragraph: is low precision training a general-purpose method, as far as this run shows?"""
    return conclusions.conclusion(by_model(rows), judge(rows), environment)
