"""Order of a column: which element is the smallest, which the next, ...

Idea       A network of comparisons that does not depend on the data: all pairs of a step at once, a thread for each.
Maths      order is the permutation with x[order[0]] <= x[order[1]] <= ..., and then NaNs; equal elements, and NaNs,
           stay in order of their index
Shapes     x (n,): storage, n <= CAPACITY for bitonic. order (n,): int32
Mapping    ranks: a thread per element; bitonic: one block, a thread per pair to compare, x and order in shared memory
Precision  exact
Ladder     ranks    a thread counts the elements that come before its own: n^2 comparisons, nothing shared
           bitonic  runs of 1, 2, 4, ... are merged in log2 of their length parallel steps, n log2(n)^2 / 4
                    comparisons in all. Every comparison leaves the smaller element at the lower index, also in the
                    first step of a merge, which meets the elements of the second run in reverse: so a run that ends
                    early may be thought of as filled up with infinities, and n need not be a power of two

    two sorted runs of four become one of eight; 0-7: elements 0 and 7 are compared, and perhaps exchanged

        index            0  1  2  3 | 4  5  6  7
        before           1  4  6  7 | 2  3  5  8
        0-7 1-6 2-5 3-4  1  4  3  2 | 7  6  5  8     the second run in reverse: all of the left half <= all of the right
        0-2 1-3 4-6 5-7  1  2  3  4 | 5  6  7  8     elements 2 apart, in either half
        0-1 2-3 4-5 6-7  1  2  3  4   5  6  7  8     neighbours

Cost       n log2(n) comparisons, no flops; n elements read, n indices written
Sources    K. E. Batcher, Sorting networks and their applications, AFIPS Spring Joint Computing Conference, 1968
           D. E. Knuth, The Art of Computer Programming, vol. 3, 2nd ed., 1998, section 5.3.4
"""

import numpy as np
from numba import cuda, int32

from numprec.language.ladder import draw, helper, operation, rung


# ---- oracle

def oracle(x):
    return np.argsort(x.astype(np.float64), kind="stable")


THREADS = 256
CAPACITY = 2048          # elements that bitonic holds in shared memory


# ---- kernels, slowest first

@cuda.jit(device=True)
def follows(a, i, b, j):
    """Whether a, at index i, comes after b, at index j."""
    if a != a or b != b:
        return a != a and (b == b or j < i)
    return b < a or (b == a and j < i)


@cuda.jit(device=True)
def pairs(n, log):
    """Pairs of elements 2^log apart: a group of 2^(log + 1) elements has 2^log of them, and the last one may be cut
    short."""
    groups = (n - 1 >> (log + 1)) + 1
    return groups << log


@rung
def ranks(p):
    accum = p.accum

    @cuda.jit
    def sort_ranks(x, order):
        i = cuda.grid(1)
        if i < x.size:
            a = accum(x[i])
            rank = 0
            for j in range(x.size):
                if follows(a, i, accum(x[j]), j):
                    rank += 1
            order[rank] = i
    return sort_ranks


@helper
def block_sort(p):
    """block_sort(x, order, n): sorts both by (x, order), in place, in shared or global memory.

    The block enters together. Synchronises at entry and exit.
    """
    accum = p.accum

    @cuda.jit(device=True)
    def compare(x, order, i, j):
        if follows(accum(x[i]), order[i], accum(x[j]), order[j]):
            x[i], x[j] = x[j], x[i]
            order[i], order[j] = order[j], order[i]

    @cuda.jit(device=True)
    def block_sort(x, order, n):
        t = cuda.threadIdx.x
        log = 0
        while (1 << log) < n:
            half = 1 << log
            cuda.syncthreads()    # runs of `half` are sorted
            for pair in range(t, pairs(n, log), cuda.blockDim.x):
                merge, k = pair >> log, pair & (half - 1)    # the k-th pair of that merge
                j = (merge + 1) * 2 * half - 1 - k           # counted from the end of its second run
                if j < n:
                    compare(x, order, merge * 2 * half + k, j)
            for step in range(log - 1, -1, -1):
                apart = 1 << step
                cuda.syncthreads()    # within 2 `apart`, no element of a lower half is beyond one of an upper half
                for pair in range(t, pairs(n, step), cuda.blockDim.x):
                    i = (pair >> step) * 2 * apart + (pair & (apart - 1))
                    if i + apart < n:
                        compare(x, order, i, i + apart)
            log += 1
        cuda.syncthreads()
    return block_sort


@rung
def bitonic(p):
    storage, sort = p.storage, block_sort[p]

    @cuda.jit
    def sort_bitonic(x, order):
        x_s = cuda.shared.array(CAPACITY, storage)
        order_s = cuda.shared.array(CAPACITY, int32)
        for i in range(cuda.threadIdx.x, x.size, cuda.blockDim.x):
            x_s[i], order_s[i] = x[i], i
        sort(x_s, order_s, x.size)
        for i in range(cuda.threadIdx.x, x.size, cuda.blockDim.x):
            order[i] = order_s[i]
    return sort_bitonic


# ---- host side

def launch(device, rung, precision, x):
    order = device.empty(x.size, np.int32)
    blocks = 1 if rung is bitonic else -(-x.size // THREADS)
    device.launch(rung[precision], blocks, THREADS, x, order)
    return order


# ---- how it is judged

def error_bound(precision, *arrays):
    return 0


def cost(precision, n):
    return {"flops": 0, "bytes": n * (precision.storage.bytes + 4)}


def inputs(rng, shape, kind, precision):
    """Every second element is drawn from few, so that some are equal; both ends of the range occur, and NaNs."""
    x = draw(rng, shape, "large" if kind == "overflow" else kind, precision)
    x[::2] = rng.choice(x, x[::2].shape)
    x[5::9] = np.nan
    return x * rng.choice([-1, 1], shape),


operation(
    "sort", oracle=oracle, error_bound=error_bound, launch=launch, cost=cost, inputs=inputs,
    shapes=((1,), (2,), (3,), (31,), (64,), (65,), (257,), (1000,), (CAPACITY,)),
    bench_shapes={"smoke": (150,), "quick": (1000,), "full": (CAPACITY,)})
