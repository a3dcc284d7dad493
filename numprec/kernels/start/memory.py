"""Memory: what is near, what is far, and what the threads of a warp touch together.

Idea       Arithmetic is cheap, memory is far: load what neighbours need together, keep it near, have enough threads
           that some can work while others wait.
Shapes     x, out (n,) or (32, 32), tile (32, 32): float32; following (n,): int32
Mapping    registers belong to a thread, shared memory to a block, global memory to the grid. A GPU moves sectors of 32
           bytes of global memory; shared memory serves a word of each of its 32 banks at a time
Precision  elements of 2 bytes in place of 8 are a quarter of the sectors: this is where low precision pays first
Cost       a T4 holds 1,024 threads and 64 KB of shared memory on each multiprocessor
Sources    NVIDIA, CUDA C++ Best Practices Guide, sections "Coalesced Access to Global Memory", "Shared Memory and
           Memory Banks" and "Occupancy"; CUDA C++ Programming Guide, "Features and Technical Specifications per
           Compute Capability"
Try        python -m numprec.kernels.start coalescing
           How many sectors does a warp load if each lane reads the float32 2 places after the last lane's? Answer: 8
"""
import numpy as np
from numba import cuda, float32

from numprec.kernels.start import page


@cuda.jit
def strided(x, stride, out):
    i = cuda.grid(1)
    out[i] = x[i * stride]


@page(strided)
def coalescing(run, count):
    """When the 32 lanes of a warp read neighbours, their loads are a few sectors: coalesced. A lane that reads its
    float32 far from the others' moves 32 bytes for 4."""
    x, out = np.ones(32 * 8, np.float32), np.empty(32, np.float32)
    return {f"sectors of a load, stride {stride}": count(strided)[1, 32](x, stride, out).global_loads.units
            for stride in (1, 4, 8)}


@cuda.jit
def reverse(x):
    near = cuda.shared.array(256, float32)
    i = cuda.threadIdx.x
    near[i] = x[i]
    cuda.syncthreads()        # near is complete
    x[i] = near[255 - i]


@page(reverse)
def barrier(run, count):
    """The threads of a block share memory that lies near. What another thread writes is there after a barrier, and not
    before: `cuda.syncthreads()` waits until every thread of the block has come. Without it, `numprec.emulator.sanitize`
    names the lines that race."""
    x = np.arange(256, dtype=np.float32)
    run(reverse)[1, 256](x)
    return {"x[0], x[255]": (float(x[0]), float(x[255])),
            "barriers, by 8 warps": count(reverse)[1, 256](x).barriers}


@cuda.jit
def transpose(x, out):
    tile = cuda.shared.array((32, 32), float32)
    lane, row = cuda.threadIdx.x, cuda.threadIdx.y
    tile[row, lane] = x[row, lane]
    cuda.syncthreads()        # tile is complete
    out[row, lane] = tile[lane, row]


@cuda.jit
def transpose_padded(x, out):
    tile = cuda.shared.array((32, 33), float32)      # a column goes through all banks
    lane, row = cuda.threadIdx.x, cuda.threadIdx.y
    tile[row, lane] = x[row, lane]
    cuda.syncthreads()        # tile is complete
    out[row, lane] = tile[lane, row]


@page(transpose, transpose_padded)
def shared_memory(run, count):
    """Shared memory has 32 banks, and consecutive words lie in consecutive banks. Lanes that want different words of
    one bank wait for each other: a column of a tile of 32 x 32 takes 32 passes; one more word in each row, and it takes
    one."""
    x, out = np.ones((32, 32), np.float32), np.empty((32, 32), np.float32)
    loads = [count(kernel)[1, (32, 32)](x, out).shared_loads for kernel in (transpose, transpose_padded)]
    return {f"passes of a load, rows of {width} words": t.units // t.requests for width, t in zip((32, 33), loads)}


@cuda.jit
def chase(following, out):
    i = 0
    for _ in range(following.size):
        i = following[i]                             # where the next load is, this one says
    out[0] = i


@cuda.jit
def touch(following, out):
    i = cuda.grid(1)
    if i < following.size:
        out[i] = following[i]


@page(chase, touch)
def latency(run, count):
    """Latency is the time from a load to its number: hundreds of cycles for global memory. Loads that do not need each
    other's results are under way together. A chain of links is one load after another; 1,024 threads ask for the same
    1,024 numbers at once."""
    following, out = np.roll(np.arange(1024, dtype=np.int32), -1), np.empty(1024, np.int32)
    return {"loads of a warp in a row, chain": count(chase)[1, 1](following, out).global_loads.requests,
            "loads of a warp in a row, 32 warps": count(touch)[4, 256](following, out).global_loads.requests // 32}


@cuda.jit
def roomy(x):
    near = cuda.shared.array(8192, float32)
    i = cuda.grid(1)
    near[cuda.threadIdx.x] = x[i]
    x[i] = near[cuda.threadIdx.x]


THREADS, SHARED_BYTES = 1024, 64 * 1024              # that a multiprocessor of a T4 holds at once


@page(roomy)
def occupancy(run, count):
    """While one warp waits for memory another one works: a multiprocessor wants many of them. Occupancy is
    the warps that it holds over the most that it can hold; shared memory and registers of a block limit it."""
    counts = count(roomy)[1, 256](np.ones(256, np.float32))
    blocks = min(THREADS // 256, SHARED_BYTES // counts.shared_bytes)
    return {"bytes of shared memory of a block": counts.shared_bytes, "blocks on a T4's multiprocessor": blocks,
            "occupancy": blocks * 256 / THREADS}
