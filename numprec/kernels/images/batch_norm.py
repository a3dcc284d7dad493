"""Batch normalisation: each channel of a batch is centred and scaled, and learns a scale and a shift of its own.

Idea       What an element needs of its whole column are four numbers: sums by strips of rows first, then a thread for
           each element.
Maths      u[m, c] = (X[m, c] - mean[c]) / sqrt(var[c] + epsilon), with the moments of `batch_moments`
           Y[m, c] = f(gamma[c] u[m, c] + beta[c])
           dbeta[c] = sum of dZ[m, c];  dgamma[c] = sum of dZ[m, c] u[m, c];  over the rows m < n
           dX[m, c] = g gamma[c] / sqrt(var[c] + epsilon) (dZ[m, c] - dbeta[c] / n - u[m, c] dgamma[c] / n)
           with f and g as in `dense`. Y and dX are 0 in the rows from n on, which pad a batch
Shapes     X, Y, dZ, dX (M, C): storage, a row for each pixel of each sample; gamma, beta, dgamma, dbeta (C,): storage;
           mean, var (C,): accum; n as in `batch_moments`
Mapping    c along x; an element to a thread. Sums as in `batch_moments`: strips of rows, and a second launch
Precision  in accum; epsilon is 1e-5, or u of accum where that is larger. One rounding to storage.
Ladder     one step each
Cost       4 M C flops, X read and Y written; backward 9 M C (u 2, sums 3, dX 4), X and dZ read and dX written
Sources    S. Ioffe and C. Szegedy, Batch normalization: accelerating deep network training by reducing internal
               covariate shift, ICML 2015, section 3
"""
import math

import numpy as np
from numba import cuda

from numprec.kernels.images.batch_moments import STRIP, batch, described, in_strips, strips_of
from numprec.kernels.images.im2col import derivative
from numprec.kernels.networks import dense
from numprec.kernels.networks.batch import State
from numprec.kernels.networks.dense import LANES, THREADS
from numprec.kernels.reductions.collectives import WARP, column_sum
from numprec.language.errors import Computed
from numprec.language.formats import constant
from numprec.language.ladder import draw, operation, rung

DBETA, DGAMMA = range(2)     # of a strip, in parts[strip]


def epsilon(precision):
    """Added to a variance."""
    return max(1e-5, precision.accum.u)


# ---- oracles: the maths lines, in fp64, by operations that carry their error bound

def unit_computed(precision, X, mean, var):
    """(u, 1 / sqrt(var + epsilon))."""
    root = (Computed(var, precision.accum) + float(precision.accum.round(epsilon(precision)))).sqrt()
    inverse = Computed(1.0, precision.accum) / root
    return (Computed(X, precision.accum) - mean.astype(np.float64)) * inverse, inverse


def computed(precision, X, mean, var, gamma, beta, n, activation="relu"):
    f = dense.ACTIVATIONS[activation]
    y = unit_computed(precision, X, mean, var)[0] * gamma.astype(np.float64) + beta.astype(np.float64)
    return padded(y.apply(f.f, f.slope).to(precision.storage), n)


def gradient_computed(precision, dZ, X, mean, var, gamma, n, activation="relu"):
    """(dX, dgamma, dbeta)."""
    accum, storage = precision.accum, precision.storage
    u, inverse = unit_computed(precision, X, mean, var)
    dz = Computed(dZ, accum)
    sums = []
    for term in dz * u, dz:
        known = Computed(term.exact[:n], accum, term.error[:n])
        sums.append(known.sum(axis=0))
    dgamma, dbeta = sums
    strips = in_strips(accum, n)
    dx = (dz - dbeta / STRIP / strips - u * (dgamma / STRIP / strips)) * (inverse * gamma.astype(np.float64))
    dx = (dx * derivative(precision, X, activation)).to(storage)
    return padded(dx, n), dgamma.to(storage), dbeta.to(storage)


def padded(result, n):
    result.exact[n:], result.error[n:] = 0, 0
    return result


# ---- kernels

@rung(of="batch_norm")
def elementwise(p, activation="relu"):
    storage, accum, f = p.storage, p.accum, dense.ACTIVATIONS[activation].value(p)
    eps = constant(accum, epsilon(p))

    @cuda.jit
    def batch_norm_elementwise(X, mean, var, gamma, beta, state, rows_per_sample, Y):
        i = cuda.grid(1)
        C = X.shape[1]
        if i < X.size:
            m, c = i // C, i % C
            if m < state[State.COUNT] * rows_per_sample:
                u = (accum(X[m, c]) - accum(mean[c])) * (accum(1) / math.sqrt(accum(var[c]) + eps()))
                Y[m, c] = storage(f(accum(gamma[c]) * u + accum(beta[c])))
            else:
                Y[m, c] = storage(0)
    return batch_norm_elementwise


