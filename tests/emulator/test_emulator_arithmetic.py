"""The emulator's float32, float64 and integers: what is fused, what is rounded, what saturates, and Numba's promotion.

Oracles: exact integer arithmetic (emulator_exact.py), NumPy and the C library.
"""
import functools
import math
import operator
import re

import numpy as np
import pytest
from emulator_exact import FORMATS, assert_same, fma_array
from numba import cuda, float32, int8, int16, int32, int64, uint8, uint16, uint32, uint64

from numprec.emulator import launch, libdevice
from numprec.language.instructions import add_rn, mul_rn

THREADS = 128
SPECIAL = [0.0, -0.0, 1, -1, 1 / 3, 3, np.inf, -np.inf, np.nan, 1e-310, 1e300, 2.0 ** -149, 2.0 ** 127]


def run(kernel, n, *args, **options):
    launch(kernel, -(-n // THREADS), THREADS, args, **options)
    return args


def quiet(function):
    with np.errstate(all="ignore"):
        return function()


# ---- fused multiply-add

@cuda.jit(device=True)
def product_in_a_tuple(x, y):
    return x, x * y


@cuda.jit
def contracted(a, b, c, out):
    i = cuda.grid(1)
    if i < a.size:
        x, y, z = a[i], b[i], c[i]
        out[0, i] = x * y + z
        out[1, i] = z + x * y
        out[2, i] = x * y - z
        out[3, i] = z - x * y
        out[4, i] = -(x * y) + z
        out[5, i] = -(x * y) - z
        total = z
        total += x * y
        out[6, i] = total
        _, product = product_in_a_tuple(x, y)
        out[7, i] = product + z
        out[8, i] = cuda.fma(x, y, z)
        out[9, i] = y * z + x * x               # of two products the one whose factors were loaded first
        out[10, i] = -(x * x) + y * z
        out[11, i] = mul_rn(x, y) + z


@cuda.jit
def kept(a, b, c, out):
    """Products with a use that is no sum of their block are rounded for all of their uses."""
    i = cuda.grid(1)
    if i < a.size:
        x, y, z = a[i], b[i], c[i]
        stored, rounded, twice, elsewhere = x * y, x * z, y * z, y * y
        out[0, i] = stored
        out[1, i] = stored + z
        out[2, i] = add_rn(rounded, y)
        out[3, i] = rounded + y
        out[4, i] = twice - twice
        out[5, i] = elsewhere + x
        if x > y:
            out[6, i] = elsewhere + z


@cuda.jit
def mean(a, b, out):
    i = cuda.grid(1)
    if i < a.size:
        out[i] = a[i] / float32(2) + b[i] / float32(2)


@cuda.jit(fastmath=True)
def fast(a, b, c, out):
    i = cuda.grid(1)
    if i < a.size:
        out[i] = a[i] * b[i] + c[i]


def fma_operands(fmt, rng):
    dtype, n = fmt.dtype, 1500
    word = np.dtype(f"u{dtype.itemsize}")
    bits = rng.integers(0, np.iinfo(word).max, (3, n), dtype=word, endpoint=True).view(dtype)
    near = rng.uniform(-2, 2, (3, n)).astype(dtype)
    cancelling = near.copy()
    cancelling[2] = -(cancelling[0] * cancelling[1])
    small = (near.astype(float) * 2.0 ** (fmt.quantum // 2 + 8)).astype(dtype)       # products of the quantum's size
    small[2] = dtype.type(2.0 ** fmt.quantum) * rng.integers(0, 9, n).astype(dtype)
    odd = 2 * rng.integers(2 ** (fmt.digits - 2), 2 ** (fmt.digits - 1), n) + 1
    ties = np.stack([np.full(n, 0.5), np.ones(n), odd]).astype(dtype)
    ties[1, ::2] = np.nextafter(dtype.type(1), dtype.type(2))                        # just beside a tie
    ties[1, 1::4] = np.nextafter(dtype.type(1), dtype.type(0))
    special = quiet(lambda: np.array(np.meshgrid(SPECIAL, SPECIAL, SPECIAL)).reshape(3, -1).astype(dtype))
    return np.concatenate([bits, near, cancelling, small, ties, special], axis=1)


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_products_are_fused_with_sums(name):
    fmt = FORMATS[name]
    a, b, c = (np.ascontiguousarray(v) for v in quiet(lambda: fma_operands(fmt, np.random.default_rng(2))))
    plus, minus, turned, both = quiet(lambda: [fma_array(s * a, b, t * c, fmt)
                                               for s, t in ((1, 1), (1, -1), (-1, 1), (-1, -1))])
    for cpu in (None, "x86-64") if _is_x86() else (None,):                            # with and without an instruction
        *_, out = run(contracted, a.size, a, b, c, np.zeros((12, a.size), fmt.dtype), cpu=cpu)
        for row, right in zip(out, (plus, plus, minus, turned, turned, both, plus, plus, plus)):
            assert_same(row, right, a, b, c)
        assert_same(out[9], quiet(lambda: fma_array(a, a, b * c, fmt)), a, b, c)
        assert_same(out[10], quiet(lambda: fma_array(-a, a, b * c, fmt)), a, b, c)
        apart = quiet(lambda: a * b + c)
        assert_same(out[11], apart, a, b, c)
        assert (apart != plus)[np.isfinite(apart)].sum() > 1000
    *_, out = run(fast, a.size, a, b, c, np.zeros_like(a))
    assert_same(out, plus, a, b, c)
    *_, out = run(kept, a.size, a, b, c, np.zeros((7, a.size), fmt.dtype))
    right = quiet(lambda: (a * b, a * b + c, a * c + b, a * c + b, b * c - b * c, b * b + a,
                           np.where(a > b, b * b + c, 0).astype(fmt.dtype)))
    for row, values in zip(out, right):
        assert_same(row, values, a, b, c)


def test_half_of_a_number_is_a_product():
    """NVVM multiplies by 0.5 where a kernel divides by 2, and fuses that too: so the half of a subnormal is exact."""
    rng, half = np.random.default_rng(3), np.float32(0.5)
    a, b = (rng.integers(-9, 9, (2, 200)) * 2.0 ** -149).astype(np.float32)
    *_, out = run(mean, a.size, a, b, np.zeros_like(a))
    fused = fma_array(a, np.full_like(a, half), b * half, FORMATS["float32"])
    assert_same(out, fused, a, b)
    assert (fused != a * half + b * half).any()


def _is_x86():
    import llvmlite.binding as llvm
    return llvm.get_process_triple().startswith("x86_64")


# ---- promotion: Numba's, not NumPy's

def accumulate(zero):
    @cuda.jit
    def total(x, out):
        acc = zero
        for i in range(x.size):
            acc += x[i]
        out[0] = acc
    return total


def test_a_python_zero_makes_a_float64_sum():
    """The trap: `acc = 0.0` is a float64, and so is every sum that it goes into, on a GPU and here."""
    x = np.random.default_rng(0).uniform(0, 1, 5000).astype(np.float32)
    trapped, right = np.zeros(1), np.zeros(1)
    launch(accumulate(0.0), 1, 1, (x, trapped))
    launch(accumulate(np.float32(0)), 1, 1, (x, right))
    single = functools.reduce(operator.add, x, np.float32(0))
    assert right[0] == single
    assert trapped[0] == functools.reduce(operator.add, x.tolist(), 0.0) != single


@cuda.jit
def promoted(x, n, out):
    out[0] = x[0] / n[0]                # float32 / int32: float64
    out[1] = x[0] * 3                   # float32 * int64: float64
    out[2] = x[0] * float32(3)
    out[3] = n[0] / n[1]                # int32 / int32: float64


def test_promotion_is_numbas():
    x, n, out = np.array([0.1], np.float32), np.array([3, 7], np.int32), np.zeros(4)
    launch(promoted, 1, 1, (x, n, out))
    assert out.tolist() == [float(x[0]) / 3, float(x[0]) * 3, float(x[0] * np.float32(3)), 3 / 7]


# ---- floats to integers

@cuda.jit
def truncated(x, a, b, c, d, e, f, g, h):
    i = cuda.grid(1)
    if i < x.size:
        a[i] = int8(x[i])
        b[i] = int16(x[i])
        c[i] = int32(x[i])
        d[i] = int64(x[i])
        e[i] = uint8(x[i])
        f[i] = uint16(x[i])
        g[i] = uint32(x[i])
        h[i] = uint64(x[i])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_become_integers_as_cvt_rzi_does_it(dtype):
    """Toward zero; what is too large becomes the nearest integer that there is, and a NaN 0."""
    powers = 2.0 ** np.arange(0, 70)
    x = np.concatenate([np.arange(-300, 300) / 4, powers, -powers, powers - 1, 1 - powers, [0.0, -0.0, 1e30, -1e30]])
    x = np.append(x, [np.inf, -np.inf, np.nan]).astype(dtype)
    dtypes = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
    _, *out = run(truncated, x.size, x, *(np.zeros(x.size, t) for t in dtypes))
    for got, to in zip(out, dtypes):
        wide = np.iinfo(np.int16 if to is np.int8 else np.uint16 if to is np.uint8 else to)    # no cvt to 8 bits
        right = [0 if np.isnan(v) else min(max(int(v), wide.min), wide.max) if np.isfinite(v)
                 else wide.max if v > 0 else wide.min for v in x.tolist()]
        assert got.tolist() == [int(np.array(v).astype(to)) for v in right]


# ---- integers

@cuda.jit
def integers(a, b, quotient, remainder, product, total, difference, bits, ratio):
    i = cuda.grid(1)
    if i < a.size:
        quotient[i] = a[i] // b[i]
        remainder[i] = a[i] % b[i]
        product[i] = a[i] * b[i]
        total[i] = a[i] + b[i]
        difference[i] = a[i] - b[i]
        bits[i] = (a[i] & b[i]) ^ (a[i] | ~b[i])
        ratio[i] = a[i] / b[i]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_integers(dtype):
    """As in Python: // rounds down and % has the sign of the divisor. Sums wrap. Division by 0 gives 0, quietly."""
    limits = np.iinfo(dtype)
    values = [0, 1, 2, 3, 7, 100, limits.max, limits.max - 1, limits.min, limits.min + 1]
    values += [-1, -2, -7] if limits.min else []
    a, b = (v.ravel().copy() for v in np.meshgrid(np.array(values, dtype), np.array(values, dtype)))
    *_, quotient, remainder, product, total, difference, bits, ratio = run(
        integers, a.size, a, b, *(np.zeros_like(a) for _ in range(6)), np.zeros(a.size))
    expected = quiet(lambda: (a * b, a + b, a - b, (a & b) ^ (a | ~b)))
    for got, right in zip((product, total, difference, bits), expected):
        np.testing.assert_array_equal(got, right)
    divides = (b != 0) & ~((a == limits.min) & (b == dtype(-1 if limits.min else 1)))
    np.testing.assert_array_equal(quotient[divides], a[divides] // b[divides])
    np.testing.assert_array_equal(remainder[divides], a[divides] % b[divides])
    np.testing.assert_array_equal(ratio[divides], a[divides] / b[divides])
    assert not quotient[b == 0].any() and not remainder[b == 0].any()


@cuda.jit
def shifts_and_powers(a, n, left, right, power, cube):
    i = cuda.grid(1)
    if i < a.size:
        left[i] = a[i] << n[i]
        right[i] = a[i] >> n[i]
        power[i] = a[i] ** n[i]
        cube[i] = a[i] ** 3


def test_shifts_and_powers():
    """Numba-CUDA takes the power of integers in float64."""
    a = np.random.default_rng(0).integers(-2 ** 20, 2 ** 20, 96)
    n = np.arange(96) % 32
    _, _, left, right, power, cube = run(shifts_and_powers, 96, a, n, *(np.zeros_like(a) for _ in range(4)))
    np.testing.assert_array_equal(left, a << n)
    np.testing.assert_array_equal(right, a >> n)
    np.testing.assert_allclose(power[:4], a[:4] ** n[:4], rtol=1e-15)
    np.testing.assert_allclose(cube, a ** 3, rtol=1e-15)


@cuda.jit
def shifted_by(a, n, left, right):
    i = cuda.grid(1)
    if i < a.size:
        left[i] = a[i] << n[i]
        right[i] = a[i] >> n[i]


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint64])
def test_shifts_beyond_the_width(dtype):
    """shl and shr clamp the amount: everything is shifted out, and the sign stays."""
    n = np.array([0, 1, 31, 32, 33, 63, 64, 65, 200, 2 ** 31 - 1], dtype)
    for a in (dtype(1234567), dtype(-1234567) if np.iinfo(dtype).min else np.iinfo(dtype).max):
        *_, left, right = run(shifted_by, n.size, np.full(n.size, a), n, np.zeros_like(n), np.zeros_like(n))
        assert left.tolist() == [int(np.array((int(a) << int(k)) % 2 ** 64 if k < 64 else 0, np.uint64).astype(dtype))
                                 for k in n]
        assert right.tolist() == [int(a) >> int(k) for k in n]


@cuda.jit
def bit_tricks(x, y, small, large):
    i = cuda.grid(1)
    if i < x.size:
        small[0, i] = cuda.popc(x[i])
        small[1, i] = cuda.clz(x[i])
        small[2, i] = cuda.ffs(x[i])
        small[3, i] = cuda.brev(x[i])
        small[4, i] = cuda.selp(x[i] > y[i], x[i], uint32(y[i]))
        large[0, i] = cuda.popc(y[i])
        large[1, i] = cuda.clz(y[i])
        large[2, i] = cuda.ffs(y[i])
        large[3, i] = cuda.brev(y[i])


def test_bit_tricks():
    rng = np.random.default_rng(0)
    x = np.concatenate([[0, 1, 2 ** 31, 2 ** 32 - 1], rng.integers(0, 2 ** 32, 60) >> rng.integers(0, 32, 60)])
    y = rng.integers(0, 2 ** 63, 64).astype(np.uint64) >> rng.integers(0, 63, 64).astype(np.uint64)
    y[:4] = 0, 1, 2 ** 63, 2 ** 64 - 1
    x = x.astype(np.uint32)
    _, _, small, large = run(bit_tricks, 64, x, y, np.zeros((5, 64), np.uint32), np.zeros((4, 64), np.uint64))
    for out, values, width in ((small, x.tolist(), 32), (large, y.tolist(), 64)):
        assert out[0].tolist() == [v.bit_count() for v in values]
        assert out[1].tolist() == [width - v.bit_length() for v in values]
        assert out[2].tolist() == [(v & -v).bit_length() for v in values]
        assert out[3].tolist() == [int(f"{v:0{width}b}"[::-1], 2) for v in values]
    np.testing.assert_array_equal(small[4], np.where(x > y, x, y.astype(np.uint32)))


# ---- functions

@cuda.jit
def extremes(x, y, least, most):
    i = cuda.grid(1)
    if i < x.size:
        least[i] = min(x[i], y[i])
        most[i] = max(x[i], y[i])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_min_and_max(dtype):
    """min.f32 and max.f32 prefer a number to a NaN, and -0 is less than +0."""
    values = quiet(lambda: np.array(SPECIAL, dtype))
    x, y = (v.ravel().copy() for v in np.meshgrid(values, values))
    *_, least, most = run(extremes, x.size, x, y, np.zeros_like(x), np.zeros_like(x))
    zeros = (x == 0) & (y == 0)
    assert_same(least[~zeros], np.fmin(x, y)[~zeros], x, y)
    assert_same(most[~zeros], np.fmax(x, y)[~zeros], x, y)
    np.testing.assert_array_equal(np.signbit(least[zeros]), (np.signbit(x) | np.signbit(y))[zeros])
    np.testing.assert_array_equal(np.signbit(most[zeros]), (np.signbit(x) & np.signbit(y))[zeros])


UNIT, POSITIVE, REAL = (-0.99, 0.99), (0.01, 30), (-8, 8)
UNARY = {"acos": UNIT, "asin": UNIT, "atanh": UNIT, "acosh": (1.01, 30), "asinh": REAL, "atan": REAL, "cos": REAL,
         "sin": REAL, "tan": (-1.5, 1.5), "cosh": REAL, "sinh": REAL, "tanh": REAL, "exp": REAL, "expm1": REAL,
         "log": POSITIVE, "log2": POSITIVE, "log10": POSITIVE, "log1p": POSITIVE, "sqrt": POSITIVE, "erf": REAL,
         "erfc": REAL, "gamma": (0.1, 12), "lgamma": (2.5, 30), "fabs": REAL, "degrees": REAL, "radians": REAL}
BINARY = {"atan2": REAL, "pow": POSITIVE, "hypot": REAL, "fmod": REAL, "copysign": REAL}
LOOSE = {"gamma": 10, "lgamma": 10, "erfc": 5}      # units in the last place, where they are more than 2
WHOLE = ("ceil", "floor", "trunc")


def make_functions(text):
    """A kernel written out for every name, since Numba has no tables of functions."""
    lines = [f"        out[{k}, i] = math.{name}({text})" for k, name in enumerate(
        [*UNARY, *WHOLE] if text == "x[k, i]" else BINARY)]
    source = "def functions(x, y, out):\n    i = cuda.grid(1)\n    if i < out.shape[1]:\n"
    scope = {"cuda": cuda, "math": math}
    exec(source + "\n".join(lines).replace("[k, i]", "[{}, i]").format(*(
        k for k in range(len(lines)) for _ in range(text.count("[k, i]")))), scope)
    return cuda.jit(scope["functions"])


def ulps(got, right):
    """Distance in units in the last place of the right result, given in float64 or better."""
    exact = right.astype(np.longdouble)
    return abs(got.astype(np.longdouble) - exact) / np.spacing(abs(right.astype(got.dtype))).astype(np.longdouble)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_math_functions(dtype):
    """Within a few units in the last place, NVIDIA's library or, where it is not installed, the host's."""
    rng = np.random.default_rng(4)
    names = [*UNARY, *WHOLE]
    x = np.stack([rng.uniform(*UNARY.get(name, REAL), 200) for name in names]).astype(dtype)
    _, _, out = run(make_functions("x[k, i]"), 200, x, x, np.zeros_like(x))
    for name, row, got in zip(names, x, out):
        right = np.array([getattr(math, name)(v) for v in row.tolist()])
        assert ulps(got, right).max() <= LOOSE.get(name, 2), name
    x, y = (np.stack([rng.uniform(*BINARY[name], 200) for name in BINARY]).astype(dtype) for _ in "xy")
    y[list(BINARY).index("pow")] /= 10
    *_, out = run(make_functions("x[k, i], y[k, i]"), 200, x, y, np.zeros_like(x))
    for name, a, b, got in zip(BINARY, x, y, out):
        right = np.array([getattr(math, name)(*v) for v in zip(a.tolist(), b.tolist())])
        assert ulps(got, right).max() <= 2, name


@cuda.jit
def parts(x, fraction, exponent, rest, whole, scaled, flags, root):
    i = cuda.grid(1)
    if i < x.size:
        fraction[i], exponent[i] = math.frexp(x[i])
        rest[i], whole[i] = math.modf(x[i])
        scaled[i] = math.ldexp(x[i], i - 4)
        flags[i] = math.isnan(x[i]) + 2 * math.isinf(x[i]) + 4 * math.isfinite(x[i])
        root[i] = cuda.cbrt(x[i])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parts_of_numbers(dtype):
    x = np.array([1.5, -3.25, 0, -0.0, 1e-40, 1e30, -7, np.inf, -np.inf, np.nan], dtype)
    _, fraction, exponent, rest, whole, scaled, flags, root = run(
        parts, 10, x, np.zeros_like(x), np.zeros(10, np.int32), *(np.zeros_like(x) for _ in range(3)),
        np.zeros(10, np.int32), np.zeros_like(x))
    right_fraction, right_exponent = np.frexp(x)
    assert_same(fraction, right_fraction, x)
    finite = np.isfinite(x)
    np.testing.assert_array_equal(exponent[finite], right_exponent[finite])
    for got, right in zip((rest, whole), np.modf(x)):
        assert_same(got, right, x)
    assert_same(scaled, np.ldexp(x, np.arange(10) - 4), x)
    np.testing.assert_array_equal(flags, np.isnan(x) + 2 * np.isinf(x) + 4 * np.isfinite(x))
    np.testing.assert_allclose(root, np.cbrt(x), rtol=2 * np.finfo(dtype).eps)


@cuda.jit
def python_operators(x, y, out):
    i = cuda.grid(1)
    if i < x.size:
        out[0, i] = x[i] // y[i]
        out[1, i] = x[i] % y[i]
        out[2, i] = abs(x[i]) ** y[i]
        out[3, i] = x[i] ** 2
        out[4, i] = -x[i]
        out[5, i] = round(x[i])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_python_operators_on_floats(dtype):
    rng = np.random.default_rng(9)
    x, y = (rng.uniform(-9, 9, (2, 300))).astype(dtype)
    *_, out = run(python_operators, 300, x, y, np.zeros((6, 300), dtype))
    exact = zip(x.tolist(), y.tolist())
    quotient, remainder = np.array([divmod(a, b) for a, b in exact]).T
    np.testing.assert_array_equal(out[0], quotient.astype(dtype))
    np.testing.assert_allclose(out[1], remainder, atol=1e-6 if dtype is np.float32 else 1e-15, rtol=0)
    assert ulps(out[2], np.abs(x.astype(np.longdouble)) ** y).max() <= 2
    for row, right in zip(out[3:], (x * x, operator.neg(x), np.rint(x))):
        np.testing.assert_array_equal(row, right)


# ---- NVIDIA's math library

@cuda.jit
def exponential(x, out):
    i = cuda.grid(1)
    if i < x.size:
        out[i] = math.exp(x[i])


def by_hand(lines, a):
    """The values that straight lines of LLVM's text compute from %a, in exact arithmetic rounded where they say so."""
    known = {"%a": a}

    def value(text):
        if text in known:
            return known[text]
        if text.startswith("0x"):
            return np.full_like(a, np.uint64(int(text, 16)).view(np.float64))
        return np.full_like(a, float(text)) if "e" in text else np.full(a.shape, int(text), np.uint32)

    for line in lines:
        result, _, rest = line.strip().partition(" = ")
        operands = [value(part) for part in re.findall(r"(?:double|i32) (%\w+|0x\w+|-?[\d.e+]+)", rest)]
        if "fma" in rest:
            known[result] = fma_array(*operands, FORMATS["float64"])
        elif "add.rn" in rest:
            known[result] = operands[0] + operands[1]
        elif "d2i" in rest:
            known[result] = (operands[0].view(np.uint64) >> np.uint64(32 * ("hi" in rest))).astype(np.uint32)
        elif "lohi" in rest:
            known[result] = (operands[0] | operands[1].astype(np.uint64) << np.uint64(32)).view(np.float64)
        else:
            x, y = operands[0], value(rest.rpartition(", ")[2])
            known[result] = x << y if rest.startswith("shl") else x + y
        last = known[result]
    return last


@pytest.mark.skipif(libdevice.bitcode() is None, reason="NVIDIA's library comes with the extras cu12 and cu13")
def test_exp_is_that_of_nvidias_library():
    """In float64 bit for bit: the library's own lines, up to the first result, hold for arguments of moderate size."""
    x = np.random.default_rng(5).uniform(-40, 40, 300)
    body = libdevice._definition("__nv_exp").split("\n")[1:]
    end = next(i for i, line in enumerate(body) if "lohi.i2d" in line)
    right = by_hand(body[:end + 1], x)
    for cpu in (None, "x86-64") if _is_x86() else (None,):
        _, out = run(exponential, x.size, x, np.zeros_like(x), cpu=cpu)
        np.testing.assert_array_equal(out.view(np.uint64), right.view(np.uint64))


def test_without_nvidias_library_the_hosts_stands_in(monkeypatch):
    monkeypatch.setattr(libdevice, "module", lambda names, has_twin: "")
    monkeypatch.setattr(libdevice, "version", lambda: "none")
    x = np.random.default_rng(5).uniform(-40, 40, 300)
    kernel = cuda.jit(exponential.py_func)
    _, out = run(kernel, x.size, x, np.zeros_like(x))
    np.testing.assert_array_equal(out, [math.exp(v) for v in x])
