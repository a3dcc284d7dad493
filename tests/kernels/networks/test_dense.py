"""dense: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
import pytest
from ladders import Ladder

from numprec.kernels.networks import dense
from numprec.kernels.products.matmul import register_blocked

EXAMPLES = {
    "dense": ((np.array([[1, 2]]), np.array([[1, -1], [1, -1]]), np.ones(2)), [[4, 0]]),
    "dense_input_gradient": ((np.ones((1, 1)), np.array([[2], [3]]), np.array([[1, -1]])), [[2, 0]]),
    "bias_gradient": ((np.array([[1, 2], [3, 4]]),), [4, 6]),
    "activation_gradient": ((np.array([[2]]), np.array([[0.5]])), [[1.5]]),
}


class TestDense(Ladder):
    chapter = "dense"
    examples = EXAMPLES

    def as_good(self, operation, rung, precision):
        if operation.name == "activation_gradient" and precision.name == "mixed_bf16":
            return "a few roundings to float16 are finer than the one to bfloat16"
        return None


def rounded(precision, *arrays):
    return [precision.storage.round(a) for a in arrays]


@pytest.mark.parametrize("name", dense.ACTIVATIONS)
def test_activations_within_their_bounds(device, precision, name):
    rng = np.random.default_rng(0)
    X, W, b = rounded(precision, rng.standard_normal((17, 31)), rng.standard_normal((31, 9)), rng.standard_normal(9))
    Y = device.to_host(dense.forward(device, register_blocked, precision, *map(device.array, (X, W, b)), name))
    expected = dense.activated(precision, X, W, b, name)
    assert (abs(Y.astype(np.float64) - expected.exact) <= expected.error).all()
    dZ, below = rounded(precision, rng.standard_normal((17, 9)), np.tanh(rng.standard_normal((17, 31))))
    dX = dense.input_gradient(device, register_blocked, precision, *map(device.array, (dZ, W, below)), name)
    dX = device.to_host(dX)
    expected = dense.differentiated(precision, dZ, W, below, name)
    assert (abs(dX.astype(np.float64) - expected.exact) <= expected.error).all()


@pytest.mark.parametrize("name", dense.ACTIVATIONS)
def test_a_derivative_follows_from_the_value(name):
    x, h = np.linspace(-3, 3, 101) + 0.003, 1e-6
    f, g = dense.ACTIVATIONS[name].f, dense.ACTIVATIONS[name].g
    np.testing.assert_allclose(g(f(x)), (f(x + h) - f(x - h)) / (2 * h), atol=1e-8)
    assert (abs(g(f(x))) <= dense.ACTIVATIONS[name].slope).all()


@pytest.mark.parametrize("name", dense.ACTIVATIONS)
def test_activations_at_the_ends_of_the_range(device, precision, name):
    """A NaN stays one, so that an overflow shows; the largest numbers give the limits."""
    top = precision.storage.max
    x = precision.storage.round(np.array([[np.nan], [top], [-top]]))
    zero, one = (precision.storage.round(np.full((1, 1), v)) for v in (0, 1))
    y = dense.forward(device, register_blocked, precision, *map(device.array, (x, one, zero[0])), name)
    y = device.to_host(y).astype(np.float64)[:, 0]
    assert np.isnan(y[0])
    np.testing.assert_array_equal(y[1:], dense.ACTIVATIONS[name].f(np.array([top, -top])))
