"""Checks the kernels of the textbook with the emulator's sanitizer: `python bench.py sanitize`.

Every rung in every precision is launched on its operation's small test shapes, with the threads and blocks in index
order and in random orders. A line of JSON for each combination says what was found; one that has its line, made from
the same sources, is not done again.
"""
import os
import re
import time
from concurrent.futures import as_completed
from pathlib import Path

import numpy as np

from numprec.harness.measure import cases
from numprec.harness.record import environment, ledger
from numprec.kernels import operations
from numprec.language.ladder import KINDS
from numprec.precision import PRECISIONS

SEEDS = 20          # random orders, in addition to index order
LEAST = 3           # shapes that are looked at however large they are
LARGEST = 8000
"""The largest product of the numbers in a shape that is checked after those. It lets in matmul's 17 x 15 x 31, 7905,
the first of its shapes that takes more than one block and more than one tile of the inner dimension."""
_ROOT = f"{Path(__file__).resolve().parents[3]}{os.sep}"
_WHO = re.compile(r"thread \(.*?\)|of block \(.*?\)|\[[^]]*\]|\d+ more like it")     # what differs in the same bug


def shapes_of(operation):
    """The test shapes that are small enough to be run over and over, smallest first."""
    ordered = sorted(operation.shapes, key=lambda shape: (int(np.prod(shape)), shape))
    return [shape for i, shape in enumerate(ordered) if i < LEAST or np.prod(shape) <= LARGEST]


def findings(operation, rung, precision, seeds=SEEDS, rounds=None, first=False):
    """Sentences about the kernels of a rung, each once: what the sanitizer found in any shape and order, or in the
    `first` one in which it found something. `rounds` of loops make a launch endless."""
    from numprec import device as devices
    from numprec.emulator import sanitize
    options = {} if rounds is None else {"rounds": rounds}
    found = {}
    for shape in shapes_of(operation):
        with np.errstate(all="ignore"):
            arrays = [np.asarray(a) for a in operation.inputs(np.random.default_rng(0), shape, KINDS[0], precision)]
        for seed in (None, *range(seeds)):
            device = devices.get("emulator", seed=seed)
            with sanitize(raises=False, **options) as sanitizer:
                operation.launch(device, rung, precision, *(
                    device.array(a, precision.storage if a.dtype.kind == "f" else None) for a in arrays))
            for sentence in sanitizer.findings:
                sentence = sentence.replace(_ROOT, "")
                found.setdefault(_WHO.sub("", sentence), f"{shape}, order {seed}: {sentence}")
            if found and first:
                return list(found.values())
    return list(found.values())


def _check(name, rung, precision, seeds):
    start = time.perf_counter()
    operation = operations()[name]
    found = findings(operation, operation.rung(rung), PRECISIONS[precision], seeds)
    return found, time.perf_counter() - start


def run(chosen, precisions, seeds, out):
    """Checks the rungs of the operations `chosen` (names, None: all) in `precisions`, on all cores; appends a line for
    each to the file `out`. Prints what was found; returns 1 if that is something, else 0. Raises Refused where `out`
    cannot be used, and where a process crashes."""
    todo = [(operation.name, rung.name, p.name) for operation, rung in cases.rungs(chosen) for p in precisions
            if rung.supports(p)]
    commit = environment.git_commit()[0]
    with ledger.Ledger(out, ("operation", "rung", "precision"), {"sources": ledger.sources(), "seeds": seeds}) as done:
        with ledger.workers() as pool:
            left = {pool.submit(_check, *each, seeds): each for each in todo if each not in done.rows}
            for i, future in enumerate(as_completed(left), 1):
                operation, rung, precision = left[future]
                found, seconds = future.result()
                done.add({"operation": operation, "rung": rung, "precision": precision, "findings": found,
                          "seconds": round(seconds, 2), "git_commit": commit})
                print(f"{i}/{len(left)} {operation}/{rung} {precision}: {len(found) or 'nothing'} found", flush=True)
    bad = [(each, found) for each in todo if (found := done.rows[each]["findings"])]
    for each, found in bad:
        print(f"\n{each[0]}/{each[1]} in {each[2]}")
        print("\n".join(f"  {sentence}" for sentence in found))
    print(f"\n{len(todo)} combinations of rung and precision, each in {seeds + 1} orders of threads: "
          f"{len(bad) or 'none'} with a bug; {out}")
    return 1 if bad else 0
