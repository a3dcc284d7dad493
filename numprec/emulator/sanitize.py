"""Is a kernel right? What NVIDIA's compute-sanitizer asks on a GPU (memcheck, racecheck, initcheck, synccheck), here.

    with sanitize():
        emulate(kernel)[grid, block](x, y)        raises SanitizerError: what, where, and who else

It listens to the launches of this thread (`listening`) and keeps, beside each element of an array, who wrote and who
read it last, and when. Time is counted in *intervals* between barriers, and within a warp in those between
`syncwarp`s, by a clock for each lane (a vector clock: L. Lamport, Time, clocks and the ordering of events in a
distributed system, CACM 21(7), 1978; F. Mattern, Virtual time and global states of distributed systems, 1989). Two
accesses of one element race if one of them writes, not both are atomic, they come from different threads, and neither
a barrier nor a `syncwarp` that both took part in lies between. Shuffles and votes order nothing: CUDA promises no
memory ordering for them (CUDA C++ Programming Guide, "Warp Shuffle Functions"). Between blocks only the barrier of a
grid orders; the end of a launch orders everything.

Each thread runs in some order (`seed` shuffles it); what is found does not need the race to happen, but it needs the
accesses to be made, and of many readers three are kept.
"""
import contextlib

import numpy as np
from numba import njit

from numprec.emulator import fresh, listening
from numprec.emulator.errors import EmulatorError
from numprec.emulator.findings import (BEYOND, DIVERGED, ENDLESS, EXITED, FINDING, FINDINGS, LANES, MISALIGNED, RACE,
                                       THREAD, UNWRITTEN, sentence)
from numprec.emulator.instrument import ANYWHERE, ATOMIC, GLOBAL, LOAD, LOOP, SHARED, STORE, WARP
from numprec.emulator.listening import COMPLETES, FOR_GRID, GOES_ON, IN_SHARED, OPENS, STARTS


class SanitizerError(EmulatorError):
    """A kernel has a bug. `findings` are the sentences, one each."""

    def __init__(self, findings):
        self.findings = list(findings)
        super().__init__("\n".join(self.findings))


# ---- the analysis; it takes plain arrays of int64, as Numba passes records and tuples of arrays slowly. In the loop
# over events no variable stands for now this array, now that one, as Numba would count references to them there
#
# An access is two numbers: who (block and thread) and at which site, 0 for nobody; and when: the interval, above it the
# barriers of the grid that were passed, above those the clock of the lane. A granule, the smallest unit that the kernel
# accesses, has five: the last writer; of several atomic ones, the one before it by another thread; the last reader; the
# one before it by another thread, and by another block.
_WRITER, _UPDATER, _READER, _BESIDE, _ELSEWHERE = range(0, 10, 2)
_CELL = 10
_SITE, _WHEN, _ROUND, _CLOCK = 20, 31, 16, 16         # bits

# columns of `here`: the block that runs and its slot, the last interval numbered, findings, threads of a block, the
# binary logarithm of a granule of shared memory, granules of a slot; of `slots`; and of `arguments`
_BLOCK, _SLOT, _LAST, _FOUND, _THREADS, _SHIFT, _ROOM = range(7)
_NOW, _BEGAN, _ROUNDS = range(3)
_LOW, _HIGH, _GRANULE, _PLACE, _EMPTY, _START = range(6)


@njit(cache=True)
def _find(found, here, kind, site, other, thread, who, value):
    """Counts a finding, or notes it where there is none of its kind and sites."""
    for i in range(here[_FOUND]):
        if found[i, 0] == kind and found[i, 1] == site and found[i, 2] == other:
            found[i, 7] += 1
            return
    i = here[_FOUND]
    if i < len(found):
        found[i, 0], found[i, 1], found[i, 2], found[i, 3] = kind, site, other, here[_BLOCK]
        found[i, 4], found[i, 5], found[i, 6], found[i, 7] = thread, who, value, 1
        here[_FOUND] = i + 1


@njit(cache=True, forceinline=True)
def _may_race(cells, at, mine, when, began):
    """Whether an access may race with the one noted at `cells[at]`: another thread's, in this interval or of another
    block. What was accessed before the interval `began` is another block's, in memory of its own."""
    past, interval = cells[at], cells[at + 1] & (1 << _WHEN) - 1
    differs = past ^ mine
    return (past != 0) & (differs >> _SITE != 0) & (interval >= began) & (
        (differs >> _SITE + THREAD != 0) | (interval == when & (1 << _WHEN) - 1))


