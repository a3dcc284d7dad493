"""A decision tree, node by node: the algorithm in plain sight.

Idea       A level of the tree is two launches, search and cut; a thread takes a node and a feature. The loop over
           levels is the host's: a launch is the only barrier that all blocks of a grid share.
Maths      from the root down, every node that may be divided is cut at its best split (see split). It looks at `most`
           features, drawn for it: those of the lowest places in a permutation that depends on the seed and on the
           node's number (see philox); where none of them has a cut, at the next one that does

    six rows of one feature; the tree that is grown is the one drawn in nodes

        row       0  1  2  3  4  5        level 0   rows by place  0 1 2 3 4 5
        feature   5  9  2  8  3  1                  node 1: the cut at 6.5 leaves 2/6
        class     0  2  1  2  1  0        level 1   rows by place  5 2 4 0 | 3 1
                                                    node 8: the cut at 1.5 leaves 1.33/4; node 9 is pure
                                          level 2   rows by place  5 | 2 4 0 | 3 1
                                                    node 3: the cut at 4 leaves 0; node 2 is pure
                                          level 3   rows by place  5 | 2 4 | 0 | 3 1: every node is pure

Shapes     X (D, N): storage; y, w as in split; nodes, threshold, impurities, values as in nodes. rows (N,): int32, the
           row at each place; order (D, N): the same, each feature's own
Mapping    node_by_node: two launches a level; first a thread per node and feature, then a thread per node. Nodes of
           other levels have nothing to do, and their threads end at once
Precision  see impurity and bins; all rungs that try every threshold grow the same tree, bit for bit
Ladder     node_by_node  sorts the rows of each node anew, by insertion: n^2 / 4 moves for n rows
           one_block     a block grows a subtree on its own (see one_block)
           levels        every node of a level at once, over bins (see levels)
Cost       D N log2(N) comparisons, then D N per level
Sources    L. Breiman, J. Friedman, R. Olshen, C. Stone, Classification and Regression Trees, 1984, chapter 2
"""
from typing import NamedTuple

import numpy as np
from numba import cuda, int32

from numprec.kernels.trees.bins import cut
from numprec.kernels.trees.histogram import types_of
from numprec.kernels.trees.impurity import gini, impurity, left_over
from numprec.kernels.trees.nodes import ROOT, Node, best_of_lane, divide, gains, may_be_cut, whole_of
from numprec.kernels.trees.scan import LEFT, NONE
from numprec.kernels.trees.sort import THREADS, follows
from numprec.language.formats import constant
from numprec.language.ladder import helper, rung


# ---- oracle: a tree that is grown to the end knows every row, where no two rows are the same

def oracle(X, y):
    return y


class Search(NamedTuple):
    """What the search leaves for the cut: order (D, N); keys and places (D, N), of each feature's best cut, at the
    place where the node starts; counts (D, N, C), running ones, at the same place. searched (nodes,): whether a node
    was searched. The cut asks that in place of the nodes, which other threads give children meanwhile."""

    searched: object
    order: object
    keys: object
    places: object
    counts: object


@helper
def count_node(p, criterion, weighted):
    """count_node(k, data, rows, tree): values and impurity of node k, by one thread."""
    (count, _), impurity_of = types_of(weighted), impurity(p, criterion)
    whole = whole_of(p, count)

    @cuda.jit(device=True)
    def count_node(k, data, rows, tree):
        start, values = tree.nodes[k, Node.START], tree.values[k]
        for c in range(values.size):
            values[c] = count(0)
        for i in range(start, start + tree.nodes[k, Node.COUNT]):
            values[data.y[rows[i]]] += count(data.w[rows[i]]) if weighted else count(1)
        tree.impurities[k] = impurity_of(values, values.size, whole(k, tree).weight)
    return count_node


