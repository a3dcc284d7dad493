"""Mean and variance of each column, as batch normalisation wants them: of a batch, and of all batches so far.

Idea       Few columns and many rows fill a card when the rows are dealt to blocks in strips, whose moments a second
           launch combines.
Maths      moments  mean[c] = sum of X[m, c] / n;  var[c] = sum of (X[m, c] - mean[c])^2 / n;  over the rows m < n
           running_moments  running[i] = (1 - momentum) running[i] + momentum fresh[i], if fresh[i] is finite and the
                    batch updates the weights, else running[i]: a step that is skipped leaves no trace
Shapes     X (M, C): storage; mean, var (C,): accum; n = state[COUNT] times rows_per_sample (state: see
           `batch`): the other rows pad the batch. fresh, running (n,): accum, any number of moments of a batch and of
           all so far; state[APPLY] tells whether the batch updates the weights
Mapping    c along x. A block has a strip of STRIP rows, LANES threads a column; a second launch combines the strips.
           Running moments have a thread each
Precision  in accum, by deviations from a mean, never by a difference of large sums.
           No sum of squares cancels, and none overflows as long as the moments do not: a strip takes its own
           mean first, by deviations from its first row, then the deviations from the mean, each divided by the number
           of rows before it is added; strips are combined by the weights w of their rows [1],
             mean = mean_0 + sum of w (mean_j - mean_0),   var = sum of w (var_j + (mean_j - mean)^2)
Ladder     one step each
Cost       moments 4 M C flops, X read; running_moments 3 n flops, 2 n elements read and n written
Sources    [1] T. F. Chan, G. H. Golub and R. J. LeVeque, Algorithms for computing the sample variance, The American
               Statistician 37(3), 1983, section 3
"""
import numpy as np
from numba import cuda

from numprec.kernels.networks.batch import STATE, State
from numprec.kernels.networks.dense import LANES, THREADS
from numprec.kernels.reductions.collectives import WARP, column_sum
from numprec.language.errors import Computed
from numprec.language.formats import constant
from numprec.language.ladder import draw, helper, operation, rung
from numprec.precision import PRECISIONS

STRIP = 64 * LANES       # rows of a block
MOMENTUM = 0.1           # the weight of one batch in the running moments
MEAN, VAR = range(2)     # of a strip, in parts[strip]


# ---- oracle: the maths lines, in fp64, by operations that carry their error bound

def moments_computed(precision, X, n):
    """(mean, var)."""
    accum, parts = precision.accum, []
    for first in range(0, n, STRIP):
        x = Computed(X[first:min(first + STRIP, n)], accum)
        inverse = Computed(1.0, accum) / len(x.exact)
        pivot = x.exact[0]
        mean = ((x - pivot) * inverse).sum(axis=0) + pivot
        d = x - mean
        parts.append((Computed(len(x.exact), accum) / STRIP / in_strips(accum, n), mean, (d * inverse * d).sum(axis=0)))
    pivot = parts[0][1]
    mean = total([w * (m - pivot) for w, m, _ in parts]) + pivot
    return mean, total([w * ((m - mean) * (m - mean) + v) for w, m, v in parts])


