"""Minibatches, chosen and copied on the device, and the state of a training run that lives there.

Idea       The device knows where it is in the epoch and picks the samples itself: the host launches the same recorded
           graph for each batch, and waits for none.
Maths      row b of batch number POSITION is sample permuted(POSITION B + b) of the EPOCH's permutation
           factor = scale / COUNT, for the gradient of a mean over the batch
           weigh   of samples with weights: share[b] = w[b] / total, factor[b] = scale share[b], where w[b] is the
                   weight of the sample in row b, and total their sum; where that is 0, shares are 0
Shapes     state (STATE,): int64, the numbers named below; X (N, D): storage; labels (N,): int32; rows (B,): int32, the
           samples of the batch; x (B, D) and y (B,): their copies; scale and factor (1,): accum. A last batch that is
           short is filled up with row -1, whose x is 0 and whose y is -1; weights (N,), total (1,), share and factor
           (B,) of weigh: accum
Mapping    a thread per row; a thread per element, columns along x; weigh is one block, whose threads sum strided rows,
           and then their sums as in `reduce`
Precision  nothing but factor, total and share is rounded; batches are the same in every precision
Ladder     one step each
Cost       one division; B D elements and B labels read and written; weigh 3 B flops
Sources    L. Bottou, Stochastic gradient descent tricks, in Neural Networks: Tricks of the Trade, Springer 2012,
               section 4.1 (a random permutation an epoch)

The host reads `state` between epochs only.
"""
import numpy as np
from numba import cuda, int32

from numprec.kernels.networks.philox import THREADS, permutation_oracle, permuted
from numprec.kernels.reductions.collectives import WARP, block_sum
from numprec.language.columns import columns
from numprec.language.errors import Computed
from numprec.language.ladder import draw, operation, rung
from numprec.precision import PRECISIONS

State = columns("State", "SEED EPOCH POSITION BATCHES COUNT STEP UPDATES "
                         "BASE GOOD GROW_AT APPLY ROW STOP BAD_STEP BAD_INDEX")
"""state[...]:

    SEED       of permutations and of all random numbers of the run
    EPOCH      passes over the data so far
    POSITION   batches of this epoch so far
    BATCHES    of an epoch
    COUNT      true rows of the current batch
    STEP       batches so far
    UPDATES    of the weights so far; the others were skipped
    BASE       UPDATES when the current table of learning rates began
    GOOD       updates since the loss scale last changed
    GROW_AT    GOOD at which it grows
    APPLY      whether the current batch updates the weights
    ROW        of the history: where the current batch writes
    STOP       why nothing is updated any more, one of the following; 0 as long as all is well
    BAD_STEP   the last step whose gradient was not finite, and
    BAD_INDEX  the first such element of it
"""
STATE = 16
OVERFLOW, COLLAPSED = 1, 2


def batch_oracle(X, labels, state, scale):
    """For batches of BATCH rows."""
    N, first = len(X), state[State.POSITION] * BATCH
    order = permutation_oracle((state[State.SEED], state[State.EPOCH]), np.arange(N))
    rows = np.full(BATCH, -1)
    rows[:max(0, min(BATCH, N - first))] = order[first:first + BATCH]
    known = rows >= 0
    return np.where(known[:, None], X.astype(np.float64)[rows], 0), np.where(known, labels[rows], -1), (
        scale.astype(np.float64) / known.sum())


def weighed_computed(precision, weights, rows, scale):
    w = np.where(rows >= 0, weights.astype(np.float64)[rows], 0)
    total = Computed(w, precision.accum).sum()
    if total.exact == 0:
        return total, *(Computed(w, precision.accum) for _ in range(2))
    share = Computed(w, precision.accum) / total
    return total, share, share * scale.astype(np.float64)


# ---- kernels

@rung
def gather(p, shuffle=True):
    """Two kernels: `select` chooses the rows, `gather` copies them."""
    storage, accum = p.storage, p.accum

    @cuda.jit
    def batch_select(labels, state, scale, rows, y, factor):
        b = cuda.grid(1)
        N, B = labels.size, rows.size
        first = state[State.POSITION] * B
        if b < B:
            if first + b < N:
                i = permuted(first + b, N, state[State.SEED], state[State.EPOCH]) if shuffle else first + b
                rows[b], y[b] = int32(i), labels[i]
            else:
                rows[b], y[b] = int32(-1), int32(-1)
        if b == 0:
            state[State.COUNT] = min(B, N - first)
            factor[0] = accum(scale[0]) / accum(int32(state[State.COUNT]))

    @cuda.jit
    def batch_gather(X, rows, x):
        d, b = cuda.grid(2)
        if b < x.shape[0] and d < x.shape[1]:
            x[b, d] = X[rows[b], d] if rows[b] >= 0 else storage(0)
    return batch_select, batch_gather


