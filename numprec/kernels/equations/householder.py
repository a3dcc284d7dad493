"""Householder reflections: each brings a column of a matrix to a triangle, and a block does them together.

Idea       A column goes to half a warp, whose lanes add up their dot product by shuffles, without a barrier; TILE
           columns are reflected at once
Maths      Column by column, x being what is left of it, of length n:
             beta = -sign(x[0]) |x|,  v = x / (x[0] - beta) but v[0] = 1,  tau = (beta - x[0]) / beta
             (I - tau v v') x = (beta, 0, 0, ...), and every column a to its right becomes a - tau (v'a) v
           The sign is the point: x[0] - beta is a sum of two numbers of one sign, and 1 <= tau <= 2. With the other
           sign it is a difference, of which nothing may be left
Example    x = (3, 4):  beta = -5,  v = (1, 4 / 8) = (1, 0.5),  tau = -8 / -5 = 1.6,  and x becomes (-5, 0)
           a = (1, 2):  v'a = 2,  tau v'a = 3.2,  and a becomes (1, 2) - 3.2 (1, 0.5) = (-2.2, 0.4)
           In half precision x = (1, 0.01) has the norm 1: with beta = +1, x[0] - beta would be 0, and v infinite
Shapes     A (P, N): accum, the working copy: row j of it is column j, and contiguous. R (P, P): accum
Mapping    one block of TILE x TILE: tx runs down a column; ty takes a column each
Precision  everything in accum. v and tau are correct to K + 6 roundings each, K being the longest sum, and a reflection
           errs by at most 2 g_(4 K + 30) of a column's norm, g_n = n u / (1 - n u) [1, lemma 19.3, with its constants]
Try        python -m numprec.kernels qr --precision fp16
           Exercise: reflect x = (-3, 4). Answer: beta = 5, v = (1, -0.5), tau = (5 + 3) / 5 = 1.6
Sources    [1] N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002, chapter 19
           [2] P. Businger and G. H. Golub, Linear least squares solutions by Householder transformations, Numerische
               Mathematik 7, 1965
"""
import math

from numba import cuda

from numprec.kernels.equations.cholesky import finite
from numprec.kernels.equations.units import THREADS, TILE
from numprec.kernels.reductions.collectives import warp_sum
from numprec.language.instructions import add_rn, mul_rn
from numprec.language.ladder import helper


# ---- a column j, and those to its right
#
#        a0        n1
#   +----+---------+
#   |R   |         |    columns before j: R up to the diagonal, then v without its 1
#   |  R |         |
#   |    |x x x x x|  j what is left of column j, A[j, a0:n1]: tx strides along it
#   |    |a a a a a|  k a column to be reflected: one for each ty
#   +----+---------+    A, the working copy: a row of it is a column

@helper
def reflector(p):
    accum = p.accum

    @cuda.jit(device=True)
    def reflector(lead, norm):
        """beta, x[0] - beta and tau, for x[0] = lead and |x| = norm > 0."""
        beta = -norm if lead > accum(0) else norm
        first = add_rn(lead, -beta)    # halves are divided in float32: it is rounded before
        return beta, first, -first / beta
    return reflector


@helper
def squared_norms(p):
    accum, row_sum = p.accum, warp_sum(p, width=TILE)

    @cuda.jit(device=True)
    def squared_norms(A, a0, n1, j, candidates, norms):
        """norms[k] = the sum of the squares of A[k, a0:n1], for j <= k < candidates."""
        tx = cuda.threadIdx.x
        for k0 in range(j, candidates, TILE):
            k = k0 + cuda.threadIdx.y
            acc = accum(0)
            if k < candidates:
                for n in range(a0 + tx, n1, TILE):
                    acc += A[k, n] * A[k, n]
            acc = row_sum(acc)
            if k < candidates and tx == 0:
                norms[k] = acc
        cuda.syncthreads()    # norms[j : candidates] are the squares of what is left of each
    return squared_norms


