"""Bins: a feature cut at its quantiles, so that a number becomes a byte.

Maths      edges[f, 0] < edges[f, 1] < ... cut feature f into `bins` bins at most: code[n, f] = number of edges below
           X[f, n]. All BINS codes are bins, except where values are missing (NaN): their code is the last one
Shapes     X (D, N): storage, a feature is contiguous. edges (D, BINS): storage, the rest filled up with
           infinity. codes (N, D): uint8, a row is contiguous
Mapping    edges: a block per feature. codes: a thread per element
Precision  an edge is cut(a, b) of two neighbours a < b: a/2 + b/2, which cannot overflow, each half and the sum
           rounded by itself, and the sum to storage; where that rounds onto b it is a, so that a <= edge < b holds in
           every format
Ladder     one step
Cost       edges 3 flops each, X read, edges and codes written
Sources    [1] G. Ke et al., LightGBM: A highly efficient gradient boosting decision tree, NeurIPS 2017
"""
from functools import lru_cache

import numpy as np
from numba import cuda, int32, int64

from numprec.kernels.reductions.argmax import block_argmax
from numprec.kernels.reductions.reduce import ALL_LANES, WARP
from numprec.kernels.trees.sort import CAPACITY, THREADS, block_sort
from numprec.language.instructions import add_rn, number
from numprec.language.ladder import draw, operation, rung

BINS = 256


# ---- oracle

def oracle(X):
    """Where there are few values, between all neighbours; else where the count of those that are not missing crosses a
    multiple of its share of a bin."""
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


def readout(results, X):
    edges, codes = (r.astype(np.float64) for r in results)
    most = np.where(np.isnan(X.T.astype(np.float64)), 0, codes).max(axis=0)
    return np.where(np.arange(BINS) < most[:, None], edges, np.inf), codes


def error_bound(precision, X):
    """Rounding to storage; where an edge moves to its left neighbour, it moves by no more than that."""
    edges, codes = oracle(X)
    rounded = 2 * precision.storage.u * np.abs(edges) + precision.storage.eta
    return np.where(np.isfinite(edges), rounded, 0), np.zeros(codes.shape)


# ---- edges and codes

def word(fmt, value):
    """The bits of `value` in a format, for `number`: Numba cannot write a float16 that is closed over."""
    return int(fmt.round(np.array([value])).view(f"i{fmt.bytes}")[0])


@lru_cache(maxsize=None)
def cut(p):
    """cut(a, b): the threshold between the numbers a < b of the storage format; infinity where b is missing."""
    storage, accum, infinity = p.storage, p.accum, word(p.storage, np.inf)

    @cuda.jit(device=True)
    def cut(a, b):
        if b != b:
            return number(infinity, storage(0))
        middle = storage(add_rn(a / accum(2), b / accum(2)))
        return middle if accum(middle) < b else storage(a)
    return cut


@rung
def quantiles(p):
    storage, accum, sort, between = p.storage, p.accum, block_sort(p), cut(p)
    infinity, lowest = word(p.storage, np.inf), word(p.accum, -p.accum.max)
    over_block = block_argmax(p)

    @cuda.jit
    def bins_edges(X, bins, edges):
        """From at most CAPACITY rows, evenly spread, and the least and the largest value. Warp 0 writes the chosen
        edges side by side."""
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
            low = int32(0)
            high = int32(0)
            for n in range(t, N, THREADS):
                x = accum(X[f, n])
                if x == x:
                    low = int32(n) if not accum(X[f, low]) <= x else low
                    high = int32(n) if not accum(X[f, high]) >= x else high
            least, most = -accum(X[f, low]), accum(X[f, high])
            _, low = over_block(least if least == least else number(lowest, accum(0)), low, key_s, where_s)
            _, high = over_block(most if most == most else number(lowest, accum(0)), high, key_s, where_s)
            if t == 0:
                x_s[0], x_s[M - 1] = X[f, low], X[f, high]
        sort(x_s, place_s, M)
        for b in range(t, BINS, THREADS):
            edges[f, b] = number(infinity, storage(0))
        cuda.syncthreads()    # everything is sorted, and written
        if t < WARP:
            distinct = 1
            known = 0    # of the M values; those that are missing come last
            for i0 in range(0, M, WARP):
                i = i0 + t
                x = accum(x_s[min(i, M - 1)])
                ends = i + 1 < M and x < accum(x_s[min(i + 1, M - 1)])
                distinct += cuda.popc(cuda.ballot_sync(ALL_LANES, ends))
                known += cuda.popc(cuda.ballot_sync(ALL_LANES, i < M and x == x))
            written = 0
            begin = 0    # of the run of equal values that the lane before lies in
            for i0 in range(0, M, WARP):
                i = i0 + t
                ends = i + 1 < M and accum(x_s[i]) < accum(x_s[min(i + 1, M - 1)])
                ending = cuda.ballot_sync(ALL_LANES, ends)
                before = ending & ((1 << t) - 1)
                run = begin if before == 0 else i0 + 32 - cuda.clz(int32(before))
                chosen = ends and (distinct <= bins or (i + 1) * bins // known > run * bins // known)
                choosing = cuda.ballot_sync(ALL_LANES, chosen)
                if chosen:
                    place = written + cuda.popc(choosing & ((1 << t) - 1))
                    edges[f, place] = between(accum(x_s[i]), accum(x_s[i + 1]))
                written += cuda.popc(choosing)
                if ending != 0:
                    begin = i0 + 32 - cuda.clz(int32(ending))

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

def quantise(device, precision, X, bins=BINS):
    """edges and codes of X (D, N); `bins` is BINS, or one less where values are missing."""
    D, N = X.shape
    make_edges, make_codes = quantiles[precision]
    edges, codes = device.empty((D, BINS), precision.storage), device.empty((N, D), np.uint8)
    device.launch(make_edges, D, THREADS, X, bins, edges)
    device.launch(make_codes, (-(-N // THREADS), D), THREADS, X, edges, codes)
    return edges, codes


def cost(precision, D, N):
    return {"flops": 3 * D * min(N, BINS), "bytes": (N + BINS) * D * precision.storage.bytes + N * D}


def inputs(rng, shape, kind, precision):
    """The first feature has few values, the others many; of the last of several, some are missing."""
    X = draw(rng, shape, "large" if kind == "overflow" else kind, precision) * rng.choice([-1, 1], shape)
    X[0] = rng.choice(X[0, :9], shape[1])
    if len(X) > 2:
        X[-1, ::7] = np.nan
    return X,


operation("bins", oracle=oracle, readout=readout, error_bound=error_bound, cost=cost,
          launch=lambda device, rung, precision, X: quantise(device, precision, X, bins_of(device.to_host(X))),
          inputs=inputs, shapes=((1, 1), (1, 2), (3, 31), (2, 300), (5, 257), (2, CAPACITY)),
          bench_shapes={"smoke": (4, 1000), "quick": (8, 2048), "full": (32, 1_000_000)},
          cost_differs="X is read by two launches, and a column of few values has fewer edges.")
