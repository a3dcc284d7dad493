"""What the classifiers that train a network share: fit by epochs, when to stop, going on later, saving.

A subclass says what the network is (`_layers`), how samples lie in memory (`_samples`), and how a batch of them is
loaded (`_load`). The state of a training is held on the host as a checkpoint, {name: array} and what it belongs to, so
that an estimator can be pickled, copied and saved at any time; the device's arrays live as long as a call of `fit`.
"""
import math
import numbers
import warnings

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from numprec import __version__
from numprec.models import training
from numprec.models.base import Estimator, check_memory, check_range
from numprec.models.network import Network
from numprec.models.training import SCHEDULES, SOLVERS, Descent, Training, copy_rows
from numprec.precision import precision_named, unknown

EVALUATED = 1024     # samples at a time, where nothing is trained

# parameter: what it may be, in words, and a test
RULES = {
    "alpha": ("a number of at least 0", lambda x: _real(x) and x >= 0),
    "batch_size": ("'auto' or a whole number of at least 1", lambda x: isinstance(x, str) and x == "auto"
                   or _whole(x) and x >= 1),
    "learning_rate_init": ("a number above 0", lambda x: _real(x) and x > 0),
    "max_iter": ("a whole number of at least 1", lambda x: _whole(x) and x >= 1),
    "tol": ("a number of at least 0", lambda x: _real(x) and x >= 0),
    "momentum": ("a number in [0, 1]", lambda x: _real(x) and 0 <= x <= 1),
    "validation_fraction": ("a number in (0, 1)", lambda x: _real(x) and 0 < x < 1),
    "beta_1": ("a number in [0, 1)", lambda x: _real(x) and 0 <= x < 1),
    "beta_2": ("a number in [0, 1)", lambda x: _real(x) and 0 <= x < 1),
    "epsilon": ("a number above 0", lambda x: _real(x) and x > 0),
    "n_iter_no_change": ("a whole number of at least 1, or infinity", lambda x: _real(x) and x >= 1),
    "loss_scale": ("None, 'dynamic' or a number above 0", lambda x: x is None or x == "dynamic" or _real(x) and x > 0),
}

SCIKIT_LEARNS = {"solver": ("lbfgs",), "learning_rate": ("invscaling", "adaptive")}    # and not numprec's


def _whole(x):
    return isinstance(x, numbers.Integral) and not isinstance(x, bool)


def _real(x):
    return isinstance(x, numbers.Real) and not isinstance(x, bool) and not math.isnan(x)


