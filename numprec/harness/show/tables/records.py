"""The same numbers for the CSV files: in seconds and bytes, and not rounded."""
from numprec.harness.judge import statistics, verdicts
from numprec.harness.judge.outcomes import BASELINE, by_model
from numprec.harness.show import roofline
from numprec.harness.show.tables import of_kernels, of_training


def kernels(rows, environment):
    """A dictionary of plain, unrounded values for each kernel row."""
    rows = [row for row in rows if row["kind"] == "kernel"]
    reference = of_kernels.references(rows)
    found = []
    for row in rows:
        record = {name: row[name] for name in ("operation", "rung", "precision", "availability", "status", "reason",
                                               "launches", "flops", "bytes", "error", "error_over_bound")}
        record.update(shape="x".join(map(str, row["shape"])), first_launch_s=row["compile_s"],
                      end_to_end_s=of_kernels.median(row, "end_to_end_s"), times=environment["times"])
        if row["samples_s"]:
            low, middle, high = statistics.spread(row["samples_s"])
            interval, bound = statistics.bootstrap(row["samples_s"]), roofline.bound(row, environment)
            record.update(median_s=middle, p10_s=low, p90_s=high, interval_low_s=interval.low,
                          interval_high_s=interval.high, samples=len(row["samples_s"]),
                          bytes_per_s=row["bytes"] / middle, flops_per_s=row["flops"] / middle,
                          bound=bound and bound.kind, share_of_bound=bound and bound.share)
            if not environment["is_emulator"] and of_kernels.ladder(row) in reference:
                record.update(times_as_fast_as_fp32=reference[of_kernels.ladder(row)] / middle)
        found.append(record)
    return found


def training(rows, environment):
    """A dictionary of plain, unrounded values for each model and precision, and for each library beside it."""
    judged, models = {(v.label, v.precision): v for v in verdicts.judge(rows)}, by_model(rows)
    found = []
    for kind, groups in ("training", models), ("peer", by_model(rows, "peer")):
        for label, precisions in groups.items():
            for name, outcome in precisions.items():
                row = next((row for row in outcome.run), outcome.rows[0])
                record = {"label": label, "library": row.get("library", "numprec"), "times": environment["times"],
                          **{column: row[column] for column in ("model", "data", "stand_in", "grow", "precision",
                                                                "metric", "availability", "target")},
                          "seeds": len(outcome.run), "status": of_training.statuses(outcome), "stop": outcome.ends,
                          "unfinished": len(outcome.unfinished), "counts": of_training.events(outcome),
                          "iterations": of_training.median(of_training.iterations(outcome)),
                          "launches": of_training.median(outcome.values("launches")), **of_training.costs(outcome)}
                if outcome.score:
                    record.update(score=outcome.score.value, score_low=outcome.score.low,
                                  score_high=outcome.score.high)
                if outcome.labels:
                    record.update(zip(("labels_differ", "labels"), outcome.labels))
                if kind == "training":
                    record.update(_verdict(judged.get((label, name)), outcome, precisions.get(BASELINE)))
                found.append(record)
    return found


def _verdict(verdict, outcome, baseline):
    record = {"verdict": verdict and verdict.verdict, "sentence": verdict and verdict.sentence}
    e = outcome.against(baseline) if outcome is not baseline else None
    if e:
        record.update(difference=e.difference.value, difference_low=e.difference.low, difference_high=e.difference.high,
                      narrow_low=e.narrow.low, narrow_high=e.narrow.high, margin=e.margin, p=e.p,
                      seeds_needed=verdict and verdict.needed_seeds)
    return record
