"""Verdicts, recommendations and the answer: each can be reached, and none says more than the rows do."""
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import environment, kernel_row, network_row, runs, training_row

from numprec.harness.judge import outcomes, verdicts
from numprec.harness.record import wording

GPU, EMULATOR = environment(), environment(emulator=True)
BASE = np.array([0.50, 0.45, 0.55, 0.48, 0.52, 0.51, 0.47, 0.53])
SMALL = 1e-3 * np.array([1, -1, 2, -2, 1, -1, 0, 0])
IRIS = dict(model="SVC", data="iris", metric="accuracy", n_test=30)


def judged(*rows):
    return {v.precision: v for v in verdicts.judge([row for each in rows for row in each])}


def only(*rows):
    found, = judged(*rows).values()
    return found


# ---- verdicts

@pytest.mark.parametrize("shift, verdict, says", [
    (SMALL, "equal", "equal to fp64 within 0.01 of R2: difference 0, 90 % interval"),
    (-0.03 + SMALL, "worse", "worse than fp64 by 0.0300 of R2: "
     "difference -0.0300, 95 % interval [-0.0319, -0.0281], 8 seeds"),    # 2.3646 * 1.309e-3 * sqrt(1 / 8 + 0.25)
    (0.03 + SMALL, "better", "better than fp64 by 0.0300 of R2"),
    (40 * SMALL, "undecided", "would not decide"),
])
def test_every_verdict_on_scores(shift, verdict, says):
    found = only(runs("fp64", BASE), runs("fp16", BASE + shift))
    assert found.verdict == verdict and says in found.sentence
    assert found.sentence.startswith("LinearRegression on diabetes: fp16 ")
    assert (found.model, found.data, found.precision) == ("LinearRegression", "diabetes", "fp16")
    assert found.margin == 0.01 and found.interval.n == 8
    assert found.safe == (verdict in ("equal", "better"))


def test_undecided_says_how_many_seeds_would_decide():
    found = only(*(runs(name, 0.9 + shift, build=network_row, test_to_train=0.0, labels_differ=9)
                   for name, shift in (("fp64", 0 * SMALL), ("fp16", 15 * SMALL))))
    assert found.verdict == "undecided" and found.needed_seeds > 8
    assert f"at least {found.needed_seeds} seeds would decide" in found.sentence
    assert found.brief == f"undecided, >= {found.needed_seeds} seeds"


def test_fits_that_stalled_fail_although_accuracy_looks_fine():
    """The scores are those of fp64 to the last digit."""
    found = only(runs("fp64", BASE, **IRIS),
                 runs("mixed_bf16", BASE, **IRIS, stop_reason=["converged", "stalled", "converged"],
                      finished=lambda seed: seed > 1))
    assert found.verdict == "fails" and not found.safe
    assert "because 2 of 8 fits stalled, which its accuracy does not show: 0.5012, where fp64 has 0.5012" \
        in found.sentence


def test_what_fails_outright_shows_its_score():
    found = only(runs("fp64", BASE), runs("fp16", BASE - 0.3, stop_reason="overflow", finished=False))
    assert "because 8 of 8 fits overflowed; R2 0.2013, where fp64 has 0.5012" in found.sentence


def test_one_fit_that_did_not_finish_is_flagged():
    found = only(runs("fp64", BASE), runs("fp32", BASE + SMALL, finished=lambda seed: seed != 3,
                                          stop_reason=lambda seed: "converged" if seed != 3 else "breakdown"))
    assert found.verdict == "equal" and found.brief == "equal (flagged)" and not found.safe
    assert found.sentence.endswith("; flagged: 1 of 8 fits broke down")


def test_the_only_fit_that_did_not_finish_fails():
    assert only(runs("fp64", [0.5]), runs("fp16", [0.5], finished=False, stop_reason="max_iter")).verdict == "fails"


def test_exceptions_fail_with_their_text():
    found = only(runs("fp64", BASE), runs("fp16", BASE, status=lambda seed: "FAIL" if seed < 3 else "ok",
                                          reason="MemoryError: too large"))
    assert found.verdict == "fails" and 'because 3 of 8 fits failed with "MemoryError: too large"' in found.sentence


