"""Sequential minimal optimisation: the dual problem of the support vector machine, two multipliers at a time.

Maths      minimize 1/2 sum over s, t of alpha_s alpha_t y_s y_t K_st - sum over t of alpha_t
           subject to 0 <= alpha_t <= C_t and sum over t of y_t alpha_t = 0
           With the gradient times y, f_t = sum over s of K_ts y_s alpha_s - y_t, and the sets [1, section 2.1]
             I_up   multipliers that may move so that y alpha grows     I_low  ... so that it shrinks
           an iteration takes                                                         [1, "WSS 2", section 2.2]
             i = argmin of f_t over I_up
             j = argmax of (f_t - f_i)^2 / a_it over t in I_low with f_t > f_i,  a_it = K_ii + K_tt - 2 K_it
             y_i alpha_i += step,  y_j alpha_j -= step,  step = (f_j - f_i) / a_ij, cut at the box
             f_t += step (K_it - K_jt)
           until gap = max of f over I_low - min of f over I_up is at most the tolerance. Then f - f_i is the
           decision function without its intercept, which is minus the mean f of the free multipliers (0 < alpha < C)
Shapes     K: storage. Binary problems lie end to end: problem q has the entries start[q] <= e < start[q + 1] of
           Y (+1 or -1) and C: any format, alpha and f: state, and of row, col, which say where K keeps what belongs
           to two of its entries: K[row[s], col[t]]. numbers (P, 6): accum, info (P, 5): int32
Mapping    entry t of a problem belongs to thread t modulo the width of the block
Precision  storage  K, as it came from `kernel_rows`
           state    alpha and f: running sums, and so accum, unless `state="storage"` is asked for. Then a step below
                    half a unit in the last place of alpha is lost: the method stalls, which bfloat16 does at once
           - a_it is a sum of differences, and never trusted below the error of K: at least TAU u |K|. Libsvm's constant
             tau has this part to play in float64. A curvature taken too large makes a step short, not wrong
           - alpha_i and alpha_j move by one and the same number, one that both can represent, so that sum y alpha
             stays 0; at the box they are set to 0 or C exactly. f gets what alpha really moved by
           - a gap that is one unit in the last place of f will not become smaller: stalled, and not called converged.
             So is a pair that no longer moves, and a gap below NOISE units that did not shrink for PATIENCE iterations
           With T iterations, |f - exact f of alpha| <= T u (8 F + 6 C |K|), F = max of sum C |K| + 1: each of the two
           multiply-adds, the difference of K and that of alpha round once
Ladder     phases    a launch for each phase of an iteration: i; j and the step; f. A kernel cannot know that it is not
                     needed any more: it looks at `info` and returns
           block     all iterations of one binary problem inside one block: phases are kept apart by barriers
           problems  all binary problems of a fit at once, a block each, in one launch. `fused` makes K too
Cost       about 12 n operations and 2 n elements of K an iteration
Sources    [1] R.-E. Fan, P.-H. Chen and C.-J. Lin, Working set selection using second order information for training
               support vector machines, J. Machine Learning Research 6, 2005
           [2] C.-C. Chang and C.-J. Lin, LIBSVM: A library for support vector machines, ACM TIST 2(3), 2011
"""
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from numba import cuda, int32

from numprec.kernels import kernel_rows
from numprec.kernels.argmax import beats
from numprec.kernels.ptx import bits, number
from numprec.kernels.reduce import ALL_LANES, WARP, block_sum
from numprec.kernels.registry import draw, operation, rung
from numprec.kernels.roles import constant
from numprec.precision import FORMATS