@njit(cache=True, forceinline=True)
def _read(cells, at, mine, when):
    """Notes a read of the granule at `cells[at]`."""
    last = cells[at + _READER]
    if (last ^ mine) >> _SITE:
        where = at + (_ELSEWHERE if (last ^ mine) >> _SITE + THREAD else _BESIDE)
        cells[where], cells[where + 1] = last, cells[at + _READER + 1]
    cells[at + _READER], cells[at + _READER + 1] = mine, when


@njit(cache=True, forceinline=True)
def _touch(cells, at, kind, mine, when, began):
    """An access of the granule at `cells[at]`. Returns whether it may race with one that is noted there; a write is
    then not yet noted itself."""
    suspect = _may_race(cells, at + _WRITER, mine, when, began) | _may_race(cells, at + _UPDATER, mine, when, began)
    if kind == LOAD:
        _read(cells, at, mine, when)
        return suspect
    for i in range(_READER, _CELL, 2):
        suspect |= _may_race(cells, at + i, mine, when, began)
    if kind == ATOMIC and cells[at] != 0 and (cells[at] ^ mine) >> _SITE:
        cells[at + _UPDATER], cells[at + _UPDATER + 1] = cells[at], cells[at + 1]
    if not suspect:
        cells[at], cells[at + 1] = mine, when
    return suspect


@njit(cache=True)
def _judge(cells, at, kind, mine, when, began, value, sites, here, clocks, found):
    """The races of the access that `_touch` suspects; a write is then noted."""
    me, slot = mine >> _SITE, here[_SLOT]
    block, thread = me >> THREAD, me & (1 << THREAD) - 1
    for i in range(at, at + (_READER if kind == LOAD else _CELL), 2):
        past, then = cells[i], cells[i + 1]
        who, other = past >> _SITE, (past & (1 << _SITE) - 1) - 1
        interval = then & (1 << _WHEN) - 1
        if past == 0 or who == me or interval < began or kind == ATOMIC and sites[other, 0] == ATOMIC:
            continue
        lane = who & (1 << THREAD) - 1
        if who >> THREAD != block:
            passed = then >> _WHEN & (1 << _ROUND) - 1
            ordered = passed < when >> _WHEN & (1 << _ROUND) - 1 or passed == (1 << _ROUND) - 1
        elif interval < when & (1 << _WHEN) - 1:
            ordered = True
        else:
            clock = then >> _WHEN + _ROUND
            ordered = lane // 32 == thread // 32 and clocks.shape[1] > 0 and (
                clocks[slot, thread, lane % 32] >= clock or clock == (1 << _CLOCK) - 1)
        if not ordered:
            _find(found, here, RACE, (mine & (1 << _SITE) - 1) - 1, other, thread, who, value)
    if kind != LOAD:
        cells[at], cells[at + 1] = mine, when


@njit(cache=True)
def _opens(here, slots, waits, found, gone):
    """A barrier opens, with `gone` threads of the block exited: did all wait at the same one?"""
    slot, first = here[_SLOT], -1
    for t in range(here[_THREADS]):
        wait = waits[slot, t]
        if wait < 0:
            continue
        if first < 0:
            first = wait
            if gone:
                _find(found, here, EXITED, first, -1, t, gone, 0)
        elif wait != first:
            _find(found, here, DIVERGED, min(first, wait), max(first, wait), t, 0, 0)
        waits[slot, t] = -1
    here[_LAST] += 1
    slots[slot, _NOW] = here[_LAST]


@njit(cache=True)
def _completes(here, sites, waits, clocks, found, first, members, mask):
    """A warp operation of the lanes `members` completes."""
    slot, site = here[_SLOT], -1
    for lane in range(32):
        if members >> lane & 1:
            site = waits[slot, first + lane]
            waits[slot, first + lane] = -1
    if mask != members:
        _find(found, here, LANES, site, -1, first, mask & ~members, members)
    if sites[site, 0] != WARP:
        return
    for lane in range(32):
        known = np.int64(-1)
        for of in range(32):
            if members >> of & 1:
                known = max(known, clocks[slot, first + of, lane])
        for of in range(32):
            if members >> of & 1:
                clocks[slot, first + of, lane] = known
    for lane in range(32):
        if members >> lane & 1:
            clocks[slot, first + lane, lane] += 1


