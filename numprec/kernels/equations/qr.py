"""Householder QR: the triangular factor of a tall matrix without squaring its condition number.

Idea       A tall matrix is cut into blocks of rows, each of which is factored by itself; the factors are stacked, and
           the stack is factored again
Maths      A = Q R, Q orthogonal, R (P, P) upper triangular; R'R = A'A. R is what P reflections of the chapter
           householder leave of A: beta on the diagonal, and to its right what the columns have become
Example    A has the columns (3, 4) and (1, 2). The first is reflected to (-5, 0), which takes the second to
           (-2.2, 0.4); what is left of that, (0.4), is reflected to (-0.4). R = (-5, -2.2; 0, -0.4), and
           R'R = (25, 11; 11, 5) = A'A
Shapes     A (N, P): storage, row-major. R (P, P): accum. The working copy holds A by columns, (P, N): accum
Mapping    one block: tx runs down a column, which is contiguous in the working copy; ty takes a column each
Precision  everything in accum. With g = 2 g_(4 K + 30) a reflection, K the longest sum, P of them lead to
             |R'R - A'A| <= ((1 + (1 + g)^P - 1)^2 - 1) d d',  d[j] the norm of column j  [1, lemma 19.3]
Ladder     serial  one thread
           block  a reflector at a time, on TILE columns to its right at once
           tall   every block factors its own rows, and stacks its R on the others'; the stack, P rows for each block,
                  is factored in the same way until one block is enough: TSQR [2]
Try        python -m numprec.kernels qr --precision fp16
           Exercise: how many rows has the stack that tall makes of 4096 rows of 17 columns? Answer: 4 blocks of 1024
           rows leave 4 factors of 17 rows, 68
Cost       2 N P^2 flops; N P elements read, P^2 written
Sources    [1] N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002, chapter 19
           [2] J. Demmel, L. Grigori, M. Hoemmen and J. Langou, Communication-optimal parallel and sequential QR and LU
               factorizations, SIAM J. Sci. Comput. 34(1), 2012
"""
import math

import numpy as np
from numba import cuda

from numprec.kernels.equations.householder import copy_factor, householder, reflector
from numprec.kernels.equations.units import THREADS, TILE
from numprec.language.errors import gamma
from numprec.language.instructions import add_rn, mul_rn
from numprec.language.ladder import draw, operation, rung
from numprec.precision import FORMATS

ROWS = 1024       # rows that a block of the tall rung takes, if they are many more than the columns


# ---- oracle: A'A, which R'R should be

def oracle(A):
    A = A.astype(np.float64)
    return A.T @ A


# ---- kernels, slowest first

@rung
def serial(p):
    accum, reflector_of = p.accum, reflector[p]

    @cuda.jit
    def qr_serial(A, work, R):
        N, P = A.shape
        for j in range(P):
            for n in range(N):
                work[j, n] = accum(A[n, j])
        for j in range(min(N, P)):
            acc = accum(0)
            for n in range(j, N):
                acc += work[j, n] * work[j, n]
            norm = math.sqrt(acc)
            if norm > accum(0):
                beta, first, tau = reflector_of(work[j, j], norm)
                work[j, j] = beta
                for n in range(j + 1, N):
                    work[j, n] = work[j, n] / first
                for k in range(j + 1, P):
                    acc = accum(0)
                    for n in range(j + 1, N):
                        acc += work[j, n] * work[k, n]
                    f = mul_rn(tau, add_rn(work[k, j], acc))
                    work[k, j] -= f
                    for n in range(j + 1, N):
                        work[k, n] -= f * work[j, n]
        for i in range(P):
            for j in range(P):
                R[i, j] = work[j, i] if i <= j and i < N else accum(0)
    return qr_serial


