"""Dense layers: bias and activation on top of the matrix product, and the gradients.

Idea       Bias, activation and derivative are an epilogue of the product, applied while the sum is in its register: no
           pass over memory of their own.
Maths      Y = f(X W + b);  dW = X^T dZ;  db[n] = sum over m of dZ[m, n];  dX = (dZ W^T) * g(X)
           with f the activation, dZ the gradient of what goes into f, and g(X) the derivative of the activation that
           made X, expressed by its value: 1 - x^2 for tanh, x (1 - x) for the logistic function, [x > 0] for relu
Shapes     X (M, K), W (K, N), b (N,), Y and dZ (M, N): storage, row-major; any M, N, K >= 1
Mapping    products as in matmul, with bias and activation, or the derivative, in the epilogue: on the sum in its
           register, and so without a pass over memory of their own. Column sums: n along x
Precision  a sum takes its bias and its function in accum, and is rounded to storage once
Ladder     bias_gradient   column   a thread adds up a column
                           strips   the rows are shared out: threads, then blocks, and a second launch adds their sums
           the products climb the ladder of matmul
Cost       products as in matmul, and M N additions of the bias (relu and its derivative are comparisons); column sums
           M N additions; the derivative of tanh 3 M N
Sources    D. E. Rumelhart, G. E. Hinton and R. J. Williams, Learning representations by back-propagating errors,
               Nature 323, 1986
           X. Glorot and Y. Bengio, Understanding the difficulty of training deep feedforward neural networks,
               AISTATS 2010, section 4.2.1
"""
import math
from typing import Callable, NamedTuple

import numpy as np
from numba import cuda

from numprec.kernels.products import matmul
from numprec.kernels.reductions.collectives import WARP, halving, merge_rows
from numprec.language.errors import Computed
from numprec.language.ladder import draw, helper, operation, rung

THREADS = 128            # per block, of the column-wise and element-wise kernels
LANES = 8                # strips: threads that share a column
EACH = 64                # strips: rows per thread before another block pays


# ---- activations: f(p) makes the value, g(p) multiplies a gradient by the derivative at a value

@helper
def identity(p):
    @cuda.jit(device=True)
    def identity(x):
        return x
    return identity


@helper
def identity_gradient(p):
    @cuda.jit(device=True)
    def identity_gradient(dy, y):
        return dy
    return identity_gradient


@helper
def relu(p):
    accum = p.accum

    @cuda.jit(device=True)
    def relu(x):
        return accum(0) if x < accum(0) else x    # a NaN stays one
    return relu


@helper
def relu_gradient(p):
    accum = p.accum

    @cuda.jit(device=True)
    def relu_gradient(dy, y):
        return accum(0) if y <= accum(0) else dy
    return relu_gradient


@helper
def tanh(p):
    @cuda.jit(device=True)
    def tanh(x):
        return math.tanh(x)
    return tanh


@helper
def tanh_gradient(p):
    accum = p.accum

    @cuda.jit(device=True)
    def tanh_gradient(dy, y):
        return dy * (accum(1) - y * y)
    return tanh_gradient


@helper
def logistic(p):
    accum = p.accum

    @cuda.jit(device=True)
    def logistic(x):
        e = math.exp(-abs(x))    # never overflows
        return (accum(1) if x >= accum(0) else e) / (accum(1) + e)
    return logistic


@helper
def logistic_gradient(p):
    accum = p.accum

    @cuda.jit(device=True)
    def logistic_gradient(dy, y):
        return dy * (y * (accum(1) - y))
    return logistic_gradient


class Activation(NamedTuple):
    """`value` and `gradient` as above; `f` and `g` the same in NumPy; `slope` the largest derivative."""

    value: Callable
    gradient: Callable
    f: Callable
    g: Callable
    slope: float


ACTIVATIONS = {
    "identity": Activation(identity, identity_gradient, lambda x: x, np.ones_like, 1),
    "relu": Activation(relu, relu_gradient, lambda x: np.maximum(x, 0), lambda y: np.where(y <= 0, 0.0, 1.0), 1),
    "tanh": Activation(tanh, tanh_gradient, np.tanh, lambda y: 1 - y * y, 1),
    "logistic": Activation(logistic, logistic_gradient, lambda x: np.exp(-np.logaddexp(0, -x)),
                           lambda y: y * (1 - y), 0.25),
}


def initial_bound(activation, inputs, outputs):
    """Initial weights come from a uniform distribution within this bound (Glorot and Bengio, as in scikit-learn)."""
    return math.sqrt((2 if activation == "logistic" else 6) / (inputs + outputs))