NARROW, WIDE = 128, 256      # threads of a block
SCRATCH = 2 * WARP           # numbers that a block exchanges
STEPS = 16                   # iterations of the operation; and of phases, before the host asks whether it may stop
BURST = 2 ** 16              # iterations of a block, before the host asks
# The four numbers that a_it is made of are each off by their rounding to storage at least, u |K|; twice that leaves as
# much again for the sums that they come from.
TAU = 8                      # least curvature, in units of u |K|
# An iteration rounds each f_t by half a unit. Taken as a random walk, the errors of T iterations are sqrt(T) / 2 units,
# so that those of four million explain a gap of NOISE; a larger one is never taken for noise.
NOISE = 1024                 # units in the last place of f
# Chosen, not derived: the gap need not shrink in each iteration, and takes longer to where there are more samples.
PATIENCE, EACH = 1000, 8     # iterations without a smaller gap, and as many more for each sample

RBF = list(kernel_rows.FUNCTIONS).index("rbf")

CONVERGED, MAX_ITER, STALLED, OVERFLOW = 1, 2, 3, 4                       # how it ended; 0: not yet
ITERATIONS, ENDED, SINCE, I, J = range(5)                                 # columns of info
GAP, INTERCEPT, SIZE, BEST, MOVE, REST = range(6)                         # and of numbers


# ---- oracle: alpha is not unique in what it may be after STEPS iterations; f must be that of alpha, in the box

def oracle(K, Y, C):
    return np.zeros(Y.shape), np.zeros(len(Y)), np.zeros(Y.shape)


def readout(results, K, Y, C):
    """f less what float64 makes of alpha; the sum of y alpha; how far alpha lies outside the box."""
    (alpha, f), (K, Y, C) = (tuple(a.astype(np.float64) for a in arrays) for arrays in (results, (K, Y, C)))
    alpha, f = alpha.reshape(Y.shape), f.reshape(Y.shape)
    moved = Y * alpha
    exact = np.stack([K[:, y != 0] @ y[y != 0] for y in moved]) - Y
    parts = f - exact, moved.sum(axis=1), np.maximum(np.maximum(alpha - C, -alpha), 0)
    return tuple(np.where(np.isnan(part), np.inf, part) for part in parts)


def error_bound(precision, K, Y, C, steps=STEPS):
    K, Y, C = (a.astype(np.float64) for a in (K, Y, C))
    accum, fp64, largest = precision.accum, FORMATS["float64"], C.max(axis=1)
    F = np.stack([(abs(K) @ c).max() + 1 for c in C])
    per_step = 8 * F + 6 * largest * abs(K).max()
    error = steps * (accum.u + fp64.u) * 1.1 * per_step + steps * accum.eta * (1 + abs(K).max()) + K.size * fp64.u * F
    leaves = ~(4 * (F + error) <= accum.max)
    balance = steps * 4 * (accum.u * largest + accum.eta)
    return (np.where(leaves, np.inf, error)[:, None] * np.ones(Y.shape), np.where(leaves, np.inf, balance),
            np.where(leaves, np.inf, 0)[:, None] * np.ones(Y.shape))


# ---- the method, step by step, for one problem: arrays hold its entries alone

def block_best(p, threads):
    """block_best(a, i, x, key_s, where_s): the best (key a, index i) of a one-dimensional block as in `argmax`, and its
    largest x, or a NaN; in each of its threads. `key_s` (accum, SCRATCH long) and `where_s` (int32, WARP long) are
    shared. Synchronises at entry."""
    warps = threads // WARP

    @cuda.jit(device=True)
    def warp_best(a, i, x):
        distance = WARP // 2
        while distance > 0:
            b = number(cuda.shfl_xor_sync(ALL_LANES, bits(a), distance), a)
            j = cuda.shfl_xor_sync(ALL_LANES, i, distance)
            y = number(cuda.shfl_xor_sync(ALL_LANES, bits(x), distance), x)
            if beats(b, j, a, i):
                a, i = b, j
            x = y if x == x and not y <= x else x
            distance //= 2
        return a, i, x

    @cuda.jit(device=True)
    def block_best(a, i, x, key_s, where_s):
        lane = cuda.threadIdx.x % WARP
        warp = cuda.threadIdx.x // WARP
        a, i, x = warp_best(a, i, x)
        cuda.syncthreads()    # everyone is done with the scratch
        if lane == 0:
            key_s[warp], key_s[WARP + warp], where_s[warp] = a, x, i
        cuda.syncthreads()    # each warp has left its best
        w = lane if lane < warps else 0
        return warp_best(key_s[w], where_s[w], key_s[WARP + w])
    return block_best


