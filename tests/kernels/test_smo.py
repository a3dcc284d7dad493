"""SMO: the pairs that the paper takes, rungs that agree bit for bit, how a run ends, and what the host waits for."""
import numpy as np
import pytest

from numprec import device as devices
from numprec.kernels.margins import kernel_functions, smo, smo_fit, working_set
from numprec.kernels.margins.smo import NARROW, STEPS, WIDE
from numprec.kernels.margins.smo_step import (CONVERGED, ENDED, GAP, INTERCEPT, ITERATIONS, MAX_ITER, OVERFLOW, SIZE,
                                              STALLED)
from numprec.kernels.products import matmul
from numprec.precision import PRECISIONS

FP64, FP32, BF16 = PRECISIONS["fp64"], PRECISIONS["fp32"], PRECISIONS["mixed_bf16"]
FUNCTIONS = list(kernel_functions.FUNCTIONS)
BY_SETS = working_set.working_set


class Data:
    """Two overlapping clouds, and the problem of telling them apart, as `smo` takes it."""

    def __init__(self, device, precision, n=60, C=1.0, problems=1, function="rbf", seed=0, distance=1.5):
        rng = np.random.default_rng(seed)
        self.device, self.precision, self.n, self.function = device, precision, n, function
        self.y = np.where(np.arange(n) < n // 2, 1.0, -1.0)
        self.X = precision.storage.round(rng.standard_normal((n, 4)) + distance * self.y[:, None] / 2)
        self.Y = np.stack([self.y, *(rng.permutation(self.y) for _ in range(problems - 1))])
        self.C = np.full(self.Y.shape, C)
        self.on_device = device.array(self.X)
        self.parameters = device.array(np.array([0.25, 1, 3]), precision.accum)
        self.K = kernel_functions.launch(device, matmul.naive, precision, self.on_device, self.on_device,
                                         self.parameters, function)

    def problems(self, state="accum", fused=False):
        entries = np.arange(self.n)
        row = np.arange(self.Y.size) if fused else np.tile(entries, len(self.Y))
        return smo.problems_of(self.device, self.precision, [self.n] * len(self.Y), row,
                               np.tile(entries, len(self.Y)), self.device.array(self.Y.ravel(), self.precision.storage),
                               self.device.array(self.C.ravel(), self.precision.accum), state)

    def solve(self, rung, tolerance=1e-3, max_iter=10 ** 6, state="accum"):
        """alpha, f, numbers and info, in float64."""
        todo = self.problems(state, rung is smo_fit.fused)
        if rung is smo_fit.fused:
            self.own_K = self.device.empty((self.Y.size, self.n), self.precision.storage)
            sample = self.device.array(np.tile(np.arange(self.n, dtype=np.int32), len(self.Y)))
            smo.solve(self.device, rung, self.precision, self.own_K, todo, tolerance, max_iter, fill=(
                self.on_device, self.parameters, FUNCTIONS.index(self.function), sample))
        elif rung is BY_SETS:
            working_set.solve(self.device, rung, self.precision, todo, tolerance, max_iter, K=self.K)
        else:
            smo.solve(self.device, rung, self.precision, self.K, todo, tolerance, max_iter)
        return tuple(self.device.to_host(a).astype(np.float64) for a in (todo.alpha, todo.f, todo.numbers, todo.info))

    def objective(self, alpha):
        K, moved = self.device.to_host(self.K).astype(np.float64), self.y * alpha
        return moved @ K @ moved / 2 - alpha.sum()


def paper(K, y, C):
    """Fan, Chen and Lin, algorithm 2 with WSS 2, in NumPy; ties of the first step go to the first. Gives alpha and f
    after each step, up to the first where a choice hangs on a rounding, as f_i = f_j after a step to no bound."""
    alpha, f = np.zeros(len(y)), -y
    while True:
        up = np.where(y > 0, alpha < C, alpha > 0)
        low = np.where(y > 0, alpha > 0, alpha < C)
        firsts = np.where(up, f, np.inf)
        i = np.argmin(firsts)
        b = f - f[i]
        a = K[i, i] + np.diag(K) - 2 * K[i]
        gains = np.where(low & (b > 0), b ** 2 / np.maximum(a, 1e-12), -np.inf)
        j = np.argmax(gains)
        close = np.sort(firsts)[1] - f[i] < 1e-9 or np.sort(gains)[-2] > (1 - 1e-9) * gains[j]
        if alpha.any() and close or not gains[j] > 0:
            return
        room_i, room_j = (C - alpha[i] if y[i] > 0 else alpha[i]), (alpha[j] if y[j] > 0 else C - alpha[j])
        step = min(b[j] / max(a[j], 1e-12), room_i, room_j)
        alpha[i] += y[i] * step
        alpha[j] -= y[j] * step
        f += step * (K[i] - K[j])
        yield alpha.copy(), f.copy()


# ---- the method

@pytest.mark.parametrize("C", [0.3, 10.0])
def test_pairs_and_steps_are_the_papers(device, C):
    compared = 0
    for seed in range(3):
        data = Data(device, FP64, C=C, seed=seed)
        for iterations, (expected, expected_f) in enumerate(paper(device.to_host(data.K), data.y, C), 1):
            alpha, f, numbers, info = data.solve(smo.block, 1e-9, iterations)
            np.testing.assert_allclose(alpha, expected, rtol=0, atol=1e-12)
            np.testing.assert_allclose(f, expected_f, rtol=0, atol=1e-12)
            assert info[0, ITERATIONS] == iterations and info[0, ENDED] == MAX_ITER
            compared += 1
    assert compared >= 100


def test_gap_and_intercept(device):
    data = Data(device, FP64)
    alpha, f, numbers, info = data.solve(smo.block, 1e-6)
    up = np.where(data.y > 0, alpha < 1, alpha > 0)
    low = np.where(data.y > 0, alpha > 0, alpha < 1)
    free = (alpha > 0) & (alpha < 1)
    assert numbers[0, GAP] == f[low].max() - f[up].min() <= 1e-6
    assert np.isclose(numbers[0, INTERCEPT], -f[free].mean(), rtol=0, atol=1e-15)
    assert info[0, ENDED] == CONVERGED


def test_intercept_without_free_multipliers(device):
    data = Data(device, FP64, n=2, C=0.1)
    alpha, f, numbers, info = data.solve(smo.block)
    assert (alpha == 0.1).all() and info[0, ENDED] == CONVERGED
    assert np.isclose(numbers[0, INTERCEPT], -(f.max() + f.min()) / 2, atol=1e-15)


def test_rungs_agree_to_the_last_bit(device, precision):
    data = Data(device, precision, problems=2)
    reference = seen(data.solve(smo.phases))
    for rung in smo.block, smo.problems, smo_fit.fused:
        assert seen(data.solve(rung)) == reference, rung


def seen(results):
    """The bits of alpha, f, and what is not left over from an iteration."""
    alpha, f, numbers, info = results
    return [a.tobytes() for a in (alpha, f, numbers[:, :SIZE + 1], info[:, :ENDED + 1])]


def test_the_length_of_a_launch_changes_no_bit(device, monkeypatch):
    data = Data(device, FP32, problems=2)
    whole = {rung: seen(data.solve(rung)) for rung in (smo.problems, smo_fit.fused)}
    monkeypatch.setattr(smo, "BURST", 3)
    assert {rung: seen(data.solve(rung)) for rung in whole} == whole


@pytest.mark.parametrize("function", FUNCTIONS)
def test_fused_makes_the_same_kernel_matrix(device, precision, function):
    data = Data(device, precision, n=20, problems=2, function=function)
    data.solve(smo_fit.fused, max_iter=1)
    for own in np.split(device.to_host(data.own_K), 2):
        assert own.tobytes() == device.to_host(data.K).tobytes()


def test_the_width_of_a_block_changes_no_step(device):
    data = Data(device, FP32)
    results = []
    for threads in NARROW, WIDE:
        todo = data.problems()
        given, found = todo.of_entries
        device.launch(smo.block.variant(FP32, threads=threads), 1, threads, data.K, todo.start, *given, 0,
                      np.float32(1e-3), 1000, 1000, True, *found, todo.numbers, todo.info)
        results.append(device.to_host(todo.alpha).tobytes())
    assert results[0] == results[1]


# ---- how it ends

def test_overflow_is_seen(device, precision):
    for spoiled in np.inf, np.nan:
        data = Data(device, precision, n=8)
        K = device.to_host(data.K)
        K[3, 3] = spoiled
        data.K = device.array(K)
        for rung in smo.phases, smo.block:
            alpha, f, numbers, info = data.solve(rung)
            assert info[0, ENDED] == OVERFLOW and not alpha.any()


def test_same_point_with_both_labels(device, precision):
    """No curvature at all: the step goes to the box."""
    data = Data(device, precision, n=6)
    data.K = device.array(np.ones((6, 6)), precision.storage)
    alpha, f, numbers, info = data.solve(smo.block)
    assert (alpha == 1).all() and (f == -data.y).all()
    assert info[0, ENDED] == CONVERGED if numbers[0, GAP] <= 0 else info[0, ENDED] != 0


def test_a_tolerance_beyond_the_format_is_not_called_converged(device, precision):
    data = Data(device, precision)
    alpha, f, numbers, info = data.solve(smo.block, 1e-30)
    assert info[0, ENDED] == STALLED or numbers[0, GAP] <= 0
    assert numbers[0, GAP] <= 64 * 2 * precision.accum.u * abs(f).max()


def test_bfloat16_multipliers_stall(device):
    """With alpha and f in bfloat16 most problems end short of the tolerance; in accum none does."""
    data = Data(device, BF16, problems=6)
    stuck, fine = (data.solve(smo.problems, state=state)[3][:, ENDED] for state in ("storage", "accum"))
    assert (stuck == STALLED).sum() >= 4 and (fine == CONVERGED).all()


def test_sum_of_y_alpha_stays_zero(device, precision):
    """Both multipliers of a pair move by the same number."""
    data = Data(device, precision, C=4.0)
    alpha, _, _, info = data.solve(smo.block)
    assert abs(data.y @ alpha) <= 4 * precision.accum.u * info[0, ITERATIONS]
    if precision is FP64:
        assert abs(data.y @ alpha) <= 1e-15 * abs(alpha).sum()


def test_neighbours_far_from_the_origin(device):
    """Of |x - z|^2 = 10^-4 at 1000, the expanded form keeps nothing in float32."""
    x = np.array([[1000.0], [1000.0 + 2.0 ** -7]], np.float32)
    K = kernel_functions.launch(device, matmul.tiled, FP32, device.array(x), device.array(x),
                                device.array(np.array([1000, 0, 0]), np.float32))
    assert np.isclose(device.to_host(K)[0, 1], np.exp(-1000 * 2.0 ** -14), rtol=1e-6)
    expanded = x[0] * x[0] + x[1] * x[1] - 2 * x[0] * x[1]
    assert not np.isclose(expanded, 2.0 ** -14, rtol=0.5)


# ---- working sets

def test_working_sets_solve_the_same_problem(device):
    data = Data(device, FP64, n=700, distance=0.7)
    whole, by_sets = (data.solve(rung, 1e-6) for rung in (smo.block, BY_SETS))
    assert by_sets[3][0, ENDED] == CONVERGED and by_sets[2][0, GAP] <= 1e-6
    assert np.isclose(data.objective(whole[0]), data.objective(by_sets[0]), rtol=1e-8)
    assert np.isclose(whole[2][0, INTERCEPT], by_sets[2][0, INTERCEPT], atol=1e-5)


def test_the_set_is_the_most_violating(device):
    """Of several chunks, the first and the last by f; of equal f, the first by index."""
    n = 2 * working_set.CHUNK + 100
    device_K = device.zeros((n, n), FP32.storage)
    y = np.where(np.random.default_rng(0).random(n) < 0.5, 1.0, -1.0)
    todo = smo.problems_of(device, FP32, [n], np.arange(n), np.arange(n), device.array(y, FP32.storage),
                           device.array(np.ones(n), FP32.accum))
    work = working_set.Workspace(device, BY_SETS, FP32, todo, 0, device_K)
    assert len(work.lists) == 2
    work.begin()
    rng = np.random.default_rng(1)
    alpha = rng.choice([0, 0.5, 1], n).astype(np.float32)
    f = (rng.integers(-300, 300, n) / 64).astype(np.float32)
    work.alpha[:], work.f[:] = device.array(alpha), device.array(f)
    work.iterate(np.float32(1e-3), 1)
    up = np.flatnonzero(np.where(y > 0, alpha < 1, alpha > 0))
    low = np.flatnonzero(np.where(y > 0, alpha > 0, alpha < 1))
    first = up[np.argsort(f[up], kind="stable")][:working_set.HALF]
    last = low[np.argsort(-f[low], kind="stable")][:working_set.HALF]
    np.testing.assert_array_equal(device.to_host(work.chosen), np.concatenate([first, last]))


def test_rows_made_as_needed_are_the_same(device, precision):
    data = Data(device, precision, n=40)
    todo = data.problems()
    product = matmul.tiled
    working_set.solve(device, BY_SETS, precision, todo, 1e-3, 1000, rows_of=lambda q: (
        data.on_device, data.parameters, "rbf", product))
    assert device.to_host(todo.alpha).astype(np.float64).tobytes() == data.solve(BY_SETS, max_iter=1000)[0].tobytes()


# ---- the host

def test_what_the_host_waits_for(device, monkeypatch):
    """It looks at the stop flag at most once in 16 iterations."""
    data = Data(device, FP32)
    reads = []
    original = devices.Device.to_host
    monkeypatch.setattr(devices.Device, "to_host", lambda self, a: reads.append(a.shape) or original(self, a))
    for rung, most in (smo.phases, None), (smo.problems, 1), (BY_SETS, 2):
        reads.clear()
        iterations = data.solve(rung)[3][0, ITERATIONS]
        flags = [shape for shape in reads if shape[-1] == 5][:-1]     # the last one is this test's own
        assert len(flags) <= (iterations / STEPS + 2 if most is None else most), rung


def test_one_launch(device):
    data = Data(device, FP32, problems=3)
    before = device.launches
    data.solve(smo_fit.fused)
    assert device.launches == before + 1
