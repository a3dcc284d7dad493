"""Benchmark of numprec: `python bench.py --precision all`."""
import argparse
import difflib
import re
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
RUNS = ROOT / "runs"
CELL_LIMIT = 7200    # seconds; the longest cell of a quick run takes 25 on two cores

EPILOG = """\
commands
  python bench.py plot RUN           redraw the figures of a run
  python bench.py report RUN         write a run as one HTML page with tables and figures
  python bench.py compare A B        has B become faster or slower than A?
  python bench.py publish            update the README's tables and figures from data/results/
  python bench.py profile            count what kernels make a GPU do; model their time
  python bench.py sanitize           look for bugs in the kernels: races, accesses outside arrays, missed barriers

examples
  python bench.py --precision all                    everything; the results go to a new folder under runs/
  python bench.py --scale smoke                      a first look, in under a minute without a GPU
  python bench.py --operation matmul --precision core
  python bench.py --model LinearRegression --seeds 20
  python bench.py --budget 600 --dry-run             what would run in ten minutes
  python bench.py --resume                           resumes the latest unfinished run
  python bench.py --emulator                         speed of the CPU emulation itself

Without a GPU the same kernels run on the CPU; their times are marked, and say nothing about a GPU.
exit codes: 0 all passed; 1 a result was wrong, failed or cannot be written; 2 usage; 3 --device gpu without a GPU;
4 compare found a regression; 5 --strict-data and a data set is missing; 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP, results so
far kept"""


class Parser(argparse.ArgumentParser):
    """Names the nearest option, command or choice in its errors."""

    def error(self, message):
        guess = None
        if found := re.match(r"unrecognized arguments: ([^\s=]+)", message):
            known = [option for action in self._actions for option in action.option_strings] + list(COMMANDS)
            guess = difflib.get_close_matches(found[1], known, n=1)
        elif found := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            guess = difflib.get_close_matches(found[1], re.findall(r"\w+", found[2]), n=1)
        super().error(message + (f". Did you mean {guess[0]!r}?" if guess else ""))


def parser():
    p = Parser(prog="bench.py", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
               description="Time, error and held-out accuracy of every kernel and model, precision by precision.")
    what = p.add_argument_group("what is run")
    what.add_argument("--precision", default="all", metavar="LIST",
                      help="names (fp16,mixed_fp16), groups (all, core, mixed, native), or one long form "
                           "storage=...,compute=...,accum=...; default all")
    what.add_argument("--model", "--models", metavar="LIST", help="train only these models")
    what.add_argument("--operation", "--operations", "--kernels", metavar="LIST",
                      help="run only these operations or rungs (matmul, matmul/tiled)")
    what.add_argument("--chapter", "--chapters", metavar="LIST",
                      help="run only the operations of these chapters (matmul is its three products)")
    what.add_argument("--scale", choices=("smoke", "quick", "full"),
                      help="size and effort; default full on a GPU, quick without one")
    what.add_argument("--grow", type=_factors, default=(1,), metavar="LIST",
                      help="train on data enlarged synthetically by each of these factors (1,10,100); default 1")
    what.add_argument("--seeds", type=_positive, metavar="N", help="number of data splits per model")
    what.add_argument("--compare", action="store_true",
                      help="also train the same models with scikit-learn and other installed libraries")
    what.add_argument("--strict-data", action="store_true",
                      help="exit with 5 if a data set is missing; otherwise digits replace it, and every row says so")
    how = p.add_argument_group("how")
    how.add_argument("--budget", type=_seconds, metavar="SECONDS",
                     help="fit the plan into this time, with fewer seeds, then precisions; start no cell after it")
    how.add_argument("--cell-limit", type=_seconds, default=CELL_LIMIT, metavar="SECONDS",
                     help=f"stop a cell that takes longer, and run the next (default {CELL_LIMIT}); --resume "
                          "retries it, like cells whose worker was killed")
    how.add_argument("--device", choices=("gpu", "emulator"), help="default: the GPU where there is one")
    how.add_argument("--scheduler", metavar="ADDRESS",
                     help='distribute the cells over the workers of a dask.distributed scheduler (tcp://host:8786), or '
                          '"local": one worker for each GPU of this machine')
    how.add_argument("--workers", type=_positive, metavar="N",
                     help="with --scheduler local: number of workers (default one per GPU; two without a GPU)")
    how.add_argument("--resume", action="store_true",
                     help="continue the run in --out, or the latest unfinished one, with its own options")
    how.add_argument("--fresh", action="store_true", help="discard the run in --out, and start again")
    out = p.add_argument_group("what comes out")
    out.add_argument("--out", metavar="DIR",
                     help="folder of the results; resumes a run of the same kind if it holds one; default a new "
                          "one under runs/")
    out.add_argument("--no-plots", dest="plots", action="store_false", help="tables and raw results only")
    out.add_argument("-q", "--quiet", dest="verbosity", action="store_const", const=-1, default=0,
                     help="no progress; failures are still shown")
    out.add_argument("-v", "--verbose", dest="verbosity", action="store_const", const=1, help="show each result")
    other = p.add_argument_group("instead of a run")
    other.add_argument("--dry-run", action="store_true", help="show the plan with its time and memory, then stop")
    other.add_argument("--list", action="store_true", help="show precisions, models and operations, then stop")
    other.add_argument("--emulator", action="store_true", help="measure the emulator itself, then stop")
    other.add_argument("--clear-cache", action="store_true", help="empty the cache of compiled kernels, then stop")
    return p


def _positive(text):
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _factors(text):
    return tuple(dict.fromkeys(_positive(part.strip()) for part in text.split(",")))


