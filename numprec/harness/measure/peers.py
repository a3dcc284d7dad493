"""Rows of peers: what other libraries make of the same data, with the same split, parameters and seeds.

scikit-learn is always there; the others are used where they can be imported, in the formats that they have. A cell is
a library and a model with one seed; its "precisions" are the library's own names of formats. Where a library has no
such model, or no such format, there is no row.

A peer is another implementation of the same model, not the same computation: scikit-learn's SVC computes in float64
whatever it is given, XGBoost bins features and boosts one round, and cuBLAS and cuDNN choose their own algorithms.
Its results are not verified: its score on held-out data is all that is known of them, and how its fit ended is what it
says itself.

A library is imported, and fits a few rows, before a fit of it is timed.
"""
import functools
import importlib.util
import warnings
from dataclasses import dataclass
from importlib import metadata
from typing import Callable

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from numprec.harness.measure import problems, timing
from numprec.harness.record import rows

FEW = 200          # rows, and some of each class, that a library fits before it is timed
BRIEF = timing.Effort(budget=0.02, warm_up=0.0, least=3)


@dataclass(frozen=True)
class Peer:
    """A model of a library. `make(parameters, format, problem)` returns what has `fit(X, y)` and `predict(X)`; X comes
    in float64 for that format, and in float32 for any other."""

    library: str                  # as it is imported
    model: str                    # numprec's
    formats: tuple
    make: Callable


def available(model):
    """The Peers of a model whose libraries can be imported; none is imported to find out."""
    return [peer for peer in PEERS if peer.model == model and importlib.util.find_spec(peer.library)]


def named(library, model):
    return next(peer for peer in PEERS if (peer.library, peer.model) == (library, model))


def peer_rows(cell, device):
    """One row per format of the library."""
    problem, peer = problems.of(cell), named(cell.library, cell.model.name)
    found, fits = {name: rows.blank(cell, name, device=device.name, availability="native", status="ok", reason="",
                                    **problem.columns()) for name in cell.precisions}, {}
    for name in cell.turns:
        with rows.Blame(found[name]):
            fits[name] = _first(cell, peer, name, problem, found[name])
    fits = {name: fit for name, fit in fits.items() if found[name]["status"] == "ok"}
    with rows.Blame(*(found[name] for name in fits)):
        timed = timing.measure({name: run for name, (run, _) in fits.items()}, cell.effort,
                               taken={name: [seconds] for name, (_, seconds) in fits.items()}, together=False)
        for name, samples in timed.items():
            row, median = found[name], float(np.median(samples.seconds))
            reached = row["target"] is not None and row["score"] >= row["target"]
            row.update(samples_s=samples.seconds, calls_per_sample=1, target_s=median if reached else None)
    return list(found.values())


def _first(cell, peer, name, problem, row):
    """Fits and scores once, after a fit of a few rows. Returns a contender and its first sample."""
    X, X_test, y, _ = problem.split
    X, X_test = (np.ascontiguousarray(a, np.float64 if name == "float64" else np.float32)
                 for a in (X, X_test))
    y = y.astype(X.dtype) if problem.regression else y.astype(np.int64)
    parameters = {"random_state": cell.seed, **cell.model.parameters}
    if isinstance(parameters.get("batch_size"), int):
        parameters["batch_size"] *= cell.grow
    few = np.arange(min(FEW, len(y)))
    if not problem.regression:
        few = np.union1d(few, np.unique(y, return_index=True)[1])
    last, raised = [], []

    def fit(X=X, y=y):
        last[:] = [peer.make(parameters, name, problem)]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            last[0].fit(X, y)
        raised[:] = caught
    waking = timing.host_clock(lambda: fit(X[few], y[few]), lambda: None)(1)
    run = timing.host_clock(fit, lambda: None)
    seconds = run(1)
    ended, predicted = _ended(last[0], raised, parameters), []
    predict = timing.host_clock(lambda: predicted.append(_to_host(last[0].predict(X_test))), lambda: None)
    taken = timing.measure({"": predict}, BRIEF, {"": [predict(1)]}, together=False)[""]
    row.update(first_fit_s=waking + seconds, predict_s=float(np.median(taken.seconds)),
               score=problem.score(predicted[0]), stop_reason=ended,
               finished=None if ended is None else ended in cell.model.finished,
               n_iter=_plain(getattr(last[0], "n_iter_", None)),
               parameters={k: v for k, v in parameters.items() if not callable(v)})
    return run, seconds


