"""Launching a kernel on the emulator: argument packing, the limits of the card, memory and workers."""
import ctypes
import functools
import os
import struct
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import types
from numba.cuda.typing.typeof import Purpose, typeof

from numprec.emulator import host
from numprec.emulator.compile import compile_kernel
from numprec.emulator.translate import EmulatorError


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

_HEADER = 8448           # Block record and warp snapshots, see scheduler.ll
_ORDERS = 4              # thread orders that a seeded launch cycles through
_LEFT_BEHIND = 3         # status of @emu_cooperate: some blocks wait for the grid, others have exited
_SMALL_GRID = 4096       # threads up to which a cooperative launch is not worth distributing


class _Launch(ctypes.Structure):
    _fields_ = [("args", ctypes.c_void_p), ("warp_order", ctypes.c_void_p), ("thread_order", ctypes.c_void_p),
                ("orders", ctypes.c_int64), ("blocks", ctypes.c_int64), ("next", ctypes.c_int64),
                ("block_order", ctypes.c_void_p), ("nctaid", ctypes.c_int32 * 3), ("ntid", ctypes.c_int32 * 3),
                ("threads", ctypes.c_int32), ("warps", ctypes.c_int32), ("shared_bytes", ctypes.c_int32),
                ("dynamic_bytes", ctypes.c_int32), ("stride", ctypes.c_int32), ("error", ctypes.c_int32),
                ("error_block", ctypes.c_int64), ("at_barrier", ctypes.c_int32), ("at_grid", ctypes.c_int32),
                ("in_warp", ctypes.c_int32), ("exited", ctypes.c_int32), ("unused", ctypes.c_int32 * 2),
                ("coroutine", ctypes.c_void_p), ("uses_warps", ctypes.c_int32)]


# ---- arguments

def _type_key(value):
    """What tells apart the Numba types of arguments, cheap to compute."""
    if isinstance(value, np.ndarray):
        flags = value.flags
        return value.dtype, value.ndim, flags.c_contiguous, flags.f_contiguous, flags.writeable
    if isinstance(value, tuple):
        return type(value), *map(_type_key, value)
    if type(value) is int:
        return int, value >> 63 == 1       # what no int64 holds is a uint64
    return type(value)


_PACK = {"i1": "?7x", "i8": "b7x", "i16": "h6x", "i32": "i4x", "i64": "q", "float": "f4x", "double": "d", "ptr": "q"}


def _flatten(value, kind, out):
    """Appends the flattened argument, as Numba passes it: an array is (meminfo, parent, items, item size, data, shape,
    strides)."""
    if isinstance(kind, types.Array):
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
    else:
        raise NotImplementedError(f"the emulator cannot pass an argument of type {kind}")


class _Prepared:
    """A kernel compiled for one combination of argument types."""

    def __init__(self, kernel, args, compute_capability, cpu):
        host.scheduler()                   # under the lock, so that it exists once
        self.types = [typeof(a, Purpose.argument) for a in args]
        self.code = compile_kernel(kernel, self.types, compute_capability, cpu)
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
    """The compiled form of a dispatcher for arguments like `args`; compiled once."""
    key = (compute_capability, cpu, *map(_type_key, args))
    table = _prepared.get(kernel)
    if table is not None and key in table:
        return table[key]
    with _lock:
        table = _prepared.setdefault(kernel, {})
        if key not in table:
            table[key] = _Prepared(kernel, args, compute_capability, cpu)
        return table[key]


# ---- geometry, order, memory

