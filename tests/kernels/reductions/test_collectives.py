"""Collectives against NumPy: every precision, every width; the sums bit for bit with the pairs that the chapter draws,
and every thread with the same result."""
import itertools

import numpy as np
import pytest
from numba import cuda, int32, int64

from numprec.kernels.reductions import collectives
from numprec.kernels.reductions.collectives import WARP
from numprec.precision import PRECISIONS

WIDTHS = (1, 2, 4, 8, 16, 32)
BLOCKS = (32, 96, 256, 1024)
KINDS = ("random", "special")


def numbers(fmt, shape, kind, seed=0):
    """Numbers of the format, in float64; `special`: few different ones, with NaN, infinities and -0 among them."""
    rng = np.random.default_rng(seed)
    if kind == "special":
        return rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, 2.0], shape, p=[.05, .05, .05, .1, .25, .25, .25])
    return fmt.round(rng.standard_normal(shape)).astype(np.float64)


def folded(x, fmt, add):
    """Rows of x, halved: element i takes in element i + half, rounded to the format at each step."""
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        x = fmt.round(add(x[..., :half], x[..., half:])).astype(np.float64)
    return x[..., 0]


def runs(device, kernel, threads, x, *outs):
    """What a launch of one block leaves, as host arrays."""
    outs = [device.empty(x.shape if shape is None else shape, fmt) for shape, fmt in outs]
    device.launch(kernel, 1, threads, x, *outs)
    return [device.to_host(out) for out in outs]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("combine, of", [(collectives.plus, np.add), (collectives.larger, np.maximum)],
                         ids=("plus", "larger"))
def test_warp_fold(device, precision, combine, of, kind):
    """Sums and maxima of every width in one launch, a row for each."""
    accum = precision.accum
    folds = tuple(collectives.warp_fold(precision, combine=combine, width=width) for width in WIDTHS)
    one, two, four, eight, sixteen, all_lanes = folds

    @cuda.jit
    def kernel(x, out):
        t = cuda.threadIdx.x
        out[0, t], out[1, t], out[2, t] = one(x[t]), two(x[t]), four(x[t])
        out[3, t], out[4, t], out[5, t] = eight(x[t]), sixteen(x[t]), all_lanes(x[t])

    x = numbers(accum, 2 * WARP, kind)
    out, = runs(device, kernel, x.size, device.array(x, accum), ((len(WIDTHS), x.size), accum))
    with np.errstate(invalid="ignore"):
        for width, result in zip(WIDTHS, out):
            expected = np.repeat(folded(x.reshape(-1, width), accum, of), width)
            np.testing.assert_array_equal(result.astype(np.float64), expected, err_msg=f"width {width}")


def test_a_sum_is_built_once():
    """One device function for each precision and width, however it is asked for."""
    p, q = PRECISIONS["fp32"], PRECISIONS["fp64"]
    assert collectives.warp_sum[p] is collectives.warp_sum(p) is collectives.warp_sum(p, WARP)
    assert collectives.warp_sum(p, width=WARP) is collectives.warp_fold(p, collectives.plus)
    assert collectives.warp_sum(p, width=16) is not collectives.warp_sum[p] is not collectives.warp_sum[q]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", WIDTHS)
def test_warp_argmax(device, precision, width, kind):
    accum, best_of = precision.accum, collectives.warp_argmax(precision, width=width)

    @cuda.jit
    def kernel(x, best, where):
        t = cuda.threadIdx.x
        best[t], where[t] = best_of(x[t], int32(t))

    x = numbers(accum, 2 * WARP, kind)
    best, where = runs(device, kernel, x.size, device.array(x, accum), (None, accum), (None, np.int32))
    expected = np.argmax(x.reshape(-1, width), axis=1) + np.arange(0, x.size, width)
    np.testing.assert_array_equal(where, np.repeat(expected, width))
    np.testing.assert_array_equal(best.astype(np.float64), x[where])


