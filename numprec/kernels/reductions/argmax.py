"""The largest element, and where the largest or the smallest is.

Idea       The tree of the sum, on pairs of a value and its index. The index breaks ties, so the result does not
           depend on the order.
Maths      max x[i];  argmax x[i];  argmin x[i];  i in [0, n)
Shapes     x (n,): storage; any 1 <= n < 2^31. The result is one accum or one int32
Mapping    as in the sum: strided elements to a thread, threads to a block, blocks to a second launch
Precision  exact: comparisons round nothing. As in NumPy, a NaN beats every number and the first NaN the others; of
           equal elements the first wins
Ladder     serial   one thread
           tree     a block halves its candidates in shared memory, with a barrier each time
           shuffle  a warp exchanges registers; shared memory carries one candidate a warp
Cost       n comparisons and no flops; n elements read
Try        python -m numprec.kernels argmax --rung shuffle
           How many barriers does a block meet, in both launches together? Answer: shuffle, barriers: 4, two in each
           launch: before the candidates of the warps are written and after.
           python -m numprec.kernels argmax --rung tree --without "rows [0, 2 half) are complete"
           The barrier is that of `halving`, in collectives. What may be written while thread 0 reads it? Answer:
           "thread (1, 0, 0) of block (0, 0, 0) writes key_s[1]", and the same of where_s.
Sources    M. Harris, Optimizing Parallel Reduction in CUDA, NVIDIA, 2007
"""
from functools import partial

import numpy as np
from numba import cuda, int32

from numprec.kernels.reductions.collectives import THREADS, WARP, beats, block_argmax, halving
from numprec.kernels.reductions.reduce import grid_of, shapes
from numprec.language.ladder import draw, helper, operation, rung


# ---- oracles; NumPy's ties and NaN are the kernels'

def max_oracle(x):
    return np.max(x.astype(np.float64))


def argmax_oracle(x):
    return np.argmax(x.astype(np.float64))


def argmin_oracle(x):
    return np.argmin(x.astype(np.float64))


def error_bound(precision, x):
    return 0


# ---- what is compared: key(x, i), in accum

@helper
def largest(p):
    accum = p.accum

    @cuda.jit(device=True)
    def largest(x, i):
        return accum(x[i])
    return largest


@helper
def smallest(p):
    accum = p.accum

    @cuda.jit(device=True)
    def smallest(x, i):
        return -accum(x[i])
    return smallest


@helper
def magnitude(p):
    accum = p.accum

    @cuda.jit(device=True)
    def magnitude(x, i):
        return abs(accum(x[i]))
    return magnitude


@helper
def best_of_thread(p, key, again):
    """The best of a thread's elements: of all n or, `again`, of the candidates that the first launch left."""
    wins = beats[p]

    @cuda.jit(device=True)
    def best_of_thread(x, candidates, first, step):
        i = int32(candidates[0]) if again else int32(0)    # everyone may start from the same element
        a = key(x, i)
        for c in range(first, candidates.size if again else x.size, step):
            j = int32(candidates[c]) if again else int32(c)
            b = key(x, j)
            if wins(b, j, a, i):
                a, i = b, j
        return a, i
    return best_of_thread


# ---- kernels, slowest first. `where` of one launch holds a candidate a block: the `candidates` of the next

@rung
def serial(p, key=largest, again=False):
    best_of = best_of_thread(p, key(p), again)

    @cuda.jit
    def argmax_serial(x, candidates, best, where):
        best[0], where[0] = best_of(x, candidates, 0, 1)
    return argmax_serial


@helper
def better(p):
    """Candidate j takes the place of candidate i if it beats it."""
    wins = beats[p]

    @cuda.jit(device=True)
    def better(candidates_s, i, j, c):
        key_s, where_s = candidates_s
        if wins(key_s[j], where_s[j], key_s[i], where_s[i]):
            key_s[i], where_s[i] = key_s[j], where_s[j]
    return better


@rung
def tree(p, key=largest, again=False):
    accum, halve = p.accum, halving(p, better[p], THREADS)
    best_of = best_of_thread(p, key(p), again)

    @cuda.jit
    def argmax_tree(x, candidates, best, where):
        key_s = cuda.shared.array(THREADS, accum)
        where_s = cuda.shared.array(THREADS, int32)
        t = cuda.threadIdx.x
        key_s[t], where_s[t] = best_of(x, candidates, cuda.grid(1), cuda.gridsize(1))
        halve((key_s, where_s))
        if t == 0:
            best[cuda.blockIdx.x], where[cuda.blockIdx.x] = key_s[0], where_s[0]
    return argmax_tree


@rung
def shuffle(p, key=largest, again=False):
    accum, over_block = p.accum, block_argmax[p]
    best_of = best_of_thread(p, key(p), again)

    @cuda.jit
    def argmax_shuffle(x, candidates, best, where):
        key_s = cuda.shared.array(WARP, accum)
        where_s = cuda.shared.array(WARP, int32)
        a, i = best_of(x, candidates, cuda.grid(1), cuda.gridsize(1))
        a, i = over_block(a, i, key_s, where_s)
        if cuda.threadIdx.x == 0:
            best[cuda.blockIdx.x], where[cuda.blockIdx.x] = a, i
    return argmax_shuffle


# ---- host side

def launch(device, rung, precision, x, key=largest):
    """The best key and its index."""
    blocks, threads = grid_of(rung, x.size)
    best, where = device.empty(1, precision.accum), device.empty(1, np.int32)
    first = rung.variant(precision, key=key)
    if blocks == 1:
        device.launch(first, 1, threads, x, where, best, where)
    else:
        bests, candidates = device.empty(blocks, precision.accum), device.empty(blocks, np.int32)
        device.launch(first, blocks, threads, x, candidates, bests, candidates)
        second = rung.variant(precision, key=key, again=True)
        device.launch(second, 1, threads, x, candidates, best, where)
    return best, where


def max_launch(device, rung, precision, x):
    return launch(device, rung, precision, x)[0]


def index_launch(device, rung, precision, x, key):
    return launch(device, rung, precision, x, key)[1]


def cost(precision, n):
    return {"flops": 0, "bytes": n * precision.storage.bytes}


def inputs(rng, shape, kind, precision):
    return draw(rng, shape, kind, precision),


about = dict(ladder="argmax", inputs=inputs, error_bound=error_bound, cost=cost, **shapes)

operation("max", oracle=max_oracle, launch=max_launch, **about)
operation("argmax", oracle=argmax_oracle, launch=partial(index_launch, key=largest), **about)
operation("argmin", oracle=argmin_oracle, launch=partial(index_launch, key=smallest), **about)
