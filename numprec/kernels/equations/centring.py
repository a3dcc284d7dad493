"""Centring: the unit of each column, and its mean there.

Idea       Sums run down the columns, memory runs along the rows: neighbouring threads take neighbouring columns, so
           that a warp reads whole sectors, and TILE rows at a time keep more reads under way
Maths      shift[j], scale[j]   from the least and the largest element of column j, see the chapter units
           mean[j]  = sum over n of v[n]^2 z[n, j] / sum over n of v[n]^2
Example    the years of the chapter units, v = 1: z is -0.625, -0.375, -0.25, 0.125, 0.375, 0.625; their sum is -0.125,
           their mean -1/48. The mean year is 2005 - 8/48 = 2004.83
Shapes     X (N, D), Y (N, T), v (N,) or (1,): storage. shift, scale, mean (P,), P = D + T: accum
Mapping    tx runs along columns, the contiguous axis; ty takes every TILE-th row
Precision  grid scales each term before it is added: no sum exceeds a few thousand. naive and block add N, N / TILE
Ladder     naive  a thread per column: N roundings in a row
           block  TILE threads per column, whose sums are folded as a tree: N / TILE + 4 roundings. One block
           grid   the rows are dealt to many blocks; their partial results are combined in a fixed order
Try        python -m numprec.kernels centring --precision fp16
           Exercise: how many global sectors does a warp of the naive rung read for one row of 32 columns of float32,
           and how many would it read if a thread took a row? Answer: 4, of 32 bytes each; and 32, one for each row
Cost       6 N P flops; N (P + 1) elements read, 3 P written
Sources    [1] N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002
"""
import numpy as np
from numba import cuda

from numprec.kernels.equations.units import TILE, Data, deal, empty_units, entry, measure, scaled, share, weight
from numprec.kernels.reductions.collectives import column_fold, column_sum, larger
from numprec.language.errors import gamma
from numprec.language.instructions import mul_rn
from numprec.language.ladder import draw, helper, operation, rung
from numprec.precision import FORMATS


# ---- oracle: the means in fp64, in the units of the data

def oracle(X, Y, v):
    Z, w = np.hstack([X, Y]).astype(np.float64), np.broadcast_to(v.astype(np.float64) ** 2, len(X))
    return w @ Z / w.sum()


# ---- over a column, by TILE threads of each of TILE columns

@helper
def column_range(p):
    entry_of, column_max = entry[p], column_fold(p, TILE, TILE, combine=larger)

    @cuda.jit(device=True)
    def column_range(data, n0, n1, j, P, tile_s):
        """The least and the largest element of column j over the rows n0 <= n < n1, in each of its threads."""
        c = min(j, P - 1)    # threads beyond the last column take that one again
        least = entry_of(data, n0, c)
        most = least
        for n in range(n0 + cuda.threadIdx.y, n1, TILE):
            x = entry_of(data, n, c)
            least = x if x < least else least
            most = x if x > most else most
        return -column_max(-least, tile_s), column_max(most, tile_s)
    return column_range


@helper
def weighted_sums(p):
    accum, weight_of, z, over_column = p.accum, weight[p], scaled[p], column_sum(p, TILE, TILE)

    @cuda.jit(device=True)
    def weighted_sums(data, n0, n1, j, f, units, tile_s):
        """The sums of v^2 z[:, j] and of v^2 over the rows n0 <= n < n1, each thread's part times f."""
        acc = accum(0)
        W = accum(0)
        if j < units.mean.shape[0]:
            for n in range(n0 + cuda.threadIdx.y, n1, TILE):
                v = weight_of(data, n)
                vv = mul_rn(v, v)    # the same weight in both sums
                acc += vv * z(data, n, j, units)
                W += vv
        return over_column(f * acc, tile_s), over_column(f * W, tile_s)
    return weighted_sums


