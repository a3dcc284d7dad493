"""What the gradients of a batch look like, and what follows: update or skip, and the scale of the next loss.

Idea       One pass surveys all gradients, and one thread of the device decides whether the step counts: the host need
           not wait to know.
Maths      survey  of all gradients: how many are not finite and which is the first, how many are subnormal; of the
                   finite ones the largest and of those that are not 0 the smallest magnitude
           judge   loss = sum over rows of loss / COUNT. With sample weights it is the sum of share * loss, and weight
                   decay divides by TOTAL, not COUNT (see `batch`). If every gradient is finite, the weights may be
                   updated, and after GROW_AT updates in a row the scale doubles. If not, they may not. A dynamic scale
                   is halved; below 1 it has collapsed, and training stops, as it does without a dynamic scale
Shapes     G (n,): storage; loss (B,): accum; hit (B,): int32; control (CONTROL,): accum; state: int64, see `batch`;
           rates (BATCHES,): accum, the learning rates of the epoch's updates; numbers (BATCHES, NUMBERS): accum, and
           counts (BATCHES, COUNTS): int32: history, a row per batch
Mapping    threads take strided elements; a block halves its findings in shared memory, and leaves a row; judge is one
           block, which does the same to those rows, and whose thread 0 then decides
Precision  comparisons and counts are exact; scales are powers of two, and so multiply exactly short of under- and
           overflow; the mean loss is a sum in accum
Ladder     one step
Cost       n elements read, 4 comparisons each; 2 B flops for the mean loss
Sources    P. Micikevicius et al., Mixed precision training, ICLR 2018, section 3.2 (loss scaling)
           O. Kuchaiev et al., Mixed-precision training for NLP and speech recognition with OpenSeq2Seq, 2018,
               section 3 (a scale that backs off and grows)

There is no overflow and no skipped batch that the host has to see in time: it reads history after an epoch.
"""
from typing import Any, NamedTuple

import numpy as np
from numba import cuda, int32

from numprec.kernels.networks.batch import COLLAPSED, OVERFLOW, STATE, State
from numprec.kernels.reductions.collectives import halving
from numprec.language.columns import columns
from numprec.language.ladder import draw, helper, operation, rung
from numprec.precision import FORMATS

THREADS = 256            # per block
BLOCKS = 64              # of the survey, at most
EACH = 8                 # elements per thread that make another block worth while
GROW_AT = 2000           # unless a test is in a hurry
START = 2.0 ** 15        # the first scale
HIGHEST = 24             # exponent of the largest one

Control = columns("Control", "SCALE FACTOR UNSCALE RATE DECAY ALPHA BETA1 COBETA1 BETA2 COBETA2 EPSILON TINY TOP "
                             "CEILING TOTAL")
"""control[...]:

    SCALE             of the loss, for the batch to come
    FACTOR            of its gradient: SCALE / COUNT
    UNSCALE           1 / SCALE
    RATE              learning rate of its update, with Adam's correction
    DECAY             ALPHA / COUNT, or ALPHA / TOTAL
    ALPHA             weight decay
    BETA1, COBETA1    Adam's, or SGD's momentum; 1 - BETA1, rounded from float64
    BETA2, COBETA2    Adam's
    EPSILON
    TINY              least normal number of storage
    TOP               largest number of accum
    CEILING           largest scale
    TOTAL             of the weights of the batch's samples, where they have some
"""
CONTROL = 16

Count = columns("Count", "HITS BAD SUBNORMAL FIRST LOST APPLIED ROWS")
"""counts[row, ...]: right predictions; gradients not finite, subnormal, and the first not finite; weights unchanged by
an update that is not 0; whether the batch updated anything; its rows."""
COUNTS = 8

Figure = columns("Figure", "LOSS LARGEST SMALLEST SCALED")
"""numbers[row, ...]: mean loss, largest and smallest magnitude of a gradient (times the scale), the scale."""
NUMBERS = len(Figure)

NOWHERE = 2 ** 31 - 1    # FIRST where there is none
FOUND = Count.FIRST + 1     # counts that come from the survey,
SURVEYED = Figure.SCALED    # and numbers


def settings(precision, alpha=0.0, beta1=0.9, beta2=0.999, epsilon=1e-8, scale=1.0):
    """The initial `control`, in float64. An epsilon that is subnormal in accum becomes accum's least normal number:
    were it 0, a weight whose gradient is 0 would become 0 / 0."""
    storage, accum = precision.storage, precision.accum
    control = np.zeros(CONTROL)
    control[[Control.SCALE, Control.ALPHA]] = scale, alpha
    control[[Control.BETA1, Control.COBETA1, Control.BETA2, Control.COBETA2]] = beta1, 1 - beta1, beta2, 1 - beta2
    control[[Control.EPSILON, Control.TINY, Control.TOP]] = max(epsilon, accum.tiny), storage.tiny, accum.max
    control[Control.CEILING] = 2.0 ** min(HIGHEST, np.floor(np.log2(accum.max)))
    return control


# ---- oracle: history's row, and the scale, after a first batch whose scale is dynamic

