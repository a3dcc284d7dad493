"""Convolution, forward and backward.

Idea       A convolution is a matrix product, whose tiles share pixels and filters among a block: of windows written to
           memory, or of windows found while the tiles are filled.
Maths      Z[b, p, q, o]  = f(bias[o] + sum over r, s, c of X[b, p t + r - top, q t + s - left, c] F[r, s, c, o])
           dF[r, s, c, o] = sum over b, p, q of X[b, p t + r - top, q t + s - left, c] dZ[b, p, q, o]
           dX[b, h, w, c] = g(X[b, h, w, c]) sum over r, s, o of dZ[b, (h + top - r) / t, (w + left - s) / t, o]
                            F[r, s, c, o], where both quotients are whole numbers inside [0, P) x [0, Q)
           (strictly, a correlation) with X 0 outside of the image, activation f, and g as in `dense`. The bias has the
           gradient of a dense layer's: the column sums of dZ
Shapes     X (B, H, W, C), F (R, S, C, O), bias (O,), Z (B, P, Q, O): storage, row-major, channels last. Stride t and
           padding (top, left) as in `im2col`. Any B, H, W, C, R, S, O >= 1
Mapping    rows (b, p, q) of results along grid y, output channels along x, as in matmul
Precision  sums in accum, of R S C, B P Q and R S O products; bias, f and g on the sum; one rounding to storage. The
           rung `unfolded` rounds the R S columns of dX's windows to storage before it adds them up. Bounds as in matmul
Ladder     direct     a thread per result reads its window and its filter from global memory (forward only)
           unfolded   im2col and a matrix product: tiles are shared, for R S times the image in memory
           implicit   the matrix product computes where its elements lie; nothing is unfolded
Cost       2 C O flops for each element of a window that lies in the image, and B P Q O for the bias; X, F, bias and Z
           moved, or X, dZ and dF, or dZ, F, X and dX
Try        python -m numprec.kernels conv --operation conv --rung implicit
           Unfolded, a result takes 1.86 sectors: each pixel is written to 9 windows and read back. What is left of that
           where the windows are never written? Answer: implicit, sectors: 0.84.
Sources    I. Goodfellow, Y. Bengio and A. Courville, Deep Learning, MIT Press 2016, sections 9.1 and 9.5
           K. Chellapilla, S. Puri and P. Simard, High performance convolutional neural networks for document
               processing, IWFHR 2006
           S. Chetlur et al., cuDNN: Efficient primitives for deep learning, arXiv:1410.0759, 2014, section 3
"""
import numpy as np
from numba import cuda, uint32

from numprec.kernels.images import im2col
from numprec.kernels.images.im2col import im2col_oracle, near, taps, window
from numprec.kernels.images.implicit import SIDE, THREADS, convolve, patch_width, weights
from numprec.kernels.networks import dense
from numprec.kernels.products import matmul
from numprec.kernels.products.matmul import BLOCK, PATCH
from numprec.language.ladder import draw, operation, rung
from numprec.precision import PRECISIONS

AREA = 16, 16            # direct: threads per block, along o and (b, p, q)
ROWS = 1024              # implicit: rows per block of the weight gradient, at least
ENOUGH = 256             # implicit: blocks that keep a card busy


# ---- oracles, in fp64, on the operands that the kernels receive; bounds

def columns_of(X, view):
    return im2col_oracle(X.astype(np.float64), view)


def matrix(F):
    """(R S C, O)."""
    return F.reshape(-1, F.shape[-1]).astype(np.float64)


def oracle(X, F, bias, view, activation="relu"):
    f = dense.ACTIVATIONS[activation].f
    return f(columns_of(X, view) @ matrix(F) + bias.astype(np.float64)).reshape(len(X), view.P, view.Q, -1)


def error_bound(precision, X, F, bias, view, activation="relu"):
    result = dense.activated(precision, columns_of(X, view), matrix(F), bias.astype(np.float64), activation)
    return result.error.reshape(len(X), view.P, view.Q, -1)


def weight_error_bound(precision, X, dZ, view):
    return dense.product(precision, columns_of(X, view).T, matrix(dZ)).to(precision.storage).error


def input_computed(precision, dZ, F, X, view, activation="relu"):
    """Each of the products R S O adds an error of its magnitude, and each of the columns a rounding to storage."""
    columns = dense.product(precision, matrix(dZ), matrix(F).T).to(precision.storage)
    columns.error = columns.error * view.R * view.S
    return im2col.folded(precision, columns, X, view, activation)


# ---- kernels, slowest first

