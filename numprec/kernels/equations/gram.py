"""Moment matrix of centred and scaled columns: both sides of the normal equations at once.

Idea       A tall matrix times itself has few results and long sums. matmul gives a block to a tile of the result, and
           leaves most of a card idle: here the sum is dealt out, a part of the rows to each block, in two levels
Maths      G[i, j] = sum over n of a[n, i] a[n, j],  a[n, j] = v[n] (z[n, j] - mean[j]), z and mean as in centring,
           of Z = [X Y]
           G[:D, :D] is X'X and G[:D, D:] is X'Y, centred, scaled and weighted by v^2. G as a whole is scaled too, by
           share(N), the largest power of two that is at most 1 / N
Example    six rows of one column x and a target y, v = 1:
             x   1  2  3  4   5   6    shift 3.5   scale 1/4    z   -0.625  -0.375  -0.125  0.125  0.375  0.625
             y   2  4  6  8  10  12    shift 7     scale 1/8    z   -0.625  -0.375  -0.125  0.125  0.375  0.625
           The means are 0; each entry of G is 1.09375 share(6) = 1.09375 / 8. The slope is G[0, 1] / G[0, 0] = 1, in
           scaled units, and 1 * scale_x / scale_y = 2 in those of the data
Shapes     X (N, D), Y (N, T), v (N,) or (1,): storage. G (P, P), P = D + T: accum. Units as in centring
Mapping    tx runs along columns, the contiguous axis; ty takes every TILE-th row of Z, or is the row in a tile of G
Precision  a is rounded to compute; products and sums are accum's. In block and grid each sum, of a strip, a block, a
           grid, is divided by about the number of its terms: none exceeds a few thousand, and no entry of G exceeds 4;
           naive and product scale the finished sum. Unscaled, a million rows of 1.0 and -1.0 add up to 1,000,000:
           float16 ends at 65,504, and added one by one they stop at 2,048: the next float16 is 2,050
Ladder     naive    a thread per entry: each centres and scales two columns by itself, and makes N roundings in a row
           product  a centred copy of the columns, then A'A by the chapter matmul: each entry is centred once
           block    no copy: strips of TILE rows in shared memory; a sum of each strip is added to the total:
                    TILE + N / TILE roundings [1]. Of two equal halves of G only one is computed. One block
           grid     the rows are dealt to many blocks; their partial sums are added in a fixed order
Try        python -m numprec.kernels gram --precision fp16
           Exercise: how many blocks does the matrix product of the product rung start for a million rows of 60 columns,
           how many does grid?
           Answer: 1, for one tile of 64 x 64; and 204 times 16, of which 10 of 16 have a tile that is needed
Cost       N P (P + 1) flops for the diagonal of G and what is above it, 6 N P to centre, scale and weight the columns;
           N (P + 1) elements read, P (P + 3) written
Sources    [1] P. Blanchard, N. J. Higham and T. Mary, A class of fast and accurate summation algorithms, SIAM J. Sci.
               Comput. 42(3), 2020
           [2] N. J. Higham, S. Pranesh and M. Zounon, Squeezing a matrix into half precision, with an application to
               solving linear systems, SIAM J. Sci. Comput. 41(4), 2019
           [3] N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002
"""
import numpy as np
from numba import cuda

from numprec.kernels.equations import centring
from numprec.kernels.equations.units import TILE, Data, deal, share, unrounded
from numprec.kernels.products import matmul
from numprec.kernels.reductions.reduce import all_accum
from numprec.language.errors import gamma
from numprec.language.ladder import helper, operation, rung
from numprec.precision import FORMATS


# ---- oracle: means and moments in fp64, in the units of the data

def oracle(X, Y, v):
    Z, w = np.hstack([X, Y]).astype(np.float64), np.broadcast_to(v.astype(np.float64) ** 2, len(X))
    mean = centring.oracle(X, Y, v)
    return mean, (Z - mean).T @ (w[:, None] * (Z - mean))


# ---- the steps that the rungs, and the fits, share
#
#     data                    A_s        B_s                     G
#     +--+----+--+----+--+                             j0
#     |  |    |  |    |  |                          +--+----+
#  n0 |  |####|  |####|  |   TILE rows: a strip     |  |    |
#     |  |####|  |####|  |                       i0 |  |####|   G[i0 + ty, j0 + tx] is a sum over all strips:
#     |  |    |  |    |  |                          +--+----+   first over the TILE rows of one, then over those
#     +--+----+--+----+--+
#         i0      j0

@helper
def centred(p):
    compute, a = p.compute, unrounded[p]

    @cuda.jit(device=True)
    def centred(data, n, j, units):
        """a[n, j]."""
        return compute(a(data, n, j, units))
    return centred