@helper
def exchange(p):
    @cuda.jit(device=True)
    def exchange(A, n0, n1, j, best, order):
        """Columns j and best change places, and so do their numbers in `order`."""
        t = cuda.threadIdx.y * TILE + cuda.threadIdx.x
        if best != j:
            for n in range(n0 + t, n1, THREADS):
                A[j, n], A[best, n] = A[best, n], A[j, n]
            if t == 0:
                order[j], order[best] = order[best], order[j]
        cuda.syncthreads()    # the columns are exchanged
    return exchange


@helper
def reflect(p):
    accum, reflector_of, row_sum = p.accum, reflector[p], warp_sum(p, width=TILE)

    @cuda.jit(device=True)
    def reflect(A, a0, n1, j, norm):
        """Column j becomes beta and, below it, v without its 1; the columns to its right are reflected."""
        tx = cuda.threadIdx.x
        ty = cuda.threadIdx.y
        P = A.shape[0]
        beta, first, tau = reflector_of(A[j, a0], norm)
        cuda.syncthreads()    # everyone has read the leading element
        for n in range(a0 + 1 + ty * TILE + tx, n1, THREADS):
            A[j, n] = A[j, n] / first
        if tx == 0 and ty == 0:
            A[j, a0] = beta
        cuda.syncthreads()    # v stands below R
        for k0 in range(j + 1, P, TILE):
            k = k0 + ty
            acc = accum(0)
            if k < P:
                for n in range(a0 + 1 + tx, n1, TILE):
                    acc += A[j, n] * A[k, n]
                if tx == 0:
                    acc = add_rn(A[k, a0], acc)    # v[0] = 1
            f = mul_rn(tau, row_sum(acc))          # one f for the whole column
            if k < P:
                for n in range(a0 + 1 + tx, n1, TILE):
                    A[k, n] -= f * A[j, n]
                if tx == 0:
                    A[k, a0] -= f
        cuda.syncthreads()    # every column has been reflected
    return reflect


@helper
def householder(p):
    accum, is_finite, norms_of, change_places, reflect_by = (
        p.accum, finite[p], squared_norms[p], exchange[p], reflect[p])

    @cuda.jit(device=True)
    def householder(A, n0, n1, C, pivot, tolerance, order, norms):
        """R of the first C columns, applied to all, in place of A[:, n0:n1]: R[i, j] = A[j, n0 + i] for i <= j.

        With `pivot` the column with most left goes first [2], `order` is permuted along, and the factorisation stops
        where no more than `tolerance` of the first one's norm is left. Returns the number of columns done.
        norms (P,) is workspace. The block enters and leaves it together.
        """
        largest = accum(0)
        done = min(C, n1 - n0)
        for j in range(done):
            candidates = C if pivot else j + 1
            norms_of(A, n0 + j, n1, j, candidates, norms)
            best = j
            for k in range(j + 1, candidates):
                if norms[k] > norms[best]:
                    best = k
            norm = math.sqrt(norms[best])
            if j == 0:
                largest = norm
            if pivot and is_finite(norm) and norm <= tolerance * largest:
                return j                  # an overflow goes on, and shows
            change_places(A, n0, n1, j, best, order)
            if norm > accum(0):
                reflect_by(A, n0 + j, n1, j, norm)
        return done
    return householder


@helper
def copy_factor(p):
    accum = p.accum

    @cuda.jit(device=True)
    def copy_factor(A, n0, n1, R):
        """R[i, j] = A[j, n0 + i] on and above the diagonal and within the rows n0 <= n < n1, else 0."""
        P = A.shape[0]
        for ij in range(cuda.threadIdx.y * TILE + cuda.threadIdx.x, P * P, THREADS):
            i = ij // P
            j = ij % P
            R[i, j] = A[j, n0 + i] if i <= j and i < n1 - n0 else accum(0)
        cuda.syncthreads()    # R is complete
    return copy_factor
