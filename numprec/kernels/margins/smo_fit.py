"""A whole fit in one launch: each block makes the kernel matrix of its binary problem, and then minimizes.

Idea       The block that needs a kernel matrix makes it: what was a launch for each becomes a loop in one.
Maths      as in `kernel_functions` and `smo`
Shapes     X (N, D): storage. Problem q has the rows start[q] <= e < start[q + 1] of K (entries, n): storage; `sample`
           (entries,) tells which row of X an entry is. The rest is as in `smo`
Mapping    a block for each problem; column t of its K belongs to thread t modulo the width of the block
Precision  K has the bits that `kernel_functions` would give it, and so has the result
Ladder     one of its own; what comes above smo's `problems` for small problems
Cost       3 D + 2 flops for each of the n^2 entries of K (rbf), and those of smo; X read, K written
Sources    as in `smo`
"""
from typing import NamedTuple

import numpy as np
from numba import cuda, int32

from numprec.kernels.margins import kernel_functions, smo
from numprec.kernels.margins.smo import NARROW, STEPS
from numprec.kernels.margins.smo_step import SCRATCH, steps
from numprec.kernels.reductions.collectives import WARP
from numprec.language.ladder import draw, operation, rung

RBF = list(kernel_functions.FUNCTIONS).index("rbf")


# ---- oracle

def oracle(X, parameters, Y, C):
    return *smo.oracle(None, Y, C), np.tile(kernel_functions.rbf_oracle(X, X, parameters), (len(Y), 1))


def readout(results, X, parameters, Y, C):
    """As for `smo`, by the K that the block made; and that K."""
    alpha, f, K = results
    return *smo.readout((alpha, f), K[:len(X)], Y, C), K.astype(np.float64)


def error_bound(precision, X, parameters, Y, C):
    of_K = kernel_functions.rbf_error_bound(precision, X, X, parameters)
    K = kernel_functions.rbf_oracle(X, X, parameters)
    return *smo.error_bound(precision, abs(K) + of_K, Y, C), np.tile(of_K, (len(Y), 1))


# ---- kernel

class Source(NamedTuple):
    """What K is made of: X (N, D) and the parameters of kernel_functions; the number of the function in FUNCTIONS; the
    row of X that each entry is (entries,)."""

    X: object
    parameters: object
    which: object
    sample: object


@rung
def fused(p, state="accum", threads=NARROW):
    accum, value = p.accum, kernel_functions.value(p)
    begin, minimize = steps(p, state, threads).begin, steps(p, state, threads).minimize

    @cuda.jit(launch_bounds=threads)
    def smo_fit(source, K, start, given, limits, fresh, found):
        X, parameters, which, sample = source
        row, col, y, C = given
        alpha, f, numbers, info = found
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
        minimize(K, row[own], col[own], y[own], C[own], limits.tolerance, limits.max_iter, limits.burst, alpha[own],
                 f[own], numbers[q], info[q], key_s, where_s)
    return smo_fit


# ---- host side

def launch(device, rung, precision, X, parameters, Y, C):
    todo = smo.of_operation(device, precision, Y, C, fused=True)
    K = device.empty((Y.size, Y.shape[1]), precision.storage)
    sample = device.array(np.tile(np.arange(Y.shape[1], dtype=np.int32), len(Y)))
    smo.burst(device, rung, precision, K, todo, 0, STEPS, True, Source(X, parameters, RBF, sample))
    return todo.found.alpha, todo.found.f, K


def cost(precision, n, P, D):
    storage, state = precision.storage.bytes, precision.accum.bytes
    return {"flops": (9 * STEPS + n * (3 * D + 2)) * n * P,
            "bytes": n * (D + n * P) * storage + 2 * n * P * (storage + state)}


def inputs(rng, shape, kind, precision):
    n, P, D = shape
    X = draw(rng, (n, D), kind, precision, D, 2)
    return X, np.array([1 / D, 0, 0]), *smo.inputs(rng, (n, P), kind, precision)[1:]


operation("smo_fit", operands=(0,), oracle=oracle, readout=readout, error_bound=error_bound, launch=launch,
          cost=cost, inputs=inputs, shapes=((1, 1, 1), (2, 1, 3), (5, 3, 2), (31, 2, 4), (257, 1, 5)),
          bench_shapes={"smoke": (100, 3, 4), "quick": (500, 3, 8), "full": (1000, 10, 32)})
