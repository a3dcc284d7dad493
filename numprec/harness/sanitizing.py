"""Checks the kernels of the textbook with the emulator's sanitizer: `python bench.py sanitize`.

Every rung in every precision is launched on its operation's small test shapes, with the threads and blocks in index
order and in random orders. A line of JSON for each combination says what was found; one that has its line, made from
the same sources, is not done again.
"""
import hashlib
import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from numprec.harness import cases, environment
from numprec.kernels.registry import KINDS, operations
from numprec.precision import PRECISIONS

SEEDS = 20          # random orders, besides that by index
LARGEST = 6000      # elements, by the numbers in a shape, of the largest shape that is looked at
LEAST = 3           # shapes that are looked at however large they are


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
                found.setdefault(sentence.partition(": ")[0], f"{shape}, order {seed}: {sentence}")
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
    each to the file `out`. Prints what was found; returns 1 if that is something, else 0."""
    out, sources = Path(out), _sources()
    out.parent.mkdir(parents=True, exist_ok=True)
    done = _read(out, sources, seeds)
    todo = [(operation.name, rung.name, p.name) for operation, rung in cases.rungs(chosen) for p in precisions
            if rung.supports(p)]
    facts = {"sources": sources, "seeds": seeds, "git_commit": environment.git_commit()[0]}
    with ProcessPoolExecutor(environment.cores(), mp_context=get_context("spawn")) as pool, \
            open(out, "a", encoding="utf-8") as file:
        left = {pool.submit(_check, *each, seeds): each for each in todo if each not in done}
        for i, future in enumerate(as_completed(left), 1):
            each = left[future]
            found, seconds = future.result()
            row = dict(zip(("operation", "rung", "precision"), each), findings=found, seconds=round(seconds, 2))
            file.write(json.dumps(row | facts) + "\n")
            file.flush()
            done[each] = found
            print(f"{i}/{len(left)} {each[0]}/{each[1]} {each[2]}: {len(found) or 'nothing'} found", flush=True)
    bad = [(each, found) for each in todo if (found := done[each])]
    for each, found in bad:
        print(f"\n{each[0]}/{each[1]} in {each[2]}")
        print("\n".join(f"  {sentence}" for sentence in found))
    print(f"\n{len(todo)} combinations of rung and precision, each in {seeds + 1} orders of threads: "
          f"{len(bad) or 'none'} with a bug; {out}")
    return 1 if bad else 0


def _read(out, sources, seeds):
    """{combination: what was found}, of the lines that these sources made."""
    done = {}
    if out.exists():
        for line in out.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
                if (row["sources"], row["seeds"]) == (sources, seeds):
                    done[row["operation"], row["rung"], row["precision"]] = row["findings"]
            except (ValueError, TypeError, KeyError):
                continue               # torn by an interruption: it is done again
    return done


def _sources():
    """A hash of what is checked: the kernels, and the emulator that checks them."""
    root, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for path in sorted(p for part in ("kernels", "emulator") for p in (root / part).rglob("*")
                       if p.suffix in (".py", ".ll")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
