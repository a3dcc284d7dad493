"""Units: what each column is measured in, so that narrow formats can hold it and add it up.

Idea       All threads of a column need the same few numbers: arrays that belong together
           travel as one named tuple, and a device function reads any element of it in the column's own unit
Maths      z[n, j]  = scale[j] (Z[n, j] - shift[j]),  Z = [X Y]
           shift[j]   the middle of the range of column j
           scale[j]   the power of two that maps the range into [-1, 1]
           share(N)   the largest power of two that is at most 1 / N: what a term of a sum of N is multiplied by
Example    six rows of two columns, years and prices:
             Z     2000  0.50      shift  2005  2     z    -0.625  -0.75
                   2002  0.75      scale   1/8  1/2        -0.375  -0.625
                   2003  1.00                              -0.25   -0.5
                   2006  2.00                               0.125   0
                   2008  2.50                               0.375   0.25
                   2010  3.50                               0.625   0.75
           Nothing was rounded on the way. In half precision the sum of the years themselves would come in steps of 8
           with six rows, and be infinite with 33
Shapes     X (N, D), Y (N, T): storage, row-major. v (N,): storage, roots of the sample weights, in (0, 1]; or (1,)
           where all rows have the same. shift, scale, mean (P,), P = D + T: accum

                 D        T                          P
             +-------+ +-----+ +-+             +-----------+
             |       | |     | | |       shift |           |
      N rows |   X   | |  Y  | |v|       scale |           |
             |       | |     | | |        mean |           |
             +-------+ +-----+ +-+             +-----------+
                     Data                          Units

Mapping    every function is called by a thread for itself
Precision  powers of two scale exactly, until a format ends. The middle is subtracted first, exactly while a column
           stays within a factor of two (Sterbenz, [1] theorem 2.5): a constant column becomes exactly 0.
           What `share` buys: a million rows of 1.0 add up to 1,000,000, beyond the 65,504 that float16 ends at;
           share(1,000,000) = 2^-20 makes it 0.95
Try        python -m numprec.kernels centring --precision fp16
           Exercise: what is the scale of a column that runs from 1000 to 1000.5, and of one from 0 to 1000?
           Answer: 4, as half of its range is 0.25; and 2^-9, as half of its range, 500, is just below 512
Sources    [1] N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002
"""
from typing import Any, NamedTuple

from numba import cuda

from numprec.language.instructions import add_rn
from numprec.language.ladder import helper

TILE = 16                # threads per block side; columns of a tile; rows of a strip
THREADS = TILE * TILE
BLOCKS = 2048            # blocks the grid rung aims for; were it the card's number, results would depend on it


class Data(NamedTuple):
    """The arrays of a least squares problem."""

    X: Any
    Y: Any
    v: Any


class Units(NamedTuple):
    """What a column is measured in, and its mean there: arrays (P,)."""

    shift: Any
    scale: Any
    mean: Any


class _Info(NamedTuple):
    RANK: int = 0          # columns that are independent, as far as the factorisation found
    ITERATIONS: int = 1    # corrections made, of a refinement
    ENDED: int = 2         # how it ended: one of Ended


class _Ended(NamedTuple):
    NOT: int = 0           # not yet, or after its last iteration
    CONVERGED: int = 1
    STALLED: int = 2
    BROKEN: int = 3        # the factor broke down


Info, Ended = _Info(), _Ended()      # Info: the entries of `info` (3,), int32, in which a fit reports


def empty_units(device, P, fmt):
    return Units(*(device.empty((P,), fmt) for _ in Units._fields))


def deal(N, P):
    """Rows per block, and blocks, where the rows are dealt to many blocks: four to a thousand strips each, and no
    block without a row."""
    tiles = -(-P // TILE)
    blocks = max(1, -(-N // (1024 * TILE)), min(BLOCKS // (tiles * (tiles + 1) // 2), N // (4 * TILE)))
    rows = -(-N // (blocks * TILE)) * TILE
    return rows, -(-N // rows)


# ---- an element, and what it is multiplied by

@helper
def entry(p):
    storage, accum = p.storage, p.accum

    @cuda.jit(device=True)
    def entry(data, n, j):
        """Z[n, j], rounded to storage, which an array of a wider format may stand for."""
        D = data.X.shape[1]
        return accum(storage(data.X[n, j])) if j < D else accum(storage(data.Y[n, j - D]))
    return entry


@helper
def weight(p):
    storage, accum = p.storage, p.accum

    @cuda.jit(device=True)
    def weight(data, n):
        """v[n]."""
        return accum(storage(data.v[n])) if data.v.shape[0] > 1 else accum(storage(data.v[0]))
    return weight


@helper
def scaled(p):
    entry_of = entry[p]

    @cuda.jit(device=True)
    def scaled(data, n, j, units):
        """z[n, j]."""
        return (entry_of(data, n, j) - units.shift[j]) * units.scale[j]
    return scaled


@helper
def unrounded(p):
    weight_of, z = weight[p], scaled[p]

    @cuda.jit(device=True)
    def unrounded(data, n, j, units):
        """v[n] (z[n, j] - mean[j])."""
        return weight_of(data, n) * (z(data, n, j, units) - units.mean[j])
    return unrounded


@helper
def share(p):
    accum = p.accum

    @cuda.jit(device=True)
    def share(count, scale):
        """The largest power of two that is at most 1 / count; 1 without `scale`."""
        f = accum(1)
        half = f / accum(2)
        while scale and count > 1:
            f = half * f
            count = (count + 1) // 2
        return f
    return share


@helper
def power_below(p):
    accum = p.accum

    @cuda.jit(device=True)
    def power_below(reach):
        """The largest power of two c with reach * c <= 1; 1 for a reach of 0."""
        one = accum(1)
        half = one / accum(2)
        c = one
        if reach > accum(0):
            while reach * c > one:
                c = half * c
            while reach * c <= half and (c + c) - (c + c) == accum(0):     # as long as the next power is finite
                c = c + c
        return c
    return power_below


@helper
def measure(p):
    accum, power = p.accum, power_below[p]

    @cuda.jit(device=True)
    def measure(least, most, centre, scale, j, units):
        """Shift and scale of column j from its range. Without `centre` the shift is 0, without `scale` the scale 1."""
        half = accum(1) / accum(2)
        s = accum(0)
        if centre:
            # no overflow in between; and each half is rounded, which it needs where it is subnormal
            s = least if least == most else add_rn(half * least, half * most)
        units.shift[j] = s
        units.scale[j] = power(most - s if most - s > s - least else s - least) if scale else accum(1)
    return measure
