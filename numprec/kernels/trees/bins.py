"""Bins: a feature cut at its quantiles, so that a number becomes a byte.

Idea       Sort the values and walk along them: an edge stands where a bin has its share. A warp walks 32 at a time: a
           ballot marks the lanes that have an edge, as bits of an integer; the number of marks below its own (a
           popcount) is where a lane writes.
Maths      edges[f, 0] < edges[f, 1] < ... cut feature f into `bins` bins at most: code[n, f] = number of edges below
           X[f, n]. All BINS codes are bins, except where values are missing (NaN): their code is the last one.
           A run of equal values at [first, end) of `known` sorted values ends a bin if some multiple of known / bins
           lies in (first, end]; where there are no more than `bins` different values, each run does

    seven values and three bins: the multiples of 7/3 are 2.33, 4.67 and 7

        position   0    1    2    3    4    5    6
        value      1    1    1    4    5    5    9
        run        [0, 3) has 2.33: edge   [3, 4) has none   [4, 6) has 4.67: edge   [6, 7) is the last one
        edges      2.5 between 1 and 4, 7 between 5 and 9; the codes of 1, 4, 5, 9 are 0, 1, 1, 2

Shapes     X (D, N): storage, a feature is contiguous. edges (D, BINS): storage, the rest filled up with
           infinity. codes (N, D): uint8, a row is contiguous
Mapping    picked: a thread per sampled value, per feature, per element. quantiles: a block per feature, a thread per
           element. Both take CAPACITY values of a feature at most: the least, the largest, others evenly spread
Precision  an edge is cut(a, b) of two neighbours a < b: a/2 + b/2, which cannot overflow, each half and the sum
           rounded by itself, and the sum to storage; where that rounds onto b it is a, so that a <= edge < b holds in
           every format
Ladder     picked     each value counts those before it; one thread walks along them; each row looks at every edge
           quantiles  a block sorts in shared memory, its first warp walks, each row bisects
Cost       edges 3 flops each, X read, edges and codes written
Sources    [1] G. Ke et al., LightGBM: A highly efficient gradient boosting decision tree, NeurIPS 2017
"""

import numpy as np
from numba import cuda, int32, int64

from numprec.kernels.reductions.collectives import ALL_LANES, WARP, block_argmax
from numprec.kernels.trees.sort import CAPACITY, THREADS, block_sort, follows
from numprec.language.formats import constant
from numprec.language.instructions import add_rn
from numprec.language.ladder import draw, helper, operation, rung

BINS = 256


# ---- oracle

def oracle(X):
    """Edges and codes; the walk above, on the whole column."""
    D, bins = len(X), bins_of(X)
    X = X.astype(np.float64)
    edges = np.full((D, BINS), np.inf)
    for f in range(D):
        x, counts = np.unique(X[f][~np.isnan(X[f])], return_counts=True)
        upto = np.cumsum(counts)[:-1] * bins // counts.sum()
        chosen = np.arange(len(x) - 1) if len(x) <= bins else np.flatnonzero(np.diff(upto, prepend=0))
        edges[f, :len(chosen)] = x[chosen] / 2 + x[chosen + 1] / 2
    codes = np.stack([np.searchsorted(edges[f], X[f]) for f in range(D)], axis=1)
    return edges, np.where(np.isnan(X.T), BINS - 1, codes)


def bins_of(X):
    """How many of the codes are bins."""
    return BINS - bool(np.isnan(X.astype(np.float64)).any())


# ---- device functions

@helper
def cut(p):
    """cut(a, b): the threshold between the numbers a < b of the storage format; infinity where b is missing."""
    storage, accum, infinity = p.storage, p.accum, constant(p.storage, np.inf)

    @cuda.jit(device=True)
    def cut(a, b):
        if b != b:
            return infinity()
        middle = storage(add_rn(a / accum(2), b / accum(2)))
        return middle if accum(middle) < b else storage(a)
    return cut


@cuda.jit(device=True)
def ends_a_bin(first, end, known, distinct, bins):
    """Whether an edge stands behind the run of equal values at [first, end) of `known` sorted ones."""
    return distinct <= bins or end * bins // known > first * bins // known


# ---- kernels, slowest first

