"""Two runs compared: each verdict, the exit code, and what is refused."""
import json

import numpy as np
import pytest
from rows import environment, kernel_row, runs

from numprec.harness.record import store
from numprec.harness.show import compare

RNG = np.random.default_rng(1)
STEADY = (1e-3 * RNG.normal(1, 0.001, 12)).tolist()
NOISY = (1e-3 * RNG.gamma(4, 0.25, 12)).tolist()
BASE = [0.50, 0.45, 0.55, 0.48, 0.52]
KERNEL = [kernel_row("fp32", samples_s=STEADY)]
NOISE = 1e-3 * np.array([1, -1, 2, -2, 0])


def saved(folder, rows, **facts):
    """The folder of a run that has these rows."""
    folder.mkdir()
    (folder / store.ENVIRONMENT).write_text(json.dumps(environment(**facts)), encoding="utf-8")
    lines = [json.dumps(store.plain(row)) + "\n" for row in rows]
    (folder / store.RESULTS).write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def compared(tmp_path):
    """compare.runs of two lists of rows."""
    def of(before, after, **facts):
        return compare.runs(saved(tmp_path / "A", before, **facts), saved(tmp_path / "B", after, **facts))
    return of


def times(factor, samples=STEADY):
    return [factor * t for t in samples]


# ---- kernels

@pytest.mark.parametrize("after, verdict, code", [
    (times(1.0), "same", 0),
    (times(1.005), "same", 0),          # seen by the rank test, but less than the least effect
    (times(1.2), "slower", 4),
    (times(0.8), "faster", 0),
    (NOISY, "ambiguous", 0),
])
def test_kernel_times(compared, after, verdict, code):
    text, found = compared(KERNEL, [kernel_row("fp32", samples_s=after)])
    assert found == code and f"kernel times: 1 {verdict}\n" in text
    assert ("regressions: matmul/tiled 64x64x64 fp32: slower" in text) == (code == 4)
    assert ("no regression" in text) == (code == 0)


def test_few_samples_are_ambiguous(compared):
    text, code = compared([kernel_row("fp32", samples_s=STEADY[:4])], [kernel_row("fp32", samples_s=times(1.2)[:4])])
    assert code == 0 and "kernel times: 1 ambiguous\n" in text


@pytest.mark.parametrize("before, after, verdict, code", [
    ("ok", "FAIL", "newly fails", 4), ("FAIL", "ok", "no longer fails", 0), ("FAIL", "FAIL", "fails in both", 0),
    ("SKIP", "ok", "not run", 0), ("SKIP", "FAIL", "newly fails", 4),
])
def test_kernels_that_fail(compared, before, after, verdict, code):
    text, found = compared([kernel_row(status=before)], [kernel_row(status=after)])
    assert found == code and f"kernel times: 1 {verdict}\n" in text


def test_only_the_same_kernel_is_compared(compared):
    before = [kernel_row("fp32"), kernel_row("fp16"), kernel_row("fp32", shape=(8, 8, 8))]
    after = [kernel_row("fp32"), kernel_row("fp32", rung="naive")]
    text, _ = compared(before, after)
    assert "kernel times: 1 " in text
    assert "only in A: matmul/tiled 64x64x64 fp16; matmul/tiled 8x8x8 fp32\n" in text
    assert "only in B: matmul/naive 64x64x64 fp32\n" in text


# ---- models

def fits(factor, scores=BASE, **values):
    """Seeds take very different times."""
    return runs("fp32", scores, samples_s=lambda seed: times(10.0 ** seed * factor, STEADY[:4]), **values)


@pytest.mark.parametrize("factor, verdict, code", [(1.0, "same", 0), (1.2, "slower", 4), (0.8, "faster", 0)])
def test_times_of_fits_are_compared_within_seeds(compared, factor, verdict, code):
    text, found = compared(fits(1.0), fits(factor))
    assert found == code and f"training times: 1 {verdict}\n" in text and "scores: 1 same\n" in text


def test_what_moves_a_whole_seed_is_no_difference_between_runs(compared):
    """Each seed is off by its own factor, and its repetitions with it: many samples, and five pairs."""
    factors = [1.3, 1.2, 1.1, 0.99, 1.05]
    after = runs("fp32", BASE, samples_s=lambda seed: times(10.0 ** seed * factors[seed], STEADY))
    text, code = compared(runs("fp32", BASE, samples_s=lambda seed: times(10.0 ** seed, STEADY)), after)
    assert code == 0 and "training times: 1 ambiguous\n" in text


