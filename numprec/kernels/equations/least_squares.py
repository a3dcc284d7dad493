"""Linear least squares: the three ways to a solution that the chapters before this one allow.

Idea       A small problem is one launch of one block: what the chapters before this one do in kernels of their own, it
           does in a row, by the same device functions. A large one is a few launches of grids, and one block at the end
Maths      W minimizes the sum over n of v[n]^2 |Y[n] - X[n] W|^2, all columns centred and scaled (see centring)
Example    x = (1, 2, 3, 4, 5, 6), y = (3, 5, 7, 9, 11, 13): centred and scaled, both columns are -5/8, -3/8, ..., 5/8;
           W = 1, in scaled units. scale is 1/4 for x and 1/8 for y: in units of the data W = 1 * (1/4) / (1/8) = 2
Shapes     X (N, D), Y (N, T), v (N,) or (1,): storage; for refine X, Y and v may be in a wider format, and should be.
           W (D, T): accum, in units of the scaled columns; for refine in the wider format
Mapping    one block, one launch, for small problems; else the grid rungs of gram and qr, and one block at the end
Precision  cholesky  the normal equations square the condition number k of X: |dW| ~ k^2 u |W|      [1, section 20.4]
           qr        |dW| ~ k u |W|, plus k^2 u where the residual is large                          [1, section 20.1]
           refine    (k^2 u)^passes of the factor's u, down to the u of the wider format             [1, chapter 12]
Ladder     from the least accurate to the most
           cholesky  the moment matrix, its factor, and one substitution: the factorisation does the other on the way,
                     with the right-hand sides as further columns
           qr        column pivoting finds the rank; below full rank, the solution of least norm in the units of X
           refine    cholesky, then corrections until they stop shrinking
Try        python -m numprec.kernels least_squares --precision fp16
           Exercise: k is 100. How many digits are right, by cholesky and by qr, in float32, u = 6e-8? Answer: k^2 u is
           6e-4 and k u is 6e-6: about 3, and about 5
Cost       that of the moment matrix, of its factor and of the substitutions; N (P + 1) elements read, P = D + T
Sources    [1] N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002
"""
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cuda

from numprec.kernels.equations import centring, gram, triangular
from numprec.kernels.equations import cholesky as factoring
from numprec.kernels.equations import qr as reflecting
from numprec.kernels.equations.least_norm import Reflected, pivoted_solution, rank_tolerance
from numprec.kernels.equations.refinement import correct, empty_state, gradient, start, wider
from numprec.kernels.equations.triangular import normal_solution
from numprec.kernels.equations.units import THREADS, TILE, Data, Info, Units, deal, empty_units, share, unrounded
from numprec.language.errors import gamma
from numprec.language.ladder import operation, rung
from numprec.precision import FORMATS

ONE_BLOCK = 2 ** 16       # elements of Z up to which one block does it all
LOOK = 16                 # iterations between two looks at whether it has ended


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


# ---- kernels: each rung is the whole fit by one block, then the parts that finish what grids have begun

@rung
def cholesky(p):
    accum, columns, moments, solution = p.accum, centring.columns[p], gram.moments[p], normal_solution[p]

    @cuda.jit
    def least_squares_cholesky(data, centre, scale, units, R, floor, W, info):
        columns(data, centre, scale, units, cuda.shared.array((TILE, TILE), accum))
        moments(data, scale, units, R)
        solution(R, floor, W, info)

    @cuda.jit
    def cholesky_finish(R, floor, W, info):
        solution(R, floor, W, info)
    return least_squares_cholesky, cholesky_finish


