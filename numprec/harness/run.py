"""One invocation of bench.py: from its options to its exit code."""
import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter

from numprec.harness import cases, environment, executors, planning, precompile, store
from numprec.harness.progress import QUIET, Counter, Progress
from numprec.harness.worker import Died
from numprec.precision import GROUPS, PRECISIONS, select

OK, FAILED, USAGE, NO_GPU, REGRESSION, NO_DATA, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

PEAKS = {True: 0.5, False: 2.0}    # seconds to measure them in; the emulator's are a CPU's, and judge nothing


class Refused(Exception):
    """The run cannot start; the message is for the user, `code` for the shell."""

    def __init__(self, error, code=USAGE):
        super().__init__(str(error))
        self.code = code


def benchmark(options, command, root, executor=None):
    """Runs what `options` (of bench.py) ask for; tables go to stdout, progress to stderr. Returns the exit code.

    Without an --out, the run gets a folder of its own below `root`. `executor(device)` makes what runs the cells; by
    default a worker process does, or the machines of --scheduler.
    """
    try:
        return _benchmark(options, command, Path(root), executor)
    except Refused as refused:
        print(f"bench.py: {refused}", file=sys.stderr)
        return refused.code
    except (Died, executors.Lost) as error:    # before the first cell; later the results so far are shown
        print(f"bench.py: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("bench.py: interrupted", file=sys.stderr)
        return INTERRUPTED


def _benchmark(options, command, root, executor):
    if options.device:
        os.environ["NUMPREC_DEVICE"] = options.device    # the estimators ask for themselves
    with _executor(options, executor) as runs:
        device = runs.device
        try:
            precisions = select(options.precision, available=lambda p: device.availability(p).status == "native")
            scale = cases.SCALES[options.scale or ("quick" if device.is_emulator else "full")]
            everything = planning.ordered(_plan(options, scale, precisions))
        except ValueError as error:
            raise Refused(error) from None
        if not everything:
            raise Refused("no cell is left to run: no chosen rung supports a chosen precision")
        expected = planning.Expected(root, scale.name, options.grow, device.name)
        cells = everything
        if options.budget is not None:
            cells = planning.fit(cells, options.budget, expected.seconds)
        dropped = planning.difference(everything, cells)
        if options.dry_run:
            print(planning.describe(cells, dropped, expected, scale.name, device.name, options.budget))
            return OK
        if options.strict_data:
            _require_data(cells)
        folder = Path(options.out) if options.out else root / datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        with _open(folder, options, scale, device) as results:
            facts = _environment(results, runs, precisions, scale, command, options)
            left = planning.remaining(cells, results.done)
            facts["cells"] = len(cells)
            facts["results"] = len(results.rows) + sum(len(cell.precisions) for cell in left)
            try:
                results.write_environment(facts)
            except OSError as error:
                raise Refused(f"cannot write results: {error}") from None
            if dropped:
                print(f"bench.py: left out to fit into {planning.duration(options.budget)}: {dropped}", file=sys.stderr)
            return _run(left, runs, results, facts, expected, options)


def _executor(options, executor):
    """What runs the cells, and knows the device."""
    if options.scheduler:
        from numprec.harness import cluster
        try:
            return cluster.Cluster(options.scheduler, options.device, options.workers)
        except cluster.Unreachable as error:
            raise Refused(error) from None
    if options.workers:
        raise Refused("--workers is for --scheduler local")
    from numprec import device as devices
    try:
        device = devices.get(options.device)
    except RuntimeError as error:
        raise Refused(error, NO_GPU) from None
    except ValueError as error:
        raise Refused(error) from None
    return (executor or executors.Local)(device)


def _plan(options, scale, precisions):
    return cases.plan(scale, precisions, *chosen(options), seeds=options.seeds, grow=options.grow,
                      compare=options.compare)


def chosen(options):
    """(operations, models): naming some of either leaves out all of the other."""
    operations, models = _names(options.operation), _names(options.model)
    if operations is None and models is not None:
        operations = []
    elif models is None and operations is not None:
        models = []
    return operations, models


def _names(text):
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _require_data(cells):
    from numprec import datasets
    for name in dict.fromkeys(cell.model.data for cell in cells if cell.kind != "kernel"):
        try:
            datasets.load(name)
        except (datasets.DataUnavailable, datasets.DataCorrupt) as error:
            raise Refused(error, NO_DATA) from None


# ---- the folder of the run

def _open(folder, options, scale, device):
    """The store, at the end of the run that is there if it is one of the same kind."""
    try:
        before = None if options.fresh else store.environment_of(folder)
        if before is not None:
            _same(folder, before, options, scale, device)
        return store.Store(folder, resume=before is not None)
    except store.Unusable as error:
        raise Refused(error) from None
    except OSError as error:
        raise Refused(f"cannot write results: {error}") from None


def _same(folder, before, options, scale, device):
    had = {"schema": before.get("schema_version"), "device": before.get("device"), "scale": before.get("scale"),
           "grow": (before.get("options") or {}).get("grow")}
    has = {"schema": store.SCHEMA_VERSION, "device": device.name, "scale": scale.name, "grow": list(options.grow)}
    for what in has:
        if had[what] != has[what]:
            raise Refused(f"{folder} holds a run with {what} {had[what]}, and this one has {what} {has[what]}: name "
                          "another folder with --out, or discard that run with --fresh")


def _environment(results, runs, precisions, scale, command, options):
    """What env.json is going to hold. A resumed run keeps what the first one found out about the device."""
    facts = runs.call(environment.collect, precisions=precisions, scale=scale.name, command=command)
    before = store.environment_of(results.folder) if results.rows else None
    if before is None:
        facts["peaks"] = _peaks(runs)
        facts["options"] = {"scale": scale.name, "grow": list(options.grow), "seeds": options.seeds,
                            "precision": options.precision, "model": options.model, "operation": options.operation,
                            "budget": options.budget, "arguments": options.arguments}
        return facts
    if (before["git_commit"], before["git_dirty"]) != (facts["git_commit"], facts["git_dirty"]):
        print(f"bench.py: warning: the results so far are of commit {_commit(before)}, those to come of "
              f"{_commit(facts)}", file=sys.stderr)
    again = {key: facts[key] for key in ("time", "command", "git_commit", "git_dirty")}
    return {**before, "precisions": {**before["precisions"], **facts["precisions"]},
            "resumed": [*before.get("resumed", ()), again]}


def _commit(facts):
    return f"{(facts['git_commit'] or 'unknown')[:12]}" + (" with changes" if facts["git_dirty"] else "")


def _peaks(runs):
    """Ceilings of the device, or None where they could not be measured: no result depends on them."""
    try:
        from numprec.harness import peaks
        return runs.call(peaks.measure, seconds=PEAKS[runs.device.is_emulator])
    except Exception as error:
        print(f"bench.py: warning: no peaks were measured: {error}", file=sys.stderr)
        return None


def to_resume(options, root):
    """(folder, command line) of the run that --resume means: that in --out, or the latest unfinished one."""
    if options.fresh:
        raise Refused("--resume goes on with a run, and --fresh discards it: choose one")
    folder = Path(options.out) if options.out else _unfinished(root)
    if folder is None:
        raise Refused(f"there is no unfinished run under {root}")
    try:
        facts = store.environment_of(folder)
    except store.Unusable as error:
        raise Refused(error) from None
    if facts is None or "arguments" not in (facts.get("options") or ()):
        raise Refused(f"{folder} holds no run that could be resumed")
    return folder, facts["options"]["arguments"]


def _unfinished(root):
    """The latest folder below `root` with a run that has results missing, or None."""
    for folder in sorted(Path(root).glob("*/"), reverse=True):
        try:
            facts, rows = store.read(folder)
        except (OSError, ValueError):
            continue
        if len(rows) < facts.get("results", 0):
            return folder
    return None


# ---- the run

def _run(cells, runs, results, facts, expected, options):
    print(environment.header(facts), end="\n\n", flush=True)
    if results.rows and options.verbosity > QUIET:
        print(f"bench.py: {len(results.rows)} results are there already", file=sys.stderr)
    if runs.compiles_ahead and options.budget is None and (units := precompile.missing(cells)):
        if options.verbosity > QUIET:
            print("bench.py: a first run compiles the kernels for this CPU, on all cores; later runs find them on the "
                  "disk", file=sys.stderr, flush=True)
        precompile.compile_all(units, runs.device.kind, Counter("compiling kernels and models", options.verbosity))
    progress, start = Progress(cells, expected.seconds, options.verbosity), perf_counter()
    ended, code, before = "", OK, len(results.rows)
    try:
        drive(planning.until(options.budget, cells), runs, results, f"python bench.py --scale {facts['scale']}",
              progress)
    except KeyboardInterrupt:
        ended, code = "interrupted: ", INTERRUPTED
    except (CannotWrite, executors.Lost) as error:
        ended, code = "stopped: ", FAILED
        problem = f"bench.py: {error}; the results so far are kept, and can be gone on with"
    finally:
        progress.close()
        runs.close()
    wall = perf_counter() - start
    _show(results, facts, options.plots and code != FAILED)
    rows = results.rows
    counts = {status: sum(row["status"] == status for row in rows) for status in ("ok", "FAIL", "SKIP")}
    print(f"{ended}{len(rows)} results, {len(rows) - before} of them in these {wall:.0f} s: "
          + (", ".join(f"{n} {status}" for status, n in counts.items() if n) or "none"))
    missing = planning.remaining(cells, results.done)
    if missing and not ended:
        names = ", ".join(map(str, missing[:3])) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        print(f"not run, because the budget of {planning.duration(options.budget)} was spent: {names}")
    if missing:
        print(f"go on with: python bench.py --resume --out {_path(results.folder)}")
    if code == FAILED:
        print(problem, file=sys.stderr)
    return code or (FAILED if counts["FAIL"] else OK)


class CannotWrite(Exception):
    """The disk is full, or the folder gone."""


def drive(cells, runs, results, command, progress):
    """Runs each cell and appends its rows; an interruption leaves the finished ones in the store."""
    def begun():
        for cell in cells:
            progress.begin(cell)
            yield cell
    for cell, rows, seconds in runs.results(begun()):
        rows = [{**row, "cell_s": seconds, "command": _command_for(command, cell, row)} for row in rows]
        try:
            results.append(rows)
        except OSError as error:
            raise CannotWrite(f"cannot write results: {error}") from error
        progress.end(cell, rows, seconds)


def _command_for(command, cell, row):
    """The command line that repeats one row."""
    if cell.kind == "kernel":
        only = f"--operation {cell.operation.name}/{cell.rung.name}"
    else:
        only = f"--model {cell.model.name} --seeds {cell.seed + 1}"
        only += f" --grow {cell.grow}" * (cell.grow != 1)
    return f"{command} {only} " + ("--compare" if cell.kind == "peer" else f"--precision {row['precision']}")


def _show(results, facts, plots):
    rows, paths = results.rows, [results.folder / store.RESULTS]
    if rows:
        from numprec.harness import tables
        print(tables.text(rows, facts), end="\n\n")
        paths += tables.write(rows, facts, results.folder)
    if plots and rows:
        from numprec.harness import figures
        paths += figures.draw(rows, facts, results.folder)
    print("written: " + ", ".join(map(_path, paths)))


def about(command):
    """Runs a command about runs on the disk: it returns the paths that it wrote, or (text, exit code)."""
    try:
        outcome = command()
    except (FileNotFoundError, NotADirectoryError) as error:
        print(f"bench.py: no run there: {error.filename or error}", file=sys.stderr)
        return USAGE
    except (OSError, ValueError) as error:
        print(f"bench.py: {error}", file=sys.stderr)
        return USAGE
    if isinstance(outcome, tuple):
        text, code = outcome
        if text:
            print(text)
        return code
    print("written: " + (", ".join(map(_path, outcome)) or "nothing"))
    return OK


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
        print(f"  {model.name:<24}on {model.data}")
    print("operations and their rungs, slowest first")
    ladders = {}
    for operation, rung in cases.rungs():
        ladders.setdefault(operation.name, []).append(rung.name)
    for name, ladder in ladders.items():
        print(f"  {name:<18}{', '.join(ladder)}")
    return OK


def _path(path):
    """`path` as the reader will want to type it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
