"""Sequential minimal optimisation: the dual problem of the support vector machine, two multipliers at a time.

Idea       An iteration is far shorter than a launch: a block runs all of them, with a barrier where a launch would end,
           and the binary problems of a fit run side by side.
Maths      minimize 1/2 sum over s, t of alpha_s alpha_t y_s y_t K_st - sum over t of alpha_t
           subject to 0 <= alpha_t <= C_t and sum over t of y_t alpha_t = 0
           by iterations of `smo_step` on f_t = sum over s of K_ts y_s alpha_s - y_t, until the gap is at most the
           tolerance. Then f_t + y_t is the decision function at sample t without its intercept, which is minus the
           mean f of the free multipliers (0 < alpha < C)
Shapes     K: storage. Binary problems lie end to end: problem q has the entries start[q] <= e < start[q + 1] of
           Y (+1 or -1) and C: any format, alpha and f: state, and of row, col, which say where K keeps what belongs
           to two of its entries: K[row[s], col[t]]. numbers (P, 6): accum, info (P, 5): int32
Mapping    entry t of a problem belongs to thread t modulo the width of the block
Precision  what adds up small steps is kept in accum, what is only read in storage. With `state="storage"` alpha and f
           are kept there too: a step below half a unit in the last place of alpha is lost, and the method stalls,
           which bfloat16 does at once. With T iterations, |f - exact f of alpha| <= T u (8 F + 6 C |K|),
           F = max of sum C |K| + 1: each of the two multiply-adds, the difference of K and that of alpha round once
Ladder     phases    a launch for each phase of an iteration: i; j and the step; f. `info` says whether it is needed
           block     all iterations of one binary problem inside one block: phases are kept apart by barriers
           problems  all binary problems of a fit at once, a block each, in one launch. `smo_fit` makes K too
Cost       9 n flops and 2 n elements of K an iteration (but no more than K holds): 6 look for j, 3 are those of f
Sources    [1] R.-E. Fan, P.-H. Chen and C.-J. Lin, Working set selection using second order information for training
               support vector machines, J. Machine Learning Research 6, 2005
           [2] C.-C. Chang and C.-J. Lin, LIBSVM: A library for support vector machines, ACM TIST 2(3), 2011
"""
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import cuda, int32

from numprec.kernels.margins.smo_step import OVERFLOW, SCRATCH, STALLED, Found, Given, Info, Limits, Number, steps
from numprec.kernels.reductions.collectives import WARP
from numprec.language.ladder import draw, operation, rung
from numprec.precision import FORMATS

NARROW, WIDE = 128, 256      # threads of a block
STEPS = 16                   # iterations of the operation; and of phases, before the host asks whether it may stop
BURST = 2 ** 16              # iterations of a block, before the host asks
# The emulator's launches are shorter: Python sees a Ctrl-C between them. Chosen, for about a quarter of a second
EMULATED = 2 ** 17           # iterations times threads or entries, whichever are more


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


# ---- kernels, slowest first. K, row, col, Y, C, alpha, f, numbers, info are those of all problems

