"""A whole decision tree in one launch: a block grows the subtree of a node on its own.

Idea       Sort once. A cut moves the rows of each feature to either side and keeps their order: what was sorted stays
           so; then a search is one pass, and a block needs nobody else: no launch, no host, until it is done.
Maths      as in grow
Shapes     order (2, D, N): int32, of each feature the rows of a node side by side, in ascending order; the first axis
           is this level's and the next one's. roots (.,): the nodes to be grown, of which totals[SMALL] are there
Mapping    a block per root, of any number of warps; a level at a time, all of its nodes at once

    the second level of the six rows in grow, by two warps; a task is a (node, feature) for one warp

        queue[1]            8                 the nodes of this level; 9 is pure, and was not put in
        order[1, 0]         5 2 4 0 | 3 1     the rows of 8, and those of 9
        search   warp 0     8, feature 0                         keys and places of each feature
        cut      warp 0     8                                    threshold, the records of the children
        move     warp 0     8, feature 0: 5 | 2 4 0              into order[0]
        count    warp 0     2                 warp 1     3       their classes; 3 goes into queue[0], 2 is pure

Precision  as in grow
Ladder     see grow
Cost       D N log2(N) comparisons once, then D N cuts per level; a level costs four barriers
Sources    [1] J. Shafer, R. Agrawal, M. Mehta, SPRINT: A scalable parallel classifier for data mining, VLDB 1996
"""
from typing import NamedTuple

import numpy as np
from numba import cuda, int32

from numprec.kernels.reductions.collectives import ALL_LANES, WARP, warp_argmax, warp_scan
from numprec.kernels.trees.bins import cut
from numprec.kernels.trees.histogram import BLOCKS, Total, types_of
from numprec.kernels.trees.impurity import gini, impurity
from numprec.kernels.trees.nodes import Node, best_feature, divide, gains, may_be_cut, whole_of
from numprec.kernels.trees.scan import LEFT, NONE, Rows, known_rows, scan_rows
from numprec.kernels.trees.sort import CAPACITY, THREADS, block_sort
from numprec.language.formats import constant
from numprec.language.ladder import helper, rung

WARPS = THREADS // WARP
SHARED = 20 * 1024       # bytes for the running counts of the warps


class Scratch(NamedTuple):
    """order (2, D, N); keys and places (D, N / 2 + 1), of each feature's best cut, at half of the place where the node
    starts: it has two rows at least, so no two nodes share that; queue (2, N); spare (N,), room to sort a column that
    shared memory does not hold, or (1,)."""

    order: object
    keys: object
    places: object
    queue: object
    spare: object


# ---- device functions of one warp

@helper
def count_rows(p, weighted):
    """count_rows(order, start, end, data, counts): the rows order[start:end] by class."""
    (count, _), over_warp = types_of(weighted), warp_scan[p]

    @cuda.jit(device=True)
    def count_rows(order, start, end, data, counts):
        lane = cuda.laneid
        for c in range(counts.size):
            total = count(0)
            for i0 in range(start, end, WARP):
                i = i0 + lane
                row = order[min(i, end - 1)]
                is_one = i < end and data.y[row] == c
                if weighted:
                    weights = over_warp(count(data.w[row]) if is_one else count(0))
                    total += cuda.shfl_sync(ALL_LANES, weights, WARP - 1)
                else:
                    total += count(cuda.popc(cuda.ballot_sync(ALL_LANES, is_one)))
            if lane == c % WARP:    # a test for one lane could move out of the loop, and part the warp at its ballots
                counts[c] = total
        cuda.syncwarp()    # everyone may read counts
    return count_rows


