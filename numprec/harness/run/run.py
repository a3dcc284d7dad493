"""One invocation of bench.py, from its request to its exit code: plan, open the folder, run, show."""
import os
import sys
from dataclasses import dataclass, field
from time import perf_counter

from numprec.harness.record import environment, store
from numprec.harness.record.exits import FAILED, INTERRUPTED, NO_DATA, NO_GPU, OK, Refused, typed
from numprec.harness.record.streams import code_of, how
from numprec.harness.run import executors, folders, planning, precompile
from numprec.harness.run.progress import QUIET, Counter, Progress
from numprec.harness.run.worker import Died, NoDevice


def benchmark(request, executor=None):
    """Runs what a Request asks for; tables go to stdout, progress to stderr. Returns the exit code.

    `executor(kind)` makes what runs the cells; by default a worker process does, or the machines of --scheduler.
    """
    try:
        return _benchmark(request, executor)
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


def _benchmark(request, executor):
    if request.device:
        os.environ["NUMPREC_DEVICE"] = request.device    # the estimators ask for themselves
    with _executor(request, executor) as runs:
        try:
            plan = planning.made(request, runs.device, folders.done(request))
        except ValueError as error:
            raise Refused(error) from None
        if request.dry_run:
            print(plan)
            return OK
        if request.strict_data:
            _require_data(plan.cells)
        with folders.opened(request, plan, runs) as (results, facts):
            if dropped := plan.dropped:
                print(f"bench.py: left out to fit into {planning.duration(request.budget)}: {dropped}", file=sys.stderr)
            ending = _run(plan, runs, results, facts, request)
            return _show(ending, plan, results, facts, request)


def _executor(request, executor):
    """What runs the cells, and knows the device."""
    if request.workers and request.scheduler != "local":
        raise Refused("--workers is for --scheduler local; elsewhere there are as many as were started")
    if request.scheduler not in (None, "local"):
        return _cluster(request.scheduler, request.device, None, request.cell_limit)
    from numprec import device as devices
    try:
        kind = devices.kind(request.device)
    except RuntimeError as error:
        raise Refused(error, NO_GPU) from None
    except ValueError as error:
        raise Refused(error) from None
    if request.scheduler:
        return _cluster("local", kind, request.workers, request.cell_limit)
    return executor(kind) if executor else executors.Local(kind, request.cell_limit)


def _cluster(*arguments):
    from numprec.harness.run import cluster
    try:
        return cluster.Cluster(*arguments)
    except cluster.Unreachable as error:
        raise Refused(error) from None


def _require_data(cells):
    from numprec import datasets
    for name in dict.fromkeys(cell.model.data for cell in cells if cell.kind != "kernel"):
        try:
            datasets.load(name)
        except (datasets.DataUnavailable, datasets.DataCorrupt) as error:
            raise Refused(error, NO_DATA) from None


# ---- the run

@dataclass
class Ending:
    """How the cells ended: in words where something stopped them, with an exit code, and what went wrong."""

    stopped: str = ""
    code: int = OK
    problems: list = field(default_factory=list)
    seconds: float = 0.0


def _run(plan, runs, results, facts, request):
    """Runs the cells that are left; returns the Ending."""
    cells, quiet = planning.remaining(plan.cells, results.done), request.verbosity == QUIET
    print(environment.header(facts), end="\n\n", flush=True)
    if results.rows and not quiet:
        print(f"bench.py: {len(results.rows)} results are already there", file=sys.stderr)
    if runs.compiles_ahead and request.budget is None and (units := precompile.missing(cells)):
        if not quiet:
            print("bench.py: the first run compiles the kernels for this CPU, on all cores; later runs load them from "
                  "disk", file=sys.stderr, flush=True)
        precompile.compile_all(units, runs.device.kind, Counter("compiling kernels and models", request.verbosity))
    progress, start, ending = Progress(cells, plan.expected.seconds, request.verbosity), perf_counter(), Ending()
    try:
        drive(planning.until(request.budget, cells), runs, results, f"python bench.py --scale {facts['scale']}",
              progress)
    except KeyboardInterrupt as interruption:
        ending = Ending(f"{how(interruption)}: ", code_of(interruption))
    except store.Gone:                # which _show says, unless the file is back by then
        ending = Ending("stopped: ", FAILED)
    except (CannotWrite, executors.Lost) as error:
        ending = Ending("stopped: ", FAILED, [f"{error}; results so far are kept"])
    finally:
        progress.close()
        runs.close()
    ending.seconds = perf_counter() - start
    return ending


def _show(ending, plan, results, facts, request):
    """Prints and writes the results, and says what is missing. Returns the exit code."""
    problems = ending.problems + _written(results, facts, plots=request.plots and ending.code in (
        OK, FAILED, INTERRUPTED))    # who ends a program by a signal does not wait for pictures
    rows = results.rows
    counts = {status: sum(row["status"] == status for row in rows) for status in ("ok", "FAIL", "SKIP")}
    print(f"{ending.stopped}{len(rows)} results, {results.added} of them in these {ending.seconds:.0f} s: "
          + (", ".join(f"{n} {status}" for status, n in counts.items() if n) or "none"))
    missing = planning.remaining(plan.cells, {(row["cell"], row["precision"]) for row in rows})
    if missing and not ending.stopped:
        first = ", ".join(map(str, missing[:3])) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        print(f"not run, because the budget of {planning.duration(request.budget)} was spent: {first}")
    if len(results.done) < facts["results"]:
        print(f"resume with: python bench.py --resume --out {typed(results.folder)}")
    for problem in problems:
        print(f"bench.py: {problem}", file=sys.stderr)
    return ending.code or (FAILED if counts["FAIL"] or problems else OK)


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


def _written(results, facts, plots):
    """Prints the results, and writes tables and figures; where one cannot be written, the others still are. Returns
    what went wrong, in sentences."""
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
