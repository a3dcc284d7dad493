"""A `@cuda.jit` kernel and the types of its arguments -> machine code of the host."""
import contextlib
import hashlib
import linecache
import sys
import time
from types import SimpleNamespace
from typing import Callable, NamedTuple

import numba.cuda.dispatcher
from numba import types
from numba.cuda.compiler import compile_cuda
from numba.cuda.descriptor import cuda_target

from numprec.emulator import cache, host, libdevice
from numprec.emulator.translate import Translation, Unsupported, recursion, translate

_ANNOUNCE_AFTER = 3.0          # seconds of compiling after which the user is told

_spent = 0.0
_announced = False


class CompiledKernel:
    """A kernel in machine code; `entry` is the address of its coroutine. `compile_seconds` is 0 from the cache."""

    def __init__(self, name, translation, engine, entry, compile_seconds, exception_of=None):
        self.name = name
        self.exception_of = exception_of     # with debug=True: (class, arguments, place) of what a thread raised
        self.engine = engine             # owns the code
        self.entry = entry
        self.compile_seconds = compile_seconds
        for field in ("stride", "shared_bytes", "uses_grid", "uses_warps", "serial", "slots", "sites", "shared",
                      "locals", "operations"):
            setattr(self, field, getattr(translation, field))


@contextlib.contextmanager
def without_driver(compute_capability):
    """Answers for the current device while Numba compiles: there may be none, or not the one asked for.

    Device functions, `math.exp` of a float16 and cooperative groups ask for it.
    """
    module = numba.cuda.dispatcher
    original = module.get_current_device
    module.get_current_device = lambda: SimpleNamespace(compute_capability=tuple(compute_capability))
    try:
        yield
    finally:
        module.get_current_device = original


@contextlib.contextmanager
def _forgetting_helpers():
    """Numba keeps what it compiles on the way, such as operators of float16, for the next kernel. NVIDIA's linker
    refuses a kernel without lines that is made of parts with lines."""
    helpers = cuda_target.target_context.cached_internal_func
    before = set(helpers)
    try:
        yield
    finally:
        for key in set(helpers) - before:
            helpers.pop(key, None)


class FrontEnd(NamedTuple):
    """Numba's half of a compilation: its library of modules, their text, the mangled name of the kernel in it, and a
    function that tells what an error code of a thread stands for."""

    library: object
    texts: list
    entry: str
    exception_of: Callable


def front_end(kernel, argtypes, compute_capability, lines=False):
    """FrontEnd of a dispatcher and Numba argument types. `lines` keeps the lines of the source in the text."""
    name, fastmath = kernel.py_func.__name__, bool(kernel.targetoptions.get("fastmath"))
    try:
        with without_driver(compute_capability), _forgetting_helpers() if lines else contextlib.nullcontext():
            result = compile_cuda(kernel.py_func, types.void, argtypes, cc=tuple(compute_capability),
                                  fastmath=fastmath, lineinfo=lines, debug=bool(kernel.targetoptions.get("debug")),
                                  nvvm_options={"fastmath": fastmath, "opt": 3})     # for who goes on from here
    except (AssertionError, AttributeError, LookupError) as error:      # none that Numba would raise on purpose
        if "insert_unresolved_ref" in str(error):                       # what it lacks for a function that calls itself
            raise Unsupported(recursion(name, "a function")) from None
        kinds = ", ".join(map(str, argtypes))
        raise Unsupported(f"kernel {name}: Numba-CUDA cannot compile it for arguments of the types {kinds}, and fails "
                          f"with {type(error).__name__}: {error}") from error
    return FrontEnd(result.library, [str(module) for module in result.library.modules], result.fndesc.mangled_name,
                    result.call_helper.get_exception)


def _pointers(argtypes):
    """{slot of the flattened arguments that is an array's data pointer: index of the array among all arrays}."""
    found, slot = {}, 0
    for kind in _leaves(argtypes):
        if isinstance(kind, types.Array):
            found[slot + 4] = len(found)
            slot += 5 + 2 * kind.ndim
        else:
            slot += 2 if isinstance(kind, types.Complex) else 1
    return found


def _leaves(argtypes):
    for kind in argtypes:
        if isinstance(kind, types.BaseTuple):
            yield from _leaves(kind)
        else:
            yield kind


def compile_kernel(kernel, argtypes, compute_capability=(7, 5), cpu=None, listening=False):
    """Compiles a dispatcher for Numba argument types, or takes it from the disk cache.

    `cpu` names another processor to compile for (LLVM's names: "haswell", "icelake-server"); default: the host.
    `listening` asks for the instrumented form, see instrument.py.
    Raises NotImplementedError, naming operation and kernel, for what the emulator does not have, ValueError for a
    processor whose code the host cannot run, and Numba's errors for what Numba refuses.
    """
    global _spent, _announced
    name = kernel.py_func.__name__
    place = host.target(cpu)
    target = f"{place.key} {libdevice.version()}" + (_lines(kernel) if listening else "")
    debug, exception_of = bool(kernel.targetoptions.get("debug")), None
    key = None                                       # of an exception, only this compilation knows what its code means
    if not debug:
        key = cache.kernel_key(kernel, argtypes, compute_capability, target)
    seconds = 0.0
    loaded = _loaded(place, cache.load(key))
    if loaded is None:
        if _spent > _ANNOUNCE_AFTER and not _announced and sys.stderr.isatty():
            _announced = True
            print("numprec: compiling kernels for this CPU; the next run finds them on disk", file=sys.stderr)
        start = time.perf_counter()
        _, modules, entry, exception_of = front_end(kernel, tuple(argtypes), compute_capability, listening)
        symbol = "numprec_" + hashlib.sha256((key or f"{listening}" + "".join(modules)).encode()).hexdigest()[:24]
        translation = translate(modules, entry, name, symbol, host.llvm, place.machine, place.half_in_hardware,
                                _pointers(argtypes) if listening else None, debug)
        code = place.object_code(translation.text)
        seconds = time.perf_counter() - start
        _spent += seconds
        cache.store(key, {f: getattr(translation, f) for f in Translation.__dataclass_fields__ if f != "text"}, code)
        loaded = translation, *place.load(code, [symbol])
    translation, engine, (entry,) = loaded
    return CompiledKernel(name, translation, engine, entry, seconds, exception_of if debug else None)


def _lines(kernel):
    """What the instrumented form depends on besides: it names lines of the source."""
    code = kernel.py_func.__code__
    return f" instrumented {code.co_filename} {code.co_firstlineno} {''.join(linecache.getlines(code.co_filename))}"


def _loaded(place, stored):
    """(translation, engine, addresses) of what the cache holds; None where it holds nothing, or not a kernel."""
    try:
        description, code = stored
        translation = Translation(text="", **description)
        return translation, *place.load(code, [translation.symbol])
    except (TypeError, LookupError):
        return None
