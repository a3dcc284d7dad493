"""The best split of a node: the feature and the threshold that leave the least impurity.

Idea       Every cut of every feature is tried at once. Unsorted, each counts all rows; sorted, it is one step of a
           scan; in bins, there are 256 cuts however many rows there are.
Maths      over all f and t: minimize what the cut {n : X[f, n] <= t} leaves (see impurity), among cuts with at least
           `least` rows on either side. Rows whose X[f, n] is missing (NaN) go to the right, or all of them to the left,
           whichever leaves less; one of the cuts leaves them alone on the right: t is infinite.
           Of equal ones: the lowest f, then missing values to the right, then the lowest t
Shapes     X (D, N): storage, N <= CAPACITY for in_order. y (N,): int32, w (N,): int64, positive (or y: no weights).
           Results, one element each: feature (int32; -1 if there is no cut), threshold (storage), left over (accum),
           missing (int32; whether missing values go left)
Mapping    each rung leaves one candidate a block, and `choose` takes the best of them
Precision  a threshold is `cut` of two neighbours (see bins); what a cut leaves is computed alike in every rung, so
           that all find the same split, bit for bit, wherever all see the same thresholds
Ladder     candidates  a thread per row takes its value as threshold and counts all the others: D N^2 (C + 2) of them
           in_order    a block sorts a feature in shared memory; then every cut is one step of a scan (see scan)
           binned      the scan goes over bins, not rows: BINS counts instead of N, whatever N is. With more than BINS
                       values in a feature, some thresholds are never looked at
Cost       D N log2(N) comparisons; D N cuts of 8 C + 5 flops, four a term of impurity; X, labels and weights read
Sources    [1] L. Breiman, J. Friedman, R. Olshen, C. Stone, Classification and Regression Trees, 1984, section 2.4
           [2] M. Mehta, R. Agrawal, J. Rissanen, SLIQ: A fast scalable classifier for data mining, EDBT 1996
"""
from functools import partial

import numpy as np
from numba import cuda, int32

from numprec.kernels.reductions.collectives import WARP, block_argmax
from numprec.kernels.trees import histogram
from numprec.kernels.trees.bins import BINS, bins_of, cut, quantise
from numprec.kernels.trees.impurity import (entropy, every_cut, gini, impurity_of, left_over, left_over_bound,
                                            left_over_of)
from numprec.kernels.trees.scan import (LEFT, NONE, Least, Rows, Whole, choose, known_rows, place_of, scan_bins,
                                        scan_rows)
from numprec.kernels.trees.sort import CAPACITY, THREADS, block_sort
from numprec.language.formats import constant
from numprec.language.ladder import draw, operation, rung


# ---- oracle: what the best cut leaves. The rungs are judged by what theirs leaves, and by what they say it does

def oracle(X, y, w=None, criterion=gini):
    counts = np.bincount(y, w)
    best = min((left_over_of(left, counts, criterion) for *_, left in every_cut(X, y, w)),
               default=impurity_of(counts, criterion))
    return np.array([best, best])


WARPS = THREADS // WARP


# ---- kernels, slowest first. Each leaves keys, places and thresholds, one a block. A place is 2 f N + position, or
# 2 f BINS + bin, and N or BINS more where missing values go left

