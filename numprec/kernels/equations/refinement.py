"""Iterative refinement: a cheap factor, corrected by residuals that are one format wider.

Idea       What is expensive, the factor, is computed in the fast narrow format; what decides the accuracy, the
           residual, costs one pass over the data, and is computed in the wider one
Maths      r = Y - X W;  R'R dW = X'r;  W + dW, until dW stops shrinking
Example    x = (1, 2, 3), y = (3, 6, 9), W = 3, and a factor so coarse that R'R is 16 instead of X'X = 14:
             W = 42 / 16 = 2.625      X'r = 42 - 14 W = 5.25      dW = 5.25 / 16   = 0.328
             W = 2.953                X'r = 0.656                 dW = 0.656 / 16  = 0.041
             W = 2.994                X'r = 0.082                 ...
           each pass leaves 1 - 14 / 16 = 1 / 8 of the error: three bits for each
Shapes     X (N, D), Y (N, T), v (N,) or (1,): the wider format. `State` names the rest
Mapping    one block; or a block for a part of the rows, and one for the correction
Precision  X'(Y - X W) with all operands one format wider, then a correction through the cheap factor. Each pass gains
           the digits that k^2 u of the factor leaves, k the condition number of X, up to those of the wider format
           [1, chapter 12]. A right-hand side is brought near 1 before it is narrowed, or it would be lost as it shrinks
Ladder     in the chapter least_squares, of which it is the last rung
Try        python -m numprec.kernels least_squares --rung refine --precision fp16
           Exercise: how many passes does the example need until W is right to 11 bits? Answer: the error of 0.375 falls
           to 3 / 2^11 = 0.0015 after three more passes: 0.375 / 8^3 = 0.0007
Cost       4 N D T flops a pass, beside the 2 D^2 T of the substitutions; N (D + T + 1) elements read twice
Sources    [1] N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002
           [2] E. Carson and N. J. Higham, Accelerating the solution of linear systems by iterative refinement in three
               precisions, SIAM J. Sci. Comput. 40(2), 2018
"""
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from numprec.kernels.equations.triangular import backward, forward
from numprec.kernels.equations.units import (THREADS, TILE, Ended, Info, Units, empty_units, power_below, scaled,
                                             share, unrounded, weight)
from numprec.kernels.reductions.collectives import column_sum
from numprec.language.ladder import helper
from numprec.precision import Precision


class State(NamedTuple):
    """What the passes hand on, in the wider format but for the first two, which are accum."""

    R: Any           # (D, P), the factor and what stands to its right
    step: Any        # (D, T), the correction, times reach
    units: Units     # of the columns; the means are taken anew
    W: Any           # (D, T)
    residual: Any    # (N, T)
    gradient: Any    # (blocks, D, T)
    reach: Any       # (T,), the power of two that brings a right-hand side near 1
    change: Any      # (1,), the largest correction in terms of its solution


def wider(p):
    """The precision of the residuals: everything one format above the storage of p."""
    w = p.storage.wider()
    return Precision("wider", w, w, w)


def empty_state(device, precision, R, N, D, T, blocks):
    """A State for the factor R, with `blocks` blocks that share the rows, and an info."""
    wide = wider(precision).accum
    shapes = (D, T), (N, T), (blocks, D, T), (T,), (1,)
    return State(R, device.empty((D, T), precision.accum), empty_units(device, R.shape[1], wide),
                 *(device.empty(shape, wide) for shape in shapes)), device.zeros((3,), np.int32)


# ---- the steps, for a fit by one block and for one by grids