def test_predictions_that_are_not_finite_fail():
    found = only(runs("fp64", BASE), runs("fp16", [math.nan] * 8))
    assert found.verdict == "fails" and "predictions that are not finite" in found.sentence


def test_a_baseline_that_fails_leaves_nothing_to_compare_with():
    found = judged(runs("fp64", BASE, finished=False, stop_reason="max_iter"), runs("fp32", BASE))
    assert found["fp64"].verdict == "fails" and found["fp32"].verdict == "undecided"
    assert "fp64, to compare with, fails itself" in found["fp32"].sentence


def test_a_baseline_that_is_flagged_flags_the_rest():
    found = only(runs("fp64", BASE, finished=lambda seed: seed != 0, stop_reason="max_iter"), runs("fp32", BASE))
    assert found.flagged == "of fp64, to compare with, 1 of 8 fits ran out of iterations"


def test_without_a_baseline_nothing_is_decided():
    found = only(runs("fp32", BASE))
    assert found.verdict == "undecided" and "fp64 was not run" in found.sentence


def test_one_seed_decides_nothing():
    found = only(runs("fp64", [0.5]), runs("fp32", [0.5]))
    assert found.verdict == "undecided" and "one seed" in found.sentence and found.brief == "undecided"


def test_what_the_device_lacks_gets_no_verdict():
    assert not judged(runs("fp64", BASE), runs("fp16", BASE, status="SKIP", reason="needs sm_80"))


def test_equal_scores_rest_on_the_number_of_labels():
    fixed = {**IRIS, "test_to_train": 0.0}
    few = only(runs("fp64", [0.9] * 5, **fixed), runs("fp16", [0.9] * 5, **fixed))
    assert few.verdict == "undecided" and few.needed_seeds == 10 and few.unchanged
    assert few.brief == "undecided, no label differs, >= 10 seeds"
    assert "no prediction of 150 differs, but so few predictions leave room for 0.0198 of accuracy (95 %); 10 seeds " \
        "would decide, if still none differed" in few.sentence
    enough = only(runs("fp64", [0.9] * 10, **fixed), runs("fp16", [0.9] * 10, **fixed))
    assert enough.verdict == "equal" and "no prediction of 300 differs" in enough.sentence and not enough.unchanged


def test_labels_of_overlapping_splits_may_never_suffice():
    found = only(runs("fp64", [0.9] * 10, **IRIS), runs("fp16", [0.9] * 10, **IRIS))
    assert found.verdict == "undecided" and found.brief == "undecided, no label differs" and not found.safe
    assert found.sentence == ("SVC on iris: fp16 undecided: no prediction of 300 differs, but splits of so few samples "
                              "leave room for 0.0343 of accuracy (95 %); more data would decide")


def test_a_constant_difference_without_labels():
    """As where fp64 was fitted in another process, and its predictions are not at hand."""
    def rows(shift):
        found = runs("fp64", [0.9] * 5, **IRIS) + runs("fp16", [0.9 + shift] * 5, **IRIS)
        return [{**row, "labels_differ": None} for row in found]
    same, loss = only(rows(0.0)), only(rows(-0.63))
    assert same.verdict == "undecided" and "difference 0 of accuracy on each of 5 seeds, so there is no spread" \
        in same.sentence and same.brief == "undecided"
    assert loss.verdict == "worse" and "sign test, p = 0.031" in loss.sentence


def test_a_large_constant_loss_is_worse():
    found = only(runs("fp64", [0.96] * 5, **IRIS), runs("fp16", [0.33] * 5, **IRIS, labels_differ=20))
    assert found.verdict == "worse" and "worse than fp64 by 0.6300 of accuracy" in found.sentence
    assert "100 of 150 predictions differ, 95 % interval [-0.7752, -0.3881], 5 seeds" in found.sentence