@rung
def phases(p, state="accum", threads=NARROW):
    accum, held_in = p.accum, getattr(p, state)
    do = steps(p, state, threads)
    overflows, begin, extremes, verdict, partner = do.overflows, do.begin, do.extremes, do.verdict, do.partner
    step, gradient_at, finish = do.step, do.gradient, do.finish

    @cuda.jit
    def phases_begin(K, given, found):
        begin(given.y, found.alpha, found.f, found.numbers, found.info)
        bad = overflows(K, given.row, given.col)
        if bad and cuda.threadIdx.x == 0:
            found.info[Info.ENDED] = OVERFLOW

    @cuda.jit
    def phases_first(given, limits, found):
        """i, and whether to stop."""
        alpha, f, numbers, info = found
        key_s = cuda.shared.array(SCRATCH, accum)
        where_s = cuda.shared.array(WARP, int32)
        if info[Info.ENDED] != 0:
            return
        up, i, low = extremes(given.y, given.C, alpha, f, key_s, where_s)
        if cuda.threadIdx.x == 0:
            info[Info.ENDED], numbers[Number.BEST], info[Info.SINCE] = verdict(
                up, low, limits.tolerance, given.y.size, info[Info.ITERATIONS], limits.max_iter, numbers[Number.BEST],
                info[Info.SINCE])
            info[Info.I] = i

    @cuda.jit
    def phases_second(K, given, found):
        """j, and the step of both multipliers."""
        row, col, y, C = given
        alpha, f, numbers, info = found
        key_s = cuda.shared.array(SCRATCH, accum)
        where_s = cuda.shared.array(WARP, int32)
        if info[Info.ENDED] != 0:
            return
        i = int32(info[Info.I])
        j = partner(K, row, col, y, C, alpha, f, i, key_s, where_s)
        if cuda.threadIdx.x == 0:
            b_i, b_j, numbers[Number.MOVE], numbers[Number.REST] = step(K, row, col, y, C, alpha, f, i, j)
            alpha[i], alpha[j] = held_in(b_i), held_in(b_j)
            info[Info.J] = j
            if numbers[Number.MOVE] == accum(0) and numbers[Number.REST] == accum(0):
                info[Info.ENDED] = STALLED
            else:
                info[Info.ITERATIONS] += 1

    @cuda.jit
    def phases_gradient(K, given, found):
        """f, by as many blocks as it takes."""
        t = cuda.grid(1)
        numbers, info = found.numbers, found.info
        if info[Info.ENDED] == 0 and t < found.f.size:
            gradient_at(K, given.row, given.col, found.f, info[Info.I], info[Info.J], t, numbers[Number.MOVE],
                        numbers[Number.REST])

    @cuda.jit
    def phases_finish(given, found):
        key_s = cuda.shared.array(SCRATCH, accum)
        where_s = cuda.shared.array(WARP, int32)
        up, _, low = extremes(given.y, given.C, found.alpha, found.f, key_s, where_s)
        finish(given.y, given.C, found.alpha, found.f, up, low, found.numbers, key_s)
    return phases_begin, phases_first, phases_second, phases_gradient, phases_finish


@lru_cache(maxsize=None)
def one_block(p, state, threads):
    """The kernel of `block` and `problems`, which differ in how many problems a launch takes on."""
    accum = p.accum
    begin, minimize = steps(p, state, threads).begin, steps(p, state, threads).minimize

    @cuda.jit(launch_bounds=threads)
    def smo_block(K, start, first, given, limits, fresh, found):
        """Problems `first`, `first` + 1, ..., a block each."""
        row, col, y, C = given
        alpha, f, numbers, info = found
        key_s = cuda.shared.array(SCRATCH, accum)
        where_s = cuda.shared.array(WARP, int32)
        q = first + cuda.blockIdx.x
        own = slice(start[q], start[q + 1])
        if fresh:
            begin(y[own], alpha[own], f[own], numbers[q], info[q])
        minimize(K, row[own], col[own], y[own], C[own], limits.tolerance, limits.max_iter, limits.burst, alpha[own],
                 f[own], numbers[q], info[q], key_s, where_s)
    return smo_block


@rung
def block(p, state="accum", threads=NARROW):
    return one_block(p, state, threads)


@rung
def problems(p, state="accum", threads=NARROW):
    return one_block(p, state, threads)


# ---- host side

@dataclass
class Problems:
    """Binary problems, on the device."""

    sizes: tuple         # entries of each
    start: Any
    given: Given         # of all entries, end to end
    found: Found         # the same; numbers and info have a row for each problem
    state: str

    def one(self, q):
        """Given and Found of problem q."""
        end = sum(self.sizes[:q + 1])
        own = slice(end - self.sizes[q], end)
        alpha, f, numbers, info = self.found
        return self.given.of(own), Found(alpha[own], f[own], numbers[q], info[q])


