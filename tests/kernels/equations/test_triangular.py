"""triangular: the operations of its ladder."""
import numpy as np
import pytest
from ladders import Ladder

from numprec.harness.measure import profiling
from numprec.kernels import operations
from numprec.kernels.equations import triangular
from numprec.kernels.equations.units import THREADS
from numprec.precision import PRECISIONS

EXAMPLES = {
    "triangular": ((np.array([[2, 1], [0, 3]]), np.array([[6], [12]])), [[1], [1]]),
}
FP32 = PRECISIONS["fp32"]
OPERATION = operations()["triangular"]


class TestTriangular(Ladder):
    chapter = "triangular"
    examples = EXAMPLES


@pytest.mark.parametrize("rung", operations()["triangular"].rungs, ids=lambda rung: rung.name)
def test_both_substitutions_are_counted(rung):
    """The compiler copies a part of their loops: what remains of the loop is counted too."""
    operation, shape = operations()["triangular"], (17, 2)
    found = profiling.counted(profiling.launched(operation, rung, FP32, shape))
    assert found["flops"] == operation.cost(FP32, *shape)["flops"] == 2 * 17 * 17 * 2


@pytest.mark.parametrize("rung", OPERATION.rungs, ids=lambda rung: rung.name)
def test_more_right_hand_sides_than_threads(device, rung):
    """Every column is solved, also those beyond the threads of the one block."""
    rng = np.random.default_rng(5)
    R, B = np.triu(rng.random((3, 3))) + np.eye(3), rng.random((3, 2 * THREADS + 1))
    X = triangular.launch(device, rung, PRECISIONS["fp64"], device.array(R), device.array(B))
    np.testing.assert_allclose(R.T @ R @ device.to_host(X), B, rtol=1e-13, atol=1e-13)
