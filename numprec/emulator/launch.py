"""Launching a kernel on the emulator: argument packing, the limits of the card, memory and workers."""
import contextlib
import ctypes
import functools
import inspect
import numbers
import os
import struct
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import types
from numba.cuda import random
from numba.cuda.dispatcher import CUDADispatcher
from numba.cuda.errors import normalize_kernel_dimensions
from numba.cuda.typing.typeof import Purpose, typeof

from numprec.emulator import fresh, host, interrupts, listening
from numprec.emulator.compile import compile_kernel
from numprec.emulator.errors import EmulatorError


# What a card of compute capability 7.5 grants: CUDA C++ Programming Guide, "Features and Technical Specifications per
# Compute Capability". 40 multiprocessors is a T4.
MAX_THREADS = 1024
MAX_BLOCK = (1024, 1024, 64)
MAX_GRID = (2 ** 31 - 1, 65535, 65535)
MAX_SHARED = 64 * 1024
MAX_STATIC_SHARED = 48 * 1024       # the assembler's limit; only dynamic shared memory may be more
MULTIPROCESSORS = 40
THREADS_PER_MULTIPROCESSOR = 1024
BLOCKS_PER_MULTIPROCESSOR = 16
FORALL_THREADS = 256                # of a block, where the driver of a GPU would choose by occupancy

_HEADER = 8448           # Block record and warp snapshots, see scheduler.ll
_ORDERS = 4              # thread orders that a seeded launch cycles through
_FAULT = 4               # a launch's error, and its status: it reached for memory that is not there;
_RAISED = 5              # its error: a thread of it raised an exception
_LEFT_BEHIND = 3         # status of @emu_cooperate: some blocks wait for the grid, others have exited
_SMALL_GRID = 4096       # threads up to which a cooperative launch is not worth distributing


class _Launch(ctypes.Structure):
    _fields_ = [("args", ctypes.c_void_p), ("warp_order", ctypes.c_void_p), ("thread_order", ctypes.c_void_p),
                ("orders", ctypes.c_int64), ("blocks", ctypes.c_int64), ("next", ctypes.c_int64),
                ("block_order", ctypes.c_void_p), ("nctaid", ctypes.c_int32 * 3), ("ntid", ctypes.c_int32 * 3),
                ("threads", ctypes.c_int32), ("warps", ctypes.c_int32), ("shared_bytes", ctypes.c_int32),
                ("dynamic_bytes", ctypes.c_int32), ("stride", ctypes.c_int32), ("error", ctypes.c_int32),
                ("error_block", ctypes.c_int64), ("at_barrier", ctypes.c_int32), ("at_grid", ctypes.c_int32),
                ("in_warp", ctypes.c_int32), ("exited", ctypes.c_int32), ("ask", ctypes.c_int32),
                ("asked", ctypes.c_int32), ("coroutine", ctypes.c_void_p), ("uses_warps", ctypes.c_int32),
                ("listener", ctypes.c_void_p)]


# ---- arguments

def _type_key(value):
    """What tells apart the Numba types of arguments, cheap to compute."""
    if isinstance(value, np.ndarray):
        flags = value.flags
        return type(value), value.dtype, value.ndim, flags.c_contiguous, flags.f_contiguous, flags.writeable
    if isinstance(value, tuple):
        return type(value), *map(_type_key, value)
    if type(value) is int:
        high = value >> 63
        return int, 0 if high == -1 else high       # what no int64 holds is a uint64, and what that does not, nothing
    if isinstance(value, (np.void, np.datetime64, np.timedelta64)):
        return type(value), value.dtype
    return type(value)


_PACK = {"i1": "?7x", "i8": "b7x", "i16": "h6x", "i32": "i4x", "i64": "q", "float": "f4x", "double": "d", "ptr": "q"}


def _flatten(value, kind, out):
    """Appends the flattened argument, as Numba passes it: an array is (meminfo, parent, items, item size, data, shape,
    strides)."""
    if isinstance(kind, types.Array):
        if not isinstance(value, np.ndarray):
            raise TypeError(f"the emulator takes NumPy arrays, not a {type(value).__name__}: copy_to_host() makes one "
                            "of an array on a GPU")
        out += (0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides)
    elif isinstance(kind, types.BaseTuple):
        for v, k in zip(value, kind):
            _flatten(v, k, out)
    elif kind == types.float16:
        out.append(np.float16(value).view(np.int16))
    elif isinstance(kind, types.Integer):
        # packed by the width that Numba passes; unsigned values keep their bits
        value = int(value)
        out.append(value - (1 << kind.bitwidth) if value >= 1 << (kind.bitwidth - 1) else value)
    elif isinstance(kind, types.Float):
        out.append(float(value))
    elif isinstance(kind, types.Complex):
        out += (value.real, value.imag)
    elif isinstance(kind, types.Boolean):
        out.append(int(value))
    elif isinstance(kind, types.EnumMember):
        _flatten(value.value, kind.dtype, out)
    elif isinstance(kind, (types.NPDatetime, types.NPTimedelta)):
        out.append(int(value.view(np.int64)))
    elif isinstance(kind, types.Record):
        out.append(np.frombuffer(value, np.uint8).ctypes.data)      # of the record itself: kernels may change it
    else:
        raise NotImplementedError(f"the emulator cannot pass an argument of type {kind}")


