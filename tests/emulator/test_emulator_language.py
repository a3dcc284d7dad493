"""What a kernel may be made of, on the emulator: kinds of memory, device functions, control flow, compiler options.

Each kernel here once was, or might have been, translated wrongly.
"""
import math
import os

import numpy as np
import numba
import pytest
from numba import boolean, complex64, complex128, cuda, float32, float64, int32, types
from numba.cuda import random

from numprec.emulator import launch, sanitize

SEED = 3


# ---- shared memory of every kind

@pytest.mark.parametrize("dtype", ["i1", "u2", "i4", "i8", "f2", "f4", "f8", "c8", "c16", "?"])
def test_shared_arrays_of_every_type(dtype):
    kind = numba.from_dtype(np.dtype(dtype))

    @cuda.jit
    def turn(x):
        s = cuda.shared.array((2, 3, 4), kind)
        i, j, k = cuda.threadIdx.z, cuda.threadIdx.y, cuda.threadIdx.x
        s[i, j, k] = x[i, j, k]
        cuda.syncthreads()
        x[i, j, k] = s[1 - i, 2 - j, 3 - k]

    x = np.arange(24).reshape(2, 3, 4).astype(dtype)
    right = x[::-1, ::-1, ::-1].copy()
    launch(turn, 1, (4, 3, 2), (x,), seed=SEED)
    np.testing.assert_array_equal(x, right)


def test_shared_records():
    record = np.dtype([("index", np.int64), ("value", np.float32), ("small", np.int8), ("row", np.float64, (3,))],
                      align=True)
    kind = numba.from_dtype(record)

    @cuda.jit
    def turn(x, y):
        s = cuda.shared.array(20, kind)
        i = cuda.threadIdx.x
        s[i] = x[i]
        s[i].row[1] = i
        cuda.syncthreads()
        y[i] = s[19 - i]

    x, y = np.zeros(20, record), np.zeros(20, record)
    x["index"], x["value"], x["small"] = np.arange(20), np.arange(20) / 2, np.arange(20)
    launch(turn, 1, 20, (x, y), seed=SEED)
    x["row"][:, 1] = np.arange(20)
    np.testing.assert_array_equal(y, x[::-1])


def test_where_shared_arrays_lie():
    """Odd sizes, alignment, an array in each branch, and all dynamic arrays at one address."""
    @cuda.jit
    def several(x, flag):
        a = cuda.shared.array(3, types.int8)
        b = cuda.shared.array(5, float64, alignment=16)
        c = cuda.shared.array(3, types.int16)
        floats = cuda.shared.array(0, float32)
        words = cuda.shared.array(0, int32)
        i = cuda.threadIdx.x
        if i < 3:
            a[i] = i
            c[i] = 10 * i
        if i < 5:
            b[i] = 100 * i
        floats[i] = i
        words[8 + i] = 1000 * i
        if flag:
            d = cuda.shared.array(8, float32)
            d[i] = 10000
            cuda.syncthreads()
            x[i] = d[7 - i]
        else:
            e = cuda.shared.array(8, float64)
            e[i] = 20000
            cuda.syncthreads()
            x[i] = e[7 - i]
        x[i] += a[i % 3] + b[i % 5] + c[i % 3] + floats[7 - i] + words[15 - i]

    i = np.arange(8)
    for flag in (True, False):
        x = np.zeros(8)
        launch(several, 1, 8, (x, flag), shared=64, seed=SEED)
        np.testing.assert_array_equal(x, i % 3 * 11 + i % 5 * 100 + (7 - i) * 1001 + (10000 if flag else 20000))


def test_slices_and_views_of_shared_memory():
    @cuda.jit
    def views(x, y):
        s = cuda.shared.array((8, 8), float64)
        i = cuda.threadIdx.x
        row = s[i]
        for j in range(8):
            row[j] = x[i, j]
        cuda.syncthreads()
        column = s[:, i]
        total = 0.0
        for v in column[::2]:
            total += v
        words = s.view(np.int64)
        cuda.syncthreads()
        words[i, 1] = i
        cuda.syncthreads()
        y[i] = total + s.T[i, 0] + s[-1, -2] + words[7 - i, 1] + len(s) + s.size + s.ndim

    x, y = np.random.default_rng(0).standard_normal((8, 8)), np.zeros(8)
    launch(views, 1, 8, (x, y), seed=SEED)
    i = np.arange(8)
    s = x.copy()
    s[:, 1] = 0
    np.testing.assert_allclose(y, x[::2].sum(axis=0) + np.where(i == 1, np.array([0] * 8, np.int64).view(float), s[0])
                               + x[7, 6] + 7 - i + 8 + 64 + 2, rtol=1e-14)


