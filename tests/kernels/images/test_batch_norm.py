"""batch_norm: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
from image_problems import TWO_ROWS, rounded, state_of
from ladders import Ladder

from numprec.kernels.images import batch_moments, batch_norm

EXAMPLES = {
    "batch_norm": ((np.array([[2], [-2], [9]]), np.zeros(1), np.array([4 - 1e-5]), np.array([3]), np.ones(1), TWO_ROWS),
                   [[4], [0], [0]]),
    "batch_norm_gradient": ((np.array([[4], [0], [9]]), np.array([[1], [-1], [9]]), np.zeros(1), np.array([1 - 1e-5]),
                            np.ones(1), TWO_ROWS), ([[0], [0], [0]], [4], [4])),
}


class TestBatchNorm(Ladder):
    chapter = "batch_norm"
    examples = EXAMPLES


def test_padding_rows_change_nothing(device, precision):
    """Neither moments, results nor gradients of the true rows; three rows a sample."""
    rng = np.random.default_rng(0)
    X, dZ, gamma, beta = rounded(precision, rng.standard_normal((12, 5)), rng.standard_normal((12, 5)),
                                 rng.uniform(1, 2, 5), rng.standard_normal(5))

    def run(rows):
        state = state_of(device, count=2)
        x, dz, g, b = map(device.array, (X[:rows], dZ[:rows], gamma, beta))
        mean, var = batch_moments.launch(device, batch_moments.strips, precision, x, state, 3)
        y = batch_norm.forward(device, batch_norm.elementwise, precision, x, mean, var, g, b, state, 3)
        parts = batch_norm.gradient(device, batch_norm.strips, precision, dz, x, mean, var, g, state, 3)
        return [device.to_host(a) for a in (mean, var, y, *parts)]
    for few, many in zip(run(6), run(12)):
        np.testing.assert_array_equal(many[:len(few)], few)
        assert not many[len(few):].any()
