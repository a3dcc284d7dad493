"""Cells on several GPUs or machines, by dask.distributed, which brings scheduler, workers, transport and retries.

A cell is one task, so that all of its precisions run on one device; a worker takes one at a time, because tasks need a
resource of which each worker has one. Inside a worker the cell runs in a process of its own, as it does without a
cluster, so that a cell which crashes does not take the worker down. A worker that dies nevertheless, with its machine,
say, loses its cell to another one; when that one dies too the cell's rows are failures. Rows come back to the client,
which alone writes. All workers run on the same kind of device, GPU or emulator: where they differ no run begins, and a
worker that joins later and lacks that kind ends the run with what was finished kept.

A scheduler that runs already needs workers that were started so, one per GPU:

    CUDA_VISIBLE_DEVICES=0 dask worker tcp://HOST:8786 --nthreads 1 --resources device=1

A scheduler that is started without more listens on every interface of its machine, and asks nobody who he is. Whoever
reaches its port, or that of a worker, runs code there, since tasks are pickles. `dask scheduler --host ADDRESS` binds
it to one interface: that of a private network, or 127.0.0.1 with a tunnel, `ssh -L 8786:127.0.0.1:8786 HOST`. In a
network that others use, `--tls-ca-file`, `--tls-cert` and `--tls-key`, given to scheduler and workers alike, let in
only who has a certificate; bench.py takes its own from Dask's configuration (`distributed.comm.tls`). The local cluster
listens on 127.0.0.1 alone.
"""
import atexit
import contextlib
import logging
import os
import pickle
import signal
import sys
from concurrent.futures import CancelledError
from time import monotonic, perf_counter

from numprec.harness.record import rows
from numprec.harness.record.store import KILLED
from numprec.harness.run.executors import Elsewhere, Lost, identity
from numprec.harness.run.worker import PATIENCE, Worker

RESOURCE = {"device": 1}
RETRIES = 1        # of a cell whose worker died, in a local cluster; elsewhere the scheduler's configuration says
ALONE = 60         # seconds without any worker, after which the run ends
ANSWER = 15        # seconds for a scheduler to answer, and for its first worker to be there


class Unreachable(Lost):
    """There is no scheduler, or no worker that cells could run on, or one that they must not run on."""


class OtherKind(RuntimeError):
    """A worker lacks the kind of device that the run is on."""


