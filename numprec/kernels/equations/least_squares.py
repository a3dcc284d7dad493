"""Linear least squares: the three ways to a solution that the chapters before this one allow.

Maths      W minimizes the sum over n of v[n]^2 |Y[n] - X[n] W|^2, all columns centred and scaled (see gram)
Shapes     X (N, D), Y (N, T), v (N,) or (1,): storage; for refine X, Y and v may be in a wider format, and should be.
           W (D, T): accum, in units of the scaled columns; for refine in the wider format
Mapping    one block, one launch, for small problems; else the grid rungs of gram and qr, and one block at the end
Precision  cholesky  the normal equations square the condition number k of X: |dW| ~ k^2 u |W|      [1, section 20.4]
           qr        |dW| ~ k u |W|, plus k^2 u where the residual is large                          [1, section 20.1]
           refine    X'(Y - X W) with all operands one format wider, then a correction through the cheap factor. Each
                     pass gains the digits that k^2 u of the factor leaves, up to those of the wider format
                                                                                                     [1, chapter 12]
Ladder     cholesky  the moment matrix, its factor, and one substitution: the other one is done by the factor, as the
                     right-hand sides stand beside the matrix
           qr        column pivoting finds the rank; below full rank, the solution of least norm in the units of X
           refine    cholesky, then corrections until they stop shrinking
Cost       that of the moment matrix, of its factor and of the substitutions; N (P + 1) elements read, P = D + T
Sources    [1] N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002
           [2] E. Carson and N. J. Higham, Accelerating the solution of linear systems by iterative refinement in three
               precisions, SIAM J. Sci. Comput. 40(2), 2018
"""
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numba import cuda

from numprec.kernels.equations import centring, gram, triangular
from numprec.kernels.equations import cholesky as factoring
from numprec.kernels.equations import qr as reflecting
from numprec.kernels.equations.centring import MEAN, SCALE, THREADS, TILE
from numprec.kernels.equations.gram import gamma
from numprec.kernels.equations.refinement import ENDED, RANK, refinement, wider
from numprec.language.ladder import operation, rung
from numprec.precision import FORMATS, Format

ONE_BLOCK = 2 ** 16                                       # elements of Z up to which one block does it all
LOOK = 16                                                 # iterations between two looks at whether it has ended


# ---- oracle: fp64 QR of the centred columns

def oracle(X, Y, v):
    X, Y, units = _in_units(X, Y)
    Z = np.hstack([X, Y])
    D, w = X.shape[1], np.broadcast_to(v.astype(np.float64) ** 2, len(Z))
    A = np.sqrt(w)[:, None] * (Z - w @ Z / w.sum())
    return np.linalg.lstsq(A[:, :D], A[:, D:], rcond=None)[0] / units


def _in_units(X, Y):
    """Columns divided by powers of two, so that fp64 can square what it can hold, and what that makes of W."""
    X, Y = X.astype(np.float64), Y.astype(np.float64)
    x, y = (np.ldexp(1.0, np.frexp(abs(A).max(axis=0))[1] - 1) for A in (X, Y))
    return X / x, Y / y, x[:, None] / y


def readout(results, X, Y, v):
    """W in the units of the data, from S and W."""
    S, W = (part.astype(np.float64) for part in results)
    return W * S[SCALE, :len(W), None] / S[SCALE, len(W):]


