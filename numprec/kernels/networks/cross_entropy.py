"""Softmax with cross-entropy, loss and gradient in one kernel.

Idea       A warp holds a row: its lanes read neighbours, and exchange maximum and sum from register to register,
           without shared memory and without a barrier.
Maths      p[c] = exp(z[c] - max z) / sum over k of exp(z[k] - max z)
           loss = log(sum over k of exp(z[k] - max z)) - (z[y] - max z);  dz[c] = (p[c] - [c = y]) * factor
Shapes     Z, dZ (M, C): storage, row-major; y (M,): int32, or -1 for a row that pads the batch: its loss, its hit and
           its gradient are 0; factor (1,): accum, what a mean and a loss scale multiply the gradient by, or (M,), row
           by row, where samples have weights; loss (M,): accum, without that; hit (M,): int32, 1 where y is the first
           of the largest z
Mapping    a row to a thread, or to a warp, whose lanes read neighbours
Precision  storage is widened to accum, everything is computed there. The largest exponent is 0: nothing overflows, the
           sum is at least 1, and its logarithm is never that of 0
Ladder     serial   a thread walks a row three times
           warp     a warp holds a row, and exchanges largest element and sum by shuffles
Cost       6 M C flops, of which M C exp; Z read, dZ written, and y, loss and hit
Try        python -m numprec.kernels cross_entropy --rung warp
           A row of 32 floats takes 4 sectors. How many does each of its 34 results take (32 of dZ, loss and hit)?
           Answer: warp, sectors: 0.618. Z is read three times and dZ written once, 16 sectors; y, factor, Z[m, y], loss
           and hit take one each: 21 / 34.
Sources    I. Goodfellow, Y. Bengio and A. Courville, Deep Learning, MIT Press 2016, sections 4.1 and 6.2.2
"""
import math

import numpy as np
from numba import cuda, int32

from numprec.kernels.reductions.collectives import WARP, warp_argmax, warp_sum
from numprec.language.errors import Computed
from numprec.language.ladder import draw, operation, rung
from numprec.precision import PRECISIONS

THREADS = 128            # per block


# ---- oracle: the maths line, in fp64, and the bound that goes along with it

def computed(precision, Z, y, factor):
    Z, known = Z.astype(np.float64), (y >= 0)
    k = np.where(known, y, 0)[:, None]
    d = Computed(Z, precision.accum) - Z.max(axis=1, keepdims=True)
    e = d.exp()
    total = e.sum()
    own = Computed(np.take_along_axis(d.exact, k, 1)[:, 0], d.fmt, np.take_along_axis(d.error, k, 1)[:, 0])
    column = Computed(total.exact[:, None], total.fmt, total.error[:, None])
    dZ = ((e / column - (np.arange(Z.shape[1]) == k)) * factor.astype(np.float64)[:, None]).to(precision.storage)
    hit = known & (Z.argmax(axis=1) == k[:, 0])
    loss, zero = total.log() - own, ~known
    for part, padding in (loss, zero), (dZ, zero[:, None]):
        part.exact, part.error = np.where(padding, 0, part.exact), np.where(padding, 0, part.error)
    return loss, Computed(hit, precision.accum), dZ


def oracle(*arrays):
    return tuple(part.exact for part in computed(PRECISIONS["fp64"], *arrays))


def error_bound(precision, *arrays):
    return tuple(part.error for part in computed(precision, *arrays))


# ---- kernels, slowest first

@rung
def serial(p, each=False):
    storage, accum = p.storage, p.accum

    @cuda.jit
    def cross_entropy_serial(Z, y, factor, loss, hit, dZ):
        m = cuda.grid(1)
        M, C = Z.shape
        if m < M:
            best, top = int32(0), accum(Z[m, 0])
            for c in range(1, C):
                if accum(Z[m, c]) > top:
                    best, top = int32(c), accum(Z[m, c])
            total = accum(0)
            for c in range(C):
                total += math.exp(accum(Z[m, c]) - top)
            k = y[m]
            for c in range(C):
                share = math.exp(accum(Z[m, c]) - top) / total - (accum(1) if c == k else accum(0))
                dZ[m, c] = storage(share * accum(factor[m if each else 0]) if k >= 0 else accum(0))
            loss[m] = math.log(total) - (accum(Z[m, k]) - top) if k >= 0 else accum(0)
            hit[m] = int32(1) if k == best else int32(0)
    return cross_entropy_serial


@rung
def warp(p, each=False):
    storage, accum, over_warp, best_of_warp = p.storage, p.accum, warp_sum[p], warp_argmax[p]

    @cuda.jit
    def cross_entropy_warp(Z, y, factor, loss, hit, dZ):
        """Lane c of warp m has the elements c, c + WARP, ... of row m."""
        lane = cuda.threadIdx.x % WARP
        m = cuda.grid(1) // WARP
        M, C = Z.shape
        if m < M:
            first = lane if lane < C else 0    # a lane without elements starts from one of the others'
            best, top = int32(first), accum(Z[m, first])
            for c in range(lane + WARP, C, WARP):
                if accum(Z[m, c]) > top:
                    best, top = int32(c), accum(Z[m, c])
            top, best = best_of_warp(top, best)
            total = accum(0)
            for c in range(lane, C, WARP):
                total += math.exp(accum(Z[m, c]) - top)
            total = over_warp(total)
            k = y[m]
            for c in range(lane, C, WARP):
                share = math.exp(accum(Z[m, c]) - top) / total - (accum(1) if c == k else accum(0))
                dZ[m, c] = storage(share * accum(factor[m if each else 0]) if k >= 0 else accum(0))
            if lane == 0:
                loss[m] = math.log(total) - (accum(Z[m, k]) - top) if k >= 0 else accum(0)
                hit[m] = int32(1) if k == best else int32(0)
    return cross_entropy_warp


# ---- host side

def launch(device, rung, precision, Z, y, factor, out=None, buffer=None):
    """(loss, hit, dZ) row by row."""
    M, buffer = Z.shape[0], buffer or device.empty
    loss, hit, dZ = out or (buffer((M,), precision.accum), buffer((M,), np.int32), buffer(Z.shape, precision.storage))
    rows = THREADS // WARP if rung is warp else THREADS
    device.launch(rung.variant(precision, each=factor.size > 1), -(-M // rows), THREADS, Z, y, factor, loss, hit, dZ)
    return loss, hit, dZ


def cost(precision, M, C):
    return {"flops": 6 * M * C, "bytes": 2 * M * C * precision.storage.bytes + M * (precision.accum.bytes + 8)}


def inputs(rng, shape, kind, precision):
    M, C = shape
    y = rng.integers(0, C, M).astype(np.int32)
    y[M // 2 + 1:][:2] = -1    # rows that pad a batch
    return draw(rng, shape, kind, precision) * (4 if kind == "random" else 1), y, np.array([8 / M])


operation("cross_entropy", inputs=inputs, oracle=oracle, error_bound=error_bound, launch=launch, cost=cost,
          shapes=((1, 1), (5, 2), (17, 10), (9, 33), (3, 130)),
          bench_shapes={"smoke": (128, 10), "quick": (4096, 10), "full": (8192, 1024)},
          cost_differs="exp is computed twice rather than kept, and is itself about ten operations.")
