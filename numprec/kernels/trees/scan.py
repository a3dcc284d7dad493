"""The scan of a node: what the cut behind each position would leave, by one warp, over sorted rows or over bins.

Maths      an inclusive prefix sum counts each class up to a position; what the cut there leaves follows (see impurity)
Shapes     as in split
Mapping    device functions of one warp, 32 positions at a time
Precision  counts are integers; what a cut leaves is computed alike over rows and over bins
Sources    [1] M. Harris, S. Sengupta, J. D. Owens, Parallel prefix sum (scan) with CUDA, GPU Gems 3, 2007, chapter 39
"""
from functools import lru_cache

from numba import cuda, int32

from numprec.kernels.reductions.reduce import ALL_LANES, WARP
from numprec.kernels.trees.bins import BINS, word
from numprec.kernels.trees.histogram import types_of
from numprec.kernels.trees.impurity import left_over
from numprec.language.instructions import number

LEFT = 2 ** 30            # is added to the place of a cut that sends missing values to the left


@cuda.jit(device=True)
def warp_scan(x):
    """The sum of x over the lanes up to one's own; x is an integer."""
    lane, distance = cuda.laneid, 1
    while distance < WARP:
        below = cuda.shfl_up_sync(ALL_LANES, x, distance)
        if lane >= distance:
            x += below
        distance *= 2
    return x


@lru_cache(maxsize=None)
def known_rows(p, gathered=False):
    """known_rows(x, order, start, end): where the missing values of a segment in ascending order begin."""
    accum = p.accum

    @cuda.jit(device=True)
    def known_rows(x, order, start, end):
        low, high, middle = start, end, end - 1
        while low < high:
            value = accum(x[order[middle] if gathered else middle])
            if value == value:
                low = middle + 1
            else:
                high = middle
            middle = (low + high) // 2
        return low
    return known_rows


@lru_cache(maxsize=None)
def scan_rows(p, criterion, weighted, gathered=False):
    """The best cut behind one of the positions [first, last) of a segment [start, end) in ascending order.

    x is in order itself or, `gathered`, by row; order tells the row at each position. totals (C,) are the counts of
    the segment, before (C,) those ahead of `first`, in memory of the warp's own, which is overwritten. `whole` is the
    sum of totals. Either side has `least` rows, and weighs `lightest`, or more. Returns the best of the lane's
    positions, as (minus what is left over, position), or (lowest, -1).
    Missing values that go right are the end of the segment, from `last` on. Those that go left are no part of it, but
    `start` is lower by their number, and their counts are in totals and in before.
    """
    accum, term, combine = p.accum, criterion(p), left_over(p)
    count, _ = types_of(weighted)
    lowest = word(p.accum, -p.accum.max)

    @cuda.jit(device=True)
    def scan_rows(x, order, y, w, first, last, start, end, C, totals, whole, before, least, lightest):
        lane = cuda.laneid
        upto = (2 << lane) - 1    # a bit for each lane up to one's own
        best, at = number(lowest, accum(0)), int32(-1)
        ahead = count(0)          # weight ahead of the 32 rows of this step
        for c in range(C):
            ahead += before[c]
        cuda.syncwarp()           # everyone has read before: the caller may overwrite it, even if there are no rows
        for i0 in range(first, last, WARP):
            i = i0 + lane
            row = order[min(i, end - 1)]
            label = y[row] if i < last else -1
            weight = count(w[row]) if weighted and i < last else count(0)
            after = min(i + 1, end - 1)
            here = accum(x[row if gathered else min(i, end - 1)])
            there = accum(x[order[after] if gathered else after])
            rows = i + 1 - start
            beyond = not here >= there    # also where the latter is missing
            valid = i < last and beyond and rows >= least and end - i - 1 >= least
            if weighted:
                left = ahead + warp_scan(weight)
                ahead = cuda.shfl_sync(ALL_LANES, left, WARP - 1)
            else:
                left = count(rows)
            valid = valid and left >= lightest and whole - left >= lightest
            i_left = accum(0)
            i_right = accum(0)
            for c in range(C):
                if weighted:
                    part = before[c] + warp_scan(weight if label == c else count(0))
                else:
                    part = before[c] + count(cuda.popc(cuda.ballot_sync(ALL_LANES, label == c) & upto))
                if valid:
                    i_left += term(part, left)
                    i_right += term(totals[c] - part, whole - left)
                cuda.syncwarp()    # everyone has read before[c]
                if lane == WARP - 1:
                    before[c] = part
                cuda.syncwarp()
            if valid:
                key = -combine(left, whole, i_left, i_right)
                if key > best:
                    best, at = key, int32(i)
        return best, at
    return scan_rows


@lru_cache(maxsize=None)
def scan_bins(p, criterion, weighted):
    """The best cut behind one of the bins of counts (BINS, K), of `rows` rows; the rest as in scan_rows. What is
    counted beyond the bins is missing; LEFT is added to the bin where that goes left."""
    accum, term, combine = p.accum, criterion(p), left_over(p)
    count, extra = types_of(weighted)
    lowest = word(p.accum, -p.accum.max)

    @cuda.jit(device=True)
    def scan_bins(counts, bins, K, totals, whole, rows, before, least, lightest):
        lane = cuda.laneid
        C = K - extra
        best, at = number(lowest, accum(0)), int32(-1)
        missing = count(0)    # weight and rows
        rows_missing = count(0)
        if bins < BINS:
            for c in range(C):
                missing += counts[bins, c]
            rows_missing = counts[bins, C] if weighted else missing
        for side in range(2 if rows_missing > 0 else 1):
            ahead = missing if side == 1 else count(0)
            rows_ahead = rows_missing if side == 1 else count(0)
            for c in range(lane, C, WARP):
                before[c] = counts[bins, c] if side == 1 else count(0)
            cuda.syncwarp()    # everyone may read before
            for b0 in range(0, bins, WARP):
                b = min(b0 + lane, bins)
                own = count(0)
                if b < bins:
                    for c in range(C):
                        own += counts[b, c]
                left = ahead + warp_scan(own)
                ahead = cuda.shfl_sync(ALL_LANES, left, WARP - 1)
                if weighted:
                    rows_left = rows_ahead + warp_scan(counts[b, C] if b < bins else count(0))
                    rows_ahead = cuda.shfl_sync(ALL_LANES, rows_left, WARP - 1)
                else:
                    rows_left = left
                valid = b < bins and rows_left >= least and rows - rows_left >= least and left >= lightest and \
                    whole - left >= lightest
                if rows_missing > 0 and side == 0 and rows_left == rows - rows_missing:
                    valid = valid and b == bins - 1    # only what is missing goes right: behind the last bin
                i_left = accum(0)
                i_right = accum(0)
                for c in range(C):
                    part = before[c] + warp_scan(counts[b, c] if b < bins else count(0))
                    if valid:
                        i_left += term(part, left)
                        i_right += term(totals[c] - part, whole - left)
                    cuda.syncwarp()    # everyone has read before[c]
                    if lane == WARP - 1:
                        before[c] = part
                    cuda.syncwarp()
                if valid:
                    key = -combine(left, whole, i_left, i_right)
                    if key > best:
                        best, at = key, int32(b + LEFT if side == 1 else b)
        return best, at
    return scan_bins
