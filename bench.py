"""Benchmark of numprec: `python bench.py --precision all`."""
import argparse
import shlex
import sys
from pathlib import Path

EPILOG = """\
examples
  python bench.py --precision all                    everything; the results go to a new folder under runs/
  python bench.py --scale smoke                      a first look, in under a minute without a GPU
  python bench.py --operation matmul --precision core
  python bench.py --model LinearRegression --seeds 20
  python bench.py --emulator                         how fast the CPU emulation of the kernels is, by itself

Without a GPU the same kernels run on the CPU; their times are marked, and say nothing about a GPU.
exit codes: 0 all passed; 1 a result was wrong or failed; 2 usage; 3 --device gpu and there is none; 130 Ctrl-C"""


def parser():
    p = argparse.ArgumentParser(prog="bench.py", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
                                description="Time, error and held-out accuracy of every kernel and model, "
                                            "precision by precision.")
    p.add_argument("--precision", default="all", metavar="LIST",
                   help="names (fp16,mixed_fp16), groups (all, core, mixed, native), or one long form "
                        "storage=...,compute=...,accum=...; default all")
    p.add_argument("--model", metavar="LIST", help="train only these models")
    p.add_argument("--operation", "--kernels", metavar="LIST",
                   help="run only these operations, chapters or rungs (matmul, solve, matmul/tiled)")
    p.add_argument("--scale", choices=("smoke", "quick", "full"),
                   help="size and effort; default full on a GPU, quick without one")
    p.add_argument("--seeds", type=_positive, metavar="N", help="number of data splits per model")
    p.add_argument("--out", metavar="DIR", help="folder of the results; default a new one under runs/")
    p.add_argument("--device", choices=("gpu", "emulator"), help="default: the GPU where there is one")
    p.add_argument("--no-plots", dest="plots", action="store_false", help="tables and raw results only")
    p.add_argument("--list", action="store_true", help="show precisions, models and operations, and stop")
    p.add_argument("--emulator", action="store_true", help="measure the emulator itself, and stop")
    p.add_argument("--clear-cache", action="store_true", help="empty the emulator's cache of kernels, and stop")
    return p


def _positive(text):
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    try:
        import numprec    # noqa: F401
    except ImportError as unusable:      # one sentence: macOS, or Numba's simulator
        sys.exit(f"bench.py: {unusable}")
    if options.emulator:
        from numprec.harness import emulation
        return emulation.benchmark()
    from numprec.harness import run
    if options.clear_cache:
        return run.clear_cache()
    if options.list:
        return run.show_list()
    command = shlex.join(["python", "bench.py", *arguments])
    return run.benchmark(options, command, root=Path(__file__).resolve().parent / "runs")


if __name__ == "__main__":
    sys.exit(main())