def error_bound(precision, X, Y, v):
    """The computed W solves (A + dA) W = C + dC, A = X'X, C = X'Y, with the errors of gram in both, and with
    g d d' besides: for Cholesky g is that of its chapter and of two substitutions, for QR that of its own, twice, since
    R'R = (Z + dZ)'(Z + dZ). Then |dW| <= |A^-1| (|dA| |W + dW| + |dC|), solved for |dW|; infinite where the errors
    may make A singular.
    """
    X, Y, units = _in_units(X, Y)
    N, D = X.shape
    P = D + Y.shape[1]
    accum, fp64 = precision.accum, FORMATS["float64"]
    (_, G), (_, dG) = gram.oracle(X, Y, v), gram.error_bound(precision, X, Y, v)
    if not np.isfinite(dG).all():
        return np.full((D, P - D), np.inf)
    d = np.sqrt(np.diag(G) + np.diag(dG))
    by_cholesky = 4 * gamma(P + 2, accum.u)
    by_qr = np.float64(1 + 2 * gamma(4 * (-(-N // TILE) + 5) + 30, accum.u)) ** P - 1
    g = by_cholesky + 2 * by_qr + by_qr ** 2 + N * P * fp64.u
    dG = (dG + g * np.outer(d, d)) / d / d[:, None]
    inverse = abs(np.linalg.inv(G[:D, :D] / d[:D] / d[:D, None]))
    W = abs(oracle(X, Y, v)) * d[:D, None] / d[D:]
    M = inverse @ dG[:D, :D]
    if not np.isfinite(M).all() or max(abs(np.linalg.eigvals(M))) >= 1:
        return np.full(W.shape, np.inf)
    return np.linalg.solve(np.eye(D) - M, M @ W + inverse @ dG[:D, D:]) / d[:D, None] * d[D:] / units


# ---- kernels: each rung is the whole fit by one block, then the parts that finish what grids have begun

@rung
def cholesky(p):
    compute, accum = p.compute, p.accum
    columns, moments = centring.steps(p).columns, gram.steps(p).moments
    factor, backward = factoring.steps(p).cholesky, triangular.steps(p).backward

    @cuda.jit(device=True)
    def solution(G, floor, W, info):
        """G becomes R and, beside it, R'^-1 X'Y, which W is solved from. A factor that broke down leaves no W."""
        D, T = W.shape
        t = cuda.threadIdx.y * TILE + cuda.threadIdx.x
        rank = factor(G, D, floor)
        if t == 0:
            info[RANK] = rank
        if rank == D:
            for jk in range(t, D * T, THREADS):
                W[jk // T, jk % T] = G[jk // T, D + jk % T]
            backward(G, W, D)

    @cuda.jit
    def least_squares_cholesky(X, Y, V, centre, scale, low, high, sums, S, G, floor, W, info):
        A_s = cuda.shared.array((TILE, TILE), compute)
        B_s = cuda.shared.array((TILE, TILE), compute)
        scratch = cuda.shared.array((TILE, TILE), accum)
        columns(X, Y, V, centre, scale, low, high, sums, S, scratch)
        moments(X, Y, V, scale, S, G, A_s, B_s)
        solution(G, floor, W, info)

    @cuda.jit
    def cholesky_finish(G, floor, W, info):
        solution(G, floor, W, info)
    return least_squares_cholesky, cholesky_finish


@rung
def qr(p):
    accum = p.accum
    columns, shifted, weight = centring.steps(p).columns, centring.steps(p).shifted, centring.steps(p).weight
    share = centring.steps(p).share
    householder, copy_factor = reflecting.steps(p).householder, reflecting.steps(p).copy_factor
    smallest_solution, backward = reflecting.steps(p).smallest_solution, triangular.steps(p).backward

    @cuda.jit(device=True)
    def solution(work, tolerance, S, R, order, norms, B, W, info, scratch):
        D, T = W.shape
        t = cuda.threadIdx.y * TILE + cuda.threadIdx.x
        N = work.shape[1]
        for j in range(t, D, THREADS):
            order[j] = j
        cuda.syncthreads()    # the columns are in their own order
        rank = householder(work, 0, N, D, True, tolerance, order, norms, scratch)
        cuda.syncthreads()    # everyone is out of it
        copy_factor(work, 0, N, R, 0)
        for jk in range(t, rank * T, THREADS):
            B[jk // T, jk % T] = work[D + jk % T, jk // T]
        cuda.syncthreads()    # B holds the rank leading rows of Q'Y
        if rank == D:
            backward(R, B, D)
        elif rank > 0:
            smallest_solution(R, rank, D, S[SCALE], order, norms, B)
        for jk in range(t, D * T, THREADS):
            W[order[jk // T], jk % T] = B[jk // T, jk % T] if rank > 0 else accum(0)
        if t == 0:
            info[RANK] = rank

    @cuda.jit
    def least_squares_qr(X, Y, V, centre, scale, halvings, low, high, sums, tolerance, S, work, R, order, norms, B, W,
                         info):
        scratch = cuda.shared.array((TILE, TILE), accum)
        columns(X, Y, V, centre, scale, low, high, sums, S, scratch)
        P, N = work.shape
        f = share(1 << halvings, scale)
        for nj in range(cuda.threadIdx.y * TILE + cuda.threadIdx.x, N * P, THREADS):
            n = nj // P
            j = nj % P
            work[j, n] = f * weight(V, n) * (shifted(X, Y, n, j, S) - S[MEAN, j])
        cuda.syncthreads()    # work holds the columns
        solution(work, tolerance, S, R, order, norms, B, W, info, scratch)

    @cuda.jit
    def qr_fill(X, Y, V, scale, halvings, S, work):
        """Rows are halved so often that squares of them can be added up."""
        n, j = cuda.grid(2)
        f = share(1 << halvings, scale)
        if n < X.shape[0] and j < S.shape[1]:
            work[j, n] = f * weight(V, n) * (shifted(X, Y, n, j, S) - S[MEAN, j])

    @cuda.jit
    def qr_finish(work, tolerance, S, R, order, norms, B, W, info):
        scratch = cuda.shared.array((TILE, TILE), accum)
        solution(work, tolerance, S, R, order, norms, B, W, info, scratch)
    return least_squares_qr, qr_fill, qr_finish


@rung
def refine(p):
    compute, accum, wide = p.compute, p.accum, wider(p).accum
    columns, moments, means = centring.steps(p).columns, gram.steps(p).moments, centring.steps(wider(p)).means
    factor, backward = factoring.steps(p).cholesky, triangular.steps(p).backward
    start, gradient, correct = refinement(p).start, refinement(p).gradient, refinement(p).correct

    @cuda.jit(device=True)
    def solution(S, G, floor, B, wide_S, W, progress, info):
        D, T = W.shape
        t = cuda.threadIdx.y * TILE + cuda.threadIdx.x
        rank = factor(G, D, floor)
        if t == 0:
            info[RANK] = rank
        for jk in range(t, D * T, THREADS):
            B[jk // T, jk % T] = G[jk // T, D + jk % T]
        cuda.syncthreads()
        if rank == D:
            backward(G, B, D)
        start(S, wide_S, B, W, progress, info)

    @cuda.jit
    def least_squares_refine(X, Y, V, centre, scale, low, high, sums, S, G, floor, B,
                             wide_sums, wide_S, residual, out, units, progress, iterations, W, info):
        A_s = cuda.shared.array((TILE, TILE), compute)
        B_s = cuda.shared.array((TILE, TILE), compute)
        scratch = cuda.shared.array((TILE, TILE), accum)
        wide_scratch = cuda.shared.array((TILE, TILE), wide)
        columns(X, Y, V, centre, scale, low, high, sums, S, scratch)
        moments(X, Y, V, scale, S, G, A_s, B_s)
        solution(S, G, floor, B, wide_S, W, progress, info)
        means(X, Y, V, centre, scale, wide_sums, wide_S, wide_scratch)
        for _ in range(iterations):
            if info[ENDED] != 0:
                return
            gradient(X, Y, V, 0, X.shape[0], scale, wide_S, W, 0, residual, out, wide_scratch)
            correct(G, out, units, B, W, progress, info)

    @cuda.jit
    def refine_start(S, G, floor, B, wide_S, W, progress, info):
        solution(S, G, floor, B, wide_S, W, progress, info)

    @cuda.jit
    def refine_gradient(X, Y, V, rows, scale, wide_S, W, residual, out, info):
        wide_scratch = cuda.shared.array((TILE, TILE), wide)
        b = cuda.blockIdx.x
        if info[ENDED] == 0:
            n1 = min((b + 1) * rows, X.shape[0])
            gradient(X, Y, V, b * rows, n1, scale, wide_S, W, b, residual, out, wide_scratch)

    @cuda.jit
    def refine_correct(G, out, units, B, W, progress, info):
        if info[ENDED] == 0:
            correct(G, out, units, B, W, progress, info)
    return least_squares_refine, refine_start, refine_gradient, refine_correct


# ---- host side

@dataclass
class Fit:
    """What a fit leaves behind, on the device until `to_host`: S as in gram, the factor R of X (its columns in
    `order` after QR), W, and info = rank, iterations, how it ended; `progress` is the last correction, relative."""

    S: Any
    R: Any
    W: Any
    info: Any
    order: Any = None
    progress: Any = None

    def to_host(self, device):
        parts = {name: None if part is None else device.to_host(part) for name, part in vars(self).items()}
        return Fit(**parts)


def fits_one_block(N, P):
    return N * P <= ONE_BLOCK and P <= 4 * TILE


def rank_tolerance(precision, N, D):
    """A column with less than this left of the first one's norm is noise. Roundings are as good as random, so a sum
    of K of them errs by some sqrt(K) u (N. J. Higham and T. Mary, A new approach to probabilistic rounding error
    analysis, SIAM J. Sci. Comput. 41(5), 2019); K is the longest sum in a reflection plus the reflections."""
    K = -(-min(N, reflecting.rows_of_block(D)) // TILE) + D
    return precision.accum.element.type(min(4 * np.sqrt(K) * precision.accum.u, 1))


def halvings_of_rows(N, P):
    """4^h is the number of rows that one block sums over, or the number of blocks; so the squares of all rows add up to
    a few thousand at most while N is below 10^7, and the squares of a block's do not vanish."""
    rows = min(N, reflecting.rows_of_block(P))
    return int(np.ceil(np.log2(max(rows, N / rows)) / 2))


def launch(device, rung, precision, X, Y, V):
    """S and W."""
    fit = solve(device, rung, precision, X, Y, V)
    return fit.S, fit.W


def solve(device, rung, precision, X, Y, V, centre=True, scale=True, iterations=30):
    """A Fit, on the device. One launch if one block can do it."""
    (N, D), T = X.shape, Y.shape[1]
    P, accum, threads = D + T, precision.accum, (TILE, TILE)
    small, kernels = fits_one_block(N, P), rung[precision]
    S, R, W = device.empty((3, P), accum), device.empty((P, P), accum), device.empty((D, T), accum)
    info, norms = device.zeros((3,), np.int32), device.empty((P,), accum)
    ranges = gram.workspace(device, precision, P)
    fit = Fit(S, R, W, info)

    if rung.name == "cholesky":
        if small:
            device.launch(kernels[0], 1, threads, X, Y, V, centre, scale, *ranges, S, R, norms, W, info)
        else:
            gram.launch_columns(device, precision, X, Y, V, centre, scale, S)
            gram.launch_moments(device, precision, X, Y, V, scale, S, R)
            device.launch(kernels[1], 1, threads, R, norms, W, info)

    elif rung.name == "qr":
        fit.order, B, work = device.empty((D,), np.int32), device.empty((D, T), accum), device.empty((P, N), accum)
        tolerance, halvings = rank_tolerance(precision, N, D), halvings_of_rows(N, P)
        if small:
            device.launch(kernels[0], 1, threads, X, Y, V, centre, scale, halvings, *ranges, tolerance, S, work, R,
                          fit.order, norms, B, W, info)
        else:
            gram.launch_columns(device, precision, X, Y, V, centre, scale, S)
            device.launch(kernels[1], (-(-N // TILE), -(-P // TILE)), threads, X, Y, V, scale, halvings, S, work)
            work = reflecting.stacked(device, precision, reflecting.tall[precision][1], work, fit.order)
            device.launch(kernels[2], 1, threads, work, tolerance, S, R, fit.order, norms, B, W, info)

    else:
        wide, B = wider(precision).accum, W
        fit.W, fit.progress = device.empty((D, T), wide), device.empty((1,), wide)
        wide_S, units, residual = device.empty((3, P), wide), device.empty((T,), wide), device.empty((N, T), wide)
        if small:
            out, sums = device.empty((1, D, T), wide), device.empty((1, P + 1), wide)
            device.launch(kernels[0], 1, threads, X, Y, V, centre, scale, *ranges, S, R, norms, B, sums, wide_S,
                          residual, out, units, fit.progress, iterations, fit.W, info)
        else:
            rows, blocks = gram.deal(N, TILE)
            out = device.empty((blocks, D, T), wide)
            gram.launch_columns(device, precision, X, Y, V, centre, scale, S)
            gram.launch_moments(device, precision, X, Y, V, scale, S, R)
            device.launch(kernels[1], 1, threads, S, R, norms, B, wide_S, fit.W, fit.progress, info)
            gram.launch_means(device, wider(precision), X, Y, V, centre, scale, wide_S)
            for iteration in range(iterations):
                if iteration % LOOK == LOOK - 1 and device.to_host(info)[ENDED]:
                    break
                device.launch(kernels[2], blocks, threads, X, Y, V, rows, scale, wide_S, fit.W, residual, out,
                              info)
                device.launch(kernels[3], 1, threads, R, out, units, B, fit.W, fit.progress, info)
        fit.S = wide_S
    return fit


def bytes_needed(rung, precision, N, D, T):
    """Bytes that X, Y, V and all that `solve` makes take together, also what it drops on the way: a GPU frees memory
    when it sees fit. Found by going through `solve` on a device that only counts."""
    fmt = wider(precision).storage if rung.name == "refine" else precision.storage
    device = _Counting()
    X, Y, V = (device.empty(shape, fmt) for shape in ((N, D), (N, T), (N,)))
    solve(device, rung, precision, X, Y, V, iterations=1)
    return device.bytes


class _Counting:
    """A device that makes nothing and runs nothing, but counts the bytes of its arrays, each a multiple of 256: to that
    cudaMalloc aligns at least (CUDA C++ Programming Guide, section "Device Memory Accesses")."""

    bytes = 0

    def empty(self, shape, fmt):
        itemsize = fmt.bytes if isinstance(fmt, Format) else np.dtype(fmt).itemsize
        self.bytes += -(-math.prod(shape) * itemsize // 256) * 256
        return SimpleNamespace(shape=shape)

    zeros = empty

    def launch(self, kernel, grid, block, *args):
        """Nothing runs."""


def cost(precision, N, D, T):
    parts = gram.cost(precision, N, D, T), factoring.cost(precision, D), triangular.cost(precision, D, T)
    return {"flops": sum(part["flops"] for part in parts),
            "bytes": N * (D + T + 1) * precision.storage.bytes + (3 * (D + T) + D * T) * precision.accum.bytes}


def inputs(rng, shape, kind, precision):
    return gram.inputs(rng, shape, kind, precision)


operation("least_squares", oracle=oracle, readout=readout, error_bound=error_bound, launch=launch, cost=cost,
          inputs=inputs, shapes=((3, 1, 1), (17, 3, 2), (40, 4, 1), (129, 17, 3)),
          bench_shapes={"smoke": (442, 10, 1), "quick": (10_000, 30, 1), "full": (1_000_000, 100, 1)},
          cost_differs="Tiles of the moment matrix hold both of its halves and zeros beyond its edge, and tiles of one "
                       "strip are centred and scaled anew.")
