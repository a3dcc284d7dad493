"""One invocation of bench.py: from its options to its exit code."""
import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter

from numprec.harness import cases, environment, store, sweep, tables
from numprec.precision import GROUPS, PRECISIONS, select

OK, FAILED, USAGE, NO_GPU, INTERRUPTED = 0, 1, 2, 3, 130    # 4 and 5 are kept for `compare` and for missing data


def benchmark(options, command, root):
    """Runs what `options` (of bench.py) ask for; tables go to stdout, progress to stderr. Returns the exit code.

    Without an --out, the run gets a folder of its own below `root`.
    """
    from numprec import device as devices
    if options.device:
        os.environ["NUMPREC_DEVICE"] = options.device    # the estimators ask for themselves
    try:
        device = devices.get(options.device)
    except RuntimeError as error:
        return _refuse(error, NO_GPU)
    except ValueError as error:
        return _refuse(error, USAGE)
    try:
        precisions = select(options.precision, available=lambda p: device.availability(p).status == "native")
        scale = cases.SCALES[options.scale or ("quick" if device.is_emulator else "full")]
        cells = cases.plan(scale, precisions, *_chosen(options), seeds=options.seeds)
    except ValueError as error:
        return _refuse(error, USAGE)
    folder = Path(options.out) if options.out else root / datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    facts = environment.collect(device, precisions, scale.name, command)
    try:
        results = store.Store(folder)
        results.write_environment(facts)
    except OSError as error:
        return _refuse(f"cannot write results: {error}", USAGE)
    with results:
        return _run(cells, device, results, facts, plots=options.plots)


def _chosen(options):
    """(operations, models): naming some of either leaves out all of the other."""
    operations, models = _names(options.operation), _names(options.model)
    if operations is None and models is not None:
        operations = []
    elif models is None and operations is not None:
        models = []
    return operations, models


def _names(text):
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _run(cells, device, results, facts, plots):
    print(environment.header(facts), end="\n\n", flush=True)
    progress, start, interrupted = Progress(len(cells)), perf_counter(), False
    try:
        sweep.run(cells, device, results, f"python bench.py --scale {facts['scale']}", progress)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        progress.close()
    rows = results.rows
    for table in tables.kernels(rows, facts), tables.training(rows, facts):
        if table:
            print(table, end="\n\n")
    paths = [results.folder / store.RESULTS]
    if plots:
        from numprec.harness import figures
        paths += figures.draw(rows, facts, results.folder)
    counts = {status: sum(row["status"] == status for row in rows) for status in ("ok", "FAIL", "SKIP")}
    print(("interrupted: " if interrupted else "") + f"{len(rows)} results in {perf_counter() - start:.0f} s: "
          + ", ".join(f"{n} {status}" for status, n in counts.items() if n))
    print("written: " + ", ".join(map(_path, paths)))
    return INTERRUPTED if interrupted else FAILED if counts["FAIL"] else OK


def clear_cache():
    """Empties the emulator's cache of compiled kernels."""
    from numprec import emulator
    emulator.clear_cache()
    return OK


def show_list():
    """What there is to choose from."""
    print("precisions")
    for name, p in PRECISIONS.items():
        print(f"  {name:<12}{p.roles}")
    print("  groups      " + ", ".join((*GROUPS, "native")))
    print("models")
    for model in cases.MODELS:
        print(f"  {model.name:<18}on {model.data}")
    print("operations and their rungs, slowest first")
    ladders = {}
    for operation, rung in cases.rungs():
        ladders.setdefault(operation.name, []).append(rung.name)
    for name, ladder in ladders.items():
        print(f"  {name:<18}{', '.join(ladder)}")
    return OK


def _refuse(error, code):
    print(f"bench.py: {error}", file=sys.stderr)
    return code


def _path(path):
    """`path` as the reader will want to type it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


class Progress:
    """On a terminal a bar; elsewhere one line for each finished cell. Both on stderr."""

    def __init__(self, total):
        self.bar, self.started = None, perf_counter()
        if sys.stderr.isatty():
            from tqdm import tqdm
            self.bar = tqdm(total=total, unit="cell", dynamic_ncols=True)

    def __call__(self, done, total, cell, rows, seconds):
        failed = [row for row in rows if row["status"] == "FAIL"]
        if self.bar is not None:
            self.bar.set_description_str(str(cell))
            self.bar.update()
            for row in failed:
                self.bar.write(f"FAIL {cell} {row['precision']}: {row['reason']}", file=sys.stderr)
            return
        left = (perf_counter() - self.started) / done * (total - done)
        outcome = "FAIL " + ", ".join(row["precision"] for row in failed) if failed else "ok"
        print(f"[{done:{len(str(total))}}/{total}] {cell}: {outcome}, {seconds:.1f} s; about {left:.0f} s left",
              file=sys.stderr, flush=True)

    def close(self):
        if self.bar is not None:
            self.bar.close()
