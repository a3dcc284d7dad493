"""A chapter of the book, run: `python -m numprec.kernels matmul`.

Each rung of its operations runs once on the emulator, and leaves one line of the figures that teach: what a GPU has to
do for a result, how far the result is from its oracle, and how long it takes: by measurement where there is a GPU, else
by a model, marked as one. `--without` leaves a line of the chapter out, such as a barrier, and shows what the sanitizer
says to that.
"""
import argparse
import ast
import difflib
import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

from numprec import kernels
from numprec.harness.record import ledger
from numprec.harness.record.environment import cores
from numprec.harness.record.exits import FAILED, OK, USAGE, Refused
from numprec.harness.show import contents
from numprec.precision import select, unknown

PROGRAM = "python -m numprec.kernels"
ROOT = Path(kernels.__file__).parents[2]

SHAPES = {**dict.fromkeys(("matmul", "matmul_ta", "matmul_tb", "dense", "dense_input_gradient"), (1024, 1024, 16)),
          "sum": (1_000_000,), "dot": (1_000_000,), "argmax": (100_000,), "norm": (100_000,),
          "cholesky": (64,), "triangular": (64, 4), "cross_entropy": (4096, 32), "bias_gradient": (4096, 256),
          **dict.fromkeys(("conv", "conv_weight_gradient", "conv_input_gradient"), (32, 16, 16, 4, 32))}
"""Of one run, where the smoke scale's would leave a GPU idle. All fit into about ten seconds for a chapter."""
CARDS = ("T4", "H100")          # that the model speaks of
MANY = 4                        # rungs, for which it pays to start processes
ORDERS = 3                      # random orders of threads in which the sanitizer looks, besides that by index
ROUNDS = 10 ** 6                # of loops, before it takes a launch to run for ever

LEGEND = """\
sectors: 32 bytes of global memory each, read or written; wavefronts: passes over shared memory; both for each number of
the result. barriers: that a block meets. flops / byte: operations in floating point, an fma two, for each byte of the
sectors. occupancy: the share of a T4's threads that its resident blocks fill. error / bound: the largest deviation from
the oracle over what the theory allows; right up to 1. {time}"""
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
    from numprec.harness.measure import gpu_model, machine_code
    seconds, first = [], None
    for card in (card for card in gpu_model.CARDS if card.name in CARDS):
        if card.compute_capability < rung.compute_capability:
            seconds.append(None)
            continue
        found = [gpu_model.time(c, machine_code.resources(kernel, argtypes, card.compute_capability), card)
                 for c, kernel, argtypes in seen]
        seconds.append(sum(each.seconds for each in found))
        first = first or max(found, key=lambda each: each.seconds)
    return tuple(seconds), first and first.occupancy, first.bound if first else ""


def table(lines, measured=None):
    """Lines of Figures, as text; `measured` has the times in words, where they were measured."""
    from tabulate import tabulate
    several = len({line.precision for line in lines}) > 1
    heads = ("rung", *(("precision",) * several), "sectors\n/ result", "wavefronts\n/ result", "barriers",
             "flops\n/ byte", "occupancy", "error\n/ bound",
             *(("measured",) if measured else ("decides", *(f"{card}\nmodel" for card in CARDS))))
    rows = [(f.rung, *((f.precision,) * several), _number(f.sectors), _number(f.wavefronts), _number(f.barriers),
             _number(f.intensity), "-" if f.occupancy is None else f"{f.occupancy:.0%}", _number(f.error),
             *((measured[i],) if measured else (f.decides, *map(_time, f.seconds))))
            for i, f in enumerate(lines)]
    align = ("left",) * (1 + several) + ("right",) * 6 + (("right",) if measured else ("left", "right", "right"))
    return tabulate(rows, heads, disable_numparse=True, colalign=align)


def _number(x):
    return "-" if x != x else f"{x:,.0f}" if x >= 100 or x == int(x) else f"{x:.3g}"


def _time(seconds):
    return "-" if seconds is None else f"{seconds * 1e6:.3g} µs"


# ---- what is asked for

