r"""The table of nodes, which is the tree while it grows, and what every rung of `grow` does with a node.

Idea       A node is known by where its rows are cut in two. No two nodes cut at the same place, so each has a number of
           its own without anyone counting: threads make nodes at the same time, and no atomic tells them apart.
Maths      the rows of a node lie side by side, at the places START .. START + COUNT. A cut at place s puts those of the
           left child ahead of s, and its children are the nodes 2 s and 2 s + 1. The root is node 1

    six rows, by place; | is a cut. 0 is no cut's place, so that nodes 0 and 1 are nobody's children

        root                                node 1: places 0 .. 5
        places  0 1 2 3 | 4 5               cut at 4: children 8 and 9
        node 8: places 0 .. 3, cut at 1     children 2 and 3
        node 9: places 4 .. 5               a leaf
        places  0 | 1 2 3                   node 2: place 0, a leaf; node 3: places 1 .. 3, cut at 3: children 6 and 7
        places      1 2 | 3                 both are leaves

                  1                         node     1   2   3   6   7   8   9
                /   \                       START    0   0   1   1   3   0   4
               8     9                      COUNT    6   1   3   2   1   4   2
              / \                           DEPTH    0   2   2   3   3   1   1
             2   3                          CUT      4   0   3   0   0   1   0
                / \
               6   7                        all are below 2 N = 12: cuts are at 1 .. N - 1

Shapes     nodes (2 N, 7): int32, a row per node; a leaf has CUT 0 and FEATURE -1. BIN is the edge of the cut, where
           that is one of bins. MISSING says where rows without a value went: 1 left, 0 right, -1 if there were none.
           threshold (2 N,): storage, impurities (2 N,): accum, values (2 N, C): each node's counts
Precision  a gain is the difference of two impurities and off by the error of both: gain_floor is how much.
           A gain counts if it is at least min_decrease - gain_floor
"""
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import cuda, int32

from numprec.kernels.networks.philox import permuted
from numprec.kernels.reductions.collectives import WARP, warp_argmax
from numprec.kernels.trees.impurity import left_over_bound, share
from numprec.kernels.trees.scan import NONE, Whole
from numprec.language.columns import columns
from numprec.language.formats import constant
from numprec.language.ladder import helper

Node = columns("Node", "START COUNT DEPTH FEATURE BIN CUT MISSING")
ROOT = 1


# ---- what kernels are given

class Data(NamedTuple):
    """X (D, N): storage; y (N,): int32; w (N,): int64, or y again where rows have no weights."""

    X: object
    y: object
    w: object


class Tree(NamedTuple):
    r"""The table of nodes and what goes with it, on the device."""

    nodes: object
    threshold: object
    impurities: object
    values: object


class Limits(NamedTuple):
    """Rules, as numbers of the types that kernels take, and `everything`, the sum of all weights."""

    max_depth: object
    min_split: object
    least: object
    lightest: object
    min_decrease: object
    exact: object
    most: object
    seed: object
    everything: object


# ---- host side

@dataclass(frozen=True)
class Rules:
    """When a node is divided. `lightest` is the least weight of a leaf, `least` its least number of rows, `exact` the
    most rows of a node whose every threshold is tried, `most` the number of features that are drawn for a node."""

    max_depth: int = NONE
    min_split: int = 2
    least: int = 1
    lightest: int = 0
    min_decrease: float = 0.0
    exact: int = 2048
    most: int = NONE
    seed: int = 0

    def limits(self, precision, D, N, C, everything):
        """Limits for D features, N rows and C classes; `everything` is of the type of a count."""
        decrease = precision.accum.round(self.min_decrease - gain_floor(precision, C, N))[()]
        whole = np.int32
        return Limits(whole(self.max_depth), whole(self.min_split), whole(self.least), type(everything)(self.lightest),
                      decrease, whole(min(self.exact, NONE)), whole(min(self.most, D)), whole(self.seed), everything)


def gain_floor(precision, C, N):
    """What a gain may be off by."""
    return 2 * left_over_bound(precision, C, N) + precision.accum.u


def root_of(device, precision, N, C, counts):
    """A Tree of N rows and C classes that is a root and nothing else; `counts` is the dtype of a count."""
    table = np.zeros((max(2 * N, ROOT + 1), len(Node)), np.int32)
    table[ROOT] = 0, N, 0, -1, 0, 0, -1
    return Tree(device.array(table), device.zeros(len(table), precision.storage),
                device.zeros(len(table), precision.accum), device.zeros((len(table), C), counts))


