"""Matrix product, C = A B, and the products A^T B and A B^T that training needs.

Idea       An element fetched from global memory serves a whole tile of results, and one read from shared memory a whole
           patch of them in registers: arithmetic decides, not memory.
Maths      C[m, n] = sum over k of A[m, k] B[k, n]
Shapes     A (M, K), B (K, N), C (M, N): storage, row-major; any M, N, K >= 1. With transpose_a, A lies in memory
           as (K, M); with transpose_b, B lies as (N, K)
Mapping    n runs along grid x, the contiguous axis, so that a warp reads and writes neighbouring elements;
           m runs along grid y
Precision  operands are rounded to compute (nothing happens where that is storage) and widened to accum, exactly;
           product and sum are one fused multiply-add, rounded once to accum; one rounding to storage when C is
           written. Hence, for operands that compute holds, any K and any order of summation,
           |error| <= K u_accum |A||B| + u_storage |C|  [2], plus what underflow costs
Ladder     naive             a thread per C[m, n] reads its row of A and its column of B from global memory
           tiled             a block shares square tiles of both through shared memory: TILE times fewer global reads
           register_blocked  a thread computes a patch of PATCH x PATCH results in registers: two reads of shared
                             memory feed PATCH multiply-adds instead of one
Cost       2 M N K flops; at least (M K + K N + M N) elements moved
Try        python -m numprec.kernels matmul --rung naive --shape 64x64x16 --precision fp16
           A warp holds 2 rows of 16 results. How many sectors does a result of naive take, where in float32 it takes
           2.12? Answer: naive, sectors: 1.56. For each k a warp reads one element from each of two rows of A, a sector
           each in any format, and 16 neighbours of B, a sector in place of two; C takes a sector a row: (16 (2 + 1) +
           2) / 32.
           python -m numprec.kernels matmul --rung tiled --without "both tiles are complete"
           Which line reads what nobody has written? Answer: "acc = plus(acc,", by its A_s and by its B_s.
Sources    [1] CUDA C++ Programming Guide, section "Shared Memory"
           [2] C.-P. Jeannerod and S. M. Rump, Improved error bounds for inner products in floating-point
               arithmetic, SIAM J. Matrix Anal. Appl. 34(2), 2013
           [3] V. Volkov and J. W. Demmel, Benchmarking GPUs to tune dense linear algebra, SC 2008, section 5
"""
from functools import partial

import numpy as np
from numba import cuda, uint32

from numprec.language.ladder import draw, helper, operation, rung
from numprec.precision import FORMATS

TILE = 16                           # tiled: threads per block side, and the depth of a shared tile

BLOCK = 64                          # register_blocked: C elements per block side
DEPTH = 16                          # of its shared tiles, along k
PATCH = 8                           # C elements per thread and side; less where a long epilogue has to fit beside them
SIDE = BLOCK // PATCH               # threads per block side
THREADS = SIDE * SIDE
ROW = BLOCK + 4                     # elements between rows of a tile: a column, padded, spreads over the banks


# ---- oracle: the maths line, in fp64, on the operands that the kernel receives

def oracle(A, B):
    return A.astype(np.float64) @ B.astype(np.float64)


def error_bound(precision, A, B):
    storage, accum = precision.storage, precision.accum
    K = A.shape[1]
    magnitude = oracle(abs(A), abs(B))
    summed = K * (accum.u * magnitude + accum.eta / 2)
    in_oracle = K * FORMATS["float64"].u * magnitude
    return summed + storage.u * (abs(oracle(A, B)) + summed) + storage.eta / 2 + in_oracle


# ---- what a kernel is specialised with, besides the precision

def element(transposed):
    """X[i, j] of an operand that may lie transposed in memory."""
    @cuda.jit(device=True)
    def element(X, i, j):
        return X[j, i] if transposed else X[i, j]
    return element


@helper
def product(p):
    """The default term: what an element of A and one of B (accum) add to the sum."""
    @cuda.jit(device=True)
    def product(acc, a, b):
        return acc + a * b
    return product


@helper
def identity(p):
    """The default epilogue. An epilogue turns the finished sum (accum) of C[m, n] into what is written there (accum).

    `extra` is the kernel's last argument: an array, or a tuple of them, such as a bias.
    """
    @cuda.jit(device=True)
    def identity(acc, m, n, extra):
        return acc
    return identity