@helper
def start(p):
    """The first solution and the units, in the wider format."""
    wide = wider(p).accum

    @cuda.jit(device=True)
    def start(units, state, info):
        t = cuda.threadIdx.y * TILE + cuda.threadIdx.x
        D, T = state.W.shape
        for j in range(t, units.scale.shape[0], THREADS):
            state.units.shift[j] = wide(units.shift[j])
            state.units.scale[j] = wide(units.scale[j])
        for jk in range(t, D * T, THREADS):
            state.W[jk // T, jk % T] = wide(state.step[jk // T, jk % T])
        if t == 0:
            state.change[0] = wide(1)
            info[Info.ITERATIONS] = 0
            info[Info.ENDED] = Ended.NOT if info[Info.RANK] == D else Ended.BROKEN
        cuda.syncthreads()    # everyone may look at info
    return start


@helper
def gradient(p):
    wide, w = wider(p).accum, wider(p)
    z, weight_of, a, share_of = scaled[w], weight[w], unrounded[w], share[w]
    over_column = column_sum(w, TILE, TILE)

    @cuda.jit(device=True)
    def gradient(data, n0, n1, b, scale, state, tile_s):
        """gradient[b] = X'(Y - X W) over the rows n0 <= n < n1, centred, weighted and scaled as the moments are."""
        tx = cuda.threadIdx.x
        ty = cuda.threadIdx.y
        D, T = state.W.shape
        units = state.units
        f = share_of(data.X.shape[0], scale)
        for nk in range(ty * TILE + tx, (n1 - n0) * T, THREADS):
            n = n0 + nk // T
            k = nk % T
            acc = z(data, n, D + k, units) - units.mean[D + k]
            for j in range(D):
                acc -= (z(data, n, j, units) - units.mean[j]) * state.W[j, k]
            state.residual[n, k] = weight_of(data, n) * acc
        cuda.syncthreads()    # the residuals of these rows are complete
        for j0 in range(0, D, TILE):
            j = j0 + tx
            for k in range(T):
                acc = wide(0)
                if j < D:
                    for n in range(n0 + ty, n1, TILE):
                        acc += a(data, n, j, units) * state.residual[n, k]
                acc = over_column(acc, tile_s)
                if j < D and ty == 0:
                    state.gradient[b, j, k] = f * acc
        cuda.syncthreads()    # the gradient of these rows is complete
    return gradient


@helper
def near_one(p):
    """step = the sum of the gradients, each right-hand side times its reach [2, section 4]."""
    accum, wide, power = p.accum, wider(p).accum, power_below[wider(p)]

    @cuda.jit(device=True)
    def near_one(state):
        t = cuda.threadIdx.y * TILE + cuda.threadIdx.x
        D, T = state.W.shape
        sums = state.gradient
        for jk in range(t, D * T, THREADS):
            total = wide(0)
            for b in range(sums.shape[0]):
                total += sums[b, jk // T, jk % T]
            sums[0, jk // T, jk % T] = total
        cuda.syncthreads()    # sums[0] is the whole of it
        for k in range(t, T, THREADS):
            largest = wide(0)
            for j in range(D):
                largest = abs(sums[0, j, k]) if abs(sums[0, j, k]) > largest else largest
            state.reach[k] = power(largest)
        cuda.syncthreads()    # each right-hand side has its power of two
        for jk in range(t, D * T, THREADS):
            state.step[jk // T, jk % T] = accum(sums[0, jk // T, jk % T] * state.reach[jk % T])
    return near_one


@helper
def largest_change(p):
    wide = wider(p).accum

    @cuda.jit(device=True)
    def largest_change(state):
        """The largest correction in terms of its own solution; every thread finds the same."""
        D, T = state.W.shape
        largest = wide(0)
        for k in range(T):
            change = wide(0)
            size = wide(0)
            for j in range(D):
                dw = abs(wide(state.step[j, k]))
                change = dw if not dw <= change else change    # a NaN stays
                size = abs(state.W[j, k]) if abs(state.W[j, k]) > size else size
            change = change / state.reach[k]
            if change > wide(0) and size > wide(0):
                change = change / size
            largest = change if not change <= largest else largest
        return largest
    return largest_change


@helper
def correct(p):
    wide, narrow, change_of = wider(p).accum, near_one[p], largest_change[p]
    lower, upper = forward[p], backward[p]
    per_unit = 2 ** wide.significand    # 1 / u

    @cuda.jit(device=True)
    def correct(state, info):
        """One correction of W. A correction that is not smaller than the one before is not made; one that is not half
        as large is the last."""
        t = cuda.threadIdx.y * TILE + cuda.threadIdx.x
        D, T = state.W.shape
        narrow(state)
        lower(state.R, state.step)
        upper(state.R, state.step, D)
        largest = change_of(state)
        before = state.change[0]
        cuda.syncthreads()    # everyone has read W and change
        if largest < before:
            for jk in range(t, D * T, THREADS):
                state.W[jk // T, jk % T] += wide(state.step[jk // T, jk % T]) / state.reach[jk % T]
            if t == 0:
                state.change[0] = largest
                info[Info.ITERATIONS] += 1
                if largest <= wide(1) / wide(per_unit):
                    info[Info.ENDED] = Ended.CONVERGED
                elif largest + largest > before:
                    info[Info.ENDED] = Ended.STALLED
        elif t == 0:
            info[Info.ENDED] = Ended.STALLED
        cuda.syncthreads()    # W and info are up to date
    return correct
