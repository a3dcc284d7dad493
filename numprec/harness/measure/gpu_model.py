"""A *model* of the time that a launch takes on a card, from what the emulator counted and the assembler made.

The model is the largest of what the card's units need, each at its published peak, and of what a warp waits for:

    memory       distinct bytes / bandwidth of the memory
    sectors      32 bytes each / what the caches deliver, 64 bytes a clock for each multiprocessor
    operations   of each kind / its throughput, times the warps' idle lanes
    wavefronts   of shared memory, one a clock
    latency      of a warp: an instruction a clock, which is the most that a scheduler issues for it, 25 clocks for
                 shared memory and 500 for a trip to memory, whose loads between two barriers wait together; for as
                 many rounds as the grid takes at this occupancy

plus the launch itself. It knows nothing of how units overlap, of operands that wait for each other, or of caches that
hold data: it is a floor for most kernels, and an order of magnitude where latency decides. It is there to be refuted by
measurements, and enters no verdict.

Sources: [1] CUDA C++ Programming Guide, "Arithmetic Instructions", table of throughputs; "Multiprocessor Level", for
latencies, in round figures. [2] NVIDIA T4 datasheet and Turing whitepaper; [3] NVIDIA A100 whitepaper (SXM4, 40 GB);
[4] NVIDIA H100 whitepaper (SXM5).
"""
from typing import NamedTuple

from numprec.emulator.profile import SECTOR, WARP_SIZE
from numprec.harness.measure import machine_code

ALU_CLOCKS, MEMORY_CLOCKS, SHARED_CLOCKS = 1, 500, 25
CACHE_BYTES = 64            # that a multiprocessor gets from the second cache in a clock
LAUNCH = 2e-6               # seconds, in a graph


class Card(NamedTuple):
    """`rates`: results a clock and multiprocessor [1], of float16 one by one (packed ones are two)."""

    name: str
    compute_capability: tuple
    multiprocessors: int
    hertz: float
    bandwidth: float        # bytes a second
    rates: dict


def _rates(fp64, fp32, fp16, integer=64, special=16, conversion=64, shuffle=32):
    return {"fp64": fp64, "fp32": fp32, "fp16": fp16, "bf16": fp16, "integer": integer, "special": special,
            "conversion": conversion, "shuffle": shuffle}


CARDS = (Card("T4", (7, 5), 40, 1.59e9, 320e9, _rates(2, 64, 64)),                       # [2]
         Card("A100", (8, 0), 108, 1.41e9, 1555e9, _rates(32, 64, 128)),                 # [3]
         Card("H100", (9, 0), 132, 1.98e9, 3352e9, _rates(64, 128, 128)))                # [4]


class Modelled(NamedTuple):
    """Seconds, what bounds them, and the share of a multiprocessor's threads that its blocks fill."""

    seconds: float
    bound: str
    occupancy: float
    parts: dict


def time(counts, used, card):
    """The model of one launch: its Counts, and the Resources of its kernel on the card."""
    threads = counts.block[0] * counts.block[1] * counts.block[2]
    blocks = counts.grid[0] * counts.grid[1] * counts.grid[2]
    resident = max(1, machine_code.occupancy(used, threads, card.compute_capability,
                                             max(0, counts.shared_bytes - used.shared_bytes)))
    busy = min(card.multiprocessors, blocks)               # multiprocessors that have a block at all
    clock = busy * card.hertz
    idle = WARP_SIZE / counts.lanes if counts.lanes == counts.lanes and counts.lanes else 1.0
    parts = {"memory": (counts.read + counts.written) / card.bandwidth,
             "sectors": SECTOR * counts.sectors / (CACHE_BYTES * clock),
             "wavefronts": counts.wavefronts / clock}
    for what, number in counts.operations.items():
        fmt, _, kind = what.partition(" ")
        unit = "special" if kind == "special" and fmt != "fp64" else fmt
        name = f"{unit} operations" if unit != "special" else "special operations"
        parts[name] = parts.get(name, 0) + number * idle / (card.rates[unit] * clock)
    if counts.shuffles:
        parts["shuffles"] = WARP_SIZE * counts.shuffles / (card.rates["shuffle"] * clock)
    warps = blocks * -(-threads // WARP_SIZE)
    rounds = -(-blocks // (card.multiprocessors * resident))
    requests = counts.global_loads.requests + counts.global_atomics.requests
    shared = counts.shared_loads.requests + counts.shared_atomics.requests
    work = sum(counts.operations.values()) / WARP_SIZE * idle
    chain = (ALU_CLOCKS * work + SHARED_CLOCKS * (shared + counts.barriers) + MEMORY_CLOCKS * min(
        requests, counts.barriers + warps)) / warps        # loads between two barriers wait together
    parts["latency"] = rounds * chain / card.hertz
    bound = max(parts, key=parts.get)
    limit = machine_code.LIMITS[card.compute_capability].threads
    return Modelled(LAUNCH + parts[bound], bound, min(1.0, resident * threads / limit), parts)
