"""What the chapters of the tree promise besides what their oracles check: the rungs find one split, bit for bit."""
import numpy as np
import pytest

from numprec.kernels import operations
from numprec.kernels.trees import split, tree_fit
from numprec.kernels.trees.bins import BINS, quantise
from numprec.kernels.trees.grow import node_by_node
from numprec.kernels.trees.impurity import entropy, gini, left_over_bound
from numprec.kernels.trees.nodes import Node, Rules, flatten
from numprec.kernels.trees.one_block import one_block
from numprec.precision import PRECISIONS

RUNGS = operations()["split"].rungs


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


def test_edges_of_many_rows(device, precision):
    """From a sample, but with both ends; each bin gets its share of the rows."""
    rng = np.random.default_rng(0)
    x = np.sort(precision.storage.round(rng.standard_normal(5000)))
    x[-1] = precision.storage.round(100)
    edges, codes = (device.to_host(a) for a in quantise(device, precision, device.array(x[None])))
    assert codes[-1] == codes.max() and (np.diff(codes[:, 0].astype(int)) >= 0).all()
    x[::3] = np.nan
    _, missing = (device.to_host(a) for a in quantise(device, precision, device.array(x[None]), BINS - 1))
    known = missing[~np.isnan(x.astype(np.float64)), 0].astype(int)
    assert (missing[::3] == BINS - 1).all() and (np.diff(known) >= 0).all() and known[0] == 0 < known[-1] < BINS - 1
    if precision.storage.bits > 16:
        assert np.bincount(known).max() <= 5 * 3300 / 256
        assert np.bincount(codes[:, 0], minlength=256).max() <= 5 * 5000 / 256


SIX = [[5, 9, 2, 8, 3, 1]], [0, 2, 1, 2, 1, 0]    # the rows drawn in the chapters nodes and grow
TABLE = {1: (0, 6, 0, 4), 2: (0, 1, 2, 0), 3: (1, 3, 2, 3), 6: (1, 2, 3, 0), 7: (3, 1, 3, 0), 8: (0, 4, 1, 1),
         9: (4, 2, 1, 0)}                          # node: START, COUNT, DEPTH, CUT


@pytest.mark.parametrize("rung", [node_by_node, one_block], ids=lambda rung: rung.name)
def test_the_tree_that_is_drawn(device, rung):
    X, y = SIX
    precision = PRECISIONS["fp32"]
    tree = tree_fit.fit(device, precision, device.array(np.array(X, float), precision.storage),
                        device.array(np.array(y, np.int32)), C=3, rung=rung)
    nodes = device.to_host(tree.nodes)
    columns = [Node.START, Node.COUNT, Node.DEPTH, Node.CUT]
    assert {k: tuple(nodes[k, columns].tolist()) for k in np.flatnonzero(nodes[:, Node.COUNT])} == TABLE
    thresholds = device.to_host(tree.threshold)
    assert [thresholds[k] for k in (1, 8, 3)] == [6.5, 1.5, 4]


@pytest.mark.parametrize("weighted, criterion", [(False, gini), (True, entropy)])
def test_node_by_node_grows_the_same_tree(device, weighted, criterion):
    """The plain rung and one_block, bit for bit: with missing values, features drawn, and every rule in force."""
    precision, rng = PRECISIONS["fp16"], np.random.default_rng(0)
    D, N = 5, 200
    X = precision.storage.round(rng.integers(-20, 20, (D, N)) / 4)
    y = ((X[0].astype(float) > 0) ^ (rng.random(N) < 0.3)).astype(np.int32) + (rng.random(N) < 0.1).astype(np.int32)
    X[::2][rng.random((3, N)) < 0.2] = np.nan
    X[1][(y == 0) & (rng.random(N) < 0.5)] = np.nan
    w = rng.integers(1, 2 ** 40, N) if weighted else None
    everything = int(w.sum()) if weighted else N
    grown = []
    for rules in Rules(), Rules(max_depth=4, min_split=7, least=3, lightest=everything // 60, min_decrease=0.002,
                                most=2, seed=5):
        for rung in node_by_node, one_block:
            tree = tree_fit.fit(device, precision, device.array(X), device.array(y),
                                device.array(w) if weighted else None, 3, criterion, rules, everything, rung=rung)
            nodes, *others = (device.to_host(part) for part in tree)
            used = nodes[:, Node.COUNT] > 0
            grown.append([nodes[used].tobytes(), *(other[used].tobytes() for other in others)])
        assert grown[-1] == grown[-2] and used.sum() > 5
    assert grown[0] != grown[2]


def test_flatten():
    """Children of the cut at place s are 2 s and 2 s + 1; the order is parents first, left before right."""
    nodes = np.zeros((12, len(Node)), np.int32)
    for k, (*_, middle) in TABLE.items():
        nodes[k, Node.CUT] = middle
    place, left, right = flatten(nodes)
    assert place.tolist() == [1, 8, 2, 3, 6, 7, 9]
    assert left.tolist() == [1, 2, -1, 4, -1, -1, -1] and right.tolist() == [6, 3, -1, 5, -1, -1, -1]
    assert [a.tolist() for a in flatten(nodes[:2] * 0)] == [[1], [-1], [-1]]