@rung
def block(p):
    accum, householder_of, copy = p.accum, householder[p], copy_factor[p]

    @cuda.jit
    def qr_block(A, work, norms, order, R):
        N, P = A.shape
        for nj in range(cuda.threadIdx.y * TILE + cuda.threadIdx.x, N * P, THREADS):
            work[nj % P, nj // P] = accum(A[nj // P, nj % P])
        cuda.syncthreads()    # the working copy is complete
        householder_of(work, 0, N, P, False, accum(0), order, norms)
        copy(work, 0, N, R)
    return qr_block


@rung
def tall(p):
    accum, householder_of, copy = p.accum, householder[p], copy_factor[p]

    @cuda.jit
    def qr_columns(A, work):
        n, j = cuda.grid(2)
        if n < A.shape[0] and j < A.shape[1]:
            work[j, n] = accum(A[n, j])

    @cuda.jit
    def qr_stack(work, rows, norms, order, stack):
        """Block b factors the rows b * rows <= n < (b + 1) * rows and writes row b of the stack of factors, a column
        of which is a column of A again: stack (P, blocks * P)."""
        P, N = work.shape
        b = cuda.blockIdx.x
        n0 = b * rows
        n1 = min(n0 + rows, N)
        householder_of(work, n0, n1, P, False, accum(0), order, norms[b])
        for ij in range(cuda.threadIdx.y * TILE + cuda.threadIdx.x, P * P, THREADS):
            i = ij % P
            j = ij // P
            stack[j, b * P + i] = work[j, n0 + i] if i <= j and i < n1 - n0 else accum(0)

    @cuda.jit
    def qr_last(work, norms, order, R):
        P, N = work.shape
        householder_of(work, 0, N, P, False, accum(0), order, norms)
        copy(work, 0, N, R)
    return qr_columns, qr_stack, qr_last


# ---- host side

def rows_of_block(P):
    """Rows that one block factors: enough that a stack of factors is at most a quarter of what it came from."""
    return max(ROWS, 4 * P)


def halvings_of_rows(N, P):
    """4^h is the number of rows that one block sums over, or the number of blocks; so the squares of all rows add up to
    a few thousand at most while N is below 10^7, and the squares of a block's do not vanish."""
    rows = min(N, rows_of_block(P))
    return int(np.ceil(np.log2(max(rows, N / rows)) / 2))


def stacked(device, precision, kernel, work, order):
    """Factors and stacks until one block can take what is left; returns that."""
    P, N = work.shape
    rows = rows_of_block(P)
    while N > rows:
        blocks = -(-N // rows)
        stack = device.empty((P, blocks * P), precision.accum)
        norms = device.empty((blocks, P), precision.accum)
        device.launch(kernel, blocks, (TILE, TILE), work, rows, norms, order, stack)
        work, N = stack, blocks * P
    return work


def launch(device, rung, precision, A):
    N, P = A.shape
    accum = precision.accum
    work, norms, R = device.empty((P, N), accum), device.empty((P,), accum), device.empty((P, P), accum)
    order = device.empty((P,), np.int32)
    if rung is serial:
        device.launch(serial[precision], 1, 1, A, work, R)
    elif rung is block:
        device.launch(rung[precision], 1, (TILE, TILE), A, work, norms, order, R)
    else:
        columns, stack, last = rung[precision]
        device.launch(columns, (-(-N // TILE), -(-P // TILE)), (TILE, TILE), A, work)
        work = stacked(device, precision, stack, work, order)
        device.launch(last, 1, (TILE, TILE), work, norms, order, R)
    return R


# ---- how it is judged: by the product of the factor, as the theorem does

def readout(R, A):
    R = np.triu(np.asarray(R, np.float64))
    return R.T @ R


def error_bound(precision, A):
    N, P = A.shape
    A = A.astype(np.float64)
    K = N                                           # of the serial rung; a lane's share and a tree are shorter
    d = np.sqrt((A * A).sum(axis=0))
    accum, fp64 = precision.accum, FORMATS["float64"]
    grown = np.float64(1 + 2 * gamma(4 * K + 30, accum.u)) ** (_levels(N, P) * P) - 1
    return (2 * grown + grown ** 2 + 2 * N * fp64.u) * np.outer(d, d) + 4 * (N + P) * accum.eta


def _levels(N, P):
    levels = 1
    while N > rows_of_block(P):
        N = -(-N // rows_of_block(P)) * P
        levels += 1
    return levels


def cost(precision, N, P):
    return {"flops": 2 * N * P * P, "bytes": N * P * precision.storage.bytes + P * P * precision.accum.bytes}


def inputs(rng, shape, kind, precision):
    """The squares of a column are summed: that sum, not the entries, comes near the largest number of accum."""
    N, P = shape
    if kind in ("large", "overflow"):
        return rng.uniform(0.7, 1, shape) * min(precision.storage.max, np.sqrt(precision.accum.max / N)) / 2,
    return draw(rng, shape, kind, precision),


operation("qr", oracle=oracle, readout=readout, error_bound=error_bound, launch=launch, cost=cost, inputs=inputs,
          shapes=((1, 1), (3, 2), (2, 3), (16, 5), (33, 17), (1031, 3)),
          bench_shapes={"smoke": (442, 11), "quick": (4096, 17), "full": (2 ** 18, 33)},
          cost_differs="The norms and the scaling of the columns come on top, and the working copy is written as well.")