@rung(of="batch_norm_gradient")
def strips(p, activation="relu"):
    storage, accum, over_lanes, count = p.storage, p.accum, column_sum(p, LANES, WARP), strips_of[p]
    times, eps = dense.ACTIVATIONS[activation].gradient(p), constant(accum, epsilon(p))

    @cuda.jit
    def batch_norm_sums(dZ, X, mean, var, state, rows_per_sample, parts):
        """Strip y leaves its sums in parts[y]."""
        part_s = cuda.shared.array((LANES, WARP), accum)
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        c = cuda.blockIdx.x * WARP + tx
        first = cuda.blockIdx.y * STRIP
        dbeta, dgamma = accum(0), accum(0)
        if c < X.shape[1]:
            inverse = accum(1) / math.sqrt(accum(var[c]) + eps())
            for m in range(first + ty, min(first + STRIP, state[State.COUNT] * rows_per_sample), LANES):
                dbeta += accum(dZ[m, c])
                dgamma += accum(dZ[m, c]) * ((accum(X[m, c]) - accum(mean[c])) * inverse)
        dbeta = over_lanes(dbeta, part_s)
        dgamma = over_lanes(dgamma, part_s)
        if ty == 0 and c < X.shape[1]:
            parts[cuda.blockIdx.y, DBETA, c], parts[cuda.blockIdx.y, DGAMMA, c] = dbeta, dgamma

    @cuda.jit
    def batch_norm_combine(parts, sums, dgamma, dbeta):
        """A thread a column; `sums` keeps in accum what the gradients round to storage."""
        c = cuda.grid(1)
        if c < dbeta.size:
            b, g = accum(0), accum(0)
            for strip in range(parts.shape[0]):
                b += parts[strip, DBETA, c]
                g += parts[strip, DGAMMA, c]
            sums[DBETA, c], sums[DGAMMA, c] = b, g
            dbeta[c], dgamma[c] = storage(b), storage(g)

    @cuda.jit
    def batch_norm_gradient(dZ, X, mean, var, gamma, sums, state, rows_per_sample, dX):
        """Many arguments: the formula of dX has as many operands."""
        i = cuda.grid(1)
        C = X.shape[1]
        if i < X.size:
            m, c = i // C, i % C
            n = state[State.COUNT] * rows_per_sample
            if m < n:
                inverse = accum(1) / math.sqrt(accum(var[c]) + eps())
                x = accum(X[m, c])
                u = (x - accum(mean[c])) * inverse
                # sums / n, where n itself may be out of range
                dbeta, dgamma = sums[DBETA, c] / accum(STRIP) / count(n), sums[DGAMMA, c] / accum(STRIP) / count(n)
                dx = accum(dZ[m, c]) - dbeta - u * dgamma
                dX[m, c] = storage(times(dx * (inverse * accum(gamma[c])), x))
            else:
                dX[m, c] = storage(0)
    return batch_norm_sums, batch_norm_combine, batch_norm_gradient


# ---- host side

def forward(device, rung, precision, X, mean, var, gamma, beta, state, rows_per_sample, activation="relu", out=None):
    """Y."""
    Y = device.empty(X.shape, precision.storage) if out is None else out
    device.launch(rung.variant(precision, activation=activation), -(-X.size // THREADS), THREADS,
                  X, mean, var, gamma, beta, state, rows_per_sample, Y)
    return Y


def gradient(device, rung, precision, dZ, X, mean, var, gamma, state, rows_per_sample, activation="relu", out=None,
             buffer=None):
    """(dX, dgamma, dbeta); dX times the derivative at X of the activation that made X."""
    (M, C), buffer = X.shape, buffer or device.empty
    dX, dgamma, dbeta = out or [device.empty(shape, precision.storage) for shape in (X.shape, (C,), (C,))]
    parts, sums = buffer((-(-M // STRIP), 2, C), precision.accum), buffer((2, C), precision.accum)
    add, combine, differentiate = rung.variant(precision, activation=activation)
    device.launch(add, (-(-C // WARP), parts.shape[0]), (WARP, LANES), dZ, X, mean, var, state, rows_per_sample, parts)
    device.launch(combine, -(-C // THREADS), THREADS, parts, sums, dgamma, dbeta)
    device.launch(differentiate, -(-X.size // THREADS), THREADS,
                  dZ, X, mean, var, gamma, sums, state, rows_per_sample, dX)
    return dX, dgamma, dbeta


# ---- as operations: batches as in `batch_moments`

def channels(rng, shape):
    """mean, var, gamma."""
    return rng.standard_normal(shape[1]), rng.uniform(0.5, 2, shape[1]), rng.uniform(0.5, 2, shape[1])


def forward_inputs(rng, shape, kind, precision):
    mean, var, gamma = channels(rng, shape)
    return draw(rng, shape, kind, precision, 8), mean, var, gamma, rng.standard_normal(shape[1]), batch(shape[0])


def gradient_inputs(rng, shape, kind, precision):
    dZ, X = draw(rng, shape, kind, precision, 32 * shape[0]), rng.standard_normal(shape)
    return dZ, X, *channels(rng, shape), batch(shape[0])


operation("batch_norm", inputs=forward_inputs, launch=lambda *arrays: forward(*arrays, 1),
          cost=lambda p, M, C: {"flops": 4 * M * C,
                                "bytes": 2 * (M + 1) * C * p.storage.bytes + 2 * C * p.accum.bytes},
          cost_differs="1 / sqrt(var + epsilon) is computed anew for each element.", **described(computed))
operation("batch_norm_gradient", inputs=gradient_inputs, launch=lambda *arrays: gradient(*arrays, 1),
          cost=lambda p, M, C: {"flops": 9 * M * C,
                                "bytes": 3 * (M + 1) * C * p.storage.bytes + 2 * C * p.accum.bytes},
          cost_differs="Two launches read X and dZ, and compute u, and what a channel shares, anew for each element.",
          **described(gradient_computed))
