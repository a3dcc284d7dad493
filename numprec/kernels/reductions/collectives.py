"""Collectives: the threads of a warp, or of a block, make one result of what each of them has.

Idea       Half of the threads add what the other half has, then half of those, ...: log2(n) steps instead of n - 1.
           Below, eight lanes with the numbers in the first line stand for a warp of 32.

    warp_sum: registers, exchanged by shuffles; each lane gets the sum
        lane             0    1    2    3    4    5    6    7
        has              3    1    4    1    5    9    2    6
        distance 4       8   10    6    7    8   10    6    7      lane i adds what lane i xor 4 has
        distance 2      14   17   14   17   14   17   14   17      ... what lane i xor 2 has
        distance 1      31   31   31   31   31   31   31   31      ... what lane i xor 1 has

    halving: shared memory, with a barrier before each step; row 0 gets the sum
        half 4           8   10    6    7    .    .    .    .      row i adds row i + 4
        half 2          14   17    .    .    .    .    .    .      ... row i + 2
        half 1          31    .    .    .    .    .    .    .      ... row i + 1

    warp_scan: each lane gets the sum of the lanes up to itself
        distance 1       3    4    5    5    6   14   11    8      lane i adds what lane i - 1 has, if there is one
        distance 2       3    4    8    9   11   19   17   22      ... what lane i - 2 has
        distance 4       3    4    8    9   14   23   25   31      ... what lane i - 4 has

Mapping    A warp needs no barrier: its lanes shuffle together. A block first reduces each warp, leaves one number per
           warp in shared memory, and lets every warp reduce those: two barriers, whatever the size of the block.
           All threads of the warp or the block must arrive: a shuffle or a barrier inside an `if` that some of them
           skip waits for lanes that never come
Precision  values travel as bits, since Numba shuffles no float16; sums are in the type of what is added. Each lane adds
           the same pairs, and a + b is b + a: the sum is the same bits in all lanes, and on every run
Cost       warp: 5 shuffles a value. Block: 10 a value and 2 barriers; a block's scan 5, and a loop over
           the sums of the warps. Halving n rows: log2(n) barriers
Sources    M. Harris, Optimizing Parallel Reduction in CUDA, NVIDIA, 2007
           W. D. Hillis and G. L. Steele, Data parallel algorithms, Comm. ACM 29(12), 1986 (the scan)
"""
from numba import cuda

from numprec.language.instructions import bits, number
from numprec.language.ladder import helper

WARP = 32                # lanes
ALL_LANES = 0xFFFFFFFF   # all of them take part in a shuffle: a bit each
THREADS = 256            # of a block, where nothing else is said: a multiple of the warp


# ---- what becomes of two values: combine(a, b)

@helper
def plus(p):
    @cuda.jit(device=True)
    def plus(a, b):
        return a + b
    return plus


@helper
def larger(p):
    """The larger one; a NaN where either is one, as NumPy's maximum."""
    @cuda.jit(device=True)
    def larger(a, b):
        return b if a == a and not b <= a else a
    return larger


@helper
def beats(p):
    """beats(b, j, a, i): whether key b at index j wins over key a at index i. The larger key wins, a NaN over every
    number; of equal keys, and of NaNs, the one with the lower index."""
    @cuda.jit(device=True)
    def beats(b, j, a, i):
        if b != b or a != a:
            return b != b and (a == a or j < i)
        return b > a or (b == a and j < i)
    return beats


# ---- over a warp

@helper
def warp_fold(p, combine=plus, width=WARP):
    """warp_fold(x): what `combine` makes of the x of `width` neighbours (a power of two), in each of their lanes."""
    combine = combine[p]

    @cuda.jit(device=True)
    def warp_fold(x):
        distance = width // 2
        while distance > 0:
            x = combine(x, number(cuda.shfl_xor_sync(ALL_LANES, bits(x), distance), x))
            distance //= 2
        return x
    return warp_fold


@helper
def warp_sum(p, width=WARP):
    """warp_sum(x): the sum of the x of `width` neighbours (a power of two), the same bits in each of their lanes."""
    return warp_fold(p, width=width)


@helper
def warp_argmax(p, width=WARP):
    """warp_argmax(a, i): the best (key, index) of `width` neighbours (a power of two), in each of their lanes."""
    wins = beats[p]

    @cuda.jit(device=True)
    def warp_argmax(a, i):
        distance = width // 2
        while distance > 0:
            b = number(cuda.shfl_xor_sync(ALL_LANES, bits(a), distance), a)
            j = cuda.shfl_xor_sync(ALL_LANES, i, distance)
            if wins(b, j, a, i):
                a, i = b, j
            distance //= 2
        return a, i
    return warp_argmax


