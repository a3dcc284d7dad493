"""working_set: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
from ladders import Ladder
from smo_problems import BY_SETS, FP32, FP64, Data

from numprec.kernels.margins import smo, working_set
from numprec.kernels.margins.smo_step import CONVERGED, Info, Limits, Number
from numprec.kernels.products import matmul

PAIR = np.array([[1, -1]]), np.ones((1, 2))    # labels and bounds of two samples
NOTHING = np.zeros((1, 2)), [0], np.zeros((1, 2))
EXAMPLES = {
    "working_set": ((np.eye(2), *PAIR), NOTHING),
}


class TestWorkingSet(Ladder):
    chapter = "working_set"
    examples = EXAMPLES


def test_working_sets_solve_the_same_problem(device):
    data = Data(device, FP64, n=700, distance=0.7)
    whole, by_sets = (data.solve(rung, 1e-6) for rung in (smo.block, BY_SETS))
    assert by_sets[3][0, Info.ENDED] == CONVERGED and by_sets[2][0, Number.GAP] <= 1e-6
    assert np.isclose(data.objective(whole[0]), data.objective(by_sets[0]), rtol=1e-8)
    assert np.isclose(whole[2][0, Number.INTERCEPT], by_sets[2][0, Number.INTERCEPT], atol=1e-5)


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
    work.found.alpha[:], work.found.f[:] = device.array(alpha), device.array(f)
    work.iterate(Limits(np.float32(1e-3), 1, working_set.INNER))
    up = np.flatnonzero(np.where(y > 0, alpha < 1, alpha > 0))
    low = np.flatnonzero(np.where(y > 0, alpha > 0, alpha < 1))
    first = up[np.argsort(f[up], kind="stable")][:working_set.HALF]
    last = low[np.argsort(-f[low], kind="stable")][:working_set.HALF]
    np.testing.assert_array_equal(device.to_host(work.own.chosen), np.concatenate([first, last]))


def test_rows_made_as_needed_are_the_same(device, precision):
    data = Data(device, precision, n=40)
    todo = data.problems()
    product = matmul.tiled
    working_set.solve(device, BY_SETS, precision, todo, 1e-3, 1000, rows_of=lambda q: (
        data.on_device, data.parameters, "rbf", product))
    alpha = device.to_host(todo.found.alpha).astype(np.float64)
    assert alpha.tobytes() == data.solve(BY_SETS, max_iter=1000)[0].tobytes()
