"""A process that runs one cell after another, and is replaced when it dies.

Imports and compiled kernels stay warm from cell to cell, and a crash costs one cell: its rows say what happened to
the process, and the next cell gets a new one. An error of the CUDA driver can leave every later call failing, so a
process that has met one says so in its answer, and takes no other request; the other precisions of its cell run in the
next one.

No number stands in a row unless the same run has shown the result behind it to be right: see `launches` for kernels,
`fits` for models and `peers` for other libraries.

`python -m numprec.harness.run.worker DEVICE` is the process. Requests and replies are pickles, each after its length in
eight bytes, on its stdin and stdout; what it prints goes to stderr. When its stdin ends it ends at once, in the middle
of a cell if need be, so that it never outlives whoever started it.
"""
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

from numprec.harness.record import rows
from numprec.harness.record.store import KILLED as LOST

LENGTH = struct.Struct("<Q")
PATIENCE = 600    # seconds, for a process to be ready, and for whatever is no cell


def send(stream, value):
    frame = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    stream.write(LENGTH.pack(len(frame)) + frame)
    stream.flush()


def receive(stream):
    """The next value; EOFError where the stream ends, even inside a frame."""
    return pickle.loads(_exactly(stream, LENGTH.unpack(_exactly(stream, LENGTH.size))[0]))


def _exactly(stream, count):
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


class Died(Exception):
    """The process ended before it answered."""


class NoDevice(Died):
    """The process could not get its device."""


class Unreadable(Died):
    """The process could not unpickle a request."""


class Worker:
    """Runs cells in a process of its own; `device` is "gpu" or "emulator", `environment` what it has besides the
    variables of this process, `stderr` as in subprocess. The process starts at once, and imports while its owner
    prepares."""

    def __init__(self, device, environment=None, stderr=None):
        self._device, self._environment, self._stderr, self._process = device, environment or {}, stderr, None
        self._start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def pid(self):
        return self._process.pid

    def run(self, cell, limit=None):
        """The rows of a cell. Where the process dies, or has no answer after `limit` seconds and is ended, they are
        failures; this method raises nothing but what interrupts it, and then no process is left."""
        def run(part):
            try:
                return self.call(execute, limit, cell=part)
            except Died as death:
                return [rows.failed(part, p, str(death)) for p in part.precisions]
        return complete(cell, run)

    def call(self, function, limit=None, **arguments):
        """`function(**arguments, device=...)` in the process; all of it has to be picklable. Raises what it does, and
        Died where no answer comes within `limit` seconds, in which its start does not count; None is no limit."""
        if self._process.poll() is not None:
            self._start()
        if not self._ready:
            self._ask(ready, PATIENCE, {})
            self._ready = True
        return self._ask(function, limit, arguments)

    def _ask(self, function, limit, arguments):
        process, late = self._process, threading.Event()

        def end():
            late.set()
            process.kill()        # one that was stopped, too
        watch = None if limit is None else threading.Timer(limit, end)
        try:
            if watch is not None:
                watch.daemon = True
                watch.start()
            send(process.stdin, (function, arguments))
            value, error, leaving = receive(process.stdout)
        except (EOFError, OSError):
            cause = _cause_of_death(process)
            raise Died(f"{LOST}: it gave no answer within {limit:g} seconds, and was stopped" if late.is_set() else
                       cause) from None
        except BaseException:     # a signal: the answer would come too late
            self.close()
            raise
        finally:
            if watch is not None:
                watch.cancel()
        if leaving or late.is_set():
            self.close()
        if error is not None:
            raise error
        return value

    def close(self):
        """Ends the process, whatever it is doing."""
        self._process.kill()
        for stream in self._process.stdin, self._process.stdout:
            try:
                stream.close()
            except OSError:       # a request that had not gone out
                pass
        self._process.wait()

    def _start(self):
        if self._process is not None:
            self.close()
        self._ready = False
        root = str(Path(__file__).resolve().parents[3])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        apart = ({"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if sys.platform == "win32"
                 else {"process_group": 0})    # Ctrl-C is for the parent, which then ends this process
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, self._device], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._stderr, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **self._environment}, **apart)