@lru_cache(maxsize=None)
def steps(p, state, threads):
    """Device functions. The block enters together, and where a value is returned every thread gets it."""
    accum, state = p.accum, getattr(p, state)
    ulp = 2 * max(state.u, accum.u)
    infinity, tiny, tau = constant(accum, np.inf), constant(accum, accum.tiny), constant(accum, TAU * p.u)
    spacing, noise = constant(accum, ulp), constant(accum, min(NOISE * ulp, 1))
    over_block, sum_over_block = block_best(p, threads), block_sum(p, threads)

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
            info[ITERATIONS], info[ENDED], info[SINCE], numbers[BEST] = 0, 0, 0, infinity()
        cuda.syncthreads()    # the state is complete

    @cuda.jit(device=True)
    def extremes(y, C, alpha, f, key_s, where_s):
        """-min of f over I_up, where it is, and max of f over I_low. An empty set leaves -infinity."""
        up = -infinity()
        low = -infinity()
        i = int32(0)
        for t in range(cuda.threadIdx.x, y.size, threads):
            y_t, a, c, f_t = accum(y[t]), accum(alpha[t]), accum(C[t]), accum(f[t])
            if I_up(y_t, a, c) and beats(-f_t, int32(t), up, i):
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
        elif gap <= spacing() * size or (iteration - since > PATIENCE + EACH * n and gap <= noise() * size):
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
                    if beats(gain, int32(t), best, j):
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
            numbers[GAP], numbers[SIZE] = low + up, max(abs(up), abs(low))
            numbers[INTERCEPT] = -(middle + total / count if count > accum(0) else middle)

    @cuda.jit(device=True)
    def minimize(K, row, col, y, C, tolerance, max_iter, burst, alpha, f, numbers, info, key_s, where_s):
        """Up to `burst` iterations."""
        ended, iteration, since, best = info[ENDED], info[ITERATIONS], info[SINCE], numbers[BEST]
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
            info[ENDED], info[ITERATIONS], info[SINCE], numbers[BEST] = ended, iteration, since, best

    return SimpleNamespace(I_up=I_up, I_low=I_low, overflows=overflows, begin=begin, extremes=extremes,
                           verdict=verdict, partner=partner, step=step, gradient=gradient, finish=finish,
                           minimize=minimize)


# ---- kernels, slowest first. K, row, col, Y, C, alpha, f, numbers, info are those of all problems

