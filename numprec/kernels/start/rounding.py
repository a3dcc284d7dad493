"""Rounding: what a format cannot hold, and kernels that are written once for every precision.

Idea       A result is the nearest number of its format: relative to it, the error is at most the unit roundoff u.
Shapes     x (n,), out (1,) or (2,): storage; total (1,): accum
Precision  u is 2^-53 in fp64, 2^-24 in fp32, 2^-11 in fp16: half the distance from 1 to the next number. mixed_fp16
           stores float16 and adds in float32
Cost       one operation an element
Sources    IEEE 754-2019, section 4.3; N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., 2002,
           chapters 2 and 4
Try        python -m numprec.kernels.start sum_of_ones
           Where does a sum of ones stop that is held in float32? Answer: at 2^24 = 16777216
"""
import numpy as np
from numba import cuda

from numprec.kernels.start import page
from numprec.language.instructions import mul_rn
from numprec.language.ladder import helper
from numprec.precision import PRECISIONS

SUMS = ("fp64", "mixed_fp16", "fp16")


@cuda.jit
def halve_until_lost(one, u, out):
    out[0] = one[0] + u[0]
    while out[0] > one[0]:
        u[0] = u[0] * u[1]        # by a half, from the array: a literal would be a float64
        out[0] = one[0] + u[0]


@page(halve_until_lost)
def unit_roundoff(run, count):
    """The largest power of two that is lost when it is added to 1. The kernel names no type: Numba compiles it anew for
    each type of its arguments."""
    found = {}
    for name in ("fp64", "fp32", "fp16"):
        number = PRECISIONS[name].storage.numpy
        u = np.array([1, 0.5], number)
        run(halve_until_lost)[1, 1](np.ones(1, number), u, np.empty(1, number))
        found[f"log2 u, {name}"] = float(np.log2(np.float64(u[0])))
    return found


@cuda.jit
def product_minus_one(x, y, one, out):
    out[0] = x[0] * y[0] - one[0]             # one rounding: a fused multiply-add
    out[1] = mul_rn(x[0], y[0]) - one[0]      # two: the product's, and the difference's


@page(product_minus_one)
def fused_multiply_add(run, count):
    """x y + z is one instruction, and rounds once. (1 + 2^-13) (1 - 2^-13) - 1 is -2^-26; a product rounded by itself
    to float32 is 1, and leaves 0."""
    h, out = np.float32(2) ** -13, np.empty(2, np.float32)
    run(product_minus_one)[1, 1](np.array([1 + h]), np.array([1 - h]), np.ones(1, np.float32), out)
    return {"fused": float(out[0]), "product rounded by itself": float(out[1])}


@cuda.jit
def add_up(x, total):
    for i in range(x.size):
        total[0] += x[i]


@page(add_up)
def sum_of_ones(run, count):
    """In float16 a sum of ones stops at 2048: the next number is 2050, and 2048 + 1, halfway between the two, rounds to
    the even one. Stored in float16 and added in float32 it does not stop."""
    found = {}
    for name in SUMS:
        p = PRECISIONS[name]
        total = np.zeros(1, p.accum.numpy)
        run(add_up)[1, 1](np.ones(4096, p.storage.numpy), total)
        found[f"4,096 ones, {name}"] = float(total[0])
    return found


# ---- one body, every precision

@cuda.jit
def add_up_in_a_register(x, total):
    acc = 0.0                     # a float64, whatever x is
    for i in range(x.size):
        acc += x[i]
    total[0] = acc


@helper                           # add_up_in[p] is built once for each p
def add_up_in(p):
    """A *factory*: the kernel for the precision p. What the body needs to name, it takes from around it."""
    accum = p.accum

    @cuda.jit
    def add_up_in(x, total):
        acc = accum(0)            # a number of the format accum
        for i in range(x.size):
            acc += accum(x[i])
        total[0] = acc
    return add_up_in


@page(add_up_in_a_register, add_up_in)
def one_body_every_precision(run, count):
    """A register has a type, and so has a tile of shared memory: the body has to name it. A literal 0.0 names float64,
    and the sum of float16 does not stop: it is right, and is not what was asked for. A factory closes over a precision
    and returns the kernel for it: one body, every precision. All later
    kernels and device functions come from factories: `@rung` if they are a step of a ladder, else `@helper`, which is
    used as helper[p], or helper(p, width=16) where it takes options (numprec.language.ladder)."""
    p = PRECISIONS["fp16"]
    x, total, found = np.ones(4096, p.storage.numpy), np.zeros(1, p.accum.numpy), {}
    for what, kernel in ("0.0", add_up_in_a_register), ("accum(0)", add_up_in[p]):
        done = count(kernel)[1, 1](x, total).operations
        found[f"4,096 ones, fp16, {what}"] = float(total[0])
        found[f"additions in float64, {what}"] = done.get("fp64 add", 0)
    for name in SUMS:
        p = PRECISIONS[name]
        total = np.zeros(1, p.accum.numpy)
        run(add_up_in[p])[1, 1](np.ones(4096, p.storage.numpy), total)
        found[f"4,096 ones, {name}, by one body"] = float(total[0])
    return found
