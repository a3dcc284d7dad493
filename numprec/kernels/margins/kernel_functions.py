"""Kernel functions K(x, z) of the support vector machine (not CUDA kernels), for all pairs of rows of two matrices.

Idea       Another term and another epilogue make a kernel function of the matrix product, and every rung of its ladder
           comes with them.
Maths      linear   K[m, n] = <x_m, z_n>
           rbf      exp(-gamma |x_m - z_n|^2)
           poly     (gamma <x_m, z_n> + coef0)^degree
           sigmoid  tanh(gamma <x_m, z_n> + coef0)
Shapes     X (M, D), Z (N, D), K (M, N): storage, row-major. parameters (3,): gamma, coef0, degree, in any format
Mapping    that of matmul, of which these are variants: rbf adds up (x - z)^2 instead of x z, and an epilogue makes the
           function of the sum
Precision  |x - z|^2 is summed from differences, which do not cancel.
           Expanded to |x|^2 + |z|^2 - 2 <x, z>, it would be one matrix product,
           but for neighbours far from the origin the three terms cancel, and only their roundings would be left.
           With s the sum and b = gamma s + coef0, both with the errors of an inner product of D terms [1] and of a few
           operations on it,
             rbf      an error of b is a relative error of exp(-b): a distance of gamma |x - z|^2 = 10 in float16 costs
                      one of the three digits
             poly     |error| <= (|b| + |db|)^degree - |b|^degree, and degree - 1 roundings
             sigmoid  |error| <= |db|, since tanh never grows faster than its argument
           exp and tanh are trusted to two units in the last place. One rounding to storage at the end
Ladder     that of matmul
Cost       2 M N D flops and 2 + degree (poly) or 3 (sigmoid) for each result; rbf 3 M N D and 2; (M D + N D + M N)
           elements moved
Sources    [1] C.-P. Jeannerod and S. M. Rump, Improved error bounds for inner products in floating-point
               arithmetic, SIAM J. Matrix Anal. Appl. 34(2), 2013
           [2] B. Schoelkopf and A. J. Smola, Learning with Kernels, MIT Press 2002, section 2.3
"""
import math
from functools import partial
from typing import Callable, NamedTuple

import numpy as np
from numba import cuda, int32

from numprec.kernels.products import matmul
from numprec.language.ladder import draw, helper, operation
from numprec.precision import FORMATS

ULPS = 4                 # of exp and tanh, in units of u: two units in the last place
PATCH = 4                # of register_blocked: an epilogue of many instructions is not unrolled 64 times
GAMMA, COEF0, DEGREE = range(3)


# ---- what is added up, and what becomes of the sum

@helper
def squared_difference(p):
    @cuda.jit(device=True, forceinline=True)
    def squared_difference(acc, a, b):
        difference = a - b
        return acc + difference * difference
    return squared_difference


@helper
def gaussian(p):
    accum = p.accum

    @cuda.jit(device=True)
    def gaussian(acc, m, n, parameters):
        return math.exp(-(accum(parameters[GAMMA]) * acc))
    return gaussian


@helper
def power(p):
    accum = p.accum

    @cuda.jit(device=True)
    def power(acc, m, n, parameters):
        base = accum(parameters[GAMMA]) * acc + accum(parameters[COEF0])
        result = accum(1)
        for _ in range(int32(accum(parameters[DEGREE]))):
            result *= base
        return result
    return power


@helper
def tangent(p):
    accum = p.accum

    @cuda.jit(device=True)
    def tangent(acc, m, n, parameters):
        return math.tanh(accum(parameters[GAMMA]) * acc + accum(parameters[COEF0]))
    return tangent


class Function(NamedTuple):
    """A kernel function: factories of what a sum adds up and of its epilogue, as matmul takes them."""

    term: Callable
    epilogue: Callable


FUNCTIONS = {
    "linear": Function(matmul.product, matmul.identity),
    "rbf": Function(squared_difference, gaussian),
    "poly": Function(matmul.product, power),
    "sigmoid": Function(matmul.product, tangent),
}


@helper
def value(p):
    """value(X, m, n, parameters, which): K[m, n] of X with itself, the same bits that the kernels of matmul compute;
    `which` is the number of the kernel function in FUNCTIONS."""
    storage, compute, accum = p.storage, p.compute, p.accum
    times, square = matmul.product(p), squared_difference(p)
    gauss, raised, tanh = gaussian(p), power(p), tangent(p)
    RBF, POLY, SIGMOID = map(list(FUNCTIONS).index, ("rbf", "poly", "sigmoid"))

    @cuda.jit(device=True)
    def value(X, m, n, parameters, which):
        acc = accum(0)
        if which == RBF:
            for d in range(X.shape[1]):
                acc = square(acc, accum(compute(X[m, d])), accum(compute(X[n, d])))
            return storage(gauss(acc, m, n, parameters))
        for d in range(X.shape[1]):    # a loop for each term: a sum of one or the other would not be a multiply-add
            acc = times(acc, accum(compute(X[m, d])), accum(compute(X[n, d])))
        if which == POLY:
            acc = raised(acc, m, n, parameters)
        elif which == SIGMOID:
            acc = tanh(acc, m, n, parameters)
        return storage(acc)
    return value


# ---- oracles and bounds

def _wide(*arrays):
    return [np.asarray(a).astype(np.float64) for a in arrays]


def _distances(X, Z):
    """|x_m - z_n|^2, a row at a time."""
    return np.array([np.sum((x - Z) ** 2, axis=1) for x in X])