# ---- kernels, slowest first

@rung
def naive(p, transpose_a=False, transpose_b=False, term=product, epilogue=identity):
    storage, compute, accum = p.storage, p.compute, p.accum
    a, b = element(transpose_a), element(transpose_b)
    plus, finish = term(p), epilogue(p)

    @cuda.jit
    def matmul_naive(A, B, C, extra):
        n, m = cuda.grid(2)
        M, N = C.shape
        K = A.shape[0] if transpose_a else A.shape[1]
        if m < M and n < N:
            acc = accum(0)
            for k in range(K):
                acc = plus(acc, accum(compute(a(A, m, k))), accum(compute(b(B, k, n))))
            C[m, n] = storage(finish(acc, m, n, extra))
    return matmul_naive


@rung
def tiled(p, transpose_a=False, transpose_b=False, term=product, epilogue=identity):
    storage, compute, accum = p.storage, p.compute, p.accum
    a, b = element(transpose_a), element(transpose_b)
    plus, finish = term(p), epilogue(p)

    @cuda.jit
    def matmul_tiled(A, B, C, extra):
        """K is walked TILE at a time; k0 is the left edge of the current pair of tiles."""
        A_s = cuda.shared.array((TILE, TILE), storage)    # A_s[ty, k] = A[m, k0 + k]
        B_s = cuda.shared.array((TILE, TILE), storage)    # B_s[k, tx] = B[k0 + k, n]
        tx = cuda.threadIdx.x
        ty = cuda.threadIdx.y
        n, m = cuda.grid(2)
        M, N = C.shape
        K = A.shape[0] if transpose_a else A.shape[1]

        acc = accum(0)
        for k0 in range(0, K, TILE):
            # past the edge both tiles hold zeros, which add exactly nothing
            A_s[ty, tx] = a(A, m, k0 + tx) if m < M and k0 + tx < K else storage(0)
            B_s[ty, tx] = b(B, k0 + ty, n) if k0 + ty < K and n < N else storage(0)
            cuda.syncthreads()    # both tiles are complete
            for k in range(TILE):
                acc = plus(acc, accum(compute(A_s[ty, k])), accum(compute(B_s[k, tx])))
            cuda.syncthreads()    # everyone has read them; the next pair may overwrite
        if m < M and n < N:
            C[m, n] = storage(finish(acc, m, n, extra))
    return matmul_tiled