def test_a_loss_within_the_margin_does_not_refute():
    loss = -1e-3 * np.array([9, 12, 7, 11, 9, 9, 9, 9])
    rows = [row for name, shift in (("fp64", 0), ("fp16", loss))
            for row in runs(name, BASE + shift, build=network_row, test_to_train=0.0, labels_differ=3)]
    found = only(rows)
    assert found.verdict == "undecided" and not found.safe
    assert found.brief == f"undecided, worse within the margin, >= {found.needed_seeds} seeds"
    assert "undecided: worse than fp64, by less than the margin of 0.01 so far: difference -0.0094" in found.sentence
    assert "Against it" not in first_line(rows) and "Not as it stands" not in first_line(rows)


def test_other_data_are_named():
    found = only(runs("fp64", BASE, build=network_row, stand_in="fashion_mnist"),
                 runs("fp16", BASE, build=network_row, stand_in="fashion_mnist"))
    assert found.sentence.startswith("MLPClassifier on digits (in place of fashion_mnist): fp16 equal to fp64")
    grown = dict(grow=8, data="diabetes x8, synthetic")
    found = verdicts.judge(runs("fp64", BASE) + runs("fp64", BASE, **grown) + runs("fp16", BASE, **grown))
    assert [v.label for v in found] == ["LinearRegression on diabetes x8, synthetic"]    # not mixed with the others


def test_a_worker_that_died_is_counted_with_its_model():
    """Its row knows the plan, and not that other data stood in."""
    values = dict(data="digits", stand_in="fashion_mnist", cell=lambda seed: f"LinearRegression, seed {seed}")
    dead = runs("fp16", BASE[:2], status="FAIL", reason="the worker process died (signal 11)", cell=values["cell"])
    for row in dead:
        row.update(data="fashion_mnist", n_train=None, metric=None, test_to_train=None, availability=None)
    found = only(runs("fp64", BASE, **values), dead, runs("fp16", BASE, **values)[2:])
    assert found.label == "LinearRegression on digits (in place of fashion_mnist)"
    assert '2 of 8 fits failed with "the worker process died (signal 11)"' in found.sentence


def test_precisions_of_which_the_same_is_found_share_a_sentence():
    rows = runs("fp64", [0.9] * 5, **IRIS) + runs("fp16", [0.9] * 5, **IRIS) + runs("fp32", [0.9] * 5, **IRIS)
    rows += runs("mixed_fp16", [0.9, 0.8, 0.9, 0.9, 0.9], **IRIS)
    first, second = verdicts.sentences(verdicts.judge(rows))
    assert first.startswith("SVC on iris: fp16 and fp32 undecided: no prediction of 150 differs")
    assert second.startswith("SVC on iris: mixed_fp16 undecided: difference -0.0200")


# ---- speed

def timed(precision, factor, scores=BASE, **values):
    """Fits that take 1, 2, 3, ... times `factor` seconds, seed by seed."""
    return runs(precision, scores, samples_s=lambda seed: [factor * (seed + 1) * t for t in (0.99, 1.0, 1.02)],
                **values)


def test_speed_is_the_ratio_of_paired_medians():
    rows = timed("fp64", 1.0) + timed("fp32", 0.5)
    found = verdicts.speed(rows, GPU)["LinearRegression on diabetes"]
    assert found["fp32"]["fp64"].value == pytest.approx(2) and found["fp64"]["fp32"].value == pytest.approx(0.5)
    assert found["fp32"]["fp32"] is None and found["fp32"]["fp64"].low == pytest.approx(2)


def test_speed_is_withheld_on_the_emulator():
    rows = timed("fp64", 1.0) + timed("fp32", 0.5)
    assert verdicts.speed(rows, EMULATOR) == {}
    for text in (*verdicts.recommend(rows, EMULATOR), verdicts.answer(rows, EMULATOR)):
        assert "times as fast" not in text


def test_a_fit_that_gave_up_is_not_fast():
    rows = timed("fp64", 1.0) + timed("fp16", 0.1, finished=lambda seed: seed > 1, stop_reason="stalled")
    assert verdicts.speed(rows, GPU)["LinearRegression on diabetes"]["fp16"]["fp64"] is None