@rung
def picked(p):
    accum, between, infinity = p.accum, cut[p], constant(p.storage, np.inf)

    @cuda.jit
    def bins_sample(X, sample):
        """A thread per value: of at most CAPACITY rows, evenly spread, but first the least one and last the largest."""
        j, f = cuda.grid(2)
        N, M = X.shape[1], sample.shape[1]
        if j < M:
            chosen = int64(j) * N // M
            if N > M and (j == 0 or j == M - 1):
                chosen = int64(0)
                for n in range(N):
                    x, best = accum(X[f, n]), accum(X[f, chosen])
                    if x == x and (not best <= x if j == 0 else not best >= x):
                        chosen = int64(n)
            sample[f, j] = X[f, chosen]

    @cuda.jit
    def bins_ranks(sample, ascending):
        """A thread per value: its place is the number of those that come before it."""
        j, f = cuda.grid(2)
        if j < sample.shape[1]:
            a, rank = accum(sample[f, j]), 0
            for i in range(sample.shape[1]):
                if follows(a, j, accum(sample[f, i]), i):
                    rank += 1
            ascending[f, rank] = sample[f, j]

    @cuda.jit
    def bins_pick(ascending, bins, edges):
        """A thread per feature."""
        f = cuda.grid(1)
        if f < ascending.shape[0]:
            M, known, distinct = ascending.shape[1], 0, 1
            for i in range(M):
                x = accum(ascending[f, i])
                if x == x:
                    known += 1
                if i + 1 < M and x < accum(ascending[f, i + 1]):
                    distinct += 1
            written, first = 0, 0
            for end in range(1, M):
                a, b = accum(ascending[f, end - 1]), accum(ascending[f, end])
                if a < b:
                    if ends_a_bin(first, end, known, distinct, bins):
                        edges[f, written] = between(a, b)
                        written += 1
                    first = end
            for b in range(written, BINS):
                edges[f, b] = infinity()

    @cuda.jit
    def bins_compare(X, edges, codes):
        """A thread per element: the number of edges below it. A missing value is beyond them all."""
        n, f = cuda.grid(2)
        if n < X.shape[1]:
            x, code = accum(X[f, n]), 0
            for b in range(BINS - 1):
                if not x <= accum(edges[f, b]):
                    code += 1
            codes[n, f] = code
    return bins_sample, bins_ranks, bins_pick, bins_compare


@cuda.jit(device=True)
def lanes_upto_last(mask):
    """One more than the highest lane whose bit is set."""
    return WARP - cuda.clz(int32(mask))


