"""Rows of models: one fit in each precision, scored on held-out data, and as many more as there is time for.

The fit that is scored is also the first that is timed, where nothing had to compile on its way. Networks compile
beforehand, by an epoch on one batch, so that a long fit of theirs is made once. The other models compile during their
first fit in a process, which then counts neither as time nor as energy: it is made again, however long it took. The
score after each epoch is computed while the clock of the training stands still: neither `samples_s` nor `elapsed_s`
holds any of it.
"""
import inspect
import warnings
from time import perf_counter

import numpy as np

from numprec.harness.measure import problems, timing
from numprec.harness.record import rows, telemetry

EVALUATED = 1000     # held-out samples, at most, that the score after an epoch looks at
HISTORY = ("epoch", "loss", "accuracy", "seconds", "loss_scale", "skipped", "overflow", "underflow", "lost",
           "gradient_range")
BRIEF = timing.Effort(budget=0.02, warm_up=0.0, least=3)    # for predictions and transfers
BASELINE = "fp64"

# what an estimator has learned, and needs for predictions; and the role of its format, see `model_bytes`
LEARNED = {"DecisionTreeClassifier": {"tree_": "storage"},
           "LinearRegression": {"coef_": "float64", "intercept_": "float64"},
           "SVC": {"support_vectors_": "storage", "dual_coef_": "state", "intercept_": "accum"},
           "MLPClassifier": {"coefs_": "master", "intercepts_": "master"}, "CNNClassifier": {"parameters_": "master"}}
MOMENTS = ("mean", "var")    # of a batch norm; kept in accum

_compiled = set()    # (model, data, precision, device) that this process has fitted


def training_rows(cell, device):
    """One row per precision of the cell, all on the same split of the data; fewer where CUDA failed, see
    `rows.before_fault`."""
    problem = problems.of(cell)
    found, fits = {p: rows.begin(cell, p, device, **problem.columns()) for p in cell.precisions}, {}
    before = telemetry.clocks(device)
    for p in cell.turns:
        if found[p]["status"] == "ok":
            with rows.Blame(found[p]):
                fits[p] = Fits(cell, p, device, problem, found[p])
            if rows.broken(found[p]):
                return rows.before_fault(found.values())
    fits = {p: fit for p, fit in fits.items() if found[p]["status"] == "ok"}
    with rows.Blame(*(found[p] for p in fits)):
        timed = timing.measure({p: fit.run for p, fit in fits.items()}, cell.effort,
                               taken={p: fit.taken for p, fit in fits.items()}, together=False)
        clocks = telemetry.span(before, telemetry.clocks(device))
        baseline = next((fit.predicted for p, fit in fits.items() if str(p) == BASELINE), None)
    for p, fit in fits.items():
        if found[p]["status"] == "ok":
            with rows.Blame(found[p]):
                fit.finish(timed[p], clocks, None if problem.regression else baseline)
            if rows.broken(found[p]):
                break
    if any(map(rows.broken, found.values())):
        return rows.before_fault(found.values())
    return list(found.values())