@rung
def direct(p, stride=1, activation="relu"):
    storage, compute, accum = p.storage, p.compute, p.accum
    f = dense.ACTIVATIONS[activation].value(p)

    @cuda.jit
    def conv_direct(X, F, bias, view, Z):
        o, m = cuda.grid(2)
        B, P, Q, O = Z.shape    # noqa: E741
        R, S, C = F.shape[0], F.shape[1], F.shape[2]
        if m < B * P * Q and o < O:
            b, i, j = uint32(m // (P * Q)), uint32(m // Q % P), uint32(m % Q)
            acc = accum(0)
            for r in range(R):
                h = uint32(i * stride + r - view.top)    # wraps around, to beyond the image, where negative
                for s in range(S):
                    w = uint32(j * stride + s - view.left)
                    if h < X.shape[1] and w < X.shape[2]:
                        for c in range(C):
                            acc += accum(compute(X[b, h, w, c])) * accum(compute(F[r, s, c, o]))
            Z[b, i, j, o] = storage(f(acc + accum(bias[o])))
    return conv_direct


def unfolded(p):
    """No kernel of its own: im2col's or col2im's, and matmul's."""


def implicit(p, product="forward", stride=1, patch=PATCH, activation="relu"):
    if product == "weights":
        return weights(p, stride, patch)
    backward = product == "input"
    return convolve(p, stride, backward, patch, dense.EPILOGUES[activation][backward])


for _ladder in "conv", "conv_weight_gradient", "conv_input_gradient":
    for _factory in unfolded, implicit:
        rung(of=_ladder)(_factory)


# ---- host side

def forward(device, rung, precision, X, F, bias, view, activation="relu", out=None, buffer=None):
    """Z. `buffer(shape, fmt)` is where scratch comes from."""
    R, S, stride, _, _, P, Q = view
    O, buffer = F.shape[3], buffer or device.empty    # noqa: E741
    Z = device.empty((X.shape[0], P, Q, O), precision.storage) if out is None else out
    rows = X.shape[0] * P * Q
    if rung is direct:
        device.launch(rung.variant(precision, stride=stride, activation=activation),
                      (-(-O // AREA[0]), -(-rows // AREA[1])), AREA, X, F, bias, view, Z)
    elif rung.name == "unfolded":
        columns = buffer((rows, R * S * X.shape[3]), precision.storage)
        im2col.im2col(device, im2col.elementwise, precision, X, view, out=columns)
        dense.forward(device, matmul.register_blocked, precision, columns, F.reshape(-1, O), bias, activation,
                      out=Z.reshape(rows, O))
    else:
        patch = patch_width(O)
        kernel = rung.variant(precision, product="forward", stride=stride, patch=patch, activation=activation)
        device.launch(kernel, (-(-O // (SIDE * patch)), -(-rows // BLOCK)), THREADS,
                      X, F.reshape(R * S, -1, O), view, Z.reshape(rows, O), bias)
    return Z


def weight_gradient(device, rung, precision, X, dZ, view, out=None, buffer=None):
    """dF."""
    R, S, stride, _, _, P, Q = view
    C, O, buffer = X.shape[3], dZ.shape[3], buffer or device.empty    # noqa: E741
    dF = device.empty((R, S, C, O), precision.storage) if out is None else out
    rows, K = X.shape[0] * P * Q, R * S * C
    if rung.name == "unfolded":
        columns = buffer((rows, K), precision.storage)
        im2col.im2col(device, im2col.elementwise, precision, X, view, out=columns)
        dense.weight_gradient(device, matmul.register_blocked, precision, columns, dZ.reshape(rows, O),
                              out=dF.reshape(K, O))
        return dF
    patch = patch_width(O)
    blocks = -(-O // (SIDE * patch)), -(-K // BLOCK)
    splits = max(1, min(-(-ENOUGH // (blocks[0] * blocks[1])), -(-rows // ROWS)))
    strip = -(-rows // (splits * matmul.DEPTH)) * matmul.DEPTH    # rows a block
    parts = buffer((-(-rows // strip), K, O), precision.accum)
    kernel = rung.variant(precision, product="weights", stride=stride, patch=patch)
    device.launch(kernel, (*blocks, parts.shape[0]), THREADS, X, dZ.reshape(rows, O), view, strip, parts)
    dense.bias_gradient(device, dense.column, precision, parts.reshape(-1, K * O), out=dF.reshape(-1))
    return dF


def input_gradient(device, rung, precision, dZ, F, X, view, activation="relu", out=None, buffer=None):
    """dX, times the derivative at X of the activation that made X."""
    R, S, stride, _, _, P, Q = view
    (B, H, W, C), O, buffer = X.shape, F.shape[3], buffer or device.empty    # noqa: E741
    dX = device.empty(X.shape, precision.storage) if out is None else out
    if rung.name == "unfolded":
        columns = buffer((B * P * Q, R * S * C), precision.storage)
        matmul.launch(device, matmul.register_blocked, precision, dZ.reshape(-1, O), F.reshape(-1, O),
                      transpose_b=True, out=columns)
        return im2col.col2im(device, im2col.gather, precision, columns, X, view, activation, out=dX)
    patch = patch_width(C)
    kernel = rung.variant(precision, product="input", stride=stride, patch=patch, activation=activation)
    device.launch(kernel, (-(-C // (SIDE * patch)), -(-B * H * W // BLOCK)), THREADS,
                  dZ, F.reshape(R * S, C, O), view._replace(P=H, Q=W), dX.reshape(-1, C), X.reshape(-1, C))
    return dX


# ---- as operations: 3 x 3 windows, as many as pixels

def layers(rng, shape, kind, precision):
    """X, F, bias, dZ."""
    B, H, W, C, O = shape    # noqa: E741
    view = near(np.empty((B, H, W, C)))
    X = draw(rng, (B, H, W, C), kind, precision, view.R * view.S * C, 2)
    F = draw(rng, (view.R, view.S, C, O), "random" if kind == "subnormal" else kind, precision, view.R * view.S * C, 2)
    dZ = draw(rng, (B, H, W, O), "random" if kind == "subnormal" else kind, precision, 2 * B * H * W, 2)
    return X, F / (F.size if kind == "subnormal" else 1), draw(rng, (O,), kind, precision, 4), dZ


def product_cost(precision, B, H, W, C, O, images):    # noqa: E741
    """Of one of the three products. `images` are the elements that it moves besides the filter, for each pixel."""
    view = window((H, W), (3, 3), padding="same")
    return {"flops": 2 * B * taps(H, W) * C * O,
            "bytes": (B * H * W * images + view.R * view.S * C * O) * precision.storage.bytes}


def cost(precision, B, H, W, C, O):    # noqa: E741
    product = product_cost(precision, B, H, W, C, O, C + O)
    return {"flops": product["flops"] + B * H * W * O, "bytes": product["bytes"] + O * precision.storage.bytes}


def weight_cost(precision, B, H, W, C, O):    # noqa: E741
    return product_cost(precision, B, H, W, C, O, C + O)


def input_cost(precision, B, H, W, C, O):    # noqa: E741
    return product_cost(precision, B, H, W, C, O, 2 * C + O)


backward = dict(cost_differs="The columns of all windows are written and read again, zeros outside of the image are "
                             "multiplied as well, and so are those that fill up a tile.")
about = dict(shapes=((1, 1, 1, 1, 1), (2, 5, 7, 3, 33), (1, 2, 6, 17, 5), (3, 1, 9, 2, 70), (9, 1, 1, 3, 70)),
             bench_shapes={"smoke": (2, 8, 8, 4, 8), "quick": (4, 32, 32, 32, 32), "full": (128, 32, 32, 64, 64)})

operation(
    "conv", operands=(0, 1), inputs=lambda *problem: layers(*problem)[:3], cost=cost, **about,
    oracle=lambda X, F, bias: oracle(X, F, bias, near(X)),
    error_bound=lambda p, X, F, bias: error_bound(p, X, F, bias, near(X)),
    launch=lambda device, rung, p, X, F, bias: forward(device, rung, p, X, F, bias, near(X)))
operation(
    "conv_weight_gradient", operands=(0, 1), inputs=lambda *problem: layers(*problem)[::3], cost=weight_cost,
    **backward, **about,
    oracle=lambda X, dZ: columns_of(X, near(X)).T @ matrix(dZ),
    error_bound=lambda p, X, dZ: weight_error_bound(p, X, dZ, near(X)),
    launch=lambda device, rung, p, X, dZ: weight_gradient(device, rung, p, X, dZ, near(X)).reshape(-1, dZ.shape[-1]))
operation(
    "conv_input_gradient", operands=(0, 1), cost=input_cost,
    inputs=lambda *problem: layers(*problem)[3:0:-2] + layers(*problem)[:1], **backward, **about,
    oracle=lambda dZ, F, X: input_computed(PRECISIONS["fp64"], dZ, F, X, near(X)).exact,
    error_bound=lambda p, dZ, F, X: input_computed(p, dZ, F, X, near(X)).error,
    launch=lambda device, rung, p, dZ, F, X: input_gradient(device, rung, p, dZ, F, X, near(X)))
