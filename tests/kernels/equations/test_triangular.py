"""triangular: the operations of its ladder."""
import numpy as np
import pytest
from ladders import Ladder

from numprec.harness.measure import profiling
from numprec.kernels import operations
from numprec.precision import PRECISIONS

EXAMPLES = {
    "triangular": ((np.array([[2, 1], [0, 3]]), np.array([[6], [12]])), [[1], [1]]),
}
FP32 = PRECISIONS["fp32"]


class TestTriangular(Ladder):
    chapter = "triangular"
    examples = EXAMPLES


@pytest.mark.parametrize("rung", operations()["triangular"].rungs, ids=lambda rung: rung.name)
def test_both_substitutions_are_counted(rung):
    """The compiler copies a part of their loops: what remains of the loop is counted too."""
    operation, shape = operations()["triangular"], (17, 2)
    found = profiling.counted(profiling.launched(operation, rung, FP32, shape))
    assert found["flops"] == operation.cost(FP32, *shape)["flops"] == 2 * 17 * 17 * 2
