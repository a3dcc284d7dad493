"""Implicit GEMM: the matrix products of a convolution without the matrix of its windows.

Idea       The loader of a tile computes where an element of the unfolded image lies, so that the matrix of all windows
           is never written.
Precision  as in matmul: products and sums are fused multiply-adds in accum, in a fixed order

What `matmul.register_blocked` is for a product, these kernels are for a convolution: the same tiles, the same patches
of results in registers. They differ in how a tile is filled. im2col would write each pixel R S times to memory and read
it back; here the loader computes where an element of that matrix lies in the image. The divisions that this takes are
few: a row (b, p, q) is taken apart by one thread, which leaves the result in shared memory, and a column (r, s, c) once
a tile.

    forward    Z[(b, p, q), o]     = sum over r, s, c   of X[b, p t + r - top, q t + s - left, c] F[r, s, c, o]
    input      dX[(b, h, w), c]    = sum over r, s, o   of dZ[b, (h + top - r) / t, (w + left - s) / t, o] F[r, s, c, o]
    weight     dF[(r, s, c), o]    = sum over b, p, q   of X[b, p t + r - top, q t + s - left, c] dZ[b, p, q, o]

The first two are one kernel: windows of X are walked forwards, those of dZ backwards, in steps of 1 / t. The third has
few results and sums over many rows, so that these are shared out to blocks along z, whose sums a second launch adds up.

A block computes BLOCK rows of results, and as many columns, or a half or a quarter of that where it is enough.

Sources    S. Chetlur et al., cuDNN: Efficient primitives for deep learning, arXiv:1410.0759, 2014, section 3
"""
from numba import cuda, uint32

from numprec.kernels.products.matmul import BLOCK, DEPTH, PATCH, ROW
from numprec.language.indices import divmod32
from numprec.language.ladder import helper

SIDE = BLOCK // PATCH    # threads per block side
THREADS = SIDE * SIDE    # as many as rows in a block: each takes one apart
OUTSIDE = 2 ** 30        # a coordinate beyond every image, whatever is added or subtracted


def patch_width(N):
    """Columns of results per thread, for N of them in all."""
    return PATCH if N > BLOCK // 2 else PATCH // 2 if N > BLOCK // 4 else PATCH // 4


# ---- device functions: where a row lies, and what fills a tile

def origin(stride, backward):
    @cuda.jit(device=True)
    def origin(row, rows, view):
        """Image and first pixel of the window of a row; OUTSIDE for rows that there are not. Before the first row or
        column of an image an unsigned coordinate wraps around, and is beyond the last one too."""
        pq, q = divmod32(row, view.Q)
        b, p = divmod32(pq, view.P)
        if row >= rows:
            return b, uint32(OUTSIDE), uint32(OUTSIDE)
        if backward:
            return b, uint32(p + view.top), uint32(q + view.left)
        return b, uint32(p * stride - view.top), uint32(q * stride - view.left)
    return origin


@helper
def pixel(p, stride, backward):
    storage = p.storage

    @cuda.jit(device=True)
    def pixel(X, b, h, w, r, s, c):
        """The element (r, s, c) of the window of image b that begins at (h, w); 0 outside of the image."""
        if backward:
            h, down = divmod32(h - r, stride)
            w, across = divmod32(w - s, stride)
            between = down != 0 or across != 0
        else:
            h, w, between = uint32(h + r), uint32(w + s), False
        if between or h >= X.shape[1] or w >= X.shape[2]:
            return storage(0)
        return X[b, h, w, c]
    return pixel


