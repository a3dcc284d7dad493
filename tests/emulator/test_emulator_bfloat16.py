"""The emulator's bfloat16: the conversions of the role `storage`, and Numba's own bfloat16 type.

Oracles: ml_dtypes for rounding, exact integer arithmetic for what is computed. Numba's type is compiled for compute
capability 9.0, which has bfloat16 arithmetic; the textbook stores bfloat16 and never computes in it.
"""
import ml_dtypes
import numpy as np
import pytest
from emulator_exact import FORMATS, assert_same, fma_array, nearest
from numba import cuda
from numba.cuda import bf16

from numprec.emulator import launch
from numprec.language import formats  # noqa: F401  teaches Numba what a Format is
from numprec.language.instructions import narrow_bf16
from numprec.precision import PRECISIONS

BRAIN = FORMATS["bfloat16"]
bfloat16 = ml_dtypes.bfloat16
ALL = np.arange(65536, dtype=np.uint16)
SECOND = np.array([0.0, -0.0, 1, -1, 2.0 ** -133, -2.0 ** -126, 127 * 2.0 ** -133, 3.38e38, -3.38e38, np.inf, -np.inf,
                   np.nan, 1 / 3, 1 + 2.0 ** -7, -0.1, 255, 1e-20, 7e19], bfloat16)
THREADS = 256
storage, accum = PRECISIONS["mixed_bf16"].storage, PRECISIONS["mixed_bf16"].accum


