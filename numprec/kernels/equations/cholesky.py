"""Cholesky factor: the square root of a symmetric matrix, as a triangle.

Idea       Each row of R waits for the one before it, but all entries of what is left of A can be updated at once: the
           parallel work lies in the trailing matrix
Maths      R'R = A, R upper triangular with a positive diagonal
Example    A = (4, 2, 2; 2, 5, 3; 2, 3, 6). Row 0 of R is (4, 2, 2) / sqrt(4) = (2, 1, 1); what is left of A is
           (5, 3; 3, 6) - (1, 1; 1, 1) = (4, 2; 2, 5). Row 1 is (4, 2) / 2 = (2, 1); left is 5 - 1 = 4. Row 2 is 2
Shapes     A (D, D): storage, symmetric, of which the upper triangle is read. R (D, D): accum
Mapping    one block: tx runs along a row, the contiguous axis, ty down the rows
Precision  everything in accum. Each entry of A is reached by D + 1 roundings at most, whatever their order [1, 10.1]:
             |R'R - A| <= g_(D+2) / (1 - g_(D+2)) d d',  d[i] = sqrt(A[i, i]),  g_n = n u / (1 - n u)  [1, theorem 10.5]
           (D + 2: a half precision square root may be a hair off its correct rounding). A pivot that is not above
           (D + 1) u A[j, j], the size of its own error, is noise: there the factorisation stops, and the number of
           good pivots tells so
Ladder     serial  one thread
           block   a row of R at a time, then all of the trailing matrix at once: right-looking, three barriers a row.
                   Entries see their updates in the same order as in serial: the results are the same bits
Try        python -m numprec.kernels cholesky --precision fp16
           Exercise: which pivot of (1, 1; 1, 1 + u) is noise, and what does a factorisation without the floor make of
           it? Answer: the second. 1 + u is rounded to 1 where A is stored: the pivot is 0, and the
           substitution would divide by it
Cost       D (D + 1) (2 D + 1) / 6 flops, the sum of the squares up to D^2: with k rows left, k^2; half of A read, R
           (with its zeros) written
Sources    [1] N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002
           [2] G. H. Golub and C. F. Van Loan, Matrix Computations, 4th ed., Johns Hopkins 2013, section 4.2
"""
import math

import numpy as np
from numba import cuda

from numprec.kernels.equations.units import THREADS, TILE
from numprec.language.errors import gamma
from numprec.language.ladder import draw, helper, operation, rung
from numprec.precision import FORMATS


# ---- oracle: A, which R'R should be

def oracle(A):
    A = np.triu(A.astype(np.float64))
    return A + np.triu(A, 1).T


# ---- the steps that the rungs, and the chapters after this one, share

@helper
def finite(p):
    accum = p.accum

    @cuda.jit(device=True)
    def finite(x):
        return x - x == accum(0)
    return finite


@helper
def factor(p):
    accum, is_finite = p.accum, finite[p]
    per_unit = 2 ** accum.significand    # 1 / u

    @cuda.jit(device=True)
    def factor(G, D, floor):
        """R in the upper triangle of G[:D, :D], and R'^-1 times what stands to the right of it, G[:D, D:]. Returns
        the number of good pivots. floor (D,) is workspace. The block enters and leaves it together."""
        tx = cuda.threadIdx.x
        ty = cuda.threadIdx.y
        t = ty * TILE + tx
        P = G.shape[1]
        for j in range(t, D, THREADS):
            floor[j] = accum(D + 1) / accum(per_unit) * G[j, j]
        for j in range(D):
            cuda.syncthreads()    # row j has had its updates
            pivot = G[j, j]
            if not (pivot > floor[j] and is_finite(pivot)):
                return j
            root = math.sqrt(pivot)
            cuda.syncthreads()    # everyone has read the pivot
            for k in range(j + t, P, THREADS):
                G[j, k] = G[j, k] / root if k > j else root
            cuda.syncthreads()    # row j of R is complete
            for i in range(j + 1 + ty, D, TILE):
                for k in range(j + 1 + tx, P, TILE):
                    if k >= i:
                        G[i, k] -= G[j, i] * G[j, k]
        cuda.syncthreads()    # the last row stands too
        return D
    return factor