@njit(cache=True)
def _starts(here, slots, waits, clocks):
    slot = here[_SLOT]
    here[_LAST] += 1
    slots[slot, _NOW] = slots[slot, _BEGAN] = here[_LAST]
    slots[slot, _ROUNDS] = 0
    waits[slot, :] = -1
    clocks[slot, :, :] = -1
    for t in range(clocks.shape[1]):
        clocks[slot, t, t % 32] = 0


@njit(cache=True)
def _happens(address, site, thread, sites, here, slots, waits, clocks, found):
    """What is no access within its array."""
    if site == STARTS or site == GOES_ON:
        here[_BLOCK] = address
        here[_SLOT] = address if len(slots) > 1 else 0
        if site == STARTS:
            _starts(here, slots, waits, clocks)
    elif site == OPENS or site == FOR_GRID:
        _opens(here, slots, waits, found, address)
        slots[here[_SLOT], _ROUNDS] += site == FOR_GRID
    elif site == COMPLETES:
        _completes(here, sites, waits, clocks, found, thread, address & 0xFFFFFFFF, address >> 32 & 0xFFFFFFFF)
    elif site < 0:
        _find(found, here, BEYOND, site & 0x3FFFFFFF, -1, thread, 0, address)
    elif sites[site, 0] == LOOP:
        _find(found, here, ENDLESS, site, -1, thread, 0, 0)
    else:
        waits[here[_SLOT], thread] = site


@njit(cache=True)
def _hear(events, sites, here, slots, waits, clocks, shared, memory, arguments, written, found):
    who, slot, me, now, when, began = -1, 0, 0, 0, 0, 0
    for e in range(len(events)):
        address, word = events[e, 0], events[e, 1]
        site, thread = word & 0x3FFFFFFF, word >> 32
        if word & 0x80000000 or sites[site, 0] > ATOMIC:
            _happens(address, (word & 0x7FFFFFFF) - (word & 0x80000000), thread, sites, here, slots, waits, clocks,
                     found)
            who = -1
            continue
        if thread != who:
            who, slot = thread, here[_SLOT]
            me, began = (here[_BLOCK] << THREAD | thread) << _SITE, slots[slot, _BEGAN]
            now = slots[slot, _NOW]
            when = now | min(slots[slot, _ROUNDS], (1 << _ROUND) - 1) << _WHEN
            if clocks.shape[1] > 0:
                when |= min(clocks[slot, thread, thread & 31], (1 << _CLOCK) - 1) << _WHEN + _ROUND
        kind, length, mine = sites[site, 0], sites[site, 3], me | site + 1
        if address & sites[site, 4]:
            _find(found, here, MISALIGNED, site, -1, thread, 0, address)
        if word & IN_SHARED:
            shift, place = here[_SHIFT], slot * here[_ROOM]
            for g in range(place + (address >> shift), place + (address + length - 1 >> shift) + 1):
                at = g * _CELL
                # when it was last written and read; who updated it, and read it besides, came earlier still
                past, read = shared[at + 1] & (1 << _WHEN) - 1, shared[at + _READER + 1] & (1 << _WHEN) - 1
                if kind != STORE and past < began:
                    _find(found, here, UNWRITTEN, site, -1, thread, 0, address)
                if kind == LOAD and past < now:
                    _read(shared, at, mine, when)
                elif kind == STORE and max(past, read) < now:
                    shared[at], shared[at + 1] = mine, when
                elif _touch(shared, at, kind, mine, when, began):
                    _judge(shared, at, kind, mine, when, began, address, sites, here, clocks, found)
            continue
        a = sites[site, 2]
        if a < 0:
            a = 0
            while not arguments[a, _LOW] <= address < arguments[a, _HIGH]:
                a += 1
        first, shift, place = address - arguments[a, _LOW], arguments[a, _GRANULE], arguments[a, _PLACE]
        if arguments[a, _EMPTY]:
            known = True
            for b in range(arguments[a, _START] + first, arguments[a, _START] + first + length):
                known &= written[b] != 0
                if kind != LOAD:
                    written[b] = 1
            if kind != STORE and not known:
                _find(found, here, UNWRITTEN, site, -1, thread, 0, address)
        if place < 0:                                  # an array that the kernel only reads
            continue
        for g in range(place + (first >> shift), place + (first + length - 1 >> shift) + 1):
            at = g * _CELL
            if kind == LOAD and memory[at] == 0:
                _read(memory, at, mine, when)
            elif _touch(memory, at, kind, mine, when, 0):
                _judge(memory, at, kind, mine, when, 0, address, sites, here, clocks, found)


