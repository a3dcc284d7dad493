"""Rows of kernels: a rung is verified against its oracle, then timed.

Memory that a launch is to write holds NaNs before. A result is compared with the chapter's oracle, element by element,
against the bound that the theory gives; and it must come out the same, bit for bit, after the last timed launch. Only
then do times enter the row: `samples_s` by the device's own timer, and `end_to_end_s` by the host's clock around a
launch and the wait for it.
"""
import contextlib
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from numprec.harness.measure import timing
from numprec.harness.measure.cases import SEED
from numprec.harness.record import rows, telemetry


@dataclass(frozen=True)
class Check:
    """How far a result is from its oracle."""

    error: float         # largest |result - oracle|, over the oracle's largest magnitude
    over_bound: float    # largest |result - oracle| / bound, element by element; at most 1 where the result is right
    bounded: bool        # whether the bound says anything: it is infinite where the theory promises nothing

    @property
    def passed(self):
        return self.over_bound <= 1


def check(results, oracles, bounds):
    """The worst Check of several results; each argument is an array or a tuple of them."""
    checks = [_check(*each) for each in zip(_tuple(results), _tuple(oracles), _tuple(bounds), strict=True)]
    return Check(max(c.error for c in checks), max(c.over_bound for c in checks), all(c.bounded for c in checks))


def _check(result, oracle, bound):
    result, oracle = np.asarray(result).astype(np.float64), np.asarray(oracle, np.float64)
    if result.size != oracle.size:
        raise ValueError(f"the result has shape {result.shape}, the oracle {oracle.shape}")
    bound = np.broadcast_to(np.asarray(bound, np.float64), oracle.shape).ravel()
    result, oracle = result.ravel(), oracle.ravel()
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        error = np.abs(result - oracle)
        error[np.isnan(error)] = np.inf                  # NaN, or inf - inf
        error[_same(result, oracle)] = 0
        bounded = np.isfinite(bound) | (error == 0)
        ratio = np.where((error == 0) | ~bounded, 0, error / bound)    # a bound of 0 demands the exact result
        magnitude = np.max(np.abs(oracle), initial=0, where=np.isfinite(oracle)) or 1.0
        return Check(float(error.max(initial=0) / magnitude), float(ratio.max(initial=0)), bool(bounded.all()))


def _same(a, b):
    return (a == b) | (np.isnan(a) & np.isnan(b))


def _tuple(x):
    return x if isinstance(x, tuple) else (x,)


def kernel_rows(cell, device):
    """One row per precision of the cell; fewer where CUDA failed, see `rows.before_fault`."""
    operation, rung = cell.operation, cell.rung
    found, launches = {}, {}
    for p in cell.precisions:
        row = found[p] = rows.begin(cell, p, device, format=p.accum.name, **operation.cost(p, *cell.shape))
        if row["status"] == "ok" and device.compute_capability < rung.compute_capability:
            needed = ".".join(map(str, rung.compute_capability))
            row.update(status="SKIP", reason=f"needs a device of compute capability {needed}")
        if row["status"] == "ok":
            with rows.Blame(row):
                launches[p] = _verified(cell, p, device, row)
            if rows.broken(row):
                return rows.before_fault(found.values())
    launches = {p: launch for p, launch in launches.items() if found[p]["status"] == "ok"}
    with rows.Blame(*(found[p] for p in launches)):
        before = telemetry.clocks(device)
        timed = timing.measure({p: launch.run for p, launch in launches.items()}, cell.effort)
        clocks = telemetry.span(before, telemetry.clocks(device))
        whole = timing.measure({p: timing.host_clock(launch.start, device.synchronize)
                                for p, launch in launches.items()}, cell.effort.brief(), together=False)
        for p, samples in timed.items():
            if launches[p].still_the_same():
                found[p].update(samples_s=samples.seconds, calls_per_sample=samples.calls, clocks=clocks,
                                end_to_end_s=whole[p].seconds)
            else:
                rows.fail(found[p], "a later launch gave another result than the first")
    if any(map(rows.broken, found.values())):
        return rows.before_fault(found.values())
    return list(found.values())


def _verified(cell, p, device, row):
    """Launches the rung once, compares the result with the oracle, and captures the launch to be timed."""
    operation = cell.operation
    drawn = map(np.asarray, operation.inputs(np.random.default_rng(SEED), cell.shape, "random", p))
    rounded = [p.storage.round(a) if a.dtype.kind == "f" else a for a in drawn]
    arrays = [device.array(a) for a in rounded]
    start = perf_counter()
    with _poisoned(device):
        results = operation.launch(device, cell.rung, p, *arrays)
    device.synchronize()
    row["compile_s"] = perf_counter() - start
    first = tuple(device.to_host(r) for r in _tuple(results))
    result = first if isinstance(results, tuple) else first[0]
    if operation.readout:
        result = operation.readout(result, *rounded)
    found = check(result, operation.oracle(*rounded), operation.error_bound(p, *rounded))
    row.update(error=found.error, error_over_bound=found.over_bound)
    if not found.passed:
        return rows.fail(row, f"error is {found.over_bound:.3g} times the bound")
    if not found.bounded:
        row.update(status="SKIP", error_over_bound=None, compile_s=None,
                   reason="the theory bounds no error for this shape and precision, so the result cannot be verified")
        return None
    launch = _Launch(device, lambda: operation.launch(device, cell.rung, p, *arrays), first)
    row["launches"] = launch.count
    return launch


@contextlib.contextmanager
def _poisoned(device):
    """What `device.empty` gives is full of NaNs, each byte 0xFF; on the emulator it always is."""
    if device.is_emulator:
        yield
        return
    empty = device.empty

    def poisoned(shape, fmt):
        array = empty(shape, fmt)
        device.assign(array, np.full(array.shape, -1, f"i{array.dtype.itemsize}").view(array.dtype))
        return array
    device.empty = poisoned
    try:
        yield
    finally:
        del device.empty    # of the object; its class's method shows again


class _Launch:
    """The launches of one result, captured so that a replay costs neither allocation nor Python. An operation that
    looks at the device in between cannot be captured; it is launched anew each time, and its time includes the host's.
    """

    def __init__(self, device, launch, first):
        self.device, self.first, self.launch, self.graph = device, first, launch, None
        try:
            with _poisoned(device), device.capture() as graph:
                self.results = _tuple(launch())
            self.graph, self.count = graph, len(graph.launches)
        except RuntimeError:      # nothing can be read while launches are recorded
            before = device.launches
            self.results = _tuple(launch())
            self.count = device.launches - before

    def start(self, times=1):
        if self.graph:
            self.graph.replay(times)
        else:
            for _ in range(times):
                self.results = _tuple(self.launch())

    def run(self, times):
        with self.device.timer() as timer:
            self.start(times)
        return timer.seconds

    def still_the_same(self):
        now = tuple(self.device.to_host(r) for r in self.results)
        return all(a.tobytes() == b.tobytes() for a, b in zip(self.first, now, strict=True))
