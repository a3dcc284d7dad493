"""smo: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
import pytest
from ladders import Ladder
from smo_problems import BF16, BY_SETS, FP32, FP64, Data, paper, seen

from numprec import device as devices
from numprec.kernels.margins import smo, smo_fit
from numprec.kernels.margins.smo import NARROW, STEPS, WIDE
from numprec.kernels.margins.smo_step import CONVERGED, MAX_ITER, OVERFLOW, STALLED, Info, Limits, Number

PAIR = np.array([[1, -1]]), np.ones((1, 2))    # labels and bounds of two samples
NOTHING = np.zeros((1, 2)), [0], np.zeros((1, 2))
EXAMPLES = {
    "smo": ((np.eye(2), *PAIR), NOTHING),
}


class TestSmo(Ladder):
    chapter = "smo"
    examples = EXAMPLES


@pytest.mark.parametrize("C", [0.3, 10.0])
def test_pairs_and_steps_are_the_papers(device, C):
    compared = 0
    for seed in range(3):
        data = Data(device, FP64, C=C, seed=seed)
        for iterations, (expected, expected_f) in enumerate(paper(device.to_host(data.K), data.y, C), 1):
            alpha, f, numbers, info = data.solve(smo.block, 1e-9, iterations)
            np.testing.assert_allclose(alpha, expected, rtol=0, atol=1e-12)
            np.testing.assert_allclose(f, expected_f, rtol=0, atol=1e-12)
            assert info[0, Info.ITERATIONS] == iterations and info[0, Info.ENDED] == MAX_ITER
            compared += 1
    assert compared >= 100


def test_gap_and_intercept(device):
    data = Data(device, FP64)
    alpha, f, numbers, info = data.solve(smo.block, 1e-6)
    up = np.where(data.y > 0, alpha < 1, alpha > 0)
    low = np.where(data.y > 0, alpha > 0, alpha < 1)
    free = (alpha > 0) & (alpha < 1)
    assert numbers[0, Number.GAP] == f[low].max() - f[up].min() <= 1e-6
    assert np.isclose(numbers[0, Number.INTERCEPT], -f[free].mean(), rtol=0, atol=1e-15)
    assert info[0, Info.ENDED] == CONVERGED


def test_intercept_without_free_multipliers(device):
    data = Data(device, FP64, n=2, C=0.1)
    alpha, f, numbers, info = data.solve(smo.block)
    assert (alpha == 0.1).all() and info[0, Info.ENDED] == CONVERGED
    assert np.isclose(numbers[0, Number.INTERCEPT], -(f.max() + f.min()) / 2, atol=1e-15)


def test_rungs_agree_to_the_last_bit(device, precision):
    data = Data(device, precision, problems=2)
    reference = seen(data.solve(smo.phases))
    for rung in smo.block, smo.problems, smo_fit.fused:
        assert seen(data.solve(rung)) == reference, rung


def test_the_length_of_a_launch_changes_no_bit(device, monkeypatch):
    data = Data(device, FP32, problems=2)
    whole = {rung: seen(data.solve(rung)) for rung in (smo.problems, smo_fit.fused)}
    monkeypatch.setattr(smo, "BURST", 3)
    assert {rung: seen(data.solve(rung)) for rung in whole} == whole


def test_the_width_of_a_block_changes_no_step(device):
    data = Data(device, FP32)
    results = []
    for threads in NARROW, WIDE:
        todo = data.problems()
        device.launch(smo.block.variant(FP32, threads=threads), 1, threads, data.K, todo.start, 0, todo.given,
                      Limits(np.float32(1e-3), 1000, 1000), True, todo.found)
        results.append(device.to_host(todo.found.alpha).tobytes())
    assert results[0] == results[1]


def test_overflow_is_seen(device, precision):
    for spoiled in np.inf, np.nan:
        data = Data(device, precision, n=8)
        K = device.to_host(data.K)
        K[3, 3] = spoiled
        data.K = device.array(K)
        for rung in smo.phases, smo.block:
            alpha, f, numbers, info = data.solve(rung)
            assert info[0, Info.ENDED] == OVERFLOW and not alpha.any()


def test_same_point_with_both_labels(device, precision):
    """No curvature at all: the step goes to the box."""
    data = Data(device, precision, n=6)
    data.K = device.array(np.ones((6, 6)), precision.storage)
    alpha, f, numbers, info = data.solve(smo.block)
    assert (alpha == 1).all() and (f == -data.y).all()
    assert info[0, Info.ENDED] == CONVERGED if numbers[0, Number.GAP] <= 0 else info[0, Info.ENDED] != 0


def test_a_tolerance_beyond_the_format_is_not_called_converged(device, precision):
    data = Data(device, precision)
    alpha, f, numbers, info = data.solve(smo.block, 1e-30)
    assert info[0, Info.ENDED] == STALLED or numbers[0, Number.GAP] <= 0
    assert numbers[0, Number.GAP] <= 64 * 2 * precision.accum.u * abs(f).max()


def test_bfloat16_multipliers_stall(device):
    """With alpha and f in bfloat16 most problems end short of the tolerance; in accum none does."""
    data = Data(device, BF16, problems=6)
    stuck, fine = (data.solve(smo.problems, state=state)[3][:, Info.ENDED] for state in ("storage", "accum"))
    assert (stuck == STALLED).sum() >= 4 and (fine == CONVERGED).all()


def test_sum_of_y_alpha_stays_zero(device, precision):
    """Both multipliers of a pair move by the same number."""
    data = Data(device, precision, C=4.0)
    alpha, _, _, info = data.solve(smo.block)
    assert abs(data.y @ alpha) <= 4 * precision.accum.u * info[0, Info.ITERATIONS]
    if precision is FP64:
        assert abs(data.y @ alpha) <= 1e-15 * abs(alpha).sum()


def test_what_the_host_waits_for(device, monkeypatch):
    """It looks at the stop flag at most once in 16 iterations."""
    data = Data(device, FP32)
    reads = []
    original = devices.Device.to_host
    monkeypatch.setattr(devices.Device, "to_host", lambda self, a: reads.append(a.shape) or original(self, a))
    for rung, most in (smo.phases, None), (smo.problems, 1), (BY_SETS, 2):
        reads.clear()
        iterations = data.solve(rung)[3][0, Info.ITERATIONS]
        flags = [shape for shape in reads if shape[-1] == 5][:-1]     # the last one is this test's own
        assert len(flags) <= (iterations / STEPS + 2 if most is None else most), rung