# ---- recommendations

def test_the_fastest_precision_that_is_as_good_is_recommended():
    rows = timed("fp64", 1.0) + timed("fp32", 0.5, BASE + SMALL) + timed("fp16", 0.1, BASE - 0.1 + SMALL)
    line, = verdicts.recommend(rows, GPU)
    assert line == ("LinearRegression on diabetes: fp32, 2.00 [2.00, 2.00] times as fast as fp64 and as good "
                    "[fp16: worse].")


def test_what_is_not_faster_is_not_recommended():
    rows = timed("fp64", 1.0)
    rows += runs("fp32", BASE + SMALL, samples_s=lambda seed: [(seed + 1) * (0.8 + 0.4 * (seed % 2))])
    assert "stay with fp64: the fastest that is as good, fp32, is not shown to be faster" in \
        verdicts.recommend(rows, GPU)[0]
    rows = timed("fp64", 1.0) + timed("fp32", 0.5, BASE + SMALL, availability="emulated")
    assert "stay with fp64" in verdicts.recommend(rows, GPU)[0]


@pytest.mark.parametrize("launches, says", [
    (100_000, "by more than 2.5 times"),    # 0.4 of 0.675 seconds
    (1_000_000, "the cost of a launch is over-estimated"),
    (100, "fp32, 2.00"),
])
def test_where_launches_take_the_time_precision_cannot_matter(launches, says):
    rows = timed("fp64", 0.15, launches=launches) + timed("fp32", 0.075, BASE + SMALL, launches=launches)
    line, = verdicts.recommend(rows, GPU)
    assert says in line and ("bound by launches" in line) == (launches == 100_000) and "at all" not in line


def test_launches_in_a_graph_cost_what_they_cost_there():
    """A tenth of an isolated launch: no longer half of the time."""
    rows = timed("fp64", 0.15, launches=100_000) + timed("fp32", 0.075, BASE + SMALL, launches=100_000)
    facts = {**GPU, "peaks": {**GPU["peaks"], "launch_in_graph_s": 4e-7}}
    assert "bound by launches" in verdicts.recommend(rows, GPU)[0]
    assert "fp32, 2.00" in verdicts.recommend(rows, facts)[0]


def test_the_emulator_recommends_by_bytes():
    rows = runs("fp64", BASE)
    for name in ("fp32", "mixed_fp16", "fp16"):
        rows += runs(name, BASE + SMALL)
    line, = verdicts.recommend(rows, EMULATOR)
    assert line.startswith("LinearRegression on diabetes: fp16, the smallest precision as good as fp64: 2 bytes")
    assert "speed is not judged under CPU emulation" in line
    line, = verdicts.recommend(rows[:8] + runs("fp16", BASE - 0.1 + SMALL), EMULATOR)
    assert "stay with fp64" in line and "[fp16: worse]" in line


def test_what_changed_no_prediction_is_named():
    """It is neither recommended as equal nor passed over."""
    rows = [row for name, scale in (("fp64", 1), ("fp32", 1.1), ("fp16", 0.5))
            for row in timed(name, scale, [0.9] * 10, **IRIS)]
    rows += timed("mixed_bf16", 0.5, [0.3] * 10, **IRIS, labels_differ=20)
    said = "changed no prediction of 300; too few data to show equality within 0.01"
    assert verdicts.recommend(rows, EMULATOR) == [f"SVC on iris: fp32 and fp16 {said} [mixed_bf16: worse]."]
    line, = verdicts.recommend(rows, GPU)      # fp32 is no faster
    assert line.startswith(f"SVC on iris: fp16 {said} [fp32: undecided, no label differs; mixed_bf16: worse]")


def test_a_recommended_precision_that_warned_says_so():
    warned = runs("fp16", BASE + SMALL, warnings=lambda seed: [f"expect {seed} digits"] * (seed < 3))
    line, = verdicts.recommend(runs("fp64", BASE) + warned, EMULATOR)
    assert "fp16, the smallest" in line and "(but fp16 warned in 3 of 8 fits, see the table of outcomes)" in line
    line, = verdicts.recommend(runs("fp64", BASE, warnings=["expect 9 digits"]) + warned, EMULATOR)
    assert "fp16, the smallest" in line and "warned" not in line      # in fp64 as well


