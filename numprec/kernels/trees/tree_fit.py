"""The whole fit of a decision tree, by each rung of the ladder `grow`.

Idea       Two ways to be parallel, one after the other: while nodes have many rows, these are spread over all blocks
           (levels); when there are many nodes, each has a block of its own (one_block).
Shapes     X (D, N), y (N,), w (N,) as in split; the result is a Tree (see nodes)
Mapping    no more than `exact` rows: one launch, of one block. More: eight launches a level, then one for all the rest
Precision  see the chapters; the tree does not depend on the rung where every threshold is tried, nor on the order of
           threads
"""
import numpy as np

from numprec.kernels.trees import descend
from numprec.kernels.trees.bins import BINS
from numprec.kernels.trees.grow import by_nodes, cost, error_bound, inputs, node_by_node, oracle
from numprec.kernels.trees.impurity import gini
from numprec.kernels.trees.levels import by_levels, levels
from numprec.kernels.trees.nodes import ROOT, Data, Node, Rules, flatten, root_of
from numprec.kernels.trees.one_block import subtrees
from numprec.language.ladder import operation


def fit(device, precision, X, y, w=None, C=None, criterion=gini, rules=Rules(), everything=None, bins=BINS,
        rung=levels):
    """Grows a tree, in one launch if there are no more than rules.exact rows. X (D, N), y and w are on the device;
    `everything` is the sum of w, and `bins` as in bins.quantise. With the rung node_by_node, rules.exact has no say.
    Returns a Tree."""
    D, N = X.shape
    kinds = dict(criterion=criterion, weighted=w is not None)
    counts = np.int64 if w is not None else np.int32
    limits = rules.limits(precision, D, N, C, counts(N if everything is None else everything))
    data, tree = Data(X, y, y if w is None else w), root_of(device, precision, N, C, counts)
    rows = device.array(np.arange(N, dtype=np.int32))
    if rung is node_by_node:
        by_nodes(device, precision, kinds, data, rows, tree, limits)
        return tree
    if N > rules.exact:
        rows, roots, totals = by_levels(device, precision, kinds, data, rows, tree, limits, bins)
    else:
        roots, totals = device.array(np.array([ROOT], np.int32)), device.array(np.array([0, 0, 0, 1], np.int32))
    subtrees(device, precision, kinds, data, rows, roots, totals, tree, limits)
    return tree


def bytes_needed(precision, D, N, C, weighted, rules):
    """Device memory of a fit, X included."""
    s, a, c = precision.storage.bytes, precision.accum.bytes, 8 if weighted else 4
    needed = D * N * (s + 8 + (a + 4) // 2) + N * (3 * s + 2 * a + 2 * c * C + 2 * 28 + 32)
    if N > rules.exact:
        needed += D * N + 4 * (N // (rules.exact + 1)) * D * BINS * (C + weighted) * c
    return needed


def launch(device, rung, precision, X, y):
    """links and threshold as descend takes them, and the class of each leaf."""
    N = len(y)
    C = int(device.to_host(y).max()) + 1
    rules = Rules(max_depth=64, exact=max(2, N // 8) if rung is levels else N)
    tree = fit(device, precision, X, y, C=C, rules=rules, rung=rung)
    nodes, threshold = device.to_host(tree.nodes), device.to_host(tree.threshold)
    place, left, right = flatten(nodes)
    links = np.stack([np.where(left < 0, -1, nodes[place, Node.FEATURE]), left, right,
                      nodes[place, Node.MISSING] == 1], axis=1).astype(np.int32)
    label = device.to_host(tree.values)[place].argmax(axis=1)
    return device.array(links), device.array(np.where(left < 0, 0, threshold[place]).astype(threshold.dtype)), \
        device.array(label.astype(np.int32))


# ---- how it is judged; the rest is in grow

def readout(results, X, y):
    """The class of the leaf that each row ends in."""
    links, threshold, label = results
    return label[descend.oracle(X, links, threshold)]


operation("grow", oracle=oracle, readout=readout, error_bound=error_bound, launch=launch, cost=cost, inputs=inputs,
          shapes=((2, 1, 1), (2, 2, 2), (3, 40, 3), (4, 150, 3), (2, 700, 2), (9, 300, 20)),
          bench_shapes={"smoke": (4, 150, 3), "quick": (4, 1000, 3), "full": (32, 2000, 2)},
          cost_differs="Equal values have no cut between them and pure nodes none at all; the order of every column is "
                       "written too.")