def _seconds(text):
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return seconds


# ---- commands

def _plot(arguments):
    p = Parser(prog="bench.py plot", description="Redraws the figures of a run; needs no GPU.")
    p.add_argument("run", help="its folder")
    folder = p.parse_args(arguments).run
    from numprec.harness.record import store
    from numprec.harness.run import commands
    from numprec.harness.show import figures
    return commands.about(lambda: figures.draw(*reversed(store.read(folder)), folder))


def _report(arguments):
    p = Parser(prog="bench.py report", description="Writes a run as one HTML page with tables and figures.")
    p.add_argument("run", help="its folder")
    folder = p.parse_args(arguments).run
    from numprec.harness.run import commands
    from numprec.harness.show import report
    return commands.about(lambda: [report.write(folder)])


def _compare(arguments):
    p = Parser(prog="bench.py compare", description="Compares two runs, result by result, by a rank test of their "
                                                    "samples: same, faster, slower or ambiguous.",
               epilog="exit codes: 0 no regression; 4 something in B is slower or has become wrong")
    p.add_argument("before", metavar="A", help="folder of the run before")
    p.add_argument("after", metavar="B", help="folder of the run after")
    options = p.parse_args(arguments)
    from numprec.harness.run import commands
    from numprec.harness.show import compare
    return commands.about(lambda: compare.runs(options.before, options.after))


def _publish(arguments):
    p = Parser(prog="bench.py publish", description="Updates the tables and figures in README.md from data/results/.")
    p.add_argument("--check", action="store_true", help="change nothing; exit 1 if they are out of date")
    options = p.parse_args(arguments)
    from numprec.harness.run import commands
    from numprec.harness.show import published
    if options.check:
        return commands.about(lambda: ("\n".join(stale), 1) if (stale := published.stale(ROOT)) else ("", 0))
    return commands.about(lambda: published.update(ROOT))


def _sanitize(arguments):
    p = Parser(prog="bench.py sanitize", formatter_class=argparse.RawDescriptionHelpFormatter,
               description="Runs the kernels on the emulator, which sees every access, in random orders of threads, "
                           "and\nlooks for bugs: accesses outside an array, races, values never written, barriers "
                           "that some\nthreads miss, loops without end.",
               epilog="exit codes: 0 nothing was found; 1 something was; 2 usage")
    p.add_argument("--operation", metavar="LIST", help="only these operations or rungs (matmul/tiled)")
    p.add_argument("--chapter", metavar="LIST", help="only the operations of these chapters")
    p.add_argument("--precision", default="all", metavar="LIST", help="names or groups; default all")
    p.add_argument("--seeds", type=_positive, metavar="N", help="random orders of each launch; default 20")
    p.add_argument("--out", metavar="FILE", default=str(RUNS / "sanitize.jsonl"),
                   help="a line for each rung and precision; existing lines are not computed again")
    options = p.parse_args(arguments)
    from numprec.harness.run import commands
    return commands.sanitize((options.operation, options.chapter), options.precision, options.seeds, options.out)


def _profile(arguments):
    p = Parser(prog="bench.py profile", formatter_class=argparse.RawDescriptionHelpFormatter,
               description="Counts, on the emulator, the work that each rung gives a GPU: sectors of memory, "
                           "bank\nconflicts, idle lanes, operations. Next to them: what the operation needs, and "
                           "a model of the\ntime on a T4, an A100 and an H100; with a GPU, the time measured "
                           "on it, too.")
    which = p.add_mutually_exclusive_group(required=True)
    which.add_argument("--operation", metavar="LIST", help="operations or rungs (matmul/tiled)")
    which.add_argument("--chapter", metavar="LIST", help="all operations of these chapters")
    p.add_argument("--precision", default="fp32", metavar="LIST", help="names or groups; default fp32")
    p.add_argument("--scale", choices=("smoke", "quick", "full"), default="smoke", help="size; default smoke")
    p.add_argument("--lines", action="store_true", help="also count line by line of the source")
    options = p.parse_args(arguments)
    from numprec.harness.run import commands
    return commands.profile((options.operation, options.chapter), options.precision, options.scale, options.lines)


COMMANDS = {"plot": _plot, "report": _report, "compare": _compare, "publish": _publish, "sanitize": _sanitize,
            "profile": _profile}


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    command = COMMANDS.get(arguments[0]) if arguments else None
    options = None if command else parser().parse_args(arguments)
    try:
        import numprec  # noqa: F401
    except ImportError as unusable:      # one sentence: macOS, or Numba's simulator
        sys.exit(f"bench.py: {unusable}")
    if command:
        return command(arguments[1:])
    if options.emulator:
        from numprec.harness.proofs import emulation
        return emulation.benchmark()
    from numprec.harness.run import commands, folders, run
    if options.clear_cache:
        return commands.clear_cache()
    if options.list:
        return commands.show_list()
    asked = request(arguments)
    if options.resume:
        try:
            folder, before = folders.to_resume(asked)
        except folders.Refused as refused:
            print(f"bench.py: {refused}", file=sys.stderr)
            return refused.code
        asked = request([*before, *arguments], asked.command).resumed(folder, before)
    return run.benchmark(asked)


def request(arguments, command=None, root=RUNS):
    """The numprec.harness.run.request.Request of a command line."""
    from numprec.harness.run.request import Request
    return Request.of(parser().parse_args(arguments), root, arguments,
                      command or shlex.join(["python", "bench.py", *arguments]))


if __name__ == "__main__":
    try:
        from numprec.harness.record.streams import guarded
    except ImportError:    # numprec cannot run here; main() says why
        sys.exit(main())
    sys.exit(guarded(main))