def in_strips(accum, n):
    return Computed(n // STRIP, accum) + Computed(n % STRIP, accum) / STRIP


def total(terms):
    first, *rest = terms
    for term in rest:
        first = first + term
    return first


def running_computed(precision, fresh, running, state):
    accum = precision.accum
    weights = [Computed(w, accum, w * accum.u) for w in (1 - MOMENTUM, MOMENTUM)]
    old, new = (Computed(a, accum) * w for a, w in zip((running, fresh), weights))
    moved = old + new
    kept = Computed(running, accum)
    apply = np.isfinite(fresh.astype(np.float64)) & (state[State.APPLY] != 0)
    return Computed(np.where(apply, moved.exact, kept.exact), accum, np.where(apply, moved.error, 0))


# ---- kernels

@helper
def strips_of(p):
    """strips_of(n): the number of strips that n rows are, in accum, with a fraction. n itself may be out of range."""
    accum = p.accum

    @cuda.jit(device=True)
    def strips_of(n):
        return accum(n // STRIP) + accum(n % STRIP) / accum(STRIP)
    return strips_of


@rung(of="batch_moments")
def strips(p):
    accum, over_lanes, count = p.accum, column_sum(p, LANES, WARP), strips_of[p]

    @cuda.jit
    def batch_moments_strips(X, state, rows_per_sample, parts):
        """Strip y leaves its mean and variance in parts[y]; one without rows leaves nothing."""
        part_s = cuda.shared.array((LANES, WARP), accum)
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        c = cuda.blockIdx.x * WARP + tx
        first = cuda.blockIdx.y * STRIP
        last = min(first + STRIP, state[State.COUNT] * rows_per_sample)
        if first < last:          # all threads of the block, or none
            inverse = accum(1) / accum(last - first)
            acc, pivot = accum(0), accum(0)
            if c < X.shape[1]:
                pivot = accum(X[first, c])
                for m in range(first + ty, last, LANES):
                    acc += (accum(X[m, c]) - pivot) * inverse
            mean = over_lanes(acc, part_s) + pivot
            acc = accum(0)
            if c < X.shape[1]:
                for m in range(first + ty, last, LANES):
                    d = accum(X[m, c]) - mean
                    acc += d * inverse * d
            var = over_lanes(acc, part_s)
            if ty == 0 and c < X.shape[1]:
                parts[cuda.blockIdx.y, MEAN, c], parts[cuda.blockIdx.y, VAR, c] = mean, var

    @cuda.jit
    def batch_moments_combine(parts, state, rows_per_sample, mean, var):
        """A thread a column."""
        c = cuda.grid(1)
        n = state[State.COUNT] * rows_per_sample
        if c < mean.size:
            m, v, pivot = accum(0), accum(0), parts[0, MEAN, c]
            for first in range(0, n, STRIP):
                m += accum(min(STRIP, n - first)) / accum(STRIP) / count(n) * (parts[first // STRIP, MEAN, c] - pivot)
            m += pivot
            for first in range(0, n, STRIP):
                d = parts[first // STRIP, MEAN, c] - m
                v += accum(min(STRIP, n - first)) / accum(STRIP) / count(n) * (parts[first // STRIP, VAR, c] + d * d)
            mean[c], var[c] = m, v
    return batch_moments_strips, batch_moments_combine


@rung(of="running_moments")
def elementwise(p):
    accum = p.accum
    new, old = constant(accum, MOMENTUM), constant(accum, 1 - MOMENTUM)

    @cuda.jit
    def running_moments_elementwise(fresh, running, state, out):
        """`out` may be `running`."""
        i = cuda.grid(1)
        if i < running.size:
            r, f = accum(running[i]), accum(fresh[i])
            if state[State.APPLY] != 0 and f - f == accum(0):    # an infinity or a NaN less itself is a NaN
                r = old() * r + new() * f
            out[i] = r
    return running_moments_elementwise


# ---- host side

def launch(device, rung, precision, X, state, rows_per_sample, out=None, buffer=None):
    """(mean, var)."""
    (M, C), buffer = X.shape, buffer or device.empty
    mean, var = out or (device.empty((C,), precision.accum), device.empty((C,), precision.accum))
    parts = buffer((-(-M // STRIP), 2, C), precision.accum)
    strip, combine = rung[precision]
    device.launch(strip, (-(-C // WARP), parts.shape[0]), (WARP, LANES), X, state, rows_per_sample, parts)
    device.launch(combine, -(-C // THREADS), THREADS, parts, state, rows_per_sample, mean, var)
    return mean, var


def move(device, rung, precision, fresh, running, state, out=None):
    """The running moments after a batch."""
    out = device.empty(running.shape, precision.accum) if out is None else out
    device.launch(rung[precision], -(-running.size // THREADS), THREADS, fresh, running, state, out)
    return out


# ---- as operations: each sample is a row, and the last one pads the batch

def batch(M):
    """The state of a batch of M rows."""
    state = np.zeros(STATE, np.int64)
    state[State.COUNT], state[State.APPLY] = max(1, M - 1), 1
    return state


def moments_inputs(rng, shape, kind, precision):
    return draw(rng, shape, kind, precision, 8) + (3 if kind == "random" else 0), batch(shape[0])


def exactly(parts):
    return tuple(part.exact for part in parts) if isinstance(parts, tuple) else parts.exact


def bounds(parts):
    return tuple(part.error for part in parts) if isinstance(parts, tuple) else parts.error


def described(compute):
    """oracle and error_bound by `compute`, whose last array is the state."""
    def results(precision, arrays):
        return compute(precision, *arrays[:-1], int(arrays[-1][State.COUNT]))
    return dict(oracle=lambda *arrays: exactly(results(PRECISIONS["fp64"], arrays)),
                error_bound=lambda precision, *arrays: bounds(results(precision, arrays)),
                shapes=((1, 1), (2, 3), (5, 33), (1030, 2)),
                bench_shapes={"smoke": (128, 16), "quick": (8192, 32), "full": (131072, 64)})


operation("batch_moments", inputs=moments_inputs, launch=lambda *arrays: launch(*arrays, 1),
          cost=lambda p, M, C: {"flops": 4 * M * C, "bytes": M * C * p.storage.bytes + 2 * C * p.accum.bytes},
          cost_differs="Every term is taken from a pivot, and divided by the number of rows, before it is added.",
          **described(moments_computed))
operation("running_moments", launch=move,
          inputs=lambda rng, shape, kind, p: (draw(rng, shape, kind, p), draw(rng, shape, kind, p), batch(*shape)),
          oracle=lambda *arrays: running_computed(PRECISIONS["fp64"], *arrays).exact,
          error_bound=lambda precision, *arrays: running_computed(precision, *arrays).error,
          cost=lambda p, n: {"flops": 3 * n, "bytes": 3 * n * p.accum.bytes},
          cost_differs="One more subtraction tells whether a moment is finite.",
          shapes=((1,), (2,), (300,)), bench_shapes={"smoke": (64,), "quick": (1024,), "full": (65536,)})
