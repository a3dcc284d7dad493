"""tree_fit: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
import pytest
from ladders import Ladder

from numprec.kernels.trees import tree_fit
from numprec.kernels.trees.grow import node_by_node
from numprec.kernels.trees.impurity import entropy, gini
from numprec.kernels.trees.nodes import Node, Rules, flatten
from numprec.kernels.trees.one_block import one_block
from numprec.precision import PRECISIONS

EXAMPLES = {
    "grow": ((np.array([[1, 2]]), np.array([1, 0])), [1, 0]),
}
SIX = [[5, 9, 2, 8, 3, 1]], [0, 2, 1, 2, 1, 0]    # the rows drawn in the chapters nodes and grow
TABLE = {1: (0, 6, 0, 4), 2: (0, 1, 2, 0), 3: (1, 3, 2, 3), 6: (1, 2, 3, 0), 7: (3, 1, 3, 0), 8: (0, 4, 1, 1),
         9: (4, 2, 1, 0)}                          # node: START, COUNT, DEPTH, CUT


class TestTreeFit(Ladder):
    chapter = "tree_fit"
    examples = EXAMPLES
    exact = ("grow",)


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