class _Prepared:
    """A kernel compiled for one combination of argument types."""

    def __init__(self, kernel, args, compute_capability, cpu, listening):
        host.scheduler(listening=listening)     # under the lock, so that it exists once
        try:
            inspect.signature(kernel.py_func).bind(*args)
        except TypeError as error:
            raise TypeError(f"kernel {kernel.py_func.__name__}: {error}") from None
        self.types = [typeof(a, Purpose.argument) for a in args]
        self.code = compile_kernel(kernel, self.types, compute_capability, cpu, listening)
        slots = ["i8" if s == "i1" else s for s in self.code.slots]
        self.packer = struct.Struct("=" + "".join(_PACK[s] for s in slots))

    def pack(self, args):
        flat = []
        for value, kind in zip(args, self.types):
            _flatten(value, kind, flat)
        buffer = ctypes.create_string_buffer(max(self.packer.size, 8))
        self.packer.pack_into(buffer, 0, *flat)
        return buffer


_prepared = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def prepare(kernel, args, compute_capability=(7, 5), cpu=None):
    """The compiled form of a dispatcher for arguments like `args`, instrumented where someone listens, made once."""
    _check_kernel(kernel)
    if cpu is not None and not isinstance(cpu, str):
        raise TypeError(f"cpu must be the name of a processor or None, got {cpu!r}")
    listening_ = listening.current() is not None
    key = (compute_capability, cpu, listening_, *map(_type_key, args))
    table = _prepared.get(kernel)
    if table is not None and key in table:
        return table[key]
    with _lock:
        table = _prepared.setdefault(kernel, {})
        if key not in table:
            table[key] = _Prepared(kernel, args, compute_capability, cpu, listening_)
        return table[key]


def _check_kernel(kernel):
    if not isinstance(kernel, CUDADispatcher):
        what = getattr(kernel, "__name__", None) or repr(kernel)
        raise TypeError(f"{what} is no CUDA kernel: the emulator runs what the decorator @cuda.jit makes of a function")
    if kernel.targetoptions.get("device"):
        raise TypeError(f"{kernel.py_func.__name__} is a device function: a kernel can call it, nobody can launch it")


# ---- geometry, order, memory

_INTS = [[int] * n for n in (1, 2, 3)]


def _three(grid, block):
    """Grid and block in three dimensions. Raises what Numba raises, in its words."""
    sizes = [(size,) if type(size) is int else size for size in (grid, block)]
    if not all(type(size) is tuple and [*map(type, size)] in _INTS for size in sizes):
        if any(isinstance(size, (tuple, list)) and not size for size in sizes):
            raise ValueError(f"griddim and blockdim must be sequences of 1, 2 or 3 integers, got {grid} and {block}")
        sizes = (tuple(map(int, size)) for size in normalize_kernel_dimensions(grid, block))
    return [size + (1,) * (3 - len(size)) for size in sizes]


def _whole(value, what, least):
    """A whole number. Raises TypeError or ValueError otherwise."""
    if type(value) is not int and not isinstance(value, numbers.Integral):
        raise TypeError(f"{what} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{what} must be at least {least}, got {value!r}")
    return int(value)


def _capability(pair):
    if type(pair) is tuple and [*map(type, pair)] == [int, int]:
        return pair
    if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(n, numbers.Integral) for n in pair)):
        raise TypeError(f"compute_capability must be a pair of whole numbers such as (7, 5), got {pair!r}")
    return tuple(map(int, pair))