@rung
def qr(p):
    accum, columns, a, share_of, solution = (
        p.accum, centring.columns[p], unrounded[p], share[p], pivoted_solution[p])

    @cuda.jit
    def least_squares_qr(data, centre, scale, halvings, units, qr, W, info):
        columns(data, centre, scale, units, cuda.shared.array((TILE, TILE), accum))
        P, N = qr.work.shape
        f = share_of(1 << halvings, scale)
        for nj in range(cuda.threadIdx.y * TILE + cuda.threadIdx.x, N * P, THREADS):
            qr.work[nj % P, nj // P] = f * a(data, nj // P, nj % P, units)
        cuda.syncthreads()    # work holds the columns
        solution(units, qr, W, info)

    @cuda.jit
    def qr_fill(data, scale, halvings, units, work):
        """Rows are halved so often that squares of them can be added up."""
        n, j = cuda.grid(2)
        f = share_of(1 << halvings, scale)
        if n < work.shape[1] and j < work.shape[0]:
            work[j, n] = f * a(data, n, j, units)

    @cuda.jit
    def qr_finish(units, qr, W, info):
        solution(units, qr, W, info)
    return least_squares_qr, qr_fill, qr_finish


@rung
def refine(p):
    accum, wide, columns, moments = p.accum, wider(p).accum, centring.columns[p], gram.moments[p]
    solution, means = normal_solution[p], centring.means[wider(p)]
    begin, gradient_of, correct_by = start[p], gradient[p], correct[p]

    @cuda.jit
    def least_squares_refine(data, centre, scale, iterations, units, floor, state, info):
        wide_s = cuda.shared.array((TILE, TILE), wide)
        columns(data, centre, scale, units, cuda.shared.array((TILE, TILE), accum))
        moments(data, scale, units, state.R)
        solution(state.R, floor, state.step, info)
        begin(units, state, info)
        means(data, centre, scale, state.units, wide_s)
        for _ in range(iterations):
            if info[Info.ENDED] != 0:
                return
            gradient_of(data, 0, data.X.shape[0], 0, scale, state, wide_s)
            correct_by(state, info)

    @cuda.jit
    def refine_start(units, floor, state, info):
        solution(state.R, floor, state.step, info)
        begin(units, state, info)

    @cuda.jit
    def refine_gradient(data, rows, scale, state, info):
        wide_s = cuda.shared.array((TILE, TILE), wide)
        b = cuda.blockIdx.x
        if info[Info.ENDED] == 0:
            gradient_of(data, b * rows, min((b + 1) * rows, data.X.shape[0]), b, scale, state, wide_s)

    @cuda.jit
    def refine_correct(state, info):
        if info[Info.ENDED] == 0:
            correct_by(state, info)
    return least_squares_refine, refine_start, refine_gradient, refine_correct


# ---- host side: a recipe for each rung

@dataclass
class Fit:
    """What a fit leaves behind, on the device until `to_host`: the Units, the factor R of X (its columns in `order`
    after QR), W, and info, whose entries Info names; `change` is the last correction, relative."""

    units: Any
    R: Any
    W: Any
    info: Any
    order: Any = None
    change: Any = None

    def to_host(self, device):
        parts = {name: None if part is None else Units(*map(device.to_host, part)) if name == "units" else
                 device.to_host(part) for name, part in vars(self).items()}
        return Fit(**parts)


def fits_one_block(N, P):
    return N * P <= ONE_BLOCK and P <= 4 * TILE


def solve(device, rung, precision, X, Y, v, centre=True, scale=True, iterations=30):
    """A Fit, on the device. One launch if one block can do it."""
    return RECIPES[rung](device, precision, Data(X, Y, v), centre, scale, iterations)


def _sizes(data):
    return *data.X.shape, data.Y.shape[1], data.X.shape[1] + data.Y.shape[1]


def _moments(device, precision, data, centre, scale):
    """Units and moments by grids."""
    units = centring.units_of(device, centring.grid, precision, data, centre, scale)
    return units, gram.moments_of(device, gram.grid, precision, data, units, scale)


def _by_cholesky(device, precision, data, centre, scale, iterations):
    whole, finish = cholesky[precision]
    (N, D, T, P), accum, threads = _sizes(data), precision.accum, (TILE, TILE)
    W, floor, info = device.empty((D, T), accum), device.empty((D,), accum), device.zeros((3,), np.int32)
    if fits_one_block(N, P):
        units, R = empty_units(device, P, accum), device.empty((P, P), accum)
        device.launch(whole, 1, threads, data, centre, scale, units, R, floor, W, info)
    else:
        units, R = _moments(device, precision, data, centre, scale)
        device.launch(finish, 1, threads, R, floor, W, info)
    return Fit(units, R, W, info)


def _by_qr(device, precision, data, centre, scale, iterations):
    whole, fill, finish = qr[precision]
    (N, D, T, P), accum, threads = _sizes(data), precision.accum, (TILE, TILE)
    W, info, halvings = device.empty((D, T), accum), device.zeros((3,), np.int32), reflecting.halvings_of_rows(N, P)
    work = Reflected(device.empty((P, N), accum), rank_tolerance(precision, N, D), device.empty((P, P), accum),
                     device.empty((D,), np.int32), device.empty((P,), accum), device.empty((D, T), accum))
    if fits_one_block(N, P):
        units = empty_units(device, P, accum)
        device.launch(whole, 1, threads, data, centre, scale, halvings, units, work, W, info)
    else:
        units = centring.units_of(device, centring.grid, precision, data, centre, scale)
        device.launch(fill, (-(-N // TILE), -(-P // TILE)), threads, data, scale, halvings, units, work.work)
        _, stack, _ = reflecting.tall[precision]
        work = work._replace(work=reflecting.stacked(device, precision, stack, work.work, work.order))
        device.launch(finish, 1, threads, units, work, W, info)
    return Fit(units, work.R, W, info, order=work.order)


def _by_refinement(device, precision, data, centre, scale, iterations):
    whole, begin, gradients, correction = refine[precision]
    (N, D, T, P), accum, threads = _sizes(data), precision.accum, (TILE, TILE)
    floor = device.empty((D,), accum)
    if fits_one_block(N, P):
        units = empty_units(device, P, accum)
        state, info = empty_state(device, precision, device.empty((P, P), accum), N, D, T, 1)
        device.launch(whole, 1, threads, data, centre, scale, iterations, units, floor, state, info)
    else:
        rows, blocks = deal(N, TILE)
        units, R = _moments(device, precision, data, centre, scale)
        state, info = empty_state(device, precision, R, N, D, T, blocks)
        device.launch(begin, 1, threads, units, floor, state, info)
        centring.launch_means(device, wider(precision), data, centre, scale, state.units)
        for iteration in range(iterations):
            if iteration % LOOK == LOOK - 1 and device.to_host(info)[Info.ENDED]:
                break
            device.launch(gradients, blocks, threads, data, rows, scale, state, info)
            device.launch(correction, 1, threads, state, info)
    return Fit(state.units, state.R, state.W, info, change=state.change)


RECIPES = {cholesky: _by_cholesky, qr: _by_qr, refine: _by_refinement}


def launch(device, rung, precision, X, Y, v):
    """shift, scale, mean and W."""
    fit = solve(device, rung, precision, X, Y, v)
    return *fit.units, fit.W


# ---- how it is judged

def readout(results, X, Y, v):
    """W in the units of the data."""
    _, scale, _, W = (part.astype(np.float64) for part in results)
    return W * scale[:len(W), None] / scale[len(W):]


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


def cost(precision, N, D, T):
    parts = gram.cost(precision, N, D, T), factoring.cost(precision, D), triangular.cost(precision, D, T)
    return {"flops": sum(part["flops"] for part in parts),
            "bytes": N * (D + T + 1) * precision.storage.bytes + (3 * (D + T) + D * T) * precision.accum.bytes}


operation("least_squares", oracle=oracle, readout=readout, error_bound=error_bound, launch=launch, cost=cost,
          inputs=centring.inputs, shapes=((3, 1, 1), (17, 3, 2), (40, 4, 1), (129, 17, 3)),
          bench_shapes={"smoke": (442, 10, 1), "quick": (10_000, 30, 1), "full": (1_000_000, 100, 1)},
          cost_differs="Tiles of the moment matrix hold both of its halves and zeros beyond its edge, and tiles of one "
                       "strip are centred and scaled anew.")
