"""What the rungs of an operation make a GPU do, side by side: `python bench.py profile --operation matmul`.

Each rung is launched once on the emulator, which counts; beside the counts stands what the assembler made of the
kernels, and a *model* of their time on three cards (gpu_model), which no measurement supports.
"""
import numpy as np
from tabulate import tabulate

from numprec.emulator.profile import SECTOR, profile
from numprec.harness import cases, gpu_model, machine_code
from numprec.kernels.registry import KINDS

HEADS = ("rung", "precision", "launches", "flops", "a byte", "moved\n/ needed", "wave-\nfronts\na request", "lanes",
         "barriers", "registers", *(f"{card.name}\nmodel" for card in gpu_model.CARDS))


def rows(operation, rung, precision, shape):
    """Columns of HEADS for one rung, and the Counts of its launches."""
    from numba.cuda.typing.typeof import Purpose, typeof

    from numprec import device as devices
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
            operation.launch(device, rung, precision, *(
                device.array(a, precision.storage if a.dtype.kind == "f" else None) for a in arrays))
    finally:
        del device._launch
    times, registers = [0.0] * len(gpu_model.CARDS), 0
    for c, (kernel, argtypes) in zip(counts.launches, seen, strict=True):
        for i, card in enumerate(gpu_model.CARDS):
            used = machine_code.resources(kernel, argtypes, card.compute_capability)
            times[i] += gpu_model.time(c, used, card).seconds
            registers = max(registers, used.registers)
    total = {name: sum(getattr(c, name) for c in counts.launches)
             for name in ("flops", "read", "written", "sectors", "wavefronts", "barriers")}
    shared = sum(t.requests for c in counts.launches for t in (c.shared_loads, c.shared_stores, c.shared_atomics))
    weighed = [(c.lanes, c.sectors + c.wavefronts) for c in counts.launches if c.lanes == c.lanes]
    needed = total["read"] + total["written"]
    return (rung.name, str(precision), len(counts.launches), total["flops"],
            total["flops"] / needed if needed else None, SECTOR * total["sectors"] / needed if needed else None,
            total["wavefronts"] / shared if shared else None,
            sum(lanes * n for lanes, n in weighed) / max(1, sum(n for _, n in weighed)), total["barriers"], registers,
            *(f"{seconds * 1e6:.3g} µs" for seconds in times)), counts


def show(chosen, precisions, scale, lines):
    """Prints a table for each operation in `chosen`; with `lines`, also the counts line by line of the source."""
    for name in dict.fromkeys(operation.name for operation, _ in cases.rungs(chosen)):
        table, details = [], []
        for operation, rung in cases.rungs(chosen):
            if operation.name == name:
                shape = operation.bench_shapes[scale]
                for p in precisions:
                    if rung.supports(p):
                        row, counts = rows(operation, rung, p, shape)
                        table.append(row)
                        details += [str(counts)] * lines
        print(f"{name}, shape {'x'.join(map(str, shape))}: what a GPU has to do, counted by the emulator\n")
        print(tabulate(table, HEADS, floatfmt=("", "", ".0f", ",.0f", ".2f", ".2f", ".2f", ".1f")))
        print("\nmoved / needed: bytes of sectors over distinct bytes; flops a byte are of those. model: of time, a "
              "floor from\npublished peaks, see numprec.harness.gpu_model; nothing was measured.\n")
        print("\n\n".join(details), end="\n\n" if details else "", flush=True)
    return 0
