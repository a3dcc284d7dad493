"""Iterative refinement: residuals one format wider, and corrections through a factor that is cheap.

Maths      r = Y - X W;  R'R dW = X'r;  W + dW
Shapes     X (N, D), Y (N, T), v (N,) or (1,), W (D, T): the wider format. R (D, P), P = D + T: accum
Mapping    one block, or a block for a part of the rows and one for the correction
Precision  X'(Y - X W) with all operands one format wider, then a correction through the cheap factor. Each pass gains
           the digits that k^2 u of the factor leaves, up to those of the wider format           [1, chapter 12]
Sources    [1] N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002
           [2] E. Carson and N. J. Higham, Accelerating the solution of linear systems by iterative refinement in three
               precisions, SIAM J. Sci. Comput. 40(2), 2018
"""
from functools import lru_cache
from types import SimpleNamespace

from numba import cuda

from numprec.kernels.equations import centring, triangular
from numprec.kernels.equations.centring import MEAN, SCALE, SHIFT, THREADS, TILE
from numprec.precision import Precision

CONVERGED, STALLED, BROKEN = 1, 2, 3                      # how a refinement ended; 0: after its last iteration
RANK, ITERATIONS, ENDED = 0, 1, 2                         # the entries of info


def wider(p):
    """The precision of refine's residuals: everything one format above the storage of p."""
    w = p.storage.wider()
    return Precision("wider", w, w, w)


@lru_cache(maxsize=None)
def refinement(p):
    """The device functions of refine: what is wide is in the wider format, what is accum in that of the factor."""
    accum, wide = p.accum, wider(p).accum
    step = centring.steps(wider(p))
    shifted, weight, column_sum, share = step.shifted, step.weight, step.column_sum, step.share
    forward, backward = triangular.steps(p).forward, triangular.steps(p).backward
    per_unit = 2 ** wide.significand

    @cuda.jit(device=True)
    def start(S, wide_S, B, W, progress, info):
        """W and the shifts and scales in the wider format; the means there are not those of S."""
        t = cuda.threadIdx.y * TILE + cuda.threadIdx.x
        D, T = W.shape
        for j in range(t, S.shape[1], THREADS):
            wide_S[SHIFT, j] = wide(S[SHIFT, j])
            wide_S[SCALE, j] = wide(S[SCALE, j])
        for jk in range(t, D * T, THREADS):
            W[jk // T, jk % T] = wide(B[jk // T, jk % T])
        if t == 0:
            progress[0] = wide(1)
            info[ITERATIONS] = 0
            info[ENDED] = 0 if info[RANK] == D else BROKEN
        cuda.syncthreads()    # everyone may look at info

    @cuda.jit(device=True)
    def gradient(X, Y, V, n0, n1, scale, S, W, b, residual, out, scratch):
        """out[b] = X'(Y - X W), over the rows n0 <= n < n1, scaled as G is."""
        tx = cuda.threadIdx.x
        ty = cuda.threadIdx.y
        D, T = W.shape
        f = share(X.shape[0], scale)
        for nk in range(ty * TILE + tx, (n1 - n0) * T, THREADS):
            n = n0 + nk // T
            k = nk % T
            acc = shifted(X, Y, n, D + k, S) - S[MEAN, D + k]
            for j in range(D):
                acc -= (shifted(X, Y, n, j, S) - S[MEAN, j]) * W[j, k]
            residual[n, k] = weight(V, n) * acc
        cuda.syncthreads()    # the residuals of these rows are complete
        for j0 in range(0, D, TILE):
            j = j0 + tx
            for k in range(T):
                acc = wide(0)
                if j < D:
                    for n in range(n0 + ty, n1, TILE):
                        acc += weight(V, n) * (shifted(X, Y, n, j, S) - S[MEAN, j]) * residual[n, k]
                acc = column_sum(acc, scratch)
                if j < D and ty == 0:
                    out[b, j, k] = f * acc
        cuda.syncthreads()

    @cuda.jit(device=True)
    def correct(R, out, units, B, W, progress, info):
        """One correction of W: R'R dW = the sum of out. Each right-hand side is first brought near 1 by a power of
        two, units[k], without which a narrow format would lose it as it shrinks [2, section 4]. A correction that is
        not smaller than the one before is not made; one that is not half as large is the last."""
        t = cuda.threadIdx.y * TILE + cuda.threadIdx.x
        D, T = W.shape
        one = wide(1)
        half = one / wide(2)
        for jk in range(t, D * T, THREADS):
            total = wide(0)
            for b in range(out.shape[0]):
                total += out[b, jk // T, jk % T]
            out[0, jk // T, jk % T] = total
        cuda.syncthreads()    # out[0] is the whole of it
        for k in range(t, T, THREADS):
            reach = wide(0)
            for j in range(D):
                reach = abs(out[0, j, k]) if abs(out[0, j, k]) > reach else reach
            c = one
            if reach > wide(0):
                while reach * c > one:
                    c = half * c
                while reach * c <= half and (c + c) - (c + c) == wide(0):
                    c = c + c
            units[k] = c
        cuda.syncthreads()    # so are the units
        for jk in range(t, D * T, THREADS):
            B[jk // T, jk % T] = accum(out[0, jk // T, jk % T] * units[jk % T])
        forward(R, B)
        backward(R, B, D)
        largest = wide(0)     # of the corrections, each in terms of its own solution; every thread finds the same
        for k in range(T):
            change = wide(0)
            size = wide(0)
            for j in range(D):
                dw = abs(wide(B[j, k]))
                change = dw if not dw <= change else change    # a NaN stays
                size = abs(W[j, k]) if abs(W[j, k]) > size else size
            change = change / units[k]
            if change > wide(0) and size > wide(0):
                change = change / size
            largest = change if not change <= largest else largest
        before = progress[0]
        cuda.syncthreads()    # everyone has read W and progress
        if largest < before:
            for jk in range(t, D * T, THREADS):
                W[jk // T, jk % T] += wide(B[jk // T, jk % T]) / units[jk % T]
            if t == 0:
                progress[0] = largest
                info[ITERATIONS] += 1
                if largest <= one / wide(per_unit):
                    info[ENDED] = CONVERGED
                elif largest > half * before:
                    info[ENDED] = STALLED
        elif t == 0:
            info[ENDED] = STALLED
        cuda.syncthreads()    # W and info are up to date

    return SimpleNamespace(start=start, gradient=gradient, correct=correct)