def test_without_a_sound_baseline_there_is_no_recommendation():
    assert "fp64 was not run" in verdicts.recommend(runs("fp32", BASE), GPU)[0]
    rows = runs("fp64", BASE, finished=False, stop_reason="overflow") + runs("fp32", BASE)
    assert "fp64 itself fails (8 of 8 fits overflowed)" in verdicts.recommend(rows, GPU)[0]


# ---- the answer

def of_two_models(**shifts):
    """fp64 and other precisions, each (shift in LinearRegression, shift in SVC)."""
    rows = runs("fp64", BASE) + runs("fp64", BASE, **IRIS)
    for name, (first, second) in shifts.items():
        rows += runs(name, BASE + first) + runs(name, BASE + second, **IRIS)
    return rows


def first_line(rows, facts=EMULATOR):
    return verdicts.answer(rows, facts).splitlines()[0].removeprefix(
        "Is low precision training a general-purpose method? ")


def test_no_training_gives_no_answer():
    assert verdicts.answer([kernel_row()], GPU) == "" and verdicts.recommend([kernel_row()], GPU) == []


def test_an_answer_in_favour():
    said = first_line(of_two_models(fp16=(SMALL, SMALL), fp32=(SMALL, SMALL)))
    assert said == ("In fp16 training was as good as in fp64 for each of the 2 models measured here: as far as this "
                    "run reaches, 2 of 5 models, yes, in that precision.")


def test_an_answer_against():
    said = first_line(of_two_models(fp16=(-0.1 + SMALL, SMALL)))
    assert said.startswith("Not as it stands") and "fp16 is worse for LinearRegression on diabetes." in said
    assert "Every low precision that was run is as good as fp64 for SVC on iris." in said


def test_an_answer_that_depends_on_the_precision():
    said = first_line(of_two_models(fp16=(-0.1 + SMALL, SMALL), mixed_fp16=(SMALL, SMALL)))
    assert said.startswith("In mixed_fp16 training was as good") and "Against it: fp16 is worse" in said


def test_an_answer_that_stays_open():
    said = first_line(of_two_models(fp16=(40 * SMALL, SMALL)))
    assert said.startswith("Not shown, and not refuted. Open for fp16: no model is worse or fails, but not every one "
                           "is decided.")
    assert "not every one was run or is decided." in first_line(of_two_models() + runs("fp16", BASE + SMALL))
    assert "nothing is decided about fp16" in first_line(of_two_models(fp16=(40 * SMALL, 40 * SMALL)))
    assert "no precision below 32 bits was run" in first_line(of_two_models(fp32=(SMALL, SMALL)))


def test_one_model_is_one_model():
    rows = runs("fp64", BASE) + runs("fp16", BASE + SMALL) + runs("mixed_fp16", BASE + SMALL)
    assert "for the one model measured here: as far as this run reaches, 1 of 5 models, yes, in those precisions" \
        in first_line(rows)
    rows += [row for name, shift in (("fp64", 0), ("fp16", SMALL), ("mixed_fp16", SMALL))
             for row in runs(name, BASE + shift, data="other")]
    assert "for each of the 2 pairs of model and data measured here: as far as this run reaches, 1 of 5 models" \
        in first_line(rows)


def test_no_label_differs_is_not_equal():
    rows = runs("fp64", BASE) + runs("fp16", BASE + SMALL)
    rows += [row for name in ("fp64", "fp16") for row in runs(name, [0.9] * 10, **IRIS)]
    said = first_line(rows)
    assert said.startswith("Not shown, and not refuted. Open for fp16")
    assert " No label differs, on data too few to show equality: in fp16 for SVC on iris. " in said
    assert "fp16: equal in 1 of 2 (LinearRegression on diabetes), no label differs, not decided in 1 of 2 (SVC on " \
        "iris, " in verdicts.answer(rows, EMULATOR)
    tree = dict(IRIS, model="DecisionTreeClassifier")
    more = rows + [row for name in ("fp64", "fp16") for row in runs(name, [0.9] * 10, **tree)]
    assert ": in fp16 for SVC on iris and DecisionTreeClassifier on iris. " in first_line(more)
    alone = first_line(rows[16:])
    assert alone == ("This run does not answer it: nothing is decided about fp16. No label differs, on data too few to "
                     "show equality: in fp16 for SVC on iris.")


