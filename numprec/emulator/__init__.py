"""Runs the package's `@cuda.jit` kernels on a CPU, with the promotion and the rounding of a GPU.

It takes what Numba-CUDA compiles, its LLVM IR, and compiles that for the host: the numbers are those of the kernel
itself, not of a Python imitation of it, and it is fast enough to train with. It proves numerics and
correctness; its times are a CPU's.

    from numprec.emulator import emulate
    emulate(kernel)[grid, block](x, y)

translate.py   how a kernel becomes a coroutine; twins.py, context.ll  what stands in for each GPU operation
scheduler.ll   runs the threads of a block; launch.py  what happens at a launch; compile.py, host.py, cache.py
stops.py       where a kernel can be stopped; guard.ll  what happens when it reaches for memory that is not there
"""
from numprec.emulator.cache import clear as clear_cache
from numprec.emulator.launch import EmulatorError, create_xoroshiro128p_states, emulate, launch

__all__ = ["EmulatorError", "clear_cache", "create_xoroshiro128p_states", "emulate", "launch"]
