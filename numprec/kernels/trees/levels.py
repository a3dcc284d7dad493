"""A decision tree of many rows, level by level, over bins.

Idea       Count the smaller child and subtract: the histogram of the larger one is its parent's less that, exactly, as
           counts are integers. So every level but the first reads at most half of the rows.
Maths      as in grow; nodes of more than `exact` rows are cut at the edges of bins (see bins)

    a level of two nodes, A and B, of 5000 rows each; all children but the smaller one of B have more than `exact`

        active     A      B                        nodes that are searched, each with a slot of `counts`
        cut        1200 | 3800    4500 | 500       each may be cut
        pairs      q = 0          q = 1            a cut node of which a child goes on; q counts them by a prefix sum
        jobs       1200 rows      500 rows         the smaller child is counted, into slot 2 q
        slots      0 and 1        2 and 3          slot 2 q + 1 is the difference: the parent's slot less slot 2 q
        chunks     number 0       number 1         of CHUNK rows each, numbered by another prefix sum
        active     children 0, 1  child 3          of the next level
        roots                     child 2          `exact` rows or fewer: one_block finishes it at the end

Shapes     as in grow; counts (slots, D, BINS, K): the histograms of the nodes of a level
Mapping    a level takes eight launches, whatever it holds: empty, count, search, divide, plan, and three that move rows
Precision  as in grow. Histograms are integers, so that a difference of two is exact
Ladder     see grow. Only the smaller of two children is counted [1]. Nodes of `exact` rows and fewer wait until the
           end, when one_block finishes them all in one launch: so a level has at most N / exact nodes, with room for
           four histograms each, and memory grows with N D C
Cost       D N cuts a level, 8 C + 5 flops each, of log2(N) levels; X and y read, the tree of 2 N nodes written. Here
           D N codes are read per level, at most half of them on all but the first
Sources    [1] G. Ke et al., LightGBM: A highly efficient gradient boosting decision tree, NeurIPS 2017
           [2] T. Chen and C. Guestrin, XGBoost: A scalable tree boosting system, KDD 2016
"""
from typing import NamedTuple

import numpy as np
from numba import cuda, int32

from numprec.kernels.reductions.collectives import WARP, block_scan, warp_argmax
from numprec.kernels.trees import histogram, partition
from numprec.kernels.trees.bins import BINS, quantise
from numprec.kernels.trees.histogram import BLOCKS, CHUNK, Job, Total, types_of
from numprec.kernels.trees.impurity import gini, impurity
from numprec.kernels.trees.nodes import ROOT, Node, best_feature, divide, gains, may_be_cut, whole_of
from numprec.kernels.trees.one_block import WARPS, warps_for
from numprec.kernels.trees.scan import LEFT, NONE, scan_bins
from numprec.kernels.trees.sort import THREADS
from numprec.language.columns import columns
from numprec.language.ladder import rung

LOOK = 16                # levels between two looks at whether there are nodes left
Active = columns("Active", "NODE SLOT PARENT SIBLING")    # a node, its histogram, and what that is the difference of
LEAF, SMALL, LARGE = range(3)    # a node that is done, one for one_block, one of the next level


class Level(NamedTuple):
    """active (nodes, 4); totals (4,); counts, of this level, and parents, of the last one (slots, D, BINS, K); keys and
    places (D, nodes), of each feature's best cut."""

    active: object
    totals: object
    counts: object
    parents: object
    keys: object
    places: object


# ---- kernels

