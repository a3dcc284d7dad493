"""What the rungs of an operation make a GPU do, side by side: `python bench.py profile --operation matmul`.

Each rung is launched once on the emulator, which counts; beside the counts stands what the assembler made of the
kernels, and a *model* of their time on three cards (gpu_model). Where there is a GPU, what `launches` measures on it
stands beside the model, which it may refute.
"""
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from numprec import device as devices
from numprec.emulator.profile import SECTOR, profile
from numprec.harness.measure import cases, gpu_model, machine_code
from numprec.harness.measure.launches import kernel_rows
from numprec.language.ladder import KINDS

HEADS = ("rung", "precision", "launches", "flops", "bytes", "cost:\nflops", "cost:\nbytes", "flops\na byte",
         "moved\n/ bytes", "wave-\nfronts\na request", "lanes", "barriers", "registers",
         *(f"{card.name}\nmodel" for card in gpu_model.CARDS))
LEGEND = """\
bytes: distinct ones, of each launch. moved: bytes of sectors. cost: the least that the operation needs, see
numprec.language.ladder. model: of time, a floor from published peaks, see numprec.harness.measure.gpu_model."""
NOTHING_MEASURED = "\nNothing was measured."
MEASURED = "\nmeasured: the median on {name}, between CUDA events, of results that agreed with the oracle."


class Observed(NamedTuple):
    """One run of a rung: [(Counts, kernel, argument types)], one for each launch; the arrays that it was given, rounded
    to storage; and what it returned, on the host: an array, or a tuple of them."""

    launches: list
    arrays: list
    result: object


def launched(operation, rung, precision, shape):
    """The launches of `observed`."""
    return observed(operation, rung, precision, shape).launches


def observed(operation, rung, precision, shape):
    """Runs a rung on the emulator, which counts: an Observed."""
    from numba.cuda.typing.typeof import Purpose, typeof
    device, seen = devices.get("emulator"), []
    with np.errstate(all="ignore"):
        arrays = [np.asarray(a) for a in operation.inputs(np.random.default_rng(0), shape, KINDS[0], precision)]
    launch = device._launch

    def noted(kernel, grid, block, args, shared):
        seen.append((kernel, tuple(typeof(a, Purpose.argument) for a in args)))
        launch(kernel, grid, block, args, shared)

    device._launch = noted
    try:
        with profile() as counts:
            rounded = [precision.storage.round(a) if a.dtype.kind == "f" else a for a in arrays]
            results = operation.launch(device, rung, precision, *map(device.array, rounded))
    finally:
        del device._launch
    many = isinstance(results, tuple)
    host = tuple(device.to_host(r) for r in (results if many else (results,)))
    return Observed([(c, *of_kernel) for c, of_kernel in zip(counts.launches, seen, strict=True)], rounded,
                    host if many else host[0])


def counted(launches):
    """What `cost` of an operation speaks of, as it was counted: {"flops": ..., "bytes": ...}."""
    return {"flops": sum(c.flops for c, *_ in launches), "bytes": sum(c.read + c.written for c, *_ in launches)}


def row(operation, rung, precision, shape, launches):
    """Columns of HEADS for one rung."""
    on_cards = [modelled(launches, card) for card in gpu_model.CARDS]
    registers = max((used.registers for found in on_cards for used, _ in found), default=0)
    counts = [c for c, *_ in launches]
    sectors, wavefronts, barriers = (sum(getattr(c, name) for c in counts)
                                     for name in ("sectors", "wavefronts", "barriers"))
    shared = sum(t.requests for c in counts for t in (c.shared_loads, c.shared_stores, c.shared_atomics))
    weighed = [(c.lanes, c.sectors + c.wavefronts) for c in counts if c.lanes == c.lanes]
    found, cost = counted(launches), operation.cost(precision, *shape)
    return (rung.name, str(precision), len(counts), found["flops"], found["bytes"], cost["flops"], cost["bytes"],
            _ratio(found["flops"], found["bytes"]), _ratio(SECTOR * sectors, found["bytes"]),
            _ratio(wavefronts, shared), sum(lanes * n for lanes, n in weighed) / max(1, sum(n for _, n in weighed)),
            barriers, registers, *(micro(sum(time.seconds for _, time in found)) for found in on_cards))


def _ratio(a, b):
    return a / b if b else None


def modelled(launches, card):
    """[(Resources, Modelled)] of launches, as `observed` gives them, on one of gpu_model.CARDS."""
    used = [machine_code.resources(kernel, argtypes, card.compute_capability) for _, kernel, argtypes in launches]
    return [(each, gpu_model.time(counts, each, card)) for each, (counts, *_) in zip(used, launches)]


def micro(seconds):
    """A time in words."""
    return f"{seconds * 1e6:.3g} µs"


def measured(device, operation, rung, precision, shape):
    """The time that the bench measures on a GPU, in words; or why it has none."""
    found, = kernel_rows(cases.KernelCell(operation, rung, shape, (precision,), cases.SCALES["quick"].kernels), device)
    return micro(np.median(found["samples_s"])) if found["samples_s"] else found["status"]


def show(chosen, precisions, scale, lines):
    """Prints a table for each operation in `chosen`; with `lines`, also the counts line by line of the source."""
    device = devices.get()
    heads, notes = HEADS, LEGEND + NOTHING_MEASURED
    if not device.is_emulator:
        heads, notes = (*HEADS, "measured"), LEGEND + MEASURED.format(name=device.name)
    for name in dict.fromkeys(operation.name for operation, _ in cases.rungs(chosen)):
        table, details = [], []
        for operation, rung in cases.rungs(chosen):
            if operation.name == name:
                shape, differs = operation.bench_shapes[scale], operation.cost_differs
                for p in precisions:
                    if rung.supports(p):
                        launches = launched(operation, rung, p, shape)
                        table.append(row(operation, rung, p, shape, launches))
                        if not device.is_emulator:
                            table[-1] += measured(device, operation, rung, p, shape),
                        details += ["\n\n".join(str(c) for c, *_ in launches)] * lines
        print(f"{name}, shape {'x'.join(map(str, shape))}: what a GPU has to do, counted by the emulator\n")
        print(tabulate(table, heads, intfmt=",", floatfmt=("",) * 7 + (".2f",) * 3 + (".1f",)))
        print(f"\n{notes}\n" + (f"Why the first rung is not at its cost: {differs}\n" if differs else ""))
        print("\n\n".join(details), end="\n\n" if details else "", flush=True)
    return 0
