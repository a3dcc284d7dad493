"""A chapter of the book, run: `python -m numprec.kernels matmul`.

Each rung of its operations runs once on the emulator, and leaves one line of the figures that teach: what a GPU has to
do for a result, how far the result is from its oracle, and how long it takes: by measurement where there is a GPU, else
by a model, marked as one.
"""
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

from numprec import kernels
from numprec.harness.record import ledger
from numprec.harness.record.environment import cores
from numprec.harness.record.exits import FAILED, OK, Refused
from numprec.harness.show import contents
from numprec.precision import unknown

PROGRAM = "python -m numprec.kernels"
ROOT = Path(kernels.__file__).parents[2]

SHAPES = {**dict.fromkeys(("matmul", "matmul_ta", "matmul_tb", "dense", "dense_input_gradient"), (1024, 1024, 16)),
          "sum": (1_000_000,), "dot": (1_000_000,), "argmax": (100_000,), "norm": (100_000,),
          "cholesky": (64,), "triangular": (64, 4), "cross_entropy": (4096, 32), "bias_gradient": (4096, 256),
          **dict.fromkeys(("conv", "conv_weight_gradient", "conv_input_gradient"), (32, 16, 16, 4, 32))}
"""Of one run, where the smoke scale's would leave a GPU idle. All fit into about ten seconds for a chapter."""
CARDS = ("T4", "H100")          # that the model speaks of
MANY = 3                        # rungs, for which it pays to start processes

LEGEND = """\
sectors: 32 bytes of global memory each, read or written; wavefronts: passes over shared memory; both for each number of
the result. barriers: that a block meets. flops / byte: operations in floating point, an fma two, for each byte of the
sectors. occupancy: the share of the threads of a T4's multiprocessor that its blocks fill. error / bound: the largest
deviation from the oracle over what the theory allows; right up to 1. {time}"""
MODELLED = """\
model: a floor under the time, from what was counted and
published peaks, and what it thinks decides on a T4 (numprec.harness.measure.gpu_model). Nothing was measured."""
MEASURED = """\
measured: the median on {name}, between CUDA events."""


class Figures(NamedTuple):
    """One line: a rung in one precision. `seconds` has one for each of CARDS, or one that was measured, or none where
    the rung does not compile for any; see LEGEND."""

    rung: str
    precision: str
    sectors: float
    wavefronts: float
    barriers: float
    intensity: float
    occupancy: float | None
    error: float
    decides: str
    seconds: tuple


