"""What the device can do at best, measured in the run itself: the ceilings that kernels are compared with.

    copy_bytes_per_s   bytes read and written by a copy of an array that no cache holds
    flops_per_s        by format: multiply-adds, two operations each, in independent chains, with nothing in the way.
                       One number at a time, as the kernels here compute: no packed halves, no tensor cores
    launch_s           a launch that does next to nothing, replayed alone, as kernels are when they are timed
    launch_in_graph_s  the same as one of many in a graph, as they are in fits

Each is verified, or it is not there: the copy by its bytes; the multiply-adds by a chain of additions of one, which are
exact in every format as long as the sum is below 2^11, so that a step left out would show; the launches by a counter.
"""
from time import perf_counter

import numpy as np
from numba import cuda

from numprec.harness.measure import timing
from numprec.language import formats  # noqa: F401    teaches Numba what a Format is
from numprec.precision import PRECISIONS

THREADS = 256
MANY = 100               # launches of a graph
STEPS = 512              # multiply-adds of a chain
CHAINS = {True: 64, False: 16}    # of a thread, on the emulator and on a GPU: enough to hide how long one step takes
FORMATS = {"float64": "fp64", "float32": "fp32", "float16": "fp16"}    # and the precision that has no other


def copy(each, neighbours):
    """A thread copies `each` elements: neighbours, as a core likes it, or one of each part of the array, so that a warp
    copies neighbours."""
    @cuda.jit
    def peak_copy(x, y):
        threads = y.size // each
        i = cuda.grid(1)
        if i < threads:
            for k in range(each):
                j = i * each + k if neighbours else i + k * threads
                y[j] = x[j]
    return peak_copy


def chains(fmt, many):
    """Adds 1 to `many` numbers, STEPS times, by a multiplication with 1 and an addition. 1 comes from memory, so that
    the compiler does not know what is computed."""
    @cuda.jit
    def peak_chains(one, y):
        i = cuda.grid(1)
        sums = cuda.local.array(many, fmt)
        factor, term = fmt(one[0]), fmt(one[1])
        for k in range(many):
            sums[k] = fmt(k)
        for _ in range(STEPS):
            for k in range(many):
                sums[k] = sums[k] * factor + term
        for k in range(many):
            y[i, k] = sums[k]
    return peak_chains


def count():
    @cuda.jit
    def peak_count(launches):
        if cuda.grid(1) == 0:
            launches[0] += 1
    return peak_count


def measure(device, seconds=2.0):
    """A dictionary for env.json, in about so many seconds without the compilation; much less on the emulator. What
    could not be measured, or came out wrong, is None, and `problems` says why."""
    start, problems = perf_counter(), {}
    effort = timing.Effort(budget=(0.1 if device.is_emulator else 0.7) * seconds / 6, warm_up=seconds / 50)
    parts = {"copy_bytes_per_s": _copy, "launch_s": _launch,
             "launch_in_graph_s": lambda device, effort: _launch(device, effort, MANY)}
    parts |= {name: lambda device, effort, name=name: _chains(device, effort, name) for name in FORMATS}
    found = {}
    for name, part in parts.items():
        try:
            found[name] = part(device, effort)
        except Exception as error:
            found[name], problems[name] = None, f"{type(error).__name__}: {error}"
    return {"copy_bytes_per_s": found["copy_bytes_per_s"], "launch_s": found["launch_s"],
            "launch_in_graph_s": found["launch_in_graph_s"],
            "flops_per_s": {name: found[name] for name in FORMATS}, "problems": problems,
            "seconds": perf_counter() - start}


def _timed(device, effort, kernel, grid, block, *arguments, many=1):
    """Median seconds of a launch in a replayed graph of `many`, and the number of launches there have been."""
    device.launch(kernel, grid, block, *arguments)          # compiles
    with device.capture() as graph:
        for _ in range(many):
            device.launch(kernel, grid, block, *arguments)
    launches = 1

    def run(times):
        nonlocal launches
        launches += times * many
        with device.timer() as timer:
            graph.replay(times)
        return timer.seconds
    return float(np.median(timing.measure({"": run}, effort)[""].seconds)) / many, launches


def _expect(truth):
    if not truth:
        raise ArithmeticError("the result is wrong")


def _copy(device, effort):
    wanted, each = (2 ** 25, 256) if device.is_emulator else (2 ** 28, 4)    # bytes: more than the last cache holds
    n = min(wanted, device.free_memory() // 8) // 8 // (each * THREADS) * each * THREADS
    x = np.arange(n, dtype=np.int64)
    X, Y = device.array(x), device.zeros(n, np.int64)
    seconds, _ = _timed(device, effort, copy(each, device.is_emulator), n // each // THREADS, THREADS, X, Y)
    _expect(np.array_equal(device.to_host(Y), x))
    return 2 * x.nbytes / seconds


def _chains(device, effort, name):
    precision = PRECISIONS[FORMATS[name]]
    available = device.availability(precision)
    if available.status == "unavailable":
        raise RuntimeError(available.reason)
    blocks = 2 if device.is_emulator else 16 * _multiprocessors()
    one = device.array(np.ones(2), precision.accum)
    many = CHAINS[device.is_emulator]
    y = device.zeros((blocks * THREADS, many), precision.accum)
    seconds, _ = _timed(device, effort, chains(precision.accum, many), blocks, THREADS, one, y)
    _expect((device.to_host(y) == np.arange(many) + STEPS).all())
    return 2 * many * STEPS * THREADS * blocks / seconds


def _multiprocessors():
    return cuda.get_current_device().MULTIPROCESSOR_COUNT


def _launch(device, effort, many=1):
    launches = device.zeros(1, np.int64)
    seconds, times = _timed(device, effort, count(), 1, 32, launches, many=many)
    _expect(device.to_host(launches)[0] == times)
    return seconds
