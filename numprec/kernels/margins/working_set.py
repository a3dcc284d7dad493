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
import numpy as np
from numba import cuda, int32

from numprec.kernels.margins import kernel_functions, smo
from numprec.kernels.margins.smo import STEPS, WIDE
from numprec.kernels.margins.smo_step import OVERFLOW, SCRATCH, STALLED, Info, Number, steps
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


@rung
def working_set(p, state="accum"):
    accum, held_in = p.accum, getattr(p, state)
    do, sort = steps(p, state, WIDE), block_sort(p)
    I_up, I_low, begin, verdict, extremes = do.I_up, do.I_low, do.begin, do.verdict, do.extremes
    minimize, finish = do.minimize, do.finish
    infinity, share = constant(accum, np.inf), constant(accum, SHARE)

    @cuda.jit(launch_bounds=WIDE)
    def set_begin(y, alpha, f, numbers, info):
        begin(y, alpha, f, numbers, info)

    @cuda.jit(launch_bounds=WIDE)
    def set_candidates(y, C, alpha, f, before, first, after, info):
        """The best HALF of CHUNK candidates, in order: those of I_up in row 0, of I_low in row 1; -1 where there are
        not as many. The `first` candidates are all samples."""
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
    def set_choose(row, col, y, C, alpha, f, candidates, tolerance, max_iter, stored, chosen, place, y_w, C_w, alpha_w,
                   f_w, numbers, info):
        """Whether to stop; if not, the set: its samples, where K keeps them, and their part of the problem. A sample
        that stands in both halves is left out of one. What is left out has C = 0, and is in neither I_up nor I_low."""
        if info[Info.ENDED] != 0:
            return
        up = -accum(f[candidates[0, 0]]) if candidates[0, 0] >= 0 else -infinity()
        low = accum(f[candidates[1, 0]]) if candidates[1, 0] >= 0 else -infinity()
        ended, best, since = verdict(up, low, tolerance, y.size, info[Info.ITERATIONS], max_iter,
                                     numbers[Number.BEST], info[Info.SINCE])
        cuda.syncthreads()    # everyone has read info and numbers
        if cuda.threadIdx.x == 0:
            info[Info.ENDED], numbers[Number.BEST], info[Info.SINCE], numbers[Number.GAP] = ended, best, since, low + up
        for s in range(cuda.threadIdx.x, SET, WIDE):
            t = candidates[s // HALF, s % HALF]
            if s >= HALF:
                for k in range(HALF):
                    t = int32(-1) if candidates[0, k] == t else t
            chosen[s] = t
            inside = t >= 0
            t = t if inside else int32(0)
            place[0, s], place[1, s] = row[t] if stored else int32(s), col[t]
            y_w[s], C_w[s] = accum(y[t]), accum(C[t]) if inside else accum(0)
            alpha_w[s], f_w[s] = alpha[t] if inside else held_in(0), f[t]

    @cuda.jit
    def set_rows(X, chosen, X_w, info):
        """Copies the samples of the set."""
        s = cuda.blockIdx.x
        if info[Info.ENDED] == 0:
            for d in range(cuda.threadIdx.x, X.shape[1], cuda.blockDim.x):
                X_w[s, d] = X[max(chosen[s], 0), d]

    @cuda.jit(launch_bounds=WIDE)
    def set_minimize(K, chosen, place, y_w, C_w, alpha_w, f_w, tolerance, max_iter, alpha, move, numbers_w, info_w,
                     numbers, info):
        """Solves for the set; `move` is what y alpha of its samples changed by."""
        key_s = cuda.shared.array(SCRATCH, accum)
        where_s = cuda.shared.array(WARP, int32)
        if info[Info.ENDED] != 0:
            return
        if cuda.threadIdx.x == 0:
            info_w[Info.ITERATIONS], info_w[Info.ENDED], info_w[Info.SINCE] = 0, 0, 0
            numbers_w[Number.BEST] = infinity()
        cuda.syncthreads()    # the state is complete
        enough = max(tolerance, share() * numbers[Number.GAP])
        most = min(INNER, max_iter - info[Info.ITERATIONS])
        minimize(K, place[0], place[1], y_w, C_w, enough, INNER, most, alpha_w, f_w, numbers_w, info_w, key_s, where_s)
        for s in range(cuda.threadIdx.x, SET, WIDE):
            t = chosen[s]
            move[s] = accum(0)
            if t >= 0:
                move[s] = accum(y_w[s]) * (accum(alpha_w[s]) - accum(alpha[t]))
                alpha[t] = alpha_w[s]
        cuda.syncthreads()    # everyone has read info
        if cuda.threadIdx.x == 0:
            info[Info.ITERATIONS] += info_w[Info.ITERATIONS]
            if info_w[Info.ENDED] == OVERFLOW:
                info[Info.ENDED] = OVERFLOW
            elif info_w[Info.ITERATIONS] == 0:
                info[Info.ENDED] = STALLED

    @cuda.jit
    def set_gradient(K, place, col, move, f, info):
        move_s = cuda.shared.array(SET, accum)
        row_s = cuda.shared.array(SET, int32)
        if info[Info.ENDED] != 0:
            return
        for s in range(cuda.threadIdx.x, SET, cuda.blockDim.x):
            move_s[s], row_s[s] = move[s], place[0, s]
        cuda.syncthreads()    # both are complete
        t = cuda.grid(1)
        if t < f.size:
            total = accum(0)
            for s in range(SET):
                if move_s[s] != accum(0):
                    total += move_s[s] * accum(K[row_s[s], col[t]])
            f[t] = held_in(accum(f[t]) + total)

    @cuda.jit(launch_bounds=WIDE)
    def set_finish(y, C, alpha, f, numbers):
        key_s = cuda.shared.array(SCRATCH, accum)
        where_s = cuda.shared.array(WARP, int32)
        up, _, low = extremes(y, C, alpha, f, key_s, where_s)
        finish(y, C, alpha, f, up, low, numbers, key_s)
    return set_begin, set_candidates, set_choose, set_rows, set_minimize, set_gradient, set_finish


# ---- host side

class Workspace:
    """What the launches of one problem hand to each other. `K` is the matrix, or None and `rows` = (X of the problem,
    parameters, function, rung of matmul) to make the rows of a set from."""

    def __init__(self, device, rung, precision, todo, q, K, rows=None):
        n, accum, held_in = todo.sizes[q], precision.accum, getattr(precision, todo.state)
        end = int(sum(todo.sizes[:q + 1]))
        own = slice(end - n, end)
        self.device, self.kernels, self.precision, self.rows = device, rung.variant(precision, state=todo.state), \
            precision, rows
        self.row, self.col, self.y, self.C, self.alpha, self.f = (
            a[own] for a in (todo.row, todo.col, todo.Y, todo.C, todo.alpha, todo.f))
        self.numbers, self.info, self.n, self.stored = todo.numbers[q], todo.info[q], n, K is not None
        self.lists = []
        while not self.lists or self.lists[-1].shape[1] > HALF:
            count = self.lists[-1].shape[1] if self.lists else n
            self.lists.append(device.empty((2, -(-count // CHUNK) * HALF), np.int32))
        self.chosen, self.place = device.empty(SET, np.int32), device.empty((2, SET), np.int32)
        self.y_w, self.C_w, self.move = (device.empty(SET, accum) for _ in range(3))
        self.alpha_w, self.f_w = device.empty(SET, held_in), device.empty(SET, held_in)
        self.numbers_w, self.info_w = device.empty(6, accum), device.empty(5, np.int32)
        self.K = device.empty((SET, n), precision.storage) if K is None else K
        if rows is not None:
            self.X_w = device.empty((SET, rows[0].shape[1]), precision.storage)

    def begin(self):
        self.device.launch(self.kernels[0], 1, WIDE, self.y, self.alpha, self.f, self.numbers, self.info)

    def iterate(self, tolerance, max_iter):
        """One outer iteration."""
        _, candidates, choose, copy, minimize, gradient, _ = self.kernels
        launch = self.device.launch
        before = self.lists[-1]
        for level, after in enumerate(self.lists):
            launch(candidates, (after.shape[1] // HALF, 2), WIDE, self.y, self.C, self.alpha, self.f, before,
                   level == 0, after, self.info)
            before = after
        launch(choose, 1, WIDE, self.row, self.col, self.y, self.C, self.alpha, self.f, before, tolerance, max_iter,
               self.stored, self.chosen, self.place, self.y_w, self.C_w, self.alpha_w, self.f_w, self.numbers,
               self.info)
        if self.rows is not None:
            X, parameters, function, product = self.rows
            launch(copy, SET, 128, X, self.chosen, self.X_w, self.info)
            kernel_functions.launch(self.device, product, self.precision, self.X_w, X, parameters, function, out=self.K)
        launch(minimize, 1, WIDE, self.K, self.chosen, self.place, self.y_w, self.C_w, self.alpha_w, self.f_w,
               tolerance, max_iter, self.alpha, self.move, self.numbers_w, self.info_w, self.numbers, self.info)
        launch(gradient, -(-self.n // 256), 256, self.K, self.place, self.col, self.move, self.f, self.info)

    def finish(self):
        self.device.launch(self.kernels[-1], 1, WIDE, self.y, self.C, self.alpha, self.f, self.numbers)


def solve(device, rung, precision, todo, tolerance, max_iter, K=None, rows_of=None, watch=None):
    """Solves one problem after the other, to the end. `rows_of(q)` gives the `rows` of problem q where K is None;
    `watch` is that of `smo.solve`, and hears of it once in OUTER iterations."""
    tolerance = precision.accum.round(tolerance)[()]
    for q in range(len(todo.sizes)):
        work = Workspace(device, rung, precision, todo, q, K, rows_of(q) if K is None else None)
        work.begin()
        with device.capture() as graph:
            for _ in range(OUTER):
                work.iterate(tolerance, max_iter)
        graph.replay()
        while (info := device.to_host(todo.info))[q, Info.ENDED] == 0:
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
            work.iterate(precision.accum.element.type(0), STEPS)
        work.finish()
    return todo.alpha, todo.f


def cost(precision, n, P):
    return smo.cost(precision, n, P) | {"flops": 4 * n * P * STEPS}


operation("working_set", oracle=smo.oracle, readout=smo.readout, error_bound=smo.error_bound, launch=launch, cost=cost,
          inputs=smo.inputs, memory=lambda precision, n, P: n * n * precision.storage.bytes,    # all of K
          shapes=((1, 1), (5, 1), (31, 2), (2100, 1)),
          bench_shapes={"smoke": (600, 1), "quick": (3000, 1), "full": (20_000, 1)},
          cost_differs="Two sets are chosen, by sorting, and solved by smo's loop over their samples.")
