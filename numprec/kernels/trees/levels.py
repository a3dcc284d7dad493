"""A decision tree of many rows, level by level.

Maths      as in grow; nodes of more than `exact` rows are cut at the edges of bins (see bins)
Shapes     as in grow; counts (slots, D, BINS, K): the histograms of the nodes of a level
Mapping    a level takes eight launches, whatever it holds: empty, count, search, divide, plan, and three that move rows
Precision  as in grow. Histograms are integers, so that a difference of two is exact
Ladder     one_block  see grow
           levels     only the smaller of two children is counted, the larger one is their parent less that [1]. Nodes
                      of `exact` rows and fewer wait until the end, when one_block finishes them all in one launch: so
                      there are at most N / exact histograms at a time, and the memory for them grows with N D C
Cost       D N cuts a level, 8 C + 5 flops each, of log2(N) levels; X and y read, the tree of 2 N nodes written. Here
           D N codes are read per level, at most half of them on all but the first
Sources    [1] G. Ke et al., LightGBM: A highly efficient gradient boosting decision tree, NeurIPS 2017
           [2] T. Chen and C. Guestrin, XGBoost: A scalable tree boosting system, KDD 2016
"""
import numpy as np
from numba import cuda, int32

from numprec.kernels.reductions.argmax import warp_argmax
from numprec.kernels.reductions.reduce import WARP
from numprec.kernels.trees import descend, grow, histogram, partition
from numprec.kernels.trees.bins import BINS, quantise
from numprec.kernels.trees.grow import (ACTIVE, CHUNKS, JOBS, NONE, SMALL, WARPS, Rules, finish, gain_floor, steps,
                                        warps_for)
from numprec.kernels.trees.histogram import BLOCKS, CHUNK, JOB_CHUNK, JOB_COUNT, JOB_SLOT, JOB_START, types_of
from numprec.kernels.trees.impurity import gini
from numprec.kernels.trees.nodes import BIN, COUNT, CUT, FEATURE, MISSING, ROOT, START, Grown, flatten
from numprec.kernels.trees.partition import block_scan
from numprec.kernels.trees.scan import LEFT, scan_bins
from numprec.kernels.trees.sort import THREADS
from numprec.language.ladder import operation, rung

PATIENCE = 16            # levels between two looks at whether there are nodes left
NODE, SLOT, PARENT, SIBLING = range(4)    # of `active`: a node, its histogram, and those it is the difference of


# ---- oracle: a tree that is grown to the end knows every row, where no two rows are the same

def oracle(X, y):
    return y


def error_bound(precision, *arrays):
    return 0


def readout(results, X, y):
    """The class of the leaf that each row ends in."""
    links, threshold, label = results
    return label[descend.oracle(X, links, threshold)]


# ---- kernels