def oracle(G, loss, hit):
    magnitude = abs(G.astype(np.float64))
    finite = np.isfinite(magnitude)
    bad, B = int((~finite).sum()), len(loss)
    tiny = next(f.tiny for f in FORMATS.values() if f.numpy == G.dtype)
    counts = np.zeros(COUNTS)
    counts[[Count.HITS, Count.BAD]] = hit.sum(), bad
    counts[Count.SUBNORMAL] = (finite & (magnitude > 0) & (magnitude < tiny)).sum()
    counts[[Count.FIRST, Count.APPLIED, Count.ROWS]] = np.argmin(finite) if bad else NOWHERE, not bad, B
    some = magnitude[finite & (magnitude > 0)]
    numbers = np.sum(loss.astype(np.float64) / B), some.max(initial=0), some.min() if some.size else 0, START
    return np.array(numbers), counts, np.array([START / 2 if bad else START])


def error_bound(precision, G, loss, hit):
    accum, magnitude, B = precision.accum, abs(loss.astype(np.float64)), len(loss)
    u = accum.u + FORMATS["float64"].u
    numbers = np.zeros(NUMBERS)
    # 1 / B rounded, B products rounded or fused, B sums
    numbers[Figure.LOSS] = (B + 4) * (u * np.sum(magnitude / B) + accum.eta)
    if not (np.sum(magnitude / B) + numbers[Figure.LOSS] <= accum.max):
        numbers[Figure.LOSS] = np.inf
    return numbers, np.zeros(COUNTS), np.zeros(1)


# ---- kernels

class Findings(NamedTuple):
    """A row per block, or per batch: numbers (rows, NUMBERS or SURVEYED): accum; counts (rows, COUNTS or FOUND): int32.
    In shared memory a column per thread."""

    numbers: Any
    counts: Any


@helper
def merge_findings(p):
    """The findings of thread j into those of thread i."""
    @cuda.jit(device=True)
    def merge_findings(findings_s, i, j, c):
        numbers_s, counts_s = findings_s
        numbers_s[Figure.LOSS, i] += numbers_s[Figure.LOSS, j]
        numbers_s[Figure.LARGEST, i] = max(numbers_s[Figure.LARGEST, i], numbers_s[Figure.LARGEST, j])
        numbers_s[Figure.SMALLEST, i] = min(numbers_s[Figure.SMALLEST, i], numbers_s[Figure.SMALLEST, j])
        for k in range(Count.FIRST):
            counts_s[k, i] += counts_s[k, j]
        counts_s[Count.FIRST, i] = min(counts_s[Count.FIRST, i], counts_s[Count.FIRST, j])
    return merge_findings


