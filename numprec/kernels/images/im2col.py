"""Unfolding an image into its windows, im2col, and back, col2im: a convolution as a matrix product.

Idea       Channels run along the threads of a warp, which so reads and writes neighbours; gradients are gathered by the
           element that they belong to, and need no atomics.
Maths      columns[(b, p, q), (r, s, c)] = X[b, p t + r - top, q t + s - left, c], and 0 outside of the image;
           dX[b, h, w, c] = sum of dcolumns[(b, p, q), (r, s, c)] over the windows that (h, w) lies in, that is over
           all r, s for which p = (h + top - r) / t and q = (w + left - s) / t are whole numbers in [0, P) x [0, Q)
Shapes     X (B, H, W, C), columns (B P Q, R S C): storage, row-major. t is the stride, (top, left) the padding before
           the first row and column; P and Q say how far windows reach. See Window
Mapping    an element to a thread: (r, s, c) of columns, or c of dX, along x, so that a warp writes neighbours, and
           reads neighbours too as long as it stays in a run of channels
Precision  im2col rounds nothing. col2im adds up to R S elements in accum, in a fixed order: |error| <= (R S - 1)
           u_accum times the sum of magnitudes, and one rounding to storage. Every thread gathers what belongs to its
           element; to scatter instead would take atomic additions, whose order, and so whose bits, change from run to
           run
Ladder     one step each
Cost       im2col no flops; X read, B P Q R S C elements written, R S / t^2 times the image. col2im an addition for each
           element of columns that lies in the image; those elements read, dX written
Try        python -m numprec.kernels im2col --operation im2col
           Eight channels of float32 fill a sector. How many sectors does an element of columns take, written and read?
           Answer: elementwise, sectors: 0.24, a little less than 2 / 8: where a window leaves the image, nothing is
           read.
Sources    K. Chellapilla, S. Puri and P. Simard, High performance convolutional neural networks for document
               processing, IWFHR 2006, section 2.1
"""
from typing import NamedTuple

import numpy as np
from numba import cuda, uint32

from numprec.kernels.networks import dense
from numprec.language.errors import Computed
from numprec.language.indices import divmod32
from numprec.language.ladder import draw, operation, rung

BLOCK = 32, 8            # threads per block, along x and y


class Window(NamedTuple):
    """How windows lie on an image: R x S elements, `stride` apart, P x Q of them, the first at (-top, -left)."""

    R: int
    S: int
    stride: int
    top: int
    left: int
    P: int
    Q: int