class NetworkClassifier(ClassifierMixin, Estimator):
    """Base of MLPClassifier and CNNClassifier, which have their parameters in common, see MLPClassifier."""

    # ---- what a subclass says

    def _layers(self, n_classes):
        """The layers, the last of which has n_classes results and no activation."""
        raise NotImplementedError

    def _samples(self, X):
        """X, checked and in two dimensions, as the training takes it: samples shaped for the first layer."""
        return X

    def _load(self):
        """What `Training` takes as `load`."""
        return copy_rows

    def _learned(self, values):
        """Sets what predictions are made from, given {(layer name, parameter name): float64 array}."""
        raise NotImplementedError

    def _scores(self, X):
        """What goes into the softmax, in float64, for checked rows X."""
        raise NotImplementedError

    # ---- fitting

    def fit(self, X, y, *, callback=None):
        """Trains on X (n_samples, n_features) and the labels y (n_samples,). Returns self.

        `callback(row)` is called after each epoch with a dictionary: epoch, loss, accuracy, seconds, loss_scale,
        skipped, overflow, underflow, lost, gradient_range, ... (`numprec.models.training.Training.epoch`). Where it
        returns True, training ends. Meanwhile the estimator is as the epoch left it: the callback may let it predict,
        score or save. What that takes is not in the seconds of any row.
        """
        again = self.warm_start and hasattr(self, "_checkpoint")
        X, codes, classes = self._checked_data(X, y, reset=True)
        if again and not np.array_equal(classes, self.classes_):
            raise ValueError(f"warm_start goes on with the classes of the last fit, {self.classes_}, not {classes}")
        if len(classes) == 1:
            warnings.warn(f"y has a single class, {classes.tolist()[0]!r}: there is nothing to learn", stacklevel=2)
        if not again:
            self._start(classes)
        X, codes, held_out = self._set_aside(X, codes)
        run = self._training(X, codes)
        if again:
            run.network.load(self._checkpoint[0])
        else:
            run.network.initialise(self._seed)
        return self._train(run, held_out, self.max_iter, callback)

    def partial_fit(self, X, y, classes=None, *, callback=None):
        """One epoch on X and y, going on from where the last call left off. The first call needs `classes`, all that
        there will ever be, unless y has them all. Returns self."""
        if self.early_stopping:
            raise ValueError("partial_fit does not go together with early_stopping=True")
        first = not hasattr(self, "_checkpoint")
        known = self.classes_ if not first else None if classes is None else np.unique(classes)
        X, codes, known = self._checked_data(X, y, reset=first, classes=known)
        if classes is not None and not np.array_equal(np.unique(classes), known):
            raise ValueError(f"classes are {known} since the first call, not {np.unique(classes)}")
        if first:
            self._start(known)
        run = self._training(X, codes)
        if first:
            run.network.initialise(self._seed)
        else:
            run.carry_on(self._checkpoint[0])
        return self._train(run, None, 1, callback, partial=True)

    def resume(self, X, y, *, callback=None):
        """Goes on with a fit that was interrupted, or that ended at max_iter, raised since, on the same X and y. The
        result has the same bits as if the fit had gone on at once. Returns self."""
        check_is_fitted(self)
        X, codes, _ = self._checked_data(X, y, reset=False, classes=self.classes_)
        X, codes, held_out = self._set_aside(X, codes)
        run = self._training(X, codes)
        run.restore(*self._checkpoint)
        return self._train(run, held_out, self.max_iter - self.n_iter_, callback)

    def _checked_data(self, X, y, reset, classes=None):
        """The samples, the codes of y, and the classes."""
        self._check_parameters()
        _, precision = self._where_and_how()
        if reset:
            X, y = self._checked_for_classes(X, y)
        else:
            X, y = self._checked_for_predict(X), column_or_1d(y, warn=True)
            check_consistent_length(X, y)
        check_range(X, precision.storage, "X", "standardise the data")
        classes = np.unique(y) if classes is None else classes
        foreign = np.setdiff1d(y, classes)
        if len(foreign):
            raise ValueError(f"y has the class {foreign.tolist()[0]!r}, which is none of {classes}")
        return self._samples(X), np.searchsorted(classes, y).astype(np.int32), classes

    def _check_parameters(self):
        for name, (words, allowed) in RULES.items():
            if not allowed(getattr(self, name)):
                raise ValueError(f"{name} is {words}, not {getattr(self, name)!r}")
        for name, known in ("solver", SOLVERS), ("learning_rate", SCHEDULES):
            value = str(getattr(self, name))
            if value in SCIKIT_LEARNS[name]:
                raise ValueError(f"{name}={value!r} is scikit-learn's and not implemented here; there are "
                                 f"{', '.join(map(repr, known))}")
            if value not in known:
                raise unknown(name, value, list(known))

    def _start(self, classes):
        """What a first fit sets."""
        self._seed = int(check_random_state(self.random_state).randint(2 ** 31 - 1))
        self.classes_, self.n_outputs_ = classes, len(classes)
        self.loss_curve_, self.history_, self.n_iter_, self.t_ = [], [], 0, 0
        self.skipped_steps_, self.overflow_count_, self.best_loss_ = 0, 0, np.inf
        self.validation_scores_, self.best_validation_score_ = None, None
        self._waited, self._best = 0, None

    def _set_aside(self, X, codes):
        """X and codes; and what early stopping keeps of them to score, or None."""
        if not self.early_stopping:
            return X, codes, None
        counts = np.bincount(codes)
        X, X_held, codes, held = train_test_split(X, codes, test_size=self.validation_fraction, random_state=self._seed,
                                                  stratify=codes if counts[counts > 0].min() > 1 else None)
        return X, codes, (X_held, held)

    def _training(self, X, codes):
        device, precision = self._where_and_how()
        check_memory(device, X.size * precision.storage.bytes, precision, lambda p: p.storage.bytes)
        network = Network(self._layers(len(self.classes_)), X.shape[1:], device, precision)
        descent = Descent(
            solver=self.solver, learning_rate=self.learning_rate, learning_rate_init=float(self.learning_rate_init),
            epochs=int(self.max_iter), alpha=float(self.alpha), momentum=float(self.momentum),
            nesterovs_momentum=bool(self.nesterovs_momentum), beta_1=float(self.beta_1), beta_2=float(self.beta_2),
            epsilon=float(self.epsilon))
        rows = min(200, len(X)) if self.batch_size == "auto" else int(self.batch_size)
        return Training(network, X, codes, rows, descent, self._seed, bool(self.shuffle), self.loss_scale, self._load(),
                        epoch=self.n_iter_)

    def _train(self, run, held_out, epochs, callback, partial=False):
        """So many epochs, unless there is a reason to stop; an interruption loses the one under way."""
        self._keep(run)
        reason = None
        for _ in range(max(0, epochs)):
            before = self._checkpoint[0]
            row = run.epoch()
            reason = self._note(row, run, held_out, partial)
            if not all(np.isfinite(run.fetched[name].astype(np.float64)).all() for name in ("masters", "statistics")):
                run.go_back(before)    # an update itself may overflow
                reason = "overflow"
            elif row["skipped"] < run.batches and np.array_equal(run.fetched["masters"], before["masters"]):
                reason = reason or "stalled"
            self._keep(run)
            if self.verbose:
                print(f"Iteration {self.n_iter_}, loss = {row['loss']:.8f}")
            if callback is not None and callback(row):
                reason = reason or "interrupted"
            if reason:
                break
        if epochs > 0:
            self._count_gradients(run)
        self._report(reason or "max_iter", run, partial)
        return self

    def _note(self, row, run, held_out, partial):
        """Takes down an epoch. Returns the reason to stop, if there is one."""
        self.n_iter_ += 1
        self.t_ += run.labels.shape[0]
        self.history_.append(row)
        self.loss_curve_.append(row["loss"])
        self.loss_, self.loss_scale_ = row["loss"], row["loss_scale"]
        self.skipped_steps_ += row["skipped"]
        self.overflow_count_ += row["overflow"]
        if held_out is None:
            better, self.best_loss_ = row["loss"] < self.best_loss_ - self.tol, min(self.best_loss_, row["loss"])
        else:
            X, codes = held_out
            row["validation"] = float(np.mean(run.network.evaluate(X, EVALUATED).argmax(axis=1) == codes))
            self.validation_scores_ = [*(self.validation_scores_ or ()), row["validation"]]
            best, self.best_loss_ = self.best_validation_score_, None
            better = best is None or row["validation"] > best + self.tol
            if best is None or row["validation"] > best:
                self.best_validation_score_, self._best = row["validation"], {
                    name: run.fetched[name].copy() for name in ("weights", "masters", "statistics")}
        self._waited = 0 if better else self._waited + 1
        if run.stopped:
            return "overflow"
        if partial or held_out is None and self.learning_rate != "constant":
            return None
        return "converged" if self._waited > self.n_iter_no_change else None

    def _count_gradients(self, run):
        """By binary exponent: the finite ones of the last batch."""
        with np.errstate(invalid="ignore"):
            values = np.concatenate([g.ravel() for g in run.network.gradient_values().values()]) / self.loss_scale_
        some = values[np.isfinite(values) & (values != 0)]
        exponents, counts = np.unique(np.frexp(some)[1] - 1, return_counts=True)
        self.gradient_exponents_ = dict(zip(exponents.tolist(), counts.tolist()))
        self.gradient_zeros_ = int(np.sum(values == 0))

    def _keep(self, run):
        """The checkpoint, and what predictions are made from."""
        self._checkpoint = run.checkpoint()
        self.precision_ = str(run.precision)
        self._learned(run.network.values(self._best or self._checkpoint[0]))

    def _report(self, reason, run, partial):
        """stop_reason_ and warnings."""
        if reason == "overflow":
            what = f"gradients, first in {run.bad_owner}" if run.stopped else "weights"
            where = f"step {run.bad_step}" if run.stopped else f"epoch {self.n_iter_}"
            return self._ended(reason, f"{what} left the range of {run.precision.storage} in {where}; the weights are "
                               "the last finite ones: lower learning_rate_init, or use precision='mixed_fp16' or "
                               "'mixed_bf16'")
        if reason == "stalled":
            return self._ended(reason, f"no weight changed in epoch {self.n_iter_}: every update was below half the "
                               f"last bit of its weight in {run.network.master}; raise learning_rate_init, or use a "
                               "precision with master weights, such as 'mixed_fp16'")
        if reason == "max_iter" and not partial and self.learning_rate == "constant":
            return self._ended(reason, f"the loss was still falling after max_iter = {self.max_iter} epochs: "
                               "raise max_iter, tol or learning_rate_init")
        self.stop_reason_ = reason

    # ---- predicting

    def predict_proba(self, X):
        """The probability of each class, in the order of classes_, in float64."""
        check_is_fitted(self)
        z = self._scores(self._checked_for_predict(X))
        with np.errstate(invalid="ignore"):
            e = np.exp(z - z.max(axis=1, keepdims=True))
            return e / e.sum(axis=1, keepdims=True)

    def predict_log_proba(self, X):
        """The logarithm of predict_proba."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict(self, X):
        """The most probable class, the first of equal ones."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]

    # ---- saving

    _SAVED = ("n_iter_", "t_", "n_outputs_", "n_features_in_", "loss_", "loss_scale_", "loss_curve_", "history_",
              "best_loss_", "validation_scores_", "best_validation_score_", "skipped_steps_", "overflow_count_",
              "gradient_exponents_", "gradient_zeros_", "stop_reason_", "precision_", "_seed", "_waited")

    def save(self, path):
        """Writes the estimator and the state of its training to a file (npz and JSON, nothing pickled)."""
        check_is_fitted(self)
        arrays, about = self._checkpoint
        arrays = dict(arrays) | {f"best_{name}": a for name, a in (self._best or {}).items()}
        for name in "classes_", "feature_names_in_":
            if hasattr(self, name):
                arrays[name] = np.asarray(getattr(self, name))
                if arrays[name].dtype == object:
                    arrays[name] = arrays[name].astype(str)
        parameters = self.get_params(deep=False) | {"precision": str(precision_named(self.precision))}
        if not (self.random_state is None or _whole(self.random_state)):
            parameters["random_state"] = None
        saved = {name: getattr(self, name) for name in self._SAVED if hasattr(self, name)}
        training.write(path, arrays, {"estimator": type(self).__name__, "parameters": parameters, "training": about,
                                      "attributes": saved, "version": __version__})

    @classmethod
    def load(cls, path):
        """The estimator that `save` wrote. `partial_fit` and `resume` go on with its training, bit for bit."""
        arrays, about = training.read(path)
        if about["estimator"] != cls.__name__:
            raise ValueError(f"{path} holds a {about['estimator']}, not a {cls.__name__}")
        self = cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in about["parameters"].items()})
        for name, value in about["attributes"].items():
            setattr(self, name, value)
        if hasattr(self, "gradient_exponents_"):    # in JSON, keys are text
            self.gradient_exponents_ = {int(e): n for e, n in self.gradient_exponents_.items()}
        for name in "classes_", "feature_names_in_":
            if name in arrays:
                value = arrays.pop(name)
                setattr(self, name, value.astype(object) if value.dtype.kind == "U" else value)
        best = {name.removeprefix("best_"): arrays.pop(name) for name in list(arrays) if name.startswith("best_")}
        self._best, self._checkpoint = best or None, (arrays, about["training"])
        device, precision = self._where_and_how()
        network = Network(self._layers(len(self.classes_)), about["training"]["shape"], device, precision)
        self._learned(network.values(best or arrays))
        return self
