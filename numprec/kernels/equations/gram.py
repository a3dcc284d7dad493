"""Moment matrix of centred and scaled columns: both sides of the normal equations at once. With Z = [X Y],

Maths      G[i, j] = sum over n of a[n, i] a[n, j]
           a[n, j] = v[n] (z[n, j] - mean[j]),   z[n, j] = c[j] (Z[n, j] - s[j])
           s[j]     the middle of the range of column j; c[j] the power of two that maps the range into [-1, 1]
           mean[j]  = sum over n of v[n]^2 z[n, j] / sum over n of v[n]^2
           G[:D, :D] is X'X and G[:D, D:] is X'Y, centred, scaled and weighted by v^2. G as a whole is scaled too, by
           the power of two that comes first below 1 / N
Shapes     X (N, D), Y (N, T): storage, row-major. v (N,): storage, roots of the sample weights, in (0, 1]; or (1,)
           where all rows have the same. G (P, P), P = D + T: accum. S (3, P): accum, its rows SHIFT, SCALE, MEAN
Mapping    tx runs along columns, the contiguous axis; ty takes every TILE-th row of Z, or is the row in a tile of G
Precision  powers of two scale exactly. Columns are brought to [-1, 1], which acts on both sides of G [1], and each
           sum, of a strip, a block, a grid, is divided by about the number of its terms: none exceeds a few thousand,
           and no entry of G exceeds 4, whatever the data and N. The middle is subtracted first, exactly while a column
           stays within a factor of two (Sterbenz, [2] theorem 2.5): 2020, 2021, ... keeps its digits, and a constant
           column becomes exactly 0. a is rounded to compute; products and sums are accum's
Ladder     naive  a thread per column, then a thread per entry: N roundings in a row
           block  strips of TILE rows in shared memory, a sum of each strip added to the total: TILE + N / TILE
                  roundings [3]. Everything in one launch of one block
           grid   the rows are dealt to many blocks; their partial sums are added in a fixed order
Cost       N P (P + 1) flops for the diagonal of G and what is above it, 6 N P to centre, scale and weight the columns;
           N (P + 1) elements read, P (P + 3) written
Sources    [1] N. J. Higham, S. Pranesh and M. Zounon, Squeezing a matrix into half precision, with an application to
               solving linear systems, SIAM J. Sci. Comput. 41(4), 2019
           [2] N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002
           [3] P. Blanchard, N. J. Higham and T. Mary, A class of fast and accurate summation algorithms, SIAM J. Sci.
               Comput. 42(3), 2020
"""
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
from numba import cuda

from numprec.kernels.equations import centring
from numprec.kernels.equations.centring import MEAN, TILE
from numprec.language.instructions import mul_rn
from numprec.language.ladder import draw, operation, rung

BLOCKS = 2048     # blocks the grid rung aims for; were it the card's number, results would depend on it


# ---- oracle: means and moments in fp64, in the units of the data

def oracle(X, Y, v):
    Z = np.hstack([X, Y]).astype(np.float64)
    w = np.broadcast_to(v.astype(np.float64) ** 2, len(Z))
    mean = w @ Z / w.sum()
    return mean, (Z - mean).T @ (w[:, None] * (Z - mean))


def readout(results, X, Y, v):
    """What the oracle returns, from S and G."""
    (shift, scale, mean), G = (np.asarray(part, np.float64) for part in results)
    return shift + mean / scale, G / scale / scale[:, None] * 2.0 ** np.ceil(np.log2(len(X)))


def gamma(n, u):
    """n u / (1 - n u): bounds the product of n factors 1 + delta, |delta| <= u, less 1 [2, lemma 3.1]."""
    return n * u / (1 - n * u) if n * u < 1 else np.inf


def error_bound(precision, X, Y, v):
    """The kernel's error plus that of the oracle, which does the same in fp64 with s = 0 and c = 1."""
    Z = np.hstack([X, Y]).astype(np.float64)
    accum, fp64 = precision.accum, np.finfo(np.float64)
    middle = Z.min(axis=0) / 2 + Z.max(axis=0) / 2
    reach = abs(Z - middle).max(axis=0)
    c = np.ldexp(1.0, np.minimum(-np.frexp(reach)[1], 2 ** (accum.exponent - 1) - 1))
    off = 2 * accum.u * abs(Z).max(axis=0)         # the kernel rounds s; a shift off by that much is as good
    ours = _rounding_errors(Z, v, abs(Z - middle) + off, c, accum.u, accum.eta, precision.compute)
    theirs = _rounding_errors(Z, v, abs(Z), 1, fp64.eps / 2, fp64.smallest_subnormal, None)
    return tuple(a + b for a, b in zip(ours, theirs))