def _parser():
    p = argparse.ArgumentParser(prog=PROGRAM, formatter_class=argparse.RawDescriptionHelpFormatter,
                                description="Prints the contents of the book. With the name of a part, prints its "
                                            "title page; with that of a\nchapter or an operation, runs it on the "
                                            "emulator and prints what its rungs make a GPU do.",
                                epilog=f"examples\n  {PROGRAM} matmul --precision fp32,fp16\n  {PROGRAM} matmul "
                                       f"--source tiled\n  {PROGRAM} matmul --rung tiled --without 'both tiles are "
                                       "complete'\n\nexit codes: 0 all was well; 1 a result was wrong, or a page has "
                                       "drifted; 2 usage")
    p.add_argument("name", nargs="?", help="a part, a chapter, or an operation")
    p.add_argument("--precision", default="fp32", metavar="LIST", help="names or groups; default fp32")
    p.add_argument("--shape", metavar="SHAPE", help="of the problem, such as 64x64x64")
    p.add_argument("--operation", metavar="NAME", help="only this operation of the chapter")
    p.add_argument("--rung", metavar="RUNG", help="only this rung")
    p.add_argument("--source", metavar="RUNG", help="print the source of a rung, and stop")
    p.add_argument("--without", metavar="TEXT",
                   help="leave out the line of the chapter that holds this text, a barrier for one, and sanitize")
    p.add_argument("--write", action="store_true",
                   help="bring the title pages' tables of ladders and README's reading order up to date")
    return p


