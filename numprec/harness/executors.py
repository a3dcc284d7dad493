"""Where cells are run: each executor has a `device`, `call`s a function there, and turns cells into `results`;
`compiles_ahead` says whether other processes of this machine may compile for it before it begins."""
from time import perf_counter

from numprec.harness.worker import Worker


class Lost(Exception):
    """Nothing is left that could run a cell."""


class Local:
    """One cell after another in a worker process on this machine, so that no cell disturbs another's times."""

    def __init__(self, device):
        self.device, self._worker = device, None
        self.compiles_ahead = device.is_emulator

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def call(self, function, **arguments):
        """`function(**arguments, device=...)`, where the cells run."""
        return self.worker.call(function, **arguments)

    def results(self, cells):
        """(cell, its rows, the seconds it took) for each cell, as it finishes."""
        for cell in cells:
            start = perf_counter()
            rows = self.worker.run(cell)
            yield cell, rows, perf_counter() - start

    @property
    def worker(self):
        if self._worker is None:
            self._worker = Worker(self.device.kind)
        return self._worker

    def close(self):
        if self._worker is not None:
            self._worker.close()
            self._worker = None


class InProcess:
    """The same in this process, where a test can replace what a cell is made of."""

    compiles_ahead = False

    def __init__(self, device):
        self.device = device

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    close = __exit__

    def call(self, function, **arguments):
        return function(**arguments, device=self.device)

    def results(self, cells):
        from numprec.harness import sweep
        for cell in cells:
            start = perf_counter()
            rows = sweep.execute(cell, self.device)
            yield cell, rows, perf_counter() - start