def flatten(nodes):
    """The nodes that are in use, parents before children and left before right: (places in the table, left, right).

    `left` and `right` are numbers in that order, -1 in a leaf.
    """
    generations = [np.array([ROOT])]
    while len(generations[-1]):
        middle = nodes[generations[-1], Node.CUT]
        middle = middle[middle > 0]
        generations.append(np.stack([2 * middle, 2 * middle + 1], axis=1).ravel())
    size = [np.ones(len(g), int) for g in generations]      # of subtrees
    for g in range(len(generations) - 2, -1, -1):
        size[g][nodes[generations[g], Node.CUT] > 0] += size[g + 1].reshape(-1, 2).sum(axis=1)
    number_of = np.zeros(len(nodes), int)
    place = np.zeros(size[0][0], int)
    left, right = np.full((2, size[0][0]), -1)
    for g, ids in enumerate(generations[:-1]):
        place[number_of[ids]] = ids
        parents = number_of[ids[nodes[ids, Node.CUT] > 0]]
        left[parents], right[parents] = parents + 1, parents + 1 + size[g + 1][::2]
        number_of[generations[g + 1]] = np.stack([left[parents], right[parents]], axis=1).ravel()
    return place, left, right


# ---- device functions

@cuda.jit(device=True)
def may_be_cut(k, tree, limits):
    """Whether a cut of node k is looked for."""
    rows = tree.nodes[k, Node.COUNT]
    if rows < limits.min_split or rows < 2 * limits.least or tree.nodes[k, Node.DEPTH] >= limits.max_depth:
        return False
    classes = 0
    for c in range(tree.values.shape[1]):
        if tree.values[k, c] != 0:
            classes += 1
    return classes > 1


@helper
def whole_of(p, count):
    """whole_of(k, tree): node k as a Whole, for counts of the type `count`."""
    @cuda.jit(device=True)
    def whole_of(k, tree):
        weight = count(0)
        for c in range(tree.values.shape[1]):
            weight += tree.values[k, c]
        return Whole(tree.values[k], count(weight), tree.nodes[k, Node.COUNT])
    return whole_of


@helper
def gains(p):
    """gains(k, key, weight, tree, limits): whether a cut of node k that leaves -key is worth it."""
    share_of = share[p]

    @cuda.jit(device=True)
    def gains(k, key, weight, tree, limits):
        gain = (tree.impurities[k] + key) * share_of(weight, limits.everything)
        return gain >= limits.min_decrease
    return gains


@helper
def best_of_lane(p):
    """best_of_lane(keys, places, column, k, limits, first, step): the best of the features first, first + step, ...

    keys and places (D, columns) tell of each feature's best cut of node k. Only the features that are drawn for k
    count. Returns (key, feature or NONE), and of those that have a cut, whether drawn or not, (minus the least place
    in the order of drawing, feature or NONE).
    """
    lowest = constant(p.accum, -p.accum.max)

    @cuda.jit(device=True)
    def best_of_lane(keys, places, column, k, limits, first, step):
        best, best_f = lowest(), int32(NONE)
        soonest, soonest_f = int32(-NONE), int32(NONE)
        D = keys.shape[0]
        for f in range(first, D, step):
            if places[f, column] != NONE:
                drawn = int32(permuted(f, D, limits.seed, k)) if limits.most < D else int32(0)
                if drawn < limits.most and keys[f, column] > best:
                    best, best_f = keys[f, column], int32(f)
                if -drawn > soonest:
                    soonest, soonest_f = -drawn, int32(f)
        return best, best_f, soonest, soonest_f
    return best_of_lane


@helper
def best_feature(p):
    """best_feature(keys, places, column, k, limits), by the whole warp: (feature or NONE, its place, its key). If no
    feature that is drawn has a cut, it is the next one in the order of drawing that does."""
    of_lane, over_warp = best_of_lane[p], warp_argmax[p]

    @cuda.jit(device=True)
    def best_feature(keys, places, column, k, limits):
        best, f, soonest, soonest_f = of_lane(keys, places, column, k, limits, cuda.laneid, WARP)
        _, f = over_warp(best, f)
        _, soonest_f = over_warp(soonest, soonest_f)
        f = soonest_f if f == NONE else f
        known = min(f, keys.shape[0] - 1)
        return f, places[known, column], keys[known, column]
    return best_feature


@cuda.jit(device=True)
def divide(k, feature, middle, missing_left, nodes):
    """Cuts node k at place `middle`, and starts the records of its children. missing_left: see MISSING."""
    start, rows, depth = nodes[k, Node.START], nodes[k, Node.COUNT], nodes[k, Node.DEPTH]
    nodes[k, Node.FEATURE], nodes[k, Node.CUT], nodes[k, Node.MISSING] = feature, middle, missing_left
    for side in range(2):
        child = 2 * middle + side
        nodes[child, Node.START] = middle if side == 1 else start
        nodes[child, Node.COUNT] = start + rows - middle if side == 1 else middle - start
        nodes[child, Node.DEPTH], nodes[child, Node.FEATURE], nodes[child, Node.BIN] = depth + 1, -1, 0
        nodes[child, Node.CUT], nodes[child, Node.MISSING] = 0, -1
