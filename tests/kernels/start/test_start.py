"""Part 0: every figure that a page prints, and the answers to the exercises."""
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import cuda

from numprec import emulator
from numprec.harness.measure import machine_code
from numprec.kernels.start import memory, rounding, threads
from numprec.kernels.start.__main__ import CHAPTERS, PAGES, count, main, run
from numprec.language.ladder import registered

ROOT = Path(__file__).resolve().parents[3]

FIGURES = {
    "thread": {"x[3], x[999]": (9, 998001), "threads without an element": 24},
    "grid": {"blockIdx.x": (0, 0, 0, 0, 1, 1, 1, 1), "threadIdx.x": (0, 1, 2, 3, 0, 1, 2, 3)},
    "warp": {"lanes with i < 40, of warp 0 and 1": (32, 8),
             "lanes 0 to 3 have 0, 10, 20, 30, and read": (10, 0, 30, 20)},
    "divergence": {"loads that the warp makes": 32, "active lanes in each, of 32": (32 + sum(range(32))) / 32},
    "coalescing": {f"sectors of a load, stride {s}": 32 * 4 * s // 32 for s in (1, 4, 8)},
    "barrier": {"x[0], x[255]": (255, 0), "barriers, by 8 warps": 8},
    "shared_memory": {"passes of a load, rows of 32 words": 32, "passes of a load, rows of 33 words": 1},
    "latency": {"loads of a warp in a row, chain": 1024, "loads of a warp in a row, 32 warps": 1},
    "occupancy": {"bytes of shared memory of a block": 32768, "blocks on a T4's multiprocessor": 2, "occupancy": 0.5},
    "unit_roundoff": {"log2 u, fp64": -53, "log2 u, fp32": -24, "log2 u, fp16": -11},
    "fused_multiply_add": {"fused": -2.0 ** -26, "product rounded by itself": 0},
    "sum_of_ones": {"4,096 ones, fp64": 4096, "4,096 ones, mixed_fp16": 4096, "4,096 ones, fp16": 2048},
    "one_body_every_precision": {
        "4,096 ones, fp16, 0.0": 4096, "additions in float64, 0.0": 4096,
        "4,096 ones, fp16, accum(0)": 2048, "additions in float64, accum(0)": 0,
        "4,096 ones, fp64, by one body": 4096, "4,096 ones, mixed_fp16, by one body": 4096,
        "4,096 ones, fp16, by one body": 2048},
}


@pytest.mark.parametrize("name", PAGES)
def test_figures(name):
    assert PAGES[name].show(run, count) == FIGURES[name]


def test_every_page_is_checked_and_none_is_an_operation():
    assert list(PAGES) == list(FIGURES)
    assert not {o.name for o in registered().values()} & set(PAGES)
    kernels = {value for module in CHAPTERS for value in vars(module).values()
               if isinstance(value, cuda.dispatcher.CUDADispatcher)}
    shown = {kernel for page in PAGES.values() for kernel in page.kernels}
    assert kernels and kernels <= shown


def test_the_command_line(capsys):
    assert main(["sum_of_ones", "warp"]) == 0
    text = capsys.readouterr().out
    assert text.index("4,096 ones, fp16        2,048") < text.index("def together(active, other):")
    assert "run(together)[1, 64](active, other)" in text and "4,096 ones, mixed_fp16  4,096" in text
    with pytest.raises(SystemExit) as stopped:
        main(["wrap"])
    assert stopped.value.code == 2 and "there is no page 'wrap'" in capsys.readouterr().err


def test_the_command_prints_every_page():
    done = subprocess.run([sys.executable, "-m", "numprec.kernels.start"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, figures in FIGURES.items():
        assert f"\n{name.replace('_', ' ')}\n=" in f"\n{done.stdout}"
        assert all(f"\n{what}  " in done.stdout for what in figures)


def test_occupancy_is_that_of_the_harness():
    """The page leaves registers out: they are not the limit there."""
    counts = count(memory.roomy)[1, 256](np.ones(256, np.float32))
    used = machine_code.Resources(registers=16, local_bytes=0, shared_bytes=counts.shared_bytes)
    assert machine_code.occupancy(used, 256, (7, 5)) == 2
    limits = machine_code.LIMITS[7, 5]
    assert (memory.THREADS, memory.SHARED_BYTES) == (limits.threads, limits.shared_bytes)


# ---- the exercises

def changed(kernel, old, new):
    """The kernel with other words in it, as a reader would change it."""
    (lines, first), scope = inspect.getsourcelines(kernel.py_func), dict(vars(sys.modules[kernel.py_func.__module__]))
    source = "\n" * (first - 1) + "".join(lines)        # where it stands in its file
    assert source.count(old) == 1
    exec(compile(source.replace(old, new), inspect.getsourcefile(kernel.py_func), "exec"), scope)
    return scope[kernel.py_func.__name__]


def answer(module):
    return module.__doc__.partition("Answer: ")[2].strip()


def test_lanes_that_go_alike_are_all_active():
    kernel = changed(threads.uneven, "range(i % 32)", "range(31)")
    loads = count(kernel)[1, 32](np.ones(32 * 32, np.float32), np.empty(32, np.float32)).global_loads
    assert answer(threads) == f"{loads.lanes / loads.requests:g}"


def test_every_other_float32_takes_twice_the_sectors():
    x, out = np.ones(32 * 8, np.float32), np.empty(32, np.float32)
    assert answer(memory) == str(count(memory.strided)[1, 32](x, 2, out).global_loads.units)


def test_where_a_sum_in_float32_stops():
    """It comes to 2^24 from below, and stays there."""
    total = np.array([2.0 ** 24 - 3], np.float32)
    run(rounding.add_up)[1, 1](np.ones(8, np.float32), total)
    assert answer(rounding) == f"at 2^24 = {total[0]:.0f}"


def test_the_page_on_barriers_needs_its_barrier():
    """Without it the sanitizer names both lines."""
    kernel = changed(memory.reverse, "cuda.syncthreads()", "pass")
    with pytest.raises(emulator.SanitizerError) as caught, emulator.sanitize():
        emulator.emulate(kernel)[1, 256](np.ones(256, np.float32))
    assert "without a barrier in between" in str(caught.value)