def run(kernel, n, *args, **options):
    launch(kernel, -(-n // THREADS), THREADS, args, **options)
    return args


def quiet(function):
    with np.errstate(all="ignore"):
        return function()


def as_doubles(x):
    return quiet(lambda: x.astype(np.float64))


def near_every_value():
    """Every bfloat16 as a float32, and with lower halves around the tie."""
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    return ((ALL.astype(np.uint32) << 16)[:, None] | lower).ravel().view(np.float32)


# ---- rounding

@cuda.jit
def round_and_read(x, by_role, by_type, by_instruction, back):
    i = cuda.grid(1)
    if i < x.size:
        by_role[i] = storage(x[i])
        by_type[i] = bf16.bfloat16_as_uint16(bf16.float32_to_bfloat16_rn(x[i]))
        by_instruction[i] = narrow_bf16(x[i])
        back[i] = accum(by_role[i])


@pytest.mark.parametrize("cpu", [None, "x86-64"])
def test_rounding_from_float32(cpu):
    x = near_every_value()
    bits = [np.zeros(x.size, np.uint16) for _ in range(3)]
    *_, back = run(round_and_read, x.size, x, *bits, np.zeros(x.size, np.float32), compute_capability=(9, 0), cpu=cpu)
    right = quiet(lambda: x.astype(bfloat16))
    for got in bits:
        assert_same(got.view(bfloat16), right, x)
    assert_same(back, right.astype(np.float32), x)


@cuda.jit
def round_double(x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = bf16.bfloat16_as_uint16(bf16.float64_to_bfloat16(x[i]))


def test_rounding_from_float64_happens_once():
    """Also next to a tie that float32 cannot tell from it, and where float32 is subnormal."""
    finite = as_doubles(ALL.view(bfloat16))
    finite = finite[np.isfinite(finite)]
    points = np.sort(finite)
    ties = (points[1:] + points[:-1]) / 2
    x = np.concatenate([finite, ties, ties * (1 + 2.0 ** -40), ties * (1 - 2.0 ** -40), np.array(
        [1e300, -1e300, 1e-300, -1e-300, 2.0 ** -134, 2.0 ** -134 * (1 + 2.0 ** -50), np.inf, np.nan])])
    _, bits = run(round_double, x.size, x, np.zeros(x.size, np.uint16), compute_capability=(9, 0))
    one = np.ones_like(x)
    assert_same(bits.view(bfloat16), quiet(lambda: fma_array(x, one, np.copysign(0.0, x), BRAIN)), x)


# ---- arithmetic

@cuda.jit
def operations(x, y, out):
    i = cuda.grid(1)
    if i < x.size:
        for j in range(y.size):
            a, b = bf16.uint16_as_bfloat16(x[i]), bf16.uint16_as_bfloat16(y[j])
            out[0, j, i] = bf16.bfloat16_as_uint16(a + b)
            out[1, j, i] = bf16.bfloat16_as_uint16(b - a)
            out[2, j, i] = bf16.bfloat16_as_uint16(a * b)
            out[3, j, i] = bf16.bfloat16_as_uint16(b / a)


def test_four_operations_on_every_value():
    """float32 has 24 >= 2 * 8 + 2 digits, so that its own rounding does no harm to + - * /, but for the products and
    quotients that are subnormal: those are exact in float64."""
    out = np.zeros((4, SECOND.size, ALL.size), np.uint16)
    run(operations, ALL.size, ALL, SECOND.view(np.uint16), out, compute_capability=(9, 0))
    x, y = as_doubles(ALL.view(bfloat16)), as_doubles(SECOND)[:, None]

    def rounded(exact):
        single = exact.astype(np.float32)                # rounded to odd: the sticky bit keeps ties apart
        beyond = (single.astype(np.float64) != exact) & np.isfinite(exact) & np.isfinite(single)
        bits = single.view(np.uint32) - (beyond & (abs(single.astype(np.float64)) > abs(exact)))
        return (bits | beyond).astype(np.uint32).view(np.float32).astype(bfloat16)

    expected = quiet(lambda: [rounded(z) for z in (x + y, y - x, x * y, y / x)])
    for got, right in zip(out.view(bfloat16), expected):
        assert_same(got, right, x, y)


@cuda.jit
def contracted(a, b, c, out):
    i = cuda.grid(1)
    if i < a.size:
        x, y, z = (bf16.uint16_as_bfloat16(a[i]), bf16.uint16_as_bfloat16(b[i]), bf16.uint16_as_bfloat16(c[i]))
        out[0, i] = bf16.bfloat16_as_uint16(bf16.hfma(x, y, z))
        out[1, i] = bf16.bfloat16_as_uint16(x * y + z)
        out[2, i] = bf16.bfloat16_as_uint16(z - x * y)
        out[3, i] = bf16.bfloat16_as_uint16(bf16.hadd_rn(bf16.hmul_rn(x, y), z))


def test_fused_multiply_add():
    rng = np.random.default_rng(8)
    n = 4000
    bits = rng.integers(0, 65536, (3, n)).astype(np.uint16).view(bfloat16)
    # the product, 144.5 or 161.5, lies on a tie; c is more than 53 bits away and says to which side to go
    far = np.stack([rng.choice([8.5, 9.5], n), np.full(n, 17), rng.choice([2.0 ** -60, -2.0 ** -60, 2.0 ** -100], n)])
    near = rng.uniform(-2, 2, (3, n)) * 2.0 ** rng.integers(-6, 6, (3, n))
    a, b, c = (np.ascontiguousarray(v) for v in np.concatenate(
        [bits, far.astype(bfloat16), near.astype(bfloat16),
         np.array(np.meshgrid(SECOND, SECOND, SECOND)).reshape(3, -1)], axis=1))
    out = np.zeros((4, a.size), np.uint16)
    run(contracted, a.size, *(v.view(np.uint16) for v in (a, b, c)), out, compute_capability=(9, 0))
    out = out.view(bfloat16)
    exact = quiet(lambda: fma_array(a, b, c, BRAIN))
    assert_same(out[0], exact, a, b, c)
    assert_same(out[1], exact, a, b, c)
    assert_same(out[2], quiet(lambda: fma_array(-a, b, c, BRAIN)), a, b, c)
    zero, one = np.zeros_like(a), np.ones_like(a)
    product = quiet(lambda: fma_array(a, b, (np.sign(a) * np.sign(b) * zero).astype(bfloat16), BRAIN))
    apart = quiet(lambda: fma_array(product, one, c, BRAIN))
    np.testing.assert_array_equal(as_doubles(out[3]), as_doubles(apart))
    assert (as_doubles(apart) != as_doubles(exact)).sum() > 300


# ---- integers

@cuda.jit
def from_integers(a, b, c, d, out):
    i = cuda.grid(1)
    if i < a.size:
        out[0, i] = bf16.bfloat16_as_uint16(bf16.int32_to_bfloat16_rn(a[i]))
        out[1, i] = bf16.bfloat16_as_uint16(bf16.uint32_to_bfloat16_rn(b[i]))
        out[2, i] = bf16.bfloat16_as_uint16(bf16.int64_to_bfloat16_rn(c[i]))
        out[3, i] = bf16.bfloat16_as_uint16(bf16.uint64_to_bfloat16_rn(d[i]))


def test_from_integers():
    rng = np.random.default_rng(3)
    shift = rng.integers(0, 56, 3000)
    wide = (rng.integers(128, 256, 3000) << shift) + np.where(shift > 1, (1 << np.maximum(shift - 1, 0)), 0) \
        + rng.integers(-1, 2, 3000)                                   # ties and their neighbours
    columns = [wide.astype(np.int32), wide.astype(np.uint32), wide - 2 ** 62, wide.astype(np.uint64) * np.uint64(2)]
    *_, out = run(from_integers, 3000, *columns, np.zeros((4, 3000), np.uint16), compute_capability=(9, 0))
    for got, x in zip(out.view(bfloat16), columns):
        assert_same(got, np.array([nearest(int(n), 0, BRAIN) for n in x]).astype(bfloat16), x)


@cuda.jit
def to_integers(x, a, b, c, d):
    i = cuda.grid(1)
    if i < x.size:
        v = bf16.uint16_as_bfloat16(x[i])
        a[0, i], a[1, i], a[2, i], a[3, i] = (bf16.bfloat16_to_int32_rn(v), bf16.bfloat16_to_int32_rz(v),
                                              bf16.bfloat16_to_int32_rd(v), bf16.bfloat16_to_int32_ru(v))
        b[0, i], b[1, i], b[2, i], b[3, i] = (bf16.bfloat16_to_uint32_rn(v), bf16.bfloat16_to_uint32_rz(v),
                                              bf16.bfloat16_to_uint32_rd(v), bf16.bfloat16_to_uint32_ru(v))
        c[0, i], c[1, i], c[2, i], c[3, i] = (bf16.bfloat16_to_int64_rn(v), bf16.bfloat16_to_int64_rz(v),
                                              bf16.bfloat16_to_int64_rd(v), bf16.bfloat16_to_int64_ru(v))
        d[0, i], d[1, i], d[2, i], d[3, i] = (bf16.bfloat16_to_uint64_rn(v), bf16.bfloat16_to_uint64_rz(v),
                                              bf16.bfloat16_to_uint64_rd(v), bf16.bfloat16_to_uint64_ru(v))


def test_to_integers():
    """All four directions, saturated; the value for a NaN differs between instructions and is not compared."""
    dtypes = [np.int32, np.uint32, np.int64, np.uint64]
    _, *out = run(to_integers, 65536, ALL, *(np.zeros((4, 65536), t) for t in dtypes), compute_capability=(9, 0))
    x = as_doubles(ALL.view(bfloat16))
    known = ~np.isnan(x)
    for got, dtype in zip(out, dtypes):
        limits = np.iinfo(dtype)
        for row, direction in zip(got, (np.rint, np.trunc, np.floor, np.ceil)):
            right = [min(max(int(v), limits.min), limits.max) if np.isfinite(v) else limits.max if v > 0 else limits.min
                     for v in direction(x[known])]
            np.testing.assert_array_equal(row[known], np.array(right, dtype))


# ---- comparisons and functions

@cuda.jit
def compared(x, y, out):
    i = cuda.grid(1)
    if i < x.size:
        for j in range(y.size):
            a, b = bf16.uint16_as_bfloat16(x[i]), bf16.uint16_as_bfloat16(y[j])
            out[j, i] = ((a < b) + 2 * (a <= b) + 4 * (a == b) + 8 * (a != b) + 16 * (a >= b) + 32 * (a > b))


@cuda.jit
def functions(x, out):
    i = cuda.grid(1)
    if i < x.size:
        v = bf16.uint16_as_bfloat16(x[i])
        out[0, i] = bf16.bfloat16_as_uint16(bf16.hsqrt(v))
        out[1, i] = bf16.bfloat16_as_uint16(bf16.hfloor(v))
        out[2, i] = bf16.bfloat16_as_uint16(bf16.hceil(v))
        out[3, i] = bf16.bfloat16_as_uint16(bf16.hneg(v))
        out[4, i] = bf16.bfloat16_as_uint16(bf16.habs(v))
        out[5, i] = bf16.bfloat16_as_uint16(bf16.hexp(v))
        out[6, i] = bf16.bfloat16_as_uint16(bf16.hlog(v))


def test_comparisons_and_functions():
    x, y = as_doubles(ALL.view(bfloat16)), as_doubles(SECOND)[:, None]
    *_, out = run(compared, 65536, ALL, SECOND.view(np.uint16), np.zeros((SECOND.size, 65536), np.int8),
                  compute_capability=(9, 0))
    np.testing.assert_array_equal(
        out, (x < y) + 2 * (x <= y) + 4 * (x == y) + 8 * (x != y) + 16 * (x >= y) + 32 * (x > y))
    _, out = run(functions, 65536, ALL, np.zeros((7, 65536), np.uint16), compute_capability=(9, 0))
    expected = quiet(lambda: [np.sqrt(x), np.floor(x), np.ceil(x), -x, abs(x), np.exp(x), np.log(x)])
    for got, right in zip(out[:5].view(bfloat16), expected):
        assert_same(got, quiet(lambda: right.astype(bfloat16)), x)
    for got, right in zip(as_doubles(out[5:].view(bfloat16)), expected[5:]):
        normal = np.isfinite(right) & (abs(right) > 1e-37) & (abs(right) < 3e38)
        assert (abs(got[normal] - right[normal]) <= 2.0 ** -8 * abs(right)[normal]).all()