def window(image, size, stride=1, padding="valid"):
    """The Window for an image of (H, W, ...) and a size of (R, S), which is cut down to the image. "valid" windows lie
    inside of it; with "same" there are as many as pixels at stride 1, and one in `stride` of these else."""
    places = []
    for n, r in zip(image, size):
        r = min(n, r)
        count = -(-n // stride) if padding == "same" else (n - r) // stride + 1
        before = max(0, (count - 1) * stride + r - n) // 2 if padding == "same" else 0
        places.append((r, before, count))
    (R, top, P), (S, left, Q) = places
    return Window(R, S, stride, top, left, P, Q)


# ---- oracles: the maths lines, by NumPy

def im2col_oracle(X, view):
    """(B P Q, R S C), in the dtype of X."""
    R, S, t, top, left, P, Q = view
    B, H, W, C = X.shape
    padded = np.zeros((B, max(H + top, (P - 1) * t + R), max(W + left, (Q - 1) * t + S), C), X.dtype)
    padded[:, top:top + H, left:left + W] = X
    columns = np.empty((B, P, Q, R, S, C), X.dtype)
    for r in range(R):
        for s in range(S):
            columns[:, :, :, r, s] = padded[:, r:r + (P - 1) * t + 1:t, s:s + (Q - 1) * t + 1:t]
    return columns.reshape(B * P * Q, R * S * C)


def col2im_oracle(columns, shape, view):
    """dX of `shape`, float64."""
    R, S, t, top, left, P, Q = view
    B, H, W, C = shape
    padded = np.zeros((B, max(H + top, (P - 1) * t + R), max(W + left, (Q - 1) * t + S), C))
    columns = columns.reshape(B, P, Q, R, S, C).astype(np.float64)
    for r in range(R):
        for s in range(S):
            padded[:, r:r + (P - 1) * t + 1:t, s:s + (Q - 1) * t + 1:t] += columns[:, :, :, r, s]
    return padded[:, top:top + H, left:left + W]


def derivative(precision, X, activation):
    """That of an activation at its value X, as kernels compute it in accum."""
    x = X.astype(np.float64)
    exact = activation in ("identity", "relu")
    error = 0 if exact else 3 * precision.accum.u * (1 + x ** 2)    # at most three roundings of 1 - x x or x (1 - x)
    return Computed(dense.ACTIVATIONS[activation].g(x), precision.accum, error)


def folded(precision, columns, X, view, activation):
    """col2im of Computed columns in accum, times the derivative of an activation at X, in storage."""
    accum, terms = precision.accum, view.R * view.S
    magnitude = col2im_oracle(abs(columns.exact) + columns.error, X.shape, view)
    error = col2im_oracle(columns.error, X.shape, view) + terms * (accum.u + Computed.oracle_u) * magnitude
    total = Computed(col2im_oracle(columns.exact, X.shape, view), accum, error)
    return (total * derivative(precision, X, activation)).to(precision.storage)


# ---- kernels

@rung(of="im2col")
def elementwise(p, stride=1):
    storage = p.storage

    @cuda.jit
    def im2col_elementwise(X, view, columns):
        k, m = cuda.grid(2)
        H, W, C = X.shape[1], X.shape[2], X.shape[3]
        if m < columns.shape[0] and k < columns.shape[1]:
            pq, q = divmod32(m, view.Q)
            b, p = divmod32(pq, view.P)
            rs, c = divmod32(k, C)
            r, s = divmod32(rs, view.S)
            # before the first row or column an unsigned number wraps around, and lies beyond the last one too
            h, w = uint32(p * stride + r - view.top), uint32(q * stride + s - view.left)
            columns[m, k] = X[b, h, w, c] if h < H and w < W else storage(0)
    return im2col_elementwise


@rung(of="col2im")
def gather(p, stride=1, activation="identity"):
    storage, accum, times = p.storage, p.accum, dense.ACTIVATIONS[activation].gradient(p)

    @cuda.jit
    def col2im_gather(columns, view, X, dX):
        """columns as (B, P, Q, R, S, C); X and dX (B, H, W, C); a thread has one element of dX."""
        wc, bh = cuda.grid(2)
        H, W, C = dX.shape[1], dX.shape[2], dX.shape[3]
        if bh < dX.shape[0] * H and wc < W * C:
            b, h = divmod32(bh, H)
            w, c = divmod32(wc, C)
            acc = accum(0)
            for r in range(view.R):
                i, odd = divmod32(h + view.top - r, stride)
                if odd == 0 and i < view.P:
                    for s in range(view.S):
                        j, odd = divmod32(w + view.left - s, stride)
                        if odd == 0 and j < view.Q:
                            acc += accum(columns[b, i, j, r, s, c])
            dX[b, h, w, c] = storage(times(acc, accum(X[b, h, w, c])))
    return col2im_gather


# ---- host side

def im2col(device, rung, precision, X, view, out=None):
    """The columns of X."""
    shape = X.shape[0] * view.P * view.Q, view.R * view.S * X.shape[3]
    out = device.empty(shape, precision.storage) if out is None else out
    device.launch(rung.variant(precision, stride=view.stride), (-(-shape[1] // BLOCK[0]), -(-shape[0] // BLOCK[1])),
                  BLOCK, X, view, out)
    return out


def col2im(device, rung, precision, columns, X, view, activation="identity", out=None):
    """dX, times the derivative at X of the activation that made X."""
    B, H, W, C = X.shape
    out = device.empty(X.shape, precision.storage) if out is None else out
    columns = columns.reshape(B, view.P, view.Q, view.R, view.S, C)
    device.launch(rung.variant(precision, stride=view.stride, activation=activation),
                  (-(-W * C // BLOCK[0]), -(-B * H // BLOCK[1])), BLOCK, columns, view, X, out)
    return out


# ---- as operations: 3 x 3 windows at stride 1

def near(X):
    return window(X.shape[1:3], (3, 3), padding="same")


def col2im_inputs(rng, shape, kind, precision):
    B, H, W, C = shape
    view = window((H, W), (3, 3), padding="same")
    return draw(rng, (B * H * W, view.R * view.S * C), kind, precision, 9), draw(rng, shape, "random", precision)


def taps(H, W):
    """Elements of all windows, in one channel, that lie in the image. Each pixel has a window; row r of it is
    |r - top| rows away from the pixel, and so outside of the image in that many of H windows."""
    view = window((H, W), (3, 3), padding="same")
    return sum(H - abs(r - view.top) for r in range(view.R)) * sum(W - abs(s - view.left) for s in range(view.S))


def im2col_cost(precision, B, H, W, C):
    view = window((H, W), (3, 3), padding="same")
    return {"flops": 0, "bytes": B * H * W * (1 + view.R * view.S) * C * precision.storage.bytes}


def col2im_cost(precision, B, H, W, C):
    return {"flops": B * taps(H, W) * C, "bytes": B * (taps(H, W) + H * W) * C * precision.storage.bytes}


about = dict(shapes=((1, 1, 1, 1), (2, 5, 7, 3), (1, 2, 4, 33), (3, 4, 1, 2)),
             bench_shapes={"smoke": (2, 16, 16, 8), "quick": (8, 32, 32, 32), "full": (128, 32, 32, 64)})

operation("im2col", cost=im2col_cost, inputs=lambda rng, shape, kind, p: (draw(rng, shape, kind, p),),
          oracle=lambda X: im2col_oracle(X.astype(np.float64), near(X)), error_bound=lambda p, X: 0.0,
          launch=lambda device, rung, p, X: im2col(device, rung, p, X, near(X)), **about)
operation("col2im", cost=col2im_cost, inputs=col2im_inputs,
          oracle=lambda columns, X: col2im_oracle(columns, X.shape, near(X)),
          error_bound=lambda p, columns, X: folded(p, Computed(columns, p.accum), X, near(X), "identity").error,
          launch=lambda device, rung, p, columns, X: col2im(device, rung, p, columns, X, near(X)), **about)
