"""Launches on the emulator: geometry, arguments, what a card refuses, what the emulator does not have."""
import enum
import math
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from llvmlite import ir
from numba import cuda, float32, float64, int32, int64
from numba.core.errors import TypingError
from numba.cuda import random
from numba.cuda.core.errors import NumbaTypeError
from numba.cuda.extending import intrinsic

from numprec.emulator import EmulatorError, create_xoroshiro128p_states, emulate, host, interrupts, launch, translate
from numprec.emulator.launch import prepare


# ---- geometry

@cuda.jit
def coordinates(out):
    """Where each thread stands, written to its place in a flat order of the test's own."""
    t, b, n, g = cuda.threadIdx, cuda.blockIdx, cuda.blockDim, cuda.gridDim
    block = (b.z * g.y + b.y) * g.x + b.x
    i = block * n.x * n.y * n.z + (t.z * n.y + t.y) * n.x + t.x
    out[i, 0] = t.x
    out[i, 1] = t.y
    out[i, 2] = t.z
    out[i, 3] = b.x
    out[i, 4] = b.y
    out[i, 5] = b.z
    x, y, z = cuda.grid(3)
    out[i, 6] = x
    out[i, 7] = y
    out[i, 8] = z
    u, v = cuda.grid(2)
    out[i, 9] = u + 1000 * v + 1000000 * cuda.grid(1)
    out[i, 10] = cuda.laneid
    w, h, d = cuda.gridsize(3)
    out[i, 11] = w + 1000 * h + 1000000 * d + 10 ** 9 * cuda.gridsize(1)


@pytest.mark.parametrize("grid, block", [
    (1, 1), (5, 7), ((5,), (7,)), ((3, 2), (4, 5)), ((2, 3, 4), (5, 2, 3)), (2, (1, 1, 64)), ((1, 1, 5), (2, 33))])
def test_coordinates(grid, block):
    grid3, block3 = (((s,) if isinstance(s, int) else s) + (1, 1) for s in (grid, block))
    (gx, gy, gz), (nx, ny, nz) = grid3[:3], block3[:3]
    for workers, seed in ((1, None), (3, 1)):
        out = np.full((gx * gy * gz * nx * ny * nz, 12), -1)
        launch(coordinates, grid, block, (out,), workers=workers, seed=seed)
        bz, by, bx, tz, ty, tx = (i.ravel() for i in np.indices((gz, gy, gx, nz, ny, nx)))
        x, y, z = bx * nx + tx, by * ny + ty, bz * nz + tz
        lane = ((tz * ny + ty) * nx + tx) % 32
        size = gx * nx + 1000 * gy * ny + 1000000 * gz * nz + 10 ** 9 * gx * nx
        right = [tx, ty, tz, bx, by, bz, x, y, z, x + 1000 * y + 1000000 * x, lane, np.full(x.size, size)]
        np.testing.assert_array_equal(out, np.stack(right, axis=1))


def test_a_large_grid():
    """More blocks than anybody has memory for at once, in each dimension as far as a card goes in y and z."""
    @cuda.jit
    def count(out):
        cuda.atomic.add(out, 0, cuda.blockIdx.x + cuda.blockIdx.y + cuda.blockIdx.z)

    out = np.zeros(1, np.int64)
    for grid in ((200000, 1, 1), (1, 65535, 1), (1, 1, 65535)):
        out[0] = 0
        launch(count, grid, 1, (out,))
        assert out[0] == max(grid) * (max(grid) - 1) // 2


# ---- arguments

@cuda.jit
def scalars(a, b, c, d, e, f, g, h, i, j, k, m, n, out):
    out[0] = a
    out[1] = b
    out[2] = c
    out[3] = d
    out[4] = e
    out[5] = f
    out[6] = g
    out[7] = h
    out[8] = i
    out[9] = j
    out[10] = k
    out[11] = m
    out[12] = n.real - 2 * n.imag


