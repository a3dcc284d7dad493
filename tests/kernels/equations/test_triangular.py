"""triangular: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
import pytest
from ladders import Ladder, violations

from numprec.harness.measure import profiling
from numprec.kernels import operations
from numprec.kernels.equations import cholesky, triangular
from numprec.kernels.equations.units import THREADS
from numprec.precision import PRECISIONS

EXAMPLES = {
    "triangular": ((np.array([[2, 1], [0, 3]]), np.array([[6], [12]])), [[1], [1]]),
}
FP32, FP64 = PRECISIONS["fp32"], PRECISIONS["fp64"]
OPERATION = operations()["triangular"]


class TestTriangular(Ladder):
    chapter = "triangular"
    examples = EXAMPLES


@pytest.mark.parametrize("rung", OPERATION.rungs, ids=lambda rung: rung.name)
def test_both_substitutions_are_counted(rung):
    """The compiler copies a part of their loops: what remains of the loop is counted too."""
    shape = 17, 2
    found = profiling.counted(profiling.launched(OPERATION, rung, FP32, shape))
    assert found["flops"] == OPERATION.cost(FP32, *shape)["flops"] == 2 * 17 * 17 * 2


@pytest.mark.parametrize("rung", OPERATION.rungs, ids=lambda rung: rung.name)
def test_more_right_hand_sides_than_threads(device, rung):
    """Every column is solved, also those beyond the threads of the one block."""
    rng = np.random.default_rng(5)
    R, B = np.triu(rng.random((3, 3))) + np.eye(3), rng.random((3, 2 * THREADS + 1))
    X = device.to_host(triangular.launch(device, rung, FP64, device.array(R), device.array(B)))
    assert not violations(X, triangular.oracle(R, B), triangular.error_bound(FP64, R, B)).any()


def test_rungs_agree_to_the_bit(device, precision):
    A, = cholesky.inputs(np.random.default_rng(1), (19,), "random", precision)
    B = device.array(np.random.default_rng(2).standard_normal((19, 3)), precision.storage)
    R = device.array(np.triu(A), precision.storage)
    X = [device.to_host(triangular.launch(device, rung, precision, R, B)) for rung in OPERATION.rungs]
    np.testing.assert_array_equal(*X)