def rbf_oracle(X, Z, parameters):
    X, Z, (gamma, *_) = _wide(X, Z, parameters)
    return np.exp(-(gamma * _distances(X, Z)))


def poly_oracle(X, Z, parameters):
    X, Z, (gamma, coef0, degree) = _wide(X, Z, parameters)
    return (gamma * (X @ Z.T) + coef0) ** int(degree)


def sigmoid_oracle(X, Z, parameters):
    X, Z, (gamma, coef0, _) = _wide(X, Z, parameters)
    return np.tanh(gamma * (X @ Z.T) + coef0)


def oracle(function):
    """K by NumPy in float64, as a function of X, Z and the parameters."""
    return {"linear": lambda X, Z, _: matmul.oracle(X, np.transpose(Z)), "rbf": rbf_oracle, "poly": poly_oracle,
            "sigmoid": sigmoid_oracle}[function]


def _stored(precision, exact, error):
    """The bound after the rounding to storage."""
    storage = precision.storage
    return error + storage.u * (abs(exact) + error) + storage.eta / 2


def rbf_error_bound(precision, X, Z, parameters):
    accum, (gamma, *_) = precision.accum, _wide(parameters)[0]
    u, D = accum.u + FORMATS["float64"].u, X.shape[1]
    squares = _distances(*_wide(X, Z))
    relative = (1 + u) ** 2 * (1 + D * u) * (1 + u) - 1    # of gamma s: difference, squared; sum; product
    exact = np.exp(-gamma * squares)
    lost = gamma * D * accum.eta + accum.eta               # to underflow, in the exponent
    grown = np.where(gamma * squares <= 0, 1, np.exp(np.minimum(-gamma * squares * (1 - relative), 0)))
    error = grown * np.exp(lost) - exact
    error += ULPS * accum.u * (exact + error) + accum.eta
    # where the sum leaves the range of accum, the kernel's exp is 0
    infinite = squares * (1 + relative) > accum.max
    return _stored(precision, exact, np.where(infinite, np.maximum(error, exact), error))


def _base(precision, X, Z, parameters):
    """b and its error; infinite where the sum or b may leave the range of accum."""
    accum, (gamma, coef0, _) = precision.accum, _wide(parameters)[0]
    X, Z = _wide(X, Z)
    u, D = accum.u + FORMATS["float64"].u, X.shape[1]
    total, magnitude = X @ Z.T, abs(X) @ abs(Z).T
    error = abs(gamma) * D * (u * magnitude + accum.eta / 2)
    base = gamma * total + coef0
    error += 2 * u * (abs(gamma * total) + abs(base) + error) + accum.eta
    out = np.maximum((1 + D * u) * magnitude, abs(base) + error) > accum.max
    return base, np.where(out, np.inf, error)


def poly_error_bound(precision, X, Z, parameters):
    accum, degree = precision.accum, int(_wide(parameters)[0][DEGREE])
    base, error = _base(precision, X, Z, parameters)
    u = accum.u + FORMATS["float64"].u
    largest = (abs(base) + error) ** degree
    error = largest - abs(base) ** degree
    error += ((1 + u) ** degree - 1) * largest + degree * accum.eta * (1 + largest)
    error = np.where(np.maximum(largest, 1) * (1 + degree * u) > accum.max, np.inf, error)
    return _stored(precision, base ** degree, error)


def sigmoid_error_bound(precision, X, Z, parameters):
    accum = precision.accum
    base, error = _base(precision, X, Z, parameters)
    exact = np.tanh(base)
    error = np.minimum(error, 2)
    return _stored(precision, exact, error + ULPS * accum.u * (abs(exact) + error) + accum.eta)


# ---- host side

def launch(device, rung, precision, X, Z, parameters, function="rbf", out=None):
    """K (M, N), a new array or `out`; `rung` is one of matmul."""
    chosen = FUNCTIONS[function]
    return matmul.launch(device, rung, precision, X, Z, transpose_b=True, term=chosen.term, epilogue=chosen.epilogue,
                         extra=parameters, out=out, patch=PATCH)


def cost(each, precision, M, N, D):
    """`each(D)` flops for each result."""
    return {"flops": M * N * each(D), "bytes": (M * D + N * D + M * N) * precision.storage.bytes}


def inputs(rng, shape, kind, precision):
    """gamma is near 1/D, as it is in use."""
    M, N, D = shape
    X, Z = (draw(rng, (rows, D), kind, precision, D, 2) for rows in (M, N))
    return X, Z, np.array([1 / D, 0.25, 3])


about = dict(
    operands=(0, 1), ladder="matmul", inputs=inputs,
    shapes=((1, 1, 1), (2, 3, 5), (17, 15, 31), (65, 63, 4), (2, 3, 4096)),
    bench_shapes={"smoke": (150, 150, 4), "quick": (512, 512, 64), "full": (4096, 4096, 784)})

operation("rbf", oracle=rbf_oracle, error_bound=rbf_error_bound, launch=launch,
          cost=partial(cost, lambda D: 3 * D + 2), **about)
operation("poly", oracle=poly_oracle, error_bound=poly_error_bound, launch=partial(launch, function="poly"),
          cost=partial(cost, lambda D: 2 * D + 5), **about)
operation("sigmoid", oracle=sigmoid_oracle, error_bound=sigmoid_error_bound,
          cost=partial(cost, lambda D: 2 * D + 3), launch=partial(launch, function="sigmoid"), **about)
