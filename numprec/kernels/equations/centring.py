"""Columns brought to [-1, 1], and their means: what the moment matrix takes its columns from. With Z = [X Y],

Maths      z[n, j] = c[j] (Z[n, j] - s[j])
           s[j]     the middle of the range of column j; c[j] the power of two that maps the range into [-1, 1]
           mean[j]  = sum over n of v[n]^2 z[n, j] / sum over n of v[n]^2
Shapes     X (N, D), Y (N, T): storage, row-major. v (N,): storage, roots of the sample weights, in (0, 1]; or (1,)
           where all rows have the same. S (3, P), P = D + T: accum, its rows SHIFT, SCALE, MEAN
Mapping    tx runs along columns, the contiguous axis; ty takes every TILE-th row of Z
Precision  powers of two scale exactly. The middle is subtracted first, exactly while a column stays within a factor of
           two (Sterbenz, [1] theorem 2.5): 2020, 2021, ... keeps its digits, and a constant column becomes exactly 0
Sources    [1] N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002
"""
from functools import lru_cache
from types import SimpleNamespace

from numba import cuda

from numprec.language.instructions import add_rn

TILE = 16                        # threads per block side; columns of a tile; rows of a strip
THREADS = TILE * TILE
SHIFT, SCALE, MEAN = 0, 1, 2     # the rows of S


@lru_cache(maxsize=None)
def steps(p):
    """The device functions of this chapter for the precision p. `entry` reads any element type, so that an array of a
    wider format may stand for a storage one: it is rounded on the way."""
    storage, accum = p.storage, p.accum

    @cuda.jit(device=True)
    def entry(X, Y, n, j):
        """Z[n, j]."""
        D = X.shape[1]
        return accum(storage(X[n, j])) if j < D else accum(storage(Y[n, j - D]))

    @cuda.jit(device=True)
    def weight(V, n):
        """v[n]."""
        return accum(storage(V[n])) if V.shape[0] > 1 else accum(storage(V[0]))

    @cuda.jit(device=True)
    def shifted(X, Y, n, j, S):
        """z[n, j]."""
        return (entry(X, Y, n, j) - S[SHIFT, j]) * S[SCALE, j]

    @cuda.jit(device=True)
    def share(count, scale):
        """The power of two that comes first below 1 / count; 1 without `scale`."""
        f = accum(1)
        half = f / accum(2)
        while scale and count > 1:
            f = half * f
            count = (count + 1) // 2
        return f

    @cuda.jit(device=True)
    def column_max(x, scratch):
        """The largest x of the threads with this tx. The first barrier frees scratch of its last use."""
        tx = cuda.threadIdx.x
        ty = cuda.threadIdx.y
        cuda.syncthreads()
        scratch[ty, tx] = x
        half = TILE // 2
        while half > 0:
            cuda.syncthreads()
            if ty < half and scratch[ty + half, tx] > scratch[ty, tx]:
                scratch[ty, tx] = scratch[ty + half, tx]
            half //= 2
        cuda.syncthreads()
        return scratch[0, tx]

    @cuda.jit(device=True)
    def column_sum(x, scratch):
        """The sum of x over the threads with this tx, as a tree. The first barrier frees scratch of its last use."""
        tx = cuda.threadIdx.x
        ty = cuda.threadIdx.y
        cuda.syncthreads()
        scratch[ty, tx] = x
        half = TILE // 2
        while half > 0:
            cuda.syncthreads()
            if ty < half:
                scratch[ty, tx] += scratch[ty + half, tx]
            half //= 2
        cuda.syncthreads()
        return scratch[0, tx]

    @cuda.jit(device=True)
    def column_range(X, Y, n0, n1, j, b, low, high, scratch):
        """low[b, j] and high[b, j]: the range of column j over the rows n0 <= n < n1."""
        P = low.shape[1]
        least = accum(0)
        most = accum(0)
        if j < P:
            least = entry(X, Y, n0, j)
            most = least
            for n in range(n0 + cuda.threadIdx.y, n1, TILE):
                x = entry(X, Y, n, j)
                least = x if x < least else least
                most = x if x > most else most
        least = -column_max(-least, scratch)
        most = column_max(most, scratch)
        if j < P and cuda.threadIdx.y == 0:
            low[b, j] = least
            high[b, j] = most

    @cuda.jit(device=True)
    def shift_and_scale(least, most, centre, scale, j, S):
        """Column j of S from its range. Without `centre` the shift is 0; without `scale` the scale is 1."""
        one = accum(1)
        half = one / accum(2)
        s = accum(0)
        if centre:
            # no overflow in between; and each half is rounded, which it needs where it is subnormal
            s = least if least == most else add_rn(half * least, half * most)
        reach = most - s if most - s > s - least else s - least
        c = one
        if scale and reach > accum(0):
            while reach * c > one:
                c = half * c
            while reach * c <= half and (c + c) - (c + c) == accum(0):     # as long as the next power is finite
                c = c + c
        S[SHIFT, j] = s
        S[SCALE, j] = c

    @cuda.jit(device=True)
    def weighted_sum(X, Y, V, n0, n1, j, f, S, scratch):
        """The sum of v^2 z[:, j] over the rows n0 <= n < n1, or of v^2 for j = P; threads scale theirs by f."""
        P = S.shape[1]
        acc = accum(0)
        if j <= P:
            for n in range(n0 + cuda.threadIdx.y, n1, TILE):
                v = weight(V, n)
                acc += (v * v) * (shifted(X, Y, n, j, S) if j < P else accum(1))
        return column_sum(f * acc, scratch)

    @cuda.jit(device=True)
    def means(X, Y, V, centre, scale, sums, S, scratch):
        """The means, by one block, from the other rows of S."""
        tx = cuda.threadIdx.x
        ty = cuda.threadIdx.y
        N = X.shape[0]
        P = S.shape[1]
        f = share(-(-N // TILE), scale)
        for j0 in range(0, P + 1, TILE):
            total = weighted_sum(X, Y, V, 0, N, j0 + tx, f, S, scratch)
            if j0 + tx <= P and ty == 0:
                sums[0, j0 + tx] = total
        cuda.syncthreads()    # the sum of v^2 stands behind the others
        for j in range(ty * TILE + tx, P, TILE * TILE):
            S[MEAN, j] = sums[0, j] / sums[0, P] if centre else accum(0)
        cuda.syncthreads()    # every column has its mean

    @cuda.jit(device=True)
    def columns(X, Y, V, centre, scale, low, high, sums, S, scratch):
        """S by one block. low and high (1, P) and sums (1, P + 1) are workspace."""
        tx = cuda.threadIdx.x
        ty = cuda.threadIdx.y
        N = X.shape[0]
        P = S.shape[1]
        for j0 in range(0, P, TILE):
            j = j0 + tx
            column_range(X, Y, 0, N, j, 0, low, high, scratch)
            if j < P and ty == 0:
                shift_and_scale(low[0, j], high[0, j], centre, scale, j, S)
        cuda.syncthreads()    # every column has its shift and scale
        means(X, Y, V, centre, scale, sums, S, scratch)

    return SimpleNamespace(entry=entry, weight=weight, shifted=shifted, share=share, column_max=column_max,
                           column_sum=column_sum, column_range=column_range, shift_and_scale=shift_and_scale,
                           weighted_sum=weighted_sum, columns=columns, means=means)
