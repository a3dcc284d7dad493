"""The host's side of compilation: target machine, object code, and loading it. Wraps llvmlite."""
import atexit
import ctypes
import functools
import os
import re
import signal
import sys
from importlib import resources

import llvmlite.binding as llvm

from numprec.emulator import twins


@functools.lru_cache(maxsize=None)
def _initialize():
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    raw = ctypes.pythonapi
    # frames that do not fit beside their thread's record; these two need no GIL
    llvm.add_symbol("numprec_malloc", ctypes.cast(raw.PyMem_RawMalloc, ctypes.c_void_p).value)
    llvm.add_symbol("numprec_free", ctypes.cast(raw.PyMem_RawFree, ctypes.c_void_p).value)
    for name in ("PyEval_SaveThread", "PyEval_RestoreThread", "PyGILState_Ensure", "PyGILState_Release",
                 "PyErr_CheckSignals"):
        llvm.add_symbol(name, ctypes.cast(getattr(raw, name), ctypes.c_void_p).value)
    library = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else "libm.so.6")
    for name in sorted(twins.LIBM_NAMES | {"exp10", "exp10f", "roundeven", "roundevenf"}):
        function = getattr(library, name, None)
        if function is not None:
            llvm.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)
    return True


# Functions of LLVM's run-time library, which object code calls where the processor lacks an instruction. Nothing here
# provides them, and the loader would let the call go to address 0.
_HELPER = re.compile(rb"(?<=\0)__(?:trunc|extend|fix|float|u?div|u?mod|mul|pow)[a-z]*\d?(?=\0)")


# Other processors to compile for, by LLVM's names, with the instructions that LLVM may choose for them: the levels of
# the System V psABI for x86-64, and two makes. LLVM ends the process over a name that it does not know.
_V2 = "cx16 popcnt sahf sse3 sse4.1 sse4.2 ssse3"
_V3 = f"{_V2} avx avx2 bmi bmi2 f16c fma lzcnt movbe"
_V4 = f"{_V3} avx512bw avx512cd avx512dq avx512f avx512vl"
_PROCESSORS = {
    "x86-64": "", "x86-64-v2": _V2, "x86-64-v3": _V3, "x86-64-v4": _V4, "haswell": f"{_V3} pclmul",
    "icelake-server": f"{_V4} adx aes avx512bitalg avx512ifma avx512vbmi avx512vbmi2 avx512vnni avx512vpopcntdq gfni "
                      "pclmul sha vaes vpclmulqdq",
}


def _check(cpu):
    """Raises ValueError for a processor that is unknown, or whose code this one cannot run."""
    known = _PROCESSORS if llvm.get_process_triple().startswith("x86_64") else {}
    if cpu not in known:
        raise ValueError(f"the emulator cannot compile for the processor {cpu!r}: take None, which is this one"
                         + (f", or one of {', '.join(known)}" if known else ""))
    have = llvm.get_host_cpu_features()
    missing = [name for name in known[cpu].split() if not have.get(name)]
    if missing:
        raise ValueError(f"this processor cannot run code for {cpu}: it lacks {', '.join(missing)}")


class Target:
    """A processor to compile for: the host, or another x86-64 by its LLVM name, to compare bits. Raises ValueError for
    one that is unknown, or whose code the host cannot run."""

    def __init__(self, cpu=None):
        _initialize()
        if cpu is not None:
            _check(cpu)
        self.cpu = cpu or llvm.get_host_cpu_name()
        if cpu is None:
            features = llvm.get_host_cpu_features()
            self.features = features.flatten()
            on = {name for name, value in features.items() if value}
        else:
            self.features = ""
            on = {"f16c"} if cpu not in ("x86-64", "x86-64-v2") else set()
        self.triple = llvm.get_process_triple()
        if not self.triple.startswith(("aarch64", "arm64")):
            # SSE4a has no VEX form. LLVM moves halves with its insertq, amid AVX code: a convolution in mixed_fp16,
            # alone in having one in its inner loop, took 10 to 18 times as long for it on some processors of AMD
            self.features += ",-sse4a" if self.features else "-sse4a"
        self.half_in_hardware = "f16c" in on or self.triple.startswith(("aarch64", "arm64"))
        self.machine = llvm.Target.from_triple(self.triple).create_target_machine(
            cpu=self.cpu, features=self.features, opt=3, jit=True, reloc="default", codemodel="jitdefault")
        self.layout = str(self.machine.target_data)

    @property
    def key(self):
        """What object code depends on."""
        return f"{self.triple} {self.cpu} {self.features} llvm{llvm.llvm_version_info}"

    def object_code(self, text):
        """LLVM IR text -> object code, optimised."""
        module = llvm.parse_assembly(f'target triple = "{self.triple}"\ntarget datalayout = "{self.layout}"\n' + text)
        options = llvm.create_pipeline_tuning_options(speed_level=3)
        options.slp_vectorization = True
        options.loop_vectorization = True
        builder = llvm.create_pass_builder(self.machine, options)
        builder.getModulePassManager().run(module, builder)
        code = self.machine.emit_object(module)
        helpers = sorted({m.decode() for m in _HELPER.findall(code)})
        if helpers:
            raise RuntimeError(f"for {self.cpu}, LLVM calls {', '.join(helpers)}, which the emulator lacks")
        return code

    def load(self, code, symbols):
        """Loads object code; returns the engine, which owns it, and the addresses of `symbols`. Raises LookupError
        for one that is not in the code."""
        empty = llvm.parse_assembly(f'target triple = "{self.triple}"\n')
        engine = llvm.create_mcjit_compiler(empty, llvm.Target.from_triple(self.triple).create_target_machine(
            cpu=self.cpu, features=self.features, opt=3, jit=True, codemodel="jitdefault"))
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        addresses = [engine.get_function_address(symbol) for symbol in symbols]
        if not all(addresses):
            raise LookupError(f"the object code lacks one of {symbols}")
        return engine, addresses


