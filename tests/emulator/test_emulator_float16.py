"""The emulator's float16: every operation rounds once, to nearest even, whatever the host has.

Oracles: NumPy, whose float16 arithmetic goes through float32 (24 digits are enough for + - * / to round once in
effect: 24 >= 2 * 11 + 2), and exact integer arithmetic for the fused multiply-add.
"""
import llvmlite.binding as llvm
import numpy as np
import pytest
from emulator_exact import FORMATS, assert_same, fma_array
from numba import cuda, int16, int32, int64, types, uint8, uint16, uint32, uint64

from numprec.emulator import host, launch
from numprec.kernels.products import matmul
from numprec.language.instructions import add_rn, bits, mul_rn, number
from numprec.precision import PRECISIONS

float16 = types.float16

HALF = FORMATS["float16"]
HALVES = np.arange(65536, dtype=np.uint16).view(np.float16)
SECOND = np.array([0.0, -0.0, 1.0, -1.0, 2.0 ** -24, -2.0 ** -24, 1023 * 2.0 ** -24, 2.0 ** -14, -2.0 ** -14, 65504,
                   -65504, np.inf, -np.inf, np.nan, 1 / 3, 1 + 2.0 ** -10, 3, -0.1, 2047, 1e-3, 6.1e-5, -255.9],
                  np.float16)
THREADS = 256

# The host; one with AVX512 but without half arithmetic; one with F16C; one without even that, where the conversions
# are done in integer arithmetic.
TARGETS = {None: "", "icelake-server": "avx512f avx512vl avx512bw avx512dq avx512vbmi2 avx512vnni gfni vaes",
           "haswell": "avx2 fma f16c bmi2", "x86-64": ""}


X86 = llvm.get_process_triple().startswith("x86_64")


@pytest.fixture(params=TARGETS, ids=str)
def cpu(request):
    """A processor to compile for, by its LLVM name."""
    if request.param and not X86:
        pytest.skip("the host is not an x86-64")
    missing = [f for f in TARGETS[request.param].split() if not llvm.get_host_cpu_features().get(f)]
    if missing:
        pytest.skip(f"the host cannot run code for {request.param}: it lacks {', '.join(missing)}")
    return request.param


def run(kernel, n, *args, **options):
    launch(kernel, -(-n // THREADS), THREADS, args, **options)
    return args


def quiet(function):
    """NumPy overflows and makes NaNs on purpose here."""
    with np.errstate(all="ignore"):
        return function()


# ---- + - * / and comparisons

@cuda.jit
def four_operations(x, y, total, difference, product, quotient):
    i = cuda.grid(1)
    if i < x.size:
        for j in range(y.size):
            total[j, i] = x[i] + y[j]
            difference[j, i] = y[j] - x[i]
            product[j, i] = x[i] * y[j]
            quotient[j, i] = y[j] / x[i]


def test_four_operations_on_every_value(cpu):
    out = [np.zeros((SECOND.size, HALVES.size), np.float16) for _ in range(4)]
    run(four_operations, HALVES.size, HALVES, SECOND, *out, cpu=cpu)
    y = SECOND[:, None]
    expected = quiet(lambda: (HALVES + y, y - HALVES, HALVES * y, y / HALVES))
    for got, right in zip(out, expected):
        assert_same(got, right, HALVES, y)


@cuda.jit
def comparisons(x, y, out):
    i = cuda.grid(1)
    if i < x.size:
        for j in range(y.size):
            out[j, i] = ((x[i] < y[j]) + 2 * (x[i] <= y[j]) + 4 * (x[i] == y[j]) + 8 * (x[i] != y[j])
                         + 16 * (x[i] >= y[j]) + 32 * (x[i] > y[j]))


@cuda.jit
def signs(x, negative, absolute):
    i = cuda.grid(1)
    if i < x.size:
        negative[i] = -x[i]
        absolute[i] = abs(x[i])


def test_comparisons_and_signs():
    x, y = HALVES, SECOND[:, None]
    *_, out = run(comparisons, x.size, x, SECOND, np.zeros((SECOND.size, x.size), np.int8))
    np.testing.assert_array_equal(out, (x < y) + 2 * (x <= y) + 4 * (x == y) + 8 * (x != y) + 16 * (x >= y)
                                  + 32 * (x > y))
    _, negative, absolute = run(signs, x.size, x, np.zeros_like(x), np.zeros_like(x))
    assert_same(negative, -x, x)
    assert_same(absolute, abs(x), x)


# ---- conversions

def neighbours(dtype):
    """Every float16, every midpoint of two, and what lies next to these in `dtype`; infinities and NaN."""
    finite = np.sort(np.unique(HALVES[np.isfinite(HALVES)])).astype(dtype)
    finite = np.append(finite, dtype(65536))              # beyond the last, as if the format went on
    points = np.concatenate([finite, (finite[1:] + finite[:-1]) / 2])
    near = [points, np.nextafter(points, dtype(np.inf)), np.nextafter(points, dtype(-np.inf))]
    if dtype is np.float64:                               # so near that float32 has them on the point
        near += [points * (1 + 2.0 ** -30), points * (1 - 2.0 ** -30), points * (1 + 2.0 ** -40)]
    tiny = np.finfo(dtype).smallest_subnormal
    rest = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, tiny, -tiny, 2.0 ** -25, 1e30, -1e30], dtype)
    return np.concatenate([*near, rest])