def _rounding_errors(Z, v, shifted, c, u, eta, compute):
    """Bounds on the errors of mean and moments, operation by operation; `shifted` is |Z - s|.

    z is rounded once, v^2 once, their product and the sum N times, in any order; so is sum v^2, and the quotient once.
    The moments about a mean that is wrong by `off` exceed the right ones by off_i off_j sum v^2, exactly. What a
    differs by from v (z - mean), |a| and the N roundings of the sum give the rest [2, section 3.1].
    """
    N = len(Z)
    v = np.broadcast_to(v.astype(np.float64), N)[:, None]
    W = (v * v).sum()
    deviation = abs(Z - (v * v).T @ Z / W) * c
    shifted, eta = shifted * c, 2 * eta
    off = gamma(2 * N + 8, u) * ((v * v).T @ shifted / W).ravel() + (8 * N + 2) * eta / W
    a = v * (deviation + off)
    e = v * (u * shifted + eta) + eta
    e = e + gamma(3, u) * (a + e)
    if compute is not None:
        e = e + compute.u * (a + e) + compute.eta
    G = gamma(N + 1, u) * (a + e).T @ (a + e) + e.T @ a + a.T @ e + e.T @ e + W * np.outer(off, off) + 8 * N * eta
    c = np.broadcast_to(c, Z.shape[1])
    return off / c, G / c / c[:, None]


# ---- the steps that the rungs share