@helper
def move_rows(p):
    """move_rows(order, moved, x, threshold, k, nodes): the rows of node k, those left of its cut first, in their
    order."""
    accum = p.accum

    @cuda.jit(device=True)
    def move_rows(order, moved, x, threshold, k, nodes):
        lane = cuda.laneid
        below = (1 << lane) - 1    # a bit for each lane below one's own
        start, middle, missing_left = nodes[k, Node.START], nodes[k, Node.CUT], nodes[k, Node.MISSING] == 1
        end = start + nodes[k, Node.COUNT]
        left, right = start, middle
        for i0 in range(start, end, WARP):
            i = i0 + lane
            row = order[min(i, end - 1)]
            value = accum(x[row])
            goes_left = i < end and (value <= threshold or (value != value and missing_left))
            lefts = cuda.ballot_sync(ALL_LANES, goes_left)
            rights = cuda.ballot_sync(ALL_LANES, i < end and not goes_left)
            if goes_left:
                moved[left + cuda.popc(lefts & below)] = row
            elif i < end:
                moved[right + cuda.popc(rights & below)] = row
            left += cuda.popc(lefts)
            right += cuda.popc(rights)
    return move_rows


# ---- kernel

@rung(of="grow")
def one_block(p, criterion=gini, weighted=False):
    storage, accum, sort, between = p.storage, p.accum, block_sort[p], cut[p]
    (count, _), end_of, lowest = types_of(weighted), known_rows(p, gathered=True), constant(p.accum, -p.accum.max)
    find, over_warp = scan_rows(p, criterion, weighted, gathered=True), warp_argmax[p]
    counted, moved_to, best_of = count_rows(p, weighted), move_rows[p], best_feature[p]
    whole, is_enough, impurity_of = whole_of(p, count), gains[p], impurity(p, criterion)

    @cuda.jit(device=True)
    def count_node(k, order, data, tree):
        """values and impurity of node k, by one warp."""
        start, values = tree.nodes[k, Node.START], tree.values[k]
        counted(order, start, start + tree.nodes[k, Node.COUNT], data, values)
        if cuda.laneid == 0:
            tree.impurities[k] = impurity_of(values, values.size, whole(k, tree).weight)

    @cuda.jit
    def grow_one_block(data, rows, roots, totals, tree, scratch, limits):
        """A segment [start, end) of order[now, f] holds the rows of a node by ascending feature f, that of queue[now]
        the nodes of a level: `now` flips from one level to the next."""
        x_s = cuda.shared.array(CAPACITY, storage)
        order_s = cuda.shared.array(CAPACITY, int32)
        size_s = cuda.shared.array(2, int32)      # nodes in queue[0] and queue[1]
        before_s = cuda.shared.array(0, count)    # C per warp: running counts
        t = cuda.threadIdx.x
        lane = cuda.laneid
        warp, warps = t // WARP, cuda.blockDim.x // WARP
        X, nodes, order, queue, spare = data.X, tree.nodes, scratch.order, scratch.queue, scratch.spare
        D, C = X.shape[0], tree.values.shape[1]
        before = before_s[warp * C:(warp + 1) * C]
        for r in range(cuda.blockIdx.x, totals[Total.SMALL], cuda.gridDim.x):
            root = roots[r]
            begin, n = nodes[root, Node.START], nodes[root, Node.COUNT]
            for f in range(D):
                cuda.syncthreads()    # everyone is done with the block's last root, or feature
                if n <= CAPACITY:
                    for i in range(t, n, cuda.blockDim.x):
                        x_s[i], order_s[i] = X[f, rows[begin + i]], rows[begin + i]
                    sort(x_s, order_s, n)
                    for i in range(t, n, cuda.blockDim.x):
                        order[0, f, begin + i] = order_s[i]
                else:
                    for i in range(begin + t, begin + n, cuda.blockDim.x):
                        spare[i], order[0, f, i] = X[f, rows[i]], rows[i]
                    sort(spare[begin:begin + n], order[0, f, begin:begin + n], n)
            if t == 0:
                size_s[0] = 0
            cuda.syncthreads()    # every feature is sorted
            if warp == 0:
                count_node(root, rows, data, tree)
                if lane == 0 and may_be_cut(root, tree, limits):
                    queue[0, begin], size_s[0] = root, 1
            cuda.syncthreads()    # the queue is ready
            now = 0
            while size_s[now] > 0:
                size = size_s[now]
                for task in range(warp, size * D, warps):
                    k, f = queue[now, begin + task // D], task % D
                    start, node = nodes[k, Node.START], whole(k, tree)
                    end = start + node.rows
                    known = end_of(X[f], order[now, f], start, end)
                    items = Rows(X[f], order[now, f], data.y, data.w, end)
                    best, at = lowest(), int32(NONE)
                    for side in range(2 if known < end else 1):
                        missing = end - known if side == 1 else 0    # rows that go left without a value
                        counted(order[now, f], known, known + missing, data, before)
                        key, place = find(items, start, known, node, missing, before, limits)
                        if key > best:
                            best, at = key, int32(place + LEFT if side == 1 else place)
                    best, at = over_warp(best, at)
                    if lane == 0:
                        scratch.keys[f, start // 2], scratch.places[f, start // 2] = best, at
                cuda.syncthreads()    # each feature of each node has named its best cut
                if t == 0:
                    size_s[1 - now] = 0
                for q in range(warp, size, warps):
                    k = queue[now, begin + q]
                    start, node = nodes[k, Node.START], whole(k, tree)
                    f, place, key = best_of(scratch.keys, scratch.places, start // 2, k, limits)
                    if lane == 0 and f != NONE and is_enough(k, key, node.weight, tree, limits):
                        missing_left = place >= LEFT
                        place = place - LEFT if missing_left else place
                        a, b = X[f, order[now, f, place]], X[f, order[now, f, place + 1]]
                        tree.threshold[k] = between(accum(a), accum(b))
                        end = start + node.rows
                        missing = end - end_of(X[f], order[now, f], start, end)
                        divide(k, f, place + 1 + (missing if missing_left else 0),
                               (1 if missing_left else 0) if missing > 0 else -1, nodes)
                cuda.syncthreads()    # each node knows its cut
                for task in range(warp, size * D, warps):
                    k, f = queue[now, begin + task // D], task % D
                    if nodes[k, Node.CUT] > 0:
                        moved_to(order[now, f], order[1 - now, f], X[nodes[k, Node.FEATURE]], accum(tree.threshold[k]),
                                 k, nodes)
                cuda.syncthreads()    # the rows of each child lie side by side
                for q in range(warp, 2 * size, warps):
                    middle = nodes[queue[now, begin + q // 2], Node.CUT]
                    if middle > 0:
                        child = 2 * middle + q % 2
                        count_node(child, order[1 - now, 0], data, tree)
                        if lane == 0 and may_be_cut(child, tree, limits):
                            queue[1 - now, begin + cuda.atomic.add(size_s, 1 - now, 1)] = child
                cuda.syncthreads()    # the next level is queued, in no particular order
                now = 1 - now
    return grow_one_block


# ---- host side

def warps_for(C, weighted):
    """Warps of a block, so that the running counts of each fit into SHARED bytes; 0 where not even one's do."""
    return min(WARPS, SHARED // (C * (8 if weighted else 4)))


def subtrees(device, precision, kinds, data, rows, roots, totals, tree, limits):
    """Grows the subtree of each root: a launch, with a block each."""
    (D, N), C = data.X.shape, tree.values.shape[1]
    warps, half = warps_for(C, kinds["weighted"]), N // 2 + 1
    scratch = Scratch(device.empty((2, D, N), np.int32), device.empty((D, half), precision.accum),
                      device.empty((D, half), np.int32), device.empty((2, N), np.int32),
                      device.empty(N if min(N, int(limits.exact)) > CAPACITY else 1, precision.storage))
    device.launch(one_block.variant(precision, **kinds), min(BLOCKS, len(roots)), WARP * warps, data, rows, roots,
                  totals, tree, scratch, limits, shared=warps * C * tree.values.dtype.itemsize)
