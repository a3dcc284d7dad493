"""What ends a launch that is under way: the handler of a signal that raises an exception, above all Ctrl-C.

A launch is one call of machine code, in which Python handles no signals. A thread of its own therefore watches the
launches that are under way.
  - It makes that of the main thread, where alone Python handles signals, ask for them now and then. stops.py says where
    a kernel asks.
  - What has not ended by then may be in a loop that does not ask. It is knocked at: on Linux for x86-64 a signal makes
    the thread ask wherever it is in the kernel, see guard.ll. So a kernel pays nothing for it.
  - Launches of other threads end once the main thread waits while it handles a KeyboardInterrupt, or ends by one and
    Python waits for the others: a Ctrl-C would otherwise last as long as what they compute.
"""
import atexit
import ctypes
import os
import platform
import signal
import sys
import threading
import time

EVERY = 0.1         # seconds between two times that a launch is made to ask
PATIENCE = 0.3      # seconds for which the main thread handles a KeyboardInterrupt before other threads' launches end
STOPPED = 2         # what a launch's record notes as its error: it was told to stop
WORKERS = "numprec-emulator"        # how the names of threads begin that work on other threads' launches

_KNOCKS = 5         # at a time, as a knock while the thread is in a library's function does nothing;
_APART = 0.002      # seconds between them

_launches = {}      # {thread: (the system's number of it, record of its launch)}
_watcher = None     # the thread that watches, which ends when there is nothing to do for long


def begin(record):
    """Watches a launch that this thread begins. Returns what `end` takes."""
    thread = threading.get_ident()
    outer = _launches.get(thread)
    _launches[thread] = threading.get_native_id(), record
    if _watcher is None:
        _start()
    return outer


def end(outer):
    """The launch is over; the one in which it began goes on, if there is one."""
    if outer is None:
        del _launches[threading.get_ident()]
    else:
        _launches[threading.get_ident()] = outer


def stop(record):
    """Tells a launch to end, as often as it takes."""
    record.error, record.ask = record.error or STOPPED, 1


def forget():
    """A forked process has none of the threads, but the one that forked."""
    global _watcher, _launches
    _watcher, here = None, threading.get_ident()
    _launches = {here: (threading.get_native_id(), _launches[here][1])} if here in _launches else {}


def _start():
    global _watcher
    _watcher = threading.Thread(target=_watch, name="numprec-signals", daemon=True)
    try:
        _watcher.start()
    except RuntimeError:       # of a program that ends, from Python 3.12 on: no signal is handled there any more
        _watcher = None


def _watch():
    global _watcher
    main, idle, handling, before = threading.main_thread().ident, 0, 0, None
    while idle * EVERY < 2:
        time.sleep(EVERY)
        others = dict(_launches)
        idle = 0 if others else idle + 1
        mains = others.pop(main, None)
        if mains is not None:
            thread, record = mains
            record.ask = 1
            if mains is before:
                record.asked = 0
                knock([thread], lambda: record.asked or mains is not _launches.get(main))
        before = mains
        handling = handling + 1 if others and _interrupted() else 0
        if handling * EVERY >= PATIENCE:
            for _, other in others.values():
                stop(other)
            knock([*(thread for thread, _ in others.values()), *workers()],
                  lambda: others.keys().isdisjoint(_launches))
    _watcher = None
    if _launches:                                  # one that began before it could see that nobody watches
        _start()


def _interrupted():
    """Whether the main thread is handling a KeyboardInterrupt, or has ended by one."""
    main = threading.main_thread().ident
    error = sys._current_exceptions().get(main)
    error = error[1] if isinstance(error, tuple) else error            # a tuple before Python 3.12
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    frame = sys._current_frames().get(main)
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
    # of an interpreter in which one types, the exception may be of long ago
    return (frame is not None and frame.f_code is threading._shutdown.__code__ and not hasattr(sys, "ps1")
            and isinstance(getattr(sys, "last_value", None), KeyboardInterrupt))


# ---- knocking

_knocker = None     # the action of the signal, as the system takes it; None where there is no knocking
_code = None        # guard.ll's address of the addresses of code
_ranges = []        # those that it had and has, each a C array: a thread may be reading it


def arm(action, handler, code):
    """Takes the structure of a signal's action, the address of guard.ll's handler, and that of the variable which tells
    it where code is."""
    global _knocker, _code
    if platform.machine() == "x86_64" and hasattr(ctypes.CDLL(None), "tgkill"):
        siginfo, restart, nodefer = 4, 0x10000000, 0x40000000
        _knocker, _code = action(handler=handler, flags=siginfo | restart | nodefer), ctypes.c_void_p.from_address(code)
        atexit.register(_disarm)                   # the code of the handler goes with the interpreter


def _disarm():
    global _knocker
    before, action, _knocker = type(_knocker)(), _knocker, None
    library = ctypes.CDLL(None)
    library.sigaction(signal.SIGURG, None, ctypes.byref(before))
    if before.handler == action.handler:
        library.sigaction(signal.SIGURG, ctypes.byref(type(action)()), None)


def workers():
    """Threads that work on other threads' launches, by the system's numbers."""
    return [thread.native_id for thread in threading.enumerate() if thread.name.startswith(WORKERS)]


def knock(threads, answered):
    """Makes threads ask whether to go on, wherever they are in a kernel, until `answered()`, or a few times. One that
    is in no kernel notices nothing.

    The signal is SIGURG, for the reasons that made Go take it: by default nothing happens at it, so that one too many
    does no harm, debuggers let it pass, and hardly any program uses it. In one that does, nothing is knocked at.
    """
    action = _knocker
    if action is None:
        return
    library, before = ctypes.CDLL(None), type(action)()
    library.sigaction(signal.SIGURG, None, ctypes.byref(before))
    if before.handler not in (action.handler, None, 1):        # SIG_DFL, SIG_IGN
        return
    _locate_code()
    if before.handler != action.handler:
        library.sigaction(signal.SIGURG, ctypes.byref(action), None)
    for _ in range(_KNOCKS):
        for thread in threads:
            # unlike pthread_kill, which is undefined for a thread that has ended
            library.tgkill(os.getpid(), thread, signal.SIGURG)
        time.sleep(_APART)
        if answered():
            break


def _locate_code():
    """Tells guard.ll's handler where code is that was compiled at run time: in executable memory of no file."""
    found = []
    try:
        with open("/proc/self/maps") as lines:
            for line in lines:
                place, rights, *rest = line.split(maxsplit=5)
                if "x" in rights and len(rest) == 3:
                    found += (int(end, 16) for end in place.split("-"))
    except OSError:
        pass
    found.append(0)
    if not _ranges or found != list(_ranges[-1]):
        _ranges.append((ctypes.c_uint64 * len(found))(*found))
        _code.value = ctypes.addressof(_ranges[-1])
