"""SMO by working sets: for more samples than a block should look at in every iteration.

Idea       One block solves a small problem to the end while all rows of K that it needs are at hand, and only then do
           all threads of the card bring f up to date.
Maths      as in `smo`. An outer iteration takes a working set: the HALF samples of I_up with the smallest f and the
           HALF samples of I_low with the largest. One block then solves the problem for these, all other multipliers
           kept, until their gap is a tenth of what it was, and f is brought up to date for every sample at once:
             f_t += sum over the set of K_st y_s (change of alpha_s)
           The worst pair of all samples is in the set: its first gap is that of the whole problem, and every outer
           iteration makes progress
Shapes     as in `smo`, for a single problem of n entries. Where the matrix K would not fit, its place is taken by the
           rows of the set, (2 HALF, n), made anew in each outer iteration by `kernel_functions`
Mapping    sets: blocks sort CHUNK samples each and hand on their best HALF, for as many launches as it takes to be left
           with HALF; then smo's own loop in one block; f: a thread per sample
Precision  as in `smo`: what adds up small steps is kept in accum.
           In the sum, a set of s multipliers that moved costs s more roundings
Ladder     one of its own; what comes above smo's `problems` for large problems
Cost       n multiply-adds and n elements of K for a multiplier that moved, whatever number of times it did
Sources    [1] Z. Wen, J. Shi, Q. Li, B. He and J. Chen, ThunderSVM: A fast SVM library on GPUs and CPUs, J. Machine
               Learning Research 19(21), 2018
           [2] T. Joachims, Making large-scale SVM learning practical, in Advances in Kernel Methods, MIT Press 1999
"""
from typing import NamedTuple

import numpy as np
from numba import cuda, int32

from numprec.kernels.margins import kernel_functions, smo
from numprec.kernels.margins.smo import STEPS, WIDE
from numprec.kernels.margins.smo_step import OVERFLOW, SCRATCH, STALLED, Info, Limits, Number, steps
from numprec.kernels.reductions.collectives import WARP
from numprec.kernels.trees.sort import block_sort
from numprec.language.formats import constant
from numprec.language.ladder import operation, rung

HALF = 256               # of a working set
SET = 2 * HALF
CHUNK = 2048             # samples that a block sorts
INNER = 4 * SET          # most iterations within a set; chosen
OUTER = 16               # outer iterations, before the host asks whether it may stop
SHARE = 0.1              # of the gap that is left when a set is done with, as in ThunderSVM and cuML


class Set(NamedTuple):
    """The working set as a problem of its own: chosen (SET,), its samples, or -1; place (2, SET), where K keeps them;
    y, C, alpha, f (SET,), numbers and info as in smo_step; move (SET,), what y alpha changed by."""

    chosen: object
    place: object
    y: object
    C: object
    alpha: object
    f: object
    move: object
    numbers: object
    info: object