def _ended(estimator, raised, parameters):
    """Why a fit ended, in numprec's words, as the estimator reports it; None where it does not."""
    if any(issubclass(warning.category, ConvergenceWarning) for warning in raised):
        return "max_iter"
    if (status := getattr(estimator, "fit_status_", None)) is not None:    # of an SVC: 0 where it converged
        return "max_iter" if np.any(status) else "converged"
    made, most = (getattr(estimator, "n_iter_", None), getattr(estimator, "max_iter", parameters.get("max_iter")))
    if made is None or most is None or most <= 0:
        return None
    return "converged" if np.max(made) < most else "max_iter"


def _to_host(array):
    """As a NumPy array, wherever a library keeps its results."""
    for name in "get", "to_numpy":          # CuPy, cuDF
        if hasattr(array, name):
            array = getattr(array, name)()
    return np.asarray(array)


def _plain(value):
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


@functools.cache
def title(library):
    """Name and version of a library, which is not imported for it: no row of a peer has another, whether it ran or
    died."""
    names = _distributions().get(library) or [library]
    try:
        return f"{DISTRIBUTIONS.get(library, library)} {metadata.version(sorted(names)[0])}"
    except metadata.PackageNotFoundError:
        return DISTRIBUTIONS.get(library, library)


@functools.cache
def _distributions():
    """{name that is imported: the names of the packages that bring it}."""
    return metadata.packages_distributions()


def _accepted(estimator, parameters):
    """Those of `parameters` that an estimator, of scikit-learn or cuML, has."""
    known = set(estimator._get_param_names())
    return {name: value for name, value in parameters.items() if name in known}


# ---- the libraries

def _sklearn(name):
    def make(parameters, fmt, problem):
        module = {"DecisionTreeClassifier": "tree", "LinearRegression": "linear_model", "SVC": "svm",
                  "MLPClassifier": "neural_network"}[name]
        estimator = getattr(importlib.import_module(f"sklearn.{module}"), name)
        chosen = _accepted(estimator, parameters)
        if parameters.get("learning_rate") not in ("constant", "invscaling", "adaptive"):
            chosen.pop("learning_rate", None)             # it has no such schedule
        return estimator(**chosen)
    return make


def _cuml(name, module):
    def make(parameters, fmt, problem):
        estimator = getattr(importlib.import_module(f"cuml.{module}"), name)
        return estimator(**_accepted(estimator, {**parameters, "output_type": "numpy"}))
    return make


class _LeastSquares:
    """CuPy's lstsq on centred data."""

    def fit(self, X, y):
        import cupy
        X, y = cupy.asarray(X), cupy.asarray(y)
        self.mean, self.intercept = X.mean(axis=0), y.mean()
        self.coef = cupy.linalg.lstsq(X - self.mean, y - self.intercept, rcond=None)[0]
        cupy.cuda.Device().synchronize()

    def predict(self, X):
        import cupy
        return (cupy.asarray(X) - self.mean) @ self.coef + self.intercept


def _cupy(parameters, fmt, problem):
    return _LeastSquares()


def _xgboost(parameters, fmt, problem):
    """One round of boosting at full rate, unregularised: a tree for each class, its gains of second order."""
    import xgboost
    return xgboost.XGBClassifier(n_estimators=1, learning_rate=1.0, reg_lambda=0.0, min_child_weight=0.0, max_depth=0,
                                 tree_method="hist", max_bin=1024, random_state=parameters["random_state"])


def _thundersvm(parameters, fmt, problem):
    import thundersvm
    known = ("C", "kernel", "gamma", "tol", "degree", "coef0")
    scale = 1.0 / (problem.split.X_train.shape[1] * problem.split.X_train.var())    # it has no gamma="scale"
    return thundersvm.SVC(**{"C": 1.0, "kernel": "rbf", "gamma": scale} | {
        name: value for name, value in parameters.items() if name in known})


def _torch(name):
    def make(parameters, fmt, problem):
        from numprec.harness.measure.peers_torch import Classifier
        return Classifier(name, parameters, fmt, problem.data.image_shape)
    return make


BOTH = ("float64", "float32")
PEERS = (
    *(Peer("sklearn", name, BOTH, _sklearn(name))
      for name in ("DecisionTreeClassifier", "LinearRegression", "SVC", "MLPClassifier")),
    *(Peer("torch", name, (*BOTH, "autocast float16", "autocast bfloat16"), _torch(name))
      for name in ("MLPClassifier", "CNNClassifier")),
    Peer("cupy", "LinearRegression", BOTH, _cupy),
    Peer("cuml", "LinearRegression", BOTH, _cuml("LinearRegression", "linear_model")),
    Peer("cuml", "SVC", BOTH, _cuml("SVC", "svm")),
    Peer("xgboost", "DecisionTreeClassifier", ("float32",), _xgboost),
    Peer("thundersvm", "SVC", ("float32",), _thundersvm),
)
DISTRIBUTIONS = {"sklearn": "scikit-learn"}
