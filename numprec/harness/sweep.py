"""Runs the cells of a plan: a kernel is verified, then timed; a model is fitted, then scored.

No time stands in a row unless the same run has shown the result to be right. A kernel's result is compared with
its chapter's oracle, and must come out the same, bit for bit, after the last timed launch; a model's score is
computed in float64 from its predictions on held-out data. Whatever goes wrong in a cell stays in its row, and the
next cell runs.
"""
import warnings
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from numprec import datasets
from numprec.harness import timing
from numprec.harness.cases import KernelCell

SEED = 0    # of the inputs of the kernels


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


def run(cells, device, store, command="", progress=None):
    """Runs each cell and appends its rows to `store`. `progress(done, total, cell, rows, seconds)` is called after
    each cell. An interruption leaves the finished rows in the store."""
    for done, cell in enumerate(cells, 1):
        start = perf_counter()
        rows = (kernel_rows if isinstance(cell, KernelCell) else training_rows)(cell, device)
        for row in rows:
            store.append({**row, "command": _command_for(command, cell, row)})
        if progress:
            progress(done, len(cells), cell, rows, perf_counter() - start)


def _command_for(command, cell, row):
    """The command line that repeats one row."""
    if isinstance(cell, KernelCell):
        only = f"--operation {cell.operation.name}/{cell.rung.name}"
    else:
        only = f"--model {cell.model.name}"
    return f"{command} {only} --precision {row['precision']}".strip()


# ---- kernels

def kernel_rows(cell, device):
    """One row per precision of the cell."""
    operation, rung = cell.operation, cell.rung
    rows, launches = {}, {}
    for p in cell.precisions:
        row = rows[p] = {"kind": "kernel", "operation": operation.name, "rung": rung.name, "shape": cell.shape,
                         **_precision_columns(device, p), "seed": SEED,
                         "error": None, "error_over_bound": None, "compile_s": None, "launches": None,
                         "samples_s": None, "calls_per_sample": None, **operation.cost(p, *cell.shape)}
        if row["status"] == "ok" and device.compute_capability < rung.compute_capability:
            needed = ".".join(map(str, rung.compute_capability))
            row.update(status="SKIP", reason=f"needs a device of compute capability {needed}")
        if row["status"] == "ok":
            with _blame(row):
                launches[p] = _verified(cell, p, device, row)
    launches = {p: launch for p, launch in launches.items() if rows[p]["status"] == "ok"}
    with _blame(*(rows[p] for p in launches)):
        timed = timing.measure({p: launch.run for p, launch in launches.items()}, cell.effort)
        for p, samples in timed.items():
            if launches[p].still_the_same():
                rows[p].update(samples_s=samples.seconds, calls_per_sample=samples.calls)
            else:
                rows[p].update(status="FAIL", reason="a later launch gave another result than the first")
    return list(rows.values())


def _verified(cell, p, device, row):
    """Launches the rung once, compares the result with the oracle, and captures the launch to be timed."""
    operation = cell.operation
    drawn = map(np.asarray, operation.inputs(np.random.default_rng(SEED), cell.shape, "random", p))
    rounded = [p.storage.round(a) if a.dtype.kind == "f" else a for a in drawn]
    arrays = [device.array(a) for a in rounded]
    start = perf_counter()
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
        row.update(status="FAIL", reason=f"error is {found.over_bound:.3g} times the bound")
        return None
    if not found.bounded:
        row.update(status="SKIP", error_over_bound=None,
                   reason="the theory bounds no error for this shape and precision, so the result cannot be verified")
        return None
    launch = _Launch(device, lambda: operation.launch(device, cell.rung, p, *arrays), first)
    row["launches"] = launch.count
    return launch


class _Launch:
    """The launches of one result, captured so that a replay costs neither allocation nor Python. An operation that
    looks at the device in between cannot be captured; it is launched anew each time, and its time includes the host's.
    """

    def __init__(self, device, launch, first):
        self.device, self.first, self.launch, self.graph = device, first, launch, None
        try:
            with device.capture() as graph:
                self.results = _tuple(launch())
            self.graph, self.count = graph, len(graph.launches)
        except RuntimeError:      # nothing can be read while launches are recorded
            before = device.launches
            self.results = _tuple(launch())
            self.count = device.launches - before

    def run(self, times):
        with self.device.timer() as timer:
            if self.graph:
                self.graph.replay(times)
            else:
                for _ in range(times):
                    self.results = _tuple(self.launch())
        return timer.seconds

    def still_the_same(self):
        now = tuple(self.device.to_host(r) for r in self.results)
        return all(a.tobytes() == b.tobytes() for a, b in zip(self.first, now, strict=True))


