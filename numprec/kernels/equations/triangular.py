"""The triangular systems that follow a Cholesky factor.

Maths      X from R'(R X) = B, two substitutions
Shapes     R (D, D), upper triangular, B (D, T): storage. X (D, T): accum
Mapping    one block: a thread per entry of the right-hand sides
Precision  everything in accum. Substitution solves a nearby triangular system exactly [1, theorem 8.5]
Ladder     serial  a thread per right-hand side
           block   a row of X at a time, then all rows that it is in
Cost       2 D^2 T flops for the two substitutions; half of R and B read, X written
Sources    [1] N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002
           [2] G. H. Golub and C. F. Van Loan, Matrix Computations, 4th ed., Johns Hopkins 2013, section 3.1
"""
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
from numba import cuda

from numprec.kernels.equations.centring import THREADS, TILE
from numprec.kernels.equations.gram import gamma
from numprec.language.ladder import draw, operation, rung
from numprec.precision import FORMATS


# ---- the substitutions: the forward error that the backward error of each allows

def oracle(R, B):
    R = np.triu(R.astype(np.float64))
    return np.linalg.solve(R, np.linalg.solve(R.T, B.astype(np.float64)))


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


# ---- the steps that the rungs, and the chapters after this one, share

@lru_cache(maxsize=None)
def steps(p):
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
        cuda.syncthreads()

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
        cuda.syncthreads()

    return SimpleNamespace(forward=forward, backward=backward)


# ---- kernels, slowest first

@rung
def serial(p):
    """A thread per right-hand side; no one waits for anyone."""
    accum = p.accum

    @cuda.jit
    def triangular_serial(R, B, X):
        D, T = B.shape
        k = cuda.threadIdx.y * TILE + cuda.threadIdx.x
        if k < T:
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
    accum = p.accum
    step = steps(p)
    forward, backward = step.forward, step.backward

    @cuda.jit
    def triangular_block(R, B, X):
        D, T = B.shape
        for ik in range(cuda.threadIdx.y * TILE + cuda.threadIdx.x, D * T, THREADS):
            X[ik // T, ik % T] = accum(B[ik // T, ik % T])
        forward(R, X)
        backward(R, X, D)
    return triangular_block


# ---- host side

def launch(device, rung, precision, R, B):
    X = device.empty(B.shape, precision.accum)
    device.launch(rung[precision], 1, (TILE, TILE), R, B, X)
    return X


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