def test_scalar_arguments():
    """Of every type, at both ends of its range; launched again with other types, the kernel is compiled again."""
    out = np.zeros(13)
    for end in ("min", "max"):
        whole = [getattr(np.iinfo(t), end) for t in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32)]
        typed = [t(v) for t, v in zip((np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32), whole)]
        rest = [np.int64(-2 ** 53), np.uint64(2 ** 53), np.float16(65504), np.float32(0.1), 0.1, True,
                np.complex64(3 - 2j)]
        launch(scalars, 1, 1, (*typed, *rest, out))
        assert out.tolist() == [*whole, -2.0 ** 53, 2.0 ** 53, 65504, float(np.float32(0.1)), 0.1, 1, 7]
    launch(scalars, 1, 1, (1, 2.5, np.bool_(True), False, -7, 2 ** 53, np.uint8(200), 1, 2, 3, 4, 5, 1 + 1j, out))
    assert out.tolist() == [1, 2.5, 1, 0, -7, 2.0 ** 53, 200, 1, 2, 3, 4, 5, -1]


def test_integers_beyond_int64():
    """A Python int is an int64, and a uint64 where it does not fit: the same kernel for another type."""
    @cuda.jit
    def as_float(n, out):
        out[0] = n

    out = np.zeros(1)
    for n in (6, 2 ** 63, 2 ** 64 - 2 ** 12, -2 ** 63, 8):
        launch(as_float, 1, 1, (n, out))
        assert out[0] == n


Layer = namedtuple("Layer", "weight bias scale")
Other = namedtuple("Other", "bias weight scale")


@cuda.jit
def nested(layers, pair, out):
    i = cuda.grid(1)
    first, second = layers
    out[i] = first.weight[i, 0] * first.scale + second.weight[i, 1] * second.scale
    out[i] += first.bias[i] + pair[0] + pair[1][0]


def test_tuples_of_arrays():
    """Named or not, nested, of arrays and scalars; the names belong to the type."""
    w, b = np.arange(12.0).reshape(6, 2), np.arange(6.0)
    out = np.zeros(6)
    first, second = Layer(w, b, np.float32(2)), Layer(w + 1, b, np.float32(3))
    launch(nested, 1, 6, ((first, second), (1, (np.int16(5),)), out))
    np.testing.assert_array_equal(out, w[:, 0] * 2 + (w + 1)[:, 1] * 3 + b + 6)
    launch(nested, 1, 6, ((Other(b, w, np.float32(2)), Other(b, w + 1, np.float32(3))), (1, (np.int16(5),)), out))
    np.testing.assert_array_equal(out, w[:, 0] * 2 + (w + 1)[:, 1] * 3 + b + 6)


@cuda.jit
def doubled(x, y):
    i, j = cuda.grid(2)
    if i < x.shape[0] and j < x.shape[1]:
        y[i, j] = x[i, j] + x[i, j]


@pytest.mark.parametrize("dtype", ["b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"])
def test_arrays_of_every_type(dtype):
    x = np.random.default_rng(0).integers(0, 60, (9, 13)).astype(dtype)
    y = np.zeros_like(x)
    launch(doubled, (2, 2), (8, 8), (x, y))
    np.testing.assert_array_equal(y, x + x)


def test_arrays_of_every_layout():
    """Contiguous either way, transposed, strided, reversed, broadcast; read-only ones can be read."""
    base = np.arange(40 * 40, dtype=np.float32).reshape(40, 40)
    constant = base[:9, :13].copy()
    constant.flags.writeable = False
    for x in (base[:9, :13], np.asfortranarray(base[:9, :13]), base.T[3:12, 2:15], base[::4, ::3][:9, :13],
              base[8::-1, 30:17:-1], np.broadcast_to(base[0, :13], (9, 13)), constant):
        y = np.zeros((40, 40), np.float32)[::-2, 1::3][:9, :13]
        launch(doubled, (2, 2), (8, 8), (x, y))
        np.testing.assert_array_equal(y, x * 2)
    with pytest.raises(TypingError, match="[Rr]ead"):
        launch(doubled, (2, 2), (8, 8), (base, constant))


def test_empty_and_scalar_arrays():
    @cuda.jit
    def touch(x, y, z):
        i = cuda.grid(1)
        if i < x.shape[0] and i < x.shape[1]:
            x[i, i] = 1
        if i < y.size:
            y[i] = 1
        if i == 0:
            z[()] = x.size + y.size + x.shape[1]

    z = np.zeros((), np.int16)
    launch(touch, 3, 32, (np.zeros((0, 3), np.float32), np.zeros(0, np.int8), z))
    assert z == 3