@rung
def survey(p, dynamic=True, weighted=False):
    """Two kernels: `survey` leaves a row of findings per block, `judge` decides by them."""
    accum, halve = p.accum, halving(p, merge_findings[p], THREADS)

    @cuda.jit
    def loss_scale_survey(G, control, found):
        numbers_s = cuda.shared.array((SURVEYED, THREADS), accum)
        counts_s = cuda.shared.array((FOUND, THREADS), int32)
        t, block = cuda.threadIdx.x, cuda.blockIdx.x
        tiny, top = accum(control[Control.TINY]), accum(control[Control.TOP])
        largest, smallest = accum(0), top
        bad, subnormal, first = int32(0), int32(0), int32(NOWHERE)
        for i in range(cuda.grid(1), G.size, cuda.gridsize(1)):
            g = abs(accum(G[i]))
            if g <= top:
                largest = max(largest, g)
                if g > accum(0):
                    smallest = min(smallest, g)
                    subnormal += int32(1) if g < tiny else int32(0)
            else:
                bad += int32(1)
                first = min(first, int32(i))
        numbers_s[Figure.LOSS, t], numbers_s[Figure.LARGEST, t] = accum(0), largest
        numbers_s[Figure.SMALLEST, t] = smallest
        counts_s[Count.HITS, t], counts_s[Count.BAD, t] = 0, bad
        counts_s[Count.SUBNORMAL, t], counts_s[Count.FIRST, t] = subnormal, first
        halve((numbers_s, counts_s))
        cuda.syncthreads()    # column 0 is complete
        if t < Figure.SCALED:
            found.numbers[block, t] = numbers_s[t, 0]
        if t <= Count.FIRST:
            found.counts[block, t] = counts_s[t, 0]

    @cuda.jit
    def loss_scale_judge(found, loss, share, hit, rates, control, state, history):
        numbers_s = cuda.shared.array((SURVEYED, THREADS), accum)
        counts_s = cuda.shared.array((FOUND, THREADS), int32)
        t = cuda.threadIdx.x
        row, rows, scale = state[State.POSITION], int32(state[State.COUNT]), control[Control.SCALE]
        mean, hits = accum(0), int32(0)
        for b in range(t, loss.size, THREADS):
            mean += accum(loss[b]) * accum(share[b]) if weighted else accum(loss[b]) / accum(rows)
            hits += hit[b]
        blocks, numbers, counts = found.counts.shape[0], history.numbers, history.counts
        for i in range(Figure.SCALED):
            numbers_s[i, t] = found.numbers[t, i] if t < blocks else found.numbers[0, i]
        for i in range(FOUND):
            counts_s[i, t] = found.counts[t, i] if t < blocks else int32(0)
        numbers_s[Figure.LOSS, t], counts_s[Count.HITS, t] = mean, hits
        if t >= blocks:
            counts_s[Count.FIRST, t] = int32(NOWHERE)
        halve((numbers_s, counts_s))
        if t == 0:
            good = counts_s[Count.BAD, 0] == 0
            apply = good and state[State.STOP] == 0
            if apply:
                control[Control.UNSCALE] = accum(1) / scale
                control[Control.DECAY] = control[Control.ALPHA] / accum(rows)
                if weighted:
                    total = control[Control.TOTAL]
                    control[Control.DECAY] = control[Control.ALPHA] / total if total > accum(0) else accum(0)
                control[Control.RATE] = rates[min(state[State.UPDATES] - state[State.BASE], rates.size - 1)]
                state[State.UPDATES] += 1
                state[State.GOOD] += 1
                if dynamic and state[State.GOOD] >= state[State.GROW_AT] and scale < control[Control.CEILING]:
                    control[Control.SCALE] = scale + scale
                    state[State.GOOD] = 0
            elif state[State.STOP] == 0:
                state[State.GOOD] = 0
                state[State.BAD_STEP], state[State.BAD_INDEX] = state[State.STEP], counts_s[Count.FIRST, 0]
                if not dynamic:
                    state[State.STOP] = OVERFLOW
                elif scale > accum(1):
                    control[Control.SCALE] = scale / accum(2)
                else:
                    state[State.STOP] = COLLAPSED
            state[State.APPLY], state[State.ROW] = int32(apply), row
            for i in range(Figure.SCALED):
                numbers[row, i] = numbers_s[i, 0]
            for i in range(FOUND):
                counts[row, i] = counts_s[i, 0]
            if numbers_s[Figure.SMALLEST, 0] == control[Control.TOP]:
                numbers[row, Figure.SMALLEST] = accum(0)    # there is none but 0
            numbers[row, Figure.SCALED] = scale
            counts[row, Count.LOST], counts[row, Count.APPLIED], counts[row, Count.ROWS] = 0, int32(apply), rows
            state[State.STEP] += 1
            state[State.POSITION] += 1
            if state[State.POSITION] == state[State.BATCHES]:
                state[State.POSITION] = 0
                state[State.EPOCH] += 1
    return loss_scale_survey, loss_scale_judge


# ---- host side

def blocks_for(n):
    return min(BLOCKS, -(-n // (EACH * THREADS)))


def judge(device, rung, precision, G, loss, hit, rates, control, state, numbers, counts, dynamic=True, buffer=None,
          share=None):
    """Surveys G and judges: changes control and state, and writes a row of history. `share` (B,) is what each loss
    counts for, where samples have weights."""
    buffer, blocks = buffer or device.empty, blocks_for(G.size)
    surveyor, judge = rung.variant(precision, dynamic=dynamic, weighted=share is not None)
    found = Findings(buffer((blocks, SURVEYED), precision.accum), buffer((blocks, FOUND), np.int32))
    device.launch(surveyor, blocks, THREADS, G, control, found)
    share = loss if share is None else share    # which the kernel then does not look at
    device.launch(judge, 1, THREADS, found, loss, share, hit, rates, control, state, Findings(numbers, counts))


def launch(device, rung, precision, G, loss, hit):
    state = np.zeros(STATE, np.int64)
    state[[State.COUNT, State.BATCHES, State.GROW_AT]] = loss.size, 1, NOWHERE    # the launch may be replayed
    accum = precision.accum
    control, rates = device.array(settings(precision, scale=START), accum), device.zeros(1, accum)
    numbers, counts = device.empty((1, NUMBERS), accum), device.zeros((1, COUNTS), np.int32)
    judge(device, rung, precision, G, loss, hit, rates, control, device.array(state), numbers, counts)
    return numbers[0], counts[0], control[Control.SCALE:Control.SCALE + 1]


def inputs(rng, shape, kind, precision):
    n, B = shape
    G = draw(rng, (n,), kind, precision)
    if n > 2:
        G[rng.integers(n, size=2)] = 0, precision.storage.eta
    return G, abs(draw(rng, (B,), kind, precision)), rng.integers(0, 2, B).astype(np.int32)


operation("loss_scale", inputs=inputs, oracle=oracle, error_bound=error_bound, launch=launch,
          cost=lambda precision, n, B: {"flops": 2 * B,
                                        "bytes": n * precision.storage.bytes + B * (precision.accum.bytes + 4)},
          cost_differs="The blocks of the survey combine their findings as judge does, and so add up losses of zero.",
          shapes=((1, 1), (5, 70), (2049, 33), (40009, 300)),
          bench_shapes={"smoke": (10_000, 64), "quick": (200_000, 128), "full": (2 ** 24, 1024)})
