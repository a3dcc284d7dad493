"""One invocation of bench.py: from its options to its exit code."""
import os
import sys
from pathlib import Path
from time import perf_counter

from numprec.harness.measure import cases
from numprec.harness.record import environment, store
from numprec.harness.record.exits import FAILED, INTERRUPTED, NO_DATA, NO_GPU, OK, Refused, typed
from numprec.harness.record.streams import code_of, how
from numprec.harness.run import executors, folders, planning, precompile
from numprec.harness.run.progress import QUIET, Counter, Progress
from numprec.harness.run.worker import Died, NoDevice
from numprec.precision import select


def benchmark(options, command, root, executor=None):
    """Runs what `options` (of bench.py) ask for; tables go to stdout, progress to stderr. Returns the exit code.

    Without an --out, the run gets a folder of its own below `root`. `executor(kind)` makes what runs the cells; by
    default a worker process does, or the machines of --scheduler.
    """
    try:
        return _benchmark(options, command, Path(root), executor)
    except Refused as refused:
        print(f"bench.py: {refused}", file=sys.stderr)
        return refused.code
    except NoDevice as error:
        print(f"bench.py: {error}", file=sys.stderr)
        return NO_GPU
    except (Died, executors.Lost) as error:    # before the first cell; later the results so far are shown
        print(f"bench.py: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt as interruption:
        print(f"bench.py: {how(interruption)}", file=sys.stderr)
        return code_of(interruption)


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
        expected = planning.Expected(root, scale.name, options.grow, device.name, also=options.out,
                                     compiles=not device.is_emulator)
        cells = unfinished = planning.remaining(everything, folders.done(options))
        if options.budget is not None:
            cells = planning.fit(cells, options.budget, expected.seconds)
        dropped = planning.difference(unfinished, cells)
        if options.dry_run:
            print(planning.describe(cells, dropped, expected, scale.name, device.name, options.budget))
            return OK
        if options.strict_data:
            _require_data(cells)
        folder = Path(options.out) if options.out else folders.new(root)
        with folders.opened(folder, options, scale, device) as results:
            facts = folders.environment_for(results, runs, precisions, scale, command, options)
            left = planning.remaining(cells, results.done)
            facts["cells"] = len(everything)
            wanted = sum(len(cell.precisions) for cell in planning.remaining(everything, results.done))
            facts["results"] = max(facts.get("results", 0), len(results.done) + wanted)
            try:
                results.write_environment(facts)
            except OSError as error:
                raise Refused(f"cannot write results: {error}") from None
            if dropped:
                print(f"bench.py: left out to fit into {planning.duration(options.budget)}: {dropped}", file=sys.stderr)
            return _run(left, runs, results, facts, expected, options)


def _executor(options, executor):
    """What runs the cells, and knows the device."""
    if options.workers and options.scheduler != "local":
        raise Refused("--workers is for --scheduler local; elsewhere there are as many as were started")
    if options.scheduler not in (None, "local"):
        return _cluster(options.scheduler, options.device, None, options.cell_limit)
    from numprec import device as devices
    try:
        kind = devices.kind(options.device)
    except RuntimeError as error:
        raise Refused(error, NO_GPU) from None
    except ValueError as error:
        raise Refused(error) from None
    if options.scheduler:
        return _cluster("local", kind, options.workers, options.cell_limit)
    return executor(kind) if executor else executors.Local(kind, options.cell_limit)


def _cluster(*arguments):
    from numprec.harness.run import cluster
    try:
        return cluster.Cluster(*arguments)
    except cluster.Unreachable as error:
        raise Refused(error) from None


def _plan(options, scale, precisions):
    return cases.plan(scale, precisions, *chosen(options), seeds=options.seeds, grow=options.grow,
                      compare=options.compare)


def chosen(options):
    """(operations, models): naming some of either leaves out all of the other. Raises ValueError for a chapter that
    there is not."""
    operations, models = operations_named(options), names(options.model)
    if operations is None and models is not None:
        operations = []
    elif models is None and operations is not None:
        models = []
    return operations, models


def operations_named(options):
    """What --operation and --chapter name together, None where neither was given."""
    operations, chapters = names(options.operation), names(options.chapter)
    return operations if chapters is None else [*(operations or ()), *cases.operations_of(chapters)]


def names(text):
    """The names in a list of the command line, None where there is no list."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _require_data(cells):
    from numprec import datasets
    for name in dict.fromkeys(cell.model.data for cell in cells if cell.kind != "kernel"):
        try:
            datasets.load(name)
        except (datasets.DataUnavailable, datasets.DataCorrupt) as error:
            raise Refused(error, NO_DATA) from None


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
    ended, code, problems, plots = "", OK, [], options.plots
    try:
        drive(planning.until(options.budget, cells), runs, results, f"python bench.py --scale {facts['scale']}",
              progress)
    except KeyboardInterrupt as interruption:
        ended, code = f"{how(interruption)}: ", code_of(interruption)
        plots = plots and code == INTERRUPTED    # who ends a program by a signal does not wait for pictures
    except store.Gone:                # which _show tells, unless the file is back by then
        ended, code = "stopped: ", FAILED
    except (CannotWrite, executors.Lost) as error:
        ended = "stopped: "
        problems.append(f"{error}; the results so far are kept, and can be gone on with")
    finally:
        progress.close()
        runs.close()
    wall = perf_counter() - start
    problems += _show(results, facts, plots)
    rows = results.rows
    counts = {status: sum(row["status"] == status for row in rows) for status in ("ok", "FAIL", "SKIP")}
    print(f"{ended}{len(rows)} results, {results.added} of them in these {wall:.0f} s: "
          + (", ".join(f"{n} {status}" for status, n in counts.items() if n) or "none"))
    missing = planning.remaining(cells, {(row["cell"], row["precision"]) for row in rows})
    if missing and not ended:
        first = ", ".join(map(str, missing[:3])) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        print(f"not run, because the budget of {planning.duration(options.budget)} was spent: {first}")
    if len(results.done) < facts["results"]:
        print(f"go on with: python bench.py --resume --out {typed(results.folder)}")
    for problem in problems:
        print(f"bench.py: {problem}", file=sys.stderr)
    return code or (FAILED if counts["FAIL"] or problems else OK)


class CannotWrite(Exception):
    """The disk is full, or the like."""


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
        except store.Gone:
            raise
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
    """Prints the results, and writes what is made of them; nothing that cannot be written keeps anybody from reading
    them. Returns what went wrong, in sentences."""
    rows, paths, problems = results.rows, [], []
    try:
        results.check()
        paths.append(results.folder / store.RESULTS)
    except store.Gone as error:
        problems.append(f"{error}: what was deleted is lost, and what was moved is complete in its new place")
    if rows:
        from numprec.harness.show import tables
        print(tables.text(rows, facts), end="\n\n", flush=True)
        for what, write in [("tables", tables.write)] + [("figures", _draw)] * plots:
            try:
                paths += write(rows, facts, results.folder)
            except (OSError, ImportError) as error:    # an installation of matplotlib can be half a one
                problems.append(f"cannot write {what}: {error}")
    print("written: " + (", ".join(map(typed, paths)) or "nothing"))
    return problems


def _draw(rows, facts, folder):
    from numprec.harness.show import figures
    return figures.draw(rows, facts, folder)
