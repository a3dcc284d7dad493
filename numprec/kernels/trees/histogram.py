"""Histograms of the classes in a node, over the bins of every feature.

Idea       Integers may be added in any order. So threads add atomically to a histogram in their block's shared memory;
           then each block adds it to the global one.
Maths      counts[f, b, c] = number (or weight) of the rows n with code[n, f] = b and y[n] = c (see bins)
Shapes     codes (N, D): uint8, a row is contiguous. y (N,): int32. counts (D, BINS, K): int32, or int64 where
           rows have weights; K = C, or C + 1 with weights: the last column counts rows
Mapping    a job is a node to be counted; its rows are cut into chunks, which the blocks take one after the other.
           In `private`, thread e of a block counts feature e % G of row e // G, so that G neighbours read the codes
           of one row side by side

        two jobs of 3000 and 2000 rows, in chunks of 2048

        chunk      0            1            2
        job        0            0            1
        rows       0 .. 2047    2048 .. 2999    0 .. 1999
        jobs       CHUNK 0, COUNT 3000          CHUNK 2, COUNT 2000      (CHUNK: the first of a job's chunks)

Precision  counts are integers: exact, and the same in whatever order they come; float16 could not count beyond 2048.
           Weights are integers too, scaled
Ladder     direct   every thread adds to the histogram in global memory
           private  a block adds to a histogram of its own in shared memory and hands on what it counted at the end
Cost       N D additions of integers, N D codes and N labels read, counts written
Sources    [1] G. Ke et al., LightGBM: A highly efficient gradient boosting decision tree, NeurIPS 2017
           [2] NVIDIA, CUDA C++ Best Practices Guide, section "Shared Memory"
"""
import numpy as np
from numba import cuda, int32, int64

from numprec.kernels.trees.bins import BINS
from numprec.kernels.trees.sort import THREADS
from numprec.language.columns import columns
from numprec.language.ladder import operation, rung


# ---- oracle

def oracle(codes, y):
    counts = np.zeros((codes.shape[1], BINS, y.max() + 1))
    np.add.at(counts, (np.arange(codes.shape[1]), codes, y[:, None]), 1)
    return counts


CELLS = 4096             # counters of a block's own histogram
CHUNK = 2048             # rows that a block counts before it hands them on
BLOCKS = 1024            # at most, where blocks walk over a list

Job = columns("Job", "CHUNK START COUNT SLOT")    # of jobs: its first chunk, its rows by place, its histogram in counts
Total = columns("Total", "JOBS CHUNKS ACTIVE SMALL")    # of totals: how many there are, of each


# ---- device functions

def types_of(weighted):
    """The Numba type of a count, and how many columns a histogram has beyond the classes."""
    return (int64, 1) if weighted else (int32, 0)


@cuda.jit(device=True)
def piece_of(chunk, jobs, totals):
    """The rows of a chunk by their places, first and number, and the histogram that they belong to."""
    low, high = 0, totals[Total.JOBS] - 1
    while low < high:    # its job is the last one whose chunks begin at it or before
        middle = (low + high + 1) // 2
        if jobs[middle, Job.CHUNK] <= chunk:
            low = middle
        else:
            high = middle - 1
    before = (chunk - jobs[low, Job.CHUNK]) * CHUNK
    return jobs[low, Job.START] + before, min(CHUNK, jobs[low, Job.COUNT] - before), jobs[low, Job.SLOT]


# ---- kernels, slowest first. rows (N,): the row at each place; counts (slots, D, BINS, K)

