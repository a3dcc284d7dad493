"""A whole decision tree in one launch: a block grows the subtree of a node.

Maths      from the root down, every node that may be divided is cut at its best split (see split). It looks at `most`
           features, drawn for it: those of the lowest places in a permutation that depends on the seed and on the
           node's number (see random); where none of them has a cut, at the next one that does
Shapes     X (D, N): storage; y, w as in split; nodes, rows as in partition. threshold (2 N,): storage,
           impurities (2 N,): accum, values (2 N, C): the counts of each node
Mapping    a level at a time, all of its nodes at once: a task is a (node, feature) for one warp
Precision  see impurity and histogram. A gain is the difference of two impurities and off by the error of both:
           gain_floor tells how much, and a gain that falls short of min_decrease by no more than that counts
Ladder     one_block  sorts each feature once, in shared memory; then a cut divides the order of each feature, and what
                      was sorted stays so [1]
           levels     see the chapter of that name
Cost       D N log2(N) comparisons, then D N per level
Sources    [1] J. Shafer, R. Agrawal, M. Mehta, SPRINT: A scalable parallel classifier for data mining, VLDB 1996
"""
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import cuda, int32

from numprec.kernels.networks.philox import permuted
from numprec.kernels.reductions.argmax import warp_argmax
from numprec.kernels.reductions.reduce import ALL_LANES, WARP
from numprec.kernels.trees.bins import cut, word
from numprec.kernels.trees.histogram import BLOCKS, types_of
from numprec.kernels.trees.impurity import gini, impurity, left_over_bound, share
from numprec.kernels.trees.nodes import BIN, COUNT, CUT, DEPTH, FEATURE, MISSING, START
from numprec.kernels.trees.scan import LEFT, known_rows, scan_rows, warp_scan
from numprec.kernels.trees.sort import CAPACITY, THREADS, block_sort
from numprec.kernels.trees.split import NONE
from numprec.language.instructions import number
from numprec.language.ladder import rung

WARPS = THREADS // WARP
SHARED = 20 * 1024       # bytes for the running counts of the warps
JOBS, CHUNKS, ACTIVE, SMALL = range(4)    # of `totals`; here, SMALL is the number of roots


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


def gain_floor(precision, C, N):
    """What a gain may be off by."""
    return 2 * left_over_bound(precision, C, N) + precision.accum.u


# ---- what both rungs do with a node

@lru_cache(maxsize=None)
def steps(p, criterion, weighted):
    accum, impurity_of, share_of, over_warp = p.accum, impurity(p, criterion), share(p), warp_argmax(p)
    count, _ = types_of(weighted)
    lowest = word(p.accum, -p.accum.max)

    @cuda.jit(device=True)
    def may_be_cut(k, nodes, values, C, max_depth, min_split, least):
        rows = nodes[k, COUNT]
        if rows < min_split or rows < 2 * least or nodes[k, DEPTH] >= max_depth:
            return False
        classes = 0
        for c in range(C):
            if values[k, c] != 0:
                classes += 1
        return classes > 1

    @cuda.jit(device=True)
    def weight_of(k, values, C):
        whole = count(0)
        for c in range(C):
            whole += values[k, c]
        return whole

    @cuda.jit(device=True)
    def best_feature(keys, places, column, D, k, most, seed):
        """The largest of keys[:, column], by the whole warp: (feature or NONE, its place, its key). Only the features
        that are drawn for node k count, if any of them has a cut."""
        best, best_f = number(lowest, accum(0)), int32(NONE)
        first, first_f = int32(-NONE), int32(NONE)    # minus the least place in the permutation, of those with a cut
        for f in range(cuda.laneid, D, WARP):
            if places[f, column] != NONE:
                drawn = int32(permuted(f, D, seed, k)) if most < D else int32(0)
                if drawn < most and keys[f, column] > best:
                    best, best_f = keys[f, column], int32(f)
                if -drawn > first:
                    first, first_f = -drawn, int32(f)
        best, best_f = over_warp(best, best_f)
        _, first_f = over_warp(first, first_f)
        if best_f == NONE:
            best_f = first_f
        f = min(best_f, D - 1)
        return best_f, places[f, column], keys[f, column]

    @cuda.jit(device=True)
    def gains(k, key, impurities, values, C, everything, min_decrease):
        gain = (impurities[k] + key) * share_of(weight_of(k, values, C), everything)
        return gain >= min_decrease

    @cuda.jit(device=True)
    def write_node(k, start, rows, depth, nodes):
        nodes[k, START], nodes[k, COUNT], nodes[k, DEPTH] = start, rows, depth
        nodes[k, FEATURE], nodes[k, BIN], nodes[k, CUT], nodes[k, MISSING] = -1, 0, 0, -1

    @cuda.jit(device=True)
    def divide(k, feature, middle, nodes):
        """Cuts node k at place `middle`, and starts the records of its children."""
        start, rows, depth = nodes[k, START], nodes[k, COUNT], nodes[k, DEPTH]
        nodes[k, FEATURE], nodes[k, CUT] = feature, middle
        write_node(2 * middle, start, middle - start, depth + 1, nodes)
        write_node(2 * middle + 1, middle, start + rows - middle, depth + 1, nodes)
    return may_be_cut, weight_of, best_feature, gains, divide, impurity_of


