"""Pooling: the largest element of each window, or the average, and the gradients.

Idea       A thread for each result, channels along a warp: neighbours read neighbours, and each gradient is gathered by
           its pixel.
Maths      max      Y[b, p, q, c] = max over r, s of X[b, p t + r, q t + s, c]; where[b, p, q, c] is the first pixel,
                    h W + w, that attains it; dX[b, h, w, c] = g sum of dY over the windows whose `where` is (h, w)
           average  Y[b, p, q, c] = sum over r, s of X[b, p t + r, q t + s, c] / (R S);
                    dX[b, h, w, c] = g sum of dY / (R S) over the windows that (h, w) lies in
           with g the derivative at X[b, h, w, c] of the activation that made X, see `dense`
Shapes     X (B, H, W, C), Y (B, P, Q, C): storage; where (B, P, Q, C): int32. R x S windows at stride t, no padding
Mapping    an element of the result to a thread, channels along x. Gradients are gathered as in col2im
Precision  max rounds nothing, and keeps a NaN. Sums and quotients in accum, in a fixed order; one rounding to storage
Ladder     one step each
Cost       max no flops, its gradient an addition an element of Y; average and its gradient R S additions and a division
           each. Pixels in a window read and Y (and where) written; or dY (and where) and X read and dX written
Sources    I. Goodfellow, Y. Bengio and A. Courville, Deep Learning, MIT Press 2016, section 9.3
"""
import numpy as np
from numba import cuda, int32, uint32

from numprec.kernels.images.im2col import BLOCK, folded, im2col_oracle, window
from numprec.kernels.networks import dense
from numprec.language.errors import Computed
from numprec.language.indices import divmod32
from numprec.language.ladder import draw, helper, operation, rung
from numprec.precision import PRECISIONS


# ---- oracles: the maths lines, by NumPy, on windows (B P Q, R S, C)

def windows(X, view):
    return im2col_oracle(X.astype(np.float64), view).reshape(-1, view.R * view.S, X.shape[3])


def max_oracle(X, view):
    shape = len(X), view.P, view.Q, X.shape[3]
    pixels = np.arange(X.shape[1] * X.shape[2]).reshape(1, *X.shape[1:3], 1)
    columns = windows(X, view)
    first = columns.argmax(axis=1)
    pixels = np.broadcast_to(windows(np.broadcast_to(pixels, X.shape), view), columns.shape)
    where = np.take_along_axis(pixels, first[:, None], 1)
    return columns.max(axis=1).reshape(shape), where.reshape(shape)


def max_gradient_computed(precision, dY, where, X, view, activation="relu"):
    """folded(...) of dY in the places that `where` names."""
    pixels = np.broadcast_to(np.arange(X.shape[1] * X.shape[2]).reshape(1, *X.shape[1:3], 1), X.shape)
    here = windows(pixels, view) == where.reshape(-1, 1, X.shape[3])
    columns = here * dY.astype(np.float64).reshape(-1, 1, X.shape[3])
    return folded(precision, Computed(columns, precision.accum), X, view, activation)


def average_computed(precision, X, view):
    total = Computed(windows(X, view), precision.accum).sum(axis=1)
    return (total / (view.R * view.S)).to(precision.storage)


def average_gradient_computed(precision, dY, X, view, activation="relu"):
    n = view.R * view.S
    share = Computed(np.repeat(dY.astype(np.float64).reshape(-1, 1, X.shape[3]), n, 1), precision.accum) / n
    return folded(precision, share, X, view, activation)


# ---- kernels

@rung(of="max_pool")
def elementwise(p, stride=2):
    storage, accum = p.storage, p.accum

    @cuda.jit
    def max_pool_elementwise(X, R, S, Y, where):
        qc, bp = cuda.grid(2)
        B, P, Q, C = Y.shape
        if bp < B * P and qc < Q * C:
            b, i = divmod32(bp, P)
            j, c = divmod32(qc, C)
            h, w = uint32(i * stride), uint32(j * stride)
            best, first = accum(X[b, h, w, c]), int32(h * X.shape[2] + w)
            for r in range(R):
                for s in range(S):
                    x = accum(X[b, h + r, w + s, c])
                    if x > best or (x != x and best == best):    # a NaN is unequal to itself
                        best, first = x, int32((h + r) * X.shape[2] + w + s)
            Y[b, i, j, c] = storage(best)
            where[b, i, j, c] = first
    return max_pool_elementwise


