"""The scan of a node: what the cut behind each position leaves, by one warp, over sorted rows or over bins.

Idea       What lies left of a cut is a prefix sum. Over rows it takes a ballot, in which each lane of a class sets its
           bit, and a popcount of the bits up to one's own; over bins it takes a scan of their counts.
Maths      left[c] = what is counted of class c up to a position; what the cut there leaves follows (see impurity)

    six rows in ascending order, of classes 0 and 1; what each cut leaves is in units of 1/6

        position          0    1    2    3    4    5
        x                 1    2    2    5    7    9
        class             0    0    1    0    1    1
        left[0]           1    2    2    3    3    3       ballot 001011, and how many of its bits are at or below
        left[1]           0    0    1    1    2    3       ballot 110100 (the lowest bit stands on the right)
        is it a cut       yes  no   yes  yes  yes  no      not between equal values, nor behind the last
        leaves (gini)     2.4  -    2.67 1.5  2.4  -       the cut behind position 3, at 6, is the best

Shapes     counts (C,): of a node, by class. before (C,): in memory of the warp's own, those ahead of the first
           position; it is overwritten
Mapping    device functions of one warp, 32 positions at a time
Precision  counts are integers; what a cut leaves is computed alike over rows and over bins, bit for bit
Cost       for each class and 32 positions: a ballot over rows, five shuffles over bins; 8 C + 5 flops a position
Sources    [1] M. Harris, S. Sengupta, J. D. Owens, Parallel prefix sum (scan) with CUDA, GPU Gems 3, 2007, chapter 39
"""
from typing import NamedTuple

from numba import cuda, int32

from numprec.kernels.reductions.collectives import ALL_LANES, WARP, block_argmax, warp_scan
from numprec.kernels.trees.bins import BINS
from numprec.kernels.trees.histogram import types_of
from numprec.kernels.trees.impurity import left_over
from numprec.kernels.trees.sort import THREADS
from numprec.language.formats import constant
from numprec.language.ladder import helper, rung

NONE = 2 ** 31 - 1        # the place of a cut that there is not
LEFT = 2 ** 30            # is added to the place of a cut that sends missing values to the left


class Whole(NamedTuple):
    """The node: what is counted of each class (C,), the sum of that, and its number of rows."""

    counts: object
    weight: object
    rows: object


class Least(NamedTuple):
    """What either side of a cut must have: rows, and their weight."""

    least: object
    lightest: object


class Source(NamedTuple):
    """What is scanned: device functions of the items (Rows or Bins, below) and a position i.

    load(items, i, last)        (what lies there, its weight, its rows); nothing from `last` on
    upto(items, what, weight, c)  what is counted of class c in the lanes up to one's own
    may_cut(items, i, rows)     whether a cut may be behind i, which has `rows` up to it
    one_row                     whether a position is a row
    """

    load: object
    upto: object
    may_cut: object
    one_row: bool


# ---- the scan

@helper
def scan(p, criterion, weighted, source):
    """scan(items, first, last, node, ahead, before, limits): the best cut behind one of the positions [first, last).

    `node` is a Whole, `ahead` the rows ahead of `first`, `limits` has the fields of Least. Returns the best of the
    lane's positions, as (minus what is left over, position), or (lowest, NONE).
    """
    accum, term, combine, lowest = p.accum, criterion[p], left_over[p], constant(p.accum, -p.accum.max)
    load, upto, may_cut, one_row = source
    (count, _), over_warp = types_of(weighted), warp_scan[p]

    @cuda.jit(device=True)
    def scan(items, first, last, node, ahead, before, limits):
        lane, C = cuda.laneid, node.counts.size
        best, at = lowest(), int32(NONE)
        rows_ahead, weight_ahead = count(ahead), count(0)    # of the 32 positions of this step
        if weighted:
            for c in range(C):
                weight_ahead += before[c]
        cuda.syncwarp()    # everyone has read before: the caller may overwrite it, even if there are no positions
        for i0 in range(first, last, WARP):
            i = i0 + lane
            what, weight, rows = load(items, i, last)
            if one_row:
                rows_left = count(rows_ahead + lane + 1)
                rows_ahead = count(rows_ahead + WARP)
            else:
                rows_left = count(rows_ahead + over_warp(rows))
                rows_ahead = cuda.shfl_sync(ALL_LANES, rows_left, WARP - 1)
            left = rows_left
            if weighted:
                left = weight_ahead + over_warp(weight)
                weight_ahead = cuda.shfl_sync(ALL_LANES, left, WARP - 1)
            valid = i < last and may_cut(items, i, rows_left) and \
                rows_left >= limits.least and node.rows - rows_left >= limits.least and \
                left >= limits.lightest and node.weight - left >= limits.lightest
            i_left = accum(0)
            i_right = accum(0)
            for c in range(C):
                part = before[c] + upto(items, what, weight, c)
                if valid:
                    i_left += term(part, left)
                    i_right += term(node.counts[c] - part, node.weight - left)
                cuda.syncwarp()    # everyone has read before[c]
                if lane == WARP - 1:
                    before[c] = part
                cuda.syncwarp()
            if valid:
                key = -combine(left, node.weight, i_left, i_right)
                if key > best:
                    best, at = key, int32(i)
        return best, at
    return scan


