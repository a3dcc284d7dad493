"""kernel_functions: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
from ladders import Ladder
from smo_problems import FP32

from numprec.kernels.margins import kernel_functions
from numprec.kernels.products import matmul

EXAMPLES = {
    "rbf": ((np.array([[0], [1]]), np.array([[0]]), np.array([np.log(2), 0, 0])), [[1], [0.5]]),
    "poly": ((np.array([[1, 2]]), np.array([[3, 4]]), np.array([2, 1, 2])), [[529]]),
    "sigmoid": ((np.array([[1]]), np.array([[2]]), np.array([1, -2, 0])), [[0]]),
}


class TestKernelFunctions(Ladder):
    chapter = "kernel_functions"
    examples = EXAMPLES
    cost_shapes = {
        "rbf": (32, 32, 256),       # an exp is eleven operations, and counts as one
        "poly": (32, 32, 64),
        "sigmoid": (16, 16, 512),   # so is a tanh
    }


def test_neighbours_far_from_the_origin(device):
    """Of |x - z|^2 = 10^-4 at 1000, the expanded form keeps nothing in float32."""
    x = np.array([[1000.0], [1000.0 + 2.0 ** -7]], np.float32)
    K = kernel_functions.launch(device, matmul.tiled, FP32, device.array(x), device.array(x),
                                device.array(np.array([1000, 0, 0]), np.float32))
    assert np.isclose(device.to_host(K)[0, 1], np.exp(-1000 * 2.0 ** -14), rtol=1e-6)
    expanded = x[0] * x[0] + x[1] * x[1] - 2 * x[0] * x[1]
    assert not np.isclose(expanded, 2.0 ** -14, rtol=0.5)
