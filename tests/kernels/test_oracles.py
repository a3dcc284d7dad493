"""The oracles, which judge every kernel, against closed forms and exact rational arithmetic."""
from fractions import Fraction

import numpy as np
import pytest

from numprec.kernels import operations
from numprec.kernels.networks import loss_scale
from numprec.language.ladder import KINDS
from numprec.precision import FORMATS, PRECISIONS

OPERATIONS = operations()
U64 = FORMATS["float64"].u


def exact_dot(x, y):
    """Rounded once, at the end."""
    return float(sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(x, y)))


def oracle(name, *arrays):
    return OPERATIONS[name].oracle(*arrays)


LINE = np.array([[1], [2], [3]]), np.array([[1], [3], [5]])    # y = 2 x - 1
EXAMPLES = {
    "sum": ((np.arange(1, 1001),), 500500),
    "dot": ((np.arange(1, 101), np.arange(1, 101)), 338350),
    "max": ((np.array([2, -7, 5, -7, 5]),), 5),
    "argmax": ((np.array([2, -7, 5, -7, 5]),), 2),
    "argmin": ((np.array([2, -7, 5, -7, 5]),), 1),
    "norm": ((np.array([3, 4]),), 5),
    "matmul": ((np.tril(np.ones((7, 7))), np.eye(7) - np.eye(7, k=-1)), np.eye(7)),
    "matmul_ta": ((np.triu(np.ones((7, 7))), np.eye(7) - np.eye(7, k=-1)), np.eye(7)),
    "matmul_tb": ((np.tril(np.ones((7, 7))), np.eye(7) - np.eye(7, k=1)), np.eye(7)),
    "gram": ((*LINE, np.ones(1)), ([2, 3], [[2, 4], [4, 8]])),
    "cholesky": ((np.array([[4, 2], [9, 10]]),), [[4, 2], [2, 10]]),    # only the upper half is read
    "triangular": ((np.array([[2, 1], [0, 3]]), np.array([[6], [12]])), [[1], [1]]),
    "qr": ((np.array([[1, 1], [0, 1], [2, 0]]),), [[5, 1], [1, 2]]),
    "least_squares": ((*LINE, np.ones(1)), [[2]]),
}

STATE = np.array([0, 0, 0, 0, 2, *[0] * 11])    # of a batch of two rows
PAIR = np.array([[1, -1]]), np.ones((1, 2))    # labels and bounds of two samples
NOTHING = np.zeros((1, 2)), [0], np.zeros((1, 2))
EXAMPLES |= {
    "rbf": ((np.array([[0], [1]]), np.array([[0]]), np.array([np.log(2), 0, 0])), [[1], [0.5]]),
    "poly": ((np.array([[1, 2]]), np.array([[3, 4]]), np.array([2, 1, 2])), [[529]]),
    "sigmoid": ((np.array([[1]]), np.array([[2]]), np.array([1, -2, 0])), [[0]]),
    "smo": ((np.eye(2), *PAIR), NOTHING),
    "smo_fit": ((np.array([[0], [1]]), np.array([np.log(2), 0, 0]), *PAIR), (*NOTHING, [[1, 0.5], [0.5, 1]])),
    "working_set": ((np.eye(2), *PAIR), NOTHING),
}
LINE_OF_PIXELS = np.array([1, 2, 3]).reshape(1, 1, 3, 1)
SQUARE = np.array([1, 5, 2, 5, 0, 1, 2, 2, 2]).reshape(1, 3, 3, 1)
SLOPE = np.array([1, 0, -1]).reshape(1, 3, 1, 1)
EXAMPLES |= {
    "im2col": ((LINE_OF_PIXELS,), [[0, 1, 2], [1, 2, 3], [2, 3, 0]]),    # 3 x 3 windows are cut down to 1 x 3
    "col2im": ((np.ones((3, 3)), LINE_OF_PIXELS), np.reshape([2, 3, 2], (1, 1, 3, 1))),
    "conv": ((LINE_OF_PIXELS, SLOPE, np.ones(1)), np.reshape([0, 0, 3], (1, 1, 3, 1))),
    "conv_weight_gradient": ((LINE_OF_PIXELS, np.ones((1, 1, 3, 1))), [[3], [6], [5]]),
    "conv_input_gradient": ((np.array([1, 0, 0]).reshape(1, 1, 3, 1), SLOPE, LINE_OF_PIXELS),
                            np.reshape([0, -1, 0], (1, 1, 3, 1))),
    "max_pool": ((SQUARE,), ([[[[5]]]], [[[[1]]]])),    # the first of two
    "max_pool_gradient": ((np.full((1, 1, 1, 1), 7), np.full((1, 1, 1, 1), 1), SQUARE),
                          np.reshape([0, 7, 0, 0, 0, 0, 0, 0, 0], (1, 3, 3, 1))),
    "average_pool": ((SQUARE,), [[[[20 / 9]]]]),
    "average_pool_gradient": ((np.full((1, 1, 1, 1), 9), SQUARE),
                              np.reshape([1, 1, 1, 1, 0, 1, 1, 1, 1], (1, 3, 3, 1))),
    "batch_moments": ((np.array([[1], [3], [99]]), STATE), ([2], [1])),
    "running_moments": ((np.array([20, np.inf]), np.array([10, 3]), np.eye(16, dtype=int)[10]), [11, 3]),
    "batch_norm": ((np.array([[2], [-2], [9]]), np.zeros(1), np.array([4 - 1e-5]), np.array([3]), np.ones(1), STATE),
                   [[4], [0], [0]]),
    "batch_norm_gradient": ((np.array([[4], [0], [9]]), np.array([[1], [-1], [9]]), np.zeros(1), np.array([1 - 1e-5]),
                            np.ones(1), STATE), ([[0], [0], [0]], [4], [4])),
    "augment": ((np.zeros((2, 3, 3, 1)), STATE), np.zeros((2, 3, 3, 1))),
}