def _epilogues(name):
    """The two epilogues of matmul for an activation: bias and value; derivative."""
    value, gradient = ACTIVATIONS[name].value, ACTIVATIONS[name].gradient

    def biased(p):
        accum, f = p.accum, value(p)

        @cuda.jit(device=True)
        def biased(acc, m, n, b):
            return f(acc + accum(b[n]))
        return biased

    def differentiated(p):
        accum, times = p.accum, gradient(p)

        @cuda.jit(device=True)
        def differentiated(acc, m, n, X):
            return times(acc, accum(X[m, n]))
        return differentiated
    return biased, differentiated


EPILOGUES = {name: _epilogues(name) for name in ACTIVATIONS}


# ---- oracles: the maths lines, in fp64, on the operands that the kernels receive; bounds

def oracle(X, W, b):
    return np.maximum(matmul.oracle(X, W) + b.astype(np.float64), 0)


def input_gradient_oracle(dZ, W, X):
    return np.where(X.astype(np.float64) > 0, matmul.oracle(dZ, W.T), 0)


def bias_gradient_oracle(dZ):
    return dZ.astype(np.float64).sum(axis=0)


def activation_gradient_oracle(dY, Y):
    return dY.astype(np.float64) * ACTIVATIONS["tanh"].g(Y.astype(np.float64))


def product(precision, A, B):
    """A B as the kernel has it in accum, before anything is done to it."""
    accum, K = precision.accum, A.shape[1]
    magnitude = matmul.oracle(abs(A), abs(B))
    return Computed(matmul.oracle(A, B), accum, K * ((accum.u + Computed.oracle_u) * magnitude + accum.eta))


def activated(precision, X, W, b, activation):
    f = ACTIVATIONS[activation]
    return (product(precision, X, W) + b).apply(f.f, f.slope).to(precision.storage)


def differentiated(precision, dZ, W, X, activation):
    g = ACTIVATIONS[activation].g
    # y (1 - y) and 1 - y y, in accum; at most three roundings of something no larger than 1 where |y| <= 1
    slope = Computed(g(X.astype(np.float64)), precision.accum, 3 * precision.accum.u * (1 + X.astype(np.float64) ** 2))
    return (product(precision, dZ, W.T) * slope).to(precision.storage)


def activation_gradient_error_bound(precision, dY, Y):
    y = Computed(Y, precision.accum)
    return (Computed(dY, precision.accum) * (1 - y * y)).to(precision.storage).error


def bias_gradient_error_bound(precision, dZ):
    return Computed(dZ, precision.accum).sum(axis=0).to(precision.storage).error


# ---- the derivative by itself

@rung(of="activation_gradient")
def elementwise(p, activation="tanh"):
    storage, accum, times = p.storage, p.accum, ACTIVATIONS[activation].gradient(p)

    @cuda.jit
    def activation_gradient_elementwise(dY, Y, dZ):
        i = cuda.grid(1)
        if i < Y.size:
            dZ[i] = storage(times(accum(dY[i]), accum(Y[i])))
    return activation_gradient_elementwise


# ---- column sums, slowest first. The elements of X may be those of any format; `last` rounds to storage, not accum

@rung(of="bias_gradient")
def column(p, last=True):
    accum, result = p.accum, p.storage if last else p.accum

    @cuda.jit
    def bias_gradient_column(X, out):
        n = cuda.grid(1)
        M, N = X.shape
        if n < N:
            acc = accum(0)
            for m in range(M):
                acc += accum(X[m, n])
            out[0, n] = result(acc)
    return bias_gradient_column


@rung(of="bias_gradient")
def strips(p, last=True):
    accum, result = p.accum, p.storage if last else p.accum
    halve = halving(p, merge_rows[p], LANES, WARP)

    @cuda.jit
    def bias_gradient_strips(X, out):
        """Block row y takes every gridDim.y-th group of LANES rows, and leaves its sums in row y of `out`."""
        part_s = cuda.shared.array((LANES, WARP), accum)
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        n, first = cuda.grid(2)
        M, N = X.shape
        acc = accum(0)
        if n < N:
            for m in range(first, M, cuda.gridDim.y * LANES):
                acc += accum(X[m, n])
        part_s[ty, tx] = acc
        halve(part_s)
        if ty == 0 and n < N:
            out[cuda.blockIdx.y, n] = result(part_s[0, tx])
    return bias_gradient_strips


# ---- host side

def forward(device, rung, precision, X, W, b, activation="relu", out=None):
    """Y = f(X W + b)."""
    return matmul.launch(device, rung, precision, X, W, epilogue=EPILOGUES[activation][0], extra=b, out=out)