@helper
def filters_forward(p, width):
    storage = p.storage

    @cuda.jit(device=True)
    def load_filters(F, F_s, k0, n0, t):
        """F_s[k, n] = F[r, s, c, n0 + n] with (r, s, c) = k0 + k. F as (R S, C, O)."""
        RS, C, O = F.shape    # noqa: E741
        for step in range(DEPTH * width // THREADS):
            k, n = divmod32(step * THREADS + t, width)
            rs, c = divmod32(k0 + k, C)
            F_s[k, n] = F[rs, c, n0 + n] if rs < RS and n0 + n < O else storage(0)
    return load_filters


@helper
def filters_backward(p, width):
    storage = p.storage

    @cuda.jit(device=True)
    def load_filters(F, F_s, k0, n0, t):
        """F_s[k, n] = F[r, s, n0 + n, o] with (r, s, o) = k0 + k."""
        RS, C, O = F.shape    # noqa: E741
        k = uint32(t % DEPTH)
        rs, o = divmod32(k0 + k, O)
        for step in range(DEPTH * width // THREADS):
            n = uint32(step * (THREADS // DEPTH) + t // DEPTH)
            F_s[k, n] = F[rs, n0 + n, o] if rs < RS and n0 + n < C else storage(0)
    return load_filters


# ---- kernels

def convolve(p, stride, backward, patch, epilogue):
    """Forward, and the gradient of the input where `backward`."""
    storage, compute, accum = p.storage, p.compute, p.accum
    width = SIDE * patch
    place, element, finish = origin(stride, backward), pixel(p, stride, backward), epilogue(p)
    load_filters = (filters_backward if backward else filters_forward)(p, width)

    @cuda.jit
    def implicit_convolve(X, F, view, Z, extra):
        """view.P x view.Q are the rows of Z that belong to an image."""
        X_s = cuda.shared.array((DEPTH, ROW), storage)    # X_s[k, m] = element k0 + k of the window of row m0 + m
        F_s = cuda.shared.array((DEPTH, ROW), storage)
        b_s = cuda.shared.array(BLOCK, uint32)            # image and origin of the windows of the block's rows
        h_s = cuda.shared.array(BLOCK, uint32)
        w_s = cuda.shared.array(BLOCK, uint32)
        x_r = cuda.local.array(PATCH, accum)
        f_r = cuda.local.array(patch, accum)
        acc = cuda.local.array((PATCH, patch), accum)     # acc[i, j] belongs to Z[m0 + m + i, n0 + n + j]
        t = uint32(cuda.threadIdx.x)
        m0 = uint32(cuda.blockIdx.y) * BLOCK
        n0 = uint32(cuda.blockIdx.x) * width
        m = t // SIDE * PATCH
        n = t % SIDE * patch
        M, N = Z.shape
        C = X.shape[3]
        K = F.shape[0] * X.shape[3]

        b_s[t], h_s[t], w_s[t] = place(m0 + t, M, view)    # BLOCK threads for BLOCK rows
        for i in range(PATCH):
            for j in range(patch):
                acc[i, j] = accum(0)
        cuda.syncthreads()        # the windows' places are complete
        for k0 in range(0, K, DEPTH):
            k = uint32(t % DEPTH)
            rs, c = divmod32(k0 + k, C)
            r, s = divmod32(rs, view.S)
            for step in range(DEPTH * BLOCK // THREADS):
                i = uint32(step * (THREADS // DEPTH) + t // DEPTH)
                X_s[k, i] = element(X, b_s[i], h_s[i], w_s[i], r, s, c) if k0 + k < K else storage(0)
            load_filters(F, F_s, k0, n0, t)
            cuda.syncthreads()    # both tiles are complete
            for d in range(DEPTH):
                for i in range(PATCH):
                    x_r[i] = accum(compute(X_s[d, m + i]))
                for j in range(patch):
                    f_r[j] = accum(compute(F_s[d, n + j]))
                for i in range(PATCH):
                    for j in range(patch):
                        acc[i, j] += x_r[i] * f_r[j]
            cuda.syncthreads()    # everyone has read them; the next pair may overwrite
        for i in range(PATCH):
            for j in range(patch):
                if m0 + m + i < M and n0 + n + j < N:
                    Z[m0 + m + i, n0 + n + j] = storage(finish(acc[i, j], m0 + m + i, n0 + n + j, extra))
    return implicit_convolve


def weights(p, stride, patch):
    """Sums over `rows` rows, left in parts[z]. A thread fills one column of the tile of windows: THREADS == BLOCK."""
    storage, compute, accum = p.storage, p.compute, p.accum
    width = SIDE * patch
    place, element = origin(stride, False), pixel(p, stride, False)

    @cuda.jit
    def implicit_weight_gradient(X, dZ, view, rows, parts):
        X_s = cuda.shared.array((DEPTH, ROW), storage)    # X_s[d, k] = element k0 + k of the window of row m0 + d
        Z_s = cuda.shared.array((DEPTH, ROW), storage)    # Z_s[d, n] = dZ[m0 + d, n0 + n]
        b_s = cuda.shared.array((2, DEPTH), uint32)       # windows of these rows, and of the next ones
        h_s = cuda.shared.array((2, DEPTH), uint32)
        w_s = cuda.shared.array((2, DEPTH), uint32)
        x_r = cuda.local.array(PATCH, accum)
        z_r = cuda.local.array(patch, accum)
        acc = cuda.local.array((PATCH, patch), accum)     # acc[i, j] belongs to dF[k0 + m + i, n0 + n + j]
        t = uint32(cuda.threadIdx.x)
        k0 = uint32(cuda.blockIdx.y) * BLOCK
        n0 = uint32(cuda.blockIdx.x) * width
        z = uint32(cuda.blockIdx.z)
        m = t // SIDE * PATCH
        n = t % SIDE * patch
        K, N = parts.shape[1], parts.shape[2]
        C = X.shape[3]
        rs, c = divmod32(k0 + t, C)
        r, s = divmod32(rs, view.S)
        first, last = z * rows, min((z + 1) * rows, dZ.shape[0])

        if t < DEPTH:
            b_s[0, t], h_s[0, t], w_s[0, t] = place(first + t, last, view)
        for i in range(PATCH):
            for j in range(patch):
                acc[i, j] = accum(0)
        cuda.syncthreads()        # the places of the first windows are complete
        now = uint32(0)
        for m0 in range(first, last, DEPTH):
            for d in range(DEPTH):
                X_s[d, t] = element(X, b_s[now, d], h_s[now, d], w_s[now, d], r, s, c) if k0 + t < K else storage(0)
            for step in range(DEPTH * width // THREADS):
                d, j = divmod32(step * THREADS + t, width)
                Z_s[d, j] = dZ[m0 + d, n0 + j] if m0 + d < last and n0 + j < N else storage(0)
            now = uint32(1 - now)
            if t < DEPTH:
                b_s[now, t], h_s[now, t], w_s[now, t] = place(m0 + DEPTH + t, last, view)
            cuda.syncthreads()    # both tiles, and the places of the next windows, are complete
            for d in range(DEPTH):
                for i in range(PATCH):
                    x_r[i] = accum(compute(X_s[d, m + i]))
                for j in range(patch):
                    z_r[j] = accum(compute(Z_s[d, n + j]))
                for i in range(PATCH):
                    for j in range(patch):
                        acc[i, j] += x_r[i] * z_r[j]
            cuda.syncthreads()    # everyone has read them; the next pair may overwrite
        for i in range(PATCH):
            for j in range(patch):
                if k0 + m + i < K and n0 + n + j < N:
                    parts[z, k0 + m + i, n0 + n + j] = acc[i, j]
    return implicit_weight_gradient
