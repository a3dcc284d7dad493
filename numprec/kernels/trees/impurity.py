"""How mixed the classes of a node are: what every search for a split minimizes.

Idea       A class at a time in registers: no array of shares, and no thread waits for another.
Maths      gini(n) = sum over c of (n[c] / N) ((N - n[c]) / N);  entropy(n) = -sum over c of (n[c] / N) log2(n[c] / N)
           a cut into l and r = n - l leaves N_l/N impurity(l) + N_r/N impurity(r)
Shapes     n (C,): counts of a node by class, int32, or int64 where rows have weights; N their sum
Mapping    device functions of one thread
Precision  counts are exact. A share n[c] / N is within 3 u of the truth, relatively, as its operands and the quotient
           are rounded once each; N - n[c] is exact, so that nothing cancels and a nearly pure node keeps its digits.
           float16 reaches 65504 only: larger counts are shifted to 15 bits, and a share is off by at most 2^-13.
           Products are not fused with sums, so that a cut and its mirror image have the same bits
Sources    L. Breiman, J. Friedman, R. Olshen, C. Stone, Classification and Regression Trees, 1984, chapter 4
"""
import math

import numpy as np
from numba import cuda, int32, int64

from numprec.language.instructions import mul_rn
from numprec.language.ladder import helper
from numprec.precision import FORMATS


# ---- in float64, and how far the functions below may be from that

def impurity_of(counts, criterion):
    """Impurity along the last axis of `counts`, in float64; 0 where there is nothing."""
    counts = np.asarray(counts, np.float64)
    whole = counts.sum(axis=-1, keepdims=True)
    share = np.divide(counts, whole, out=np.zeros_like(counts), where=whole > 0)
    if criterion.__name__ == "gini":
        return (share * (1 - share)).sum(axis=-1)
    return -(share * np.log2(share, out=np.zeros_like(share), where=share > 0)).sum(axis=-1)


def left_over_of(left, counts, criterion):
    """What a cut leaves, in float64; `left` are the counts of its left side."""
    left, right = np.asarray(left, np.float64), np.asarray(counts, np.float64) - left
    sides = [side.sum(axis=-1) * impurity_of(side, criterion) for side in (left, right)]
    return sum(sides) / np.sum(counts)


def left_over_bound(precision, C, N):
    """|error| of an impurity, and of what a cut leaves, for C classes and N rows.

    Shares err by 3 u relatively, so a term of gini, at most 1/4, by 7 u of itself, and one of entropy by 3 u of itself,
    as much from the logarithm and its product, and 3 u / ln 2 of the share; the sum over classes adds C u, the weights
    and the last sum 5 u. Entropy is at most log2 C. Underflow: a share below the normal range errs by eta.
    """
    accum, fp64 = precision.accum, FORMATS["float64"]
    most = max(1.0, math.log2(C))
    bits = max(0, int(N).bit_length() - room(accum))
    lost = C * 16 * 2.0 ** -13 if bits and room(accum) < 62 else 0
    return (12 + C) * (accum.u + fp64.u) * most + 5 * accum.u + 32 * C * accum.eta + lost


def room(fmt):
    """Whole numbers of so many bits are in the range of a format."""
    return int(math.log2(fmt.max))


def every_cut(X, y, w):
    """Every cut of the rows X (D, N) of classes y and weights w (or None), in order: (feature, threshold, whether
    missing values go left, counts of the left side by class)."""
    weight = np.eye(y.max() + 1)[y] * (np.ones(len(y)) if w is None else w.astype(np.float64))[:, None]
    for f, x in enumerate(X.astype(np.float64)):
        known = ~np.isnan(x)
        values = np.unique(x[known])
        sums = np.zeros((len(values), weight.shape[1]))
        np.add.at(sums, np.searchsorted(values, x[known]), weight[known])
        lefts = list(zip(values[:-1], np.cumsum(sums, axis=0)))
        yield from ((f, t, False, left) for t, left in lefts)
        if len(values) and not known.all():
            yield f, np.inf, False, sums.sum(axis=0)
            yield from ((f, t, True, left + weight[~known].sum(axis=0)) for t, left in lefts)


# ---- device functions

@helper
def share(p):
    """share(part, whole): part / whole in accum, for integers 0 <= part <= whole, whole > 0."""
    accum, bits = p.accum, room(p.accum)

    @cuda.jit(device=True)
    def share_narrow(part, whole):
        beyond = max(64 - bits - int32(cuda.clz(int64(whole))), 0)
        return accum(int32(part >> beyond)) / accum(int32(whole >> beyond))

    @cuda.jit(device=True)
    def share(part, whole):
        return accum(part) / accum(whole)
    return share_narrow if bits < 62 else share


@helper
def gini(p):
    """gini(part, whole): the term of one class."""
    share_of = share[p]

    @cuda.jit(device=True)
    def gini(part, whole):
        return mul_rn(share_of(part, whole), share_of(whole - part, whole))
    return gini


@helper
def entropy(p):
    """entropy(part, whole): the term of one class."""
    accum, share_of = p.accum, share[p]

    @cuda.jit(device=True)
    def entropy(part, whole):
        x = share_of(part, whole)
        return mul_rn(x, -math.log2(x)) if x > accum(0) else accum(0)
    return entropy


@helper
def impurity(p, criterion):
    """impurity(counts, C, whole): of a node whose counts, by class, sum to `whole`."""
    accum, term = p.accum, criterion[p]

    @cuda.jit(device=True)
    def impurity(counts, C, whole):
        total = accum(0)
        for c in range(C):
            total += term(counts[c], whole)
        return total
    return impurity


@helper
def left_over(p):
    """left_over(left, whole, i, j): of two sides of impurities i and j, `left` of `whole` being on the first."""
    share_of = share[p]

    @cuda.jit(device=True)
    def left_over(left, whole, i, j):
        return mul_rn(share_of(left, whole), i) + mul_rn(share_of(whole - left, whole), j)
    return left_over