@rung
def working_set(p, state="accum"):
    accum, held_in = p.accum, getattr(p, state)
    do, sort = steps(p, state, WIDE), block_sort(p)
    I_up, I_low, begin, verdict, extremes = do.I_up, do.I_low, do.begin, do.verdict, do.extremes
    minimize, finish = do.minimize, do.finish
    infinity, share = constant(accum, np.inf), constant(accum, SHARE)

    @cuda.jit(launch_bounds=WIDE)
    def set_begin(given, found):
        begin(given.y, found.alpha, found.f, found.numbers, found.info)

    @cuda.jit(launch_bounds=WIDE)
    def set_candidates(given, found, before, first, after):
        """The best HALF of CHUNK candidates, in order: those of I_up in row 0, of I_low in row 1; -1 where there are
        not as many. The `first` candidates are all samples."""
        y, C, alpha, f, info = given.y, given.C, found.alpha, found.f, found.info
        key_s = cuda.shared.array(CHUNK, accum)
        where_s = cuda.shared.array(CHUNK, int32)
        if info[Info.ENDED] != 0:
            return
        side = cuda.blockIdx.y
        start = cuda.blockIdx.x * CHUNK
        n = min(CHUNK, (y.size if first else before.shape[1]) - start)
        for k in range(cuda.threadIdx.x, max(n, HALF), WIDE):
            t = int32(-1)
            key = infinity()
            if k < n:
                t = int32(start + k) if first else before[side, start + k]
            if t >= 0:
                y_t, a, c, f_t = accum(y[t]), accum(alpha[t]), accum(C[t]), accum(f[t])
                if I_up(y_t, a, c) if side == 0 else I_low(y_t, a, c):
                    key = f_t if side == 0 else -f_t
                    key = key if key == key else -infinity()    # a NaN comes first, and is seen
                else:
                    t = int32(-1)
            key_s[k], where_s[k] = key, t
        sort(key_s, where_s, max(n, HALF))
        for k in range(cuda.threadIdx.x, HALF, WIDE):
            # -1 sorts before the infinite f of a sample, which is lost with it: f is beyond its range anyway
            after[side, cuda.blockIdx.x * HALF + k] = where_s[k]

    @cuda.jit(launch_bounds=WIDE)
    def set_choose(given, found, candidates, limits, stored, own):
        """Whether to stop; if not, the set: its samples, where K keeps them, and their part of the problem. A sample
        that stands in both halves is left out of one. What is left out has C = 0, and is in neither I_up nor I_low."""
        row, col, y, C = given
        alpha, f, numbers, info = found
        if info[Info.ENDED] != 0:
            return
        up = -accum(f[candidates[0, 0]]) if candidates[0, 0] >= 0 else -infinity()
        low = accum(f[candidates[1, 0]]) if candidates[1, 0] >= 0 else -infinity()
        ended, best, since = verdict(up, low, limits.tolerance, y.size, info[Info.ITERATIONS], limits.max_iter,
                                     numbers[Number.BEST], info[Info.SINCE])
        cuda.syncthreads()    # everyone has read info and numbers
        if cuda.threadIdx.x == 0:
            info[Info.ENDED], numbers[Number.BEST], info[Info.SINCE], numbers[Number.GAP] = ended, best, since, low + up
        for s in range(cuda.threadIdx.x, SET, WIDE):
            t = candidates[s // HALF, s % HALF]
            if s >= HALF:
                for k in range(HALF):
                    t = int32(-1) if candidates[0, k] == t else t
            own.chosen[s] = t
            inside = t >= 0
            t = t if inside else int32(0)
            own.place[0, s], own.place[1, s] = row[t] if stored else int32(s), col[t]
            own.y[s], own.C[s] = accum(y[t]), accum(C[t]) if inside else accum(0)
            own.alpha[s], own.f[s] = alpha[t] if inside else held_in(0), f[t]

    @cuda.jit
    def set_rows(X, chosen, X_w, info):
        """Copies the samples of the set."""
        s = cuda.blockIdx.x
        if info[Info.ENDED] == 0:
            for d in range(cuda.threadIdx.x, X.shape[1], cuda.blockDim.x):
                X_w[s, d] = X[max(chosen[s], 0), d]

    @cuda.jit(launch_bounds=WIDE)
    def set_minimize(K, own, limits, found):
        """Solves for the set; `move` is what y alpha of its samples changed by."""
        alpha, _, numbers, info = found
        key_s = cuda.shared.array(SCRATCH, accum)
        where_s = cuda.shared.array(WARP, int32)
        if info[Info.ENDED] != 0:
            return
        if cuda.threadIdx.x == 0:
            own.info[Info.ITERATIONS], own.info[Info.ENDED], own.info[Info.SINCE] = 0, 0, 0
            own.numbers[Number.BEST] = infinity()
        cuda.syncthreads()    # the state is complete
        enough = max(limits.tolerance, share() * numbers[Number.GAP])
        most = min(INNER, limits.max_iter - info[Info.ITERATIONS])
        minimize(K, own.place[0], own.place[1], own.y, own.C, enough, INNER, most, own.alpha, own.f, own.numbers,
                 own.info, key_s, where_s)
        for s in range(cuda.threadIdx.x, SET, WIDE):
            t = own.chosen[s]
            own.move[s] = accum(0)
            if t >= 0:
                own.move[s] = accum(own.y[s]) * (accum(own.alpha[s]) - accum(alpha[t]))
                alpha[t] = own.alpha[s]
        cuda.syncthreads()    # everyone has read info
        if cuda.threadIdx.x == 0:
            info[Info.ITERATIONS] += own.info[Info.ITERATIONS]
            if own.info[Info.ENDED] == OVERFLOW:
                info[Info.ENDED] = OVERFLOW
            elif own.info[Info.ITERATIONS] == 0:
                info[Info.ENDED] = STALLED

    @cuda.jit
    def set_gradient(K, own, col, f, info):
        move_s = cuda.shared.array(SET, accum)
        row_s = cuda.shared.array(SET, int32)
        if info[Info.ENDED] != 0:
            return
        for s in range(cuda.threadIdx.x, SET, cuda.blockDim.x):
            move_s[s], row_s[s] = own.move[s], own.place[0, s]
        cuda.syncthreads()    # both are complete
        t = cuda.grid(1)
        if t < f.size:
            total = accum(0)
            for s in range(SET):
                if move_s[s] != accum(0):
                    total += move_s[s] * accum(K[row_s[s], col[t]])
            f[t] = held_in(accum(f[t]) + total)

    @cuda.jit(launch_bounds=WIDE)
    def set_finish(given, found):
        key_s = cuda.shared.array(SCRATCH, accum)
        where_s = cuda.shared.array(WARP, int32)
        up, _, low = extremes(given.y, given.C, found.alpha, found.f, key_s, where_s)
        finish(given.y, given.C, found.alpha, found.f, up, low, found.numbers, key_s)
    return set_begin, set_candidates, set_choose, set_rows, set_minimize, set_gradient, set_finish


# ---- host side

class Workspace:
    """What the launches of one problem hand to each other. `K` is the matrix, or None and `rows` = (X of the problem,
    parameters, function, rung of matmul) to make the rows of a set from."""

    def __init__(self, device, rung, precision, todo, q, K, rows=None):
        n, accum, held_in = todo.sizes[q], precision.accum, getattr(precision, todo.state)
        self.device, self.kernels, self.precision, self.rows = device, rung.variant(precision, state=todo.state), \
            precision, rows
        self.given, self.found = todo.one(q)
        self.n, self.stored = n, K is not None
        self.lists = []
        while not self.lists or self.lists[-1].shape[1] > HALF:
            count = self.lists[-1].shape[1] if self.lists else n
            self.lists.append(device.empty((2, -(-count // CHUNK) * HALF), np.int32))
        self.own = Set(
            chosen=device.empty(SET, np.int32), place=device.empty((2, SET), np.int32), y=device.empty(SET, accum),
            C=device.empty(SET, accum), alpha=device.empty(SET, held_in), f=device.empty(SET, held_in),
            move=device.empty(SET, accum), numbers=device.empty(len(Number), accum),
            info=device.empty(len(Info), np.int32))
        self.K = device.empty((SET, n), precision.storage) if K is None else K
        if rows is not None:
            self.X_w = device.empty((SET, rows[0].shape[1]), precision.storage)

    def begin(self):
        self.device.launch(self.kernels[0], 1, WIDE, self.given, self.found)

    def iterate(self, limits):
        """One outer iteration."""
        _, candidates, choose, copy, minimize, gradient, _ = self.kernels
        launch, given, found, own = self.device.launch, self.given, self.found, self.own
        before = self.lists[-1]
        for level, after in enumerate(self.lists):
            launch(candidates, (after.shape[1] // HALF, 2), WIDE, given, found, before, level == 0, after)
            before = after
        launch(choose, 1, WIDE, given, found, before, limits, self.stored, own)
        if self.rows is not None:
            X, parameters, function, product = self.rows
            launch(copy, SET, 128, X, own.chosen, self.X_w, found.info)
            kernel_functions.launch(self.device, product, self.precision, self.X_w, X, parameters, function, out=self.K)
        launch(minimize, 1, WIDE, self.K, own, limits, found)
        launch(gradient, -(-self.n // 256), 256, self.K, own, given.col, found.f, found.info)

    def finish(self):
        self.device.launch(self.kernels[-1], 1, WIDE, self.given, self.found)


def solve(device, rung, precision, todo, tolerance, max_iter, K=None, rows_of=None, watch=None):
    """Solves one problem after the other, to the end. `rows_of(q)` gives the `rows` of problem q where K is None;
    `watch` is that of `smo.solve`, and hears of it once in OUTER iterations."""
    limits = Limits(precision.accum.round(tolerance)[()], max_iter, INNER)
    for q in range(len(todo.sizes)):
        work = Workspace(device, rung, precision, todo, q, K, rows_of(q) if K is None else None)
        work.begin()
        with device.capture() as graph:
            for _ in range(OUTER):
                work.iterate(limits)
        graph.replay()
        while (info := device.to_host(todo.found.info))[q, Info.ENDED] == 0:
            if watch is not None:
                watch(todo, info)
            graph.replay()
        work.finish()


def launch(device, rung, precision, K, Y, C):
    """alpha and f after two sets, and STEPS iterations at most."""
    todo = smo.of_operation(device, precision, Y, C)
    for q in range(len(todo.sizes)):
        work = Workspace(device, rung, precision, todo, q, K)
        work.begin()
        for _ in range(2):
            work.iterate(Limits(precision.accum.element.type(0), STEPS, INNER))
        work.finish()
    return todo.found.alpha, todo.found.f


def cost(precision, n, P):
    return smo.cost(precision, n, P) | {"flops": 4 * n * P * STEPS}


operation("working_set", oracle=smo.oracle, readout=smo.readout, error_bound=smo.error_bound, launch=launch, cost=cost,
          inputs=smo.inputs, memory=lambda precision, n, P: n * n * precision.storage.bytes,    # all of K
          shapes=((1, 1), (5, 1), (31, 2), (2100, 1)),
          bench_shapes={"smoke": (600, 1), "quick": (3000, 1), "full": (20_000, 1)},
          cost_differs="Two sets are chosen, by sorting, and solved by smo's loop over their samples.")
