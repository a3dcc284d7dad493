"""One iteration of sequential minimal optimisation: which two multipliers, how far they go, and when to stop.

Idea       All threads of a block look for the two multipliers by argmax, and each of them then computes the same step,
           which nobody has to hand out.
Maths      The dual problem: minimize 1/2 sum of alpha_s alpha_t y_s y_t K_st - sum of alpha_t, 0 <= alpha_t <= C_t (the
           box), sum of y_t alpha_t = 0. Each sample t has a multiplier alpha_t; one strictly inside the box is free.
           With the gradient times y, f_t = sum over s of K_ts y_s alpha_s - y_t, and the sets [1, section 2.1]
             I_up   multipliers that may move so that y alpha grows     I_low  ... so that it shrinks
           an iteration takes                                                         [1, "WSS 2", section 2.2]
             i = argmin of f_t over I_up
             j = argmax of (f_t - f_i)^2 / a_it over t in I_low with f_t > f_i,  a_it = K_ii + K_tt - 2 K_it
             y_i alpha_i += step,  y_j alpha_j -= step,  step = (f_j - f_i) / a_ij, cut at the box
             f_t += step (K_it - K_jt)
           The gap is max of f over I_low - min of f over I_up: where it is 0, alpha is a solution
Shapes     those of one binary problem of `smo`: row, col, y, C, alpha, f (n,), numbers (6,), info (5,)
Mapping    device functions that all threads of a block enter together; entry t belongs to thread t modulo its width
Precision  nothing below the error of its own computation is believed: no curvature, no gap, no step.
           - a_it is a sum of differences, and never trusted below the error of K: at least TAU u |K|. Libsvm's constant
             tau has this part to play in float64. A curvature taken too large makes a step short, not wrong. Where
             K_ii = K_tt = K_it, as for two copies of a sample, f_i and f_t do not change: the step goes to the box
           - alpha_i and alpha_j move by one and the same number, one that both can represent, so that sum y alpha
             stays 0; at the box they are set to 0 or C exactly. f gets what alpha really moved by
           - a gap that is one unit in the last place of f will not become smaller: stalled, and not called converged.
             So is a pair that no longer moves, and a gap below NOISE units that did not shrink for
             PATIENCE + PER_SAMPLE n iterations
Sources    [1] R.-E. Fan, P.-H. Chen and C.-J. Lin, Working set selection using second order information for training
               support vector machines, J. Machine Learning Research 6, 2005
           [2] C.-C. Chang and C.-J. Lin, LIBSVM: A library for support vector machines, ACM TIST 2(3), 2011
"""
from functools import lru_cache
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from numba import cuda, int32

from numprec.kernels.reductions.collectives import WARP, beats, block_sum, larger, warp_argmax, warp_fold
from numprec.language.columns import columns
from numprec.language.formats import constant
from numprec.language.ladder import helper

SCRATCH = 2 * WARP           # numbers that a block exchanges
# The four numbers that a_it is made of are each off by their rounding to storage at least, u |K|; twice that leaves as
# much again for the sums that they come from.
TAU = 8                      # least curvature, in units of u |K|
# An iteration rounds each f_t by half a unit. Taken as a random walk, the errors of T iterations are sqrt(T) / 2 units,
# so that those of four million explain a gap of NOISE; a larger one is never taken for noise.
NOISE = 1024                 # units in the last place of f
# Chosen, not derived: the gap need not shrink in each iteration, and takes longer to where there are more samples.
PATIENCE, PER_SAMPLE = 1000, 8     # iterations without a smaller gap, and as many more for each sample

CONVERGED, MAX_ITER, STALLED, OVERFLOW = 1, 2, 3, 4                       # how it ended; 0: not yet


class Given(NamedTuple):
    """What is known of a problem's entries: y (+1 or -1) and C; K[row[s], col[t]] is that of the entries s and t."""

    row: object
    col: object
    y: object
    C: object

    def of(self, own):
        """Those of the entries in the slice `own`."""
        return Given(*(array[own] for array in self))


class Found(NamedTuple):
    """How far it is solved: alpha and f of each entry; numbers[Number....] and info[Info....] of the problem."""

    alpha: object
    f: object
    numbers: object
    info: object


class Limits(NamedTuple):
    """When to stop: the gap that is small enough; iterations of a fit, and of one launch."""

    tolerance: object
    max_iter: object
    burst: object


Info = columns("Info", "ITERATIONS ENDED SINCE I J")                      # info[...]
Number = columns("Number", "GAP INTERCEPT SIZE BEST MOVE REST")           # numbers[...]


# ---- the best of a block