@rung
def node_by_node(p, criterion=gini, weighted=False):
    accum, term, combine, between = p.accum, criterion[p], left_over[p], cut[p]
    (count, _), lowest = types_of(weighted), constant(p.accum, -p.accum.max)
    count_rows, whole, of_thread, is_enough = count_node(p, criterion, weighted), whole_of(p, count), best_of_lane[p], \
        gains[p]

    @cuda.jit
    def grow_start(data, rows, tree):
        """One thread."""
        count_rows(ROOT, data, rows, tree)

    @cuda.jit
    def grow_try(data, rows, level, tree, found, limits):
        """A thread per node and feature: sorts the rows of the node, then tries the cut behind each."""
        k = cuda.grid(1)
        f = cuda.blockIdx.y
        is_there = k < tree.nodes.shape[0]
        searched = is_there and tree.nodes[k, Node.DEPTH] == level and may_be_cut(k, tree, limits)
        if is_there and f == 0:
            found.searched[k] = 1 if searched else 0
        if searched:
            x, order = data.X[f], found.order[f]
            start, node = tree.nodes[k, Node.START], whole(k, tree)
            end = start + node.rows
            before = found.counts[f, start]
            known = start    # where the missing values begin, which come last
            for i in range(start, end):
                row, j = rows[i], i
                while j > start and follows(accum(x[order[j - 1]]), order[j - 1], accum(x[row]), row):
                    order[j] = order[j - 1]
                    j -= 1
                order[j] = row
                if accum(x[row]) == accum(x[row]):
                    known += 1
            best, at = lowest(), int32(NONE)
            for side in range(2 if known < end else 1):    # missing values to the right, then to the left
                left, rows_left = count(0), 0
                for c in range(before.size):
                    before[c] = count(0)
                for step in range(known - end if side == 1 else 0, known - start):
                    i = start + step if step >= 0 else end + step    # first the missing ones, if they go left
                    row = order[i]
                    weight = count(data.w[row]) if weighted else count(1)
                    before[data.y[row]] += weight
                    left, rows_left = left + weight, rows_left + 1
                    differs = not accum(x[row]) >= accum(x[order[min(i + 1, end - 1)]])
                    if step >= 0 and differs and \
                            rows_left >= limits.least and node.rows - rows_left >= limits.least and \
                            left >= limits.lightest and node.weight - left >= limits.lightest:
                        i_left = accum(0)
                        i_right = accum(0)
                        for c in range(before.size):
                            i_left += term(before[c], left)
                            i_right += term(node.counts[c] - before[c], node.weight - left)
                        key = -combine(left, node.weight, i_left, i_right)
                        if key > best:
                            best, at = key, int32(i + LEFT if side == 1 else i)
            found.keys[f, start], found.places[f, start] = best, at

    @cuda.jit
    def grow_cut(data, rows, tree, found, limits, divided):
        """A thread per node: the best of the features, the rows in its order, and the children."""
        k = cuda.grid(1)
        if k < tree.nodes.shape[0] and found.searched[k] == 1:
            start, node = tree.nodes[k, Node.START], whole(k, tree)
            end = start + node.rows
            _, f, _, soonest = of_thread(found.keys, found.places, start, k, limits, 0, 1)
            f = soonest if f == NONE else f
            if f != NONE and is_enough(k, found.keys[f, start], node.weight, tree, limits):
                x, order = data.X[f], found.order[f]
                missing_left = found.places[f, start] >= LEFT
                place = found.places[f, start] - LEFT if missing_left else found.places[f, start]
                tree.threshold[k] = between(accum(x[order[place]]), accum(x[order[place + 1]]))
                missing = 0
                while missing < node.rows and accum(x[order[end - 1 - missing]]) != accum(x[order[end - 1 - missing]]):
                    missing += 1
                ahead = missing if missing_left else 0    # rows that the order has at its end, and the left child gets
                for i in range(start, end):
                    rows[i] = order[end - ahead + i - start if i < start + ahead else i - ahead]
                middle = place + 1 + ahead
                divide(k, f, middle, (1 if missing_left else 0) if missing > 0 else -1, tree.nodes)
                count_rows(2 * middle, data, rows, tree)
                count_rows(2 * middle + 1, data, rows, tree)
                cuda.atomic.add(divided, 0, 1)
    return grow_start, grow_try, grow_cut


# ---- host side

def by_nodes(device, precision, kinds, data, rows, tree, limits):
    """Grows the tree whose root `tree` holds, level by level. `kinds` are the rung's options; rows (N,) are in any
    order, and afterwards by place."""
    start, search, divide = node_by_node.variant(precision, **kinds)
    (D, N), (nodes, C) = data.X.shape, tree.values.shape
    found = Search(device.empty(nodes, np.int32), device.empty((D, N), np.int32), device.empty((D, N), precision.accum),
                   device.empty((D, N), np.int32), device.empty((D, N, C), tree.values.dtype))
    device.launch(start, 1, 1, data, rows, tree)
    divided, so_far = device.zeros(1, np.int32), 0    # nodes, on all levels
    for level in range(min(int(limits.max_depth), N)):
        device.launch(search, (-(-nodes // THREADS), D), THREADS, data, rows, np.int32(level), tree, found, limits)
        device.launch(divide, -(-nodes // THREADS), THREADS, data, rows, tree, found, limits, divided)
        before, so_far = so_far, int(device.to_host(divided)[0])
        if so_far == before:
            break


# ---- how it is judged; tree_fit has the rest

def error_bound(precision, *arrays):
    return 0


def cost(precision, D, N, C):
    """Of a tree of log2(N) levels, which knows every row."""
    depth, storage = max(1, int(np.log2(N))), precision.storage.bytes
    return {"flops": depth * D * N * (8 * C + 5), "bytes": D * N * storage + 4 * N + 2 * N * (storage + 20)}


def inputs(rng, shape, kind, precision):
    """The first two features tell every row apart; there is no sense in the labels."""
    D, N, C = shape
    X = rng.integers(-16, 16, (D, N)).astype(float)
    place = rng.permutation(N)
    X[0], X[1] = place % 64 - 32, place // 64
    unit = {"large": precision.storage.max / 64, "overflow": precision.storage.max / 33,
            "subnormal": precision.storage.eta}.get(kind, 1.0)
    return X * unit, rng.integers(0, C, N).astype(np.int32)