@pytest.mark.parametrize("threads", BLOCKS)
def test_block_sum_and_argmax(device, precision, threads):
    """Twice with the same scratch at once, the second time of the numbers backwards; every thread gets the result."""
    accum = precision.accum
    total_of, best_of = collectives.block_sum(precision, threads), collectives.block_argmax(precision, threads)

    @cuda.jit
    def kernel(x, total, best, where):
        warps_s = cuda.shared.array(WARP, accum)
        key_s = cuda.shared.array(WARP, accum)
        where_s = cuda.shared.array(WARP, int32)
        t = cuda.threadIdx.x
        for again in range(2):
            i = int32(threads - 1 - t if again else t)
            total[again, t] = total_of(x[i], warps_s)
            best[again, t], where[again, t] = best_of(x[i], i, key_s, where_s)

    for kind in KINDS:
        x, two = numbers(accum, threads, kind), (2, threads)
        total, best, where = runs(device, kernel, threads, device.array(x, accum), (two, accum), (two, accum),
                                  (two, np.int32))
        with np.errstate(invalid="ignore"):
            for result, values in zip(total.astype(np.float64), (x, x[::-1])):
                warps = np.zeros(WARP)
                warps[:threads // WARP] = folded(values.reshape(-1, WARP), accum, np.add)
                np.testing.assert_array_equal(result, np.full(threads, folded(warps, accum, np.add)))
        np.testing.assert_array_equal(where, np.argmax(x))
        np.testing.assert_array_equal(best.astype(np.float64), x[np.argmax(x)])


@pytest.mark.parametrize("element", [int32, int64], ids=str)
@pytest.mark.parametrize("threads", BLOCKS)
def test_scans(device, threads, element):
    """Inclusive over a warp, exclusive over a block, with the block's sum; twice with the same scratch."""
    p, host = PRECISIONS["fp32"], np.dtype(str(element))
    over_warp, over_block = collectives.warp_scan[p], collectives.block_scan(p, threads)

    @cuda.jit
    def kernel(x, upto, before, total):
        sums_s = cuda.shared.array(WARP, element)
        t = cuda.threadIdx.x
        upto[t] = over_warp(x[t])
        for again in range(2):
            before[again, t], total[again, t] = over_block(x[threads - 1 - t if again else t], sums_s)

    x = np.random.default_rng(1).integers(-1000, 1000, threads).astype(host) * (1 if host == np.int32 else 2 ** 40)
    two = (2, threads)
    upto, before, total = runs(device, kernel, threads, device.array(x), (None, host), (two, host), (two, host))
    np.testing.assert_array_equal(upto, np.cumsum(x.reshape(-1, WARP), axis=1).ravel())
    np.testing.assert_array_equal(before, [np.cumsum(v) - v for v in (x, x[::-1])])
    np.testing.assert_array_equal(total, x.sum())


@pytest.mark.parametrize("combine, of", [(collectives.plus, np.add), (collectives.larger, np.maximum)],
                         ids=("plus", "larger"))
@pytest.mark.parametrize("rows, width", [(1, 32), (8, 32), (16, 16), (64, 2)], ids=str)
def test_columns(device, precision, rows, width, combine, of):
    """Over the rows of a tile, twice with the same scratch; every thread of a column gets its result."""
    accum, fold = precision.accum, collectives.column_fold(precision, rows, width, combine=combine)

    @cuda.jit
    def kernel(x, out):
        tile_s = cuda.shared.array((rows, width), accum)
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        out[0, ty, tx] = fold(x[ty, tx], tile_s)
        out[1, ty, tx] = fold(x[ty, width - 1 - tx], tile_s)

    for kind in KINDS:
        x = numbers(accum, (rows, width), kind)
        out, = runs(device, kernel, (width, rows), device.array(x, accum), ((2, rows, width), accum))
        with np.errstate(invalid="ignore"):
            expected = folded(x.T, accum, of)
        for result, row in zip(out.astype(np.float64), (expected, expected[::-1])):
            np.testing.assert_array_equal(result, np.broadcast_to(row, (rows, width)))


@pytest.mark.parametrize("rows", (1, 2, 64, 1024))
def test_halving_a_block_of_one_dimension(device, precision, rows):
    """Two arrays at once, of different types, by a merge of one's own; row 0 holds the result for its own thread."""
    accum = precision.accum

    @cuda.jit(device=True)
    def merge(both_s, i, j, c):
        sums_s, counts_s = both_s
        sums_s[i, c] += sums_s[j, c]
        counts_s[i] += counts_s[j]
    fold = collectives.halving(precision, merge, rows)

    @cuda.jit
    def kernel(x, total, count):
        sums_s = cuda.shared.array((rows, 1), accum)
        counts_s = cuda.shared.array(rows, int32)
        t = cuda.threadIdx.x
        sums_s[t, 0], counts_s[t] = x[t], t
        fold((sums_s, counts_s))
        if t == 0:
            total[0], count[0] = sums_s[0, 0], counts_s[0]

    x = numbers(accum, rows, "random")
    total, count = runs(device, kernel, rows, device.array(x, accum), ((1,), accum), ((1,), np.int32))
    assert total.astype(np.float64) == folded(x, accum, np.add) and count == rows * (rows - 1) // 2


def drawn(step, x, distances):
    for distance in distances:
        x = step(x, distance)
        yield x


def test_the_picture():
    """The lines of numbers in the chapter's docstring are what the steps make of its first one."""
    lines = [line.split() for line in collectives.__doc__.splitlines()]
    rows = [[int(word) if word != "." else None for word in line[i:i + 8]] for line in lines
            for i in [1 if line[:1] == ["has"] else 2] if line[:1] in (["has"], ["distance"], ["half"])]
    x, lanes = np.array(rows[0]), np.arange(8)
    butterfly = drawn(lambda x, d: x + x[lanes ^ d], x, (4, 2, 1))
    halved = drawn(lambda x, h: np.where(lanes < h, x + x[(lanes + h) % 8], x), x, (4, 2, 1))
    scanned = drawn(lambda x, d: np.where(lanes >= d, x + x[lanes - d], x), x, (1, 2, 4))
    assert len(rows) == 10
    for expected, row in zip(itertools.chain(butterfly, halved, scanned), rows[1:], strict=True):
        assert all(value in (None, e) for value, e in zip(row, expected))