# ---- local and constant memory

def test_local_arrays():
    """They live across barriers, also those larger than the room beside a thread's record; Numba clears them."""
    @cuda.jit
    def locals_(x):
        a = cuda.local.array(20000, float64)
        b = cuda.local.array((3, 4), boolean)
        c = cuda.local.array(7, complex128)
        h = cuda.local.array(5, types.float16)
        fresh = cuda.local.array(6, int32)
        i = cuda.threadIdx.x
        for j in range(20000):
            a[j] = i * j
        for j in range(12):
            b[j // 4, j % 4] = j % 3 == 0
        for j in range(7):
            c[j] = complex(j, i)
        for j in range(5):
            h[j] = types.float16(j)
        cuda.syncthreads()
        total = 0j
        for j in range(20000):
            total += a[j]
        cuda.syncthreads()
        for j in range(12):
            total += 1 if b[j // 4, j % 4] else 0
        for j in range(7):
            total += c[j]
        for j in range(5):
            total += float64(h[j])
        for j in range(6):
            total += fresh[j]
        x[i] = total

    x = np.zeros(40, np.complex128)
    launch(locals_, 1, 40, (x,), seed=SEED)
    np.testing.assert_array_equal(x, np.arange(40) * (20000 * 19999 // 2) + 4 + 21 + 7j * np.arange(40) + 10)


def test_an_array_in_a_loop_is_one_array():
    """An alloca in a loop must not take more of the stack in every pass; the array is cleared once, at the start."""
    @cuda.jit
    def loops(x):
        total = 0.0
        for step in range(100000):
            a = cuda.local.array(64, float64)
            a[step % 64] = step
            total += a[(step + 1) % 64] + a[step % 64]
        x[0] = total

    x = np.zeros(1)
    launch(loops, 1, 1, (x,))
    assert x[0] == 100000 * 99999 / 2 + 99937 * 99936 / 2           # what was written 63 passes before is still there


def test_constants():
    """Arrays that a kernel closes over, those in constant memory, and tuples of anything."""
    table = np.arange(12, dtype=np.float32).reshape(3, 4) * 1.5
    halves, numbers, flags = table.astype(np.float16) / 3, table + 2j, table > 5
    columns = np.asfortranarray(table)
    mixed = (1.5, 2, table, (3, np.float32(4)))

    @cuda.jit
    def read(x, h, z):
        t = cuda.const.array_like(table)
        u = cuda.const.array_like(halves)
        n = cuda.const.array_like(numbers)
        i, j = cuda.grid(2)
        if i < 3 and j < 4:
            x[i, j] = t[i, j] + columns[2 - i, j] + mixed[0] + mixed[1] + mixed[2][i, 0] + mixed[3][1] + flags[i, j]
            h[i, j] = u[2 - i, 3 - j]
            z[i, j] = n[i, 3 - j]

    x, h, z = np.zeros((3, 4)), np.zeros((3, 4), np.float16), np.zeros((3, 4), np.complex64)
    launch(read, 1, (4, 4), (x, h, z))
    np.testing.assert_array_equal(x, table + table[::-1] + 3.5 + table[:, :1] + 4 + flags)
    np.testing.assert_array_equal(h, halves[::-1, ::-1])
    np.testing.assert_array_equal(z, numbers[:, ::-1])


# ---- device functions

@cuda.jit(device=True)
def block_sum(s, i, value):
    """Barriers inside a function, which is called several times, in loops, by two kernels."""
    s[i] = value
    step = s.size // 2
    while step > 0:
        cuda.syncthreads()
        if i < step:
            s[i] += s[i + step]
        step //= 2
    cuda.syncthreads()
    total = s[0]
    cuda.syncthreads()
    return total


@cuda.jit(device=True)
def moments(i, value):
    """Shared memory of its own, a tuple as its result, and calls of another function."""
    s = cuda.shared.array(64, float64)
    mean = block_sum(s, i, value) / 64
    deviation = value - mean
    return mean, block_sum(s, i, deviation * deviation) / 64


def test_device_functions():
    @cuda.jit
    def standardised(x, y):
        i = cuda.threadIdx.x
        for row in range(x.shape[0]):
            mean, variance = moments(i, x[row, i])
            y[row, i] = (x[row, i] - mean) / math.sqrt(variance)

    @cuda.jit
    def sums(x, y):
        s = cuda.shared.array(64, float64)
        i = cuda.threadIdx.x
        for row in range(x.shape[0]):
            y[row, i] = block_sum(s, i, x[row, i])

    x = np.random.default_rng(1).integers(-9, 9, (5, 64)).astype(float)
    y = np.zeros_like(x)
    launch(sums, 1, 64, (x, y), seed=SEED)
    np.testing.assert_array_equal(y, np.broadcast_to(x.sum(axis=1)[:, None], x.shape))
    launch(standardised, 1, 64, (x, y), seed=SEED)
    np.testing.assert_allclose(y, (x - x.mean(axis=1)[:, None]) / x.std(axis=1)[:, None], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("options", [{"inline": "always"}, {"inline": "never"}, {"forceinline": True}, {"lto": True},
                                     {"debug": True, "opt": False}, {"lineinfo": True}, {"fastmath": True}], ids=str)
def test_options_of_device_functions(options):
    @cuda.jit(device=True, **options)
    def reversed_in_block(x):
        s = cuda.shared.array(64, float32)
        s[cuda.threadIdx.x] = x
        cuda.syncthreads()
        return s[63 - cuda.threadIdx.x]

    @cuda.jit
    def reverse(x):
        x[cuda.threadIdx.x] = reversed_in_block(x[cuda.threadIdx.x])

    x = np.arange(64, dtype=np.float32)
    launch(reverse, 1, 64, (x,), seed=SEED)
    assert x.tolist() == list(range(63, -1, -1))


@pytest.mark.parametrize("options", [{"lineinfo": True}, {"max_registers": 32}, {"launch_bounds": 64},
                                     {"fastmath": True}, {"cache": True}], ids=str)
def test_options_of_kernels(options):
    def reverse(x):
        s = cuda.shared.array(64, float32)
        s[cuda.threadIdx.x] = x[cuda.threadIdx.x]
        cuda.syncthreads()
        x[cuda.threadIdx.x] = s[63 - cuda.threadIdx.x]

    x = np.arange(64, dtype=np.float32)
    launch(cuda.jit(**options)(reverse), 1, 64, (x,), seed=SEED)
    assert x.tolist() == list(range(63, -1, -1))


def test_fast_math():
    """The approximate functions of `fastmath=True` are the exact ones here."""
    def functions(x, y):
        i = cuda.threadIdx.x
        y[i] = (math.exp(x[i]) / math.sin(x[i]) + math.sqrt(x[i]) + math.log(x[i]) + math.pow(x[i], x[i])
                + math.tanh(x[i]) + math.cos(x[i]) + math.tan(x[i]) + math.log10(x[i]) + math.log2(x[i]))

    x = np.linspace(1, 2, 32).astype(np.float32)
    exact, fast = np.zeros_like(x), np.zeros_like(x)
    launch(cuda.jit(functions), 1, 32, (x, exact))
    launch(cuda.jit(fastmath=True)(functions), 1, 32, (x, fast))
    np.testing.assert_array_equal(fast, exact)


# ---- control flow

def collatz(n):
    steps = 0
    while n != 1:
        if n % 2 == 0:
            n //= 2
        else:
            n = 3 * n + 1
        steps += 1
    return steps


def branches(v):
    if v == 0:
        r = 5
    elif v == 1:
        r = 7
    elif v == 2:
        r = 0
        while True:
            r += v
            if r > 10:
                break
            if r % 7 == 6:
                continue
            r += 1
    elif v in (3, 4, 9):
        r = 100
    else:
        r = -1
        for a in range(3):
            for b in range(a):
                if b == v - 5:
                    break
                r += a * b
            else:
                r += 100
    for k in range(10, v, -3):
        r += k
    return r if r > 0 or v == 5 else -r


def test_control_flow():
    """The Python functions themselves are the oracle."""
    on_device = cuda.jit(device=True)(collatz), cuda.jit(device=True)(branches)
    first, second = on_device

    @cuda.jit
    def both(a, b):
        i = cuda.grid(1)
        if i >= a.size:
            return
        a[i] = first(i + 1)
        b[i] = second(i)

    a, b = np.zeros(100, np.int64), np.zeros(100, np.int64)
    launch(both, 2, 64, (a, b), seed=SEED)
    assert a.tolist() == [collatz(i + 1) for i in range(100)] and b.tolist() == [branches(i) for i in range(100)]


def test_variables_across_barriers():
    """Many variables of many types, all alive while the thread waits, in a loop that crosses barriers."""
    @cuda.jit
    def weave(x, out):
        s = cuda.shared.array(64, float64)
        i = cuda.threadIdx.x
        a, b, c, d, e = x[i], float32(x[i]), int32(i), types.int8(i), i % 2 == 0
        z = complex(a, -a)
        table = cuda.local.array((4, 4), float64)
        for r in range(4):
            for k in range(4):
                table[r, k] = r * 10 + k
        for step in range(10):
            s[i] = a
            cuda.syncthreads()
            a += s[(i + step) % 64]
            if e:
                b += float32(1)
                table[step % 4, step % 3] += 1
            cuda.syncthreads()
            z += 1j
            c, d = d + c, types.int8(c & 15)
            e = not e
        out[0, i] = a
        out[1, i] = b
        out[2, i] = c * 1000 + d
        out[3, i] = z.real + z.imag
        out[4, i] = table[1, 2] + table[2, 0] + table[0, 1] + table[3, 3]

    x, out = np.random.default_rng(0).integers(-9, 9, 64).astype(float), np.zeros((5, 64))
    launch(weave, 1, 64, (x, out), seed=SEED)
    a = x.copy()
    right = np.zeros((5, 64))
    for step in range(10):
        a = a + np.roll(a, -step)
    right[0], right[1], right[3] = a, x + 5, 10.0
    for t in range(64):
        c, d, e, table = t, t, t % 2 == 0, {(r, k): 10 * r + k for r in range(4) for k in range(4)}
        for step in range(10):
            if e:
                table[step % 4, step % 3] += 1
            c, d, e = d + c, c & 15, not e
        right[2, t] = c * 1000 + d
        right[4, t] = table[1, 2] + table[2, 0] + table[0, 1] + table[3, 3]
    np.testing.assert_array_equal(out, right)


def test_a_thread_that_raises_stops():
    """As on a GPU without debug=True: it leaves quietly, and the others go on."""
    @cuda.jit
    def picky(x):
        i = cuda.grid(1)
        if i == 3:
            raise ValueError("not this one")
        x[i] = 1

    x = np.zeros(8)
    launch(picky, 1, 8, (x,))
    assert x.tolist() == [1, 1, 1, 0, 1, 1, 1, 1]


@cuda.jit(debug=True, opt=False)
def careful(x, way):
    i = cuda.grid(1)
    if way == 0 and x[i] < 0:
        raise ValueError("a negative value")
    if way == 1 and x[i] < 0:
        raise AssertionError       # an assert, which pytest would rewrite
    if way == 2:
        x[i] = 7 // x[i]


@pytest.mark.parametrize("way, kind, says", [
    (0, ValueError, "a negative value"), (1, AssertionError, ""), (2, ZeroDivisionError, "division by zero")])
def test_exceptions_of_threads_with_debug(way, kind, says):
    """As Numba raises them on a GPU: with thread and block and, of its own raise, function, file and line."""
    x = np.full(64, 4, np.int64)
    launch(careful, 2, 32, (x, way))
    x[37] = 0 if way == 2 else -1
    with pytest.raises(kind) as error:
        launch(careful, 2, 32, (x, way))
    assert "tid=[0, 0, 5] ctaid=[0, 0, 1]" in str(error.value) and says in str(error.value)
    assert way == 2 or os.path.basename(__file__) in str(error.value)
    with pytest.raises(kind), sanitize():
        launch(careful, 2, 32, (x, way))


# ---- names

def test_names_of_every_kind():
    """Greek, a lambda, and words that mean something in LLVM or to the emulator."""
    @cuda.jit
    def κέρνελ(α, β, n):
        ι = cuda.grid(1)
        γ = α[ι] * β[ι]
        if n > 3:
            γ = β[ι] * β[ι]
        for ζ in range(n):
            γ = γ * β[ι] + α[ι]
        β[ι] = γ

    α = np.random.default_rng(0).standard_normal(32).astype(np.float32)
    β = α[::-1].copy()
    right = np.stack([α.astype(float) * β.astype(float)]).astype(np.float32)[0]
    for _ in range(3):
        right = (right.astype(float) * β + α).astype(np.float32)     # a sum in float64, then rounded: innocuous here
    launch(κέρνελ, 1, 32, (α, β, 3))
    np.testing.assert_array_equal(β, right)

    @cuda.jit
    def words(half, ptr, ctx, args, status, emu, define, entry):
        call = half[0] * ptr[0] + ctx
        ret = call
        alloca = ret + args
        define[0] = alloca + status + emu + entry

    out = np.zeros(1)
    launch(words, 1, 1, (np.full(1, 2.0), np.full(1, 3.0), 1.0, 2.0, 3.0, 4.0, out, 5.0))
    assert out[0] == 21
    launch(cuda.jit(lambda x: None), 1, 1, (out,))


# ---- whole libraries of Numba's

def test_caching_hints_guarded_by_a_bound():
    """A load with a hint is inline PTX; it must stay behind the test that keeps it inside the array."""
    @cuda.jit
    def copy(x, y):
        i = cuda.grid(1)
        if i < x.size:
            cuda.stcg(x, i, cuda.ldcg(x, i) + 1)
            cuda.stwt(y, i, cuda.ldcv(x, i) + cuda.ldca(x, i) + cuda.ldcs(x, i))

    x, y = np.arange(20, dtype=np.float32), np.zeros(20, np.float32)
    launch(copy, 1000, 256, (x, y))
    np.testing.assert_array_equal(y, 3 * (np.arange(20) + 1))


def test_numbas_random_numbers():
    """Records, 64-bit shifts and rotations, and a conversion to float: uniform and normal numbers come out."""
    @cuda.jit
    def draw(states, uniform, normal):
        i = cuda.grid(1)
        for j in range(uniform.shape[1]):
            uniform[i, j] = random.xoroshiro128p_uniform_float32(states, i)
            normal[i, j] = random.xoroshiro128p_normal_float64(states, i)

    states = np.zeros(64, random.xoroshiro128p_dtype)
    states["s0"], states["s1"] = np.random.default_rng(0).integers(0, 2 ** 64, (2, 64), np.uint64)
    before = states.copy()
    uniform, normal = np.zeros((64, 200), np.float32), np.zeros((64, 200))
    launch(draw, 1, 64, (states, uniform, normal))
    s0, s1 = (int(v) for v in before[0])                             # the first number by hand
    assert uniform[0, 0] == np.float32(((s0 + s1) % 2 ** 64 >> 11) * 2.0 ** -53)
    assert 0 <= uniform.min() and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.01
    assert abs(normal.mean()) < 0.03 and abs(normal.std() - 1) < 0.03


def test_complex_arithmetic():
    @cuda.jit
    def mandelbrot(c, steps):
        i = cuda.grid(1)
        z = complex64(0)
        while steps[i] < 50 and abs(z) < 2:
            z = z * z + c[i]
            steps[i] += 1

    c = np.array([0, 1, -1, 0.3 + 0.5j, 2j, -2.1, 0.25], np.complex64)
    steps = np.zeros(7, np.int32)
    launch(mandelbrot, 1, 7, (c, steps))
    assert steps.tolist() == [50, 2, 50, 50, 1, 1, 50]
