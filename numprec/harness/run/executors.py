"""Where cells are run: each executor has a `device`, `call`s a function there, and turns cells into `results`;
`compiles_ahead` says whether other processes of this machine may compile for it before it begins."""
from functools import cached_property
from time import perf_counter

from numprec import device as devices
from numprec.harness.run.worker import PATIENCE, Worker, complete, execute


class Lost(Exception):
    """Nothing is left that could run a cell."""


class Elsewhere:
    """The device of another process, as far as a plan asks; `call` runs functions there. This process takes no context
    on a card: the card may have one alone to give, and each takes memory."""

    def __init__(self, call):
        self._call = call
        self.name, self.kind = call(identity)
        self.is_emulator = self.kind == "emulator"

    def availability(self, precision):
        return self._call(_availability, precision=precision)


def identity(device):
    return device.name, device.kind


def _availability(precision, device):
    return device.availability(precision)


class Local:
    """One cell after another in a worker process on this machine, so that no cell disturbs another's times. `kind` is
    that of the device, "gpu" or "emulator"; a process that is not done with a cell after `limit` seconds is replaced,
    None is no limit."""

    def __init__(self, kind, limit=None):
        self._kind, self._worker, self._limit = kind, None, limit
        self.compiles_ahead = kind == "emulator"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def call(self, function, **arguments):
        """`function(**arguments, device=...)`, where the cells run."""
        return self.worker.call(function, PATIENCE, **arguments)

    def results(self, cells):
        """(cell, its rows, the seconds it took) for each cell, as it finishes."""
        for cell in cells:
            start = perf_counter()
            rows = self.worker.run(cell, self._limit)
            yield cell, rows, perf_counter() - start

    @cached_property
    def device(self):
        return devices.get(self._kind) if self._kind == "emulator" else Elsewhere(self.call)

    @property
    def worker(self):
        if self._worker is None:
            self._worker = Worker(self._kind)
        return self._worker

    def close(self):
        if self._worker is not None:
            self._worker.close()
            self._worker = None


class InProcess:
    """The same in this process, where a test can replace what a cell is made of."""

    compiles_ahead = False

    def __init__(self, kind):
        self.device = devices.get(kind)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    close = __exit__

    def call(self, function, **arguments):
        return function(**arguments, device=self.device)

    def results(self, cells):
        for cell in cells:
            start = perf_counter()
            rows = complete(cell, lambda part: execute(part, self.device))
            yield cell, rows, perf_counter() - start