@rung(of="average_pool")
def window_mean(p, stride=2):
    storage, accum = p.storage, p.accum

    @cuda.jit
    def average_pool_window_mean(X, R, S, Y):
        qc, bp = cuda.grid(2)
        B, P, Q, C = Y.shape
        if bp < B * P and qc < Q * C:
            b, i = divmod32(bp, P)
            j, c = divmod32(qc, C)
            acc = accum(0)
            for r in range(R):
                for s in range(S):
                    acc += accum(X[b, i * stride + r, j * stride + s, c])
            Y[b, i, j, c] = storage(acc / accum(R * S))
    return average_pool_window_mean


@helper
def from_largest(p):
    accum = p.accum

    @cuda.jit(device=True)
    def from_largest(dy, where, pixel, RS):
        return accum(dy) if where == pixel else accum(0)
    return from_largest


@helper
def from_average(p):
    accum = p.accum

    @cuda.jit(device=True)
    def from_average(dy, where, pixel, RS):
        return accum(dy) / accum(RS)
    return from_average


@rung(of="max_pool_gradient")
def gather(p, stride=2, activation="relu", share=from_largest):
    """`share` is what a pixel gets from the gradient of one window."""
    storage, accum, times, share_of = p.storage, p.accum, dense.ACTIVATIONS[activation].gradient(p), share[p]

    @cuda.jit
    def pool_gradient(dY, where, R, S, X, dX):
        wc, bh = cuda.grid(2)
        B, H, W, C = dX.shape
        if bh < B * H and wc < W * C:
            b, h = divmod32(bh, H)
            w, c = divmod32(wc, C)
            acc = accum(0)
            for r in range(R):
                i, odd = divmod32(h - r, stride)
                if odd == 0 and i < dY.shape[1]:
                    for s in range(S):
                        j, odd = divmod32(w - s, stride)
                        if odd == 0 and j < dY.shape[2]:
                            acc += share_of(dY[b, i, j, c], where[b, i, j, c], h * W + w, R * S)
            dX[b, h, w, c] = storage(times(acc, accum(X[b, h, w, c])))
    return pool_gradient


# ---- host side

