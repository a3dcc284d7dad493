"""Householder QR: the triangular factor of a tall matrix without squaring its condition number.

Maths      A = Q R, Q orthogonal, R (P, P) upper triangular; R'R = A'A
Shapes     A (N, P): storage, row-major. R (P, P): accum. The working copy holds A by columns, (P, N): accum
Mapping    one block: tx runs down a column, which is contiguous in the working copy; ty takes a column each
Precision  everything in accum. Reflector j is I - tau v v', v[0] = 1, 1 <= tau <= 2, with v and tau correct to K + 6
           roundings each, K being the longest sum. Applied to a column it errs by at most g = 2 g_(4 K + 30) of that
           column's norm, g_n = n u / (1 - n u); after P of them [1, lemma 19.3, with its constants]
             |R'R - A'A| <= ((1 + (1 + g)^P - 1)^2 - 1) d d',  d[j] the norm of column j
Ladder     block  a reflector at a time, on all columns to its right
           tall   every block factors its own rows, and stacks its R on the others'; the stack, P rows for each block,
                  is factored in the same way until one block is enough: TSQR [2]
Cost       2 N P^2 flops; N P elements read, P^2 written
Sources    [1] N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002, chapter 19
           [2] J. Demmel, L. Grigori, M. Hoemmen and J. Langou, Communication-optimal parallel and sequential QR and LU
               factorizations, SIAM J. Sci. Comput. 34(1), 2012
           [3] P. Businger and G. H. Golub, Linear least squares solutions by Householder transformations, Numerische
               Mathematik 7, 1965
           [4] G. H. Golub and C. F. Van Loan, Matrix Computations, 4th ed., Johns Hopkins 2013, section 5.5.5
"""
import math
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
from numba import cuda

from numprec.kernels.equations import cholesky, triangular
from numprec.kernels.equations.centring import THREADS, TILE
from numprec.kernels.equations.gram import gamma
from numprec.language.instructions import add_rn, mul_rn
from numprec.language.ladder import draw, operation, rung
from numprec.precision import FORMATS

ROWS = 1024       # rows that a block of the tall rung takes, if they are many more than the columns


# ---- oracle: A'A, which R'R should be

def oracle(A):
    A = A.astype(np.float64)
    return A.T @ A


def readout(R, A):
    R = np.triu(np.asarray(R, np.float64))
    return R.T @ R