@functools.lru_cache(maxsize=None)
def target(cpu=None):
    return Target(cpu)


_UNGUARDED = """
define internal i32 @emu.guarded(ptr %f, ptr %launch, ptr %memory, i64 %bytes, i64 %first, i64 %last, i32 %mode) {
  %status = call i32 %f(ptr %launch, ptr %memory, i64 %bytes, i64 %first, i64 %last, i32 %mode)
  ret i32 %status
}
define internal ptr @emu.unguard() {
  ret ptr null
}
define internal void @emu.guard(ptr %place) {
  ret void
}
"""
_NOBODY_LISTENS = "define internal void @emu.hook(ptr %w, i32 %s, i32 %t, i64 %v) alwaysinline {\n  ret void\n}\n"


def scheduler(listening=False):
    """The compiled scheduler: `run(launch, memory)` and `cooperate(launch, memory, bytes, first, last, mode)`. They
    return a status, or raise what a handler of a signal raises. Where one listens it tells the launch's listener what
    it does; the kernels then reach for no memory that is not there. There is one of each, as each plain one would set a
    handler of faults."""
    return _scheduler(bool(listening))


@functools.lru_cache(maxsize=None)
def _scheduler(listening):
    from numprec.emulator import cache, interrupts
    place, guards = target(), sys.platform == "linux" and not listening
    read = resources.files("numprec.emulator").joinpath
    text = read("scheduler.ll").read_text()
    bodies = read("guard.ll").read_text() if guards else _UNGUARDED
    bodies += read("events.ll").read_text() if listening else _NOBODY_LISTENS
    text = re.sub(r"^declare .*@emu\..*\n", "", text, flags=re.M) + bodies
    key = cache.key("scheduler", place.key, text)
    stored = cache.load(key)
    if stored is None:
        stored = {}, place.object_code(text)
        cache.store(key, *stored)
    engine, (run, cooperate, ask) = place.load(stored[1], ["emu_run", "emu_cooperate", "emu_ask"])
    if listening:
        scheduler()            # all kernels ask the plain one's; it takes guards away only where there are any
    else:
        llvm.add_symbol("numprec_ask", ask)
    if guards:
        _catch_faults(engine.get_function_address("emu_fault"), engine.get_global_value_address("emu_key"),
                      engine.get_global_value_address("emu_before"))
        interrupts.arm(_Sigaction, engine.get_function_address("emu_knock"),
                       engine.get_global_value_address("emu_code"))
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    # PYFUNCTYPE looks for an exception afterwards, and leaves Python's lock to the function
    functions = (ctypes.PYFUNCTYPE(ctypes.c_int, pointer, pointer)(run),
                 ctypes.PYFUNCTYPE(ctypes.c_int, pointer, pointer, number, number, number, ctypes.c_int)(cooperate))
    return engine, *functions


class _Sigaction(ctypes.Structure):
    """glibc's and musl's struct sigaction, with room to spare."""
    _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_ubyte * 128), ("flags", ctypes.c_int),
                ("restorer", ctypes.c_void_p), ("room", ctypes.c_ubyte * 64)]


def _catch_faults(handler, key, before):
    """Sets the handler of guard.ll, at the address `handler`. `key` and `before` are the addresses of its variables."""
    library = ctypes.CDLL(None)
    library.pthread_key_create(ctypes.c_void_p(key), None)
    siginfo, nodefer = 4, 0x40000000
    ours = _Sigaction(handler=handler, flags=siginfo | nodefer)

    def set_all(actions):
        for number, action, old in actions:
            library.sigaction(number, action, old)

    numbers = (signal.SIGSEGV, signal.SIGBUS)
    places = [ctypes.c_void_p(before + 256 * i) for i in range(len(numbers))]
    set_all((number, ctypes.byref(ours), place) for number, place in zip(numbers, places))
    # the code of the handler goes with the interpreter
    atexit.register(lambda: set_all((number, place, None) for number, place in zip(numbers, places)))


def cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