def _check_geometry(name, grid, block, static, shared):
    if any(s < 1 for s in grid + block):
        raise EmulatorError(f"kernel {name}: every dimension of grid {grid} and block {block} must be at least 1")
    threads = block[0] * block[1] * block[2]
    if threads > MAX_THREADS or any(b > m for b, m in zip(block, MAX_BLOCK)):
        raise EmulatorError(f"kernel {name}: a block of {block} has {threads} threads; a card of compute capability "
                            f"7.5 takes at most {MAX_THREADS}, and {MAX_BLOCK} by dimension")
    if any(g > m for g, m in zip(grid, MAX_GRID)):
        raise EmulatorError(f"kernel {name}: grid {grid} exceeds {MAX_GRID}")
    if static > MAX_STATIC_SHARED:
        raise EmulatorError(f"kernel {name}: {static} bytes of static shared memory; at most {MAX_STATIC_SHARED} can "
                            "be declared in a kernel, what is more must be dynamic")
    if shared > MAX_SHARED:
        raise EmulatorError(f"kernel {name}: {shared} bytes of shared memory; a card of compute capability 7.5 has "
                            f"{MAX_SHARED} for a block")


def _resident_blocks(threads, shared):
    """Blocks that a T4 holds at once: the largest cooperative grid."""
    by_threads = THREADS_PER_MULTIPROCESSOR // (-(-threads // 32) * 32)
    by_shared = MAX_SHARED // shared if shared else BLOCKS_PER_MULTIPROCESSOR
    return MULTIPROCESSORS * min(BLOCKS_PER_MULTIPROCESSOR, by_threads, by_shared)


