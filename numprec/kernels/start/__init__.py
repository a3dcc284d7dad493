"""What a GPU is: a page for each word, with kernels of a few lines that run.

    python -m numprec.kernels.start                   all pages
    python -m numprec.kernels.start warp barrier      two of them

    grid     block 0              block 1              block 2            what one launch starts
             |                    |                    |
    block    warp 0 | warp 1      warp 0 | warp 1      ...                shares memory, and can wait at a barrier
             |
    warp     lane 0  1  2 ... 31                                          32 threads that go together
                   |
    thread         runs the kernel once, for itself

    kernel[blocks, threads](x, y)     the launch: so many blocks, of so many threads each

Idea       one program, run by thousands of threads: each finds out which one it is, and does its own small part. What
           makes it fast is which threads wait for which, and which memory they touch together
Precision  a kernel takes the type of its arguments: the same lines compute in float64, float32 or float16, and give
           other results. Where the body itself has to name a type, a function of the precision returns the kernel (the
           page one_body_every_precision shows it). A precision has roles: storage is the format of arrays, compute
           that of the operands of products, accum that of sums
Words      a device function (`@cuda.jit(device=True)`) is called by a thread from a kernel, not launched. An atomic
           addition reads, adds and writes as one step; the order is not fixed, so that sums of floats would differ from
           run to run. An oracle is the result by NumPy in float64, which a kernel is compared with. A ladder is one
           operation written several times, slowest first; each version is a rung
Chapters   threads    thread, block, grid, warp, lane, divergence
           memory     coalescing, shared memory, barrier, latency, occupancy
           rounding   unit roundoff, fused multiply-add, a sum that stops, and one body for every precision

A page is a function: it launches kernels and returns what they left, as {what: value}. It is given `run` and `count`.
`run(kernel)[blocks, threads](...)` is the launch: on a GPU `run(kernel)` is the kernel itself, without one it is
numprec.emulator.emulate(kernel). `count(kernel)[blocks, threads](...)` runs the kernel on the emulator, and returns
what a GPU has to do for it (numprec.emulator.profile).
"""
from typing import Callable, NamedTuple


class Page(NamedTuple):
    """`kernels` are what it launches, and `show(run, count)` the launches; the docstring of `show` is its text."""

    name: str
    kernels: tuple
    show: Callable


PAGES = {}
"""{name: Page} of the chapters that were imported, in the order of their import."""


def page(*kernels):
    """Decorator: a function of `run` and `count`, with the kernels that it launches, becomes a page."""
    def register(show):
        PAGES[show.__name__] = Page(show.__name__, kernels, show)
        return show
    return register