def test_records():
    record = np.dtype([("value", np.float32), ("count", np.int32), ("flag", np.bool_)], align=True)

    @cuda.jit
    def update(table):
        i = cuda.grid(1)
        table[i].value = table[i].value * 2
        table[i].count += 1
        table[i].flag = not table[i].flag

    table = np.zeros(20, record)
    table["value"], table["flag"] = np.arange(20), np.arange(20) % 2
    launch(update, 1, 20, (table,))
    assert table["value"].tolist() == [2.0 * i for i in range(20)] and (table["count"] == 1).all()
    assert table["flag"].tolist() == [i % 2 == 0 for i in range(20)]


def test_no_arguments():
    @cuda.jit
    def nothing():
        cuda.syncthreads()

    launch(nothing, 3, 32, ())
    emulate(nothing)[3, 32]()


def test_numbas_launch_syntax():
    """[grid, block], [grid, block, stream], [grid, block, stream, dynamic shared bytes]."""
    @cuda.jit
    def size_of_shared(out):
        out[0] = cuda.shared.array(0, float64).size

    out = np.zeros(1, np.int64)
    emulate(size_of_shared)[1, 1](out)
    assert out[0] == 0
    emulate(size_of_shared, seed=1)[1, 1, 0, 48](out)
    assert out[0] == 6


@cuda.jit
def add_one(x):
    i = cuda.grid(1)
    if i < x.size:
        x[i] += 1


def test_whole_numbers_of_every_kind():
    """NumPy's too, and a bool is one, as in Numba."""
    x = np.zeros(64)
    for grid, block in ((2, 32), (np.int8(2), np.uint64(32)), ([2], (np.int32(32), True)), (np.int64(64), True)):
        emulate(add_one)[grid, block](x)
    assert (x == 4).all()


@pytest.mark.parametrize("configuration, error, says", [
    ((100 / 32, 32), TypeError, r"griddim must be a sequence of integers, got \[3.125\]"),
    ((3.0, 32), TypeError, "griddim must be a sequence of integers"),
    ((3, (32, 1.0)), TypeError, "blockdim must be a sequence of integers"),
    (("3", 32), TypeError, "griddim must be a sequence of integers"),
    ((np.array([3]), 32), TypeError, "griddim must be a sequence of integers"),
    ((np.float32(3), 32), TypeError, "griddim must be a sequence of integers"),
    (((1, 1, 1, 1), 32), ValueError, "sequence of 1, 2 or 3 integers"),
    ((1, ()), ValueError, "sequences of 1, 2 or 3 integers"),
    (([], 1), ValueError, "sequences of 1, 2 or 3 integers"),
    ((None, 32), ValueError, "launch configuration was not specified"),
    (32, ValueError, "must specify at least the griddim and blockdim"),
    ((32,), ValueError, "must specify at least the griddim and blockdim"),
    ((1, 1, 0, 0, 0), ValueError, "must specify at least the griddim and blockdim"),
    ((1, 1, 0, -1), ValueError, "dynamic shared memory must be at least 0"),
    ((1, 1, 0, -4096), ValueError, "dynamic shared memory must be at least 0"),
    ((1, 1, 0, 48.0), TypeError, "dynamic shared memory must be a whole number"),
])
def test_invalid_configurations(configuration, error, says):
    x = np.zeros(100)
    with pytest.raises(error, match=says):
        emulate(add_one)[configuration](x)
    assert not x.any()


def test_what_is_no_kernel():
    def plain(x):
        x[0] = 1

    for thing in (plain, numba.njit(plain), None, 3, cuda.jit(device=True)(plain)):
        for call in (emulate, lambda thing: launch(thing, 1, 1, (np.zeros(1),))):
            with pytest.raises(TypeError, match="is no CUDA kernel|is a device function"):
                call(thing)


@pytest.mark.parametrize("options, error, says", [
    ({"cpu": "foo"}, ValueError, "cannot compile for the processor 'foo'"),
    ({"cpu": ["haswell"]}, TypeError, "name of a processor"),
    ({"compute_capability": 75}, TypeError, "pair of whole numbers"),
    ({"compute_capability": "75"}, TypeError, "pair of whole numbers"),
    ({"seed": -1}, ValueError, "seed must be at least 0"),
    ({"seed": "a"}, TypeError, "seed must be a whole number"),
    ({"workers": 0}, ValueError, "workers must be at least 1"),
    ({"workers": 1.5}, TypeError, "workers must be a whole number"),
])
def test_invalid_options(options, error, says):
    with pytest.raises(error, match=says):
        launch(add_one, 1, 1, (np.zeros(1),), **options)


