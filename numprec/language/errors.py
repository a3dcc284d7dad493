"""Running error bounds: a float64 result, and how far the same computation in another format may be from it.

`Computed` stands for what a kernel computes, operation by operation, and carries a bound along: that of the operands,
propagated, plus a rounding. It serves formulas with a fixed number of operations; sums have theorems of their own
(`numprec.kernels.reductions.reduce`). With each operation

    |computed - exact| <= propagated + u (|exact| + propagated) + eta

where u counts the rounding of the format and that of float64, in which the exact value is itself computed; a fused
multiply-add rounds once less, and so stays within. Where a result may leave the range of the format, and from there
on, the bound is infinite. Functions and quotients are allowed ULPS units in the last place, what NVIDIA documents for
the functions used here.

Sources    N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002, section 3.3
           CUDA C++ Programming Guide, "Mathematical Functions", tables of maximum errors
"""
import numpy as np

from numprec.precision import FORMATS

ULPS = 2


class Computed:
    """`exact` (float64) and `error`, of a number held in the Format `fmt`."""

    oracle_u = FORMATS["float64"].u

    def __init__(self, exact, fmt, error=0.0):
        self.exact, self.fmt = np.asarray(exact, np.float64), fmt
        error = np.broadcast_to(np.asarray(error, np.float64), self.exact.shape)
        with np.errstate(all="ignore"):
            out = ~(abs(self.exact) + error <= fmt.max)
        self.error = np.where(out, np.inf, error)

    def _rounded(self, exact, error, roundings=1):
        u = roundings * (self.fmt.u + self.oracle_u)
        return Computed(exact, self.fmt, error + u * (abs(exact) + error) + self.fmt.eta * roundings)

    def _other(self, x):
        return x if isinstance(x, Computed) else Computed(x, self.fmt)

    def to(self, fmt):
        """Rounded to a format."""
        return Computed(self.exact, fmt)._rounded(self.exact, self.error)

    def __add__(self, other):
        other = self._other(other)
        return self._rounded(self.exact + other.exact, self.error + other.error)

    def __neg__(self):
        return Computed(-self.exact, self.fmt, self.error)

    def __radd__(self, other):
        return self + other

    def __rsub__(self, other):
        return -self + other

    def __sub__(self, other):
        return self + -self._other(other)

    def __mul__(self, other):
        other = self._other(other)
        error = abs(self.exact) * other.error + abs(other.exact) * self.error + self.error * other.error
        return self._rounded(self.exact * other.exact, error)

    def __truediv__(self, other):
        other = self._other(other)
        size = abs(other.exact)
        near = np.where(other.error < size, size - other.error, 0)
        error = (self.error + abs(self.exact) / size * other.error) / near
        return self._rounded(self.exact / other.exact, error, 2 * ULPS)

    def sqrt(self):
        root = np.sqrt(self.exact)
        return self._rounded(root, np.minimum(self.error / root, np.sqrt(self.error)))

    def exp(self):
        exact = np.exp(self.exact)
        return self._rounded(exact, exact * np.expm1(self.error), 2 * ULPS)

    def log(self):
        near = np.maximum(self.exact - self.error, 0)
        return self._rounded(np.log(self.exact), self.error / near, 2 * ULPS)

    def apply(self, function, slope):
        """A function whose derivative is at most `slope` everywhere."""
        return self._rounded(function(self.exact), slope * self.error, 2 * ULPS)

    def sum(self, axis=-1):
        """In any order: (n - 1) u times the sum of magnitudes (Jeannerod and Rump, see reduce)."""
        n, total = self.exact.shape[axis], np.sum(abs(self.exact) + self.error, axis=axis)
        u = self.fmt.u + self.oracle_u
        return Computed(self.exact.sum(axis=axis), self.fmt, self.error.sum(axis=axis) + (n - 1) * u * total)


def gamma(n, u):
    """n u / (1 - n u): bounds the product of n factors 1 + delta, |delta| <= u, less 1 (Higham, lemma 3.1)."""
    return n * u / (1 - n * u) if n * u < 1 else np.inf