@rung
def direct(p, weighted=False):
    count, extra = types_of(weighted)

    @cuda.jit
    def histogram_direct(codes, y, w, rows, jobs, totals, counts):
        D, C = codes.shape[1], counts.shape[3] - extra
        for chunk in range(cuda.blockIdx.x, totals[Total.CHUNKS], cuda.gridDim.x):
            first, size, slot = piece_of(chunk, jobs, totals)
            for e in range(cuda.threadIdx.x, size * D, cuda.blockDim.x):
                row, f = rows[first + e // D], e % D
                cell = counts[slot, f, codes[row, f]]
                cuda.atomic.add(cell, y[row], w[row] if weighted else count(1))
                if weighted:
                    cuda.atomic.add(cell, C, count(1))
    return histogram_direct


@rung
def private(p, weighted=False):
    count, extra = types_of(weighted)

    @cuda.jit
    def histogram_private(codes, y, w, rows, jobs, totals, counts):
        """A block has a group of G features, 2 ** log of them, and of L columns."""
        own_s = cuda.shared.array(CELLS, count)    # own_s[(g * BINS + b) * L + k]
        D, K = codes.shape[1], counts.shape[3]
        C = K - extra
        L = min(K, CELLS // BINS)
        log = 0
        while log < 5 and (2 << log) * BINS * L <= CELLS and (1 << log) < D:
            log += 1
        G = 1 << log
        f0, k0 = cuda.blockIdx.y * G, cuda.blockIdx.z * L
        t = cuda.threadIdx.x
        for chunk in range(cuda.blockIdx.x, totals[Total.CHUNKS], cuda.gridDim.x):
            first, size, slot = piece_of(chunk, jobs, totals)
            for cell in range(t, G * BINS * L, cuda.blockDim.x):
                own_s[cell] = count(0)
            cuda.syncthreads()    # own_s is empty
            for e in range(t, size << log, cuda.blockDim.x):
                g = e & (G - 1)
                if f0 + g < D:
                    row = rows[first + (e >> log)]
                    place = (g * BINS + int32(codes[row, f0 + g])) * L - k0
                    if k0 <= y[row] < k0 + L:
                        cuda.atomic.add(own_s, place + y[row], w[row] if weighted else count(1))
                    if weighted and k0 <= C < k0 + L:
                        cuda.atomic.add(own_s, place + C, count(1))
            cuda.syncthreads()    # own_s is complete
            for cell in range(t, G * BINS * L, cuda.blockDim.x):
                f, k = f0 + cell // (BINS * L), k0 + cell % L
                if f < D and k < K and own_s[cell] != 0:
                    cuda.atomic.add(counts, (slot, f, cell // L % BINS, k), own_s[cell])
            cuda.syncthreads()    # everyone has handed on; the next chunk may begin
    return histogram_private


# ---- host side

def grid_of(rung, chunks, D, K):
    """The grid of a rung, for at most `chunks` chunks."""
    if rung is direct:
        return min(chunks, BLOCKS)
    L = min(K, CELLS // BINS)
    G = 1
    while G < 32 and 2 * G * BINS * L <= CELLS and G < D:
        G *= 2
    return min(chunks, BLOCKS), -(-D // G), -(-K // L)


def launch(device, rung, precision, codes, y, C=None, w=None):
    """counts of all rows."""
    N, D = codes.shape
    C = int(device.to_host(y).max()) + 1 if C is None else C
    weighted = w is not None
    counts = device.zeros((1, D, BINS, C + weighted), np.int64 if weighted else np.int32)
    jobs = device.array(np.array([[0, 0, N, 0]], np.int32))
    totals = device.array(np.array([1, -(-N // CHUNK)], np.int32))
    rows = device.array(np.arange(N, dtype=np.int32))
    device.launch(rung.variant(precision, weighted=weighted), grid_of(rung, -(-N // CHUNK), D, C + weighted), THREADS,
                  codes, y, w if weighted else y, rows, jobs, totals, counts)
    return counts.reshape(counts.shape[1:])


# ---- how it is judged

def error_bound(precision, *arrays):
    return 0


def cost(precision, N, D, C):
    return {"flops": 0, "bytes": N * D + 4 * N + 4 * D * BINS * C}


def inputs(rng, shape, kind, precision):
    N, D, C = shape
    y = rng.integers(0, C, N)
    y[0] = C - 1
    return rng.integers(0, BINS, (N, D)).astype(np.uint8), y.astype(np.int32)


operation("histogram", oracle=oracle, error_bound=error_bound, launch=launch, cost=cost, inputs=inputs,
          shapes=((1, 1, 1), (33, 3, 2), (257, 5, 3), (CHUNK + 1, 2, 17), (100, 33, 40)),
          bench_shapes={"smoke": (1000, 4, 3), "quick": (10_000, 8, 3), "full": (1_000_000, 32, 2)},
          cost_differs="Counters are read before they are written, those of zero are neither, and the rows are a list.")