# ---- over rows

class Rows(NamedTuple):
    """A feature in ascending order: x, by position or by row; order, the row at each position; the labels and weights
    of all rows; and the position behind the last one. Missing values are the last ones."""

    x: object
    order: object
    y: object
    w: object
    end: object


@helper
def scan_rows(p, criterion, weighted, gathered=False):
    """`scan` over Rows; `gathered` means that x is by row.

    Where missing values go right, positions end at the last row that has a value; where they go left, their number is
    in `ahead`, and their counts are in `before`.
    """
    accum, (count, _), over_warp = p.accum, types_of(weighted), warp_scan[p]

    @cuda.jit(device=True)
    def load_row(items, i, last):
        row = items.order[min(i, items.end - 1)]
        return items.y[row] if i < last else int32(-1), count(items.w[row]) if weighted and i < last else count(0), 1

    @cuda.jit(device=True)
    def rows_upto(items, label, weight, c):
        if weighted:
            return over_warp(weight if label == c else count(0))
        upto = (2 << cuda.laneid) - 1    # a bit for each lane up to one's own
        return count(cuda.popc(cuda.ballot_sync(ALL_LANES, label == c) & upto))

    @cuda.jit(device=True)
    def differs_from_next(items, i, rows):
        """Also where the next one is missing."""
        here, there = min(i, items.end - 1), min(i + 1, items.end - 1)
        if gathered:
            here, there = items.order[here], items.order[there]
        return not accum(items.x[here]) >= accum(items.x[there])
    return scan(p, criterion, weighted, Source(load_row, rows_upto, differs_from_next, True))


@helper
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


# ---- over bins

class Bins(NamedTuple):
    """A feature's counts (BINS, K), how many of them are bins, and the number of rows that a cut may not have all on
    its left, unless it is behind the last bin."""

    counts: object
    bins: object
    limit: object


@helper
def scan_bins(p, criterion, weighted):
    """scan_bins(counts, bins, node, before, limits): the best cut behind one of the bins of counts (BINS, K). What is
    counted beyond the bins is missing; LEFT is added to the bin where that goes left."""
    lowest, (count, _), over_warp = constant(p.accum, -p.accum.max), types_of(weighted), warp_scan[p]

    @cuda.jit(device=True)
    def load_bin(items, b, last):
        weight, rows = count(0), count(0)
        if b < last:
            for c in range(items.counts.shape[1] - (1 if weighted else 0)):
                weight += items.counts[b, c]
            rows = items.counts[b, items.counts.shape[1] - 1] if weighted else weight
        return b if b < last else -1, weight, rows

    @cuda.jit(device=True)
    def bins_upto(items, b, weight, c):
        return over_warp(items.counts[b, c] if b >= 0 else count(0))

    @cuda.jit(device=True)
    def parts_rows(items, b, rows):
        return rows < items.limit or b == items.bins - 1
    find = scan(p, criterion, weighted, Source(load_bin, bins_upto, parts_rows, False))

    @cuda.jit(device=True)
    def scan_bins(counts, bins, node, before, limits):
        best, at = lowest(), int32(NONE)
        missing = count(0)    # rows
        if bins < BINS:
            missing = load_bin(Bins(counts, bins, 0), bins, bins + 1)[2]
        for side in range(2 if missing > 0 else 1):
            ahead = missing if side == 1 else count(0)
            for c in range(cuda.laneid, node.counts.size, WARP):
                before[c] = counts[bins, c] if side == 1 else count(0)
            cuda.syncwarp()    # everyone may read before
            key, place = find(Bins(counts, bins, node.rows - missing + ahead), 0, bins, node, ahead, before, limits)
            if key > best:
                best, at = key, int32(place + LEFT if side == 1 else place)
        return best, at
    return scan_bins


# ---- over features

@cuda.jit(device=True)
def place_of(f, at, stride):
    """The number of a cut among those of all features, each of which has `stride` of them: the lower half with missing
    values on the right, the upper half with those on the left."""
    if at == NONE:
        return int32(NONE)
    return int32(f * stride + (stride // 2 + at - LEFT if at >= LEFT else at))


@rung(of="choose")
def choose(p):
    accum, over_block = p.accum, block_argmax[p]
    lowest = constant(p.accum, -p.accum.max)

    @cuda.jit
    def split_choose(keys, places, thresholds, stride, feature, threshold, left_over, missing):
        """The candidate of the largest key, and of the lowest place among those. Each feature has `stride` places."""
        key_s = cuda.shared.array(WARP, accum)
        place_s = cuda.shared.array(WARP, int32)
        key, place, own = lowest(), int32(NONE), int32(0)
        for i in range(cuda.threadIdx.x, keys.size, THREADS):
            if keys[i] > key or (keys[i] == key and places[i] < place):
                key, place, own = keys[i], places[i], int32(i)
        best, at = over_block(key, place, key_s, place_s)
        _, own = over_block(best if place == at else lowest(), own, key_s, place_s)    # of equal rows
        if cuda.threadIdx.x == 0:
            feature[0], left_over[0], threshold[0] = (at // stride if at < NONE else -1), -best, thresholds[own]
            missing[0] = 1 if at < NONE and at % stride >= stride // 2 else 0
    return split_choose