@cuda.jit
def narrow(x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = float16(x[i])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_to_half(cpu, dtype):
    """A float64 is rounded once: not first to float32."""
    x = neighbours(dtype)
    _, y = run(narrow, x.size, x, np.zeros(x.size, np.float16), cpu=cpu)
    assert_same(y, quiet(lambda: x.astype(np.float16)), x)
    if dtype is np.float64:
        assert (quiet(lambda: x.astype(np.float32).astype(np.float16)) != y)[np.isfinite(x)].any()


@cuda.jit
def widen(x, single, double):
    i = cuda.grid(1)
    if i < x.size:
        single[i] = x[i]
        double[i] = x[i]


def test_widening_is_exact(cpu):
    _, single, double = run(widen, 65536, HALVES, np.zeros(65536, np.float32), np.zeros(65536), cpu=cpu)
    assert_same(single, HALVES.astype(np.float32), HALVES)
    assert_same(double, HALVES.astype(np.float64), HALVES)


@cuda.jit
def from_integer(x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = float16(x[i])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_from_integers(dtype):
    limits = np.iinfo(dtype)
    x = np.unique(np.clip(np.concatenate([np.arange(-66000, 66000), 2 ** np.arange(8, 63), -2 ** np.arange(8, 63)]),
                          limits.min, min(limits.max, 2 ** 63 - 1))).astype(dtype)
    x = np.append(x, np.array([limits.max, limits.min], dtype))
    _, y = run(from_integer, x.size, x, np.zeros(x.size, np.float16))
    assert_same(y, quiet(lambda: x.astype(np.float16)), x)


@cuda.jit
def to_integers(x, a, b, c, d, e, f, g):
    i = cuda.grid(1)
    if i < x.size:
        a[i] = int16(x[i])
        b[i] = int32(x[i])
        c[i] = int64(x[i])
        d[i] = uint8(x[i])
        e[i] = uint16(x[i])
        f[i] = uint32(x[i])
        g[i] = uint64(x[i])


def test_to_integers():
    """Numba converts a float16 with cvt.rni: to nearest even, where a float32 is truncated. Out of range it gives the
    nearest integer that there is, and 0 for a NaN."""
    dtypes = [np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
    _, *out = run(to_integers, 65536, HALVES, *(np.zeros(65536, d) for d in dtypes))
    whole = quiet(lambda: np.rint(HALVES.astype(float)))
    for got, dtype in zip(out, dtypes):
        limits = np.iinfo(dtype)
        right = [0 if np.isnan(v) else limits.max if v > limits.max else limits.min if v < limits.min else int(v)
                 for v in whole]
        np.testing.assert_array_equal(got, np.array(right, dtype))


@cuda.jit
def numbers_that_are_none(x, y, z, out):
    i = cuda.grid(1)
    if i < x.size:
        out[0, i] = x[i] * y[i]
        out[1, i] = np.float16(z[i])
        out[2, i] = cuda.fp16.hfma(x[i], y[i], x[i])
        acc = x[i]
        for _ in range(3):
            acc += y[i]
        out[3, i] = acc


def test_a_nan_has_the_bits_of_a_gpu(cpu):
    """0x7fff, whatever sign or payload went in: PTX ISA, "Half Precision Floating Point Instructions"."""
    x = np.array([0x7e00, 0xfe01, 0x7c00, 0x0000, 0xfc00], np.uint16).view(np.float16)
    y = np.array([0x3c00, 0x3c00, 0x0000, 0xfc00, 0x7e05], np.uint16).view(np.float16)
    z = np.array([0x7fc00000, 0xffc00001, 0x7f800001, 0x7fffffff, 0xff800123], np.uint32).view(np.float32)
    *_, out = run(numbers_that_are_none, x.size, x, y, z, np.zeros((4, x.size), np.float16), cpu=cpu)
    bits = out.view(np.uint16)
    assert (bits[:3] == 0x7fff).all()
    assert bits[3].tolist() == [0x7fff, 0x7fff, 0x7c00, 0xfc00, 0x7fff]


# ---- fused multiply-add

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
        total = z
        total += x * y
        out[5, i] = total
        out[6, i] = cuda.fp16.hfma(x, y, z)
        out[7, i] = cuda.fp16.hadd(cuda.fp16.hmul(x, y), z)
        out[8, i] = mul_rn(x, y) + z
        product = x * z
        out[9, i] = add_rn(product, y)
        out[10, i] = product + y                # the other use keeps it apart


SIGNS = np.array([(1, 1), (1, 1), (1, -1), (-1, 1), (-1, 1), (1, 1), (1, 1), (1, 1)])      # of the product and of c


def fma_operands(rng):
    """Random bits; products that nearly cancel c; sums just beside a tie; results below the normal range; overflow."""
    n = 3000
    bits = rng.integers(0, 65536, (3, n)).astype(np.uint16).view(np.float16)
    a, b = quiet(lambda: (rng.uniform(-2, 2, (2, n)) * 2.0 ** rng.integers(-7, 7, (2, n))).astype(np.float16))
    cancelling = np.stack([a, b, -(a * b)])
    k = rng.integers(1024, 2048, n)                       # c = k + 1/2 ulp of it, from a product, and a little more
    a_tie = np.ldexp(rng.integers(1025, 1400, n) / 1024, 0).astype(np.float16)
    ties = np.stack([a_tie, (0.5 / a_tie.astype(float)).astype(np.float16), k.astype(np.float16)])
    exact_ties = np.stack([np.full(n, 0.5, np.float16), np.full(n, 1, np.float16), k.astype(np.float16)])
    far = np.stack([np.full(n, 2.0 ** -24, np.float16), np.where(np.arange(n) % 2, 1, -1).astype(np.float16)
                    * np.float16(2.0 ** -24), k.astype(np.float16)])
    small = (rng.uniform(-1, 1, (3, n)) * np.array([[2.0 ** -10], [2.0 ** -12], [2.0 ** -14]])).astype(np.float16)
    large = (rng.uniform(0.9, 1, (3, n)) * np.array([[256], [256], [65000]])
             * rng.choice([-1, 1], (3, n))).astype(np.float16)
    special = np.array(np.meshgrid(SECOND, SECOND, SECOND)).reshape(3, -1)
    return np.concatenate([bits, cancelling, ties, exact_ties, far, small, large, special], axis=1)


@pytest.fixture(scope="module")
def fma_case():
    a, b, c = fma_operands(np.random.default_rng(16))
    exact = {(s, t): quiet(lambda: fma_array(np.float16(s) * a, b, np.float16(t) * c, HALF))
             for s, t in {*map(tuple, SIGNS)}}
    return np.ascontiguousarray(a), np.ascontiguousarray(b), np.ascontiguousarray(c), exact


def test_products_are_fused_with_sums(cpu, fma_case):
    a, b, c, exact = fma_case
    *_, out = run(contracted, a.size, a, b, c, np.zeros((11, a.size), np.float16), cpu=cpu)
    for row, signs_ in zip(out, map(tuple, SIGNS)):
        assert_same(row, exact[signs_], a, b, c)
    apart = quiet(lambda: a * b + c)
    assert_same(out[8], apart, a, b, c)
    for row in out[9:]:
        assert_same(row, quiet(lambda: a * c + b), a, b, c)
    assert (apart != exact[1, 1])[np.isfinite(apart)].sum() > 500      # the operands tell one rounding from two


# ---- values that go round a loop; the emulator keeps those in a wider form, already rounded

@cuda.jit
def loops(x, y, steps, out):
    i = cuda.grid(1)
    if i < x.size:
        for j in range(y.size):
            total = difference = turned = product = quotient = inverse = fused = x[i]
            one = float16(1)
            for _ in range(steps):
                total = total + y[j]
                difference = difference - y[j]
                turned = y[j] - turned
                product = product * y[j]
                quotient = quotient / y[j]
                inverse = y[j] / inverse
                fused += y[j] * one
            out[0, j, i] = total
            out[1, j, i] = difference
            out[2, j, i] = turned
            out[3, j, i] = product
            out[4, j, i] = quotient
            out[5, j, i] = inverse
            out[6, j, i] = fused


def test_loops_on_every_value(cpu):
    """Each value on its way into a loop, round it and out of it, with every kind of result: subnormal, -0, infinite."""
    out = np.zeros((7, SECOND.size, HALVES.size), np.float16)
    y = SECOND[:, None]
    one_step = [lambda v: v + y, lambda v: v - y, lambda v: y - v, lambda v: v * y, lambda v: v / y, lambda v: y / v,
                lambda v: v + y]
    right = [np.broadcast_to(HALVES, out[0].shape)] * 7
    for steps in range(3):
        run(loops, HALVES.size, HALVES, SECOND, steps, out, cpu=cpu)
        for got, row in zip(out, right):
            assert_same(got, row, HALVES, y)
        right = quiet(lambda: [step(row) for step, row in zip(one_step, right)])


@cuda.jit
def horner(coefficients, x, partial, out):
    """Multiply-adds round a loop, with a branch in it, values stored on the way, and two loops one in the other."""
    i = cuda.grid(1)
    if i < x.size:
        sums = float16(0)
        for row in range(coefficients.shape[0]):
            acc = coefficients[row, 0]
            for k in range(1, coefficients.shape[1]):
                acc = acc * x[i] + coefficients[row, k]
                if acc < float16(-100):
                    acc = coefficients[row, k]
                partial[row, k, i] = acc
            if row % 2 == 0:
                sums += acc
            else:
                sums = sums * acc
        out[i] = sums


def test_loops_with_branches(cpu):
    rng = np.random.default_rng(11)
    coefficients = rng.standard_normal((4, 6)).astype(np.float16)
    x = (rng.standard_normal(2000) * 2.0 ** rng.integers(-9, 5, 2000)).astype(np.float16)
    _, _, partial, out = run(horner, 2000, coefficients, x, np.zeros((4, 6, 2000), np.float16),
                             np.zeros(2000, np.float16), cpu=cpu)
    sums = np.zeros(2000, np.float16)
    for row, c in enumerate(coefficients):
        acc = np.full(2000, c[0])
        for k in range(1, 6):
            acc = quiet(lambda: fma_array(acc, x, np.full(2000, c[k]), HALF))
            acc = np.where(acc < -100, c[k], acc)
            assert_same(partial[row, k], acc, x)
        sums = quiet(lambda: sums + acc if row % 2 == 0 else sums * acc)
    assert_same(out, sums, x)


@cuda.jit
def butterfly(x, out):
    i = cuda.threadIdx.x
    acc = float16(0)
    for k in range(i % 3 + 1):
        acc += x[i + 32 * k]
    offset = 16
    while offset:
        acc += number(cuda.shfl_xor_sync(0xFFFFFFFF, bits(acc), offset), acc)
        offset //= 2
    out[i] = acc


def test_loops_through_shuffles(cpu):
    x, out = np.random.default_rng(6).standard_normal(96).astype(np.float16), np.zeros(32, np.float16)
    launch(butterfly, 1, 32, (x, out), cpu=cpu, seed=2)
    lanes = np.arange(32)
    acc = x[:32].copy()
    for k in (1, 2):
        acc = np.where(lanes % 3 >= k, acc + x[32 * k:32 * k + 32], acc)
    for offset in (16, 8, 4, 2, 1):
        acc = acc + acc[lanes ^ offset]
    assert_same(out, acc)


@pytest.mark.skipif(not X86, reason="the host is not an x86-64")
def test_a_missing_helper_is_an_error():
    """Where LLVM calls a function of its run-time library, there is no code to run; on plain x86-64 a conversion to
    half is one, which is why it is done by hand there."""
    place = host.Target("x86-64")
    with pytest.raises(RuntimeError, match="__truncsfhf2"):
        place.object_code("define half @f(float %x) {\n  %h = fptrunc float %x to half\n  ret half %h\n}\n")


@pytest.mark.skipif(not X86, reason="the host is not an x86-64")
def test_halves_are_not_moved_by_instructions_that_have_no_vex_form():
    """Where the processor has SSE4a, LLVM would take its insertq for this, between AVX instructions."""
    moved = """define void @f(ptr %p, ptr %q) {
  %a = load <8 x i16>, ptr %p
  %b = load <8 x i16>, ptr %q
  %s = shufflevector <8 x i16> %a, <8 x i16> %b, <8 x i32> <i32 0, i32 1, i32 8, i32 3,
                                                            i32 poison, i32 poison, i32 poison, i32 poison>
  store <8 x i16> %s, ptr %p
  ret void
}
"""

    def assembly(features):
        machine = host.llvm.Target.from_triple(host.llvm.get_process_triple()).create_target_machine("znver1", features)
        return machine.emit_assembly(host.llvm.parse_assembly(moved))

    assert "insertq" in assembly("")
    for cpu in None, "haswell":
        assert "-sse4a" in host.Target(cpu).features.split(",")
    assert "insertq" not in assembly(host.Target("haswell").features)


# ---- a whole kernel

def chain(A, B):
    """The fused chain of a matrix product, k in order, each multiply-add rounded once: the product is exact in
    float64, and so is the sum where the terms lie within 53 bits of each other, as here."""
    acc = np.zeros((A.shape[0], B.shape[1]), np.float16)
    for k in range(A.shape[1]):
        acc = (A[:, k, None].astype(float) * B[None, k].astype(float) + acc).astype(np.float16)
    return acc


@pytest.mark.parametrize("rung", ["tiled", "register_blocked"])
def test_matmul_has_the_same_bits_everywhere(cpu, rung):
    rng = np.random.default_rng(5)
    A, B = (rng.standard_normal(s).astype(np.float16) for s in ((96, 70), (70, 80)))
    A[::7] *= np.float16(2.0 ** -12)                     # some rows reach the subnormals
    C = np.zeros((96, 80), np.float16)
    kernel = getattr(matmul, rung).variant(PRECISIONS["fp16"])
    grid, block = ((5, 6), (16, 16)) if rung == "tiled" else ((2, 2), matmul.THREADS)
    launch(kernel, grid, block, (A, B, C, C), cpu=cpu, seed=1)
    assert_same(C, chain(A, B))


# ---- functions

@cuda.jit
def rounded_functions(x, out):
    i = cuda.grid(1)
    if i < x.size:
        out[0, i] = cuda.fp16.hsqrt(x[i])
        out[1, i] = cuda.fp16.hrcp(x[i])
        out[2, i] = cuda.fp16.hceil(x[i])
        out[3, i] = cuda.fp16.hfloor(x[i])
        out[4, i] = cuda.fp16.hrint(x[i])
        out[5, i] = cuda.fp16.htrunc(x[i])
        out[6, i] = cuda.fp16.habs(x[i])
        out[7, i] = cuda.fp16.hmax(x[i], float16(1))
        out[8, i] = cuda.fp16.hmin(x[i], float16(1))


@cuda.jit
def functions(x, out):
    i = cuda.grid(1)
    if i < x.size:
        out[0, i] = cuda.fp16.hexp(x[i])
        out[1, i] = cuda.fp16.hexp2(x[i])
        out[2, i] = cuda.fp16.hexp10(x[i])
        out[3, i] = cuda.fp16.hlog(x[i])
        out[4, i] = cuda.fp16.hlog2(x[i])
        out[5, i] = cuda.fp16.hlog10(x[i])
        out[6, i] = cuda.fp16.hsin(x[i])
        out[7, i] = cuda.fp16.hcos(x[i])
        out[8, i] = cuda.fp16.hrsqrt(x[i])


def ordered(x):
    """float16 as integers in the order of the numbers, one apart where the numbers are neighbours."""
    bits = x.view(np.int16).astype(np.int32)
    return np.where(bits < 0, -32768 - bits, bits)


def test_functions():
    """Those that are rounded correctly are; the others lie within one unit in the last place."""
    _, out = run(rounded_functions, 65536, HALVES, np.zeros((9, 65536), np.float16))
    x = HALVES.astype(np.float64)
    expected = quiet(lambda: [np.sqrt(x), 1 / x, np.ceil(x), np.floor(x), np.rint(x), np.trunc(x), abs(x),
                              np.fmax(x, 1), np.fmin(x, 1)])
    for got, right in zip(out, expected):
        assert_same(got, quiet(lambda: right.astype(np.float16)), HALVES)
    _, out = run(functions, 65536, HALVES, np.zeros((9, 65536), np.float16))
    expected = quiet(lambda: [np.exp(x), np.exp2(x), 10.0 ** x, np.log(x), np.log2(x), np.log10(x), np.sin(x),
                              np.cos(x), 1 / np.sqrt(x)])
    for got, right in zip(out, expected):
        right = quiet(lambda: right.astype(np.float16))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(right))
        known = ~np.isnan(right)
        assert abs(ordered(got) - ordered(right))[known].max() <= 1
