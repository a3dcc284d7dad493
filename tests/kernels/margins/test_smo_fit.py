"""smo_fit: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
import pytest
from ladders import Ladder
from smo_problems import FP32, FUNCTIONS, Data

from numprec.kernels.margins import smo_fit

PAIR = np.array([[1, -1]]), np.ones((1, 2))    # labels and bounds of two samples
NOTHING = np.zeros((1, 2)), [0], np.zeros((1, 2))
EXAMPLES = {
    "smo_fit": ((np.array([[0], [1]]), np.array([np.log(2), 0, 0]), *PAIR), (*NOTHING, [[1, 0.5], [0.5, 1]])),
}


class TestSmoFit(Ladder):
    chapter = "smo_fit"
    examples = EXAMPLES
    cost_shapes = {
        "smo_fit": (64, 1, 512),
    }


@pytest.mark.parametrize("function", FUNCTIONS)
def test_fused_makes_the_same_kernel_matrix(device, precision, function):
    data = Data(device, precision, n=20, problems=2, function=function)
    data.solve(smo_fit.fused, max_iter=1)
    for own in np.split(device.to_host(data.own_K), 2):
        assert own.tobytes() == device.to_host(data.K).tobytes()


def test_one_launch(device):
    data = Data(device, FP32, problems=3)
    before = device.launches
    data.solve(smo_fit.fused)
    assert device.launches == before + 1