EXAMPLES |= {
    "sort": ((np.array([3, np.nan, 1, 2, 1]),), [2, 4, 3, 0, 1]),
    "bins": ((np.array([[1, 2, np.nan, 4, 2]]),), ([[1.5, 3, *[np.inf] * 254]], [[0], [1], [255], [2], [1]])),
    "histogram": ((np.array([[0], [255], [255]]), np.array([0, 1, 1])), [[[1, 0], *[[0, 0]] * 254, [0, 2]]]),
    "split": ((np.array([[2, 2, 2, 2], [1, 2, 3, 4]]), np.array([0, 0, 1, 1])), [0, 0]),
    "split_weighted": ((np.array([[1, 2, 3, np.nan]]), np.array([1, 0, 0, 1]), np.array([1, 1, 2, 1])), [0, 0]),
    "partition": ((np.array([[200], [3], [130], [128]]),), [1, 3, 0, 2]),
    "descend": ((np.array([[1, 3, 2, np.nan]]), np.array([[0, 1, 2, 1], [-1, 0, 0, 0], [-1, 0, 0, 0]]),
                 np.array([2, 0, 0])), [1, 2, 1, 1]),
    "grow": ((np.array([[1, 2]]), np.array([1, 0])), [1, 0]),
}


def controls(**numbers):
    control = np.zeros(loss_scale.CONTROL)
    for name, value in numbers.items():
        control[getattr(loss_scale, name)] = value
    return control


PADDING = [0] * 63                               # a batch has 64 rows, of which one is true here
EXAMPLES |= {
    "dense": ((np.array([[1, 2]]), np.array([[1, -1], [1, -1]]), np.ones(2)), [[4, 0]]),
    "dense_input_gradient": ((np.ones((1, 1)), np.array([[2], [3]]), np.array([[1, -1]])), [[2, 0]]),
    "bias_gradient": ((np.array([[1, 2], [3, 4]]),), [4, 6]),
    "activation_gradient": ((np.array([[2]]), np.array([[0.5]])), [[1.5]]),
    "cross_entropy": ((np.array([[0, np.log(3)], [5, 5]]), np.array([0, -1]), np.array([2])),
                      ([np.log(4), 0], [0, 0], [[-1.5, 1.5], [0, 0]])),
    "uniform": ((np.zeros(2, int), np.zeros(1, int)), [0x6627e8d5 / 2 ** 32]),    # of Random123's known answers
    "permutation": ((np.zeros(2, int), np.zeros(1, int)), [0]),
    "batch": ((np.array([[7]]), np.array([3]), np.zeros(16, int), np.array([4])),
              (np.reshape([7, *PADDING], (64, 1)), np.array([4, *PADDING]) - 1, [4])),
    "weigh": ((np.array([1, 5, 3]), np.array([2, 0, -1]), np.array([8])), ([4], [0.75, 0.25, 0], [6, 2, 0])),
    "sgd": ((controls(UNSCALE=0.5, RATE=0.25, DECAY=1, BETA1=0.5), np.array([1, 2]), np.array([4, 4]),
             np.array([2, 2])), ([1.25, 2.5], [0.25, 0.5])),
    "adam": ((controls(UNSCALE=1, RATE=1, BETA1=0.5, COBETA1=0.5, BETA2=0.75, COBETA2=0.25, EPSILON=1),
              np.array([3]), np.array([4]), np.array([2]), np.array([0])), ([2], [3], [4])),
    "convert": ((np.array([1.5, -2]),), [1.5, -2]),
    "loss_scale": ((np.array([0.0, 2, -0.5]), np.array([1, 3]), np.array([1, 0])),
                   ([2, 2, 0.5, 2 ** 15], [1, 0, 0, 2 ** 31 - 1, 0, 1, 2, 0], [2 ** 15])),
}


def test_each_operation_has_an_example():
    assert set(EXAMPLES) == set(OPERATIONS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name):
    arrays, expected = EXAMPLES[name]
    result = oracle(name, *arrays)
    for got, exact in zip(*(x if isinstance(x, tuple) else (x,) for x in (result, expected)), strict=True):
        np.testing.assert_allclose(got, exact, rtol=8 * U64, atol=8 * U64)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=list(OPERATIONS))
