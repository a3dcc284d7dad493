"""Why is a kernel slow? What a GPU would have to do for it, counted: the exact part of what Nsight Compute shows.

    with profile() as counts:
        emulate(kernel)[grid, block](x, y)
    print(counts)                    a table, line by line; counts.launches holds the numbers

Counted are, over all warps of a launch:

    requests      instructions that access memory, once for each warp that makes them
    sectors       32 bytes of global memory each, that the lanes of a request touch together: what a GPU moves
    efficiency    bytes that the lanes asked for / bytes of those sectors
    wavefronts    passes that a request to shared memory takes: 32 banks of 4 bytes serve one word each at a time, so
                  that lanes which want different words of one bank wait for each other (bank conflicts); requests of 8
                  and 16 bytes a lane are served by half and by quarter warps
    lanes         that were active in a request, of 32: fewer show divergence, or threads that have nothing to do
    barriers, syncwarps, shuffles    made by a warp; shuffles, votes and matches alike
    operations    of threads, by format: fma, add, mul, special (division, roots, exp, ...); conversions; integers. They
                  are those that LLVM's optimiser leaves, see instrument.py: NVIDIA's may leave some more or less
    read, written distinct bytes: those read before the launch wrote them, and those written; the least traffic there is

The lanes of a warp run one after another here. What is the same request is told by counting: the k-th time that a lane
comes to an instruction between two barriers or warp operations belongs to the k-th time of the others. This is exact
where the lanes go through a loop nest alike, or through a single loop a different number of times.

Source: CUDA C++ Best Practices Guide, "Coalesced Access to Global Memory" and "Shared Memory and Memory Banks"; Nsight
Compute documentation, "Memory Tables".
"""
import contextlib
import linecache
from dataclasses import dataclass, field

import numpy as np
from numba import njit
from tabulate import tabulate

from numprec.emulator import listening
from numprec.emulator.instrument import ATOMIC, BARRIER, GRID, LOAD, STORE, VOTE, WARP
from numprec.emulator.listening import IN_SHARED

SECTOR, BANKS, WORD, WARP_SIZE = 32, 32, 4, 32

# columns of what is counted for each site, in global and in shared memory
REQUESTS, LANES, UNITS, NEEDED = range(4)