@rung
def candidates(p, criterion=gini, weighted=False):
    storage, accum, term, combine, between = p.storage, p.accum, criterion[p], left_over[p], cut[p]
    over_block, (count, _), lowest = block_argmax[p], histogram.types_of(weighted), constant(p.accum, -p.accum.max)

    @cuda.jit(device=True)
    def count_left(x, y, w, a, missing_left, label):
        """What lies left of the threshold behind a, and in all: of one class, or of every class if label is -1."""
        left, whole = count(0), count(0)
        for n in range(x.size):
            if label < 0 or y[n] == label:
                weight = count(w[n]) if weighted else count(1)
                whole += weight
                value = accum(x[n])
                if value <= a or (value != value and missing_left):
                    left += weight
        return left, whole

    @cuda.jit
    def split_candidates(X, y, w, C, least, keys, places, thresholds):
        """The threshold lies between X[f, i] and the next larger value."""
        key_s = cuda.shared.array(WARP, accum)
        place_s = cuda.shared.array(WARP, int32)
        i = cuda.grid(1)
        f = cuda.blockIdx.y
        N = X.shape[1]
        a = accum(X[f, min(i, N - 1)])
        b = a
        known, missing, lost = 0, 0, a    # rows: at a and below, and without a value; such a value
        for n in range(N):
            x = accum(X[f, n])
            if x <= a:
                known += 1
            elif x != x:
                missing, lost = missing + 1, x
            elif b == a or x < b:
                b = x
        if a == b:
            b = lost    # behind the largest value come those that are missing
        key, place = lowest(), int32(NONE)
        for side in range(2 if missing > 0 else 1):
            rows = known + side * missing
            if i < N and (a < b or (b != b and side == 0)) and rows >= least and N - rows >= least:
                left, whole = count_left(X[f], y, w, a, side == 1, -1)
                i_left = accum(0)
                i_right = accum(0)
                for c in range(C):
                    part, total = count_left(X[f], y, w, a, side == 1, c)
                    i_left += term(part, left)
                    i_right += term(total - part, whole - left)
                own = -combine(left, whole, i_left, i_right)
                if own > key:
                    key, place = own, int32((2 * f + side) * N + known - 1)
        best, at = over_block(key, place, key_s, place_s)
        t = int32(cuda.threadIdx.x)
        _, first = over_block(best if place == at else lowest(), t, key_s, place_s)    # of equal rows
        if t == first:
            block = f * cuda.gridDim.x + cuda.blockIdx.x
            keys[block], places[block] = best, at
            thresholds[block] = between(a, b) if at < NONE else storage(0)
    return split_candidates