def test_a_newer_processor_is_refused(monkeypatch):
    """Its code would end the process with an illegal instruction."""
    monkeypatch.setattr(llvm, "get_host_cpu_features", dict)
    monkeypatch.setattr(llvm, "get_process_triple", lambda: "x86_64-unknown-linux-gnu")
    with pytest.raises(ValueError, match="cannot run code for icelake-server: it lacks .*avx512"):
        host.Target("icelake-server")
    monkeypatch.setattr(llvm, "get_process_triple", lambda: "aarch64-unknown-linux-gnu")
    with pytest.raises(ValueError, match="cannot compile for the processor 'haswell'"):
        host.Target("haswell")


def test_forall():
    """As in Numba: at least one thread for each task, and none for none."""
    x = np.zeros(1000)
    emulate(add_one).forall(1000)(x)
    emulate(add_one, seed=1).forall(1000, tpb=32)(x)
    emulate(add_one).forall(0)(x)
    assert (x == 2).all()
    for tasks, error in ((-1, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="ntasks"):
            emulate(add_one).forall(tasks)


class Phase(enum.IntEnum):
    FIRST = 1
    LAST = 8


class Weight(enum.Enum):
    LIGHT = 0.5
    HEAVY = 2.5


@cuda.jit
def of_every_other_kind(phase, weight, day, span, record, days, out):
    days[0] = day + span
    out[0] = phase.value + (phase == Phase.LAST)
    out[1] = weight.value + (weight == Weight.HEAVY)
    out[2] = record.count
    record.value = 2.5


def test_enums_dates_and_records():
    """As scalars; a record is changed in place, as an array is. Another unit or layout is another type."""
    record = np.dtype([("count", np.int32), ("value", np.float64)], align=True)
    other = np.dtype([("value", np.float64), ("count", np.int8)], align=True)
    out = np.zeros(3)
    for kind, unit in ((record, "D"), (other, "h"), (record, "D")):
        table, days = np.zeros(3, kind), np.zeros(1, f"M8[{unit}]")
        table["count"] = 4, 5, 6
        launch(of_every_other_kind, 1, 1, (Phase.LAST, Weight.HEAVY, np.datetime64("2020-02-28", unit),
                                           np.timedelta64(2, unit), table[1], days, out))
        assert out.tolist() == [9, 3.5, 5] and table["value"].tolist() == [0, 2.5, 0]
        assert days[0] == np.datetime64("2020-02-28", unit) + np.timedelta64(2, unit)


def test_invalid_arguments():
    """Refused in a sentence, whatever was launched before; the kernel goes on working."""
    @cuda.jit
    def take(n, x):
        x[0] = n

    @cuda.jit
    def ignore(n, x):
        pass

    x = np.zeros(1)
    for n in (2 ** 64, -2 ** 63 - 1, -2 ** 70, 2 ** 200):
        launch(take, 1, 1, (7, x))
        with pytest.raises(ValueError, match="too large"):
            launch(take, 1, 1, (n, x))
    for args in ((), (1,), (1, x, x)):
        with pytest.raises(TypeError, match="kernel take: (missing a required|too many positional) argument"):
            launch(take, 1, 1, args)
    for value in ("text", b"text", [1], None, slice(2), Phase):
        with pytest.raises((NotImplementedError, ValueError)):
            launch(ignore, 1, 1, (value, x))
    for value in ({}, object(), np.longdouble(1), range(3)):
        with pytest.raises(ValueError, match="Cannot determine Numba type"):
            launch(ignore, 1, 1, (value, x))
    launch(ignore, 1, 1, (1, x))
    with pytest.raises(NumbaTypeError, match="Unsupported array type.*MaskedArray"):
        launch(ignore, 1, 1, (1, np.ma.zeros(1)))
    with pytest.raises(NotImplementedError, match="kernel add_one: Numba-CUDA cannot compile it for .*2d, C.*KeyError"):
        launch(add_one, 1, 1, (np.zeros((4, 4)),))
    launch(take, 1, 1, (9, x))
    assert x[0] == 9


def test_random_states():
    """The numbers that a GPU would draw: each thread's sequence begins 2**64 steps after the one before."""
    @cuda.jit
    def draw(states, out):
        i = cuda.grid(1)
        out[i, 0] = random.xoroshiro128p_uniform_float64(states, i)
        out[i, 1] = random.xoroshiro128p_uniform_float64(states, i)

    states, later = create_xoroshiro128p_states(64, seed=1), create_xoroshiro128p_states(60, 1, subsequence_start=4)
    assert (states[4:] == later).all()
    out = np.zeros((64, 2))
    launch(draw, 2, 32, (states, out))
    assert len(np.unique(out)) == 128 and abs(out.mean() - 0.5) < 0.1 and (states[4:] != later).all()
    with pytest.raises(TypeError, match="n must be a whole number"):
        create_xoroshiro128p_states(2.5, 1)


def test_numbas_errors_are_numbas():
    @cuda.jit
    def wrong(x):
        x[0] = "text"

    with pytest.raises(Exception, match="text|unicode|cast"):
        launch(wrong, 1, 1, (np.zeros(1),))
    with pytest.raises(NotImplementedError, match="argument of type none"):
        launch(cuda.jit(lambda x: None), 1, 1, (None,))


# ---- what a card refuses

@cuda.jit
def with_shared(x):
    s = cuda.shared.array(1024, float32)
    d = cuda.shared.array(0, float32)
    s[0] = d.size
    x[0] = s[0]


@cuda.jit
def with_too_much_static(x):
    s = cuda.shared.array(12289, float32)
    s[cuda.threadIdx.x] = x[0]
    x[0] = s[0]


@cuda.jit
def synchronises(x):
    cuda.cg.this_grid().sync()


@cuda.jit
def with_large_locals(x):
    a = cuda.local.array(70000, float64)
    for i in range(70000):
        a[i] = x[0] * i
    x[0] = a[int32(x[0])]


@pytest.mark.parametrize("kernel, grid, block, shared, says", [
    (with_shared, 1, 1025, 0, "1025 threads"),
    (with_shared, 1, (32, 33), 0, "1056 threads"),
    (with_shared, 1, (2, 2, 65), 0, r"64\)"),
    (with_shared, 1, 0, 0, "at least 1"),
    (with_shared, 0, 32, 0, "at least 1"),
    (with_shared, (1, -1), 32, 0, "at least 1"),
    (with_shared, (1, 65536), 32, 0, "exceeds"),
    (with_shared, (1, 1, 65536), 32, 0, "exceeds"),
    (with_shared, 2 ** 31, 32, 0, "exceeds"),
    (with_shared, [10 ** 30], 1, 0, "exceeds"),
    (with_shared, 1, 32, 60 * 1024 + 1, "65537 bytes of shared memory"),
    (with_too_much_static, 1, 32, 0, "49168 bytes of static shared memory"),
    (synchronises, 641, 32, 0, "a T4 holds 640"),
    (synchronises, 41, 1024, 0, "a T4 holds 40"),
    (synchronises, 81, 32, 32 * 1024, "a T4 holds 80"),
    (with_large_locals, 1, 1, 0, "560000 bytes of local arrays"),
])
def test_what_a_card_refuses(kernel, grid, block, shared, says):
    with pytest.raises(EmulatorError, match=says):
        launch(kernel, grid, block, (np.zeros(1),), shared=shared)


def test_what_a_card_just_takes():
    x = np.zeros(1)
    launch(with_shared, 1, (16, 1, 64), (x,), shared=60 * 1024)
    assert x[0] == 15 * 1024
    launch(synchronises, 640, 32, (x,))
    launch(synchronises, 40, 1024, (x,))


# ---- what the emulator does not have

@intrinsic
def permute_bytes(typingctx, a, b):
    def codegen(context, builder, signature, args):
        word = ir.IntType(32)
        asm = ir.InlineAsm(ir.FunctionType(word, [word, word]), "prmt.b32 $0, $1, $2, 25930;", "=r,r,r")
        return builder.call(asm, args)
    return int32(int32, int32), codegen


@intrinsic
def two_instructions(typingctx, a):
    def codegen(context, builder, signature, args):
        word = ir.IntType(32)
        asm = ir.InlineAsm(ir.FunctionType(word, [word]), "{ .reg .u32 t; add.u32 t, $1, $1; mov.u32 $0, t; }", "=r,r")
        return builder.call(asm, args)
    return int32(int32), codegen


@intrinsic
def tensor_thing(typingctx, a):
    def codegen(context, builder, signature, args):
        word = ir.IntType(32)
        function = builder.module.declare_intrinsic("llvm.nvvm.redux.sync.add", (), ir.FunctionType(word, [word, word]))
        return builder.call(function, [args[0], args[0]])
    return int32(int32), codegen


@cuda.jit
def uses_prmt(x):
    x[0] = permute_bytes(int32(x[0]), int32(x[0]))


@cuda.jit
def uses_two_instructions(x):
    x[0] = two_instructions(int32(x[0]))


@cuda.jit
def uses_activemask(x):
    x[0] = cuda.activemask()


@cuda.jit
def uses_redux(x):
    x[0] = tensor_thing(int32(x[0]))


@cuda.jit
def uses_erfinv(x):
    x[0] = cuda.libdevice.erfinv(x[0])


@cuda.jit
def prints(x):
    print("float* of", x[0])


@cuda.jit
def factorial(n):
    return n if n < 2 else n * factorial(n - 1)


@cuda.jit
def recurses(x):
    x[0] = factorial(int(x[0]))


@pytest.mark.parametrize("kernel, operation", [
    (uses_prmt, "prmt.b32"), (uses_two_instructions, "reg .u32"), (uses_activemask, "activemask"),
    (uses_redux, "llvm.nvvm.redux.sync.add"), (uses_erfinv, "__nv_erfinv"), (prints, "print"),
    (recurses, "function factorial, which calls itself")])
def test_an_unknown_operation_is_named(kernel, operation):
    with pytest.raises(NotImplementedError) as error:
        launch(kernel, 1, 1, (np.zeros(1),))
    assert operation in str(error.value) and f"kernel {kernel.py_func.__name__}" in str(error.value)


# ---- signals

@cuda.jit
def endless(x, lock, way, n):
    if way == 0:                                    # a lock that nobody gives back
        while cuda.atomic.cas(lock, 0, 0, 1) != 0:
            pass
    elif way == 1:
        for i in range(n):
            for j in range(x.size):
                x[j] += 1
    elif way == 2:
        for i in range(n):
            cuda.syncthreads()
            x[cuda.threadIdx.x] += 1
    elif way == 3:
        for i in range(n):
            x[cuda.threadIdx.x] += cuda.shfl_sync(-1, i, 0)
    else:                                           # short blocks without end
        x[cuda.threadIdx.x] += 1


@cuda.jit
def endless_grid(x, n):
    for i in range(n):
        x[cuda.grid(1)] += 1
        cuda.cg.this_grid().sync()


class Rang(Exception):
    pass


@pytest.fixture
def alarm():
    """A signal in a fifth of a second, whose handler raises an exception."""
    def ring(*args):
        raise Rang

    before = signal.signal(signal.SIGALRM, ring)
    yield lambda: signal.setitimer(signal.ITIMER_REAL, 0.2)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


POSIX = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no timers that send signals")


@POSIX
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_ends_a_launch(alarm, workers):
    """At once, whatever the kernel is doing; then the next launch works."""
    x, lock = np.zeros(64, np.int64), np.zeros(1, np.int32)
    launches = [(endless, 10 ** 9 if way == 4 else 4, (x, lock, way, 10 ** 9)) for way in range(5)]
    for kernel, grid, args in (*launches, (endless_grid, 2, (x, 10 ** 9))):
        prepare(kernel, args)
        alarm()
        with pytest.raises(Rang):
            start = time.perf_counter()
            launch(kernel, grid, 32, args, workers=workers)
        assert time.perf_counter() - start < 5
        lock[0] = 0
        launch(endless, 1, 32, (x, lock, 2, 3))


@POSIX
def test_a_ctrl_c_in_the_middle_of_a_launch():
    x = np.zeros(64, np.int64)
    args = x, np.ones(1, np.int32), 0, 1
    prepare(endless, args)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        launch(endless, 2, 32, args)
    timer.join()


@POSIX
def test_a_handler_that_raises_nothing_ends_nothing(alarm):
    """It may even launch a kernel."""
    x, seen = np.zeros(64, np.int64), np.zeros(64, np.int64)

    def handler(*args):
        launch(endless, 1, 32, (seen, np.zeros(1, np.int32), 2, 3))
        x[0] = 1                                     # what the kernel waits for

    @cuda.jit
    def wait(x):
        while cuda.atomic.add(x, 0, 0) == 0:
            pass
        x[1] = 7

    signal.signal(signal.SIGALRM, handler)
    prepare(wait, (x,))
    alarm()
    launch(wait, 1, 1, (x,))
    assert x[1] == 7 and (seen[:32] == 3).all()


@cuda.jit
def counts(x, n):
    s = x[cuda.threadIdx.x]
    for i in range(n):                              # asks nothing
        s = s * 6364136223846793005 + 1442695040888963407
    x[cuda.threadIdx.x] = s


@cuda.jit
def calls(x, n):
    s = float64(0)
    for i in range(n):                              # most of its time is that of a library's function
        s = math.exp(-s)
    x[0] = int64(s) + 1


KNOCKS = pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64",
                            reason="a loop that asks nothing can be interrupted on Linux for x86-64 alone")