@rung(of="weigh")
def block(p):
    accum, over_block = p.accum, block_sum(p, THREADS)

    @cuda.jit
    def batch_weigh(weights, rows, scale, total, share, factor):
        warps_s = cuda.shared.array(WARP, accum)
        t = cuda.threadIdx.x
        acc = accum(0)
        for b in range(t, rows.size, THREADS):
            if rows[b] >= 0:
                acc += accum(weights[rows[b]])
        acc = over_block(acc, warps_s)
        for b in range(t, rows.size, THREADS):
            part = accum(0)
            if rows[b] >= 0 and acc > accum(0):
                part = accum(weights[rows[b]]) / acc
            share[b] = part
            factor[b] = part * accum(scale[0])
        if t == 0:
            total[0] = acc
    return batch_weigh


# ---- host side

def select(device, rung, precision, labels, state, scale, rows, y, factor, shuffle=True):
    """Writes `rows`, `y`, state[COUNT] and `factor`."""
    kernel, _ = rung.variant(precision, shuffle=shuffle)
    device.launch(kernel, -(-rows.size // THREADS), THREADS, labels, state, scale, rows, y,
                  factor)


def copy(device, rung, precision, X, rows, x):
    """x = X[rows], samples flattened."""
    X, x = X.reshape(X.shape[0], -1), x.reshape(x.shape[0], -1)
    device.launch(rung[precision][1], (-(-x.shape[1] // THREADS), x.shape[0]), THREADS, X, rows, x)


def weighed(device, rung, precision, weights, rows, scale, total=None, share=None, factor=None):
    """(total, share, factor) of the rows."""
    total, share, factor = (device.empty(n, precision.accum) if out is None else out
                            for n, out in ((1, total), (rows.size, share), (rows.size, factor)))
    device.launch(rung[precision], 1, THREADS, weights, rows, scale, total, share, factor)
    return total, share, factor


def launch(device, rung, precision, X, labels, state, scale):
    factor, rows, y = (device.empty(n, fmt) for n, fmt in ((1, precision.accum), (BATCH, np.int32), (BATCH, np.int32)))
    x = device.empty((BATCH, X.shape[1]), precision.storage)
    select(device, rung, precision, labels, state, scale, rows, y, factor)
    copy(device, rung, precision, X, rows, x)
    return x, y, factor


def inputs(rng, shape, kind, precision):
    N, D = shape
    state = np.zeros(STATE, np.int64)
    state[State.SEED], state[State.EPOCH] = rng.integers(2 ** 31), rng.integers(100)
    state[State.POSITION] = (N - 1) // BATCH
    return draw(rng, shape, kind, precision), rng.integers(0, 10, N).astype(np.int32), state, np.array([2.0 ** 10])


BATCH = 64         # of the operation below; in training, as chosen

operation("batch", inputs=inputs, oracle=batch_oracle, launch=launch,
          error_bound=lambda precision, X, labels, state, scale: (
              0, 0, 2 * precision.accum.u * batch_oracle(X, labels, state, scale)[2]),
          cost=lambda precision, N, D: {"flops": 1, "bytes": 2 * BATCH * (D * precision.storage.bytes + 4)},
          shapes=((1, 1), (64, 3), (100, 129)),
          bench_shapes={"smoke": (1000, 64), "quick": (5000, 784), "full": (60000, 784)})


def weigh_inputs(rng, shape, kind, precision):
    N, B = shape
    rows = rng.integers(0, N, B).astype(np.int32)
    rows[B // 2 + 1:][:2] = -1    # they pad the batch
    return abs(draw(rng, (N,), kind, precision, B)), rows, np.array([2.0 ** 4])


operation("weigh", inputs=weigh_inputs, launch=weighed,
          oracle=lambda *arrays: tuple(part.exact for part in weighed_computed(PRECISIONS["fp64"], *arrays)),
          error_bound=lambda precision, *arrays: tuple(part.error for part in weighed_computed(precision, *arrays)),
          cost=lambda precision, N, B: {"flops": 3 * B, "bytes": B * (4 + 3 * precision.accum.bytes)},
          cost_differs="The 128 threads exchange their sums by shuffles, those without a row too.",
          shapes=((1, 1), (5, 3), (70, 300)),
          bench_shapes={"smoke": (1000, 64), "quick": (5000, 128), "full": (60000, 1024)})