def test_variants_and_grown_data_do_not_count():
    """Whether they fail or are as good."""
    rows = of_two_models(fp16=(SMALL, SMALL))
    usual = verdicts.answer(rows, EMULATOR).splitlines()
    for label in ("SVC state=storage", "SVC state=storage, again"):    # the second is a model like any other
        shown = {**IRIS, "model": label}
        more = runs("fp64", BASE, **shown) + runs("fp16", BASE, **shown, finished=False, stop_reason="stalled")
        more += [row for name in ("fp64", "fp16") for row in runs(name, BASE - 0.1 * (name == "fp16") + SMALL, grow=8,
                                                                  data="diabetes x8, synthetic")]
        found = verdicts.answer(rows + more, EMULATOR).splitlines()
        if label == "SVC state=storage":
            assert found[0] == usual[0] and found[2] == usual[1]
            assert found[1].startswith("Not counted above: SVC state=storage on iris: fp16 fails (8 of 8 "
                                       "fits stalled, ")
            assert ". LinearRegression on diabetes x8, synthetic: fp16 " in found[1]
        else:
            assert found[0].startswith("Is low precision training a general-purpose method? Not as it stands")
    assert "only variants of models and enlarged, synthetic data were run" in first_line(more[-16:])


def test_the_answer_says_why_each_precision_fails_and_what_was_not_measured():
    rows = of_two_models(fp32=(SMALL, SMALL)) + runs("fp16", BASE, finished=False, stop_reason="stalled", **IRIS)
    rows += runs("mixed_bf16", BASE, status="SKIP", reason="needs sm_80")
    text = verdicts.answer(rows, EMULATOR)
    assert "fp16: fails in 1 of 1 (SVC on iris: 8 of 8 fits stalled" in text
    assert "fp32: equal in 2 of 2 (LinearRegression on diabetes; SVC on iris)." in text
    assert "Not measured: DecisionTreeClassifier, MLPClassifier and CNNClassifier." in text
    assert "whether low precision is faster was not measured" in text
    assert "Not available on CPU emulator: mixed_bf16." in text
    assert "8 seeds; as good means within 0.01 of R2 and 0.01 of accuracy, or better" in text
    assert verdicts.answer(rows, EMULATOR) == text


def test_speed_is_reported_only_for_what_is_as_good():
    rows = timed("fp64", 1.0) + timed("fp32", 0.5, BASE + SMALL) + timed("fp16", 0.1, BASE - 0.1 + SMALL)
    text = verdicts.answer(rows, GPU)
    assert "LinearRegression on diabetes in fp32 2.00 [2.00, 2.00] times." in text and "10.0" not in text


# ---- what the rows say together

def test_rows_of_a_model_come_together_by_precision():
    found = outcomes.by_model(of_two_models(fp16=(SMALL, SMALL)))
    assert {key: list(each) for key, each in found.items()} == {
        "LinearRegression on diabetes": ["fp64", "fp16"], "SVC on iris": ["fp64", "fp16"]}
    assert found["SVC on iris"]["fp16"].labels == (0, 240)
    assert found["SVC on iris"]["fp64"].ends == "converged 8"


def test_bytes_by_role():
    rows = [runs(name, [0.5])[0] for name in ("fp64", "fp16", "mixed_fp16")]
    assert [outcomes.storage_bytes(row) for row in rows] == [(8, 0, 8), (2, 0, 2), (2, 4, 4)]