@rung
def phases(p, state="accum", threads=NARROW):
    accum, held_in = p.accum, getattr(p, state)
    do = steps(p, state, threads)
    overflows, begin, extremes, verdict, partner = do.overflows, do.begin, do.extremes, do.verdict, do.partner
    step, gradient_at, finish = do.step, do.gradient, do.finish

    @cuda.jit
    def phases_begin(K, row, col, y, alpha, f, numbers, info):
        begin(y, alpha, f, numbers, info)
        if overflows(K, row, col):
            info[ENDED] = OVERFLOW

    @cuda.jit
    def phases_first(y, C, tolerance, max_iter, alpha, f, numbers, info):
        """i, and whether to stop."""
        key_s = cuda.shared.array(SCRATCH, accum)
        where_s = cuda.shared.array(WARP, int32)
        if info[ENDED] != 0:
            return
        up, i, low = extremes(y, C, alpha, f, key_s, where_s)
        if cuda.threadIdx.x == 0:
            info[ENDED], numbers[BEST], info[SINCE] = verdict(
                up, low, tolerance, y.size, info[ITERATIONS], max_iter, numbers[BEST], info[SINCE])
            info[I] = i

    @cuda.jit
    def phases_second(K, row, col, y, C, alpha, f, numbers, info):
        """j, and the step of both multipliers."""
        key_s = cuda.shared.array(SCRATCH, accum)
        where_s = cuda.shared.array(WARP, int32)
        if info[ENDED] != 0:
            return
        i = int32(info[I])
        j = partner(K, row, col, y, C, alpha, f, i, key_s, where_s)
        if cuda.threadIdx.x == 0:
            b_i, b_j, numbers[MOVE], numbers[REST] = step(K, row, col, y, C, alpha, f, i, j)
            alpha[i], alpha[j] = held_in(b_i), held_in(b_j)
            info[J] = j
            if numbers[MOVE] == accum(0) and numbers[REST] == accum(0):
                info[ENDED] = STALLED
            else:
                info[ITERATIONS] += 1

    @cuda.jit
    def phases_gradient(K, row, col, f, numbers, info):
        """f, by as many blocks as it takes."""
        t = cuda.grid(1)
        if info[ENDED] == 0 and t < f.size:
            gradient_at(K, row, col, f, info[I], info[J], t, numbers[MOVE], numbers[REST])

    @cuda.jit
    def phases_finish(y, C, alpha, f, numbers):
        key_s = cuda.shared.array(SCRATCH, accum)
        where_s = cuda.shared.array(WARP, int32)
        up, _, low = extremes(y, C, alpha, f, key_s, where_s)
        finish(y, C, alpha, f, up, low, numbers, key_s)
    return phases_begin, phases_first, phases_second, phases_gradient, phases_finish


@lru_cache(maxsize=None)
def one_block(p, state, threads):
    """The kernel of `block` and `problems`, which differ in how many problems a launch takes on."""
    accum = p.accum
    begin, minimize = steps(p, state, threads).begin, steps(p, state, threads).minimize

    @cuda.jit(launch_bounds=threads)
    def smo_block(K, start, row, col, y, C, first, tolerance, max_iter, burst, fresh, alpha, f, numbers, info):
        """Problems `first`, `first` + 1, ..., a block each."""
        key_s = cuda.shared.array(SCRATCH, accum)
        where_s = cuda.shared.array(WARP, int32)
        q = first + cuda.blockIdx.x
        own = slice(start[q], start[q + 1])
        if fresh:
            begin(y[own], alpha[own], f[own], numbers[q], info[q])
        minimize(K, row[own], col[own], y[own], C[own], tolerance, max_iter, burst, alpha[own], f[own], numbers[q],
                 info[q], key_s, where_s)
    return smo_block


@rung
def block(p, state="accum", threads=NARROW):
    return one_block(p, state, threads)


@rung
def problems(p, state="accum", threads=NARROW):
    return one_block(p, state, threads)


@rung(of="smo_fit")
def fused(p, state="accum", threads=NARROW):
    """As `problems`, on a K that a block first fills from X: problem q has the rows start[q] <= e < start[q + 1] of K,
    and `sample` tells which row of X an entry is."""
    accum, value = p.accum, kernel_rows.value(p)
    begin, minimize = steps(p, state, threads).begin, steps(p, state, threads).minimize

    @cuda.jit(launch_bounds=threads)
    def smo_fit(X, parameters, which, sample, K, start, row, col, y, C, tolerance, max_iter, burst, fresh, alpha, f,
                numbers, info):
        key_s = cuda.shared.array(SCRATCH, accum)
        where_s = cuda.shared.array(WARP, int32)
        q = cuda.blockIdx.x
        own = slice(start[q], start[q + 1])
        if fresh:
            for s in range(start[q], start[q + 1]):
                for t in range(start[q] + cuda.threadIdx.x, start[q + 1], threads):
                    K[s, t - start[q]] = value(X, sample[s], sample[t], parameters, which)
            cuda.syncthreads()    # K is complete
            begin(y[own], alpha[own], f[own], numbers[q], info[q])
        minimize(K, row[own], col[own], y[own], C[own], tolerance, max_iter, burst, alpha[own], f[own], numbers[q],
                 info[q], key_s, where_s)
    return smo_fit