# ---- kernels

@rung
def one_block(p, criterion=gini, weighted=False):
    storage, accum, sort, between = p.storage, p.accum, block_sort(p), cut(p)
    may_be_cut, weight_of, best_feature, gains, divide, impurity_of = steps(p, criterion, weighted)
    find, over_warp = scan_rows(p, criterion, weighted, gathered=True), warp_argmax(p)
    (count, _), end_of, lowest = types_of(weighted), known_rows(p, gathered=True), word(p.accum, -p.accum.max)

    @cuda.jit(device=True)
    def count_rows(order, start, end, y, w, C, counts):
        """The rows order[start:end] by class, by one warp."""
        lane = cuda.laneid
        for c in range(C):
            total = count(0)
            for i0 in range(start, end, WARP):
                i = i0 + lane
                row = order[min(i, end - 1)]
                is_one = i < end and y[row] == c
                if weighted:
                    total += cuda.shfl_sync(ALL_LANES, warp_scan(count(w[row]) if is_one else count(0)), WARP - 1)
                else:
                    total += count(cuda.popc(cuda.ballot_sync(ALL_LANES, is_one)))
            if lane == c % WARP:    # a test for one lane could move out of the loop, and part the warp at its ballots
                counts[c] = total
        cuda.syncwarp()    # everyone may read counts

    @cuda.jit(device=True)
    def count_classes(k, order, y, w, C, nodes, values, impurities):
        """values[k] and impurities[k], by one warp; order[START:START + COUNT] are the rows of the node."""
        count_rows(order, nodes[k, START], nodes[k, START] + nodes[k, COUNT], y, w, C, values[k])
        if cuda.laneid == 0:
            impurities[k] = impurity_of(values[k], C, weight_of(k, values, C))

    @cuda.jit(device=True)
    def partition_order(order, moved, column, threshold, missing_left, start, middle, end):
        """Rows left of the threshold first, in their order; by one warp."""
        lane = cuda.laneid
        below = (1 << lane) - 1
        left, right = start, middle
        for i0 in range(start, end, WARP):
            i = i0 + lane
            row = order[min(i, end - 1)]
            x = accum(column[row])
            goes_left = i < end and (x <= threshold or (x != x and missing_left))
            lefts = cuda.ballot_sync(ALL_LANES, goes_left)
            rights = cuda.ballot_sync(ALL_LANES, i < end and not goes_left)
            if goes_left:
                moved[left + cuda.popc(lefts & below)] = row
            elif i < end:
                moved[right + cuda.popc(rights & below)] = row
            left += cuda.popc(lefts)
            right += cuda.popc(rights)

    @cuda.jit
    def grow_one_block(X, y, w, C, everything, rows, roots, totals, nodes, threshold, impurities, values,
                       order, keys, places, queue, spare, lightest, max_depth, min_split, least, min_decrease, most,
                       seed):
        """A block per root, of any number of warps. A segment [start, end) of order[now, f] holds the rows of a node
        by ascending feature f, that of queue[now] the nodes of a level: `now` flips from one level to the next."""
        x_s = cuda.shared.array(CAPACITY, storage)
        order_s = cuda.shared.array(CAPACITY, int32)
        size_s = cuda.shared.array(2, int32)      # nodes in queue[0] and queue[1]
        before_s = cuda.shared.array(0, count)    # C per warp: running counts
        t = cuda.threadIdx.x
        lane = cuda.laneid
        warp, warps = t // WARP, cuda.blockDim.x // WARP
        D = X.shape[0]
        before = before_s[warp * C:(warp + 1) * C]
        for r in range(cuda.blockIdx.x, totals[SMALL], cuda.gridDim.x):
            root = roots[r]
            begin, n = nodes[root, START], nodes[root, COUNT]
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
                count_classes(root, rows, y, w, C, nodes, values, impurities)
                if lane == 0 and may_be_cut(root, nodes, values, C, max_depth, min_split, least):
                    queue[0, begin], size_s[0] = root, 1
            cuda.syncthreads()    # the queue is ready
            now = 0
            while size_s[now] > 0:
                size = size_s[now]
                for task in range(warp, size * D, warps):
                    k, f = queue[now, begin + task // D], task % D
                    start, end = nodes[k, START], nodes[k, START] + nodes[k, COUNT]
                    known = end_of(X[f], order[now, f], start, end)
                    best, at = number(lowest, accum(0)), int32(NONE)
                    for side in range(2 if known < end else 1):
                        count_rows(order[now, f], known, end if side == 1 else known, y, w, C, before)
                        key, place = find(X[f], order[now, f], y, w, start, known,
                                          start - (end - known) if side == 1 else start, known if side == 1 else end,
                                          C, values[k], weight_of(k, values, C), before, least, lightest)
                        if key > best:
                            best, at = key, int32(place + LEFT if side == 1 else place)
                    best, at = over_warp(best, at)
                    if lane == 0:
                        # a node has two rows at least, so no two of them share the half of a start
                        keys[f, start // 2], places[f, start // 2] = best, at
                cuda.syncthreads()    # each feature of each node has named its best cut
                if t == 0:
                    size_s[1 - now] = 0
                for q in range(warp, size, warps):
                    k = queue[now, begin + q]
                    start, end = nodes[k, START], nodes[k, START] + nodes[k, COUNT]
                    f, place, key = best_feature(keys, places, start // 2, D, k, most, seed)
                    if lane == 0 and f != NONE and gains(k, key, impurities, values, C, everything, min_decrease):
                        missing_left = place >= LEFT
                        place = place - LEFT if missing_left else place
                        a, b = X[f, order[now, f, place]], X[f, order[now, f, place + 1]]
                        threshold[k] = between(accum(a), accum(b))
                        missing = end - end_of(X[f], order[now, f], start, end)
                        divide(k, f, place + 1 + (missing if missing_left else 0), nodes)
                        if missing > 0:
                            nodes[k, MISSING] = 1 if missing_left else 0
                cuda.syncthreads()    # each node knows its cut
                for task in range(warp, size * D, warps):
                    k, f = queue[now, begin + task // D], task % D
                    start, middle = nodes[k, START], nodes[k, CUT]
                    if middle > 0:
                        partition_order(order[now, f], order[1 - now, f], X[nodes[k, FEATURE]], accum(threshold[k]),
                                        nodes[k, MISSING] == 1, start, middle, start + nodes[k, COUNT])
                cuda.syncthreads()    # the rows of each child lie side by side
                for q in range(warp, 2 * size, warps):
                    middle = nodes[queue[now, begin + q // 2], CUT]
                    if middle > 0:
                        child = 2 * middle + q % 2
                        count_classes(child, order[1 - now, 0], y, w, C, nodes, values, impurities)
                        if lane == 0 and may_be_cut(child, nodes, values, C, max_depth, min_split, least):
                            queue[1 - now, begin + cuda.atomic.add(size_s, 1 - now, 1)] = child
                cuda.syncthreads()    # the next level is queued, in no particular order
                now = 1 - now
    return grow_one_block


# ---- host side

def warps_for(C, weighted):
    """Warps of a block, so that the running counts of each fit into SHARED bytes; 0 where not even one's do."""
    return min(WARPS, SHARED // (C * (8 if weighted else 4)))


def finish(device, precision, kinds, X, y, w, C, everything, rows, roots, totals, grown, rules, when):
    """Grows the subtree of each root: a launch, with a block each."""
    D, N = X.shape
    count = grown.values.dtype
    threads, half = WARP * warps_for(C, kinds["weighted"]), N // 2 + 1
    device.launch(
        one_block.variant(precision, **kinds), min(BLOCKS, len(roots)), threads, X, y, w, C, everything, rows, roots,
        totals, grown.nodes, grown.threshold, grown.impurities, grown.values, device.empty((2, D, N), np.int32),
        device.empty((D, half), precision.accum), device.empty((D, half), np.int32), device.empty((2, N), np.int32),
        device.empty(N if min(N, rules.exact) > CAPACITY else 1, precision.storage), count.type(rules.lightest), *when,
        shared=threads // WARP * C * count.itemsize)
