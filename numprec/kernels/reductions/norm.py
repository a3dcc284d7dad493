"""Euclidean norm, safe from overflow.

Idea       Two ladders climbed one after the other, a maximum for the scale and a sum of scaled squares: kernels are put
           together from a term and a finish, not written anew.
Maths      sqrt(sum of x[i]^2) = s sqrt(sum of (x[i] / s)^2), with s a power of two near the largest |x[i]|
Shapes     x (n,): storage; any n >= 1. The result is one accum
Mapping    a maximum, then a sum: two ladders climbed one after the other, and nothing new
Precision  dividing by a power of two is exact, and keeps every square in range. In float16 the square of 256 is
           infinite and that of 2^-13 is 0; divided by s first, the squares lie in [0, 4): no overflow for
           n <= accum.max / 4, and what underflows is negligible beside the largest. The sum's relative error is at
           most n u_accum, the root at most passes it on: |error| <= (n + 2) u_accum norm, plus what underflow costs
Ladder     that of the sum
Cost       3 n flops; n elements
Sources    N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., 2002, section 27.8
"""
import math

import numpy as np
from numba import cuda

from numprec.kernels.reductions import argmax, reduce
from numprec.language.instructions import bits, number
from numprec.language.ladder import draw, helper, operation
from numprec.precision import FORMATS


# ---- oracle

def oracle(x):
    return np.linalg.norm(x.astype(np.float64) / _scale(x)) * _scale(x)


def error_bound(precision, x):
    accum, n = precision.accum, x.size
    if n > accum.max / 4:
        return np.inf
    scale = max(_scale(x), accum.tiny)
    scaled = np.sum((x.astype(np.float64) / scale) ** 2)
    in_sum = n * (accum.u * scaled + accum.eta)
    in_root = min(in_sum / np.sqrt(scaled), np.sqrt(in_sum)) if scaled > 0 else np.sqrt(in_sum)
    rounded = 2 * accum.u * (np.sqrt(scaled) + in_root)
    return (in_root + rounded + n * FORMATS["float64"].u * np.sqrt(scaled)) * scale + accum.eta / 2


def _scale(x):
    """The largest power of two that is at most the largest |x[i]|; 1 where that is 0 or not finite."""
    largest = np.max(np.abs(x.astype(np.float64)))
    return np.ldexp(0.5, np.frexp(largest)[1]) if 0 < largest < np.inf else 1.0


# ---- the summand, and what becomes of the sum

@helper
def power_of_two(p):
    """The largest power of two that does not exceed `largest`, kept between the smallest and largest normal one."""
    step = 1 << (p.accum.significand - 1)             # an exponent of 1, as an integer
    exponent = ((1 << p.accum.exponent) - 1) * step    # the bits of the exponent; set in infinity and NaN

    @cuda.jit(device=True)
    def power_of_two(largest):
        return number(min(max(bits(largest) & exponent, step), exponent - step), largest)
    return power_of_two


@helper
def scaled_square(p):
    accum, scale = p.accum, power_of_two[p]

    @cuda.jit(device=True)
    def scaled_square(x, largest, i):
        scaled = accum(x[i]) / scale(largest[0])
        return scaled * scaled
    return scaled_square


@helper
def scaled_root(p):
    scale = power_of_two[p]

    @cuda.jit(device=True)
    def scaled_root(total, largest):
        return math.sqrt(total) * scale(largest[0])
    return scaled_root


# ---- host side

def launch(device, rung, precision, x):
    largest, _ = argmax.launch(device, getattr(argmax, rung.name), precision, x, key=argmax.magnitude)
    return reduce.launch(device, rung, precision, x, largest, term=scaled_square, finish=scaled_root)


def cost(precision, n):
    return {"flops": 3 * n, "bytes": n * precision.storage.bytes}


def inputs(rng, shape, kind, precision):
    return draw(rng, shape, kind, precision, terms=math.sqrt(*shape)),


operation("norm", ladder="sum", inputs=inputs, oracle=oracle, error_bound=error_bound, launch=launch, cost=cost,
          cost_differs="x is read twice: the largest element has to be known before the first square is added.",
          **reduce.shapes)