def figures(operation, rung, precision, shape):
    """The Figures of a rung, by running it on the emulator, which counts."""
    import numpy as np

    from numprec.emulator.profile import SECTOR, WARP_SIZE
    from numprec.harness.measure import launches, profiling
    seen = profiling.observed(operation, rung, precision, shape)
    result = seen.result
    if operation.readout:
        result = operation.readout(result, *seen.arrays)
    with np.errstate(all="ignore"):
        check = launches.check(result, operation.oracle(*seen.arrays), operation.error_bound(precision, *seen.arrays))
    numbers = sum(np.size(r) for r in (seen.result if isinstance(seen.result, tuple) else (seen.result,)))
    counts = [c for c, *_ in seen.launches]
    sectors = sum(c.sectors for c in counts)
    warps = [int(np.prod(c.grid)) * -(-int(np.prod(c.block)) // WARP_SIZE) for c in counts]
    seconds, occupancy, decides = _modelled(rung, seen.launches)
    return Figures(rung.name, str(precision), sectors / numbers, sum(c.wavefronts for c in counts) / numbers,
                   sum(c.barriers / n for c, n in zip(counts, warps)),
                   sum(c.flops for c in counts) / (SECTOR * sectors) if sectors else 0.0, occupancy,
                   check.over_bound if check.bounded else float("nan"), decides, seconds)


def _modelled(rung, seen):
    """(seconds on each of CARDS, occupancy and what decides on the first, of the launch that takes longest there)."""
    from numprec.harness.measure import gpu_model, profiling
    seconds, first = [], None
    for card in (card for card in gpu_model.CARDS if card.name in CARDS):
        if card.compute_capability < rung.compute_capability:
            seconds.append(None)
            continue
        found = [time for _, time in profiling.modelled(seen, card)]
        seconds.append(sum(each.seconds for each in found))
        first = first or max(found, key=lambda each: each.seconds)
    return tuple(seconds), first and first.occupancy, first.bound if first else ""


def table(lines, measured=None):
    """Lines of Figures, as text; `measured` has the times in words, where they were measured."""
    from tabulate import tabulate

    from numprec.harness.measure.profiling import micro
    several = len({line.precision for line in lines}) > 1
    heads = ("rung", *(("precision",) * several), "sectors\n/ result", "wavefronts\n/ result", "barriers",
             "flops\n/ byte", "occupancy", "error\n/ bound",
             *(("measured",) if measured else ("decides", *(f"{card}\nmodel" for card in CARDS))))
    rows = [(f.rung, *((f.precision,) * several), _number(f.sectors), _number(f.wavefronts), _number(f.barriers),
             _number(f.intensity), "-" if f.occupancy is None else f"{f.occupancy:.0%}", _number(f.error),
             *((measured[i],) if measured else (f.decides, *("-" if s is None else micro(s) for s in f.seconds))))
            for i, f in enumerate(lines)]
    align = ("left",) * (1 + several) + ("right",) * 6 + (("right",) if measured else ("left", "right", "right"))
    return tabulate(rows, heads, disable_numparse=True, colalign=align)


def _number(x):
    return "-" if x != x else f"{x:,.0f}" if x >= 100 or x == int(x) else f"{x:.3g}"


def operations_of(chapter, only):
    """The operation `only` of a chapter, or one for each ladder: another one that climbs the same has nothing new."""
    every = [o for o in kernels.operations().values() if o.chapter == chapter]
    if only:
        names = [o.name for o in every]
        if only not in names:
            raise unknown("operation", only, names)
        return [o for o in every if o.name == only]
    first = {}
    for o in sorted(every, key=lambda o: o.ladder not in (None, o.name)):    # the ladder's own operation before others
        first.setdefault(o.ladder or o.name, o)
    return [o for o in every if o in first.values()]


def rungs_of(operations, name):
    """[(operation, rung)], of one name where it is not None."""
    every = [(o, r) for o in operations for r in o.rungs]
    known = list(dict.fromkeys(r.name for _, r in every))
    if name is not None and name not in known:
        raise unknown("rung", name, known)
    return [(o, r) for o, r in every if name in (None, r.name)]


def _shape(text, operation):
    """The shape that was asked for, the default where none was, or None where it is of another kind of problem."""
    default = SHAPES.get(operation.name, operation.bench_shapes["smoke"])
    if text is None:
        return default
    shape = [part.strip() for part in re.split(r"[x,]", text)]
    if not all(part.isdigit() and int(part) for part in shape):
        raise Refused(f"--shape {text} is no shape, such as {'x'.join(map(str, default))}")
    return tuple(map(int, shape)) if len(shape) == len(default) else None


# ---- what is shown

def show(chapter, operations, precisions, shape=None, rung=None):
    """Prints the page of a chapter and the lines of its rungs, all or the one called `rung`, on problems of the `shape`
    that was asked for (text) or their own. Returns the exit code. Raises Refused where the shape fits none."""
    from numprec import device as devices
    chosen = rungs_of(operations, rung)
    shapes = {o.name: _shape(shape, o) for o, _ in chosen}
    page = contents.page_of(kernels.chapters()[chapter])
    if not any(shapes.values()):
        raise Refused(f"--shape {shape} fits no operation of this chapter: " + ", ".join(
            f"{o.name} takes {'x'.join(map(str, _shape(None, o)))}" for o in operations))
    print("\n".join(_opening(page)), flush=True)
    device = devices.get()
    wrong = False
    todo = [(o.name, r.name, p, shapes[o.name]) for o, r in chosen for p in precisions
            if shapes[o.name] and r.supports(p)]
    found = dict(zip(todo, _all_figures(todo)))
    for operation in (o for o in operations if shapes.get(o.name)):
        lines = [found[key] for key in todo if key[0] == operation.name]
        left_out = [f"{rung.name} in {p}" for o, rung in chosen if o is operation for p in precisions
                    if not rung.supports(p)]
        measured = None if device.is_emulator else _measured(device, operation, precisions, shapes, lines)
        size = " x ".join(map(str, shapes[operation.name]))
        print(f"\n{operation.name} {size}, {', '.join(map(str, precisions))}: counted by the emulator\n")
        print(table(lines, measured) if lines else "no rung is written for this precision", flush=True)
        if left_out and lines:
            print("not written: " + ", ".join(left_out))
        for line in (line for line in lines if line.error > 1):
            print(f"WRONG: {line.rung} in {line.precision} misses its bound")
            wrong = True
    print("\n" + LEGEND.format(time=MODELLED if device.is_emulator else MEASURED.format(name=device.name)))
    print("\n".join(_closing(chapter, page, operations, chosen[-1][1].name if rung else operations[0].rungs[-1].name)))
    return FAILED if wrong else OK


def _all_figures(todo):
    """The Figures of (operation, rung, precision, shape), by their names; of many on all cores."""
    if len(todo) < MANY or cores() == 1:
        return [_figures_of(*each) for each in todo]
    with ledger.workers() as pool:
        return list(pool.map(_figures_of, *zip(*todo)))


def _figures_of(operation, rung, precision, shape):
    operation = kernels.operations()[operation]
    return figures(operation, operation.rung(rung), precision, shape)


def show_page(chapter):
    """What there is to show of a chapter that launches nothing by itself."""
    print("\n".join(_opening(contents.page_of(kernels.chapters()[chapter]))) + "\n")
    users = [name for name in kernels.chapters() if chapter in contents.imported(name)]
    print(textwrap.fill(f"Nothing is launched here. Chapters that build on it: {', '.join(users)}.", contents.WIDTH))
    return OK


def _measured(device, operation, precisions, shapes, lines):
    from numprec.harness.measure import profiling
    named = {str(p): p for p in precisions}
    return [profiling.measured(device, operation, operation.rung(line.rung), named[line.precision],
                               shapes[operation.name]) for line in lines]


def _opening(page):
    yield page.title
    for label in ("Idea", "Ladder", "Precision"):
        if label in page.labels:
            yield f"\n{label}\n" + "\n".join("  " + line for line in page.labels[label].splitlines())


def _closing(chapter, page, operations, rung):
    if exercises := page.exercises():
        yield "\nTry"
        for exercise in exercises:
            yield f"  {exercise.command}"
            yield textwrap.fill(exercise.question, contents.WIDTH, initial_indent="    ", subsequent_indent="    ")
        yield "  The answers stand in the docstring."
    alike = [o.name for o in kernels.operations().values() if o.chapter == chapter and o not in operations]
    if alike:
        yield f"\nThe same ladder: {', '.join(alike)} (`{PROGRAM} {alike[0]}`)."
    yield f"\nNext: how is {rung} written? `{PROGRAM} {chapter} --source {rung}`"
