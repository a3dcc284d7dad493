"""The rows of one model in one precision, a seed each, taken together; what tables and verdicts are made from."""
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from numprec.harness.judge import statistics
from numprec.harness.record.wording import listed, without_numbers

BASELINE = "fp64"
ENDED = {    # how a fit that did not finish is said to have ended
    "stalled": "stalled", "overflow": "overflowed", "max_iter": "ran out of iterations", "breakdown": "broke down",
    "rank_deficient": "met a matrix of deficient rank", "interrupted": "was interrupted",
}


@dataclass(frozen=True)
class Outcome:
    """All seeds of one (model, data set, precision)."""

    rows: tuple

    @property
    def precision(self):
        return self.rows[0]["precision"]

    @property
    def metric(self):
        return self._known("metric")

    @property
    def margin(self):
        return statistics.MARGINS[self.metric]

    @property
    def test_to_train(self):
        return self._known("test_to_train") or 0.0

    def _known(self, column):
        """A value that all the rows share, but for those of a worker that died before it knew."""
        return next((row[column] for row in self.rows if row[column] is not None), None)

    @property
    def run(self):
        """The rows of the seeds that were run, leaving out what the device does not have."""
        return [row for row in self.rows if row["status"] != "SKIP"]

    @property
    def unfinished(self):
        """{seed: why} for the fits that failed or did not end as they should, whatever their score."""
        return {row["seed"]: why for row in self.run if (why := _unfinished(row))}

    @property
    def fails(self):
        """Whether more than one fit did not finish, which invalidates the rest (MLPerf Training's rule for runs that do
        not converge), or the only one."""
        return len(self.unfinished) > 1 or 0 < len(self.unfinished) == len(self.run)

    @property
    def flagged(self):
        """Whether one fit of several did not finish."""
        return len(self.unfinished) == 1 and not self.fails

    @property
    def scores(self):
        """{seed: score}, of every fit that has a finite one."""
        return {row["seed"]: row["score"] for row in self.run if _finite(row["score"])}

    @property
    def medians(self):
        """{seed: median seconds of a fit}; none at all unless every fit finished, so that a fit that gave up early is
        never shown as fast."""
        if self.unfinished or not all(row["samples_s"] for row in self.run):
            return {}
        return {row["seed"]: float(np.median(row["samples_s"])) for row in self.run}

    @property
    def labels(self):
        """(how many predictions differ from fp64's of the same seed, out of how many), or None."""
        counted = [row for row in self.run if row.get("labels_differ") is not None]
        if not counted:
            return None
        return sum(row["labels_differ"] for row in counted), sum(row["n_test"] for row in counted)

    @property
    def score(self):
        """The mean over the seeds with its interval, or None."""
        return statistics.mean(list(self.scores.values()), self.test_to_train) if self.scores else None

    @property
    def warnings_by_seed(self):
        """The warnings of each fit, as a set, numbers left out."""
        return [{without_numbers(text) for text in row["warnings"] or ()} for row in self.run]

    @property
    def warnings(self):
        """Those of all the fits."""
        return set().union(*self.warnings_by_seed)

    def values(self, column):
        """Those of a column that were measured."""
        return [row[column] for row in self.run if row.get(column) is not None]

    def against(self, baseline):
        """The Equivalence of its scores with those of the same seeds in `baseline`; None without such pairs."""
        ours, theirs = self.scores, baseline.scores if baseline else {}
        pairs = [seed for seed in ours if seed in theirs]
        if not pairs:
            return None
        counted = self.metric == "accuracy" and baseline.precision == BASELINE != self.precision
        labels = self.labels if counted else None    # they are compared with fp64's alone
        return statistics.equivalence([ours[s] for s in pairs], [theirs[s] for s in pairs], self.margin,
                                      self.test_to_train, labels)

    def speed_up(self, reference):
        """How many times as fast as `reference`, with an interval; None unless every fit of both finished."""
        ours, theirs = self.medians, reference.medians if reference else {}
        seeds = [seed for seed in ours if seed in theirs]
        if not seeds:
            return None
        if len(seeds) > 1:
            return statistics.ratio([theirs[s] for s in seeds], [ours[s] for s in seeds], paired=True)
        samples = [next(row["samples_s"] for row in each.run if row["seed"] == seeds[0]) for each in (reference, self)]
        return statistics.ratio(*samples)

    @property
    def ends(self):
        """How the fits ended, and how many: "converged 13, stalled 2"; a fit of several problems counts each."""
        ended = Counter(str(reason) for row in self.run if row["status"] == "ok" and row["stop_reason"] is not None
                        for reason in np.ravel(row["stop_reason"]))
        return ", ".join(f"{reason} {count}" for reason, count in ended.items())

    @property
    def trouble(self):
        """What happened to the fits that did not finish, as a clause: "3 of 5 fits stalled"."""
        counts, total = Counter(self.unfinished.values()), len(self.run)
        parts = [f"{count} of {total} fits {why}" if total > 1 else f"the fit {why}" for why, count in counts.items()]
        return listed(parts) if parts else ""


def by_model(rows, kind="training"):
    """{label of the model and data: {precision: Outcome}}, in the order of the rows."""
    rows, groups = [row for row in rows if row["kind"] == kind], {}
    labels = {_cell_of_any_seed(row): label(row) for row in rows if row["n_train"] is not None}
    for row in rows:    # a row of a worker that died has not seen the data
        name = row["precision"] if kind == "training" else f"{row['library']} {row['precision']}"
        groups.setdefault(labels.get(_cell_of_any_seed(row)) or label(row), {}).setdefault(name, []).append(row)
    return {key: {name: Outcome(tuple(found)) for name, found in precisions.items()}
            for key, precisions in groups.items()}


def label(row):
    """Model and data of a training row, as they are called in every table and sentence. Data that were cut down or
    enlarged have a name of their own."""
    return f"{row['model']} on {row['data']}" + (f" (in place of {row['stand_in']})" if row["stand_in"] else "")


def _cell_of_any_seed(row):
    return re.sub(r", seed \d+", "", row["cell"])


def storage_bytes(row):
    """(bytes of a stored number, of its master copy, of a running sum), from the row's roles."""
    from numprec.precision import FORMATS
    roles = dict(role.split("=") for role in row["roles"].split(",") if "=" in role)
    return tuple(FORMATS[roles[role]].bytes if roles.get(role) in FORMATS else 0
                 for role in ("storage", "master", "accum"))


def _unfinished(row):
    if row["status"] != "ok":
        text = re.sub(r"\s+", " ", row["reason"]).rstrip(".")
        return f"failed with \"{text if len(text) <= 100 else text[:97] + '...'}\""
    if row["finished"] is False:    # null where a library does not say
        wrong = sorted({str(reason) for reason in np.ravel(row["stop_reason"])} - {"converged"})
        return " and ".join(ENDED.get(reason, f"ended with {reason}") for reason in wrong) or "did not finish"
    return None if _finite(row["score"]) else "gave predictions that are not finite"


def _finite(x):
    return x is not None and bool(np.isfinite(x))
