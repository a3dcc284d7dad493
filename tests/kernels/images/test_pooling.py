"""pooling: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
import pytest
from image_problems import within
from ladders import OPERATIONS, Ladder

from numprec.kernels.images import pooling
from numprec.kernels.images.im2col import window
from numprec.precision import PRECISIONS

SQUARE = np.array([1, 5, 2, 5, 0, 1, 2, 2, 2]).reshape(1, 3, 3, 1)
EXAMPLES = {
    "max_pool": ((SQUARE,), ([[[[5]]]], [[[[1]]]])),    # the first of two
    "max_pool_gradient": ((np.full((1, 1, 1, 1), 7), np.full((1, 1, 1, 1), 1), SQUARE),
                          np.reshape([0, 7, 0, 0, 0, 0, 0, 0, 0], (1, 3, 3, 1))),
    "average_pool": ((SQUARE,), [[[[20 / 9]]]]),
    "average_pool_gradient": ((np.full((1, 1, 1, 1), 9), SQUARE),
                              np.reshape([1, 1, 1, 1, 0, 1, 1, 1, 1], (1, 3, 3, 1))),
}
FP32 = PRECISIONS["fp32"]


class TestPooling(Ladder):
    chapter = "pooling"
    examples = EXAMPLES
    exact = ("max_pool",)

    def as_good(self, operation, rung, precision):
        if operation.name == "max_pool_gradient" and precision.name == "mixed_bf16":
            return "a few roundings to float16 are finer than the one to bfloat16"
        return None


@pytest.mark.parametrize("size, stride", [((2, 2), 2), ((3, 2), 1), ((2, 3), 3), ((9, 9), 9)], ids=str)
def test_pooling_of_any_kind(device, size, stride):
    rng = np.random.default_rng(0)
    X = np.round(rng.standard_normal((2, 7, 6, 5)), 1).astype(np.float32)    # with ties
    view = window(X.shape[1:3], size, stride)
    Y, where = pooling.max_oracle(X, view)
    dY = rng.standard_normal(Y.shape).astype(np.float32)
    rungs = {name: OPERATIONS[name].rungs[-1] for name in OPERATIONS if "pool" in name}
    x, dy = device.array(X), device.array(dY)
    got, places = pooling.max_pool(device, rungs["max_pool"], FP32, x, view)
    np.testing.assert_array_equal(device.to_host(got), Y)
    np.testing.assert_array_equal(device.to_host(places), where)
    averaged, expected = pooling.average_pool(device, rungs["average_pool"], FP32, x, view), \
        pooling.average_computed(FP32, X, view)
    assert within(device.to_host(averaged).reshape(expected.exact.shape), expected.exact, expected.error)
    for dx, expected in (
            (pooling.max_gradient(device, rungs["max_pool_gradient"], FP32, dy, places, x, view, "tanh"),
             pooling.max_gradient_computed(FP32, dY, where, X, view, "tanh")),
            (pooling.average_gradient(device, rungs["average_pool_gradient"], FP32, dy, x, view, "tanh"),
             pooling.average_gradient_computed(FP32, dY, X, view, "tanh"))):
        assert within(device.to_host(dx), expected.exact, expected.error)


def test_max_pooling_keeps_a_nan(device, precision):
    X = np.zeros((1, 2, 4, 1))
    X[0, 1, 0], X[0, 0, 2], X[0, 0, 3] = np.nan, -np.inf, np.inf
    Y, where = pooling.max_pool(device, pooling.elementwise, precision, device.array(X, precision.storage),
                                window((2, 4), (2, 2), 2))
    np.testing.assert_array_equal(device.to_host(Y).astype(np.float64).ravel(), [np.nan, np.inf])
    np.testing.assert_array_equal(device.to_host(where).ravel(), [4, 3])