@lru_cache(maxsize=None)
def steps(p):
    compute, accum = p.compute, p.accum
    step = centring.steps(p)
    weight, shifted, share = step.weight, step.shifted, step.share

    @cuda.jit(device=True)
    def tile_of_moments(X, Y, V, n0, n1, rows, scale, i0, j0, S, A_s, B_s):
        """G[i0 + ty, j0 + tx] of the rows n0 <= n < n1, a strip at a time, and scaled for a number of `rows`."""
        tx = cuda.threadIdx.x
        ty = cuda.threadIdx.y
        P = S.shape[1]
        total = accum(0)
        f = share(min(rows, TILE), scale)
        for k0 in range(n0, n1, TILE):
            n = k0 + ty
            v = weight(V, n) if n < n1 else accum(0)
            i = i0 + tx
            j = j0 + tx
            cuda.syncthreads()    # everyone has read the last strip
            A_s[ty, tx] = compute(v * (shifted(X, Y, n, i, S) - S[MEAN, i])) if n < n1 and i < P else compute(0)
            B_s[ty, tx] = compute(v * (shifted(X, Y, n, j, S) - S[MEAN, j])) if n < n1 and j < P else compute(0)
            cuda.syncthreads()    # both strips are complete; past the edge they hold zeros
            acc = accum(0)
            for k in range(TILE):
                acc += accum(A_s[k, ty]) * accum(B_s[k, tx])
            total += f * acc
        return total * share(-(-rows // TILE), scale)

    @cuda.jit(device=True)
    def moments(X, Y, V, scale, S, G, A_s, B_s):
        """G by one block."""
        N = X.shape[0]
        P = S.shape[1]
        for i0 in range(0, P, TILE):
            for j0 in range(i0, P, TILE):
                total = tile_of_moments(X, Y, V, 0, N, N, scale, i0, j0, S, A_s, B_s)
                i = i0 + cuda.threadIdx.y
                j = j0 + cuda.threadIdx.x
                if i <= j and j < P:    # in a tile on the diagonal, the other half has the same sums
                    G[i, j] = total
                    G[j, i] = total
        cuda.syncthreads()    # G is complete

    return SimpleNamespace(tile_of_moments=tile_of_moments, moments=moments)


# ---- kernels, slowest first

@rung
def naive(p):
    compute, accum = p.compute, p.accum
    step = centring.steps(p)
    entry, weight, shifted, shift_and_scale = step.entry, step.weight, step.shifted, step.shift_and_scale
    share = step.share

    @cuda.jit
    def gram_columns(X, Y, V, centre, scale, S):
        j = cuda.grid(1)
        if j < S.shape[1]:
            least = entry(X, Y, 0, j)
            most = least
            for n in range(X.shape[0]):
                x = entry(X, Y, n, j)
                least = x if x < least else least
                most = x if x > most else most
            shift_and_scale(least, most, centre, scale, j, S)
            acc = accum(0)
            W = accum(0)
            for n in range(X.shape[0]):
                v = weight(V, n)
                vv = mul_rn(v, v)    # the same weight in both sums
                acc += vv * shifted(X, Y, n, j, S)
                W += vv
            S[MEAN, j] = acc / W if centre else accum(0)

    @cuda.jit
    def gram_naive(X, Y, V, scale, S, G):
        j, i = cuda.grid(2)
        P = S.shape[1]
        if i < P and j < P:
            acc = accum(0)
            for n in range(X.shape[0]):
                v = weight(V, n)
                a = compute(v * (shifted(X, Y, n, i, S) - S[MEAN, i]))
                b = compute(v * (shifted(X, Y, n, j, S) - S[MEAN, j]))
                acc += accum(a) * accum(b)
            G[i, j] = acc * share(X.shape[0], scale)
    return gram_columns, gram_naive


@rung
def block(p):
    compute, accum = p.compute, p.accum
    columns, moments = centring.steps(p).columns, steps(p).moments

    @cuda.jit
    def gram_block(X, Y, V, centre, scale, low, high, sums, S, G):
        A_s = cuda.shared.array((TILE, TILE), compute)    # A_s[k, t] = a[k0 + k, i0 + t]
        B_s = cuda.shared.array((TILE, TILE), compute)    # B_s[k, t] = a[k0 + k, j0 + t]
        scratch = cuda.shared.array((TILE, TILE), accum)
        columns(X, Y, V, centre, scale, low, high, sums, S, scratch)
        moments(X, Y, V, scale, S, G, A_s, B_s)
    return gram_block


@rung
def grid(p):
    """Block b of a column of blocks takes the rows b * rows <= n < (b + 1) * rows."""
    compute, accum = p.compute, p.accum
    step = centring.steps(p)
    column_range, shift_and_scale, weighted_sum = step.column_range, step.shift_and_scale, step.weighted_sum
    tile_of_moments, column_max, column_sum = steps(p).tile_of_moments, step.column_max, step.column_sum
    share = step.share

    @cuda.jit
    def gram_ranges(X, Y, rows, low, high):
        scratch = cuda.shared.array((TILE, TILE), accum)
        b = cuda.blockIdx.y
        j = cuda.blockIdx.x * TILE + cuda.threadIdx.x
        column_range(X, Y, b * rows, min((b + 1) * rows, X.shape[0]), j, b, low, high, scratch)

    @cuda.jit
    def gram_scales(low, high, centre, scale, S):
        scratch = cuda.shared.array((TILE, TILE), accum)
        ty = cuda.threadIdx.y
        j = cuda.blockIdx.x * TILE + cuda.threadIdx.x
        B, P = low.shape
        least = accum(0)
        most = accum(0)
        if j < P:
            least = low[0, j]
            most = high[0, j]
            for b in range(ty, B, TILE):
                least = low[b, j] if low[b, j] < least else least
                most = high[b, j] if high[b, j] > most else most
        least = -column_max(-least, scratch)
        most = column_max(most, scratch)
        if j < P and ty == 0:
            shift_and_scale(least, most, centre, scale, j, S)

    @cuda.jit
    def gram_sums(X, Y, V, rows, scale, S, sums):
        scratch = cuda.shared.array((TILE, TILE), accum)
        b = cuda.blockIdx.y
        j = cuda.blockIdx.x * TILE + cuda.threadIdx.x
        f = share(-(-rows // TILE), scale)
        total = weighted_sum(X, Y, V, b * rows, min((b + 1) * rows, X.shape[0]), j, f, S, scratch)
        if j <= S.shape[1] and cuda.threadIdx.y == 0:
            sums[b, j] = total

    @cuda.jit
    def gram_means(sums, centre, S):
        """Each block adds up the sums of v^2, column P, once more: cheaper than another launch."""
        scratch = cuda.shared.array((TILE, TILE), accum)
        ty = cuda.threadIdx.y
        j = cuda.blockIdx.x * TILE + cuda.threadIdx.x
        P = S.shape[1]
        total = accum(0)
        W = accum(0)
        for b in range(ty, sums.shape[0], TILE):
            total += sums[b, j] if j < P else accum(0)
            W += sums[b, P]
        total = column_sum(total, scratch)
        W = column_sum(W, scratch)
        if j < P and ty == 0:
            S[MEAN, j] = total / W if centre else accum(0)

    @cuda.jit
    def gram_moments(X, Y, V, rows, scale, S, partial):
        A_s = cuda.shared.array((TILE, TILE), compute)
        B_s = cuda.shared.array((TILE, TILE), compute)
        b = cuda.blockIdx.z
        i0 = cuda.blockIdx.y * TILE
        j0 = cuda.blockIdx.x * TILE
        if i0 <= j0:
            n1 = min((b + 1) * rows, X.shape[0])
            total = tile_of_moments(X, Y, V, b * rows, n1, rows, scale, i0, j0, S, A_s, B_s)
            i = i0 + cuda.threadIdx.y
            j = j0 + cuda.threadIdx.x
            if i < S.shape[1] and j < S.shape[1]:
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
            total *= share(N, scale) / share(rows, scale)
            G[i, j] = total
            G[j, i] = total
    return gram_ranges, gram_scales, gram_sums, gram_means, gram_moments, gram_combine


# ---- host side

def workspace(device, precision, P, blocks=1):
    """low, high and sums for so many blocks of rows."""
    return (device.empty((blocks, P), precision.accum), device.empty((blocks, P), precision.accum),
            device.empty((blocks, P + 1), precision.accum))


def deal(N, P):
    """Rows per block and blocks, for the grid rung: four to a thousand strips each, and no block without a row."""
    tiles = -(-P // TILE)
    blocks = max(1, -(-N // (1024 * TILE)), min(BLOCKS // (tiles * (tiles + 1) // 2), N // (4 * TILE)))
    rows = -(-N // (blocks * TILE)) * TILE
    return rows, -(-N // rows)


def launch(device, rung, precision, X, Y, V, centre=True, scale=True):
    """S and G."""
    P = X.shape[1] + Y.shape[1]
    S, G = device.empty((3, P), precision.accum), device.empty((P, P), precision.accum)
    tiles, threads = -(-P // TILE), (TILE, TILE)
    if rung.name == "naive":
        columns, entries = rung[precision]
        device.launch(columns, -(-P // 32), 32, X, Y, V, centre, scale, S)
        device.launch(entries, (tiles, tiles), threads, X, Y, V, scale, S, G)
    elif rung.name == "block":
        device.launch(rung[precision], 1, threads, X, Y, V, centre, scale, *workspace(device, precision, P), S, G)
    else:
        launch_columns(device, precision, X, Y, V, centre, scale, S)
        launch_moments(device, precision, X, Y, V, scale, S, G)
    return S, G


def launch_columns(device, precision, X, Y, V, centre, scale, S):
    ranges, scales = grid[precision][:2]
    N, P = X.shape[0], S.shape[1]
    rows, blocks = deal(N, P)
    low, high, _ = workspace(device, precision, P, blocks)
    device.launch(ranges, (-(-P // TILE), blocks), (TILE, TILE), X, Y, rows, low, high)
    device.launch(scales, -(-P // TILE), (TILE, TILE), low, high, centre, scale, S)
    launch_means(device, precision, X, Y, V, centre, scale, S)


def launch_means(device, precision, X, Y, V, centre, scale, S):
    column_sums, means = grid[precision][2:4]
    N, P = X.shape[0], S.shape[1]
    rows, blocks = deal(N, P)
    sums = device.empty((blocks, P + 1), precision.accum)
    device.launch(column_sums, (P // TILE + 1, blocks), (TILE, TILE), X, Y, V, rows, scale, S, sums)
    device.launch(means, -(-P // TILE), (TILE, TILE), sums, centre, S)


def launch_moments(device, precision, X, Y, V, scale, S, G):
    moments, combine = grid[precision][4:]
    N, P = X.shape[0], S.shape[1]
    rows, blocks = deal(N, P)
    tiles = -(-P // TILE)
    partial = device.empty((blocks, P, P), precision.accum)
    device.launch(moments, (tiles, tiles, blocks), (TILE, TILE), X, Y, V, rows, scale, S, partial)
    device.launch(combine, (tiles, tiles), (TILE, TILE), partial, N, rows, scale, G)


def cost(precision, N, D, T):
    P = D + T
    return {"flops": N * P * (P + 7),
            "bytes": N * (P + 1) * precision.storage.bytes + P * (P + 3) * precision.accum.bytes}


def inputs(rng, shape, kind, precision):
    """Scaled, entries near the largest number of storage do no harm; but the oracle's squares must fit into fp64."""
    N, D, T = shape
    Z = draw(rng, (N, D + T), "same_sign" if kind in ("large", "overflow") else kind, precision)
    if kind in ("large", "overflow"):
        Z *= min(precision.storage.max, np.sqrt(np.finfo(np.float64).max / N)) * 0.99
    v = rng.uniform(0.5, 1, N)
    return Z[:, :D], Z[:, D:], v


operation("gram", oracle=oracle, readout=readout, error_bound=error_bound, launch=launch, cost=cost, inputs=inputs,
          shapes=((1, 1, 1), (2, 3, 1), (16, 15, 1), (17, 16, 2), (31, 2, 1), (129, 17, 3)),
          bench_shapes={"smoke": (442, 10, 1), "quick": (10_000, 30, 1), "full": (1_000_000, 100, 1)},
          cost_differs="Two launches read the data, and each thread centres and scales its two columns by itself.")