@pytest.mark.parametrize("kind", KINDS)
def test_parts_fit_together(operation, precision, kind):
    """A bound has the shape of what it bounds and is positive; a cost counts; nothing is NaN."""
    for shape in operation.shapes:
        with np.errstate(all="ignore"):
            arrays = [np.asarray(a) for a in operation.inputs(np.random.default_rng(0), shape, kind, precision)]
            arrays = [precision.storage.round(a) if a.dtype.kind == "f" else a for a in arrays]
            exact, bound = operation.oracle(*arrays), operation.error_bound(precision, *arrays)
        exact, bound = (x if isinstance(x, tuple) else (x,) for x in (exact, bound))
        assert len(exact) == len(bound)
        for e, b in zip(exact, bound):
            assert np.broadcast_shapes(np.shape(e), np.shape(b)) == np.shape(e)
            # where operands overflow, infinity less infinity is no number
            assert kind == "overflow" or not np.isnan(e).any() and np.all(np.asarray(b) >= 0)
        cost = operation.cost(precision, *shape)
        assert cost["flops"] >= 0 and cost["bytes"] >= min(cost["flops"], 1)
    assert set(operation.bench_shapes) == {"smoke", "quick", "full"}
    assert all(len(shape) == len(operation.shapes[0]) for shape in operation.bench_shapes.values())


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=list(OPERATIONS))
def test_a_bound_grows_with_the_unit_roundoff(operation):
    shape = operation.shapes[min(2, len(operation.shapes) - 1)]
    arrays = map(np.asarray, operation.inputs(np.random.default_rng(0), shape, "random", PRECISIONS["fp16"]))
    arrays = [PRECISIONS["fp16"].storage.round(a) if a.dtype.kind == "f" else a for a in arrays]
    with np.errstate(all="ignore"):
        bounds = [operation.error_bound(PRECISIONS[p], *arrays) for p in ("fp64", "fp32", "mixed_fp16", "fp16")]
    bounds = [b if isinstance(b, tuple) else (b,) for b in bounds]
    for finer, coarser in zip(bounds, bounds[1:]):
        assert all(np.all(np.asarray(f) <= np.asarray(c)) for f, c in zip(finer, coarser))


def test_sum():
    x = np.ldexp(np.random.default_rng(0).standard_normal(1000), np.random.default_rng(1).integers(-30, 30, 1000))
    assert abs(oracle("sum", x) - exact_dot(x, np.ones(1000))) <= 1000 * U64 * np.sum(abs(x))


def test_dot():
    x, y = np.random.default_rng(0).standard_normal((2, 1000))
    assert abs(oracle("dot", x, y) - exact_dot(x, y)) <= 1000 * U64 * np.sum(abs(x * y))


def test_norm():
    assert oracle("norm", np.array([6e4, 0], np.float16)) == np.float16(6e4)
    assert oracle("norm", np.array([3e300, 4e300])) == pytest.approx(5e300, rel=4 * U64)
    assert oracle("norm", np.array([3e-320, 4e-320])) == pytest.approx(5e-320, rel=1e-3)    # subnormal: few digits
    assert oracle("norm", np.zeros(3)) == 0
    assert oracle("norm", np.array([1, -np.inf])) == np.inf
    x = np.random.default_rng(0).standard_normal(1000)
    assert oracle("norm", x) ** 2 == pytest.approx(exact_dot(x, x), rel=1000 * U64)


def test_extremes_of_nan():
    x = np.array([2, -7, 5, np.nan, np.nan], np.float16)
    assert np.isnan(oracle("max", x)) and oracle("argmax", x) == oracle("argmin", x) == 3


def test_matmul():
    """A Vandermonde matrix evaluates polynomials."""
    points = np.arange(5)
    np.testing.assert_array_equal(oracle("matmul", np.vander(points, 4), np.array([[2], [-3], [0], [1]])).ravel(),
                                  2 * points ** 3 - 3 * points ** 2 + 1)
    A, B = np.random.default_rng(0).standard_normal((2, 8, 8))
    exact = [[exact_dot(row, column) for column in B.T] for row in A]
    assert np.all(abs(oracle("matmul", A, B) - exact) <= 8 * U64 * (abs(A) @ abs(B)))
    for name, left, right in ("matmul_ta", A.T, B), ("matmul_tb", A, B.T):
        np.testing.assert_allclose(oracle(name, left, right), A @ B, rtol=1e-12, atol=1e-14)


def test_the_bound_of_a_sum_is_reached():
    """1 + u + u + ... from left to right loses each u: an error of (n - 1) u, the bound to first order."""
    n, u = 100, FORMATS["float16"].u
    x = np.array([1] + [u] * (n - 1), np.float16)
    total = x[0]
    for element in x[1:]:
        total = np.float16(total + element)
    bound = OPERATIONS["sum"].error_bound(PRECISIONS["fp16"], x)
    assert 0.9 * bound < abs(float(total) - oracle("sum", x)) <= bound