@helper
def block_best(p, threads):
    """block_best(a, i, x, key_s, where_s): the best (key a, index i) of a one-dimensional block as in `argmax`, and its
    largest x, or a NaN; in each of its threads. `key_s` (accum, SCRATCH long) and `where_s` (int32, WARP long) are
    shared. Synchronises at entry."""
    best_of_warp, largest_of_warp, warps = warp_argmax[p], warp_fold(p, combine=larger), threads // WARP

    @cuda.jit(device=True)
    def block_best(a, i, x, key_s, where_s):
        lane = cuda.threadIdx.x % WARP
        warp = cuda.threadIdx.x // WARP
        a, i = best_of_warp(a, i)
        x = largest_of_warp(x)
        cuda.syncthreads()    # everyone is done with the scratch
        if lane == 0:
            key_s[warp], key_s[WARP + warp], where_s[warp] = a, x, i
        cuda.syncthreads()    # each warp has left its best
        w = lane if lane < warps else 0
        a, i = best_of_warp(key_s[w], where_s[w])
        return a, i, largest_of_warp(key_s[WARP + w])
    return block_best


# ---- the iteration

@lru_cache(maxsize=None)
def steps(p, state, threads):
    """Device functions. The block enters together, and where a value is returned every thread gets it."""
    accum, state = p.accum, getattr(p, state)
    ulp = 2 * max(state.u, accum.u)
    infinity, tiny, tau = constant(accum, np.inf), constant(accum, accum.tiny), constant(accum, TAU * p.u)
    spacing, noise = constant(accum, ulp), constant(accum, min(NOISE * ulp, 1))
    over_block, sum_over_block, wins = block_best(p, threads), block_sum(p, threads), beats[p]

    @cuda.jit(device=True)
    def I_up(y, a, c):
        return a < c if y > accum(0) else a > accum(0)

    @cuda.jit(device=True)
    def I_low(y, a, c):
        return a > accum(0) if y > accum(0) else a < c

    @cuda.jit(device=True)
    def overflows(K, row, col):
        """Whether K has infinite or undefined numbers on its diagonal, and so is of no use."""
        bad = 0
        for t in range(cuda.threadIdx.x, row.size, threads):
            bad = bad if abs(accum(K[row[t], col[t]])) < infinity() else 1
        return cuda.syncthreads_count(bad) > 0

    @cuda.jit(device=True)
    def begin(y, alpha, f, numbers, info):
        """alpha = 0."""
        for t in range(cuda.threadIdx.x, y.size, threads):
            alpha[t] = state(0)
            f[t] = state(-accum(y[t]))
        if cuda.threadIdx.x == 0:
            info[Info.ITERATIONS], info[Info.ENDED], info[Info.SINCE], numbers[Number.BEST] = 0, 0, 0, infinity()
        cuda.syncthreads()    # the state is complete

    @cuda.jit(device=True)
    def extremes(y, C, alpha, f, key_s, where_s):
        """-min of f over I_up, where it is, and max of f over I_low. An empty set leaves -infinity."""
        up = -infinity()
        low = -infinity()
        i = int32(0)
        for t in range(cuda.threadIdx.x, y.size, threads):
            y_t, a, c, f_t = accum(y[t]), accum(alpha[t]), accum(C[t]), accum(f[t])
            if I_up(y_t, a, c) and wins(-f_t, int32(t), up, i):
                up, i = -f_t, int32(t)
            if I_low(y_t, a, c):
                low = f_t if low == low and not f_t <= low else low
        return over_block(up, i, low, key_s, where_s)

    @cuda.jit(device=True)
    def verdict(up, low, tolerance, n, iteration, max_iter, best, since):
        """Whether to stop, and why; then the smallest gap so far, and when it was."""
        gap = low + up
        size = max(abs(up), abs(low))
        ended = 0
        if not gap < infinity():
            ended = OVERFLOW
        elif gap <= tolerance:
            ended = CONVERGED
        elif gap <= spacing() * size or (iteration - since > PATIENCE + PER_SAMPLE * n and gap <= noise() * size):
            ended = STALLED
        elif iteration >= max_iter:
            ended = MAX_ITER
        if gap < best:
            best, since = gap, iteration
        return ended, best, since

    @cuda.jit(device=True)
    def curvature(K, row, col, i, t):
        """K_ii + K_tt - 2 K_it, or the error of K if that is more."""
        k_ii, k_tt, k_it = accum(K[row[i], col[i]]), accum(K[row[t], col[t]]), accum(K[row[i], col[t]])
        a = (k_ii - k_it) + (k_tt - k_it)
        floor = tau() * max(abs(k_ii), abs(k_tt)) + tiny()
        return a if a > floor else floor

    @cuda.jit(device=True)
    def alike(K, row, col, i, t):
        """Whether K does not tell i and t apart."""
        k_ii, k_tt, k_it = accum(K[row[i], col[i]]), accum(K[row[t], col[t]]), accum(K[row[i], col[t]])
        return k_ii == k_it and k_tt == k_it

    @cuda.jit(device=True)
    def partner(K, row, col, y, C, alpha, f, i, key_s, where_s):
        """j for i."""
        f_i = accum(f[i])
        best = -infinity()
        j = int32(0)
        for t in range(cuda.threadIdx.x, y.size, threads):
            if I_low(accum(y[t]), accum(alpha[t]), accum(C[t])):
                b = accum(f[t]) - f_i
                if b > accum(0):
                    gain = b * (b / curvature(K, row, col, i, t))
                    if wins(gain, int32(t), best, j):
                        best, j = gain, int32(t)
        _, j, _ = over_block(best, j, best, key_s, where_s)
        return j

    @cuda.jit(device=True)
    def held(x, c):
        """x as a multiplier can hold it, in the box."""
        return min(max(accum(state(x)), accum(0)), c)

    @cuda.jit(device=True)
    def step(K, row, col, y, C, alpha, f, i, j):
        """The new alpha_i and alpha_j, by how much y_i alpha_i grew, and how much of it y_j alpha_j did not shrink."""
        y_i, a_i, c_i = accum(y[i]), accum(alpha[i]), accum(C[i])
        y_j, a_j, c_j = accum(y[j]), accum(alpha[j]), accum(C[j])
        room_i, end_i = (c_i - a_i, c_i) if y_i > accum(0) else (a_i, accum(0))
        room_j, end_j = (a_j, accum(0)) if y_j > accum(0) else (c_j - a_j, c_j)
        size = (accum(f[j]) - accum(f[i])) / curvature(K, row, col, i, j)
        size = infinity() if alike(K, row, col, i, j) else size
        size = min(room_i, room_j) if not size < min(room_i, room_j) else size
        b_i = held(a_i + y_i * size, c_i)
        b_j = held(a_j - y_j * size, c_j)
        if room_i <= size or room_j <= size:
            b_i = end_i if room_i <= size else b_i
            b_j = end_j if room_j <= size else b_j
        else:
            b_j = held(a_j - y_j * abs(b_i - a_i), c_j)
            b_i = held(a_i + y_i * abs(b_j - a_j), c_i)
        move = y_i * (b_i - a_i)
        return b_i, b_j, move, move + y_j * (b_j - a_j)

    @cuda.jit(device=True)
    def gradient(K, row, col, f, i, j, t, move, rest):
        """f_t after a step. `rest` is 0, except where the box let one multiplier move further than the other."""
        k_it, k_jt = accum(K[row[i], col[t]]), accum(K[row[j], col[t]])
        f_t = accum(f[t]) + move * (k_it - k_jt)
        f[t] = state(f_t + rest * k_jt)

    @cuda.jit(device=True)
    def finish(y, C, alpha, f, up, low, numbers, key_s):
        """Gap, size of f there, and intercept. The f of free multipliers differ by less than the gap: their mean is
        found from the differences to its middle, which float16 can add up without harm."""
        middle = (low - up) * (accum(1) / accum(2))
        middle = low if up == -infinity() else (-up if low == -infinity() else middle)
        total = accum(0)
        count = accum(0)
        for t in range(cuda.threadIdx.x, y.size, threads):
            a = accum(alpha[t])
            if accum(0) < a and a < accum(C[t]):
                total += accum(f[t]) - middle
                count += accum(1)
        total = sum_over_block(total, key_s)
        count = sum_over_block(count, key_s)
        if cuda.threadIdx.x == 0:
            numbers[Number.GAP], numbers[Number.SIZE] = low + up, max(abs(up), abs(low))
            numbers[Number.INTERCEPT] = -(middle + total / count if count > accum(0) else middle)

    @cuda.jit(device=True)
    def minimize(K, row, col, y, C, tolerance, max_iter, burst, alpha, f, numbers, info, key_s, where_s):
        """Up to `burst` iterations."""
        ended, iteration, since, best = info[Info.ENDED], info[Info.ITERATIONS], info[Info.SINCE], numbers[Number.BEST]
        last = iteration + burst
        if overflows(K, row, col):
            ended = OVERFLOW
        while True:
            up, i, low = extremes(y, C, alpha, f, key_s, where_s)
            if ended == 0:
                ended, best, since = verdict(up, low, tolerance, y.size, iteration, max_iter, best, since)
            if ended != 0 or iteration == last:
                break
            j = partner(K, row, col, y, C, alpha, f, i, key_s, where_s)
            b_i, b_j, move, rest = step(K, row, col, y, C, alpha, f, i, j)
            cuda.syncthreads()    # everyone has read alpha and f of i and j
            if move == accum(0) and rest == accum(0):
                ended = STALLED
            else:
                iteration += 1
                for t in range(cuda.threadIdx.x, y.size, threads):
                    if t == i:
                        alpha[t] = state(b_i)
                    elif t == j:
                        alpha[t] = state(b_j)
                    gradient(K, row, col, f, i, j, t, move, rest)
        finish(y, C, alpha, f, up, low, numbers, key_s)
        if cuda.threadIdx.x == 0:
            info[Info.ENDED], info[Info.ITERATIONS], info[Info.SINCE] = ended, iteration, since
            numbers[Number.BEST] = best

    return SimpleNamespace(I_up=I_up, I_low=I_low, overflows=overflows, begin=begin, extremes=extremes,
                           verdict=verdict, partner=partner, step=step, gradient=gradient, finish=finish,
                           minimize=minimize)
