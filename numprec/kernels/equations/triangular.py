"""Triangular systems: what a Cholesky factor leaves to be solved.

Idea       An unknown that is solved is subtracted from all equations at once, a thread for each, where one thread
           would collect what each equation needs
Maths      X from R'(R X) = B, two substitutions
Example    R = (2, 1; 0, 3), b = (6, 12). R'y = b: y0 = 6 / 2 = 3, then 12 - 1 * 3 = 9, y1 = 9 / 3 = 3.
           R x = y: x1 = 3 / 3 = 1, then 3 - 1 * 1 = 2, x0 = 2 / 2 = 1
Shapes     R (D, D), upper triangular, B (D, T): storage. X (D, T): accum
Mapping    one block: a thread per entry of the right-hand sides
Precision  everything in accum. Substitution solves a nearby triangular system exactly [1, theorem 8.5]
Ladder     serial  a thread per right-hand side
           block   a row of X at a time, then all rows that it is in
Try        python -m numprec.kernels triangular --precision fp16
           Exercise: how many barriers does the block rung meet for D = 64? Answer: 2 * (2 * 64 + 1) = 258
Cost       2 D^2 T flops for the two substitutions; half of R and B read, X written
Sources    [1] N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002
           [2] G. H. Golub and C. F. Van Loan, Matrix Computations, 4th ed., Johns Hopkins 2013, section 3.1
"""
import numpy as np
from numba import cuda

from numprec.kernels.equations.cholesky import factor
from numprec.kernels.equations.units import THREADS, TILE, Info
from numprec.language.errors import gamma
from numprec.language.ladder import draw, helper, operation, rung
from numprec.precision import FORMATS


# ---- oracle: both substitutions in fp64

def oracle(R, B):
    R = np.triu(R.astype(np.float64))
    return np.linalg.solve(R, np.linalg.solve(R.T, B.astype(np.float64)))


# ---- the steps that the rungs, and the chapters after this one, share

@helper
def forward(p):
    accum = p.accum

    @cuda.jit(device=True)
    def forward(R, B):
        """R'Y = B, in place of B."""
        t = cuda.threadIdx.y * TILE + cuda.threadIdx.x
        D, T = B.shape
        for j in range(D):
            cuda.syncthreads()    # row j has had its updates
            for k in range(t, T, THREADS):
                B[j, k] = B[j, k] / accum(R[j, j])
            cuda.syncthreads()    # row j is solved
            for ik in range((j + 1) * T + t, D * T, THREADS):
                B[ik // T, ik % T] -= accum(R[j, ik // T]) * B[j, ik % T]
        cuda.syncthreads()    # all rows are solved
    return forward


@helper
def backward(p):
    accum = p.accum

    @cuda.jit(device=True)
    def backward(R, B, D):
        """R X = B with the leading D x D part of R, in place of the first D rows of B."""
        t = cuda.threadIdx.y * TILE + cuda.threadIdx.x
        T = B.shape[1]
        for j in range(D - 1, -1, -1):
            cuda.syncthreads()    # row j has had its updates
            for k in range(t, T, THREADS):
                B[j, k] = B[j, k] / accum(R[j, j])
            cuda.syncthreads()    # row j is solved
            for ik in range(t, j * T, THREADS):
                B[ik // T, ik % T] -= accum(R[ik // T, j]) * B[j, ik % T]
        cuda.syncthreads()    # all rows are solved
    return backward


@helper
def normal_solution(p):
    factor_of, upper = factor[p], backward[p]

    @cuda.jit(device=True)
    def normal_solution(G, floor, W, info):
        """G becomes R and, beside it, R'^-1 X'Y, which W is solved from; where the factor broke down, W is not."""
        D, T = W.shape
        t = cuda.threadIdx.y * TILE + cuda.threadIdx.x
        rank = factor_of(G, D, floor)
        if t == 0:
            info[Info.RANK] = rank
        for jk in range(t, D * T, THREADS):
            W[jk // T, jk % T] = G[jk // T, D + jk % T]
        cuda.syncthreads()    # W is the right-hand side, and everyone may look at info
        if rank == D:
            upper(G, W, D)
    return normal_solution


# ---- kernels, slowest first

@rung
def serial(p):
    """A thread per right-hand side; no one waits for anyone."""
    accum = p.accum

    @cuda.jit
    def triangular_serial(R, B, X):
        D, T = B.shape
        for k in range(cuda.threadIdx.y * TILE + cuda.threadIdx.x, T, THREADS):
            for i in range(D):
                acc = accum(B[i, k])
                for j in range(i):
                    acc -= accum(R[j, i]) * X[j, k]
                X[i, k] = acc / accum(R[i, i])
            for i in range(D - 1, -1, -1):
                acc = X[i, k]
                for j in range(D - 1, i, -1):
                    acc -= accum(R[i, j]) * X[j, k]
                X[i, k] = acc / accum(R[i, i])
    return triangular_serial


@rung
def block(p):
    accum, lower, upper = p.accum, forward[p], backward[p]

    @cuda.jit
    def triangular_block(R, B, X):
        D, T = B.shape
        for ik in range(cuda.threadIdx.y * TILE + cuda.threadIdx.x, D * T, THREADS):
            X[ik // T, ik % T] = accum(B[ik // T, ik % T])
        lower(R, X)
        upper(R, X, D)
    return triangular_block


# ---- host side

def launch(device, rung, precision, R, B):
    X = device.empty(B.shape, precision.accum)
    device.launch(rung[precision], 1, (TILE, TILE), R, B, X)
    return X


# ---- how it is judged: by the forward error that the backward error of each substitution allows

def error_bound(precision, R, B):
    """(R' + E1)(R + E2) x = b with |E1| <= g |R'|, |E2| <= g |R| [1, theorem 8.5], hence
    |x - X| <= |A^-1| ((2 g + g^2) |R'||R| |x| + underflow), and |x| <= |X| + |x - X| is solved for the error.
    """
    R, X = np.triu(R.astype(np.float64)), abs(oracle(R, B))
    D, inverse = len(R), np.linalg.inv(R)
    g = gamma(D + 1, precision.accum.u) + gamma(D + 1, FORMATS["float64"].u)
    grown = abs(inverse @ inverse.T)
    M = grown @ abs(R.T) @ abs(R) * (2 * g + g * g)
    lost = D * precision.accum.eta * (grown @ (1 + abs(R.T).sum(axis=1, keepdims=True)))
    if not np.isfinite(g) or max(abs(np.linalg.eigvals(M))) >= 1:
        return np.full(X.shape, np.inf)
    return np.linalg.solve(np.eye(D) - M, M @ X + lost)


def cost(precision, D, T):
    read = D * (D + 1) // 2 + D * T
    return {"flops": 2 * D * D * T, "bytes": read * precision.storage.bytes + D * T * precision.accum.bytes}


def inputs(rng, shape, kind, precision):
    D, T = shape
    R = np.triu(rng.uniform(-1, 1, (D, D)) / D, 1) + np.diag(rng.uniform(0.5, 1, D))
    return R, draw(rng, (D, T), "random" if kind in ("large", "overflow") else kind, precision)


operation("triangular", oracle=oracle, error_bound=error_bound, launch=launch, cost=cost,
          inputs=inputs, shapes=((1, 1), (2, 3), (16, 1), (17, 2), (33, 5)),
          bench_shapes={"smoke": (16, 1), "quick": (64, 4), "full": (1024, 16)})