@rung
def quantiles(p):
    storage, accum, sort, between, over_block = p.storage, p.accum, block_sort[p], cut[p], block_argmax[p]
    infinity, lowest = constant(p.storage, np.inf), constant(p.accum, -p.accum.max)

    @cuda.jit
    def bins_edges(X, bins, edges):
        """A block per feature. Warp 0 writes the edges side by side."""
        x_s = cuda.shared.array(CAPACITY, storage)
        place_s = cuda.shared.array(CAPACITY, int32)
        key_s = cuda.shared.array(WARP, accum)
        where_s = cuda.shared.array(WARP, int32)
        t = cuda.threadIdx.x
        f = cuda.blockIdx.x
        N = X.shape[1]
        M = min(N, CAPACITY)
        for i in range(t, M, THREADS):
            x_s[i], place_s[i] = X[f, int64(i) * N // M], i
        if N > M:
            low, high = int32(0), int32(0)
            for n in range(t, N, THREADS):
                x = accum(X[f, n])
                if x == x:
                    low = int32(n) if not accum(X[f, low]) <= x else low
                    high = int32(n) if not accum(X[f, high]) >= x else high
            least, most = -accum(X[f, low]), accum(X[f, high])
            _, low = over_block(least if least == least else lowest(), low, key_s, where_s)
            _, high = over_block(most if most == most else lowest(), high, key_s, where_s)
            if t == 0:
                x_s[0], x_s[M - 1] = X[f, low], X[f, high]
        sort(x_s, place_s, M)
        for b in range(t, BINS, THREADS):
            edges[f, b] = infinity()
        cuda.syncthreads()    # everything is sorted, and written
        if t < WARP:
            below = (1 << t) - 1    # a bit for each lane below one's own
            distinct = 1
            known = 0               # of the M values; those that are missing come last
            for i0 in range(0, M, WARP):
                i = i0 + t
                x = accum(x_s[min(i, M - 1)])
                ends = i + 1 < M and x < accum(x_s[min(i + 1, M - 1)])
                distinct += cuda.popc(cuda.ballot_sync(ALL_LANES, ends))
                known += cuda.popc(cuda.ballot_sync(ALL_LANES, i < M and x == x))
            written = 0
            begin = 0               # of the run that goes on from the 32 values before
            for i0 in range(0, M, WARP):
                i = i0 + t
                ends = i + 1 < M and accum(x_s[i]) < accum(x_s[min(i + 1, M - 1)])
                ending = cuda.ballot_sync(ALL_LANES, ends)    # the lanes at which a run ends
                first = begin                                 # one's own run begins after the last of them
                if ending & below != 0:
                    first = i0 + lanes_upto_last(ending & below)
                chosen = ends and ends_a_bin(first, i + 1, known, distinct, bins)
                choosing = cuda.ballot_sync(ALL_LANES, chosen)
                if chosen:
                    edges[f, written + cuda.popc(choosing & below)] = between(accum(x_s[i]), accum(x_s[i + 1]))
                written += cuda.popc(choosing)
                if ending != 0:
                    begin = i0 + lanes_upto_last(ending)

    @cuda.jit
    def bins_codes(X, edges, codes):
        """The number of edges below x, by bisection: edges[f, :low] < x <= edges[f, high:]."""
        n, f = cuda.grid(2)
        if n < X.shape[1] and f < X.shape[0]:
            x = accum(X[f, n])
            low, high = 0, BINS - 1
            while low < high:
                middle = (low + high) // 2
                if not x <= accum(edges[f, middle]):    # a missing value is beyond them all
                    low = middle + 1
                else:
                    high = middle
            codes[n, f] = low
    return bins_edges, bins_codes


# ---- host side

def quantise(device, precision, X, bins=BINS, rung=quantiles):
    """edges and codes of X (D, N); `bins` is BINS, or one less where values are missing."""
    D, N = X.shape
    edges, codes = device.empty((D, BINS), precision.storage), device.empty((N, D), np.uint8)
    each = -(-N // THREADS), D    # blocks of a thread per element
    if rung is quantiles:
        make_edges, make_codes = rung[precision]
        device.launch(make_edges, D, THREADS, X, bins, edges)
    else:
        make_sample, make_ranks, pick, make_codes = rung[precision]
        sample, ascending = (device.empty((D, min(N, CAPACITY)), precision.storage) for _ in range(2))
        device.launch(make_sample, each, THREADS, X, sample)
        device.launch(make_ranks, each, THREADS, sample, ascending)
        device.launch(pick, -(-D // WARP), WARP, ascending, bins, edges)
    device.launch(make_codes, each, THREADS, X, edges, codes)
    return edges, codes


def launch(device, rung, precision, X):
    return quantise(device, precision, X, bins_of(device.to_host(X)), rung)


# ---- how it is judged

def readout(results, X):
    edges, codes = (r.astype(np.float64) for r in results)
    most = np.where(np.isnan(X.T.astype(np.float64)), 0, codes).max(axis=0)
    return np.where(np.arange(BINS) < most[:, None], edges, np.inf), codes


def error_bound(precision, X):
    """Rounding to storage; where an edge moves to its left neighbour, it moves by no more than that."""
    edges, codes = oracle(X)
    rounded = 2 * precision.storage.u * np.abs(edges) + precision.storage.eta
    return np.where(np.isfinite(edges), rounded, 0), np.zeros(codes.shape)


def cost(precision, D, N):
    return {"flops": 3 * D * min(N, BINS), "bytes": (N + BINS) * D * precision.storage.bytes + N * D}


def inputs(rng, shape, kind, precision):
    """The first feature has few values, the others many; of the last of several, some are missing."""
    X = draw(rng, shape, "large" if kind == "overflow" else kind, precision) * rng.choice([-1, 1], shape)
    X[0] = rng.choice(X[0, :9], shape[1])
    if len(X) > 2:
        X[-1, ::7] = np.nan
    return X,


operation("bins", oracle=oracle, readout=readout, error_bound=error_bound, cost=cost, launch=launch, inputs=inputs,
          shapes=((1, 1), (1, 2), (3, 31), (2, 300), (5, 257), (2, CAPACITY)),
          bench_shapes={"smoke": (4, 1000), "quick": (8, 2048), "full": (32, 1_000_000)},
          cost_differs="Every value is compared with all others, and a column of few values has fewer edges.")