def weight_gradient(device, rung, precision, X, dZ, out=None):
    """dW = X^T dZ."""
    return matmul.launch(device, rung, precision, X, dZ, transpose_a=True, out=out)


def input_gradient(device, rung, precision, dZ, W, X, activation="relu", out=None):
    """dX = (dZ W^T) * g(X)."""
    return matmul.launch(device, rung, precision, dZ, W, transpose_b=True, epilogue=EPILOGUES[activation][1], extra=X,
                         out=out)


def bias_gradient(device, rung, precision, dZ, out=None, buffer=None):
    """db, the column sums of dZ. `buffer(shape, fmt)` is where partial sums come from."""
    M, N = dZ.shape
    buffer = buffer or device.empty
    out = buffer((N,), precision.storage) if out is None else out
    last = rung.variant(precision, last=True)
    if rung is column:
        device.launch(last, -(-N // THREADS), THREADS, dZ, out.reshape(1, N))
        return out
    blocks, rows, block = -(-N // WARP), min(-(-M // (LANES * EACH)), LANES * EACH), (WARP, LANES)
    if rows > 1:
        parts = buffer((rows, N), precision.accum)
        device.launch(rung.variant(precision, last=False), (blocks, rows), block, dZ, parts)
        dZ = parts
    device.launch(last, (blocks, 1), block, dZ, out.reshape(1, N))
    return out


def differentiate(device, precision, dY, Y, activation="tanh", out=None):
    """dZ = dY * g(Y), element by element, for layers whose kernels cannot do it on the way."""
    out = device.empty(Y.shape, precision.storage) if out is None else out
    device.launch(elementwise.variant(precision, activation=activation), -(-Y.size // THREADS), THREADS,
                  dY.reshape(-1), Y.reshape(-1), out.reshape(-1))
    return out


def forward_inputs(rng, shape, kind, precision):
    M, N, K = shape
    X, W = matmul.inputs(rng, shape, kind, precision)
    return X, W, draw(rng, (N,), kind, precision, 4)


def backward_inputs(rng, shape, kind, precision):
    M, N, K = shape
    dZ, W = matmul.inputs(rng, shape, kind, precision)
    return dZ, np.ascontiguousarray(W.T), np.maximum(rng.standard_normal((M, N)), 0)


products = dict(shapes=((1, 1, 1), (17, 15, 31), (65, 10, 130)),
                bench_shapes={"smoke": (64, 64, 64), "quick": (128, 256, 784), "full": (8192, 1024, 1024)})

operation(
    "dense", ladder="matmul", operands=(0, 1), inputs=forward_inputs, launch=forward, **products,
    oracle=oracle,
    error_bound=lambda precision, X, W, b: activated(precision, X, W, b, "relu").error,
    cost=lambda p, M, N, K: {"flops": M * N * (2 * K + 1), "bytes": (M * K + K * N + N + M * N) * p.storage.bytes})
operation(
    "dense_input_gradient", ladder="matmul", operands=(0, 1), inputs=backward_inputs, launch=input_gradient, **products,
    oracle=input_gradient_oracle,
    error_bound=lambda precision, dZ, W, X: differentiated(precision, dZ, W, X, "relu").error,
    cost=lambda p, M, N, K: {"flops": 2 * M * N * K, "bytes": (M * K + K * N + 2 * M * N) * p.storage.bytes})
operation(
    "bias_gradient", inputs=lambda rng, shape, kind, p: (draw(rng, shape, kind, p, shape[0]),),
    oracle=bias_gradient_oracle, error_bound=bias_gradient_error_bound, launch=bias_gradient,
    cost=lambda p, M, N: {"flops": M * N, "bytes": (M * N + N) * p.storage.bytes},
    shapes=((1, 1), (7, 3), (513, 33), (1030, 5)),
    bench_shapes={"smoke": (128, 64), "quick": (4096, 256), "full": (131072, 256)})
operation(
    "activation_gradient", inputs=lambda rng, shape, kind, p: (draw(rng, shape, kind, p), rng.uniform(-1, 1, shape)),
    oracle=activation_gradient_oracle, error_bound=activation_gradient_error_bound,
    launch=lambda device, rung, precision, dY, Y: differentiate(device, precision, dY, Y),
    cost=lambda p, M, N: {"flops": 3 * M * N, "bytes": 3 * M * N * p.storage.bytes},
    shapes=((1, 1), (3, 5), (33, 129)),
    bench_shapes={"smoke": (64, 64), "quick": (128, 256), "full": (8192, 1024)})
