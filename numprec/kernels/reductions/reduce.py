"""Sum and dot product.

Idea       Threads stride over the elements, so that a warp reads neighbours, and then halve what they hold again and
           again: log2(threads) steps in place of one addition after the other.
Maths      sum of x[i];  sum of x[i] y[i];  i in [0, n)
Shapes     x (n,), y (n,): storage; any n >= 1. The result is one accum
Mapping    thread t of the whole grid takes the elements t, t + threads, t + 2 threads, ..., so that a warp reads
           neighbours; then a block combines its threads' sums, and a second launch combines the blocks'.
           Who adds what to what depends on n alone: a result is the same bits on every run and every device
Precision  elements are widened to accum, exactly (factors of a product are rounded to compute first, which changes
           nothing where that is storage); a product and its sum are one fused multiply-add. In any order
             sum   |error| <= (n - 1) u_accum sum |x|
             dot   |error| <= n u_accum sum |x| |y|, plus what underflow costs              [1]
           The proof of [1] needs two things of each addition: one operand is a number of the format, and the result is
           rounded to nearest. A fused multiply-add has both, and saves the product's own rounding
Ladder     serial   one thread
           tree     a block halves its sums in shared memory, log2(THREADS) times, with a barrier each   [2]
           shuffle  a warp exchanges registers; shared memory carries one sum a warp, with two barriers
           Both are drawn, lane by lane, in `collectives`
Cost       n operations (dot: 2 n); n elements read (dot: 2 n)
Try        python -m numprec.kernels reduce --rung tree
           How many barriers does a block of THREADS = 256 meet, in both launches together? Answer: tree, barriers: 16,
           of which log2(256) in each launch.
           python -m numprec.kernels reduce --rung tree --without "rows [0, 2 half) are complete"
           The barrier is that of `halving`, in collectives. Which element does thread 0 read too early? Answer:
           "thread (0, 0, 0) of block (0, 0, 0) reads partial_s[128, 0]", where half of the threads add what the others
           have: 128 is THREADS / 2.
Sources    [1] C.-P. Jeannerod and S. M. Rump, Improved error bounds for inner products in floating-point
               arithmetic, SIAM J. Matrix Anal. Appl. 34(2), 2013
           [2] M. Harris, Optimizing Parallel Reduction in CUDA, NVIDIA, 2007
"""
import numpy as np
from numba import cuda

from numprec.kernels.reductions.collectives import THREADS, WARP, block_sum, halving, merge_rows
from numprec.language.ladder import draw, helper, operation, rung
from numprec.precision import FORMATS, precision_named

EACH = 8                 # elements per thread that make another block worth while
BLOCKS = 1024            # at most


# ---- oracle: the maths line, in fp64, on the operands that the kernel receives

def oracle(x, y):
    return np.sum(x.astype(np.float64) * y.astype(np.float64))


def error_bound(precision, x, y):
    accum = precision.accum
    return x.size * ((accum.u + FORMATS["float64"].u) * oracle(abs(x), abs(y)) + accum.eta / 2)


def sum_oracle(x):
    return np.sum(x.astype(np.float64))


def sum_error_bound(precision, x):
    return (x.size - 1) * (precision.accum.u + FORMATS["float64"].u) * sum_oracle(abs(x))


# ---- what is summed: term(x, y, i) is the i-th summand, and finish(total, y) the result, both in accum

@helper
def element(p):
    accum = p.accum

    @cuda.jit(device=True)
    def element(x, y, i):
        return accum(x[i])
    return element


@helper
def product(p):
    compute, accum = p.compute, p.accum

    @cuda.jit(device=True)
    def product(x, y, i):
        return accum(compute(x[i])) * accum(compute(y[i]))
    return product


@helper
def unchanged(p):
    @cuda.jit(device=True)
    def unchanged(total, y):
        return total
    return unchanged


# ---- the sum, slowest first

@rung(of="sum")
def serial(p, term=element, finish=unchanged):
    accum = p.accum
    term, finish = term(p), finish(p)

    @cuda.jit
    def sum_serial(x, y, out):
        acc = accum(0)
        for i in range(x.size):
            acc += term(x, y, i)
        out[0] = finish(acc, y)
    return sum_serial


@rung(of="sum")
def tree(p, term=element, finish=unchanged):
    accum, halve = p.accum, halving(p, merge_rows[p], THREADS)
    term, finish = term(p), finish(p)

    @cuda.jit
    def sum_tree(x, y, out):
        partial_s = cuda.shared.array((THREADS, 1), accum)
        t = cuda.threadIdx.x
        acc = accum(0)
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            acc += term(x, y, i)
        partial_s[t, 0] = acc
        halve(partial_s)
        if t == 0:
            out[cuda.blockIdx.x] = finish(partial_s[0, 0], y)
    return sum_tree


@rung(of="sum")
def shuffle(p, term=element, finish=unchanged):
    accum, over_block = p.accum, block_sum[p]
    term, finish = term(p), finish(p)

    @cuda.jit
    def sum_shuffle(x, y, out):
        warps_s = cuda.shared.array(WARP, accum)
        acc = accum(0)
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            acc += term(x, y, i)
        acc = over_block(acc, warps_s)
        if cuda.threadIdx.x == 0:
            out[cuda.blockIdx.x] = finish(acc, y)
    return sum_shuffle


# ---- host side

def grid_of(rung, n):
    """Blocks and threads for n elements: a function of n alone, so that the order of the sum is too."""
    return (1, 1) if rung.name == "serial" else (min(BLOCKS, -(-n // (EACH * THREADS))), THREADS)


def all_accum(precision):
    """The precision of partial results: the accum of `precision` in every role."""
    return precision_named("storage={0},compute={0},accum={0}".format(precision.accum))


def launch(device, rung, precision, x, y, term=product, finish=unchanged):
    blocks, threads = grid_of(rung, x.size)
    out = device.empty(1, precision.accum)
    if blocks == 1:
        device.launch(rung.variant(precision, term=term, finish=finish), 1, threads, x, y, out)
    else:
        parts = device.empty(blocks, precision.accum)
        device.launch(rung.variant(precision, term=term), blocks, threads, x, y, parts)
        device.launch(rung.variant(all_accum(precision), finish=finish), 1, threads, parts, y, out)
    return out


def sum_launch(device, rung, precision, x):
    return launch(device, rung, precision, x, x, term=element)


def cost(precision, n):
    return {"flops": 2 * n, "bytes": 2 * n * precision.storage.bytes}


def sum_cost(precision, n):
    return {"flops": n, "bytes": n * precision.storage.bytes}


def inputs(rng, shape, kind, precision):
    x = draw(rng, shape, kind, precision, *shape, 2)
    return x, rng.uniform(-1, 1, shape) if kind == "subnormal" else draw(rng, shape, kind, precision, *shape, 2)


def sum_inputs(rng, shape, kind, precision):
    return draw(rng, shape, kind, precision, *shape),


shapes = dict(
    shapes=((1,), (2,), (31,), (257,), (2048,), (2049,), (4096,), (40009,)),
    bench_shapes={"smoke": (10_000,), "quick": (1_000_000,), "full": (2 ** 24,)})

operation("sum", inputs=sum_inputs, oracle=sum_oracle, error_bound=sum_error_bound, launch=sum_launch,
          cost=sum_cost, **shapes)
operation("dot", ladder="sum", operands=(0, 1), inputs=inputs, oracle=oracle, error_bound=error_bound,
          launch=launch, cost=cost, **shapes)