def problems_of(device, precision, sizes, row, col, Y, C, state="accum"):
    """Y and C (entries,) are device arrays, row and col host arrays of integers."""
    entries, held_in = int(sum(sizes)), getattr(precision, state)
    return Problems(
        tuple(map(int, sizes)), device.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)),
        Given(device.array(row.astype(np.int32)), device.array(col.astype(np.int32)), Y, C),
        Found(device.empty(entries, held_in), device.empty(entries, held_in),
              device.zeros((len(sizes), len(Number)), precision.accum),
              device.zeros((len(sizes), len(Info)), np.int32)),
        state)


def threads_for(sizes):
    """Threads of a block: enough for each to have an entry, or a few."""
    return NARROW if max(sizes) <= 4 * NARROW else WIDE


def iterations_of(device, sizes):
    """Iterations of a launch. The bits of a fit do not depend on it."""
    work = sum(max(size, threads_for(sizes)) for size in sizes)
    return min(BURST, max(1, EMULATED // work)) if device.is_emulator else BURST


def burst(device, rung, precision, K, todo, tolerance, max_iter, fresh, fill=None):
    """Launches that take each problem up to STEPS (phases) or `iterations_of` iterations further. `fresh` starts from
    alpha = 0. For `fused`, `fill` is a smo_fit.Source, and K an array to be filled."""
    threads = threads_for(todo.sizes)
    options = dict(state=todo.state, threads=threads)
    tolerance = precision.accum.round(tolerance)[()]
    limits = Limits(tolerance, max_iter, min(iterations_of(device, todo.sizes), max_iter))
    if rung.name == "fused":
        device.launch(rung.variant(precision, **options), len(todo.sizes), threads,
                      fill, K, todo.start, todo.given, limits, fresh, todo.found)
    elif rung.name in ("block", "problems"):
        blocks = len(todo.sizes) if rung.name == "problems" else 1
        for first in range(0, len(todo.sizes), blocks):
            device.launch(rung.variant(precision, **options), blocks, threads,
                          K, todo.start, first, todo.given, limits, fresh, todo.found)
    else:
        begin, first, second, gradient, finish = rung.variant(precision, **options)
        for q, n in enumerate(todo.sizes):
            given, found = todo.one(q)
            if fresh:
                device.launch(begin, 1, threads, K, given, found)
            for _ in range(STEPS):
                device.launch(first, 1, threads, given, limits, found)
                device.launch(second, 1, threads, K, given, found)
                device.launch(gradient, -(-n // threads), threads, K, given, found)
            device.launch(finish, 1, threads, given, found)


def solve(device, rung, precision, K, todo, tolerance, max_iter, fill=None, watch=None):
    """Runs to the end. The host looks at `info` once a burst; what it saw, while there is more to do, goes to
    `watch(todo, info)`."""
    arguments = rung, precision, K, todo, tolerance, max_iter
    burst(device, *arguments, True, fill)
    graph = None
    while ((info := device.to_host(todo.found.info))[:, Info.ENDED] == 0).any():
        if watch is not None:
            watch(todo, info)
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
    return todo.found.alpha, todo.found.f


def cost(precision, n, P):
    storage, state = precision.storage.bytes, precision.accum.bytes
    return {"flops": 9 * n * P * STEPS, "bytes": n * min(n, 2 * P * STEPS) * storage + 2 * n * P * (storage + state)}


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


operation("smo", oracle=oracle, readout=readout, error_bound=error_bound, launch=launch, cost=cost, inputs=inputs,
          memory=lambda precision, n, P: n * n * precision.storage.bytes,    # all of K, of which few steps read little
          shapes=((1, 1), (2, 1), (5, 3), (31, 2), (257, 1)),
          bench_shapes={"smoke": (150, 3), "quick": (1000, 3), "full": (10_000, 1)},
          cost_differs="Each phase is a launch that reads its arrays anew; the error of a curvature, and what the box "
                       "leaves of a step, are computed too.")
