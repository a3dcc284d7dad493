"""How fast the emulator is, by itself: `python bench.py --emulator`.

Six questions, each with the figure that the emulator must reach to be of use: how many multiply-adds a second a
core gets through in the matmul chapter, how that compares with Numba's own simulator running the same kernel, how many
times as long as in fp32 an operation takes in the other precisions, how many times as long as a plain launch one takes
that is checked or counted, how long a kernel takes to compile, and what a launch costs that does next to nothing.

The first four are judged by seconds of CPU time, which is what "a core" means on a machine that other processes
share; for the first the same by the clock on the wall stands beside it. The last two are by the clock on the wall.
"""
import contextlib
import functools
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from numba import cuda
from tabulate import tabulate

from numprec import device as devices
from numprec import emulator, kernels
from numprec.harness.measure import cases, timing
from numprec.harness.record import environment
from numprec.kernels.products import matmul
from numprec.precision import PRECISIONS

SIZE = 512                                             # of the square matmul
FLOORS = {"tiled": 0.3, "register_blocked": 1.0}       # G multiply-adds a second and core, in float32
SHARE = {"fp32": 1.0, "fp16": 0.25}                    # of that floor; half of it for every other precision
CEILINGS = {"fp64": 3.0, "fp16": 10.0}                 # times the CPU time of fp32; 2 for every other precision
SIMULATOR_SIZE, SIMULATOR_FLOOR = 32, 10_000
LISTENED_SIZE, LISTENED_CEILING = 256, 50              # of the matmul; times a plain launch's CPU time, at most
COMPILE_FLOOR, LAUNCH_FLOOR = 1.0, 100e-6              # seconds
SHARED = 0.01                                          # seconds that no compilation is done in
EFFORT = timing.Effort(budget=0.5, warm_up=0.0, least=5)


def benchmark():
    """Prints the six answers; returns 0 if every figure is reached, else 1."""
    facts = environment.collect(devices.get("emulator"), PRECISIONS.values(), f"{SIZE}^3", "python bench.py --emulator")
    print(environment.header(facts), end="\n\n", flush=True)
    reached = []
    for part in throughput, simulator, ratios, instruments, launch, compiling:
        reached.append(part())
        print(flush=True)
    return 0 if all(reached) else 1


def throughput():
    lines, reached = [], True
    for name, base in FLOORS.items():
        for p in PRECISIONS.values():
            floor = base * SHARE.get(p.name, 0.5)
            core = rate(name, p, workers=1, clock=process_time)
            walls = [rate(name, p, workers, clock=perf_counter) for workers in (1, None)]
            reached &= core >= floor
            lines.append((name, p.name, *(f"{x:.3f}" for x in (core, floor)), f"{core / floor:.2f}",
                          *(f"{x:.3f}" for x in walls)))
    _table(f"matmul {SIZE}^3, G multiply-adds a second", lines,
           ("rung", "precision", "core", "floor", "ratio", "wall, one core", f"wall, all {environment.cores()}"))
    print("\ncore: per second of CPU time, on one worker. wall: by the clock on the wall; where it is far below core, "
          "the machine was busy.")
    return reached


@functools.cache
def rate(name, p, workers, clock):
    """G multiply-adds a second of a rung of matmul."""
    device = devices.get("emulator", workers=workers)
    rng = np.random.default_rng(0)
    A, B = (device.array(rng.standard_normal((SIZE, SIZE)), p.storage) for _ in "AB")
    with device.capture() as graph:
        matmul.launch(device, getattr(matmul, name), p, A, B)
    graph.replay()                                     # compiles
    seconds = timing.measure({p: timing.host_clock(graph.replay, device.synchronize, clock)}, EFFORT)[p].seconds
    return SIZE ** 3 / statistics.median(seconds) / 1e9