def _cause_of_death(process):
    code = process.wait()
    if -code in (getattr(signal, "SIGKILL", 9), signal.SIGTERM):
        return (f"{LOST}: it was killed, by a user or by the system when memory ran out "
                f"(signal {-code}, {signal.Signals(-code).name})")
    if code >= 0:
        return f"the worker process ended with exit code {code}"
    try:
        name = f", {signal.Signals(-code).name}"
    except ValueError:
        name = ""
    return f"the worker process died (signal {-code}{name})"


# ---- one cell, whatever its kind

def execute(cell, device):
    """The rows of a cell, but for those that a fault of CUDA left open. Raises nothing but what interrupts it."""
    try:
        return _measure(cell)(cell, device)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return [rows.failed(cell, p, reason, device) for p in cell.precisions]


def complete(cell, run):
    """All rows of a cell, in the order of its precisions, by `run(cell)`, which after a fault of CUDA leaves some open:
    these run anew, together without the one that failed, or each by itself where it is not known which one did."""
    found, todo = {}, [cell]
    while todo:
        part = todo.pop(0)
        new = {row["precision"]: row for row in run(part)}
        found.update(new)
        rest = [p for p in part.precisions if str(p) not in new]
        if rest:
            todo += [part.only(rest)] if new else [part.only([p]) for p in rest]
    return [found[str(p)] for p in cell.precisions]


def _measure(cell):
    if cell.kind == "kernel":
        from numprec.harness.measure.launches import kernel_rows
        return kernel_rows
    if cell.kind == "peer":
        from numprec.harness.measure.peers import peer_rows
        return peer_rows
    from numprec.harness.measure.fits import training_rows
    return training_rows


# ---- the process

def ready(device):
    """The first request: its answer comes when everything is imported and the device is there."""


def main(device_name):
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    os.environ["NUMPREC_DEVICE"] = device_name    # the estimators ask for themselves
    from numprec import device as devices
    from numprec.harness.measure import fits, launches  # noqa: F401    what cells need, so that none of them imports it
    device = problem = None
    try:
        device = devices.get(device_name)
    except Exception as error:    # of CUDA, say: another process has the card for itself
        from numprec.harness.run.worker import NoDevice  # not this module's, whose name is __main__ here
        problem = NoDevice(f"the device {device_name!r} cannot be used: {' '.join(str(error).split())}")
    waiting = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, waiting), daemon=True).start()
    while True:
        function, arguments = waiting.get()
        value, error = None, problem
        try:
            if problem is None:
                value = function(**arguments, device=device)
        except Exception as raised:
            error = raised
        leaving = problem is not None or not _healthy(device, value)
        send(replies, (value, error, leaving))
        if leaving:
            os._exit(0)    # an orderly exit would wait for the GPU


def _read(requests, waiting):
    """Passes requests on until there are no more; it notices in the middle of a cell too. One that cannot be unpickled,
    as where a module is missing here, is answered with what that raises."""
    while True:
        try:
            request = receive(requests)
        except (EOFError, OSError):
            os._exit(0)
        except Exception as error:
            request = _refuse, {"reason": f"{type(error).__name__}: {error}"}
        waiting.put(request)


def _refuse(reason, device):
    from numprec.harness.run.worker import Unreadable  # as NoDevice above
    raise Unreadable(f"the worker process cannot read what it is asked: {reason}")


def _healthy(device, value):
    """Whether the next cell can run here: no row reports an error of CUDA, and the device still answers."""
    found = value if isinstance(value, list) else ()
    if any(map(rows.broken, found)):
        return False
    try:
        device.synchronize()
    except Exception:
        return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