@KNOCKS
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kernel, n", [(counts, 10 ** 11), (calls, 2 * 10 ** 9)])
def test_a_signal_ends_a_loop_that_asks_nothing(alarm, kernel, n, workers):
    """In its midst, in each of the launch's threads; then the next launch works."""
    x = np.zeros(64, np.int64)
    prepare(kernel, (x, 1))
    alarm()
    with pytest.raises(Rang):
        launch(kernel, workers, 1, (x, n), workers=workers)
    assert not x.any()
    launch(endless, 1, 32, (x, np.zeros(1, np.int32), 2, 3), workers=workers)


@KNOCKS
def test_knocking_changes_no_bit():
    """A thread goes on where it was; one that is in no kernel notices nothing."""
    n = 2 * 10 ** 7
    expected = np.arange(64)
    launch(counts, 1, 64, (expected, n))
    got, over = np.arange(64), threading.Event()

    def knock():
        while not over.is_set():
            interrupts.knock([os.getpid()], lambda: False)

    knocker = threading.Thread(target=knock)
    knocker.start()
    try:
        for _ in range(5):
            got[:] = range(64)
            launch(counts, 1, 64, (got, n))
            np.testing.assert_array_equal(got, expected)
    finally:
        over.set()
        knocker.join()


@KNOCKS
def test_who_handles_the_signal_of_the_knocks_keeps_it():
    seen = []
    before = signal.signal(signal.SIGURG, lambda *args: seen.append(args))
    try:
        interrupts.knock([os.getpid()], lambda: False)
        os.kill(os.getpid(), signal.SIGURG)
        assert len(seen) == 1
    finally:
        signal.signal(signal.SIGURG, before)