@pytest.mark.parametrize("names, text", [
    ([], "nothing"), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c"),
    (["a", "b x4, synthetic", "c"], "a; b x4, synthetic; and c"), (["b x4, synthetic"], "b x4, synthetic"),
])
def test_lists(names, text):
    assert wording.listed(names) == text


# ---- whatever the rows hold

BYTES = {"fp64": (8, 0, 8), "fp32": (4, 0, 4), "fp16": (2, 0, 2), "mixed_bf16": (2, 4, 4)}    # stored, master, sums
WILD = st.lists(st.tuples(
    st.one_of(st.floats(-1, 1), st.sampled_from((math.nan, -1e300, 1e300, 0.5, 0.5 + 3e-18))),
    st.sampled_from(("ok", "ok", "ok", "FAIL", "SKIP")), st.booleans(), st.integers(0, 30)), min_size=1, max_size=5)
SOUND = st.builds(lambda shift, differ: [(x + shift * (1 + 0.1 * (i % 2)), "ok", True, differ)
                                         for i, x in enumerate(BASE)],
                  st.sampled_from((0.0, 1e-3, -1e-3, 0.05, -0.05)), st.sampled_from((0, 0, 5)))


def test_any_rows_are_judged():
    """Each precision that was run gets one verdict, in words. What is recommended is judged safe, finished every fit,
    and nothing that is safe is cheaper."""
    said = set()

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(st.dictionaries(st.sampled_from(list(BYTES)), st.tuples(SOUND | WILD, st.sampled_from((1, 2, 3))),
                           min_size=1), st.booleans(), st.booleans())
    def check(precisions, classes, emulated):
        extra = IRIS if classes else {}
        rows = [training_row(name, seed, score=score, status=status, reason="it broke", finished=finished,
                             labels_differ=differ, stop_reason="converged" if finished else "stalled",
                             samples_s=[time] * 3, **extra)
                for name, (fits, time) in precisions.items()
                for seed, (score, status, finished, differ) in enumerate(fits)]
        facts, found = EMULATOR if emulated else GPU, verdicts.judge(rows)
        run = [row for row in rows if row["status"] != "SKIP"]
        tried = {row["precision"] for row in run}
        assert tried - {"fp64"} <= {v.precision for v in found} <= tried
        for v in found:
            assert v.verdict in verdicts.VERDICTS and v.sentence and v.brief and not (v.safe and v.verdict == "fails")
        assert len(verdicts.sentences(found)) <= len(found)
        assert isinstance(verdicts.answer(rows, facts), str)
        assert all(found.keys() <= set(precisions) for found in verdicts.speed(rows, facts).values())

        broken = {row["precision"] for row in run if row["status"] != "ok" or not row["finished"]
                  or not math.isfinite(row["score"])}
        cost = {name: BYTES[name] if emulated else time for name, (_, time) in precisions.items()}
        safe = {v.precision for v in found if v.safe}
        assert not safe & broken
        line, = verdicts.recommend(rows, facts)
        recommended = re.match(
            r"[^:]+: ([\w, ]+?), (?:the smallest precision as good|\d\S+ (?:\[.*?\] )?times as fast)", line)
        unchanged = re.match(r"[^:]+: (.*); too few data to show equality", line)
        if recommended:
            names = set(re.findall(r"\w+", recommended[1])) - {"or"}
            assert names and names <= safe
            assert all(cost[name] == min(cost[other] for other in safe) < cost["fp64"] for name in names)
        elif unchanged:
            names = set(re.findall(r"\w+", unchanged[1])) & set(BYTES)
            assert names == {v.precision for v in found if v.unchanged and not v.flagged
                             and cost[v.precision] < cost["fp64"]} and not names & broken
            assert all(cost[name] >= cost["fp64"] for name in safe)
        elif "stay with fp64" in line:
            assert all(cost[name] >= cost["fp64"] for name in safe)
        else:
            assert "no recommendation, because fp64" in line and ("fp64" in broken or "fp64" not in tried)
        said.add("recommended" if recommended else "unchanged" if unchanged else re.search("stay|no", line)[0])

    check()
    assert said == {"recommended", "unchanged", "stay", "no"}
