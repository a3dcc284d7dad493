"""The Python half of the stand-in: runs the kernels that the driver is asked to launch, by numprec's emulator.

It watches what Numba compiles, so that it knows which function with which types is behind a kernel; `fakecuda.c` calls
back with the kernel, the geometry and the bytes of the parameters. Device memory is the host's, so that arrays are
views of it.
"""
import atexit
import ctypes
import importlib.abc
import importlib.util
import os
import sys
import traceback

import numpy as np

LAUNCH_FAILED, ILLEGAL_ADDRESS = 719, 700
HANDLES = {"ctx": 1, "stream": 2, "event": 3, "library": 4, "kernel": 5, "graph": 6, "exec": 7}
DISPATCHER = "numba.cuda.dispatcher", "numba_cuda.numba.cuda.dispatcher"    # one file under two names

_lib = ctypes.CDLL(os.environ["FAKEGPU_LIB"], mode=ctypes.RTLD_GLOBAL)
_compiled = {}      # CUkernel -> (dispatcher, argument types)
launched = {}       # name of the Python function -> number of runs
compiled = []       # names of the Python functions that were compiled, not loaded


def counters():
    """{name: number} of the driver's functions called so far, the bytes copied, kernels run and memory in use."""
    names, counts = (ctypes.c_char_p * 1024)(), (ctypes.c_long * 1024)()
    n = _lib.fakegpu_counters(names, counts, 1024)
    found = {names[i].decode(): counts[i] for i in range(n) if counts[i]}
    for extra in ("bytes_h2d", "bytes_d2h", "bytes_d2d", "kernels", "graph_kernels", "used", "peak", "live",
                  "violations"):
        found[extra] = ctypes.c_long.in_dll(_lib, f"fakegpu_{extra}").value
    return found


def reset():
    """Sets the counters to 0, and the peak of memory to what is in use."""
    _lib.fakegpu_reset()
    launched.clear()
    compiled.clear()


def alive():
    """{kind of handle: how many there are}."""
    return {name: _lib.fakegpu_alive(number) for name, number in HANDLES.items()}


# ---- running a kernel

class Outside(Exception):
    """An array that does not lie within one live allocation."""


def _arguments(types, read):
    """What the kernel was called with; `read(ctype)` gives the next parameter, as Numba flattens them."""
    from numba.cuda import types as nt
    from numba.cuda.np.numpy_support import as_dtype
    for kind in types:
        if isinstance(kind, nt.Array):
            _, _, size, itemsize, data = (read(ctypes.c_int64) for _ in range(5))
            shape, strides = ([read(ctypes.c_int64) for _ in range(kind.ndim)] for _ in range(2))
            yield _array(as_dtype(kind.dtype), data, shape, strides) if size else np.empty(shape, as_dtype(kind.dtype))
        elif isinstance(kind, nt.BaseTuple):
            parts = tuple(_arguments(tuple(kind), read))
            yield kind.instance_class(*parts) if isinstance(kind, nt.BaseNamedTuple) else parts
        elif isinstance(kind, nt.Boolean):
            yield bool(read(ctypes.c_int8))
        else:
            dtype = as_dtype(kind)
            value = np.frombuffer(read(ctypes.c_char * dtype.itemsize), dtype)[0]
            yield int(value) if dtype == np.int64 else value


def _array(dtype, data, shape, strides):
    ends = [s * (n - 1) for n, s in zip(shape, strides)]
    low, high = data + sum(min(0, e) for e in ends), data + sum(max(0, e) for e in ends) + dtype.itemsize
    inside = _lib.fakegpu_inside(ctypes.c_size_t(low), ctypes.c_size_t(high - low))
    if inside != 1:
        what = "is host memory" if inside == -1 else "is not within one live allocation"
        raise Outside(f"an array of {dtype} and shape {shape} at {data:#x} {what}")
    return np.ndarray(shape, dtype, (ctypes.c_char * (high - low)).from_address(low), data - low, strides)


def _run(name, grid, block, shared, params, offsets, sizes, count, cooperative, kernel):
    from numprec import emulator
    dispatcher, types = _compiled[kernel]
    function = dispatcher.py_func.__name__
    faulty, _, dtype = os.environ.get("FAKEGPU_FAULT", "").partition(":")
    if faulty == function and dtype in str(types):
        return ILLEGAL_ADDRESS
    places = iter([params + offsets[i] for i in range(count)])

    def read(ctype):
        found = ctype.from_address(next(places))
        return found if issubclass(ctype, ctypes.Array) else found.value
    arguments = list(_arguments(types, read))
    seed = os.environ.get("FAKEGPU_SEED")
    emulator.launch(dispatcher, tuple(grid[:3]), tuple(block[:3]), arguments, shared=shared,
                    seed=None if seed is None else int(seed), compute_capability=CARD)
    launched[function] = launched.get(function, 0) + 1
    return 0


CARD = tuple(map(int, os.environ.get("FAKEGPU_CC", "7.5").split(".")))


@ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint), ctypes.POINTER(ctypes.c_uint), ctypes.c_uint,
    ctypes.c_void_p, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int), ctypes.c_int, ctypes.c_int,
    ctypes.c_void_p)
def _execute(name, *arguments):
    try:
        return _run(name.decode(), *arguments)
    except Outside as error:
        print(f"FAKEGPU VIOLATION: kernel {name.decode()}: {error}", file=sys.stderr)
        return ILLEGAL_ADDRESS
    except BaseException:
        print(f"FAKEGPU: kernel {name.decode()}:", file=sys.stderr)
        traceback.print_exc()
        return LAUNCH_FAILED


# ---- watching Numba

def _watch(module):
    compile_, construct = module.CUDADispatcher.compile, module._Kernel.__init__

    def watched(self, sig):
        kernel = compile_(self, sig)
        _compiled[int(kernel._codelibrary.get_cufunc().handle)] = self, kernel.argument_types
        return kernel

    def constructed(self, py_func, *args, **options):
        construct(self, py_func, *args, **options)
        compiled.append(py_func.__name__)
    module.CUDADispatcher.compile, module._Kernel.__init__ = watched, constructed


class _Finder(importlib.abc.MetaPathFinder):
    """Has `_watch` called when Numba's dispatcher has been imported."""

    def __init__(self):
        self._busy = False

    def find_spec(self, name, path, target=None):
        if name not in DISPATCHER or self._busy:
            return None
        self._busy = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._busy = False
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            _watch(module)
        spec.loader.exec_module = exec_module
        return spec


@atexit.register
def _goodbye():
    overrun = _lib.fakegpu_check()
    if os.environ.get("FAKEGPU_SUMMARY"):
        print(f"FAKEGPU summary of {os.getpid()}: {overrun} allocations overrun, alive {alive()}, {counters()}",
              file=sys.stderr)


_lib.fakegpu_set_executor(_execute)
sys.meta_path.insert(0, _Finder())
