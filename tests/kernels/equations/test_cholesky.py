"""cholesky: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
import pytest
from ladders import Ladder

from numprec.kernels import operations
from numprec.kernels.equations import cholesky
from numprec.kernels.equations.units import TILE

EXAMPLES = {
    "cholesky": ((np.array([[4, 2], [9, 10]]),), [[4, 2], [2, 10]]),    # only the upper half is read
}
CHOLESKYS = operations()["cholesky"].rungs


class TestCholesky(Ladder):
    chapter = "cholesky"
    examples = EXAMPLES
    cost_shapes = {
        "cholesky": (48,),          # work of D elements stands beside D^2
    }


def factor(device, rung, precision, A):
    """R and the number of good pivots."""
    D = len(A)
    R, floor = device.empty((D, D), precision.accum), device.empty((D,), precision.accum)
    rank = device.empty((1,), np.int32)
    threads = 1 if rung.name == "serial" else (TILE, TILE)
    device.launch(rung[precision], 1, threads, device.array(A, precision.storage), R, floor, rank)
    return device.to_host(R), int(device.to_host(rank)[0])


@pytest.mark.parametrize("rung", CHOLESKYS, ids=lambda rung: rung.name)
def test_breakdown(device, rung, precision):
    """Where it happens: at the first pivot that is negative, zero, lost in its rounding error, or not finite."""
    rng = np.random.default_rng(0)
    M = rng.standard_normal((6, 40))
    M[4] = M[0] - M[1] + M[2]
    singular = M @ M.T / 40
    assert factor(device, rung, precision, np.eye(9))[1] == 9
    assert factor(device, rung, precision, np.diag([1.0, 2, -1, 4]))[1] == 2
    assert factor(device, rung, precision, np.zeros((3, 3)))[1] == 0
    for bad in np.nan, np.inf, -np.inf:
        assert factor(device, rung, precision, np.diag([1, 1, 1, bad]))[1] == 3
    if precision.storage == precision.accum:    # else A is singular no longer once it is rounded
        assert factor(device, rung, precision, singular)[1] == 4
    assert factor(device, rung, precision, np.array([[1, 1], [1, 1 + precision.accum.u]]))[1] == 1


def test_rungs_agree_to_the_bit(device, precision):
    A, = cholesky.inputs(np.random.default_rng(1), (19,), "random", precision)
    np.testing.assert_array_equal(*(factor(device, rung, precision, A)[0] for rung in CHOLESKYS))
