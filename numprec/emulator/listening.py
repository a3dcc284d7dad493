"""Launches that are listened to: the list of events of an instrumented kernel, and who reads it.

`with heard_by(listener):` makes each launch of this thread run in its instrumented form, on one worker, so that the
events come in the order in which they happen. The listener gets

    begin(launch)       a Launched, before the kernel runs
    hear(events)        a structured array, once or more often; it is overwritten afterwards
    end(whole)          after the kernel has run; not `whole` where an exception ended it, which goes on

It hears one launch after another: those that a handler of a signal makes meanwhile are not told to it, nor those of
other threads.
"""
import contextlib
import ctypes
import sys
import threading
from typing import NamedTuple

import numpy as np
from numba import types

from numprec.emulator.instrument import Array, Site

EVENT = np.dtype([("address", "u8"), ("site", "i4"), ("thread", "i4")])
IN_SHARED, OUTSIDE = 1 << 30, -1 << 31                             # flags in the site of an access, see events.ll
STARTS, GOES_ON, OPENS, FOR_GRID, COMPLETES = -1, -2, -3, -4, -5   # what the scheduler tells, see scheduler.ll
CAPACITY = 1 << 16
ROUNDS = 10 ** 9          # of all loops of a launch that may last, before it is taken to run forever

_local = threading.local()
_always = None            # makes the listener of a thread that has none of its own
_FULL = ctypes.CFUNCTYPE(None)


class Argument(NamedTuple):
    """An array that a kernel was given: its name in the kernel's signature, with the place in a tuple."""

    name: str
    array: np.ndarray


class Launched(NamedTuple):
    """What a listener is told of a launch."""

    kernel: str
    sites: list
    arguments: list          # of Argument
    shared: list             # of instrument.Array
    locals: list
    grid: tuple
    block: tuple
    shared_bytes: int
    operations: list         # of each block of instructions, see instrument.py
    counts: np.ndarray       # how often threads came to each, when the kernel has ended
    uses_grid: bool
    uses_warps: bool


class _Record(ctypes.Structure):
    """%Listener of events.ll."""

    _fields_ = [("events", ctypes.c_void_p), ("next", ctypes.c_void_p), ("end", ctypes.c_void_p), ("full", _FULL),
                ("scratch", ctypes.c_void_p), ("rounds", ctypes.c_int64), ("arrays", ctypes.c_void_p),
                ("how_many", ctypes.c_int64), ("counts", ctypes.c_void_p)]


def current():
    """The listener of this thread's launches, or None."""
    if _always is not None and not hasattr(_local, "listener"):
        _local.listener = _always()
    return getattr(_local, "listener", None)


def hear_always(make):
    """Every thread that has no listener gets one from `make`."""
    global _always
    _always = make


@contextlib.contextmanager
def heard_by(listener):
    """Launches inside are told to `listener`, and to no other."""
    before, _local.listener = current(), listener
    try:
        yield listener
    finally:
        _local.listener = before


def named_arrays(kernel, args, kinds):
    """The arrays among the arguments, in the order of compile.py's `_pointers`."""
    def walk(name, value, kind):
        if isinstance(kind, types.Array):
            yield Argument(name, value)
        elif isinstance(kind, types.BaseTuple):
            fields = [f".{field}" for field in getattr(kind, "fields", ())] or [f"[{i}]" for i in range(len(kind))]
            for field, v, k in zip(fields, value, kind):
                yield from walk(name + field, v, k)
    code = kernel.py_func.__code__
    return [a for each in zip(code.co_varnames[:code.co_argcount], args, kinds) for a in walk(*each)]


def launched(kernel, code, args, kinds, grid, block, shared_bytes):
    """The description of a launch for its listener."""
    return Launched(code.name, [Site(*s) for s in code.sites], named_arrays(kernel, args, kinds),
                    [Array(*a) for a in code.shared], [Array(*a) for a in code.locals], grid, block, shared_bytes,
                    code.operations, np.zeros(len(code.operations), np.int64), code.uses_grid, code.uses_warps)


@contextlib.contextmanager
def attached(listener, record, launch):
    """Tells `listener` of the events of the launch that runs inside; `record` is its `_Launch`."""
    events = np.zeros(CAPACITY, EVENT)
    scratch = np.full(256, 0xFF, np.uint8)      # a NaN in each format
    bounds = np.array([np.lib.array_utils.byte_bounds(a.array) for a in launch.arguments] or [(0, 0)], np.uint64)
    problems = []

    def hear(count):
        try:
            listener.hear(events[:count])
        except BaseException as problem:
            gone(problem)

    def gone(problem):
        problems.append(problem)
        told.rounds = 0                         # the kernel's loops end

    def unraisable(what):
        """A handler of a signal that raises at the door of `full`, where ctypes would print and forget it."""
        if what.object is full or "ctypes callback" in (what.err_msg or ""):
            gone(what.exc_value)
        else:
            before(what)

    full = _FULL(lambda: hear(CAPACITY))
    first = events.ctypes.data
    told = _Record(events=first, next=first, end=first + events.nbytes, full=full, scratch=scratch.ctypes.data,
                   rounds=getattr(listener, "rounds", ROUNDS), arrays=bounds.ctypes.data,
                   how_many=len(launch.arguments), counts=launch.counts.ctypes.data)
    record.listener = ctypes.addressof(told)
    listener.begin(launch)
    before, sys.unraisablehook = sys.unraisablehook, unraisable
    try:
        with heard_by(None):
            yield
    except BaseException:
        listener.end(False)
        raise
    finally:
        sys.unraisablehook = before
    if told.next != first and not problems:
        hear((told.next - first) // EVENT.itemsize)
    listener.end(not problems)
    if problems:
        raise problems[0]