@njit(cache=True)
def _sectors(addresses, count, length, seen):
    """(distinct sectors, distinct bytes) of a request of `count` lanes."""
    sectors, needed, last, before = 0, 0, -1, -1
    for i in range(count):
        address = addresses[i]
        if address < before:
            return _scattered_sectors(addresses, count, length, seen)
        if address != before:
            needed += length
            final = (address + length - 1) // SECTOR
            sectors += final - max(last, address // SECTOR - 1)
            last, before = final, address
    return sectors, needed


@njit(cache=True)
def _scattered_sectors(addresses, count, length, seen):
    """The same of lanes in any order."""
    sectors, needed = 0, 0
    for i in range(count):
        new = True
        for j in range(i):
            if addresses[j] == addresses[i]:
                new = False
                break
        if not new:
            continue
        needed += length
        for s in range(addresses[i] // SECTOR, (addresses[i] + length - 1) // SECTOR + 1):
            known = False
            for j in range(sectors - 1, -1, -1):
                if seen[j] == s:
                    known = True
                    break
            if not known:
                seen[sectors] = s
                sectors += 1
    return sectors, needed


@njit(cache=True)
def _wavefronts(addresses, lanes, count, length, words, busy):
    """Passes of a request to shared memory. `words` has room for those of each bank."""
    low, high = addresses[0], addresses[0]
    for i in range(count):
        low, high = min(low, addresses[i]), max(high, addresses[i])
    if length <= WORD and (high + length - 1) // WORD - low // WORD < BANKS:
        return 1
    phases = 1 if length <= WORD else 2 if length <= 2 * WORD else 4
    total = 0
    for phase in range(phases):
        longest = 0
        busy[:] = 0
        for i in range(count):
            if lanes[i] * phases // WARP_SIZE != phase:
                continue
            for w in range(addresses[i] // WORD, (addresses[i] + length - 1) // WORD + 1):
                bank = w & BANKS - 1
                j = 0
                while j < busy[bank] and words[bank, j] != w:
                    j += 1
                if j == busy[bank]:
                    words[bank, j] = w
                    busy[bank] = j + 1
                    longest = max(longest, j + 1)
        total += longest
    return total


@njit(cache=True)
def _request(site, shared, addresses, lanes, count, sites, totals, seen, words, busy):
    """Counts a request, or a wait, of `count` lanes."""
    space, length = 1 if shared else 0, sites[site, 3]
    totals[site, space, REQUESTS] += 1
    totals[site, space, LANES] += count
    if sites[site, 0] > ATOMIC:
        return
    if shared:
        totals[site, 1, UNITS] += _wavefronts(addresses, lanes, count, length, words, busy)
    else:
        sectors, needed = _sectors(addresses, count, length, seen)
        totals[site, 0, UNITS] += sectors
        totals[site, 0, NEEDED] += needed


@njit(cache=True)
def _alike(events):
    """How many events each lane has, if all have the same sites in the same order; else 0."""
    each = 1
    while each < len(events) and events[each, 1] >> 32 == events[0, 1] >> 32:
        each += 1
    if len(events) % each:
        return 0
    differ, lanes = 0, 0
    for begin in range(0, len(events), each):
        thread = events[begin, 1] >> 32
        differ |= lanes >> (thread & 31) & 1           # one that has been there before
        lanes |= 1 << (thread & 31)
        for e in range(each):
            differ |= events[begin + e, 1] ^ (thread << 32 | events[e, 1] & 0xFFFFFFFF)
    return 0 if differ else each


@njit(cache=True)
def _count_warp(events, sites, totals, times, arguments, read, written):
    """Counts what one warp did between two waits. Addresses become those of a GPU, whose allocations begin at a
    sector."""
    for e in range(len(events)):
        address, word = events[e, 0], events[e, 1]
        site = word & 0x3FFFFFFF
        kind, length = sites[site, 0], sites[site, 3]
        if kind <= ATOMIC and not word & IN_SHARED:
            a = sites[site, 2]
            if a < 0:
                a = 0
                while not arguments[a, 0] <= address < arguments[a, 1]:
                    a += 1
            place = arguments[a, 2] + address - arguments[a, 0]
            if kind != STORE:
                for b in range(place, place + length):
                    read[b] |= not written[b]
            if kind != LOAD:
                for b in range(place, place + length):
                    written[b] = True
            events[e, 0] -= arguments[a, 3]
    seen, busy = np.empty(WARP_SIZE * 16, np.int64), np.empty(BANKS, np.int64)
    words = np.empty((BANKS, WARP_SIZE), np.int64)      # a lane wants at most one word of each bank
    each = _alike(events)
    if each:
        addresses, lanes = np.empty(WARP_SIZE, np.int64), np.empty(WARP_SIZE, np.int64)
        count = len(events) // each
        for i in range(count):
            lanes[i] = events[i * each, 1] >> 32 & 31
        for e in range(each):
            for i in range(count):
                addresses[i] = events[e + i * each, 0]
            word = events[e, 1]
            _request(word & 0x3FFFFFFF, word & IN_SHARED, addresses, lanes, count, sites, totals, seen, words, busy)
        return
    most = np.zeros(len(sites) + 1, np.int64)
    for e in range(len(events)):
        word = events[e, 1]
        site, lane = word & 0x3FFFFFFF, word >> 32 & 31
        times[lane, site] += 1
        most[site + 1] = max(most[site + 1], times[lane, site])
    for e in range(len(events)):
        word = events[e, 1]
        times[word >> 32 & 31, word & 0x3FFFFFFF] = 0
    first = np.cumsum(most)
    rows = first[-1]
    addresses, lanes = np.empty((rows, WARP_SIZE), np.int64), np.empty((rows, WARP_SIZE), np.int64)
    filled, shared = np.zeros(rows, np.int64), np.zeros(rows, np.bool_)
    for e in range(len(events)):
        word = events[e, 1]
        site, lane = word & 0x3FFFFFFF, word >> 32 & 31
        row = first[site] + times[lane, site]
        times[lane, site] += 1
        addresses[row, filled[row]], lanes[row, filled[row]] = events[e, 0], lane
        filled[row] += 1
        shared[row] = word & IN_SHARED != 0
    for site in range(len(sites)):
        for row in range(first[site], first[site + 1]):
            _request(site, shared[row], addresses[row], lanes[row], filled[row], sites, totals, seen, words, busy)
    for e in range(len(events)):
        word = events[e, 1]
        times[word >> 32 & 31, word & 0x3FFFFFFF] = 0


@njit(cache=True)
def _count(events, sites, totals, times, arguments, read, written, ended):
    """Counts all warps' stretches that are over; returns how many events belong to them."""
    begin, warp = 0, -1
    for e in range(len(events)):
        word = events[e, 1]
        site, thread = (word & 0x7FFFFFFF) - (word & 0x80000000), word >> 32
        if site < 0 or thread // WARP_SIZE != warp:
            if e > begin:
                _count_warp(events[begin:e], sites, totals, times, arguments, read, written)
            begin = e + 1 if site < 0 else e           # what lies outside its array is the sanitizer's
            warp = -1 if site < 0 else thread // WARP_SIZE
    if ended and len(events) > begin:
        _count_warp(events[begin:], sites, totals, times, arguments, read, written)
        begin = len(events)
    return begin


@njit(cache=True)
def _going_on(events, thread):
    """How many events belong to a stretch that has begun before, with one of a thread."""
    count = 0
    while count < len(events) and not events[count, 1] & 0x80000000 and (
            events[count, 1] >> 32) // WARP_SIZE == thread // WARP_SIZE:
        count += 1
    return count


@dataclass(frozen=True)
class Traffic:
    """Accesses of one kind: requests of warps, active lanes in them, `units` (sectors of global memory, wavefronts of
    shared memory), and the distinct bytes that the lanes of each request asked for."""

    requests: int = 0
    lanes: int = 0
    units: int = 0
    needed: int = 0

    def __add__(self, other):
        return Traffic(self.requests + other.requests, self.lanes + other.lanes, self.units + other.units,
                       self.needed + other.needed)


@dataclass(frozen=True)
class Counts:
    """What a launch did; see the module. `lines` holds the same by (file, line, kind, space), `operations` those of
    threads by name."""

    kernel: str
    grid: tuple
    block: tuple
    shared_bytes: int
    global_loads: Traffic
    global_stores: Traffic
    global_atomics: Traffic
    shared_loads: Traffic
    shared_stores: Traffic
    shared_atomics: Traffic
    barriers: int
    syncwarps: int
    shuffles: int
    operations: dict
    read: int
    written: int
    lines: dict = field(repr=False)

    @property
    def sectors(self):
        """Of global memory, whichever way."""
        return self.global_loads.units + self.global_stores.units + self.global_atomics.units

    @property
    def wavefronts(self):
        """Of shared memory, whichever way."""
        return self.shared_loads.units + self.shared_stores.units + self.shared_atomics.units

    @property
    def efficiency(self):
        """Bytes asked for / bytes moved, of global memory; NaN where there was none."""
        needed = self.global_loads.needed + self.global_stores.needed + self.global_atomics.needed
        return needed / (SECTOR * self.sectors) if self.sectors else float("nan")

    @property
    def lanes(self):
        """Active ones in a request, on average."""
        all_ = (self.global_loads + self.global_stores + self.global_atomics + self.shared_loads + self.shared_stores
                + self.shared_atomics)
        return all_.lanes / all_.requests if all_.requests else float("nan")

    @property
    def flops(self):
        """Operations in floating point, an fma as two."""
        return sum(n * (2 if what.endswith("fma") else 1) for what, n in self.operations.items() if " " in what)

    def __str__(self):
        """A table, line by line of the source."""
        rows = []
        for (file, line, kind, space), t in sorted(self.lines.items()):
            accesses = kind <= ATOMIC
            rows.append((line, f"{space} {_NAMES[kind]}" if accesses else _NAMES[kind], t.requests,
                         t.units / t.requests if accesses else None,
                         t.needed / (SECTOR * t.units) if accesses and space == "global" else None,
                         t.lanes / t.requests, linecache.getline(file, line).strip()[:60]))
        computed = ", ".join(f"{what} {n:,}" for what, n in sorted(self.operations.items()))
        return (f"kernel {self.kernel}, grid {self.grid}, block {self.block}, {self.shared_bytes:,} bytes of shared "
                f"memory\noperations of threads: {computed}\ndistinct bytes: {self.read:,} read, {self.written:,} "
                f"written; moved: {SECTOR * self.sectors:,}\n\n" + tabulate(
                    rows, ("line", "what", "requests", "sectors,\nwavefronts\na request", "efficiency", "lanes",
                           "source"), floatfmt=(".0f", "", ".0f", ".2f", ".2f", ".1f", "")))


class Profile:
    """A listener that counts; `launches` holds the Counts, one a launch."""

    rounds = 2 ** 62          # of loops: nothing is given up

    def __init__(self):
        self.launches = []

    def begin(self, launch):
        self._launch, rows, size = launch, [], 0
        for _, array in launch.arguments:
            low, high = np.lib.array_utils.byte_bounds(array)
            owner = array
            while isinstance(owner.base, np.ndarray):
                owner = owner.base
            rows.append((low, high, size, owner.ctypes.data))      # a GPU's allocations begin at sectors
            size += high - low
        self._sites = np.array([s[:4] for s in launch.sites] or [(0,) * 4], np.int64)
        self._totals = np.zeros((len(self._sites), 2, 4), np.int64)
        self._read, self._written = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
        self._rest = (self._sites, self._totals, np.zeros((WARP_SIZE, len(self._sites)), np.int64),
                      np.array(rows or [(0,) * 4], np.int64), self._read, self._written)
        self._left = np.empty((0, 2), np.int64)

    def hear(self, events):
        events = events.view(np.int64).reshape(-1, 2)
        if len(self._left):                            # a stretch goes on that has begun before
            cut = _going_on(events, self._left[0, 1] >> 32)
            self._left = np.concatenate([self._left, events[:cut]])
            if cut == len(events):
                return
            _count(self._left, *self._rest, True)
            events = events[cut:]
        self._left = events[_count(events, *self._rest, False):].copy()

    def end(self, whole):
        if not whole:
            return
        _count(self._left, *self._rest, True)
        launch, lines = self._launch, {}
        for site, totals in zip(launch.sites, self._totals):
            for space, numbers in zip(("global", "shared"), totals):
                if numbers[REQUESTS]:
                    key = site.file, site.line, site.kind, space
                    lines[key] = lines.get(key, Traffic()) + Traffic(*map(int, numbers))

        def total(kind, space):
            return sum((t for (_, _, k, s), t in lines.items() if (k, s) == (kind, space)), Traffic())

        operations = {}
        for count, block in zip(launch.counts.tolist(), launch.operations):
            for what, n in block.items():
                operations[what] = operations.get(what, 0) + n * count
        self.launches.append(Counts(
            launch.kernel, launch.grid, launch.block, launch.shared_bytes,
            *(total(kind, space) for space in ("global", "shared") for kind in (LOAD, STORE, ATOMIC)),
            *(sum(total(kind, "global").requests for kind in kinds) for kinds in ((BARRIER, GRID), (WARP,), (VOTE,))),
            {what: round(n) for what, n in operations.items()}, int(self._read.sum()), int(self._written.sum()), lines))

    def __str__(self):
        return "\n\n".join(map(str, self.launches))


_NAMES = {LOAD: "load", STORE: "store", ATOMIC: "atomic", BARRIER: "barrier", GRID: "grid barrier", WARP: "syncwarp",
          VOTE: "shuffle"}


@contextlib.contextmanager
def profile():
    """Counts the launches of this thread inside; yields a Profile."""
    counts = Profile()
    with listening.heard_by(counts):
        yield counts