@helper
def means(p):
    accum, share_of, sums_of = p.accum, share[p], weighted_sums[p]

    @cuda.jit(device=True)
    def means(data, centre, scale, units, tile_s):
        """The means by one block, from shift and scale."""
        N = data.X.shape[0]
        P = units.mean.shape[0]
        f = share_of(-(-N // TILE), scale)
        for j0 in range(0, P, TILE):
            j = j0 + cuda.threadIdx.x
            total, W = sums_of(data, 0, N, j, f, units, tile_s)
            if j < P and cuda.threadIdx.y == 0:
                units.mean[j] = total / W if centre else accum(0)
        cuda.syncthreads()    # every column has its mean
    return means


@helper
def columns(p):
    range_of, set_units, means_of = column_range[p], measure[p], means[p]

    @cuda.jit(device=True)
    def columns(data, centre, scale, units, tile_s):
        """Shift, scale and mean by one block."""
        P = units.mean.shape[0]
        for j0 in range(0, P, TILE):
            j = j0 + cuda.threadIdx.x
            least, most = range_of(data, 0, data.X.shape[0], j, P, tile_s)
            if j < P and cuda.threadIdx.y == 0:
                set_units(least, most, centre, scale, j, units)
        cuda.syncthreads()    # every column has its shift and scale
        means_of(data, centre, scale, units, tile_s)
    return columns


# ---- kernels, slowest first

@rung
def naive(p):
    accum = p.accum
    entry_of, weight_of, z, set_units = entry[p], weight[p], scaled[p], measure[p]

    @cuda.jit
    def centring_naive(data, centre, scale, units):
        j = cuda.grid(1)
        if j < units.mean.shape[0]:
            least = entry_of(data, 0, j)
            most = least
            for n in range(data.X.shape[0]):
                x = entry_of(data, n, j)
                least = x if x < least else least
                most = x if x > most else most
            set_units(least, most, centre, scale, j, units)
            acc = accum(0)
            W = accum(0)
            for n in range(data.X.shape[0]):
                v = weight_of(data, n)
                vv = mul_rn(v, v)    # the same weight in both sums
                acc += vv * z(data, n, j, units)
                W += vv
            units.mean[j] = acc / W if centre else accum(0)
    return centring_naive


@rung
def block(p):
    accum, columns_of = p.accum, columns[p]

    @cuda.jit
    def centring_block(data, centre, scale, units):
        columns_of(data, centre, scale, units, cuda.shared.array((TILE, TILE), accum))
    return centring_block


@rung
def grid(p):
    """Block b of a column of blocks takes the rows b * rows <= n < (b + 1) * rows."""
    accum, share_of, range_of, set_units, sums_of = p.accum, share[p], column_range[p], measure[p], weighted_sums[p]
    column_max, over_column = column_fold(p, TILE, TILE, combine=larger), column_sum(p, TILE, TILE)

    @cuda.jit
    def centring_ranges(data, rows, low, high):
        tile_s = cuda.shared.array((TILE, TILE), accum)
        b = cuda.blockIdx.y
        j = cuda.blockIdx.x * TILE + cuda.threadIdx.x
        P = low.shape[1]
        least, most = range_of(data, b * rows, min((b + 1) * rows, data.X.shape[0]), j, P, tile_s)
        if j < P and cuda.threadIdx.y == 0:
            low[b, j] = least
            high[b, j] = most

    @cuda.jit
    def centring_units(low, high, centre, scale, units):
        tile_s = cuda.shared.array((TILE, TILE), accum)
        ty = cuda.threadIdx.y
        j = cuda.blockIdx.x * TILE + cuda.threadIdx.x
        B, P = low.shape
        c = min(j, P - 1)
        least = low[0, c]
        most = high[0, c]
        for b in range(ty, B, TILE):
            least = low[b, c] if low[b, c] < least else least
            most = high[b, c] if high[b, c] > most else most
        least = -column_max(-least, tile_s)
        most = column_max(most, tile_s)
        if j < P and ty == 0:
            set_units(least, most, centre, scale, j, units)

    @cuda.jit
    def centring_sums(data, rows, scale, units, sums, weights):
        tile_s = cuda.shared.array((TILE, TILE), accum)
        b = cuda.blockIdx.y
        j = cuda.blockIdx.x * TILE + cuda.threadIdx.x
        f = share_of(-(-rows // TILE), scale)
        total, W = sums_of(data, b * rows, min((b + 1) * rows, data.X.shape[0]), j, f, units, tile_s)
        if j < units.mean.shape[0] and cuda.threadIdx.y == 0:
            sums[b, j] = total
            weights[b, j] = W

    @cuda.jit
    def centring_means(sums, weights, centre, units):
        tile_s = cuda.shared.array((TILE, TILE), accum)
        ty = cuda.threadIdx.y
        j = cuda.blockIdx.x * TILE + cuda.threadIdx.x
        P = units.mean.shape[0]
        total = accum(0)
        W = accum(0)
        if j < P:
            for b in range(ty, sums.shape[0], TILE):
                total += sums[b, j]
                W += weights[b, j]
        total = over_column(total, tile_s)
        W = over_column(W, tile_s)
        if j < P and ty == 0:
            units.mean[j] = total / W if centre else accum(0)
    return centring_ranges, centring_units, centring_sums, centring_means


# ---- host side

def units_of(device, rung, precision, data, centre=True, scale=True):
    """The Units of the columns of `data`. Without `centre` shifts and means are 0; without `scale` scales are 1."""
    N, P = data.X.shape[0], data.X.shape[1] + data.Y.shape[1]
    units, threads, tiles = empty_units(device, P, precision.accum), (TILE, TILE), -(-P // TILE)
    if rung is naive:
        device.launch(naive[precision], -(-P // 32), 32, data, centre, scale, units)
    elif rung is block:
        device.launch(block[precision], 1, threads, data, centre, scale, units)
    else:
        ranges, measures, *_ = grid[precision]
        rows, blocks = deal(N, P)
        low, high = (device.empty((blocks, P), precision.accum) for _ in range(2))
        device.launch(ranges, (tiles, blocks), threads, data, rows, low, high)
        device.launch(measures, tiles, threads, low, high, centre, scale, units)
        launch_means(device, precision, data, centre, scale, units)
    return units


def launch_means(device, precision, data, centre, scale, units):
    """The means by a grid, from shifts and scales."""
    *_, column_sums, column_means = grid[precision]
    (N, _), (P,), threads = data.X.shape, units.mean.shape, (TILE, TILE)
    rows, blocks = deal(N, P)
    sums, weights = (device.empty((blocks, P), precision.accum) for _ in range(2))
    device.launch(column_sums, (-(-P // TILE), blocks), threads, data, rows, scale, units, sums, weights)
    device.launch(column_means, -(-P // TILE), threads, sums, weights, centre, units)


# ---- how it is judged: by the means, in the units of the data

def readout(results, X, Y, v):
    """What the oracle returns."""
    shift, scale, mean = (np.asarray(part, np.float64) for part in results)
    return shift + mean / scale


def scales(precision, Z):
    """scale, and a bound on |Z - shift|: the kernel rounds shift, and one that is off by that much is as good."""
    accum, middle = precision.accum, Z.min(axis=0) / 2 + Z.max(axis=0) / 2
    reach = abs(Z - middle).max(axis=0)
    c = np.ldexp(1.0, np.minimum(-np.frexp(reach)[1], 2 ** (accum.exponent - 1) - 1))
    return c, abs(Z - middle) + 2 * accum.u * abs(Z).max(axis=0)


def mean_error(Z, v, shifted, c, fmt):
    """Bounds the error of the means, in the scaled units; `shifted` is |Z - shift|.

    z is rounded once, v^2 once, their product and the sum N times, in any order; so is sum v^2, and the quotient once.
    """
    N, eta, w = len(Z), 2 * fmt.eta, np.broadcast_to(v.astype(np.float64), len(Z)) ** 2
    W = w.sum()
    return gamma(2 * N + 8, fmt.u) * (w @ (shifted * c)) / W + (8 * N + 2) * eta / W


def error_bound(precision, X, Y, v):
    """The kernel's error plus that of the oracle, which does the same in fp64 with a shift of 0 and a scale of 1."""
    Z = np.hstack([X, Y]).astype(np.float64)
    c, shifted = scales(precision, Z)
    return mean_error(Z, v, shifted, c, precision.accum) / c + mean_error(Z, v, abs(Z), 1.0, FORMATS["float64"])


def cost(precision, N, D, T):
    P = D + T
    return {"flops": 6 * N * P, "bytes": N * (P + 1) * precision.storage.bytes + 3 * P * precision.accum.bytes}


def inputs(rng, shape, kind, precision):
    """Scaled, entries near the largest number of storage do no harm; but the oracle's squares must fit into fp64."""
    N, D, T = shape
    Z = draw(rng, (N, D + T), "same_sign" if kind in ("large", "overflow") else kind, precision)
    if kind in ("large", "overflow"):
        Z *= min(precision.storage.max, np.sqrt(np.finfo(np.float64).max / N)) * 0.99
    v = rng.uniform(0.5, 1, N)
    return Z[:, :D], Z[:, D:], v


about = dict(shapes=((1, 1, 1), (2, 3, 1), (16, 15, 1), (17, 16, 2), (31, 2, 1), (129, 17, 3)),
             bench_shapes={"smoke": (442, 10, 1), "quick": (10_000, 30, 1), "full": (1_000_000, 100, 1)})

operation("centring", oracle=oracle, readout=readout, error_bound=error_bound, cost=cost, inputs=inputs, **about,
          launch=lambda device, rung, precision, *arrays: units_of(device, rung, precision, Data(*arrays)))