@rung(of="grow")
def levels(p, criterion=gini, weighted=False):
    (count, _), over_warp, scan = types_of(weighted), warp_argmax[p], block_scan[p]
    whole, best_of, is_enough, impurity_of = whole_of(p, count), best_feature[p], gains[p], impurity(p, criterion)
    find = scan_bins(p, criterion, weighted)

    @cuda.jit
    def grow_clear(totals, counts):
        """Empties the histograms of this level's jobs: every second one, as the others will be differences."""
        _, D, _, K = counts.shape
        cells = D * BINS * K
        for e in range(cuda.grid(1), totals[Total.JOBS] * cells, cuda.gridsize(1)):
            job, cell = e // cells, e % cells
            counts[2 * job, cell // (BINS * K), cell // K % BINS, cell % K] = 0

    @cuda.jit
    def grow_root(counts, tree):
        """One warp: the counts of the root, from its histogram."""
        values = tree.values[ROOT]
        for c in range(cuda.laneid, values.size, WARP):
            total = count(0)
            for b in range(BINS):
                total += counts[0, 0, b, c]
            values[c] = total
        cuda.syncwarp()    # the root has its counts
        if cuda.laneid == 0:
            tree.impurities[ROOT] = impurity_of(values, values.size, whole(ROOT, tree).weight)

    @cuda.jit
    def grow_search(level, bins, tree, limits):
        """A warp per node and feature."""
        before_s = cuda.shared.array(0, count)    # C per warp: running counts
        lane = cuda.laneid
        warp = cuda.threadIdx.x // WARP
        C, counts = tree.values.shape[1], level.counts
        before = before_s[warp * C:(warp + 1) * C]
        _, D, _, K = counts.shape
        for task in range(cuda.grid(1) // WARP, level.totals[Total.ACTIVE] * D, cuda.gridsize(1) // WARP):
            a, f = task // D, task % D
            k, slot, parent, sibling = level.active[a]
            if parent >= 0:
                for e in range(lane, BINS * K, WARP):
                    b, c = e // K, e % K
                    counts[slot, f, b, c] = level.parents[parent, f, b, c] - counts[sibling, f, b, c]
            cuda.syncwarp()    # the histogram is complete
            key, place = over_warp(*find(counts[slot, f], bins, whole(k, tree), before, limits))
            if lane == 0:
                level.keys[f, a], level.places[f, a] = key, place

    @cuda.jit
    def grow_divide(level, bins, edges, tree, limits):
        """A warp per node."""
        lane, counts, nodes, values = cuda.laneid, level.counts, tree.nodes, tree.values
        C, K = values.shape[1], counts.shape[3]
        for a in range(cuda.grid(1) // WARP, level.totals[Total.ACTIVE], cuda.gridsize(1) // WARP):
            k, slot = level.active[a, Active.NODE], level.active[a, Active.SLOT]
            f, place, key = best_of(level.keys, level.places, a, k, limits)
            if f != NONE and may_be_cut(k, tree, limits) and is_enough(k, key, whole(k, tree).weight, tree, limits):
                missing_left = place >= LEFT
                place = place - LEFT if missing_left else place
                rows, missing = count(0), count(0)
                for column in range(C if K > C else 0, K):    # the number of rows, or what sums to it
                    for b in range(place + 1):
                        rows += counts[slot, f, b, column]
                    if bins < BINS:
                        missing += counts[slot, f, bins, column]
                if missing_left:
                    rows += missing
                middle = nodes[k, Node.START] + int32(rows)
                for c in range(lane, C, WARP):
                    total = count(0)
                    for b in range(place + 1):
                        total += counts[slot, f, b, c]
                    if missing_left:
                        total += counts[slot, f, bins, c]
                    values[2 * middle, c], values[2 * middle + 1, c] = total, values[k, c] - total
                if lane == 0:
                    nodes[k, Node.BIN], tree.threshold[k] = place, edges[f, place]
                    divide(k, f, middle, (1 if missing_left else 0) if missing > 0 else -1, nodes)
                cuda.syncwarp()    # the children have their counts and records
                if lane < 2:
                    child = 2 * middle + lane
                    tree.impurities[child] = impurity_of(values[child], C, whole(child, tree).weight)

    @cuda.jit(device=True)
    def kind_of(child, tree, limits):
        if not may_be_cut(child, tree, limits):
            return LEAF
        return LARGE if tree.nodes[child, Node.COUNT] > limits.exact else SMALL

    @cuda.jit
    def grow_plan(level, upcoming, jobs, roots, tree, limits):
        """One block: who is searched on the next level, and what is counted for that. Pair q gets the histograms 2 q,
        counted for the smaller child, and 2 q + 1, the difference."""
        sums_s = cuda.shared.array(WARP, int32)
        nodes, totals, active = tree.nodes, level.totals, level.active
        pairs, chunks, ahead, small = 0, 0, 0, totals[Total.SMALL]    # so far; each thread knows them
        last = totals[Total.ACTIVE]
        for a0 in range(0, last, THREADS):
            a = a0 + cuda.threadIdx.x
            middle = nodes[active[a, Active.NODE], Node.CUT] if a < last else 0
            few, many, few_kind, many_kind, length = 0, 0, LEAF, LEAF, 0
            if middle > 0:
                few, many = 2 * middle, 2 * middle + 1
                if nodes[many, Node.COUNT] < nodes[few, Node.COUNT]:
                    few, many = many, few
                few_kind, many_kind = kind_of(few, tree, limits), kind_of(many, tree, limits)
                if few_kind == LARGE or many_kind == LARGE:
                    length = (nodes[few, Node.COUNT] - 1) // CHUNK + 1
            before, all_pairs = scan(int32(1 if length > 0 else 0), sums_s)
            q = pairs + before
            before, all_chunks = scan(int32(length), sums_s)
            if length > 0:
                jobs[q, Job.CHUNK], jobs[q, Job.SLOT] = chunks + before, 2 * q
                jobs[q, Job.START], jobs[q, Job.COUNT] = nodes[few, Node.START], nodes[few, Node.COUNT]
            before, all_active = scan(int32((few_kind == LARGE) + (many_kind == LARGE)), sums_s)
            place = ahead + before
            if few_kind == LARGE:
                upcoming[place, Active.NODE], upcoming[place, Active.SLOT] = few, 2 * q
                upcoming[place, Active.PARENT], upcoming[place, Active.SIBLING] = -1, -1
                place += 1
            if many_kind == LARGE:
                upcoming[place, Active.NODE], upcoming[place, Active.SLOT] = many, 2 * q + 1
                upcoming[place, Active.PARENT], upcoming[place, Active.SIBLING] = active[a, Active.SLOT], 2 * q
            before, all_small = scan(int32((few_kind == SMALL) + (many_kind == SMALL)), sums_s)
            place = small + before
            if few_kind == SMALL:
                roots[place] = few
                place += 1
            if many_kind == SMALL:
                roots[place] = many
            pairs, chunks, ahead, small = pairs + all_pairs, chunks + all_chunks, ahead + all_active, small + all_small
        cuda.syncthreads()    # everyone has read the totals
        if cuda.threadIdx.x == 0:
            totals[Total.JOBS], totals[Total.CHUNKS] = pairs, chunks
            totals[Total.ACTIVE], totals[Total.SMALL] = ahead, small
    return grow_clear, grow_root, grow_search, grow_divide, grow_plan


# ---- host side

def by_levels(device, precision, kinds, data, rows, tree, limits, bins):
    """Cuts all nodes of more than `exact` rows. Returns the rows by place, the nodes that are left, and totals."""
    (D, N), (_, C), counts = data.X.shape, tree.values.shape, tree.values.dtype
    K, exact = C + kinds["weighted"], int(limits.exact)
    most = N // (exact + 1)    # nodes of more than `exact` rows at a time
    count = histogram.private.variant(precision, weighted=kinds["weighted"])
    clear, root, search, divide, plan = levels.variant(precision, **kinds)
    edges, codes = quantise(device, precision, data.X, bins)
    hists = [device.empty((2 * most, D, BINS, K), counts) for _ in range(2)]
    active = [device.array(np.tile(np.array([ROOT, 0, -1, -1], np.int32), (most, 1))) for _ in range(2)]
    jobs = device.array(np.tile(np.array([0, 0, N, 0], np.int32), (most, 1)))
    totals = device.array(np.array([1, -(-N // CHUNK), 1, 0], np.int32))
    roots = device.empty(N // 2 + 1, np.int32)
    keys, places = device.empty((D, most), precision.accum), device.empty((D, most), np.int32)
    node_of, moved = device.array(np.full(N, ROOT, np.int32)), device.empty(N, np.int32)
    scratch = device.empty(N, np.int32), device.empty(-(-N // partition.PLACES), np.int32)
    warps = warps_for(C, kinds["weighted"])
    grid = histogram.grid_of(histogram.private, -(-N // CHUNK) + most, D, K)
    for step in range(min(int(limits.max_depth), N - exact)):    # a level takes a row at least from every node
        now, later = step % 2, 1 - step % 2
        level = Level(active[now], totals, hists[now], hists[later], keys, places)
        device.launch(clear, min(BLOCKS, most * D), THREADS, totals, hists[now])
        device.launch(count, grid, THREADS, codes, data.y, data.w, rows, jobs, totals, hists[now])
        if step == 0:
            device.launch(root, 1, WARP, hists[now], tree)
        device.launch(search, min(BLOCKS, -(-most * D // warps)), WARP * warps, level, bins, tree, limits,
                      shared=warps * C * counts.itemsize)
        device.launch(divide, -(-most // WARPS), THREADS, level, bins, edges, tree, limits)
        device.launch(plan, 1, THREADS, level, active[later], jobs, roots, tree, limits)
        partition.launch(device, partition.scanned, precision, codes, rows, node_of, tree.nodes, scratch, moved)
        rows, moved = moved, rows
        if (step + 1) % LOOK == 0 and device.to_host(totals)[Total.ACTIVE] == 0:
            break
    return rows, roots, totals