# ---- models

def training_rows(cell, device):
    """One row per precision of the cell, all on the same split of the data."""
    model = cell.model
    data = datasets.load(model.data, stand_in=True)
    if model.first:
        data = data.first(model.first, 2 * model.first)
    split = _in_unit_range(data.split(cell.seed))
    metric, score = METRICS[data.task]
    rows, fits = {}, {}
    for p in cell.precisions:
        row = rows[p] = {"kind": "training", "model": model.label, "data": data.name, "stand_in": data.stand_in,
                         "n_train": len(split.y_train), "n_test": len(split.y_test),
                         "test_to_train": data.test_to_train, "metric": metric,
                         **_precision_columns(device, p), "seed": cell.seed,
                         "score": None, "stop_reason": None, "finished": None, "n_iter": None, "condition": None,
                         "launches": None, "warnings": None, "first_fit_s": None, "samples_s": None,
                         "calls_per_sample": None}
        if row["status"] != "ok":
            continue
        with _blame(row):
            before, start = device.launches, perf_counter()
            with warnings.catch_warnings(record=True) as raised:
                warnings.simplefilter("always")
                fitted = _fresh(cell, p, data).fit(split.X_train, split.y_train)
            device.synchronize()
            row.update(first_fit_s=perf_counter() - start, launches=device.launches - before,
                       stop_reason=_plain(fitted.stop_reason_),
                       finished=set(np.ravel(fitted.stop_reason_)) <= set(model.finished),
                       n_iter=_plain(getattr(fitted, "n_iter_", None)), condition=getattr(fitted, "condition_", None),
                       warnings=list(dict.fromkeys(str(w.message) for w in raised)),
                       score=score(split.y_test, fitted.predict(split.X_test)))
            fits[p] = timing.host_clock(lambda p=p: _fit_quietly(_fresh(cell, p, data), split), device.synchronize)
    with _blame(*(rows[p] for p in fits)):
        for p, samples in timing.measure(fits, cell.effort).items():
            rows[p].update(samples_s=samples.seconds, calls_per_sample=samples.calls)
    return list(rows.values())


def _plain(value):
    """A value, or a list of them: an estimator of several problems has one for each."""
    return value.tolist() if isinstance(value, np.ndarray) else value


def _fresh(cell, p, data):
    """The cell's estimator; where it draws random numbers, by the cell's seed, and where it reads images, shaped as the
    data set's are."""
    estimator = cell.model.make(p)
    if hasattr(estimator, "image_shape"):
        estimator.image_shape = data.image_shape
    if hasattr(estimator, "random_state"):
        estimator.random_state = cell.seed
    return estimator


def _in_unit_range(split):
    """Pixels, which come as uint8, divided by the largest one; other data as they are."""
    if split.X_train.dtype != np.uint8:
        return split
    top = np.float32(split.X_train.max())
    return split._replace(X_train=split.X_train / top, X_test=split.X_test / top)


def _fit_quietly(estimator, split):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(split.X_train, split.y_train)


def _r2(y, predicted):
    """Coefficient of determination in float64; NaN where a prediction is not finite."""
    from sklearn.metrics import r2_score
    predicted = np.asarray(predicted).astype(np.float64)
    return float(r2_score(y, predicted)) if np.isfinite(predicted).all() else float("nan")


def _accuracy(y, predicted):
    return float(np.mean(np.asarray(predicted) == y))


METRICS = {"regression": ("R2", _r2), "classification": ("accuracy", _accuracy)}


# ---- what both have

def _precision_columns(device, p):
    available = device.availability(p)
    status, reason = ("SKIP", available.reason) if available.status == "unavailable" else ("ok", "")
    return {"precision": str(p), "roles": p.roles, "availability": available.status,
            "status": status, "reason": reason}


class _blame:
    """Context manager: an exception inside becomes the failure of these rows, which then have no time."""

    def __init__(self, *rows):
        self.rows = rows

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if not isinstance(error, Exception):
            return False
        sentence = " ".join(f"{kind.__name__}: {error}".split())
        for row in self.rows:
            row.update(status="FAIL", reason=sentence[:500], samples_s=None, calls_per_sample=None)
        return True