def error_bound(precision, A):
    N, P = A.shape
    A = A.astype(np.float64)
    K = -(-N // TILE) + 5                           # a lane's share of a column, then a tree over the lanes
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


# ---- the steps that the rungs, and the fits, share

@lru_cache(maxsize=None)
def steps(p):
    accum = p.accum
    finite, backward = cholesky.steps(p).finite, triangular.steps(p).backward
    reach = 2 ** min(2 ** (accum.exponent - 2) - 1, 62)    # 1 / reach^2 is the smallest normal number, or above it

    @cuda.jit(device=True)
    def row_sum(x, scratch):
        """The sum of x over the threads with this ty, as a tree. The first barrier frees scratch of its last use."""
        tx = cuda.threadIdx.x
        ty = cuda.threadIdx.y
        cuda.syncthreads()
        scratch[ty, tx] = x
        half = TILE // 2
        while half > 0:
            cuda.syncthreads()
            if tx < half:
                scratch[ty, tx] += scratch[ty, tx + half]
            half //= 2
        cuda.syncthreads()
        return scratch[ty, 0]

    @cuda.jit(device=True)
    def householder(A, n0, n1, C, pivot, tolerance, order, norms, scratch):
        """R of the first C columns, applied to all, in place of A[:, n0:n1]: R[i, j] = A[j, n0 + i] for i <= j.

        With `pivot` the column with most left goes first [3], `order` is permuted along, and the factorisation stops
        where no more than `tolerance` of the first one's norm is left. Returns the number of columns done.
        norms (P,) is workspace. The block enters and leaves it together.
        """
        tx = cuda.threadIdx.x
        ty = cuda.threadIdx.y
        t = ty * TILE + tx
        P = A.shape[0]
        largest = accum(0)
        done = min(C, n1 - n0)
        for j in range(done):
            a0 = n0 + j
            candidates = C if pivot else j + 1
            for k0 in range(j, candidates, TILE):
                k = k0 + ty
                acc = accum(0)
                if k < candidates:
                    for n in range(a0 + tx, n1, TILE):
                        acc += A[k, n] * A[k, n]
                acc = row_sum(acc, scratch)
                if k < candidates and tx == 0:
                    norms[k] = acc
            cuda.syncthreads()    # norms[j : candidates] are the squares of what is left of each
            best = j
            for k in range(j + 1, candidates):
                if norms[k] > norms[best]:
                    best = k
            norm = math.sqrt(norms[best])
            if j == 0:
                largest = norm
            if pivot and finite(norm) and norm <= tolerance * largest:
                return j                  # an overflow goes on, and shows
            if best != j:
                for n in range(n0 + t, n1, THREADS):
                    a = A[j, n]
                    A[j, n] = A[best, n]
                    A[best, n] = a
                if t == 0:
                    k = order[j]
                    order[j] = order[best]
                    order[best] = k
            cuda.syncthreads()    # the columns are exchanged
            if norm > accum(0):
                lead = A[j, a0]
                beta = -norm if lead > accum(0) else norm
                first = add_rn(lead, -beta)    # of v. Halves are divided in float32: it is rounded before
                tau = -first / beta
                cuda.syncthreads()    # everyone has read the leading element
                for n in range(a0 + 1 + t, n1, THREADS):
                    A[j, n] = A[j, n] / first
                if t == 0:
                    A[j, a0] = beta
                cuda.syncthreads()    # v stands below R; its own 1 is unsaid
                for k0 in range(j + 1, P, TILE):
                    k = k0 + ty
                    head = accum(0)
                    acc = accum(0)
                    if k < P:
                        head = A[k, a0]
                        for n in range(a0 + 1 + tx, n1, TILE):
                            acc += A[j, n] * A[k, n]
                    f = mul_rn(tau, head + row_sum(acc, scratch))    # one f for the whole column
                    if k < P:
                        for n in range(a0 + 1 + tx, n1, TILE):
                            A[k, n] -= f * A[j, n]
                        if tx == 0:
                            A[k, a0] = head - f
                cuda.syncthreads()    # every column has been reflected
        return done

    @cuda.jit(device=True)
    def copy_factor(A, n0, n1, R, column):
        """R[i, column + j] = A[j, n0 + i] on and above the diagonal and within its rows, else 0."""
        P = A.shape[0]
        for ij in range(cuda.threadIdx.y * TILE + cuda.threadIdx.x, P * P, THREADS):
            i = ij // P
            j = ij % P
            R[i, column + j] = A[j, n0 + i] if i <= j and i < n1 - n0 else accum(0)
        cuda.syncthreads()

    @cuda.jit(device=True)
    def unit_of(units, j, D):
        """The unit of column j in terms of the largest one, or as far from it as squares of the format reach."""
        smallest = units[0]
        for k in range(D):
            smallest = units[k] if units[k] < smallest else smallest
        ratio = smallest / units[j]
        least = accum(1) / accum(reach)
        return ratio if ratio > least else least

    @cuda.jit(device=True)
    def smallest_solution(R, rank, D, units, order, tau, B):
        """The x of least norm with R[:rank, :D] x = B, where R is that of columns multiplied by `units`. This is
        undone, then reflections from the right leave a triangle [4]. In place of B (D, T), in the order of R and in its
        units. tau (D,) is workspace."""
        t = cuda.threadIdx.y * TILE + cuda.threadIdx.x
        T = B.shape[1]
        for j in range(t, D, THREADS):
            unit = unit_of(units, order[j], D)
            for i in range(rank):
                R[i, j] *= unit
        for i in range(rank - 1, -1, -1):
            cuda.syncthreads()    # row i has had its reflections
            lead = R[i, i]
            largest = abs(lead)
            for k in range(rank, D):
                largest = abs(R[i, k]) if abs(R[i, k]) > largest else largest
            acc = (lead / largest) * (lead / largest)
            for k in range(rank, D):
                acc += (R[i, k] / largest) * (R[i, k] / largest)
            norm = largest * math.sqrt(acc)
            beta = -norm if lead > accum(0) else norm
            first = add_rn(lead, -beta)
            f = -first / beta
            cuda.syncthreads()    # everyone has read row i
            for k in range(rank + t, D, THREADS):
                R[i, k] = R[i, k] / first
            if t == 0:
                R[i, i] = beta
                tau[i] = f
            cuda.syncthreads()    # v stands in row i
            for h in range(t, i, THREADS):
                acc = R[h, i]
                for k in range(rank, D):
                    acc += R[h, k] * R[i, k]
                g = mul_rn(f, acc)    # one for the whole row
                R[h, i] -= g
                for k in range(rank, D):
                    R[h, k] -= g * R[i, k]
        cuda.syncthreads()
        backward(R, B, rank)
        for h in range(t, T, THREADS):
            for k in range(rank, D):
                B[k, h] = accum(0)
            for i in range(rank):
                acc = B[i, h]
                for k in range(rank, D):
                    acc += R[i, k] * B[k, h]
                g = mul_rn(tau[i], acc)
                B[i, h] -= g
                for k in range(rank, D):
                    B[k, h] -= g * R[i, k]
            for k in range(D):
                B[k, h] *= unit_of(units, order[k], D)
        cuda.syncthreads()

    return SimpleNamespace(row_sum=row_sum, householder=householder, copy_factor=copy_factor,
                           smallest_solution=smallest_solution)


# ---- kernels

@rung
def block(p):
    accum = p.accum
    step = steps(p)
    householder, copy_factor = step.householder, step.copy_factor

    @cuda.jit
    def qr_block(A, work, norms, order, R):
        scratch = cuda.shared.array((TILE, TILE), accum)
        N, P = A.shape
        for nj in range(cuda.threadIdx.y * TILE + cuda.threadIdx.x, N * P, THREADS):
            work[nj % P, nj // P] = accum(A[nj // P, nj % P])
        cuda.syncthreads()    # the working copy is complete
        householder(work, 0, N, P, False, accum(0), order, norms, scratch)
        copy_factor(work, 0, N, R, 0)
    return qr_block


@rung
def tall(p):
    accum = p.accum
    step = steps(p)
    householder, copy_factor = step.householder, step.copy_factor

    @cuda.jit
    def qr_columns(A, work):
        n, j = cuda.grid(2)
        if n < A.shape[0] and j < A.shape[1]:
            work[j, n] = accum(A[n, j])

    @cuda.jit
    def qr_stack(work, rows, norms, order, stack):
        """Block b factors the rows b * rows <= n < (b + 1) * rows and writes row b of the stack of factors, a column
        of which is a column of A again: stack (P, blocks * P)."""
        scratch = cuda.shared.array((TILE, TILE), accum)
        P, N = work.shape
        b = cuda.blockIdx.x
        n0 = b * rows
        n1 = min(n0 + rows, N)
        householder(work, n0, n1, P, False, accum(0), order, norms[b], scratch)
        for ij in range(cuda.threadIdx.y * TILE + cuda.threadIdx.x, P * P, THREADS):
            i = ij % P
            j = ij // P
            stack[j, b * P + i] = work[j, n0 + i] if i <= j and i < n1 - n0 else accum(0)

    @cuda.jit
    def qr_last(work, norms, order, R):
        scratch = cuda.shared.array((TILE, TILE), accum)
        P, N = work.shape
        householder(work, 0, N, P, False, accum(0), order, norms, scratch)
        copy_factor(work, 0, N, R, 0)
    return qr_columns, qr_stack, qr_last


# ---- host side

def rows_of_block(P):
    """Rows that one block factors: enough that a stack of factors is at most a quarter of what it came from."""
    return max(ROWS, 4 * P)


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
    if rung.name == "block":
        device.launch(rung[precision], 1, (TILE, TILE), A, work, norms, order, R)
    else:
        columns, stack, last = rung[precision]
        device.launch(columns, (-(-N // TILE), -(-P // TILE)), (TILE, TILE), A, work)
        work = stacked(device, precision, stack, work, order)
        device.launch(last, 1, (TILE, TILE), work, norms, order, R)
    return R


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
          bench_shapes={"smoke": (442, 11), "quick": (4096, 17), "full": (1_000_000, 65)},
          cost_differs="The norms and the scaling of the columns come on top, and the working copy is written as well.")