def test_where_there_are_no_knocks_nothing_is_asked_of_the_system(monkeypatch):
    """Windows knows no CDLL(None); an error would end the thread that makes launches ask."""
    def refuse(name):
        raise TypeError

    monkeypatch.setattr(interrupts, "_knocker", None)
    monkeypatch.setattr(interrupts.ctypes, "CDLL", refuse)
    interrupts.knock([threading.get_native_id()], lambda: False)


THREADS = """
import os, signal, threading, time
import numpy as np
from concurrent.futures import ThreadPoolExecutor
from numba import cuda
from numprec.emulator import emulate

@cuda.jit
def counts(x, n):
    s = x[cuda.threadIdx.x]
    for i in range(n):
        s = s * 6364136223846793005 + 1442695040888963407
    x[cuda.threadIdx.x] = s

def fit(n=10 ** 13):
    x = np.zeros(32, np.int64)
    emulate(counts)[4, 32](x, n)
    return x

fit(1)
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
"""
POOL = """
try:
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(fit) for _ in range(4)]
        futures[0].result()
except KeyboardInterrupt:
    print(*(type(future.exception()).__name__ for future in futures))
"""
JOIN = """
thread = threading.Thread(target=fit)
thread.start()
thread.join()
"""
GOES_ON = """
ended = []
thread = threading.Thread(target=lambda: ended.append(fit()))
thread.start()
try:
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.01)
time.sleep(1)
print(thread.is_alive(), flush=True)
os._exit(0)
"""