def main(arguments=None):
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (Refused, ValueError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return USAGE


def _run(options):
    if options.write:
        written = contents.update(ROOT)
        print("written: " + (", ".join(str(path.relative_to(ROOT)) for path in written) or "nothing"))
        return OK
    if options.name is None:
        print(f"{contents.text()}\n\n`{PROGRAM} matmul` runs a chapter, `--help` tells what else there is.")
        return OK
    chapter, only = _chapter(options.name)
    if chapter in kernels.PARTS:
        print(inspect.cleandoc(contents._docstring(contents.file_of(contents.part_module(chapter)))))
        return OK
    if options.without:
        return _without(chapter, only, options)
    operations = _operations(chapter, options.operation or only)
    if options.source:
        return _source(operations, options.source)
    return _show(chapter, operations, options)


def _chapter(name):
    """(chapter, operation) of a name, which may also be a path or a dotted name; the operation is None but where the
    name is that of one and of no chapter. A part is returned in a chapter's place."""
    short = re.split(r"[./\\]", name.removesuffix(".py"))[-1]
    if short in kernels.chapters() or short in kernels.PARTS:
        return short, None
    operations = kernels.operations()
    if short in operations:
        return operations[short].chapter, short
    known = [*kernels.PARTS, *kernels.chapters(), *operations]
    near = difflib.get_close_matches(short.lower(), known, n=1, cutoff=0.5)
    raise Refused(f"there is no chapter {name!r}." + (f" Did you mean {near[0]!r}?" if near else "")
                  + f" `{PROGRAM}` prints the contents.")


def _operations(chapter, only):
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


def _rungs(operations, name):
    """[(operation, rung)], of one name where it is not None."""
    every = [(o, r) for o in operations for r in o.rungs]
    known = list(dict.fromkeys(r.name for _, r in every))
    if name is not None and name not in known:
        raise unknown("rung", name, known)
    return [(o, r) for o, r in every if name in (None, r.name)]


def _source(operations, name):
    for rung in dict.fromkeys(rung for _, rung in _rungs(operations, name)):
        lines, first = inspect.getsourcelines(rung.factory)
        print(f"{Path(inspect.getsourcefile(rung.factory)).relative_to(ROOT)}, line {first}\n\n{''.join(lines)}")
    return OK


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

def _show(chapter, operations, options):
    from numprec import device as devices
    precisions = select(options.precision)
    chosen = _rungs(operations, options.rung)
    shapes = {o.name: _shape(options.shape, o) for o, _ in chosen}
    page = contents.page_of(kernels.chapters()[chapter])
    if not any(shapes.values()):
        raise Refused(_no_operation(chapter, page) if not chosen else f"--shape {options.shape} fits no operation of "
                      "this chapter: " + ", ".join(f"{o.name} takes {'x'.join(map(str, _shape(None, o)))}"
                                                   for o in operations))
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
    print("\n".join(_closing(chapter, page, operations)))
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


def _measured(device, operation, precisions, shapes, lines):
    from numprec.harness.measure import profiling
    named = {str(p): p for p in precisions}
    return [profiling.measured(device, operation, operation.rung(line.rung), named[line.precision],
                               shapes[operation.name]) for line in lines]


def _no_operation(chapter, page):
    if chapter in kernels.PARTS["start"]:
        return f"{chapter} has pages in place of operations: python -m numprec.kernels.start. {page.title}"
    return f"{chapter} holds parts of kernels that later chapters launch, and none to run by itself. {page.title}"


def _opening(page):
    yield page.title
    for label in ("Idea", "Ladder", "Precision"):
        if label in page.labels:
            yield f"\n{label}\n" + "\n".join("  " + line for line in page.labels[label].splitlines())


def _closing(chapter, page, operations):
    if exercises := page.exercises():
        yield "\nTry"
        for exercise in exercises:
            yield f"  {exercise.command}"
            yield textwrap.fill(exercise.question, contents.WIDTH, initial_indent="    ", subsequent_indent="    ")
        yield "  The answers stand in the docstring."
    alike = [o.name for o in kernels.operations().values() if o.chapter == chapter and o not in operations]
    if alike:
        yield f"\nThe same ladder: {', '.join(alike)} (`{PROGRAM} {alike[0]}`)."
    rung = operations[0].rungs[-1].name
    yield f"\nNext: how is {rung} written? `{PROGRAM} {chapter} --source {rung}`"


# ---- a chapter without one of its lines

def _without(chapter, only, options):
    """Leaves a line of the chapter, or of one that it builds on, out, in this process alone; prints what the sanitizer
    finds in the rungs that are asked for, or that hold the line."""
    if only:
        raise Refused(f"--without changes a chapter: name {chapter}, not {only}")
    from numprec.harness.measure import changed, sanitizing
    precision = select(options.precision)[0]
    changes, number, within = _line_with(options.without, options.rung, chapter)
    file = contents.file_of(kernels.chapters()[changes])
    lines = file.read_text(encoding="utf-8").splitlines()
    kept = lines[number - 1]
    lines[number - 1] = re.match(r"\s*", kept)[0] + "pass"
    changed.change(changes, "\n".join(lines) + "\n")
    rungs = _rungs(_operations(chapter, options.operation), options.rung)
    if any(r.name == within for _, r in rungs):
        rungs = [(o, r) for o, r in rungs if r.name == within]
    if not rungs:
        raise Refused(_no_operation(chapter, contents.page_of(kernels.chapters()[chapter])))
    print(f"{file.relative_to(ROOT).as_posix()} without its line {number}:\n\n{number:>7} {kept}\n\n"
          f"The sanitizer runs {chapter} in {precision}, the threads in {ORDERS + 1} orders:\n", flush=True)
    for operation, rung in rungs:
        if found := sanitizing.findings(operation, rung, precision, ORDERS, rounds=ROUNDS, first=True):
            for sentence in found:
                print(textwrap.fill(sentence.partition("kernel ")[2], contents.WIDTH, initial_indent="  ",
                                    subsequent_indent="    ", break_long_words=False) + "\n")
            print("\n".join(_quoted(found)))
            return OK
    print("  nothing is wrong on the small shapes that it looks at")
    return OK


def _quoted(sentences):
    """The lines that findings name, file by file."""
    named = {}
    for sentence in sentences:
        places = re.findall(r"\bline (\d+)(?: of ([^\s:]+\.py))?", sentence)
        for number, file in places:
            named.setdefault(file or places[0][1], set()).add(int(number))
    for file, numbers in named.items():
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        yield file
        yield from (f"{n:>7} {lines[n - 1]}" for n in sorted(numbers))


def _line_with(text, rung, chapter):
    """(chapter, line, function that holds it) of the one line of code with a text in it: in the factory `rung` where
    that is not None, else in the chapter, else in those that it imports, nearest first."""
    modules = {module: name for name, module in kernels.chapters().items()}
    tree = ast.parse(contents.file_of(kernels.chapters()[chapter]).read_text(encoding="utf-8"))
    imported = {each for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
                for each in (node.module, f"{node.module}.{alias.name}")}
    found = []
    for name in (chapter, *(name for module, name in reversed(modules.items()) if module in imported)):
        lines = contents.file_of(kernels.chapters()[name]).read_text(encoding="utf-8").splitlines()
        code = ast.parse("\n".join(lines)).body
        spans = {node.name: (node.lineno, node.end_lineno) for node in code if isinstance(node, ast.FunctionDef)}
        low, high = spans.get(rung, (0, 0)) if name == chapter else (0, 0)
        found = [n for n in range(low or code[1].lineno, (high or len(lines)) + 1) if text in lines[n - 1]]
        if len(found) == 1:
            return name, found[0], next((f for f, (first, last) in spans.items() if first <= found[0] <= last), None)
        if found:
            break
    raise Refused(f"{text!r} is in {len(found) or 'no'} lines of {chapter}: it has to be in one"
                  + "".join(f"\n{n:>7} {lines[n - 1]}" for n in found))
