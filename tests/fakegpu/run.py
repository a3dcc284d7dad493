"""Runs a command on a machine that seems to have an NVIDIA GPU.

    python tests/fakegpu/run.py [--card 7.5 | 9.0 | 8.0 | 6.1] [NAME=VALUE ...] COMMAND ...
    python tests/fakegpu/run.py --card 9.0 python -m pytest -n 0 tests/test_device.py

Needs gcc and the extra cu12. Where one of them is missing it says so, runs nothing, and exits with 0; with 1 where
--require is given. README.md beside this file lists the variables that NAME=VALUE may set.
"""
import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
WARNINGS = ("-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-variable", "-Wno-unused-const-variable",
            "-Wno-deprecated-declarations", "-Wno-misleading-indentation", "-Wno-sign-compare")


def missing():
    """What it lacks here, in words; None for nothing."""
    if sys.platform != "linux":
        return "it is a shared library of Linux"
    if shutil.which("gcc") is None:
        return "there is no gcc"
    if not (_packages() / "nvidia" / "cuda_runtime" / "include" / "cuda.h").exists():
        return "there is no cuda.h: install numprec with the extra cu12"
    return None


def _packages():
    return Path(sysconfig.get_path("platlib"))


def build(folder):
    """Compiles libcuda.so.1 and libnvidia-ml.so.1 into a folder."""
    packages = _packages()
    include = packages / "nvidia" / "cuda_runtime" / "include"
    bindings = packages / "cuda" / "bindings" / "_internal" / "driver_linux.pyx"
    generate = [sys.executable, HERE / "generate.py", include / "cuda.h", bindings, HERE / "fakecuda.c"]
    generated = subprocess.run(generate, check=True, stdout=subprocess.PIPE).stdout
    (folder / "generated.h").write_bytes(generated)
    for source, library in ("fakecuda.c", "libcuda.so.1"), ("fakenvml.c", "libnvidia-ml.so.1"):
        subprocess.run(["gcc", "-O1", "-g", "-shared", "-fPIC", *WARNINGS, f"-I{folder}", f"-I{include}", HERE / source,
                        "-o", folder / library, f"-Wl,-soname,{library}", "-lpthread"], check=True)


def environment(folder, **variables):
    """The variables of a process that is to see the card."""
    def before(name, value):
        return os.pathsep.join(filter(None, [str(value), os.environ.get(name)]))
    return {**os.environ, "FAKEGPU_LIB": str(folder / "libcuda.so.1"), "NUMPREC_DEVICE": "gpu",
            "LD_LIBRARY_PATH": before("LD_LIBRARY_PATH", folder), "PYTHONPATH": before("PYTHONPATH", HERE), **variables}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--card", default="7.5", help="compute capability of the card")
    parser.add_argument("--require", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command, variables = options.command, {"FAKEGPU_CC": options.card}
    while command and "=" in command[0]:
        name, _, variables[name] = command.pop(0).partition("=")
    if not command:
        parser.error("there is no command to run")
    if (reason := missing()) is not None:
        print(f"no stand-in for a GPU here, so nothing is run: {reason}", file=sys.stderr)
        return int(options.require)
    with tempfile.TemporaryDirectory(prefix="fakegpu-") as folder:
        build(Path(folder))
        return subprocess.run(command, env=environment(Path(folder), **variables)).returncode


if __name__ == "__main__":
    sys.exit(main())