AFTER = """
import threading
import numpy as np
from numprec.emulator import interrupts, launch
from test_emulator_launch import endless

x = np.zeros(32, np.int64)

def late(begins):
    threading.main_thread().join()
    if not begins:                                  # as from Python 3.12 on
        def refuse(self):
            raise RuntimeError
        interrupts._watcher, threading.Thread.start = None, refuse
    for _ in range(2):
        launch(endless, 2, 32, (x, np.zeros(1, np.int32), 2, 3), workers=2)
    print(set(x.tolist()))

launch(endless, 1, 32, (x, np.zeros(1, np.int32), 2, 1))
threading.Thread(target=late, args=(BEGINS,)).start()
"""


@pytest.mark.parametrize("begins", [True, False])
def test_launches_after_the_main_thread_has_ended(begins):
    """Python then begins no threads that could share the work, or watch."""
    done = subprocess.run([sys.executable, "-c", AFTER.replace("BEGINS", str(begins))], capture_output=True, text=True,
                          timeout=120, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert (done.returncode, done.stdout.strip()) == (0, "{13}"), done.stderr


@KNOCKS
@pytest.mark.parametrize("program, code, printed", [
    (POOL, 0, " ".join(["KeyboardInterrupt"] * 4)), (JOIN, -signal.SIGINT, ""), (GOES_ON, 0, "True")],
    ids=["pool", "join", "goes on"])
def test_a_ctrl_c_and_launches_of_other_threads(program, code, printed):
    """They end when the main thread waits for them, in a handler or at its end, and go on when it has something else to
    do."""
    done = subprocess.run([sys.executable, "-c", THREADS + program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (code, printed), done.stderr


def test_where_a_kernel_asks():
    """In loops that may last, and not in those whose speed it would cost."""
    asked = []
    original = translate.ask_in_loops

    def counted(lines, same):
        out = original(lines, same)
        asked.append([line for line in out if "@emu.stopped" in line])
        return out

    def tile(x, n):                                  # loops of constants, and one whose passes wait
        s = cuda.shared.array(32, float32)
        for k in range(n):
            s[cuda.threadIdx.x] = x[k]
            cuda.syncthreads()
            for i in range(16):
                for j in range(32):
                    x[i] += s[j]
            for j in range(n):
                x[0] += s[j % 32]
            cuda.syncthreads()

    def search(x, n):
        for i in range(n):
            while x[i] > 0:
                x[i] -= 1

    def large(x, n):
        for i in range(300):
            for j in range(300):
                x[j] += i

    def warps(x, n):
        for i in range(n):
            if x[i] > 0:
                cuda.syncwarp()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(translate, "ask_in_loops", counted)
        patch.setenv("NUMPREC_CACHE", "")
        for body in (tile, search, large, warps):
            prepare(cuda.jit(body), (np.zeros(512, np.float32), 3))
    assert [len(places) for places in asked] == [0, 2, 1, 1]


# ---- memory that is not there

@cuda.jit
def store_at(narrow, x, at):
    narrow[0] += 1
    x[at] = 1


@pytest.mark.skipif(sys.platform != "linux", reason="only there faults are caught")
@pytest.mark.parametrize("workers", [1, 2])
def test_an_index_far_out_of_bounds(workers):
    """The launch fails, Python lives on, and the nearest array is named."""
    narrow, x = np.zeros(1), np.zeros(4)
    for at, says in ((10 ** 11, "kernel store_at .* bytes after the last of the array (x|narrow)"),
                     (-10 ** 11, "kernel store_at .* bytes before the first of the array (x|narrow)"),
                     (2 ** 60, "kernel store_at .* out of bounds")):
        with pytest.raises(EmulatorError, match=says):
            launch(store_at, 40, 1, (narrow, x, at), workers=workers)
        launch(store_at, 40, 1, (narrow, x, 2), workers=workers)
    assert x.tolist() == [0, 0, 1, 0]


CRASH = """\
import ctypes, faulthandler, sys
import numpy as np
from numprec.emulator import launch
from test_emulator_launch import store_at
if sys.argv[1] == "before":
    faulthandler.enable()
launch(store_at, 1, 1, (np.zeros(1), np.zeros(4), 2))
if sys.argv[1] == "after":
    faulthandler.enable()
ctypes.string_at(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only there faults are caught")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_fault_outside_a_kernel_is_not_the_emulators(when):
    folders = os.pathsep.join(str(Path(__file__).resolve().parents[up]) for up in (0, 2))
    done = subprocess.run([sys.executable, "-c", CRASH, when], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": folders})
    assert done.returncode == -signal.SIGSEGV and "Fatal Python error: Segmentation fault" in done.stderr