def simulator():
    """Numba's simulator runs the text of the tiled rung, with float32 for every role."""
    factory = matmul.tiled.factory
    named = [getattr(matmul, name, None) for name in factory.__code__.co_names]
    parts = [part for part in (*named, *factory.__defaults__) if inspect.isfunction(part)] + [factory]
    source = _SIMULATED.format(tile=matmul.TILE, size=SIMULATOR_SIZE,
                               factories="\n\n".join(map(inspect.getsource, parts)))
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "simulated.py"
        script.write_text(source, encoding="utf-8")
        seconds = json.loads(_python([script], NUMBA_ENABLE_CUDASIM="1", PYTHONWARNINGS="ignore"))
    simulated = SIMULATOR_SIZE ** 3 / seconds
    ratio = 1e9 * rate("tiled", PRECISIONS["fp32"], workers=1, clock=process_time) / simulated
    _table("against Numba's simulator, the same tiled fp32 kernel", [
        (f"simulator, {SIMULATOR_SIZE}^3", f"{simulated:,.0f}", ""),
        (f"emulator, {SIZE}^3, one core", f"{simulated * ratio:,.0f}",
         f"{ratio:,.0f} times (floor {SIMULATOR_FLOOR:,})")], ("", "multiply-adds a second of CPU time", ""))
    return ratio >= SIMULATOR_FLOOR


_SIMULATED = """\
from time import process_time
import numpy as np
from numba import cuda

TILE = {tile}


def rung(factory):
    return factory


{factories}

class p:
    storage = compute = accum = np.float32


kernel = tiled(p)
rng = np.random.default_rng(0)
A, B = (rng.standard_normal(({size}, {size})).astype(np.float32) for _ in "AB")
C = np.empty_like(A)
blocks = -(-{size} // TILE)
start = process_time()
kernel[(blocks, blocks), (TILE, TILE)](A, B, C, A)    # the last argument is not used
seconds = process_time() - start
assert np.allclose(C, A @ B, atol=1e-4)
print(seconds)
"""


def ratios():
    """Every operation at its two smaller sizes, on its highest rung; the precisions take turns."""
    lines, reached = [], True
    for operation in kernels.operations().values():
        for size in "smoke", "quick":
            found = times(operation, operation.bench_shapes[size])
            base = found["fp32"]
            judged = {name: seconds / base for name, seconds in found.items() if name != "fp32"}
            beyond = [name for name, ratio in judged.items() if ratio > CEILINGS.get(name, 2.0)]
            reached &= not beyond
            lines.append((operation.name, size, f"{1e3 * base:.3f}",
                          *(f"{judged[p.name]:.2f}" if p.name in judged else "-" for p in PRECISIONS.values()
                            if p.name != "fp32"), ", ".join(beyond)))
    names = [name for name in PRECISIONS if name != "fp32"]
    _table("CPU time of an operation on one worker, as a multiple of fp32's", lines,
           ("operation", "size", "fp32, ms", *(f"{n} (<= {CEILINGS.get(n, 2.0):g})" for n in names), "beyond"))
    return reached


def times(operation, shape):
    """{precision: median of the seconds of CPU time that a launch takes}."""
    device = devices.get("emulator", workers=1)
    contenders = {}
    for p in PRECISIONS.values():
        rung = kernels.highest_rung(operation.name, p, device.compute_capability)
        arrays = operation.inputs(np.random.default_rng(0), shape, "random", p)
        arrays = [device.array(a, p.storage if np.asarray(a).dtype.kind == "f" else None) for a in arrays]
        with device.capture() as graph:
            operation.launch(device, rung, p, *arrays)
        graph.replay()                                 # compiles
        contenders[p.name] = timing.host_clock(graph.replay, device.synchronize, process_time)
    found = timing.measure(contenders, timing.Effort(budget=0.1, warm_up=0.0, least=5))
    return {name: statistics.median(samples.seconds) for name, samples in found.items()}