# ---- kernels, slowest first

@rung
def serial(p):
    accum = p.accum
    per_unit = 2 ** accum.significand
    is_finite = finite[p]

    @cuda.jit
    def cholesky_serial(A, R, floor, rank):
        D = A.shape[0]
        for i in range(D):
            for k in range(D):
                R[i, k] = accum(A[i, k]) if k >= i else accum(0)
            floor[i] = accum(D + 1) / accum(per_unit) * R[i, i]
        for j in range(D):
            pivot = R[j, j]
            if not (pivot > floor[j] and is_finite(pivot)):
                rank[0] = j
                return
            R[j, j] = math.sqrt(pivot)
            for k in range(j + 1, D):
                R[j, k] = R[j, k] / R[j, j]
            for i in range(j + 1, D):
                for k in range(i, D):
                    R[i, k] -= R[j, i] * R[j, k]
        rank[0] = D
    return cholesky_serial


@rung
def block(p):
    accum, factor_of = p.accum, factor[p]

    @cuda.jit
    def cholesky_block(A, R, floor, rank):
        D = A.shape[0]
        for ik in range(cuda.threadIdx.y * TILE + cuda.threadIdx.x, D * D, THREADS):
            i = ik // D
            k = ik % D
            R[i, k] = accum(A[i, k]) if k >= i else accum(0)
        cuda.syncthreads()    # R holds the upper triangle of A
        good = factor_of(R, D, floor)
        if cuda.threadIdx.x == 0 and cuda.threadIdx.y == 0:
            rank[0] = good
    return cholesky_block


# ---- host side

def launch(device, rung, precision, A):
    """R, zero below its diagonal; from the first bad pivot on, unfinished."""
    D = A.shape[0]
    R, floor = device.empty((D, D), precision.accum), device.empty((D,), precision.accum)
    threads = 1 if rung.name == "serial" else (TILE, TILE)
    device.launch(rung[precision], 1, threads, A, R, floor, device.empty((1,), np.int32))
    return R


# ---- how it is judged: by the product of the factor, as the theorem does

def readout(R, A):
    """R'R, from what the kernel wrote."""
    R = np.triu(R.astype(np.float64))
    return R.T @ R


def error_bound(precision, A):
    D, fp64 = len(A), FORMATS["float64"]
    d = np.sqrt(np.diag(A).astype(np.float64))
    g = gamma(D + 2, precision.accum.u)
    g = g / (1 - g) if g < 1 else np.inf
    return (g + (D + 2) * fp64.u) * np.outer(d, d) + (D + 2) * precision.accum.eta


def cost(precision, D):
    half = D * (D + 1) // 2
    return {"flops": half * (2 * D + 1) // 3, "bytes": half * precision.storage.bytes + D * D * precision.accum.bytes}


def inputs(rng, shape, kind, precision):
    """A well-conditioned symmetric matrix; `large` and `subnormal` scale it to the ends of the range."""
    D, = shape
    M = draw(rng, (D, 2 * D), "same_sign" if kind == "same_sign" else "random", precision)
    A = M @ M.T / (2 * D) + np.eye(D)
    return A / abs(A).max() * _unit(kind, precision),


def _unit(kind, precision):
    return {"large": precision.storage.max / 2, "overflow": precision.storage.max / 2,
            "subnormal": precision.storage.tiny * 4}.get(kind, 1.0)


operation("cholesky", oracle=oracle, readout=readout, error_bound=error_bound, launch=launch, cost=cost, inputs=inputs,
          shapes=((1,), (2,), (7,), (16,), (17,), (33,)),
          bench_shapes={"smoke": (16,), "quick": (64,), "full": (1024,)})