@functools.lru_cache(maxsize=256)
def _orders(threads, seed):
    """Addresses of warp orders and of thread orders, a row a pass, by index or shuffled by a seed; the number of rows;
    and the arrays themselves, which must outlive the launch.

    Lanes are shuffled within their warp, and warps among each other.
    """
    warps = -(-threads // 32)
    if seed is None:
        arrays = np.arange(warps, dtype=np.int32), np.arange(threads, dtype=np.int32)
        return arrays[0].ctypes.data, arrays[1].ctypes.data, 1, arrays
    rng = np.random.default_rng(seed)
    warp_orders = np.concatenate([rng.permutation(warps) for _ in range(_ORDERS)]).astype(np.int32)
    lanes = [np.arange(w * 32, min(threads, w * 32 + 32)) for w in range(warps)]
    thread_orders = np.concatenate([rng.permutation(w) for _ in range(_ORDERS) for w in lanes]).astype(np.int32)
    return warp_orders.ctypes.data, thread_orders.ctypes.data, _ORDERS, (warp_orders, thread_orders)


_local = threading.local()


class _Memory:
    """Scratch of this host thread, 64-byte aligned, as the address of at least `size` bytes. It grows and is kept; a
    launch inside a launch, by the handler of a signal, gets another."""

    __slots__ = "buffer", "address"

    def __init__(self, size):
        buffer, address = getattr(_local, "kept", None) or (None, 0)
        _local.kept = None
        if buffer is None or buffer.size < size + 64:
            buffer = np.empty(size + 64, np.uint8)
            address = buffer.ctypes.data
            address += -address % 64
        self.buffer, self.address = buffer, address

    def __enter__(self):
        return self.address

    def __exit__(self, *error):
        _local.kept = self.buffer, self.address


@functools.lru_cache(maxsize=None)
def _pool(count):
    return ThreadPoolExecutor(count, thread_name_prefix=interrupts.WORKERS)


if hasattr(os, "register_at_fork"):
    def _forget_threads():
        """A forked process has none of the threads."""
        global _lock
        _pool.cache_clear()
        interrupts.forget()
        _lock = threading.Lock()                   # one of them may have held it

    os.register_at_fork(after_in_child=_forget_threads)


def _together(record, tasks):
    """Results of functions that work on one launch: the first runs in this thread. They share memory that ends with the
    launch, so that none goes on when this returns or raises."""
    others = []
    try:
        for task in tasks[1:]:
            others.append(_pool(len(tasks) - 1).submit(task))
        return [tasks[0](), *(other.result() for other in others)]
    except BaseException:
        passes = 0
        while not all(other.done() or other.cancel() for other in others):
            with contextlib.suppress(BaseException):         # a second Ctrl-C changes nothing
                interrupts.stop(record)
                time.sleep(0.001)
                passes += 1
                if passes % 100 == 0:
                    interrupts.knock(interrupts.workers(), lambda: all(other.done() for other in others))
        raise


# ---- launch

def launch(kernel, grid, block, args, shared=0, seed=None, workers=None, compute_capability=(7, 5), cpu=None):
    """Runs a `@cuda.jit` kernel on the CPU, to its end; arrays are changed in place.

    Parameters
    ----------
    kernel : the dispatcher that `@cuda.jit` returns
    grid, block : int or tuple of 1 to 3 ints
    args : NumPy arrays (the kernel's global memory) and scalars
    shared : bytes of dynamic shared memory
    seed : None runs threads and blocks by index; an int shuffles both
    workers : host threads, default one a core; results do not depend on it
    compute_capability : what the kernel is compiled for
    cpu : another processor to compile for, by its LLVM name

    Raises
    ------
    EmulatorError
        for what a card of compute capability 7.5 would refuse, for a deadlock at a barrier, and, on Linux, for an index
        so far out of bounds that no memory is there
    NotImplementedError
        for an operation that the emulator does not have, which it names with the kernel, and for an argument that
        Numba does not pass to a kernel
    TypeError, ValueError
        for what is no kernel, no whole number, no processor of this kind, or not the kernel's number of arguments

    Numba's own errors reach the caller as they are, and so does what the handler of a signal raises: a Ctrl-C ends a
    launch of the main thread with KeyboardInterrupt, and so it ends those of other threads if the main thread then
    waits for them. Their arrays are then half written.
    """
    grid, block = _three(grid, block)
    prepared = prepare(kernel, args, _capability(compute_capability), cpu)
    code = prepared.code
    shared = _whole(shared, "the number of bytes of dynamic shared memory", 0)
    shared_bytes = code.shared_bytes + shared
    _check_geometry(code.name, grid, block, code.shared_bytes, shared_bytes)
    threads = block[0] * block[1] * block[2]
    blocks = grid[0] * grid[1] * grid[2]
    warp_order, thread_order, orders, _kept = _orders(threads, seed if seed is None else _whole(seed, "seed", 0))
    packed = prepared.pack(args)
    block_order = None
    if seed is not None and blocks > 1 and not code.uses_grid:
        block_order = np.random.default_rng(seed).permutation(blocks)
    record = _Launch(
        args=ctypes.addressof(packed), warp_order=warp_order, thread_order=thread_order,
        orders=orders, blocks=blocks, next=0, block_order=None if block_order is None else block_order.ctypes.data,
        nctaid=grid, ntid=block, threads=threads, warps=-(-threads // 32), shared_bytes=shared_bytes,
        dynamic_bytes=shared, stride=code.stride, coroutine=code.entry, uses_warps=code.uses_warps)
    size = _HEADER + -(-shared_bytes // 128) * 128 + threads * code.stride
    listener = listening.current()
    if not getattr(listener, "checks_writes", False):
        fresh.written_elsewhere(a.array for a in listening.named_arrays(kernel, args, prepared.types))
    workers = host.cores() if workers is None else _whole(workers, "workers", 1)
    if code.serial or listener is not None or not threading.main_thread().is_alive():
        workers = 1            # a program whose main thread has ended begins no threads
    outer = interrupts.begin(record)
    try:
        with contextlib.nullcontext() if listener is None else listening.attached(
                listener, record, listening.launched(kernel, code, args, prepared.types, grid, block, shared_bytes)):
            if code.uses_grid:
                status = _cooperative(record, code, size, blocks, threads, shared_bytes, workers, listener is not None)
            else:
                status = _independent(record, size, min(workers, blocks), listener is not None)
    finally:
        interrupts.end(outer)
    if record.error == interrupts.STOPPED:
        raise KeyboardInterrupt(f"kernel {code.name} was ended, as a Ctrl-C ended what the main thread did")
    if record.error == _RAISED:
        _raise_exception(record, code, grid, block)
    if status == _FAULT:
        _raise_fault(record, kernel, args, prepared.types)
    if status == _LEFT_BEHIND:
        raise EmulatorError(f"kernel {code.name}: deadlock. Some blocks wait at a grid barrier, others have exited; "
                            "every block must reach it.")
    if status:
        _raise_deadlock(record, code.name, grid)


def _independent(record, size, workers, listening_):
    _, run, _ = host.scheduler(listening=listening_)
    where = ctypes.addressof(record)

    def work():
        with _Memory(size) as memory:
            return run(where, memory)

    return max(_together(record, [work] * workers)) if workers > 1 else work()


def _cooperative(record, code, size, blocks, threads, shared_bytes, workers, listening_):
    limit = _resident_blocks(threads, shared_bytes)
    if blocks > limit:
        raise EmulatorError(f"kernel {code.name} synchronises its grid: all {blocks} blocks must be on the card at "
                            f"once, and a T4 holds {limit} of this size")
    _, _, cooperate = host.scheduler(listening=listening_)
    size = -(-size // 64) * 64
    where = ctypes.addressof(record)
    workers = min(workers, blocks)
    with _Memory(size * blocks) as base:
        if workers == 1 or threads * blocks <= _SMALL_GRID:
            return cooperate(where, base, size, 0, blocks, 2)
        bounds = [blocks * i // workers for i in range(workers + 1)]
        mode = 0
        while True:
            statuses = _together(record, [functools.partial(cooperate, where, base, size, *share, mode)
                                          for share in zip(bounds, bounds[1:])])
            if max(statuses) != 1:
                return max(statuses)
            if min(statuses) == 0:
                return _LEFT_BEHIND
            mode = 1


def _raise_exception(record, code, grid, block):
    """Raises what a thread raised in a kernel compiled with debug=True, in Numba's words."""
    kind, arguments, place = code.exception_of(record.at_barrier)

    def coordinates(index, shape):
        return [index // (shape[0] * shape[1]), index // shape[0] % shape[1], index % shape[0]]
    where = f"tid={coordinates(record.at_grid, block)} ctaid={coordinates(record.error_block, grid)}"
    if place is not None:
        function, file, line = place
        where = f"In function {function!r}, file {os.path.abspath(file)}, line {line}, {where}"
    if arguments:
        raise kind(f"{where}: {arguments[0]}", *arguments[1:])
    raise kind(where)


def _raise_fault(record, kernel, args, kinds):
    """Names the array nearest to the address that a kernel reached for."""
    address = ctypes.c_uint64(record.error_block).value
    near = []
    for name, value in listening.named_arrays(kernel, args, kinds):
        if value.size:
            low, high = np.lib.array_utils.byte_bounds(value)
            near.append((low - address, "before the first", name) if address < low else
                        (address - high + 1, "after the last", name))
    distance, side, name = min(near, default=(0, "", ""))
    where = f", {distance} bytes {side} of the array {name}" if name and address else ""
    raise EmulatorError(f"kernel {kernel.py_func.__name__} reads or writes memory that is not there{where}: an index "
                        "is out of bounds. What lies nearer to an array may have been overwritten before. With "
                        "NUMPREC_SANITIZE=1, or inside numprec.emulator.sanitize(), it says which, and where.")


def _raise_deadlock(record, name, grid):
    index = record.error_block
    where = index % grid[0], index // grid[0] % grid[1], index // (grid[0] * grid[1])
    stands = [f"{count} {text}" for count, text in (
        (record.at_barrier, "wait at a block barrier"), (record.at_grid, "wait at a grid barrier"),
        (record.in_warp, "wait in a warp operation for lanes of its mask that do not come"),
        (record.exited, "have exited")) if count]
    raise EmulatorError(f"kernel {name}, block {where}: deadlock. Of {record.threads} threads, {', '.join(stands)}. "
                        "Every thread that is still running must reach the same barrier, and every lane named in the "
                        "mask of a warp operation must take part in it.")


class _Configured:
    def __init__(self, kernel, grid, block, stream=0, shared=0, **options):
        _three(grid, block)
        self.launch = functools.partial(launch, kernel, grid, block, shared=shared, **options)

    def __call__(self, *args):
        self.launch(args)


class emulate:
    """A kernel with Numba's launch syntax, on the CPU: `emulate(kernel)[grid, block](*args)`, or
    `emulate(kernel).forall(tasks)(*args)`.

    Options of `launch` (seed, workers, ...) are keywords: `emulate(kernel, seed=1)`. Raises TypeError for what is no
    kernel.
    """

    def __init__(self, kernel, **options):
        _check_kernel(kernel)
        self.kernel = kernel
        self.options = options

    def __getitem__(self, configuration):
        if not isinstance(configuration, (tuple, list)) or not 2 <= len(configuration) <= 4:
            raise ValueError("must specify at least the griddim and blockdim")      # Numba's words
        return _Configured(self.kernel, *configuration, **self.options)

    def forall(self, ntasks, tpb=0, stream=0, sharedmem=0):
        """One thread for each of `ntasks` tasks, in one dimension, and those that fill the last block up: the kernel
        must check its index. `tpb` is the number of threads of a block; 0 lets the emulator choose."""
        tasks, block = _whole(ntasks, "ntasks", 0), _whole(tpb, "tpb", 0) or FORALL_THREADS
        if not tasks:
            return lambda *args: None
        return self[-(-tasks // block), block, stream, sharedmem]


def create_xoroshiro128p_states(n, seed, subsequence_start=0):
    """The states of `n` random number generators, for the functions of numba.cuda.random in an emulated kernel: the
    numbers that Numba's function of this name puts on a GPU, as a NumPy array of xoroshiro128p_dtype, shape (n,)."""
    states = np.empty(_whole(n, "n", 0), random.xoroshiro128p_dtype)
    random.init_xoroshiro128p_states_cpu(states, _whole(seed, "seed", 0), subsequence_start)
    return states