class Fits:
    """The fits of one precision. Making it makes the first one, which is scored and entered into the row at once."""

    def __init__(self, cell, p, device, problem, row):
        self.cell, self.p, self.device, self.problem, self.row = cell, p, device, problem, row
        self.energy, self.count, self.paused, self.again = telemetry.Energy(device), 0, 0.0, False
        key = cell.model.label, problem.name, str(p), device.name
        compiles = key not in _compiled
        network = "callback" in inspect.signature(self.fresh().fit).parameters
        compile_s = self._compile() if network and compiles else None
        history = row["history"] = [] if network else None    # kept where the fit breaks off
        with warnings.catch_warnings(record=True) as raised, telemetry.Memory(device) as memory:
            warnings.simplefilter("always")
            before = device.launches
            seconds = self._fit(history)
            launches = device.launches - before
        _compiled.add(key)
        self.compiled_on_the_way = compiles and not network
        self.taken = [seconds]    # samples of the time
        if self.compiled_on_the_way:
            self.taken, self.energy, self.count = [], telemetry.Energy(device), 0
        row.update(launches=launches, peak_bytes=memory.peak, compile_s=compile_s,
                   first_fit_s=seconds + (compile_s or 0),
                   warnings=list(dict.fromkeys(str(w.message) for w in raised)), **self._ended(history))
        if self.compiled_on_the_way:    # as may the first prediction
            self.estimator.predict(problem.split.X_test)
        self.predicted, predict_s = self._predicted()    # which a fit without a result may refuse
        row.update(predict_s=predict_s, score=problem.score(self.predicted))

    # ---- fitting

    def fresh(self):
        """The cell's estimator; where it draws random numbers, by the cell's seed, and where it reads images, shaped as
        the data set's are. Where the problem is grown, so is the batch: as many updates, each of more samples."""
        estimator = self.cell.model.make(self.p)
        if hasattr(estimator, "image_shape"):
            estimator.image_shape = self.problem.data.image_shape
        if hasattr(estimator, "random_state"):
            estimator.random_state = self.cell.seed
        if isinstance(getattr(estimator, "batch_size", None), int):
            estimator.batch_size *= self.cell.grow
        return estimator

    def _compile(self):
        """Seconds of an epoch on one batch, in which every class occurs."""
        estimator, (X, _, y, _) = self.fresh().set_params(max_iter=1), self.problem.split
        batch = estimator.batch_size if isinstance(estimator.batch_size, int) else 200
        some = np.union1d(np.unique(y, return_index=True)[1], np.arange(min(len(y), batch)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return timing.host_clock(lambda: estimator.fit(X[some], y[some]), self.device.synchronize)(1)

    def _fit(self, history=None):
        """Fits anew. Returns the seconds, by the host's clock, without those of the scores in between."""
        self.estimator, self.paused = self.fresh(), 0.0
        options = {} if history is None else {"callback": lambda epoch: self._note(epoch, history)}
        X, _, y, _ = self.problem.split
        self.energy.start()
        seconds = timing.host_clock(lambda: self.estimator.fit(X, y, **options), self.device.synchronize)(1)
        self.energy.stop()
        self.count += 1
        return seconds - self.paused

    def _note(self, epoch, history):
        """Takes down an epoch, with the score that its weights have on held-out data."""
        self.energy.stop()
        start = perf_counter()
        elapsed = epoch["seconds"] + (history[-1]["elapsed_s"] if history else 0)
        predicted = self.estimator.predict(self.problem.split.X_test[:EVALUATED])
        history.append({**{name: epoch.get(name) for name in HISTORY},
                        "held_out": self.problem.score(predicted, EVALUATED), "elapsed_s": elapsed})
        self.paused += perf_counter() - start
        self.energy.start()

    def run(self, times):
        """A contender: so many fits more."""
        self.again = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sum(self._fit() for _ in range(times))

    # ---- what the row says

    def _predicted(self):
        """Predictions of the held-out data, and the seconds that they took."""
        predicted, X = [], self.problem.split.X_test
        seconds = self._briefly(lambda: predicted.append(self.estimator.predict(X)))
        return predicted[0], seconds

    def _briefly(self, call):
        """Median seconds of a few calls, by the host's clock; of a single one where it takes long."""
        run = timing.host_clock(call, self.device.synchronize)
        return float(np.median(timing.measure({"": run}, BRIEF, {"": [run(1)]}, together=False)[""].seconds))

    def _ended(self, history):
        """How the fit ended, by its own report."""
        fitted = self.estimator
        reasons = np.ravel(fitted.stop_reason_).tolist()
        overflow = getattr(fitted, "overflow_count_", reasons.count("overflow"))
        shares = {name: float(np.mean([epoch[name] for epoch in history])) if history else 0
                  for name in ("underflow", "lost")}
        exponents = getattr(fitted, "gradient_exponents_", None) if self.cell.seed == 0 else None
        return {
            "stop_reason": _plain(fitted.stop_reason_), "finished": set(reasons) <= set(self.cell.model.finished),
            "n_iter": _plain(getattr(fitted, "n_iter_", None)), "condition": getattr(fitted, "condition_", None),
            "counts": {"overflow": int(overflow), "skipped": int(getattr(fitted, "skipped_steps_", 0)),
                       "stalled": reasons.count("stalled"), **shares},
            "exponents": exponents and {str(e): int(n) for e, n in exponents.items()},
            "parameters": {name: value for name, value in fitted.get_params(deep=False).items()
                           if name not in ("precision", "device")},
            "model_bytes": model_bytes(fitted, self.p)}

    def finish(self, samples, clocks, baseline):
        """Enters the times, once the last fit is seen to predict what the first did. `baseline` are the predictions
        in fp64."""
        row, median = self.row, float(np.median(samples.seconds))
        if self.again and not np.array_equal(self._predicted()[0], self.predicted, equal_nan=True):
            return rows.fail(row, "a later fit predicts something else than the first")
        if self.compiled_on_the_way:
            row["compile_s"] = max(0.0, row["first_fit_s"] - median)
        row.update(samples_s=samples.seconds, calls_per_sample=samples.calls, clocks=clocks,
                   target_s=self._target_s(median), transfer_s=self._transfer(),
                   energy_j=self.energy.joules and self.energy.joules / self.count,
                   labels_differ=None if baseline is None else int(np.sum(self.predicted != baseline)))

    def _target_s(self, median):
        """Seconds of training until the held-out score reached the model's target; of all of it where there are no
        epochs. None if it never did, or the fit did not end as it should."""
        target, history = self.cell.model.target, self.row["history"]
        if target is None:
            return None
        if history is None:
            return median if self.row["finished"] and self.row["score"] >= target else None
        return next((epoch["elapsed_s"] for epoch in history if epoch["held_out"] >= target), None)

    def _transfer(self):
        """Seconds that it takes to round X to storage on the host, and to copy it to the device."""
        X = np.ascontiguousarray(self.problem.split.X_train)
        return self._briefly(lambda: self.device.array(X, self.p.storage))


def model_bytes(fitted, precision):
    """Bytes of what predictions are made from, each number in the narrowest format that holds it as the fit left it;
    None for a foreign estimator.

    A network predicts with its masters where the precision has such a format, else with its weights in storage; the
    running moments of a batch norm are in accum. Support vectors are in storage, their coefficients in the format of
    the solver's state, an intercept in accum. Linear regression ends on the host, in float64. A node of a tree is two
    links, a feature and a class, of four bytes each, and a threshold in storage. Which sample a support vector is,
    which predictions do not need, is not in it.
    """
    formats = {"master": precision.master or precision.storage, "storage": precision.storage,
               "accum": precision.accum, "state": getattr(precision, getattr(fitted, "state", "accum"))}
    sizes = {role: fmt.bytes for role, fmt in formats.items()} | {"float64": 8}
    learned = LEARNED.get(type(fitted).__name__)
    return learned and sum(_bytes(getattr(fitted, name), sizes[role], sizes["accum"]) for name, role in learned.items())


def _bytes(value, each, of_moments):
    if isinstance(value, dict):
        return sum(_bytes(item, of_moments if name.rpartition(".")[2] in MOMENTS else each, of_moments)
                   for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return sum(_bytes(item, each, of_moments) for item in value)
    if hasattr(value, "children_left"):    # a tree
        return value.node_count * (4 * 4 + each)
    value = np.asarray(value)
    return value.size * (each if value.dtype.kind == "f" else value.itemsize)


def _plain(value):
    """A value, or a list of them: an estimator of several problems has one for each."""
    return value.tolist() if isinstance(value, np.ndarray) else value