# ---- the listener

class Sanitizer:
    """A listener that raises SanitizerError after a launch with a bug in it, or only collects the sentences."""

    checks_writes = True

    def __init__(self, raises=True, rounds=listening.ROUNDS):
        self.findings, self.raises, self.rounds = [], raises, rounds

    def begin(self, launch):
        self.launch = launch
        threads, blocks = int(np.prod(launch.block)), int(np.prod(launch.grid))
        sites = np.array([(s.kind, s.space, s.array, s.bytes, s.align - 1) for s in launch.sites] or [(0,) * 5],
                         np.int64)

        def granule(space, array):
            """The binary logarithm of the smallest access that may be of an array."""
            lengths = [b for kind, s, a, b, _ in sites if kind <= ATOMIC and (
                s == ANYWHERE or s == space and (array is None or a == array))]
            return (_power(int(np.gcd.reduce(lengths))) if lengths else 1).bit_length() - 1

        shift, rows, total, start = granule(SHARED, None), [], 0, 0
        self._parts = []
        for i, (_, array) in enumerate(launch.arguments):
            low, high = np.lib.array_utils.byte_bounds(array)
            size, of = granule(GLOBAL, i), fresh.written(array)
            changes = any(kind in (STORE, ATOMIC) and (s == ANYWHERE or s == GLOBAL and a == i)
                          for kind, s, a, _, _ in sites)
            rows.append((low, high, size, total if changes else -1, of is not None, start))
            total += -(-(high - low) >> size) if changes else 0
            if of is not None:
                self._parts.append(of[0][of[1]:of[1] + high - low])
                start += high - low
        slots = blocks if launch.uses_grid else 1
        room = -(-launch.shared_bytes >> shift)
        self._here = np.array([0, 0, 0, 0, threads, shift, room], np.int64)
        self._found = np.zeros((FINDINGS, len(FINDING)), np.int64)
        self._written = np.concatenate([*self._parts, np.zeros(1, np.uint8)])
        self._state = (
            sites, self._here, np.zeros((slots, 3), np.int64), np.full((slots, threads), -1, np.int64),
            np.zeros((slots, threads if launch.uses_warps else 0, 32), np.int64),
            np.zeros(_CELL * slots * room, np.int64), np.zeros(_CELL * total, np.int64),
            np.array(rows or [(0,) * 6], np.int64), self._written, self._found)

    def hear(self, events):
        _hear(events.view(np.int64).reshape(-1, 2), *self._state)

    def end(self, whole):
        start = 0
        for part in self._parts:
            part |= self._written[start:start + len(part)]
            start += len(part)
        found = self._found[:self._here[_FOUND]].copy().view(FINDING).reshape(-1)
        sentences = [sentence(self.launch, f) for f in found]
        self.findings += sentences
        self.launch = self._state = self._parts = self._written = None      # they may be large
        if sentences and self.raises and whole:
            raise SanitizerError(sentences)


def _power(length):
    """The largest power of two that divides a number of bytes, at most 16 of them."""
    return min(length & -length or 1, 16)


@contextlib.contextmanager
def sanitize(raises=True, rounds=listening.ROUNDS):
    """Launches of this thread inside are checked, one worker each, in an instrumented form of their kernels.

    Parameters
    ----------
    raises : a launch with a bug raises SanitizerError at its end; else `findings` of what is yielded collects sentences
    rounds : of all loops of a launch together, but for those that are known to be short, before it is taken to run
        forever

    Arrays that the device layer makes as `empty` inside are known to hold nothing.
    """
    sanitizer = Sanitizer(raises, rounds)
    with listening.heard_by(sanitizer), fresh.watched():
        yield sanitizer


def sanitize_always():
    """Checks every launch of the process from here on, as NUMPREC_SANITIZE=1 in the environment does."""
    fresh.watch_always()
    listening.hear_always(Sanitizer)