def test_few_seeds_are_never_slower(compared):
    text, code = compared(fits(1.0, BASE[:4]), fits(1.2, BASE[:4]))
    assert code == 0 and "training times: 1 ambiguous\n" in text


@pytest.mark.parametrize("shift, verdict, code", [
    (0, "same", 0), (NOISE, "same", 0), (-0.05 + NOISE, "worse", 4), (0.05 + NOISE, "better", 0),
    (40 * NOISE, "ambiguous", 0),
])
def test_scores(compared, shift, verdict, code):
    text, found = compared(fits(1.0), fits(1.0, np.array(BASE) + shift))
    assert found == code and f"scores: 1 {verdict}\n" in text


def test_labels_that_differ_from_fp64_say_nothing_of_another_run(compared):
    before, after = (runs("fp16", np.array(BASE) + shift, metric="accuracy", labels_differ=50) for shift in (0, 0.001))
    text, code = compared(before, after)
    assert code == 0 and "scores: 1 ambiguous\n" in text and "+0.0010" in text and "+0.0010 [" not in text


def test_identical_scores_are_the_same(compared):
    rows = runs("fp16", BASE, metric="accuracy", labels_differ=50)
    assert "scores: 1 same\n" in compared(rows, rows)[0]


def test_models_that_fail(compared):
    stalled = fits(1.0, finished=False, stop_reason="stalled")
    text, code = compared(fits(1.0), stalled)
    assert code == 4 and "LinearRegression on diabetes, fp32, score: newly fails" in text
    assert "training times: 1 ambiguous\n" in text      # a fit that gave up is not fast


@pytest.mark.parametrize("values", [dict(status=lambda seed: "FAIL" if seed == 2 else "ok", reason="ValueError: x"),
                                    dict(finished=lambda seed: seed != 2, stop_reason="stalled")])
def test_one_seed_that_fails_where_it_did_not(compared, values):
    text, code = compared(fits(1.0), fits(1.0, **values))
    assert code == 4 and "LinearRegression on diabetes, fp32, score: newly fails" in text


def test_one_seed_that_fails_in_both(compared):
    values = dict(finished=lambda seed: seed != 2, stop_reason="stalled")
    text, code = compared(fits(1.0, **values), fits(1.0, **values))
    assert code == 0 and "scores: 1 same\n" in text


def test_another_seed_that_fails(compared):
    before, after = (fits(1.0, finished=lambda seed, ok=ok: seed in ok, stop_reason="stalled")
                     for ok in ((0, 1, 2), (0, 1, 4)))
    text, code = compared(before, after)
    assert code == 4 and "scores: 1 newly fails\n" in text


def test_models_that_no_longer_fail(compared):
    text, code = compared(fits(1.0, finished=False, stop_reason="stalled"), fits(1.0))
    assert code == 0 and "scores: 1 no longer fails\n" in text


# ---- what is refused, and what is marked

@pytest.mark.parametrize("facts, says", [
    ({"device": "Another GPU"}, "device is 'Some GPU' in .*A and 'Another GPU' in .*B"),
    ({"scale": "smoke"}, "scale is 'full' in"),
    ({"schema_version": 1}, "B.env.json cannot be used: schema_version is 1, and this numprec reads 2"),
])
def test_runs_that_cannot_be_compared(tmp_path, facts, says):
    before, after = saved(tmp_path / "A", KERNEL), saved(tmp_path / "B", KERNEL, **facts)
    with pytest.raises((ValueError, store.Unusable), match=says):
        compare.runs(before, after)


def test_nothing_in_common(compared):
    with pytest.raises(ValueError, match="no result in common"):
        compared(KERNEL, [kernel_row("fp16")])


def test_no_run_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        compare.runs(tmp_path, tmp_path)


def test_times_of_the_emulator_are_shown_but_do_not_count(compared):
    after = [kernel_row("fp32", samples_s=times(1.2)), *fits(1.2)]
    text, code = compared([*KERNEL, *fits(1.0)], after, emulator=True)
    assert code == 0 and "kernel times: 1 slower" in text and "Kernels (CPU emulation" in text
    assert "none counts as a regression" in text


def test_scores_count_on_the_emulator(compared):
    assert compared(fits(1.0), fits(1.0, np.array(BASE) - 0.05 + NOISE), emulator=True)[1] == 4


def test_a_run_is_the_same_as_itself(compared):
    rows = [*KERNEL, *fits(1.0), *runs("fp64", BASE, samples_s=STEADY)]
    text, code = compared(rows, rows)
    assert code == 0 and "kernel times: 1 same" in text and "scores: 2 same" in text
    assert "only in" not in text
