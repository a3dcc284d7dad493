"""The role `compute`: a kernel treats operands as if they had been rounded to compute before."""
import numpy as np
import pytest

from numprec import MLPClassifier
from numprec.kernels import operations
from numprec.precision import PRECISIONS, precision_named

OPERATIONS = [operation for operation in operations().values() if operation.operands]
COARSER = [("storage=float32,compute=bfloat16,accum=float32", "fp32"),
           ("storage=float64,compute=float32,accum=float64", "fp64"),
           ("storage=float32,compute=float16,accum=float32", "fp32")]
RUNGS = [pytest.param(operation, rung, id=f"{operation.name}-{rung.name}")
         for operation in OPERATIONS for rung in operation.rungs]


def inputs(operation, shape, precision):
    """Arrays of a problem, rounded to storage."""
    drawn = map(np.asarray, operation.inputs(np.random.default_rng(3), shape, "random", precision))
    return [precision.storage.round(a) if a.dtype.kind == "f" else a for a in drawn]


def results(device, operation, rung, precision, arrays):
    found = operation.launch(device, rung, precision, *map(device.array, arrays))
    return [device.to_host(array) for array in (found if isinstance(found, tuple) else (found,))]


@pytest.mark.parametrize("text, plain", COARSER[:1], ids=["bfloat16"])
@pytest.mark.parametrize("operation, rung", RUNGS)
def test_bits_are_those_of_rounded_operands(device, operation, rung, text, plain):
    custom, plain = precision_named(text), PRECISIONS[plain]
    arrays = inputs(operation, operation.shapes[-1], custom)
    rounded = [plain.storage.round(custom.compute.round(a)) if i in operation.operands else a
               for i, a in enumerate(arrays)]
    got = results(device, operation, rung, custom, arrays)
    expected = results(device, operation, rung, plain, rounded)
    assert [a.tobytes() for a in got] == [a.tobytes() for a in expected]
    assert [a.tobytes() for a in results(device, operation, rung, plain, arrays)] != [a.tobytes() for a in got]


@pytest.mark.parametrize("text, plain", COARSER)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.name)
def test_bounds_count_the_rounding(operation, text, plain):
    """The oracle's result for rounded operands lies within the bound, but not within that of the plain precision."""
    custom, plain = precision_named(text), PRECISIONS[plain]

    def as_tuple(x):
        return x if isinstance(x, tuple) else (x,)

    beyond = 0
    for shape in operation.shapes:
        arrays = inputs(operation, shape, custom)
        rounded = [custom.compute.round(a) if i in operation.operands else a for i, a in enumerate(arrays)]
        moved = [abs(np.subtract(a, b)) for a, b in zip(as_tuple(operation.oracle(*rounded)),
                                                        as_tuple(operation.oracle(*arrays)))]
        bounds, too_small = (as_tuple(operation.error_bound(p, *arrays)) for p in (custom, plain))
        assert all((m <= b).all() for m, b in zip(moved, bounds))
        beyond += sum((m > b).sum() for m, b in zip(moved, too_small))
    assert beyond


def test_a_network_trains_with_coarser_operands():
    """It is another training than plain float32's, and it learns."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 8))
    y = (X[:, 0] + X[:, 1] > 0).astype(int)

    def fitted(precision):
        return MLPClassifier(hidden_layer_sizes=(16,), max_iter=30, learning_rate_init=0.01, random_state=0,
                             precision=precision).fit(X, y)
    coarse, plain = fitted(COARSER[0][0]), fitted("fp32")
    assert not np.array_equal(coarse.coefs_[0], plain.coefs_[0])
    assert coarse.score(X, y) > 0.9