@helper
def warp_scan(p):
    """warp_scan(x): the sum of x over the lanes up to one's own (an inclusive scan); x is an integer."""
    @cuda.jit(device=True)
    def warp_scan(x):
        lane, distance = cuda.laneid, 1
        while distance < WARP:
            below = cuda.shfl_up_sync(ALL_LANES, x, distance)
            if lane >= distance:
                x += below
            distance *= 2
        return x
    return warp_scan


# ---- over a one-dimensional block. Each synchronises at entry: the same scratch may be used again at once

@helper
def block_sum(p, threads=THREADS):
    """block_sum(acc, warps_s): the sum over the block, the same bits in each of its threads.

    `warps_s`: shared memory, WARP elements of accum.
    """
    accum, over_warp, warps = p.accum, warp_sum[p], threads // WARP

    @cuda.jit(device=True)
    def block_sum(acc, warps_s):
        lane = cuda.threadIdx.x % WARP
        acc = over_warp(acc)
        cuda.syncthreads()    # everyone is done with the scratch
        if lane == 0:
            warps_s[cuda.threadIdx.x // WARP] = acc
        cuda.syncthreads()    # each warp has left its sum
        return over_warp(warps_s[lane] if lane < warps else accum(0))
    return block_sum


@helper
def block_argmax(p, threads=THREADS):
    """block_argmax(a, i, key_s, where_s): the best (key, index) of the block, in each of its threads.

    `key_s` (accum) and `where_s` (int32) are shared and WARP long.
    """
    over_warp, warps = warp_argmax[p], threads // WARP

    @cuda.jit(device=True)
    def block_argmax(a, i, key_s, where_s):
        lane = cuda.threadIdx.x % WARP
        a, i = over_warp(a, i)
        cuda.syncthreads()    # everyone is done with the scratch
        if lane == 0:
            key_s[cuda.threadIdx.x // WARP], where_s[cuda.threadIdx.x // WARP] = a, i
        cuda.syncthreads()    # each warp has left its best
        w = lane if lane < warps else 0
        return over_warp(key_s[w], where_s[w])
    return block_argmax


@helper
def block_scan(p, threads=THREADS):
    """block_scan(x, sums_s): the sums of x over the threads before one's own (an exclusive scan), and over all; x is
    an integer.

    `sums_s` is shared, WARP long, of the type of x.
    """
    over_warp, warps = warp_scan[p], threads // WARP

    @cuda.jit(device=True)
    def block_scan(x, sums_s):
        upto = over_warp(x)
        cuda.syncthreads()    # everyone is done with the scratch
        if cuda.laneid == WARP - 1:
            sums_s[cuda.threadIdx.x // WARP] = upto
        cuda.syncthreads()    # each warp has left its sum
        before, total = upto - x, x - x
        for v in range(warps):
            if v < cuda.threadIdx.x // WARP:
                before += sums_s[v]
            total += sums_s[v]
        return before, total
    return block_scan


# ---- over the rows of a tile in shared memory

@helper
def merge_rows(p, combine=plus):
    """merge_rows(tile_s, i, j, c): element [j, c] into element [i, c]."""
    combine = combine[p]

    @cuda.jit(device=True)
    def merge_rows(tile_s, i, j, c):
        tile_s[i, c] = combine(tile_s[i, c], tile_s[j, c])
    return merge_rows


@helper
def halving(p, merge, rows, width=1):
    """halving(tile_s): merges all `rows` (a power of two) of tile_s[row, c] into row 0, for each column c of `width`.

    `merge(tile_s, i, j, c)` is a device function such as `merge_rows[p]`; tile_s is whatever it takes. The block is
    (rows,) with `width` 1, else (width, rows), and each thread has written its own element. There is no barrier at the
    end: the threads of row 0 may read their column at once, the others after `cuda.syncthreads()`.
    """
    @cuda.jit(device=True)
    def halving(tile_s):
        c = cuda.threadIdx.x if width > 1 else 0
        row = cuda.threadIdx.y if width > 1 else cuda.threadIdx.x
        half = rows // 2
        while half > 0:
            cuda.syncthreads()    # rows [0, 2 half) are complete
            if row < half:
                merge(tile_s, row, row + half, c)
            half //= 2
    return halving


@helper
def column_fold(p, rows, width, combine=plus):
    """column_fold(x, tile_s): what `combine` makes of the x of the threads of a block (width, rows) with the same
    threadIdx.x, in each of them. `tile_s` (rows, width) is shared. Synchronises at entry: the same scratch may be used
    again at once."""
    fold = halving(p, merge_rows(p, combine=combine), rows, width)

    @cuda.jit(device=True)
    def column_fold(x, tile_s):
        cuda.syncthreads()    # everyone is done with the scratch
        tile_s[cuda.threadIdx.y, cuda.threadIdx.x] = x
        fold(tile_s)
        cuda.syncthreads()    # row 0 is complete
        return tile_s[0, cuda.threadIdx.x]
    return column_fold


@helper
def column_sum(p, rows, width):
    """column_sum(x, tile_s): as `column_fold`, the sum."""
    return column_fold(p, rows, width)
