"""Runs the package's `@cuda.jit` kernels on a CPU, with the promotion and the rounding of a GPU.

It takes what Numba-CUDA compiles, its LLVM IR, and compiles that for the host: the numbers are those of the kernel
itself, not of a Python imitation of it, and it is fast enough to train with. It proves numerics and
correctness; its times are a CPU's.

    from numprec.emulator import emulate
    emulate(kernel)[grid, block](x, y)

sanitize() looks for bugs in the kernels that are launched inside it, profile() counts what a GPU would have to do.

translate.py   how a kernel becomes a coroutine: reading.py  Numba's text, rounding.py  as a GPU rounds;
twins.py, halves.py, halves.ll, context.ll  what stands in for each GPU operation; libdevice.py  NVIDIA's own functions
scheduler.ll   runs the threads of a block; launch.py  what happens at a launch; compile.py, host.py, cache.py
stops.py       where a kernel can be stopped, interrupts.py  what stops it; guard.ll  what happens when it reaches for
memory that is not there
instrument.py, events.ll, listen.ll  the form of a kernel that tells what it does; listening.py  who hears it:
sanitize.py (with fresh.py and findings.py) and profile.py
"""
import os

from numprec.emulator.cache import clear as clear_cache
from numprec.emulator.errors import EmulatorError
from numprec.emulator.launch import create_xoroshiro128p_states, emulate, launch
from numprec.emulator.profile import profile
from numprec.emulator.sanitize import SanitizerError, sanitize, sanitize_always

__all__ = ["EmulatorError", "SanitizerError", "clear_cache", "create_xoroshiro128p_states", "emulate", "launch",
           "profile", "sanitize"]

if os.environ.get("NUMPREC_SANITIZE") == "1":
    sanitize_always()