# ---- host side

@dataclass
class Problems:
    """Binary problems, on the device."""

    sizes: tuple         # entries of each
    start: Any
    row: Any
    col: Any
    Y: Any
    C: Any
    alpha: Any
    f: Any
    numbers: Any
    info: Any
    state: str

    @property
    def of_entries(self):
        """The arrays that lie end to end, in the order of the kernels' arguments before and after the constants."""
        return (self.row, self.col, self.Y, self.C), (self.alpha, self.f)


def problems_of(device, precision, sizes, row, col, Y, C, state="accum"):
    """Y and C (entries,) are device arrays, row and col host arrays of integers."""
    entries, held_in = int(sum(sizes)), getattr(precision, state)
    return Problems(
        tuple(map(int, sizes)), device.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)),
        device.array(row.astype(np.int32)), device.array(col.astype(np.int32)), Y, C,
        device.empty(entries, held_in), device.empty(entries, held_in),
        device.zeros((len(sizes), 6), precision.accum), device.zeros((len(sizes), 5), np.int32), state)


def threads_for(sizes):
    """Threads of a block: enough for each to have an entry, or a few."""
    return NARROW if max(sizes) <= 4 * NARROW else WIDE


def burst(device, rung, precision, K, todo, tolerance, max_iter, fresh, fill=None):
    """Launches that take each problem up to STEPS (phases) or BURST iterations further. `fresh` starts from alpha = 0.
    For `fused`, `fill` is (X, parameters, which, sample), and K an array to be filled."""
    threads = threads_for(todo.sizes)
    options = dict(state=todo.state, threads=threads)
    tolerance = precision.accum.element.type(tolerance)
    given, found = todo.of_entries
    limits = tolerance, max_iter, min(BURST, max_iter), fresh
    if rung.name == "fused":
        X, parameters, which, sample = fill
        kernel = rung.variant(precision, **options)
        device.launch(kernel, len(todo.sizes), threads, X, parameters, which, sample, K, todo.start, *given, *limits,
                      *found, todo.numbers, todo.info)
    elif rung.name in ("block", "problems"):
        blocks = len(todo.sizes) if rung.name == "problems" else 1
        for first in range(0, len(todo.sizes), blocks):
            device.launch(rung.variant(precision, **options), blocks, threads, K, todo.start, *given, first, *limits,
                          *found, todo.numbers, todo.info)
    else:
        for q, end in enumerate(np.cumsum(todo.sizes)):
            n, own = todo.sizes[q], slice(end - todo.sizes[q], end)
            row, col, y, C, alpha, f = (array[own] for array in (*given, *found))
            numbers, info = todo.numbers[q], todo.info[q]
            begin, first, second, gradient, finish = rung.variant(precision, **options)
            if fresh:
                device.launch(begin, 1, threads, K, row, col, y, alpha, f, numbers, info)
            for _ in range(STEPS):
                device.launch(first, 1, threads, y, C, tolerance, max_iter, alpha, f, numbers, info)
                device.launch(second, 1, threads, K, row, col, y, C, alpha, f, numbers, info)
                device.launch(gradient, -(-n // threads), threads, K, row, col, f, numbers, info)
            device.launch(finish, 1, threads, y, C, alpha, f, numbers)


def solve(device, rung, precision, K, todo, tolerance, max_iter, fill=None):
    """Runs to the end. The host looks at `info` once a burst."""
    arguments = rung, precision, K, todo, tolerance, max_iter
    burst(device, *arguments, True, fill)
    graph = None
    while (device.to_host(todo.info)[:, ENDED] == 0).any():
        if rung.name != "phases":
            burst(device, *arguments, False, fill)
        else:
            if graph is None:
                with device.capture() as graph:
                    burst(device, *arguments, False)
            graph.replay()


def of_operation(device, precision, Y, C, fused=False):
    """The problems of the operation, which all have the same samples, and where K keeps their entries."""
    P, n = Y.shape
    sample = np.tile(np.arange(n), P)
    row = np.arange(P * n) if fused else sample
    return problems_of(device, precision, [n] * P, row, sample, Y.reshape(-1), C.reshape(-1))


def launch(device, rung, precision, K, Y, C):
    """alpha and f after STEPS iterations."""
    todo = of_operation(device, precision, Y, C)
    burst(device, rung, precision, K, todo, 0, STEPS, True)
    return todo.alpha, todo.f


def fit_launch(device, rung, precision, X, parameters, Y, C):
    todo = of_operation(device, precision, Y, C, fused=True)
    K = device.empty((Y.size, Y.shape[1]), precision.storage)
    sample = device.array(np.tile(np.arange(Y.shape[1], dtype=np.int32), len(Y)))
    burst(device, rung, precision, K, todo, 0, STEPS, True, (X, parameters, RBF, sample))
    return todo.alpha, todo.f, K


def cost(precision, n, P):
    return {"flops": 12 * n * P * STEPS, "bytes": 2 * n * P * STEPS * precision.storage.bytes}


def fit_cost(precision, n, P, D):
    return {"flops": (12 * STEPS + 3 * n * D) * n * P, "bytes": n * D * precision.storage.bytes}


def inputs(rng, shape, kind, precision):
    """K of points in space for "random" and "same_sign"; otherwise whatever is symmetric."""
    n, P = shape
    Y, C = np.where(rng.random((P, n)) < 0.5, -1.0, 1.0), rng.uniform(0.5, 1, (P, n))
    if kind in ("random", "same_sign"):
        X = draw(rng, (n, 3), kind, precision)
        squares = np.sum(X * X, axis=1)
        return np.exp(-np.maximum(squares[:, None] + squares - 2 * X @ X.T, 0) / 3), Y, C
    K = draw(rng, (n, n), kind, precision, terms=n)
    return np.triu(K) + np.triu(K, 1).T, Y, C


def fit_inputs(rng, shape, kind, precision):
    n, P, D = shape
    X = draw(rng, (n, D), kind, precision, D, 2)
    return X, np.array([1 / D, 0, 0]), *inputs(rng, (n, P), kind, precision)[1:]


def fit_oracle(X, parameters, Y, C):
    return *oracle(None, Y, C), np.tile(kernel_rows.rbf_oracle(X, X, parameters), (len(Y), 1))


def fit_readout(results, X, parameters, Y, C):
    """As for `smo`, by the K that the block made; and that K."""
    alpha, f, K = results
    return *readout((alpha, f), K[:len(X)], Y, C), K.astype(np.float64)


def fit_error_bound(precision, X, parameters, Y, C):
    of_K = kernel_rows.rbf_error_bound(precision, X, X, parameters)
    K = kernel_rows.rbf_oracle(X, X, parameters)
    return *error_bound(precision, abs(K) + of_K, Y, C), np.tile(of_K, (len(Y), 1))


operation("smo", oracle=oracle, readout=readout, error_bound=error_bound, launch=launch, cost=cost, inputs=inputs,
          shapes=((1, 1), (2, 1), (5, 3), (31, 2), (257, 1)),
          bench_shapes={"smoke": (150, 3), "quick": (1000, 3), "full": (10_000, 1)})
operation("smo_fit", oracle=fit_oracle, readout=fit_readout, error_bound=fit_error_bound, launch=fit_launch,
          cost=fit_cost, inputs=fit_inputs, shapes=((1, 1, 1), (2, 1, 3), (5, 3, 2), (31, 2, 4), (257, 1, 5)),
          bench_shapes={"smoke": (100, 3, 4), "quick": (500, 3, 8), "full": (1000, 10, 32)})