@rung
def in_order(p, criterion=gini, weighted=False):
    storage, accum, sort, between = p.storage, p.accum, block_sort[p], cut[p]
    over_block, (count, _) = block_argmax[p], histogram.types_of(weighted)
    find, end_of, lowest = scan_rows(p, criterion, weighted), known_rows[p], constant(p.accum, -p.accum.max)

    @cuda.jit
    def split_in_order(X, y, w, C, least, keys, places, thresholds):
        """A block per feature; each warp counts the classes in its part of the rows, then scans it."""
        x_s = cuda.shared.array(CAPACITY, storage)
        order_s = cuda.shared.array(CAPACITY, int32)
        key_s = cuda.shared.array(WARP, accum)
        place_s = cuda.shared.array(WARP, int32)
        counts_s = cuda.shared.array(0, count)    # (2 WARPS + 2) C, in four parts:
        ahead_s = counts_s[:WARPS * C]                             # ahead of each warp
        running_s = counts_s[WARPS * C:2 * WARPS * C]              # each warp's own, for the scan
        missing_s = counts_s[2 * WARPS * C:(2 * WARPS + 1) * C]
        totals = counts_s[(2 * WARPS + 1) * C:]
        t = cuda.threadIdx.x
        warp = t // WARP
        f = cuda.blockIdx.x
        N = X.shape[1]
        for i in range(t, N, THREADS):
            x_s[i], order_s[i] = X[f, i], i
        for e in range(t, (2 * WARPS + 2) * C, THREADS):
            counts_s[e] = 0
        sort(x_s, order_s, N)
        known = end_of(x_s, order_s, 0, N)
        part = -(-known // WARPS)
        first, last = min(warp * part, known), min(warp * part + part, known)
        for i in range(first + cuda.laneid, last, WARP):
            row = order_s[i]
            cuda.atomic.add(ahead_s, warp * C + y[row], count(w[row]) if weighted else count(1))
        for i in range(known + t, N, THREADS):
            row = order_s[i]
            cuda.atomic.add(missing_s, y[row], count(w[row]) if weighted else count(1))
        cuda.syncthreads()    # each warp has counted its part
        for c in range(t, C, THREADS):
            total = count(0)
            for v in range(WARPS):
                own = ahead_s[v * C + c]
                ahead_s[v * C + c] = total
                total += own
            totals[c] = total + missing_s[c]
        cuda.syncthreads()    # each warp knows what lies ahead of it
        before = running_s[warp * C:(warp + 1) * C]
        whole = count(0)
        for c in range(C):
            whole += totals[c]
        node, rows = Whole(totals[:C], count(whole), N), Rows(x_s, order_s, y, w, N)
        best, at = lowest(), int32(NONE)
        for side in range(2 if known < N else 1):
            for c in range(cuda.laneid, C, WARP):
                before[c] = ahead_s[warp * C + c] + (missing_s[c] if side == 1 else count(0))
            cuda.syncwarp()    # everyone may read before
            ahead = first + (N - known if side == 1 else 0)
            key, place = find(rows, first, last, node, ahead, before, Least(least, count(0)))
            if key > best:
                best, at = key, int32(place + LEFT if side == 1 else place)
        best, at = over_block(best, at, key_s, place_s)
        if t == 0:
            position = at - LEFT if at >= LEFT else at
            keys[f], places[f], thresholds[f] = best, place_of(f, at, 2 * N), storage(0)
            if at < NONE:
                thresholds[f] = between(accum(x_s[position]), accum(x_s[position + 1]))
    return split_in_order


@rung
def binned(p, criterion=gini, weighted=False):
    storage, accum, over_block, (count, extra) = p.storage, p.accum, block_argmax(p, WARP), histogram.types_of(weighted)
    find = scan_bins(p, criterion, weighted)

    @cuda.jit
    def split_binned(counts, bins, edges, least, keys, places, thresholds):
        """A block of one warp per feature."""
        key_s = cuda.shared.array(WARP, accum)
        place_s = cuda.shared.array(WARP, int32)
        counts_s = cuda.shared.array(0, count)    # 2 K: the running counts, and the totals
        f = cuda.blockIdx.x
        K = counts.shape[2]
        totals = counts_s[K:]
        for k in range(cuda.threadIdx.x, K, WARP):
            total = count(0)
            for b in range(BINS):
                total += counts[f, b, k]
            totals[k] = total
        cuda.syncwarp()    # everyone may read the totals
        whole = count(0)
        for c in range(K - extra):
            whole += totals[c]
        node = Whole(totals[:K - extra], count(whole), totals[K - 1] if weighted else count(whole))
        best, at = over_block(*find(counts[f], bins, node, counts_s, Least(least, count(0))), key_s, place_s)
        if cuda.threadIdx.x == 0:
            keys[f], places[f], thresholds[f] = best, place_of(f, at, 2 * BINS), storage(0)
            if at < NONE:
                thresholds[f] = edges[f, at - LEFT if at >= LEFT else at]
    return split_binned


# ---- host side

def launch(device, rung, precision, X, y, w=None, criterion=gini, C=None, least=1):
    """feature, threshold, what is left over, and whether missing values go left, on the device."""
    (D, N), weighted = X.shape, w is not None
    C = int(device.to_host(y).max()) + 1 if C is None else C
    w = w if weighted else y
    kernel, size = rung.variant(precision, criterion=criterion, weighted=weighted), 8 if weighted else 4
    blocks = D * -(-N // THREADS) if rung is candidates else D
    keys, places = device.empty(blocks, precision.accum), device.empty(blocks, np.int32)
    thresholds, stride = device.empty(blocks, precision.storage), 2 * N
    if rung is candidates:
        device.launch(kernel, (blocks // D, D), THREADS, X, y, w, C, least, keys, places, thresholds)
    elif rung is in_order:
        device.launch(kernel, D, THREADS, X, y, w, C, least, keys, places, thresholds,
                      shared=(2 * WARPS + 2) * C * size)
    else:
        bins = bins_of(device.to_host(X))
        edges, codes = quantise(device, precision, X, bins)
        counts = histogram.launch(device, histogram.private, precision, codes, y, C=C, w=w if weighted else None)
        device.launch(kernel, D, WARP, counts, bins, edges, least, keys, places, thresholds,
                      shared=2 * counts.shape[2] * size)
        stride = 2 * BINS
    result = [device.empty(1, kind) for kind in (np.int32, precision.storage, precision.accum, np.int32)]
    device.launch(choose[precision], 1, THREADS, keys, places, thresholds, stride, *result)
    return tuple(result)


# ---- how it is judged

def readout(results, X, y, w=None, criterion=gini):
    """What the chosen cut leaves, and what the kernel says it does."""
    (feature,), (threshold,), (says,), (missing,) = (r.astype(np.float64) for r in results)
    weight, counts = (np.ones(len(y)) if w is None else w), np.bincount(y, w)
    if feature < 0:
        return np.array([impurity_of(counts, criterion)] * 2)
    x = X[int(feature)].astype(np.float64)
    left = np.where(np.isnan(x), missing > 0, x <= threshold)
    return np.array([left_over_of(np.bincount(y[left], weight[left], len(counts)), counts, criterion), says])


def error_bound(precision, X, y, w=None, criterion=gini):
    """The kernel may prefer a cut that is worse by the error of both; what it says is off by the error of one."""
    error = left_over_bound(precision, y.max() + 1, len(y) if w is None else w.sum())
    return np.array([2 * error, error])


def cost(precision, D, N, C, weight=0):    # bytes of a row's weight
    return {"flops": D * N * (8 * C + 5), "bytes": D * N * precision.storage.bytes + (4 + weight) * N}


def inputs(rng, shape, kind, precision):
    """Features of few values, so that every rung sees every threshold; two agree with the labels, more or less. There
    are a copy of a feature, and the mirror image of another."""
    D, N, C = shape
    values = draw(rng, (D, 60), "large" if kind == "overflow" else kind, precision) * rng.choice([-1, 1], (D, 60))
    y = rng.integers(0, C, N)
    X = np.take_along_axis(values, rng.integers(0, 60, (D, N)), axis=1)
    for f in range(min(D, 2)):
        ranks = np.sort(values[f])[np.clip(y * (59 // C) + rng.integers(0, 30, N), 0, 59)]
        X[f] = np.where(rng.random(N) < 0.8, ranks, X[f])
    if D > 3:
        X[2], X[3] = X[0], -X[1]
    return X, y.astype(np.int32)


def weighted_inputs(rng, shape, kind, precision):
    """Rows have weights, and in two of three features some values are missing: by chance, and where y is 0."""
    X, y = inputs(rng, shape, kind, precision)
    X[::3][rng.random(X[::3].shape) < 0.2] = np.nan
    X[1::3][:, (y == 0) & (rng.random(len(y)) < 0.8)] = np.nan
    return X, y, rng.integers(1, 2 ** 40, shape[1])


about = dict(shapes=((1, 1, 1), (1, 2, 2), (2, 31, 2), (4, 150, 3), (5, 257, 10), (3, 300, 33)),
             bench_shapes={"smoke": (4, 150, 3), "quick": (8, 512, 3), "full": (32, CAPACITY, 10)})

operation("split", oracle=oracle, readout=readout, error_bound=error_bound, launch=launch, inputs=inputs, cost=cost,
          **about)
operation("split_weighted", ladder="split", inputs=weighted_inputs, oracle=partial(oracle, criterion=entropy),
          readout=partial(readout, criterion=entropy), error_bound=partial(error_bound, criterion=entropy),
          launch=partial(launch, criterion=entropy), cost=partial(cost, weight=8),
          cost_differs="A logarithm is about ten operations, and missing values are tried on both sides.", **about)