@rung(of="grow")
def levels(p, criterion=gini, weighted=False):
    count, _ = types_of(weighted)
    may_be_cut, weight_of, best_feature, gains, divide, impurity_of = steps(p, criterion, weighted)
    find, over_warp, scan = scan_bins(p, criterion, weighted), warp_argmax(p), block_scan()

    @cuda.jit
    def grow_clear(totals, counts):
        """Empties the histograms of this level's jobs: every second one, as the others will be differences."""
        _, D, _, K = counts.shape
        cells = D * BINS * K
        for e in range(cuda.grid(1), totals[JOBS] * cells, cuda.gridsize(1)):
            job, cell = e // cells, e % cells
            counts[2 * job, cell // (BINS * K), cell // K % BINS, cell % K] = 0

    @cuda.jit
    def grow_root(counts, C, nodes, values, impurities):
        """One warp: the counts of the root, from its histogram."""
        for c in range(cuda.laneid, C, WARP):
            total = count(0)
            for b in range(BINS):
                total += counts[0, 0, b, c]
            values[ROOT, c] = total
        cuda.syncwarp()
        if cuda.laneid == 0:
            impurities[ROOT] = impurity_of(values[ROOT], C, weight_of(ROOT, values, C))

    @cuda.jit
    def grow_search(active, totals, parents, counts, bins, C, nodes, values, least, lightest, keys, places):
        """A warp per node and feature."""
        before_s = cuda.shared.array(0, count)    # C per warp: running counts
        lane = cuda.laneid
        warp = cuda.threadIdx.x // WARP
        before = before_s[warp * C:(warp + 1) * C]
        _, D, _, K = counts.shape
        for task in range(cuda.grid(1) // WARP, totals[ACTIVE] * D, cuda.gridsize(1) // WARP):
            a, f = task // D, task % D
            k, slot, parent, sibling = active[a, NODE], active[a, SLOT], active[a, PARENT], active[a, SIBLING]
            if parent >= 0:
                for e in range(lane, BINS * K, WARP):
                    b, c = e // K, e % K
                    counts[slot, f, b, c] = parents[parent, f, b, c] - counts[sibling, f, b, c]
            cuda.syncwarp()    # the histogram is complete
            key, place = find(counts[slot, f], bins, K, values[k], weight_of(k, values, C), nodes[k, COUNT], before,
                              least, lightest)
            key, place = over_warp(key, place if place >= 0 else int32(NONE))
            if lane == 0:
                keys[f, a], places[f, a] = key, place

    @cuda.jit
    def grow_divide(active, totals, counts, bins, C, everything, edges, nodes, threshold, impurities, values, keys,
                    places, max_depth, min_split, least, min_decrease, most, seed):
        """A warp per node."""
        lane = cuda.laneid
        _, D, _, K = counts.shape
        for a in range(cuda.grid(1) // WARP, totals[ACTIVE], cuda.gridsize(1) // WARP):
            k, slot = active[a, NODE], active[a, SLOT]
            f, place, key = best_feature(keys, places, a, D, k, most, seed)
            if f != NONE and may_be_cut(k, nodes, values, C, max_depth, min_split, least) and \
                    gains(k, key, impurities, values, C, everything, min_decrease):
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
                middle = nodes[k, START] + int32(rows)
                for c in range(lane, C, WARP):
                    total = count(0)
                    for b in range(place + 1):
                        total += counts[slot, f, b, c]
                    if missing_left:
                        total += counts[slot, f, bins, c]
                    values[2 * middle, c], values[2 * middle + 1, c] = total, values[k, c] - total
                cuda.syncwarp()    # the children have their counts
                if lane < 2:
                    child = 2 * middle + lane
                    impurities[child] = impurity_of(values[child], C, weight_of(child, values, C))
                if lane == 0:
                    nodes[k, BIN], threshold[k] = place, edges[f, place]
                    divide(k, f, middle, nodes)
                    if missing > 0:
                        nodes[k, MISSING] = 1 if missing_left else 0

    @cuda.jit(device=True)
    def kind_of(child, nodes, values, C, max_depth, min_split, least, exact):
        """0 for a leaf, 1 for a node that one block will see to, 2 for one of the next level."""
        if not may_be_cut(child, nodes, values, C, max_depth, min_split, least):
            return 0
        return 2 if nodes[child, COUNT] > exact else 1

    @cuda.jit
    def grow_plan(active, upcoming, jobs, roots, totals, nodes, values, C, max_depth, min_split, least, exact):
        """One block: who is searched on the next level, and what is counted for that. Pair q, a cut node of which a
        child goes on, gets the histograms 2 q, counted for the smaller child, and 2 q + 1, the difference."""
        sums_s = cuda.shared.array(WARP, int32)
        pairs, chunks, ahead, small = 0, 0, 0, totals[SMALL]
        last = totals[ACTIVE]
        for a0 in range(0, last, THREADS):
            a = a0 + cuda.threadIdx.x
            middle = nodes[active[a, NODE], CUT] if a < last else 0
            few, many, few_kind, many_kind, length = 0, 0, 0, 0, 0
            if middle > 0:
                few, many = 2 * middle, 2 * middle + 1
                if nodes[many, COUNT] < nodes[few, COUNT]:
                    few, many = many, few
                few_kind = kind_of(few, nodes, values, C, max_depth, min_split, least, exact)
                many_kind = kind_of(many, nodes, values, C, max_depth, min_split, least, exact)
                if few_kind == 2 or many_kind == 2:
                    length = (nodes[few, COUNT] - 1) // CHUNK + 1
            before, all_pairs = scan(int32(1 if length > 0 else 0), sums_s)
            q = pairs + before
            before, all_chunks = scan(int32(length), sums_s)
            if length > 0:
                jobs[q, JOB_CHUNK], jobs[q, JOB_SLOT] = chunks + before, 2 * q
                jobs[q, JOB_START], jobs[q, JOB_COUNT] = nodes[few, START], nodes[few, COUNT]
            before, all_active = scan(int32((few_kind == 2) + (many_kind == 2)), sums_s)
            place = ahead + before
            if few_kind == 2:
                upcoming[place, NODE], upcoming[place, SLOT] = few, 2 * q
                upcoming[place, PARENT], upcoming[place, SIBLING] = -1, -1
                place += 1
            if many_kind == 2:
                upcoming[place, NODE], upcoming[place, SLOT] = many, 2 * q + 1
                upcoming[place, PARENT], upcoming[place, SIBLING] = active[a, SLOT], 2 * q
            before, all_small = scan(int32((few_kind == 1) + (many_kind == 1)), sums_s)
            place = small + before
            if few_kind == 1:
                roots[place] = few
                place += 1
            if many_kind == 1:
                roots[place] = many
            pairs, chunks, ahead, small = pairs + all_pairs, chunks + all_chunks, ahead + all_active, small + all_small
        cuda.syncthreads()    # everyone has read the totals
        if cuda.threadIdx.x == 0:
            totals[JOBS], totals[CHUNKS], totals[ACTIVE], totals[SMALL] = pairs, chunks, ahead, small
    return grow_clear, grow_root, grow_search, grow_divide, grow_plan


# ---- host side

def bytes_needed(precision, D, N, C, weighted, rules):
    """Device memory of a fit, X included."""
    s, a, c = precision.storage.bytes, precision.accum.bytes, 8 if weighted else 4
    needed = D * N * (s + 8 + (a + 4) // 2) + N * (3 * s + 2 * a + 2 * c * C + 2 * 28 + 32)
    if N > rules.exact:
        needed += D * N + 4 * (N // (rules.exact + 1)) * D * BINS * (C + weighted) * c
    return needed


def fit(device, precision, X, y, w=None, C=None, criterion=gini, rules=Rules(), everything=None, bins=BINS):
    """Grows a tree, in one launch if there are no more than rules.exact rows. X (D, N), y and w are on the device;
    `everything` is the sum of w, and `bins` as in histogram.quantise. Returns a Grown."""
    D, N = X.shape
    kinds = dict(criterion=criterion, weighted=w is not None)
    counts = np.int64 if w is not None else np.int32
    everything = counts(N if everything is None else everything)
    table = np.zeros((max(2 * N, ROOT + 1), 7), np.int32)
    table[ROOT] = 0, N, 0, -1, 0, 0, -1
    grown = Grown(device.array(table), device.zeros(len(table), precision.storage),
                  device.zeros(len(table), precision.accum), device.zeros((len(table), C), counts))
    decrease = precision.accum.round(rules.min_decrease - gain_floor(precision, C, N))[()]
    when = (np.int32(rules.max_depth), np.int32(rules.min_split), np.int32(rules.least), decrease,
            np.int32(min(rules.most, D)), np.int32(rules.seed))
    rows = device.array(np.arange(N, dtype=np.int32))
    w = y if w is None else w
    if N > rules.exact:
        rows, roots, totals = by_levels(device, precision, kinds, X, y, w, C, everything, rows, grown, rules, when,
                                        bins)
    else:
        roots, totals = device.array(np.array([ROOT], np.int32)), device.array(np.array([0, 0, 0, 1], np.int32))
    finish(device, precision, kinds, X, y, w, C, everything, rows, roots, totals, grown, rules, when)
    return grown


def by_levels(device, precision, kinds, X, y, w, C, everything, rows, grown, rules, when, bins):
    """Cuts all nodes of more than rules.exact rows. Returns the rows by place, and the nodes that are left."""
    D, N = X.shape
    counts, K = grown.values.dtype, C + kinds["weighted"]
    most = N // (rules.exact + 1)    # nodes of more than `exact` rows at a time
    count = histogram.private.variant(precision, weighted=kinds["weighted"])
    clear, root, search, divide, plan = levels.variant(precision, **kinds)
    nodes, threshold, impurities, values = grown.nodes, grown.threshold, grown.impurities, grown.values
    edges, codes = quantise(device, precision, X, bins)
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
    level = 0
    while level < min(rules.max_depth, N - rules.exact):    # a level takes a row at least from every node
        now, later = level % 2, 1 - level % 2
        device.launch(clear, min(BLOCKS, most * D), THREADS, totals, hists[now])
        device.launch(count, grid, THREADS, codes, y, w, rows, jobs, totals, hists[now])
        if level == 0:
            device.launch(root, 1, WARP, hists[now], C, nodes, values, impurities)
        device.launch(search, min(BLOCKS, -(-most * D // warps)), WARP * warps, active[now], totals, hists[later],
                      hists[now], bins, C, nodes, values, when[2], counts.type(rules.lightest), keys, places,
                      shared=warps * C * counts.itemsize)
        device.launch(divide, -(-most // WARPS), THREADS, active[now], totals, hists[now], bins, C, everything, edges,
                      nodes, threshold, impurities, values, keys, places, *when)
        device.launch(plan, 1, THREADS, active[now], active[later], jobs, roots, totals, nodes, values, C, *when[:3],
                      np.int32(rules.exact))
        partition.launch(device, partition.scanned, precision, codes, rows, node_of, nodes, scratch, moved)
        rows, moved = moved, rows
        level += 1
        if level % PATIENCE == 0 and device.to_host(totals)[ACTIVE] == 0:
            break
    return rows, roots, totals


def launch(device, rung, precision, X, y):
    """links and threshold as descend takes them, and the class of each leaf."""
    N = len(y)
    C = int(device.to_host(y).max()) + 1
    rules = Rules(max_depth=64, exact=N if rung is grow.one_block else max(2, N // 8))
    grown = fit(device, precision, X, y, C=C, rules=rules)
    nodes, threshold = device.to_host(grown.nodes), device.to_host(grown.threshold)
    place, left, right = flatten(nodes)
    links = np.stack([np.where(left < 0, -1, nodes[place, FEATURE]), left, right, nodes[place, MISSING] == 1],
                     axis=1).astype(np.int32)
    label = device.to_host(grown.values)[place].argmax(axis=1)
    return device.array(links), device.array(np.where(left < 0, 0, threshold[place]).astype(threshold.dtype)), \
        device.array(label.astype(np.int32))


def cost(precision, D, N, C):
    """Of a tree of log2(N) levels, which knows every row."""
    depth, storage = max(1, int(np.log2(N))), precision.storage.bytes
    return {"flops": depth * D * N * (8 * C + 5), "bytes": D * N * storage + 4 * N + 2 * N * (storage + 20)}


def inputs(rng, shape, kind, precision):
    """The first two features tell every row apart; there is no sense in the labels."""
    D, N, C = shape
    X = rng.integers(-16, 16, (D, N)).astype(float)
    number = rng.permutation(N)
    X[0], X[1] = number % 64 - 32, number // 64
    unit = {"large": precision.storage.max / 64, "overflow": precision.storage.max / 33,
            "subnormal": precision.storage.eta}.get(kind, 1.0)
    return X * unit, rng.integers(0, C, N).astype(np.int32)


operation("grow", oracle=oracle, readout=readout, error_bound=error_bound, launch=launch, cost=cost, inputs=inputs,
          shapes=((2, 1, 1), (2, 2, 2), (3, 40, 3), (4, 150, 3), (2, 700, 2), (9, 300, 20)),
          bench_shapes={"smoke": (4, 150, 3), "quick": (4, 1000, 3), "full": (32, 2000, 2)},
          cost_differs="Equal values have no cut between them and pure nodes none at all; the order of every column is "
                       "written too.")