class Cluster:
    """An executor (see `numprec.harness.run.executors`) on the workers of `address`, or of a cluster that it starts
    here, "local": one worker per GPU, or `workers` of them. `device` is "gpu", "emulator" or None for what is there;
    `limit` as in Local."""

    compiles_ahead = False

    def __init__(self, address, device=None, workers=None, limit=None):
        try:
            import distributed  # noqa: F401
        except ImportError:
            raise Unreachable("--scheduler needs the extra cluster: python -m pip install -e \".[cluster]\"") from None
        self._cluster, self._kind, self._visible, self._limit = None, device, None, limit
        self._client = self._local(workers) if address == "local" else self._connected(address)
        try:
            with self._connection():
                self._wait_for_workers(address)
                self._identify()
            self.device = Elsewhere(self.call)
            self._kind = self.device.kind    # of workers that join later too
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _local(self, workers):
        import dask
        from distributed import Client, LocalCluster

        from numprec import device as devices
        self._kind = devices.kind(self._kind)
        if self._kind == "emulator":
            count = workers or 2
        else:
            self._visible = _gpus()
            count = min(workers or len(self._visible), len(self._visible))
        dask.config.set({"distributed.scheduler.allowed-failures": RETRIES})
        self._cluster = LocalCluster(n_workers=count, threads_per_worker=1, resources=RESOURCE, memory_limit=None,
                                     dashboard_address=None, silence_logs="CRITICAL", preload=[__name__])
        return Client(self._cluster)

    def _connected(self, address):
        from distributed import Client
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)    # what it would say is said here
        try:
            return Client(address, timeout=ANSWER)
        except (OSError, ValueError) as error:    # TimeoutError is one of the first
            raise Unreachable(f"no scheduler answers at {address}: {error}") from None

    def _wait_for_workers(self, address):
        end = monotonic() + ANSWER
        while not self._slots():
            if monotonic() > end:
                raise Unreachable(f"no worker of {address} has the resource that a cell needs; start each, one per "
                                  f"GPU, with: dask worker {address} --nthreads 1 --resources device=1")
            self._client.sync(_a_while)

    def _workers(self):
        """Addresses of the workers that can run a cell."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        return [address for address, facts in workers.items() if facts.get("resources", {}).get("device", 0) >= 1]

    def _slots(self):
        return len(self._workers())

    def _identify(self):
        """Looks at the workers' devices: kinds are not mixed, and a mixture of names is warned of."""
        futures = [self._submit(_call, identity, {}, workers=[address], allow_other_workers=False)
                   for address in self._workers()]
        try:
            found = list(map(_answer, futures))
        except OtherKind as error:
            raise Unreachable(error) from None
        names, kinds = (sorted(set(each)) for each in zip(*found))
        if len(kinds) > 1:
            raise Unreachable(f"the workers have different kinds of device: {', '.join(kinds)}; choose one with "
                              "--device, or stop the workers of the other")
        if len(names) > 1:
            print(f"warning: the workers have different devices ({'; '.join(names)}): precisions are compared on one "
                  "device, but the seeds of a model are spread over all of them", file=sys.stderr)

    def _submit(self, function, *arguments, **how):
        return self._client.submit(function, self._kind, self._visible, *arguments, pure=False, resources=RESOURCE,
                                   **how)

    def call(self, function, **arguments):
        """`function(**arguments, device=...)` on one of the workers."""
        with self._connection():
            return _answer(self._submit(_call, function, arguments))

    def results(self, cells):
        """(cell, its rows, the seconds it took) for each cell, as it finishes. A cell is taken from `cells` when there
        is a worker for it, not before."""
        cells, running, seen = iter(cells), {}, monotonic()
        while True:
            with self._connection():
                slots = self._slots()
                seen = monotonic() if slots else seen
                if monotonic() - seen > ALONE:
                    raise Unreachable(f"no worker has been there for {ALONE} seconds")
                while len(running) < slots and (cell := next(cells, None)) is not None:
                    running[self._submit(_execute, pickle.dumps(cell), self._limit)] = cell, perf_counter()
                if slots and not running:
                    return
                finished = self._finished(running)
            for future in finished:
                cell, begun = running.pop(future)
                with self._connection():
                    outcome = _outcome(future, cell, begun)
                yield cell, *outcome

    def _finished(self, futures):
        """Those that have ended, once there are some or a little time has passed."""
        from distributed import wait
        if not futures:
            self._client.sync(_a_while)
            return ()
        try:
            return wait(list(futures), timeout=5, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            return ()

    @contextlib.contextmanager
    def _connection(self):
        """What dask raises when the scheduler has gone, which is one error of many, as one exception. A scheduler that
        comes back knows nothing of the cells, so that there is nothing to wait for."""
        lost = Unreachable("the connection to the scheduler was lost")
        from distributed import KilledWorker
        if self._client.status != "running":
            raise lost
        try:
            yield
        except (OSError, CancelledError):
            raise lost from None
        except KilledWorker as error:
            raise Unreachable(f"the workers died: {error}") from None
        except (KeyError, RuntimeError):
            if self._client.status == "running":
                raise
            raise lost from None

    def close(self):
        """Ends the processes of the cells, whatever they are doing, and a local cluster with them."""
        client, cluster, self._client, self._cluster = self._client, self._cluster, None, None
        if client is not None:
            with contextlib.suppress(OSError, RuntimeError):    # the scheduler goes just now
                if client.status == "running":
                    client.run(_close, on_error="ignore")
            client.close(timeout=5)
        if cluster is not None:
            cluster.close(timeout=10)


def _answer(future):
    """The result of a task that is no cell; Unreachable where there is none, as when its worker has left."""
    try:
        return future.result(PATIENCE)
    except TimeoutError:
        raise Unreachable(f"a worker gave no answer within {PATIENCE} seconds") from None


def _outcome(future, cell, begun):
    """(rows, seconds) of a task that has ended. CancelledError where the scheduler knows nothing of it any more."""
    if future.cancelled():
        raise CancelledError
    error = None if future.status == "finished" else future.exception()
    if error is None and future.status == "finished":
        return future.result()
    if isinstance(error, OtherKind):
        raise Unreachable(error) from None
    reason = f"{KILLED}: " + ("it died, and so did the next one" if type(error).__name__ == "KilledWorker" else
                              f"the cluster says {type(error).__name__}: {error}")
    return [rows.failed(cell, p, reason) for p in cell.precisions], perf_counter() - begun


async def _a_while():
    import asyncio
    await asyncio.sleep(0.1)


def _gpus():
    """Names of this machine's GPUs that CUDA_VISIBLE_DEVICES understands. Where that is set, CUDA shows its entries up
    to the first that is no device (CUDA C++ Programming Guide, "CUDA Environment Variables"), so that their number is
    enough to say which."""
    from numba import cuda
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = len(cuda.gpus)
    return [str(i) for i in range(count)] if named is None else [name.strip() for name in named.split(",")][:count]


# ---- in a worker of dask

def dask_setup(worker):
    """Called by dask when a worker of a local cluster starts: Ctrl-C is for the client, which then closes it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_processes = {}    # {kind of device: the one Worker of this process}, which stays for the next cell


def _process(kind, visible):
    """The Worker for `kind`, None for what is there; OtherKind where this machine has no such device."""
    from distributed import get_worker

    from numprec import device as devices
    if kind not in _processes and not visible:    # the GPUs of a local cluster are there, and its workers leave them be
        try:
            kind = devices.kind(kind)
        except RuntimeError as error:
            raise OtherKind(f"worker {get_worker().address}: {error}") from None
    if kind not in _processes:
        _close()
        # a local cluster's workers have numbers for names
        environment = {"CUDA_VISIBLE_DEVICES": visible[int(get_worker().name)]} if visible else {}
        _processes[kind] = Worker(kind, environment)
        atexit.register(_close)
    return _processes[kind]


def _execute(kind, visible, pickled, limit):
    cell, start = pickle.loads(pickled), perf_counter()
    found = _process(kind, visible).run(cell, limit)
    return found, perf_counter() - start


def _call(kind, visible, function, arguments):
    return _process(kind, visible).call(function, PATIENCE, **arguments)


def _close():
    while _processes:
        _processes.popitem()[1].close()
