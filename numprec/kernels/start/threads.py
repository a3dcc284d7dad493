"""Threads, and what they are grouped in: blocks, a grid, warps.

Idea       Each thread computes from its place in the grid which element is its own.
Shapes     x (n,), out (n,): float32 or int32; what a page launches is written in it
Mapping    place i = block * threads of a block + thread; warp = place in the block // 32, lane = place in it % 32
Precision  nothing is rounded: small integers, and squares of them
Cost       one element a thread
Sources    NVIDIA, CUDA C++ Programming Guide, sections "Thread Hierarchy" and "SIMT Architecture"
Try        python -m numprec.kernels.start divergence
           How many lanes are active on average if `uneven` goes through its loop 31 times in each lane? Answer: 32
"""
import numpy as np
from numba import cuda

from numprec.kernels.start import page


@cuda.jit
def square(x):
    i = cuda.grid(1)      # blockIdx.x * blockDim.x + threadIdx.x
    if i < x.size:        # the last block may be larger than what is left
        x[i] = x[i] * x[i]


@page(square)
def thread(run, count):
    """A thread runs the kernel once, for itself. The launch says how many there are; each asks which one it is."""
    x = np.arange(1000, dtype=np.float32)
    run(square)[4, 256](x)
    return {"x[3], x[999]": (float(x[3]), float(x[999])), "threads without an element": 4 * 256 - x.size}


@cuda.jit
def places(block, inside):
    i = cuda.grid(1)
    block[i], inside[i] = cuda.blockIdx.x, cuda.threadIdx.x


@page(places)
def grid(run, count):
    """Threads come in blocks, blocks in a grid. A block stays on one multiprocessor; blocks run in any order, and do
    not wait for each other."""
    block, inside = np.empty(8, np.int32), np.empty(8, np.int32)
    run(places)[2, 4](block, inside)
    return {"blockIdx.x": tuple(block.tolist()), "threadIdx.x": tuple(inside.tolist())}


@cuda.jit
def together(active, other):
    i = cuda.grid(1)
    active[i] = cuda.popc(cuda.ballot_sync(0xFFFFFFFF, i < 40))       # how many lanes of this warp say yes
    other[i] = cuda.shfl_xor_sync(0xFFFFFFFF, 10 * cuda.laneid, 1)    # lane i reads what lane i xor 1 has


@page(together)
def warp(run, count):
    """32 threads of a block, the lanes of a warp, execute an instruction together. They can vote, and read each other's
    registers (a shuffle), without a barrier. 0xFFFFFFFF has a bit for each lane that takes part: all 32."""
    active, other = np.empty(64, np.int32), np.empty(64, np.int32)
    run(together)[1, 64](active, other)
    return {"lanes with i < 40, of warp 0 and 1": (int(active[0]), int(active[32])),
            "lanes 0 to 3 have 0, 10, 20, 30, and read": tuple(other[:4].tolist())}


@cuda.jit
def uneven(x, out):
    i = cuda.grid(1)
    total = x[i]
    for k in range(i % 32):
        total += x[i + 32 * k]
    out[i] = total


@page(uneven)
def divergence(run, count):
    """A warp runs both ways of a branch in turn; lanes that do not take one wait. It takes as long as its longest lane.
    Here lane i goes i times through a loop, so that half of the lanes have nothing to do, on average."""
    x, out = np.ones(32 * 32, np.float32), np.empty(32, np.float32)
    counts = count(uneven)[1, 32](x, out)
    loads = counts.global_loads
    return {"loads that the warp makes": loads.requests, "active lanes in each, of 32": loads.lanes / loads.requests}
