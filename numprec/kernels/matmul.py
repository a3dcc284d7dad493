"""Matrix product, C = A B.

Maths      C[m, n] = sum over k of A[m, k] B[k, n]
Shapes     A (M, K), B (K, N), C (M, N): storage, row-major; any M, N, K >= 1
Mapping    n runs along grid x, the contiguous axis, so that a warp reads and writes neighbouring elements;
           m runs along grid y
Precision  operands are widened to accum, exactly; product and sum are one fused multiply-add, rounded once to
           accum; one rounding to storage when C is written. Hence
           |error| <= K u_accum |A||B| + u_storage |C|  [2], plus what underflow costs
Ladder     naive    a thread per C[m, n] reads its row of A and its column of B from global memory
           tiled    a block shares square tiles of both through shared memory: TILE times fewer global reads
Cost       2 M N K flops; at least (M K + K N + M N) elements moved
Sources    [1] CUDA C++ Programming Guide, section "Shared Memory"
           [2] C.-P. Jeannerod and S. M. Rump, Improved error bounds for inner products in floating-point
               arithmetic, SIAM J. Matrix Anal. Appl. 34(2), 2013
"""
import numpy as np
from numba import cuda

from numprec.kernels.registry import operation, rung

TILE = 16      # threads per block side, and the depth of a shared tile


# ---- oracle: the maths line, in fp64, on the operands that the kernel receives

def oracle(A, B):
    return A.astype(np.float64) @ B.astype(np.float64)


def error_bound(precision, A, B):
    storage, accum = precision.storage, precision.accum
    K = A.shape[1]
    magnitude = oracle(abs(A), abs(B))
    summed = K * (accum.u * magnitude + accum.eta / 2)
    return summed + storage.u * (abs(oracle(A, B)) + summed) + storage.eta / 2


# ---- kernels, slowest first

@rung
def naive(p):
    storage, accum = p.storage, p.accum

    @cuda.jit
    def matmul_naive(A, B, C):
        n, m = cuda.grid(2)
        M, K = A.shape
        N = B.shape[1]
        if m < M and n < N:
            acc = accum(0)
            for k in range(K):
                acc += accum(A[m, k]) * accum(B[k, n])
            C[m, n] = storage(acc)
    return matmul_naive


@rung
def tiled(p):
    storage, accum = p.storage, p.accum

    @cuda.jit
    def matmul_tiled(A, B, C):
        """K is walked TILE at a time; k0 is the left edge of the current pair of tiles."""
        A_s = cuda.shared.array((TILE, TILE), storage)    # A_s[ty, k] = A[m, k0 + k]
        B_s = cuda.shared.array((TILE, TILE), storage)    # B_s[k, tx] = B[k0 + k, n]
        tx = cuda.threadIdx.x
        ty = cuda.threadIdx.y
        n, m = cuda.grid(2)
        M, K = A.shape
        N = B.shape[1]

        acc = accum(0)
        for k0 in range(0, K, TILE):
            # past the edge both tiles hold zeros, which add exactly nothing
            A_s[ty, tx] = A[m, k0 + tx] if m < M and k0 + tx < K else storage(0)
            B_s[ty, tx] = B[k0 + ty, n] if k0 + ty < K and n < N else storage(0)
            cuda.syncthreads()    # both tiles are complete
            for k in range(TILE):
                acc += accum(A_s[ty, k]) * accum(B_s[k, tx])
            cuda.syncthreads()    # everyone has read them; the next pair may overwrite
        if m < M and n < N:
            C[m, n] = storage(acc)
    return matmul_tiled


# ---- host side: the only lines that know about grids, blocks and operation counts

def launch(device, rung, precision, A, B):
    M, N = A.shape[0], B.shape[1]
    C = device.empty((M, N), precision.storage)
    grid = -(-N // TILE), -(-M // TILE)
    device.launch(rung[precision], grid, (TILE, TILE), A, B, C)
    return C


def cost(precision, M, N, K):
    return {"flops": 2 * M * N * K, "bytes": (M * K + K * N + M * N) * precision.storage.bytes}


def inputs(rng, shape, kind):
    M, N, K = shape
    A, B = rng.standard_normal((M, K)), rng.standard_normal((K, N))
    return A, B


operation("matmul", oracle=oracle, error_bound=error_bound, launch=launch, cost=cost, inputs=inputs,
          shapes=((1, 1, 1), (2, 3, 5), (16, 16, 16), (17, 15, 31), (33, 7, 64), (1, 129, 127)),
          bench_shapes={"smoke": (64, 64, 64), "quick": (256, 256, 256), "full": (4096, 4096, 4096)})