@helper
def tile_of_moments(p):
    compute, accum, a, share_of = p.compute, p.accum, centred[p], share[p]

    @cuda.jit(device=True)
    def tile_of_moments(data, n0, n1, rows, scale, i0, j0, units):
        """G[i0 + ty, j0 + tx] of the rows n0 <= n < n1, a strip at a time, and scaled for a number of `rows`."""
        A_s = cuda.shared.array((TILE, TILE), compute)    # A_s[k, t] = a[k0 + k, i0 + t]
        B_s = cuda.shared.array((TILE, TILE), compute)    # B_s[k, t] = a[k0 + k, j0 + t]
        tx = cuda.threadIdx.x
        ty = cuda.threadIdx.y
        P = units.mean.shape[0]
        total = accum(0)
        f = share_of(min(rows, TILE), scale)
        for k0 in range(n0, n1, TILE):
            n = k0 + ty
            cuda.syncthreads()    # everyone has read the last strip
            A_s[ty, tx] = a(data, n, i0 + tx, units) if n < n1 and i0 + tx < P else compute(0)
            B_s[ty, tx] = a(data, n, j0 + tx, units) if n < n1 and j0 + tx < P else compute(0)
            cuda.syncthreads()    # both strips are complete; past the edge they hold zeros
            acc = accum(0)
            for k in range(TILE):
                acc += accum(A_s[k, ty]) * accum(B_s[k, tx])
            total += f * acc
        return total * share_of(-(-rows // TILE), scale)
    return tile_of_moments


@helper
def moments(p):
    tile_of = tile_of_moments[p]

    @cuda.jit(device=True)
    def moments(data, scale, units, G):
        """G by one block."""
        N = data.X.shape[0]
        P = units.mean.shape[0]
        for i0 in range(0, P, TILE):
            for j0 in range(i0, P, TILE):
                total = tile_of(data, 0, N, N, scale, i0, j0, units)
                i = i0 + cuda.threadIdx.y
                j = j0 + cuda.threadIdx.x
                if i <= j and j < P:    # in a tile on the diagonal, the other half has the same sums
                    G[i, j] = total
                    G[j, i] = total
        cuda.syncthreads()    # G is complete
    return moments


# ---- kernels, slowest first

@rung
def naive(p):
    accum, a, share_of = p.accum, centred[p], share[p]

    @cuda.jit
    def gram_naive(data, scale, units, G):
        j, i = cuda.grid(2)
        P = units.mean.shape[0]
        if i < P and j < P:
            acc = accum(0)
            for n in range(data.X.shape[0]):
                acc += accum(a(data, n, i, units)) * accum(a(data, n, j, units))
            G[i, j] = acc * share_of(data.X.shape[0], scale)
    return gram_naive


@rung
def product(p):
    accum, a = p.accum, centred[p]

    @cuda.jit
    def gram_centred(data, units, A):
        j, n = cuda.grid(2)
        if n < A.shape[0] and j < A.shape[1]:
            A[n, j] = accum(a(data, n, j, units))
    return gram_centred


@helper
def shared_out(p):
    """The epilogue of the product rung, with `extra` = A and the option `scale`."""
    share_of = share[p]

    @cuda.jit(device=True)
    def shared_out(acc, i, j, extra):
        A, scale = extra
        return acc * share_of(A.shape[0], scale)
    return shared_out


@rung
def block(p):
    moments_of = moments[p]

    @cuda.jit
    def gram_block(data, scale, units, G):
        moments_of(data, scale, units, G)
    return gram_block


@rung
def grid(p):
    """Block b of those with the same tile takes the rows b * rows <= n < (b + 1) * rows."""
    accum, tile_of, share_of = p.accum, tile_of_moments[p], share[p]

    @cuda.jit
    def gram_moments(data, rows, scale, units, partial):
        b = cuda.blockIdx.z
        i0 = cuda.blockIdx.y * TILE
        j0 = cuda.blockIdx.x * TILE
        P = units.mean.shape[0]
        if i0 <= j0:
            n1 = min((b + 1) * rows, data.X.shape[0])
            total = tile_of(data, b * rows, n1, rows, scale, i0, j0, units)
            i = i0 + cuda.threadIdx.y
            j = j0 + cuda.threadIdx.x
            if i < P and j < P:
                partial[b, i, j] = total

    @cuda.jit
    def gram_combine(partial, N, rows, scale, G):
        """A strip of TILE partial sums at a time, as in the blocks themselves. They were scaled for `rows` rows."""
        j, i = cuda.grid(2)
        B, P, _ = partial.shape
        if i <= j and j < P:
            total = accum(0)
            for b0 in range(0, B, TILE):
                acc = accum(0)
                for b in range(b0, min(b0 + TILE, B)):
                    acc += partial[b, i, j]
                total += acc
            total *= share_of(N, scale) / share_of(rows, scale)
            G[i, j] = total
            G[j, i] = total
    return gram_moments, gram_combine


# ---- host side

UNITS = {naive: centring.naive, product: centring.grid, block: centring.block, grid: centring.grid}


def launch(device, rung, precision, X, Y, v, centre=True, scale=True):
    """shift, scale, mean and G."""
    data = Data(X, Y, v)
    units = centring.units_of(device, UNITS[rung], precision, data, centre, scale)
    return *units, moments_of(device, rung, precision, data, units, scale)


def moments_of(device, rung, precision, data, units, scale=True):
    """G."""
    (N, _), (P,), threads = data.X.shape, units.mean.shape, (TILE, TILE)
    tiles = -(-P // TILE)
    if rung is product:
        A = device.empty((N, P), precision.accum)
        device.launch(product[precision], (tiles, -(-N // TILE)), threads, data, units, A)
        return matmul.launch(device, matmul.register_blocked, all_accum(precision), A, A, transpose_a=True,
                             epilogue=shared_out, extra=(A, scale))
    G = device.empty((P, P), precision.accum)
    if rung is grid:
        partial_moments, combine = grid[precision]
        rows, blocks = deal(N, P)
        partial = device.empty((blocks, P, P), precision.accum)
        device.launch(partial_moments, (tiles, tiles, blocks), threads, data, rows, scale, units, partial)
        device.launch(combine, (tiles, tiles), threads, partial, N, rows, scale, G)
    else:
        device.launch(rung[precision], (tiles, tiles) if rung is naive else 1, threads, data, scale, units, G)
    return G


# ---- how it is judged

def readout(results, X, Y, v):
    """What the oracle returns, from shift, scale, mean and G."""
    *units, G = results
    scale = np.asarray(units[1], np.float64)
    unscaled = np.asarray(G, np.float64) / scale / scale[:, None] * 2.0 ** np.ceil(np.log2(len(X)))
    return centring.readout(units, X, Y, v), unscaled


def error_bound(precision, X, Y, v):
    """The kernel's error plus that of the oracle, which does the same in fp64 with a shift of 0 and a scale of 1."""
    Z = np.hstack([X, Y]).astype(np.float64)
    c, shifted = centring.scales(precision, Z)
    ours = _rounding_errors(Z, v, shifted, c, precision.accum, precision.compute)
    theirs = _rounding_errors(Z, v, abs(Z), np.ones(Z.shape[1]), FORMATS["float64"], None)
    return tuple(a + b for a, b in zip(ours, theirs))


def _rounding_errors(Z, v, shifted, c, fmt, compute):
    """Bounds on the errors of mean and moments, operation by operation; `shifted` is |Z - shift|.

    The moments about a mean that is wrong by `off` exceed the right ones by off_i off_j sum v^2, exactly. What a
    differs by from v (z - mean), |a| and the N roundings of the sum give the rest [3, section 3.1].
    """
    N, u, eta = len(Z), fmt.u, 2 * fmt.eta
    off = centring.mean_error(Z, v, shifted, c, fmt)
    v = np.broadcast_to(v.astype(np.float64), N)[:, None]
    W = (v * v).sum()
    a = v * (abs(Z - (v * v).T @ Z / W) * c + off)
    e = v * (u * shifted * c + eta) + eta
    e = e + gamma(3, u) * (a + e)
    if compute is not None:
        e = e + compute.u * (a + e) + compute.eta
    G = gamma(N + 1, u) * (a + e).T @ (a + e) + e.T @ a + a.T @ e + e.T @ e + W * np.outer(off, off) + 8 * N * eta
    return off / c, G / c / c[:, None]


def cost(precision, N, D, T):
    P = D + T
    return {"flops": N * P * (P + 7),
            "bytes": N * (P + 1) * precision.storage.bytes + P * (P + 3) * precision.accum.bytes}


operation("gram", oracle=oracle, readout=readout, error_bound=error_bound, launch=launch, cost=cost,
          inputs=centring.inputs, shapes=((1, 1, 1), (2, 3, 1), (16, 15, 1), (17, 16, 2), (31, 2, 1), (129, 17, 3)),
          bench_shapes={"smoke": (442, 10, 1), "quick": (10_000, 30, 1), "full": (1_000_000, 100, 1)},
          cost_differs="Two launches read the data, and each thread centres and scales its two columns by itself.")
