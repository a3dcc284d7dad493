"""The instructions of instructions.py: each does what the PTX manual says, on a GPU or through the emulator's twin."""
import numpy as np
import pytest
from numba import cuda

from numprec.language import instructions
from numprec.precision import FORMATS

HALVES = np.arange(65536, dtype=np.uint16).view(np.float16)
THREADS = 256


def launch(device, kernel, *arrays):
    """Runs one thread per element of the first array; returns the last one."""
    on_device = [a if a is None else device.array(a) for a in arrays]
    device.launch(kernel, -(-len(arrays[0]) // THREADS), THREADS, *on_device)
    return device.to_host(on_device[-1])


def operands(fmt, rng):
    """Pairs over the whole range; for float16 every value."""
    if fmt.name == "float16":
        return HALVES, rng.permutation(HALVES)
    values = np.ldexp(rng.standard_normal((2, 4096)), rng.integers(-40, 40, (2, 4096)))
    return fmt.round(values)


def as_word(low, high):
    return low.view(np.uint16).astype(np.uint32) | high.view(np.uint16).astype(np.uint32) << np.uint32(16)


def halves(words):
    return (words & 0xFFFF).astype(np.uint16).view(np.float16), (words >> 16).astype(np.uint16).view(np.float16)


def test_every_instruction_is_an_ordinary_one():
    assert instructions.assembly("fma.rn.f16x2") == "fma.rn.f16x2 $0, $1, $2, $3;"
    for mnemonic, (constraints, compute_capability, section) in instructions.INSTRUCTIONS.items():
        assert constraints.startswith("=") and section.endswith(mnemonic.partition(".")[0])
        assert compute_capability >= (2, 0)


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_bits_and_back(device, name):
    fmt = FORMATS[name]

    @cuda.jit
    def copy(x, y):
        i = cuda.grid(1)
        if i < x.size:
            y[i] = instructions.number(instructions.bits(x[i]), x[i])
    x, _ = operands(fmt, np.random.default_rng(0))
    assert launch(device, copy, x, np.zeros_like(x)).tobytes() == x.tobytes()


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_product_and_sum_are_rounded_apart(device, name):
    """x * y + x through mul_rn and add_rn has NumPy's two roundings, where Numba's operators have one."""
    fmt = FORMATS[name]

    @cuda.jit
    def apart(x, y, z):
        i = cuda.grid(1)
        if i < x.size:
            z[i] = instructions.add_rn(instructions.mul_rn(x[i], y[i]), x[i])

    @cuda.jit
    def fused(x, y, z):
        i = cuda.grid(1)
        if i < x.size:
            z[i] = x[i] * y[i] + x[i]
    x, y = operands(fmt, np.random.default_rng(1))
    with np.errstate(all="ignore"):
        exact = (x * y).astype(fmt.numpy) + x
    np.testing.assert_array_equal(launch(device, apart, x, y, np.zeros_like(x)), exact)
    assert (launch(device, fused, x, y, np.zeros_like(x)) != exact).sum() > np.isnan(exact).sum()


@pytest.mark.parametrize("name", ["add2", "mul2", "fma2"])
def test_packed_halves(device, name):
    """Every half, paired with every other in some order, in both positions at once; each result is rounded once."""
    rng = np.random.default_rng(2)
    low, high = [rng.permutation(HALVES) for _ in range(3)], [rng.permutation(HALVES) for _ in range(3)]
    a, b, c = map(as_word, low, high)
    operation = getattr(instructions, name)

    @cuda.jit
    def two(a, b, c, d):
        i = cuda.grid(1)
        if i < a.size:
            d[i] = operation(a[i], b[i])

    @cuda.jit
    def three(a, b, c, d):
        i = cuda.grid(1)
        if i < a.size:
            d[i] = operation(a[i], b[i], c[i])
    result = launch(device, three if name == "fma2" else two, a, b, c, np.zeros_like(a))
    for got, (x, y, z) in zip(halves(result), (low, high)):
        x, y, z = (v.astype(np.float64) for v in (x, y, z))
        with np.errstate(all="ignore"):
            exact = {"add2": x + y, "mul2": x * y, "fma2": x * y + z}[name].astype(np.float16)
        np.testing.assert_array_equal(got, exact)


def test_pack_and_unpack(device):
    @cuda.jit
    def swap(x, y):
        i = cuda.grid(1)
        if i < x.size:
            y[i] = instructions.pack2(instructions.high(x[i]), instructions.low(x[i]))
    x = as_word(HALVES, np.random.default_rng(3).permutation(HALVES))
    np.testing.assert_array_equal(launch(device, swap, x, np.zeros_like(x)), x << np.uint32(16) | x >> np.uint32(16))


def test_narrowing_to_bfloat16():
    """Ties go to even and a NaN stays one; on a device that has the instruction."""
    from numprec import device as devices
    device = devices.get(compute_capability=(8, 0))
    if device.compute_capability < instructions.INSTRUCTIONS["cvt.rn.bf16.f32"].compute_capability:
        pytest.skip(f"{device.name} has no cvt.rn.bf16.f32")

    @cuda.jit
    def narrow(x, y):
        i = cuda.grid(1)
        if i < x.size:
            y[i] = instructions.narrow_bf16(x[i])
    rng = np.random.default_rng(4)
    patterns = rng.integers(0, 2 ** 32, 20000, dtype=np.uint32)
    ties = patterns & np.uint32(0xFFFF0000) | np.uint32(0x8000)
    x = np.concatenate([patterns, ties]).view(np.float32)
    with np.errstate(invalid="ignore"):
        exact = FORMATS["bfloat16"].round(x)
    got = launch(device, narrow, x, np.zeros(x.size, np.uint16))
    np.testing.assert_array_equal(got.astype(np.float32), exact.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.uint32, np.float32, np.float64])
def test_sixteen_bytes(device, dtype):
    """Through registers and shared memory, in reverse order of the threads."""
    count = 16 // np.dtype(dtype).itemsize
    shared = 32 * count
    element = dtype

    @cuda.jit
    def turn(x, y):
        tile = cuda.shared.array(shared, element)
        t = cuda.threadIdx.x
        instructions.store16(tile, count * t, instructions.load16(x, count * t))
        cuda.syncthreads()
        instructions.store16(y, count * t, instructions.load16(tile, count * (31 - t)))
    x = np.arange(shared).astype(dtype)
    on_device, y = device.array(x), device.empty(shared, dtype)
    device.launch(turn, 1, 32, on_device, y)
    np.testing.assert_array_equal(device.to_host(y), x.reshape(32, count)[::-1].ravel())
