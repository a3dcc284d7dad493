"""Indices of 32 bits: the convention for every `uint32(` in a kernel.

Numba computes with integers of 64 bits as soon as two types meet, or two uint32. A GPU has registers of 32 bits: it
divides 64-bit integers in a long subroutine, and 32-bit ones in a short one. So where an index is taken apart, into
row and column or into image, pixel and channel, kernels stay in uint32 and cast each result back:

    b, h = divmod32(bh, H)         quotient and remainder
    i = uint32(h + r - top)        a sum or difference

The second line does one thing more: below 0 an unsigned index wraps around to almost 2^32, so that `i < H` alone
says whether 0 <= i < H. Arrays indexed so have less than 2^31 elements along each axis.
"""
from numba import cuda, uint32


@cuda.jit(device=True)
def divmod32(i, n):
    """(i // n, i % n) of integers in [0, 2^32), as uint32."""
    i, n = uint32(i), uint32(n)
    return uint32(i // n), uint32(i % n)
