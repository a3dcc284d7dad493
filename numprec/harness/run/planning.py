"""What a run is going to do: in which order, for how long, and what is left out when time is short.

Cells come seed by seed, the first seed of every model before the second of any, so that a run that ends early has
something of each. How long a cell takes is known from earlier runs of the same scale on the same device, where there
are some; otherwise only a lower bound is, the time its samples are given and, on a GPU, what compiling takes.
"""
import math
import textwrap
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from time import perf_counter

from tabulate import tabulate

from numprec.harness.measure import cases
from numprec.harness.record import store
from numprec.precision import select

EARLIER = 5            # runs that are looked at
LEAST_SEEDS = 2        # per model, before precisions are dropped: one has no spread
BASELINE = "fp64"      # the precision that the others are compared with, and that is never dropped
COMPILING = {"kernel": 4, "training": 20}    # seconds for a GPU, of a rung or a model in one precision, on one core


def made(request, device, done):
    """The Plan of a Request; `done` are pairs of cell key and precision that need not run again. ValueError where the
    request names what there is not."""
    precisions = select(request.precision, available=lambda p: device.availability(p).status == "native")
    scale = cases.SCALES[request.scale or ("quick" if device.is_emulator else "full")]
    wanted = ordered(cases.plan(scale, precisions, *request.chosen(), seeds=request.seeds, grow=request.grow,
                                compare=request.compare))
    if not wanted:
        raise ValueError("no cell is left to run: no chosen rung supports a chosen precision")
    expected = Expected(request.root, scale.name, request.grow, device.name, also=request.out,
                        compiles=not device.is_emulator)
    left = remaining(wanted, done)
    cells = left if request.budget is None else fit(left, request.budget, expected.seconds)
    return Plan(scale, precisions, wanted, cells, difference(left, cells), expected, device.name, request.budget)


@dataclass(frozen=True)
class Plan:
    """`wanted` is all that the request names, `cells` what this invocation runs of it; `dropped` says in words what was
    left out to fit into the budget."""

    scale: cases.Scale
    precisions: list
    wanted: list
    cells: list
    dropped: str
    expected: "Expected"
    device: str
    budget: float | None

    def __str__(self):
        return describe(self.cells, self.dropped, self.expected, self.scale.name, self.device, self.budget)


def ordered(cells):
    """Kernels first, in reading order; then the models, seed by seed."""
    return sorted(cells, key=_seed)


def _seed(cell):
    return -1 if cell.kind == "kernel" else cell.seed


def remaining(cells, done):
    """The cells without what `done`, pairs of cell key and precision, holds."""
    left = (cell.only([p for p in cell.precisions if (cell.key, str(p)) not in done]) for cell in cells)
    return [cell for cell in left if cell.precisions]


def until(seconds, cells, clock=perf_counter):
    """The cells one by one, until `seconds` have passed; None is no limit. Kernels get half of the time, and the rest
    of them whatever the models leave."""
    limit, start = math.inf if seconds is None else seconds, clock()
    kernels = deque(cell for cell in cells if _seed(cell) < 0)
    others = deque(cell for cell in cells if _seed(cell) >= 0)
    while (kernels or others) and (spent := clock() - start) < limit:
        yield (kernels if kernels and (spent < limit / 2 or not others) else others).popleft()


# ---- time and memory

class Expected:
    """What cells will take, as earlier runs below `root` say, and the one in the folder `also`; `scale`, `grow` and
    `device` have to be theirs. `compiles`: whether cells compile their kernels, as they do on a GPU."""

    def __init__(self, root, scale, grow, device, also=None, compiles=False):
        self.runs, self._seconds, self._bytes, self._compiles = 0, {}, {}, compiles
        for folder in [also] * (also is not None) + sorted(Path(root).glob("*/"), reverse=True):
            if self.runs == EARLIER:
                break
            try:
                facts, rows = store.read(folder, warn=lambda problem: None)
            except OSError:
                continue
            if (facts["scale"], facts["device"], facts.get("options", {}).get("grow")) == (scale, device, list(grow)):
                self.runs += bool(rows)
                self._learn(rows)

    def _learn(self, rows):
        cells = {}
        for row in rows:
            cells.setdefault(row["cell"], []).append(row)
        for key, found in cells.items():
            for name in {key, without_seed(key)}:
                self._seconds.setdefault(name, []).append(found[0]["cell_s"] / len(found))
                self._bytes.setdefault(name, []).extend(row["peak_bytes"] for row in found if row.get("peak_bytes"))

    def known(self, cell):
        """Whether an earlier run had this cell, or another seed of it."""
        return without_seed(cell.key) in self._seconds

    def seconds(self, cell):
        """Seconds for all precisions of a cell; at least so many, where it is not known."""
        each = self._seconds.get(cell.key) or self._seconds.get(without_seed(cell.key))
        return len(cell.precisions) * (median_low(each) if each else self._compiling(cell) + cell.effort.warm_up
                                       + cell.effort.budget)

    def _compiling(self, cell):
        """Seconds in one precision; the first seed compiles for all of them."""
        return COMPILING.get(cell.kind, 0) if self._compiles and _seed(cell) <= 0 else 0

    def bytes(self, cell):
        """Memory that a cell takes on the device, or None where it is not known."""
        if cell.kind == "kernel":
            size = cell.operation.memory or (lambda *of: cell.operation.cost(*of)["bytes"])
            return max(size(p, *cell.shape) for p in cell.precisions)
        return max(self._bytes.get(without_seed(cell.key)) or [None])


