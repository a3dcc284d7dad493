"""Least norm: of all solutions of a system with too few equations, the shortest one.

Idea       Reflections from the right: a thread takes a row each, and needs no one while it reflects it
Maths      R[:rank, :D] x = b, rank < D. Rows i = rank - 1, ..., 0 in turn are reflected, as columns are in the chapter
           householder, so that R[i, rank:D] becomes 0: R = (U 0) V, U upper triangular, V orthogonal.
           U y = b is solved, and x = V'(y, 0) [1]
Example    one equation, 3 x0 + 4 x1 = 10. The row (3, 4) becomes (-5, 0): beta = -5, v = (1, 0.5), tau = 1.6. Then
           y = 10 / -5 = -2 and x = (-2, 0) - 1.6 (-2) (1, 0.5) = (1.2, 1.6): of norm 2, and no solution is shorter
Shapes     R (P, P), B (D, T): accum, overwritten. units (D,): what the columns of R were multiplied by
Mapping    one block
Precision  the norm that counts is that of x in the units of the data: columns of R are multiplied back, by a power of
           two, as far as the squares of the format reach
Try        python -m numprec.kernels least_squares --rung qr
           Exercise: what is the shortest x with 3 x0 + 4 x1 = 25? Answer: (3, 4), the row itself times 25 / (9 + 16)
Sources    [1] G. H. Golub and C. F. Van Loan, Matrix Computations, 4th ed., Johns Hopkins 2013, section 5.5.5
"""
import math
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from numprec.kernels.equations.householder import copy_factor, householder, reflector
from numprec.kernels.equations.qr import rows_of_block
from numprec.kernels.equations.triangular import backward
from numprec.kernels.equations.units import THREADS, TILE, Info
from numprec.language.instructions import mul_rn
from numprec.language.ladder import helper


@helper
def unit_of(p):
    accum = p.accum
    reach = 2 ** min(2 ** (accum.exponent - 2) - 1, 62)    # 1 / reach^2 is the smallest normal number, or above it

    @cuda.jit(device=True)
    def unit_of(units, j, D):
        """The unit of column j in terms of the largest one, or as far from it as squares of the format reach."""
        smallest = units[0]
        for k in range(D):
            smallest = units[k] if units[k] < smallest else smallest
        ratio = smallest / units[j]
        least = accum(1) / accum(reach)
        return ratio if ratio > least else least
    return unit_of


@helper
def row_norm(p):
    @cuda.jit(device=True)
    def row_norm(R, i, rank, D):
        """The norm of R[i, i] and R[i, rank:D]; none of its squares leaves the range."""
        lead = R[i, i]
        largest = abs(lead)
        for k in range(rank, D):
            largest = abs(R[i, k]) if abs(R[i, k]) > largest else largest
        acc = (lead / largest) * (lead / largest)
        for k in range(rank, D):
            acc += (R[i, k] / largest) * (R[i, k] / largest)
        return largest * math.sqrt(acc)
    return row_norm


@helper
def triangle(p):
    norm_of, reflector_of = row_norm[p], reflector[p]

    @cuda.jit(device=True)
    def triangle(R, rank, D, tau):
        """U in place of R[:rank, :rank]; to the right of it, the v of the reflections without their 1, and tau."""
        t = cuda.threadIdx.y * TILE + cuda.threadIdx.x
        for i in range(rank - 1, -1, -1):
            cuda.syncthreads()    # row i has had its reflections
            beta, first, f = reflector_of(R[i, i], norm_of(R, i, rank, D))
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
        cuda.syncthreads()    # row 0 stands too
    return triangle


@helper
def smallest_solution(p):
    accum, unit, triangle_of, solve = p.accum, unit_of[p], triangle[p], backward[p]

    @cuda.jit(device=True)
    def smallest_solution(R, rank, D, units, order, tau, B):
        """The x of least norm with R[:rank, :D] x = B, in place of B (D, T), in the order of R and in its units. tau
        (D,) is workspace. The block enters and leaves it together."""
        t = cuda.threadIdx.y * TILE + cuda.threadIdx.x
        for j in range(t, D, THREADS):
            for i in range(rank):
                R[i, j] *= unit(units, order[j], D)
        triangle_of(R, rank, D, tau)
        solve(R, B, rank)
        for h in range(t, B.shape[1], THREADS):
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
                B[k, h] *= unit(units, order[k], D)
        cuda.syncthreads()    # B is complete
    return smallest_solution


# ---- a system of any rank

def rank_tolerance(precision, N, D):
    """A column with less than this left of the first one's norm is noise. Roundings are as good as random, so a sum
    of K of them errs by some sqrt(K) u (N. J. Higham and T. Mary, A new approach to probabilistic rounding error
    analysis, SIAM J. Sci. Comput. 41(5), 2019); K is the longest sum in a reflection plus the reflections."""
    K = -(-min(N, rows_of_block(D)) // TILE) + D
    return precision.accum.element.type(min(4 * np.sqrt(K) * precision.accum.u, 1))


class Reflected(NamedTuple):
    """What the QR rung works on: `work` (P, N) holds the columns, a row each, Y behind X; the rest is its own."""

    work: Any
    tolerance: Any    # of rank: a column with less left is noise
    R: Any            # (P, P)
    order: Any        # (D,): which column of X each column of R is
    norms: Any        # (P,)
    B: Any            # (D, T)


@helper
def pivoted_solution(p):
    accum, factor, copy, solve, shortest = (
        p.accum, householder[p], copy_factor[p], backward[p], smallest_solution[p])

    @cuda.jit(device=True)
    def pivoted_solution(units, qr, W, info):
        D, T = W.shape
        t = cuda.threadIdx.y * TILE + cuda.threadIdx.x
        N = qr.work.shape[1]
        for j in range(t, D, THREADS):
            qr.order[j] = j
        cuda.syncthreads()    # the columns are in their own order
        rank = factor(qr.work, 0, N, D, True, qr.tolerance, qr.order, qr.norms)
        cuda.syncthreads()    # everyone is out of it
        copy(qr.work, 0, N, qr.R)
        for jk in range(t, rank * T, THREADS):
            qr.B[jk // T, jk % T] = qr.work[D + jk % T, jk // T]
        cuda.syncthreads()    # B holds the rank leading rows of Q'Y
        if rank == D:
            solve(qr.R, qr.B, D)
        elif rank > 0:
            shortest(qr.R, rank, D, units.scale, qr.order, qr.norms, qr.B)
        for jk in range(t, D * T, THREADS):
            W[qr.order[jk // T], jk % T] = qr.B[jk // T, jk % T] if rank > 0 else accum(0)
        if t == 0:
            info[Info.RANK] = rank
    return pivoted_solution
