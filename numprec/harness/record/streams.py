"""The standard streams of a program that is to end as it should whatever becomes of them.

A stream may be closed from the start, its reader may leave (`| head`), its disk may be full, and its encoding may lack
what is printed. None of that is a reason to lose a run: what cannot be shown is dropped, and the rest is done.
"""
import contextlib
import errno
import io
import os
import signal
import sys
import time

from numprec.harness.record.exits import FAILED, INTERRUPTED


class Stopped(KeyboardInterrupt):
    """The system asks this program to end: SIGTERM, or SIGHUP, as when a terminal is closed."""

    def __init__(self, number):
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class Outlet(io.RawIOBase):
    """Writes to the file `raw` until that fails, for the reason `problem`, and then to nowhere."""

    def __init__(self, raw):
        self._raw, self.problem = raw, None

    def writable(self):
        return True

    def fileno(self):
        return self._raw.fileno()

    def isatty(self):
        return self._raw.isatty()

    def write(self, data):
        try:
            while self.problem is None:
                written = self._raw.write(data)
                if written is not None:
                    return written
                time.sleep(0.01)         # a pipe that does not block, and is full
        except OSError as error:
            self.problem = error
        return len(data)


def guarded(main, program="bench.py"):
    """The exit code of `main()`, which may print whatever it likes; SIGTERM and SIGHUP end it as Ctrl-C does. What is
    said about that begins with the name of the `program`."""
    before = sys.stdout, sys.stderr
    outlets = _outlets()
    for name in "SIGTERM", "SIGHUP":
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:    # nohup ignores one of them
            signal.signal(number, _stop)
    try:
        code = main()
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = FAILED
    except KeyboardInterrupt as interruption:    # before there was anything to keep
        print(f"{program}: {how(interruption)}", file=sys.stderr)
        code = code_of(interruption)
    with contextlib.suppress(KeyboardInterrupt):
        sys.stdout.flush()
        problem = outlets["stdout"].problem if "stdout" in outlets else None
        if problem is not None and problem.errno not in (errno.EPIPE, errno.EBADF):
            print(f"{program}: not all of the output could be written: {problem}", file=sys.stderr)
            code = code or FAILED
        sys.stderr.flush()
    sys.stdout, sys.stderr = before
    return code


def _stop(number, frame):
    raise Stopped(number)


def how(interruption):
    """In a word: "interrupted" by Ctrl-C, "ended by SIGTERM"."""
    return f"ended by {interruption}" if isinstance(interruption, Stopped) else "interrupted"


def code_of(interruption):
    """The exit code that says the same to the shell."""
    return interruption.code if isinstance(interruption, Stopped) else INTERRUPTED


def _outlets():
    """Replaces stdout and stderr, and returns their Outlets by name. One that is no stream of bytes, as a notebook's,
    is left alone."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:          # closed: else the next file that is opened takes its place, and what is printed
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    outlets = {}
    for number, name in (1, "stdout"), (2, "stderr"):
        was = getattr(sys, name)
        if was is not None and not hasattr(was, "buffer"):
            continue
        buffer = io.FileIO(number, "w", closefd=False) if was is None else was.buffer
        outlets[name] = outlet = Outlet(getattr(buffer, "raw", buffer))
        lines = number == 2 or outlet.isatty() or (was is not None and was.write_through)    # python -u
        # a character that the encoding lacks is spelled out, as \\xe9
        setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(outlet), was.encoding if was else "utf-8",
                                            "backslashreplace", line_buffering=lines))
    return outlets