def without_seed(key):
    return key.partition(", seed ")[0]


def fit(cells, budget, seconds):
    """The cells that can be expected to fit into a budget: first the models lose seeds, the one with the most seeds
    first, down to LEAST_SEEDS; then everything loses precisions, the last one chosen first, but never BASELINE and
    never the last but one; then the models lose seeds again, down to one."""
    cells = list(cells)
    expected = {id(cell): seconds(cell) for cell in cells}

    def over():
        return sum(expected.get(id(cell)) or seconds(cell) for cell in cells) > budget

    def drop_seeds(least):
        while over():
            seeds = {}
            for cell in cells:
                if _seed(cell) >= 0:
                    seeds.setdefault(without_seed(cell.key), []).append(cell)
            longest = max((each for each in seeds.values() if len(each) > least), default=None,
                          key=lambda each: (len(each), sum(map(seconds, each))))
            if longest is None:
                return
            cells.remove(max(longest, key=_seed))

    drop_seeds(LEAST_SEEDS)
    precisions = list(dict.fromkeys(p for cell in cells for p in cell.precisions))
    while over() and len(precisions) > 2:
        precisions.remove(next(p for p in reversed(precisions) if str(p) != BASELINE))
        cells = [less for cell in cells if (less := cell.only(precisions)).precisions]
    drop_seeds(1)
    return cells


# ---- the plan as text

def describe(cells, dropped, expected, scale, device, budget=None):
    """The plan for --dry-run: what runs, in which precisions, how long and with how much memory."""
    groups = {}
    for cell in cells:
        name = "kernels" if cell.kind == "kernel" else without_seed(cell.key)
        groups.setdefault(name, []).append(cell)
    lines = []
    for name, group in groups.items():
        seeds = sorted({_seed(cell) for cell in group} - {-1})
        memory = [size for cell in group if (size := expected.bytes(cell))]
        lines.append((
            name, len(group), ", ".join(dict.fromkeys(str(p) for cell in group for p in cell.precisions)),
            f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else "".join(map(str, seeds)) or "-",
            ("" if all(map(expected.known, group)) else ">= ") + duration(sum(map(expected.seconds, group))),
            f"{max(memory) / 1e6:.1f} MB" if memory else "-"))
    total = sum(map(expected.seconds, cells))
    results = sum(len(cell.precisions) for cell in cells)
    earlier = (f"Times as in {expected.runs} earlier run{'s'[:expected.runs != 1]} of this scale on this device"
               if expected.runs else "No earlier run of this scale on this device says how long a fit takes")
    about = "about" if all(map(expected.known, cells)) else "at least"
    text = [f"Plan at scale {scale} on {device}; nothing is run.", "",
            tabulate(lines, ("what", "cells", "precisions", "seeds", "time", "memory"), tablefmt="simple",
                     disable_numparse=True, colalign=("left", "right", "left", "left", "right", "right")), "",
            _filled(f"{len(cells)} cells with {results} results, in {about} {duration(total)}. {earlier}."),
            _filled("time: >= where only that of the samples is known, and roughly that of compiling for a GPU. "
                    "memory: the arrays of the largest kernel; what a fit took in an earlier run.")]
    if budget is not None:
        text.append(_filled(f"Budget {duration(budget)}: no cell is started after it is spent." + (
            f" Left out to fit into it: {dropped}." if dropped else "")))
    return "\n".join(text)


def _filled(text):
    return textwrap.fill(text, 118)


def difference(before, after):
    """What `fit` left out, in words; "" for nothing."""
    precisions = [str(p) for p in dict.fromkeys(p for cell in before for p in cell.precisions)
                  if not any(p in cell.precisions for cell in after)]
    seeds = []
    for name in dict.fromkeys(without_seed(cell.key) for cell in before if _seed(cell) >= 0):
        had, has = (sum(_seed(c) >= 0 and without_seed(c.key) == name for c in cells) for cells in (before, after))
        if has < had:
            seeds.append(f"{name}: {had} seeds to {has}")
    return "; ".join(seeds + ([f"without {', '.join(precisions)}"] if precisions else []))


def duration(seconds):
    """Seconds in words: 0.5 s, 48 s, 12 min, 2.5 h."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"
