"""split: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
import pytest
from ladders import Ladder

from numprec.kernels import operations
from numprec.kernels.trees import split
from numprec.kernels.trees.impurity import entropy, gini, left_over_bound
from numprec.precision import PRECISIONS

EXAMPLES = {
    "split": ((np.array([[2, 2, 2, 2], [1, 2, 3, 4]]), np.array([0, 0, 1, 1])), [0, 0]),
    "split_weighted": ((np.array([[1, 2, 3, np.nan]]), np.array([1, 0, 0, 1]), np.array([1, 1, 2, 1])), [0, 0]),
}
RUNGS = operations()["split"].rungs


class TestSplit(Ladder):
    chapter = "split"
    examples = EXAMPLES
    cost_shapes = {
        "split": (8, 512, 3),       # rows of a column's largest value have no cut
    }


def found(device, precision, X, y, w=None, **options):
    """(feature, threshold, left over, missing) of each rung; they have to agree."""
    X, y = device.array(np.asarray(X), precision.storage), device.array(np.asarray(y, np.int32))
    w = None if w is None else device.array(np.asarray(w, np.int64))
    results = []
    for rung in RUNGS:
        parts = split.launch(device, rung, precision, X, y, w, **options)
        results.append([device.to_host(part) for part in parts])
    assert len({tuple(part.tobytes() for part in result) for result in results}) == 1, results
    return [float(part[0]) for part in results[0]]


@pytest.mark.parametrize("weighted, criterion", [(False, gini), (True, entropy)])
def test_rungs_agree(device, precision, weighted, criterion):
    rng = np.random.default_rng(0)
    for shape in (3, 2, 2), (2, 33, 2), (4, 300, 5):
        X, y = split.inputs(rng, shape, "random", precision)
        w = rng.integers(1, 2 ** 40, len(y)) if weighted else None
        found(device, precision, X, y, w, criterion=criterion)
        X[:, rng.random(len(y)) < 0.2] = np.nan
        X[0, y == 0] = np.nan
        found(device, precision, X, y, w, criterion=criterion)


def test_ties(device, precision):
    """The lowest feature, then the lowest threshold; also when the equal cut is a mirror image."""
    x = np.arange(12.0)
    y = x > 4
    for X, first in ([x, x], 0), ([-x, x], 0), ([x % 3, x, -x], 1):
        feature, threshold, left_over, _ = found(device, precision, X, y)
        assert feature == first and left_over == 0 and threshold == (-4.5 if X[0][-1] == -11 else 4.5)
    assert found(device, precision, [x], (x == 0) | (x == 11))[1] == 0.5


def test_no_cut(device, precision):
    assert found(device, precision, np.ones((3, 40)), np.arange(40) % 2)[0] == -1
    assert found(device, precision, [np.arange(5.0)], [0, 0, 0, 1, 1], least=3)[0] == -1
    assert found(device, precision, [np.arange(6.0)], [0, 0, 0, 0, 0, 1], least=3)[1] == 2.5


def test_missing_values(device, precision):
    """To the right, to the left, or alone on the right, in this order where all are as good."""
    x = np.array([1, 2, 3, 4, np.nan, np.nan])
    assert found(device, precision, [x], [0, 0, 1, 1, 1, 1]) == [0, 2.5, 0, 0]
    assert found(device, precision, [x], [1, 1, 0, 0, 1, 1]) == [0, 2.5, 0, 1]
    assert found(device, precision, [x], [0, 0, 0, 0, 1, 1]) == [0, np.inf, 0, 0]
    assert found(device, precision, [x[3:]], [0, 1, 1], least=2)[0] == -1
    assert found(device, precision, [np.full(5, np.nan)], [0, 1, 0, 1, 0])[0] == -1


def test_a_mirror_image_has_the_same_bits(device, precision):
    """What is left over does not depend on which side is the left one, nor, for two classes, on their names."""
    rng = np.random.default_rng(0)
    x, y = rng.permutation(100).astype(float), rng.integers(0, 2, 100)
    assert found(device, precision, [x], y)[2] == found(device, precision, [-x], y)[2] == \
        found(device, precision, [x], 1 - y)[2]


def test_counts_that_float16_cannot_hold(device):
    """100,000 rows: beyond 65504, where float16 is infinite."""
    precision = PRECISIONS["fp16"]
    x = np.arange(100_000.0) % 60
    X, y = device.array(x[None], precision.storage), device.array((x > 20).astype(np.int32))
    _, threshold, left_over, _ = split.launch(device, split.binned, precision, X, y)
    assert device.to_host(threshold)[0] == 20.5 and device.to_host(left_over)[0] == 0
    y = device.array((np.random.default_rng(0).random(100_000) < 0.3).astype(np.int32))
    left_over = device.to_host(split.launch(device, split.binned, precision, X, y)[2])[0]
    assert abs(left_over - 0.42) < left_over_bound(precision, 2, 100_000)
