"""Runs the pages of Part 0 and prints them: all, or those whose names are given.

    python -m numprec.kernels.start
    python -m numprec.kernels.start warp barrier

A command line, which is why it may bring device and emulator along; the chapters know neither.
"""
import argparse
import importlib
import inspect
import sys
import textwrap

from numprec import device, emulator
from numprec.kernels import PARTS, start

CHAPTERS = [importlib.import_module(f"numprec.kernels.start.{chapter}") for chapter in PARTS["start"]]
PAGES = {name: page for chapter in CHAPTERS for name, page in start.PAGES.items()    # in reading order
         if page.show.__module__ == chapter.__name__}


def run(kernel):
    """The kernel itself where there is a GPU, else what runs it without one; either is launched with [grid, block]."""
    return kernel if device.kind() == "gpu" else emulator.emulate(kernel)


class count:
    """`count(kernel)[grid, block](...)` runs a kernel on the emulator and returns what was counted."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, configuration):
        def launch(*args):
            with emulator.profile() as counts:
                emulator.emulate(self.kernel)[configuration](*args)
            return counts.launches[0]
        return launch


def source(kernel):
    """The text of a kernel, or of the factory of one."""
    return inspect.getsource(getattr(kernel, "py_func", kernel)).rstrip()


def text(page):
    """A page: its name, what there is to know, the kernels, their launch, and what they left."""
    title, body = page.name.replace("_", " "), inspect.getsource(page.show)
    launches = textwrap.dedent(body.split('"""', 2)[2].strip("\n"))
    lines = [title, "=" * len(title), *textwrap.wrap(" ".join(page.show.__doc__.split()), 100), ""]
    for block in (*map(source, page.kernels), launches.rstrip()):
        lines += [textwrap.indent(block, "    "), ""]
    found = page.show(run, count)
    width = max(map(len, found))
    return "\n".join([*lines, *(f"{what:<{width}}  {_plain(value)}" for what, value in found.items())])


def _plain(value):
    if isinstance(value, tuple):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if abs(value) < 1 else f"{value:,.10g}"


def main(arguments=None):
    """The command line; returns the exit code."""
    p = argparse.ArgumentParser(prog="python -m numprec.kernels.start", description=__doc__.splitlines()[0])
    p.add_argument("page", nargs="*", help=f"of {', '.join(PAGES)}; default all")
    names = p.parse_args(arguments).page
    for name in names:
        if name not in PAGES:
            p.error(f"there is no page {name!r}; there are {', '.join(PAGES)}")
    print("\n\n\n".join(text(PAGES[name]) for name in names or PAGES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