@helper
def tile_loader(p, turned, threads=THREADS):
    """X_s[k, w] = X[k0 + k, w0 + w], or X[w0 + w, k0 + k] where `turned`; zeros beyond the edge of X.

    Neighbouring threads read along the rows of X in either case, so that a warp reads whole sectors.
    """
    storage = p.storage

    @cuda.jit(device=True)
    def load_tile(X, X_s, k0, w0, t):
        for step in range(DEPTH * BLOCK // threads):
            e = step * threads + t
            if turned:
                k, w = e % DEPTH, e // DEPTH
                inside = w0 + w < X.shape[0] and k0 + k < X.shape[1]
                X_s[k, w] = X[w0 + w, k0 + k] if inside else storage(0)
            else:
                k, w = e // BLOCK, e % BLOCK
                inside = k0 + k < X.shape[0] and w0 + w < X.shape[1]
                X_s[k, w] = X[k0 + k, w0 + w] if inside else storage(0)
    return load_tile


@rung
def register_blocked(p, transpose_a=False, transpose_b=False, term=product, epilogue=identity, patch=PATCH):
    storage, compute, accum = p.storage, p.compute, p.accum
    side = BLOCK // patch
    load_A, load_B = tile_loader(p, not transpose_a, side * side), tile_loader(p, transpose_b, side * side)
    plus, finish = term(p), epilogue(p)

    @cuda.jit
    def matmul_register_blocked(A, B, C, extra):
        """Both tiles have k as their row, so that a thread's patch elements of either lie side by side.

        Every index below has a constant range or starts from an unsigned number: the patch then stays in
        registers, and no index is tested for being negative.
        """
        A_s = cuda.shared.array((DEPTH, ROW), storage)    # A_s[k, m] = A[m0 + m, k0 + k]
        B_s = cuda.shared.array((DEPTH, ROW), storage)    # B_s[k, n] = B[k0 + k, n0 + n]
        a_r = cuda.local.array(patch, accum)
        b_r = cuda.local.array(patch, accum)
        acc = cuda.local.array((patch, patch), accum)     # acc[i, j] belongs to C[m0 + m + i, n0 + n + j]
        t = uint32(cuda.threadIdx.x)
        m0 = uint32(cuda.blockIdx.y) * BLOCK
        n0 = uint32(cuda.blockIdx.x) * BLOCK
        m = t // side * patch
        n = t % side * patch
        M, N = C.shape
        K = A.shape[0] if transpose_a else A.shape[1]

        for i in range(patch):
            for j in range(patch):
                acc[i, j] = accum(0)
        for k0 in range(0, K, DEPTH):
            load_A(A, A_s, k0, m0, t)
            load_B(B, B_s, k0, n0, t)
            cuda.syncthreads()    # both tiles are complete
            for k in range(DEPTH):
                for i in range(patch):
                    a_r[i] = accum(compute(A_s[k, m + i]))
                for j in range(patch):
                    b_r[j] = accum(compute(B_s[k, n + j]))
                for i in range(patch):
                    for j in range(patch):
                        acc[i, j] = plus(acc[i, j], a_r[i], b_r[j])
            cuda.syncthreads()    # everyone has read them; the next pair may overwrite
        for i in range(patch):
            for j in range(patch):
                if m0 + m + i < M and n0 + n + j < N:
                    C[m0 + m + i, n0 + n + j] = storage(finish(acc[i, j], m0 + m + i, n0 + n + j, extra))
    return matmul_register_blocked


# ---- host side: the only lines that know about grids, blocks and operation counts

def launch(device, rung, precision, A, B, transpose_a=False, transpose_b=False, term=product, epilogue=identity,
           extra=None, out=None, patch=PATCH):
    """C = epilogue(A B), with the operand marked as transposed taken as its transpose; C is `out` or a new array."""
    M = A.shape[1] if transpose_a else A.shape[0]
    N = B.shape[0] if transpose_b else B.shape[1]
    C = device.empty((M, N), precision.storage) if out is None else out
    options = dict(transpose_a=transpose_a, transpose_b=transpose_b, term=term, epilogue=epilogue)
    side, block = TILE, (TILE, TILE)
    if rung is register_blocked:
        options["patch"], side, block = patch, BLOCK, (BLOCK // patch) ** 2
    kernel = rung.variant(precision, **options)
    device.launch(kernel, (-(-N // side), -(-M // side)), block, A, B, C, C if extra is None else extra)
    return C


def cost(precision, M, N, K):
    return {"flops": 2 * M * N * K, "bytes": (M * K + K * N + M * N) * precision.storage.bytes}


def inputs(rng, shape, kind, precision):
    M, N, K = shape
    if kind == "subnormal":      # one operand below the normal range brings the result there
        return draw(rng, (M, K), kind, precision), rng.uniform(-1, 1, (K, N)) / K
    return draw(rng, (M, K), kind, precision, K, 2), draw(rng, (K, N), kind, precision, K, 2)


about = dict(
    operands=(0, 1), inputs=inputs, oracle=oracle, error_bound=error_bound, launch=launch, cost=cost,
    shapes=((1, 1, 1), (2, 3, 5), (16, 16, 16), (17, 15, 31), (33, 7, 64), (1, 129, 127), (64, 64, 17), (65, 63, 33),
            (2, 3, 4096)),
    bench_shapes={"smoke": (64, 64, 64), "quick": (256, 256, 256), "full": (4096, 4096, 4096)})


def variant(transpose_a, transpose_b):
    """The operation whose operands lie transposed in memory, told from `matmul`."""
    def turned(A, B):
        return (A.T if transpose_a else A), (B.T if transpose_b else B)

    return dict(
        about, ladder="matmul",
        inputs=lambda *problem: tuple(map(np.ascontiguousarray, turned(*inputs(*problem)))),
        oracle=lambda A, B: oracle(*turned(A, B)),
        error_bound=lambda precision, A, B: error_bound(precision, *turned(A, B)),
        launch=partial(launch, transpose_a=transpose_a, transpose_b=transpose_b))


operation("matmul", **about)
operation("matmul_ta", **variant(True, False))    # A^T B: Gram matrices, gradients of weights
operation("matmul_tb", **variant(False, True))    # A B^T: gradients of activations, kernel rows
