"""Correct rounding in exact integer arithmetic: what the emulator's tests compare with.

A finite number is a pair (n, e), meaning n * 2^e. Nothing here shares code with the emulator, nor uses its method.
"""
import math
from typing import NamedTuple

import ml_dtypes
import numpy as np


class Format(NamedTuple):
    dtype: object
    digits: int          # of the significand, the leading one included
    quantum: int         # exponent of the smallest subnormal
    largest: int         # exponent of the largest finite power of two


FORMATS = {"float16": Format(np.dtype(np.float16), 11, -24, 15),
           "bfloat16": Format(np.dtype(ml_dtypes.bfloat16), 8, -133, 127),
           "float32": Format(np.dtype(np.float32), 24, -149, 127),
           "float64": Format(np.dtype(np.float64), 53, -1074, 1023)}


def pair(x):
    fraction, exponent = math.frexp(x)
    return int(fraction * 2.0 ** 53), exponent - 53


def nearest(n, e, fmt):
    """n * 2^e rounded to nearest, ties to even, as a Python float; n = 0 gives +0."""
    quantum = max(e + abs(n).bit_length() - fmt.digits, fmt.quantum)
    shift, magnitude = quantum - e, abs(n)
    if shift <= 0:
        magnitude <<= -shift
    else:
        magnitude, rest = divmod(magnitude, 1 << shift)
        half = 1 << (shift - 1)
        magnitude += rest > half or (rest == half and magnitude & 1)
    overflows = magnitude.bit_length() + quantum > fmt.largest + 1
    value = math.inf if overflows else math.ldexp(magnitude, quantum)
    return -value if n < 0 else value


def fma(a, b, c, fmt):
    """a * b + c with one rounding; a, b, c are Python floats."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return a * b + c                 # infinities and NaNs need no rounding
    if not math.isfinite(c):
        return c
    (m, p), (n, q), (k, r) = pair(a), pair(b), pair(c)
    low = min(p + q, r)
    total = (m * n << (p + q - low)) + (k << (r - low))
    if total == 0 and not (m * n or k):
        return math.copysign(0.0, a) * math.copysign(1.0, b) + c        # the rule for the sign of a sum of zeros
    return nearest(total, low, fmt)


def fma_array(a, b, c, fmt):
    """The same, elementwise, in the dtype of the format."""
    exact = [fma(*abc, fmt) for abc in zip(a.astype(float).tolist(), b.astype(float).tolist(),
                                           c.astype(float).tolist())]
    return np.array(exact).astype(fmt.dtype)


def same(a, b):
    """Where two arrays hold the same number: zeros with the same sign, a NaN like any other."""
    a, b = np.asarray(a), np.asarray(b)
    word = np.dtype(f"u{a.dtype.itemsize}")
    with np.errstate(invalid="ignore"):
        return (np.ascontiguousarray(a).view(word) == np.ascontiguousarray(b).view(word)) | ((a != a) & (b != b))


def assert_same(got, expected, *operands):
    """Equal but for the payload of NaNs; names the first operands where not."""
    assert got.dtype == expected.dtype and got.shape == expected.shape
    wrong = np.flatnonzero(~same(got, expected))
    if wrong.size:
        i = wrong[0]
        given = ", ".join(repr(np.broadcast_to(x, got.shape).ravel()[i]) for x in operands)
        raise AssertionError(f"{wrong.size} of {got.size} differ; the first: {got.ravel()[i]!r} where "
                             f"{expected.ravel()[i]!r} is right, of {given}")