def area(shape):
    """Blocks that cover an array (B, P, Q, C)."""
    B, P, Q, C = shape
    return -(-Q * C // BLOCK[0]), -(-B * P // BLOCK[1])


def max_pool(device, rung, precision, X, view, out=None):
    """(Y, where)."""
    shape = X.shape[0], view.P, view.Q, X.shape[3]
    Y, where = out or (device.empty(shape, precision.storage), device.empty(shape, np.int32))
    device.launch(rung.variant(precision, stride=view.stride), area(shape), BLOCK, X, view.R, view.S, Y, where)
    return Y, where


def average_pool(device, rung, precision, X, view, out=None):
    """Y."""
    shape = X.shape[0], view.P, view.Q, X.shape[3]
    Y = device.empty(shape, precision.storage) if out is None else out
    device.launch(rung.variant(precision, stride=view.stride), area(shape), BLOCK, X, view.R, view.S, Y)
    return Y


def max_gradient(device, rung, precision, dY, where, X, view, activation="relu", out=None, share=from_largest):
    """dX, times the derivative at X of the activation that made X."""
    dX = device.empty(X.shape, precision.storage) if out is None else out
    device.launch(rung.variant(precision, stride=view.stride, activation=activation, share=share), area(X.shape), BLOCK,
                  dY, where, view.R, view.S, X, dX)
    return dX


def average_gradient(device, rung, precision, dY, X, view, activation="relu", out=None):
    return max_gradient(device, rung, precision, dY, dY, X, view, activation, out, from_average)    # asks no `where`


# ---- as operations: 3 x 3 windows, two apart, so that they overlap

def near(X):
    return window(X.shape[1:3], (3, 3), stride=2)


def gradient_inputs(rng, shape, kind, precision):
    X = np.round(rng.standard_normal(shape), 1)    # with ties
    Y, where = max_oracle(X, near(X))
    return draw(rng, Y.shape, kind, precision, 9), where.astype(np.int32), X


def sizes(B, H, W, C):
    """Elements of X, of X in windows, of Y, and of the windows, those that overlap counted in each."""
    R, S, t, _, _, P, Q = window((H, W), (3, 3), stride=2)
    seen = ((P - 1) * t + R) * ((Q - 1) * t + S)
    return B * H * W * C, B * seen * C, B * P * Q * C, B * P * Q * R * S * C


def max_cost(precision, *shape):
    _, seen, pooled, _ = sizes(*shape)
    return {"flops": 0, "bytes": (seen + pooled) * precision.storage.bytes + 4 * pooled}


def max_gradient_cost(precision, *shape):
    image, _, pooled, _ = sizes(*shape)
    return {"flops": pooled, "bytes": (2 * image + pooled) * precision.storage.bytes + 4 * pooled}


def average_cost(precision, *shape):
    _, seen, pooled, terms = sizes(*shape)
    return {"flops": terms + pooled, "bytes": (seen + pooled) * precision.storage.bytes}


def average_gradient_cost(precision, *shape):
    image, _, pooled, terms = sizes(*shape)
    return {"flops": terms + pooled, "bytes": (2 * image + pooled) * precision.storage.bytes}


about = dict(shapes=((1, 3, 3, 1), (2, 7, 9, 33), (1, 1, 6, 3), (3, 8, 2, 2)),
             bench_shapes={"smoke": (2, 16, 16, 8), "quick": (8, 32, 32, 32), "full": (128, 32, 32, 64)})

operation("max_pool", inputs=lambda rng, shape, kind, p: (draw(rng, shape, kind, p),), cost=max_cost, **about,
          oracle=lambda X: max_oracle(X, near(X)), error_bound=lambda p, X: (0.0, 0.0),
          launch=lambda device, rung, p, X: max_pool(device, rung, p, X, near(X)))
operation("max_pool_gradient", inputs=gradient_inputs, cost=max_gradient_cost, **about,
          cost_differs="A pixel adds a zero for each of its windows that another one has won.",
          oracle=lambda dY, where, X: max_gradient_computed(PRECISIONS["fp64"], dY, where, X, near(X)).exact,
          error_bound=lambda p, dY, where, X: max_gradient_computed(p, dY, where, X, near(X)).error,
          launch=lambda device, rung, p, dY, where, X: max_gradient(device, rung, p, dY, where, X, near(X)))
operation("average_pool", inputs=lambda rng, shape, kind, p: (draw(rng, shape, kind, p, 9),), **about,
          cost=average_cost,
          oracle=lambda X: shaped(X, average_computed(PRECISIONS["fp64"], X, near(X)).exact),
          error_bound=lambda p, X: shaped(X, average_computed(p, X, near(X)).error),
          launch=lambda device, rung, p, X: average_pool(device, rung, p, X, near(X)))
operation("average_pool_gradient", ladder="max_pool_gradient", inputs=lambda *problem: gradient_inputs(*problem)[::2],
          cost=average_gradient_cost, cost_differs="Each pixel divides the gradient of a window anew.", **about,
          oracle=lambda dY, X: average_gradient_computed(PRECISIONS["fp64"], dY, X, near(X)).exact,
          error_bound=lambda p, dY, X: average_gradient_computed(p, dY, X, near(X)).error,
          launch=lambda device, rung, p, dY, X: average_gradient(device, rung, p, dY, X, near(X)))


def shaped(X, columns):
    return columns.reshape(len(X), near(X).P, near(X).Q, -1)