def instruments():
    """Launches of matmul inside sanitize() and profile(), in turns with plain ones. The register-blocked rung is
    judged: it computes most between two accesses of memory, so that what listens costs it most."""
    device, p, lines, judged = devices.get("emulator", workers=1), PRECISIONS["fp32"], [], {}
    rng = np.random.default_rng(0)
    A, B = (device.array(rng.standard_normal((LISTENED_SIZE, LISTENED_SIZE)), p.storage) for _ in "AB")
    for rung in matmul.naive, matmul.tiled, matmul.register_blocked:
        def run(listening):
            with listening():
                matmul.launch(device, rung, p, A, B)
        kinds = {"plain": contextlib.nullcontext, "sanitize": emulator.sanitize, "profile": emulator.profile}
        contenders = {}
        for name, kind in kinds.items():
            run(kind)                                  # compiles
            contenders[name] = timing.host_clock(functools.partial(run, kind), device.synchronize, process_time)
        found = timing.measure(contenders, EFFORT)
        plain, *others = (statistics.median(found[name].seconds) for name in kinds)
        factors = [seconds / plain for seconds in others]
        judged[rung] = max(factors)
        lines.append((rung.name, f"{1e3 * plain:.2f}", *(f"{factor:.1f}" for factor in factors)))
    _table(f"CPU time of matmul {LISTENED_SIZE}^3 in fp32, as a multiple of a plain launch's (register_blocked judged)",
           lines, ("rung", "plain, ms", *(f"{name} (<= {LISTENED_CEILING})" for name in list(kinds)[1:])))
    return judged[matmul.register_blocked] <= LISTENED_CEILING


@cuda.jit
def increment(x):
    i = cuda.grid(1)
    if i < x.size:
        x[i] += 1


def launch():
    x = np.zeros(32, np.int32)
    emulator.launch(increment, 1, 32, (x,))
    run = timing.host_clock(lambda: emulator.launch(increment, 1, 32, (x,)), lambda: None)
    seconds = statistics.median(timing.measure({"launch": run}, EFFORT)["launch"].seconds)
    print(f"launch of one block of 32 threads: {1e6 * seconds:.1f} us (floor {1e6 * LAUNCH_FLOOR:.0f})")
    return seconds <= LAUNCH_FLOOR


def compiling():
    """The first launch of every kernel of the textbook in a fresh process: with an empty cache, then a full one."""
    print("compiling every kernel of the textbook, which takes minutes", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as cache:
        cold, warm = (json.loads(_python(["-m", "numprec.harness.proofs.emulation"], NUMPREC_CACHE=cache))
                      for _ in range(2))
    compiled = [name for name, seconds in cold.items() if seconds > SHARED]
    lines = []
    for what, found in ("compiled", cold), ("from the disk cache", warm):
        found = {name: found[name] for name in compiled}
        seconds = list(found.values())
        slowest = max(found, key=found.get)
        lines.append((what, len(found), f"{statistics.median(seconds):.3f}", f"{np.quantile(seconds, 0.9):.3f}",
                      f"{found[slowest]:.3f}", slowest))
    _table("seconds to a kernel's first launch, in a fresh process", lines,
           ("", "kernels", "median", "90 %", "most", "which"))
    print(f"\n{len(cold) - len(compiled)} more use kernels that another one had compiled before.")
    return statistics.median(cold[name] for name in compiled) <= COMPILE_FLOOR


def first_launches():
    """{"matmul/tiled fp32": seconds}: the first launch of each kernel, less a second one."""
    device = devices.get("emulator")
    emulator.launch(increment, 1, 32, (np.zeros(32, np.int32),))    # what is done once per process
    found = {}
    for operation, rung in cases.rungs():
        for p in PRECISIONS.values():
            if rung.supports(p):
                arrays = operation.inputs(np.random.default_rng(0), operation.shapes[0], "random", p)
                arrays = [device.array(a, p.storage if np.asarray(a).dtype.kind == "f" else None) for a in arrays]
                start = perf_counter()
                operation.launch(device, rung, p, *arrays)
                first = perf_counter()
                operation.launch(device, rung, p, *arrays)
                found[f"{operation.name}/{rung.name} {p.name}"] = 2 * first - start - perf_counter()
    return found


def _python(arguments, **variables):
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, *map(str, arguments)], env={**os.environ, **variables},
                          capture_output=True, text=True, cwd=Path(__file__).resolve().parents[3])
    if done.returncode:
        raise RuntimeError(f"{arguments} failed:\n{done.stderr}")
    return done.stdout


def _table(heading, lines, columns):
    print(f"{heading} ({environment.NOT_COMPARABLE})\n")
    print(tabulate(lines, columns, tablefmt="simple", disable_numparse=True))


if __name__ == "__main__":
    print(json.dumps(first_launches()))