def _three(size, what):
    size = tuple(size) if isinstance(size, (tuple, list)) else (size,)
    if not 1 <= len(size) <= 3:
        raise EmulatorError(f"{what} has 1 to 3 dimensions, not {len(size)}")
    return tuple(int(s) for s in size) + (1,) * (3 - len(size))


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
    """(warp orders, thread orders), each a row per pass: by index, or shuffled by a seed.

    Lanes are shuffled within their warp, and warps among each other.
    """
    warps = -(-threads // 32)
    if seed is None:
        return np.arange(warps, dtype=np.int32), np.arange(threads, dtype=np.int32), 1
    rng = np.random.default_rng(seed)
    warp_orders = np.concatenate([rng.permutation(warps) for _ in range(_ORDERS)]).astype(np.int32)
    lanes = [np.arange(w * 32, min(threads, w * 32 + 32)) for w in range(warps)]
    thread_orders = np.concatenate([rng.permutation(w) for _ in range(_ORDERS) for w in lanes]).astype(np.int32)
    return warp_orders, thread_orders, _ORDERS


_local = threading.local()


def _memory(size):
    """Scratch of this host thread, 64-byte aligned; grows and is kept. Returns its address."""
    if getattr(_local, "size", 0) < size:
        _local.buffer = np.empty(size + 64, np.uint8)
        _local.size = size
    address = _local.buffer.ctypes.data
    return address + -address % 64


@functools.lru_cache(maxsize=None)
def _pool(count):
    return ThreadPoolExecutor(count, thread_name_prefix="numprec-emulator")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)      # a forked process has none of the threads


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
        for what a card of compute capability 7.5 would refuse, and for a deadlock at a barrier
    NotImplementedError
        for an operation that the emulator does not have; it names operation and kernel
    """
    grid, block = _three(grid, "grid"), _three(block, "block")
    prepared = prepare(kernel, args, tuple(compute_capability), cpu)
    code = prepared.code
    shared_bytes = code.shared_bytes + shared
    _check_geometry(code.name, grid, block, code.shared_bytes, shared_bytes)
    threads = block[0] * block[1] * block[2]
    blocks = grid[0] * grid[1] * grid[2]
    warp_order, thread_order, orders = _orders(threads, seed)
    packed = prepared.pack(args)
    block_order = None
    if seed is not None and blocks > 1 and not code.uses_grid:
        block_order = np.random.default_rng(seed).permutation(blocks)
    record = _Launch(
        args=ctypes.addressof(packed), warp_order=warp_order.ctypes.data, thread_order=thread_order.ctypes.data,
        orders=orders, blocks=blocks, next=0, block_order=None if block_order is None else block_order.ctypes.data,
        nctaid=grid, ntid=block, threads=threads, warps=-(-threads // 32), shared_bytes=shared_bytes,
        dynamic_bytes=shared, stride=code.stride, coroutine=code.entry, uses_warps=code.uses_warps)
    size = _HEADER + -(-shared_bytes // 128) * 128 + threads * code.stride
    workers = host.cores() if workers is None else workers
    if code.uses_grid:
        status = _cooperative(record, code, size, blocks, threads, shared_bytes, 1 if code.serial else workers)
    else:
        status = _independent(record, size, 1 if code.serial else min(workers, blocks))
    if status == _LEFT_BEHIND:
        raise EmulatorError(f"kernel {code.name}: deadlock. Some blocks wait at a grid barrier, others have exited; "
                            "every block must reach it.")
    if status:
        _raise_deadlock(record, code.name, grid)


def _independent(record, size, workers):
    _, run, _ = host.scheduler()

    def work():
        return run(ctypes.addressof(record), _memory(size))

    if workers == 1:
        return work()
    others = [_pool(workers - 1).submit(work) for _ in range(workers - 1)]
    status = work()
    return max([status, *(other.result() for other in others)])


def _cooperative(record, code, size, blocks, threads, shared_bytes, workers):
    limit = _resident_blocks(threads, shared_bytes)
    if blocks > limit:
        raise EmulatorError(f"kernel {code.name} synchronises its grid: all {blocks} blocks must be on the card at "
                            f"once, and a T4 holds {limit} of this size")
    _, _, cooperate = host.scheduler()
    size = -(-size // 64) * 64
    base = _memory(size * blocks)
    where = ctypes.addressof(record)
    workers = min(workers, blocks)
    if workers == 1 or threads * blocks <= _SMALL_GRID:
        return cooperate(where, base, size, 0, blocks, 2)
    bounds = [blocks * i // workers for i in range(workers + 1)]
    shares = list(zip(bounds, bounds[1:]))
    mode = 0
    while True:
        others = [_pool(workers - 1).submit(cooperate, where, base, size, *share, mode) for share in shares[1:]]
        statuses = [cooperate(where, base, size, *shares[0], mode), *(other.result() for other in others)]
        if max(statuses) != 1:
            return max(statuses)
        if min(statuses) == 0:
            return _LEFT_BEHIND
        mode = 1


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
        self.launch = functools.partial(launch, kernel, grid, block, shared=shared, **options)

    def __call__(self, *args):
        self.launch(args)


class emulate:
    """A kernel with Numba's launch syntax, on the CPU: `emulate(kernel)[grid, block](*args)`.

    Options of `launch` (seed, workers, ...) are keywords: `emulate(kernel, seed=1)`.
    """

    def __init__(self, kernel, **options):
        self.kernel = kernel
        self.options = options

    def __getitem__(self, configuration):
        return _Configured(self.kernel, *configuration, **self.options)
