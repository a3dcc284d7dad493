"""What the classifiers that train a network share: fit by epochs, when to stop, resuming.

A subclass says what the network is (`_layers`), how samples lie in memory (`_samples`), and how a batch of them is
loaded (`_load`). The state of a training is held on the host as a checkpoint, {name: array} and what it belongs to, so
that an estimator can be pickled, copied and saved at any time; the device's arrays live as long as a call of `fit`.
"""
import math

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, compute_class_weight
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from numprec.kernels.networks.dense import ACTIVATIONS
from numprec.models.base import (BOOLEAN, CLASS_WEIGHT, VERBOSE, Estimator, Scored, check_memory, check_parameters,
                                 check_range, is_real, is_whole, labels, warn)
from numprec.models.network import Layout, Network
from numprec.models.saving import Saved
from numprec.models.training import SCHEDULES, SOLVERS, Descent, Training, copy_rows, finer, wider

EVALUATED = 1024     # samples at a time, where nothing is trained
WORSE = 1.05         # times the loss of a constant prediction: a loss above is no noise

RULES = {
    "activation": list(ACTIVATIONS),
    "alpha": ("a number of at least 0", lambda x: is_real(x) and x >= 0),
    "batch_size": ("'auto' or a whole number of at least 1", lambda x: x == "auto" if isinstance(x, str) else
                   is_whole(x) and x >= 1),
    "learning_rate_init": ("a number above 0", lambda x: is_real(x) and x > 0),
    "max_iter": ("a whole number of at least 1", lambda x: is_whole(x) and x >= 1),
    "shuffle": BOOLEAN,
    "tol": ("a number of at least 0", lambda x: is_real(x) and x >= 0),
    "verbose": VERBOSE,
    "warm_start": BOOLEAN,
    "momentum": ("a number in [0, 1]", lambda x: is_real(x) and 0 <= x <= 1),
    "nesterovs_momentum": BOOLEAN,
    "early_stopping": BOOLEAN,
    "validation_fraction": ("a number in (0, 1)", lambda x: is_real(x) and 0 < x < 1),
    "beta_1": ("a number in [0, 1)", lambda x: is_real(x) and 0 <= x < 1),
    "beta_2": ("a number in [0, 1)", lambda x: is_real(x) and 0 <= x < 1),
    "epsilon": ("a number above 0", lambda x: is_real(x) and x > 0),
    "n_iter_no_change": ("a whole number of at least 1, or infinity", lambda x: is_real(x) and x >= 1),
    "loss_scale": ("None, 'dynamic' or a number above 0", lambda x: x is None or (
        x == "dynamic" if isinstance(x, str) else is_real(x) and x > 0)),
    "solver": list(SOLVERS),
    "learning_rate": list(SCHEDULES),
    "class_weight": CLASS_WEIGHT,
}

SCIKIT_LEARNS = {"solver": ("lbfgs",), "learning_rate": ("invscaling", "adaptive")}    # and not numprec's


class NetworkClassifier(Saved, Scored, ClassifierMixin, Estimator):
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

    def fit(self, X, y, sample_weight=None, *, callback=None):
        """Trains on X (n_samples, n_features) and the labels y (n_samples,). Returns self.

        `sample_weight` (n_samples,), times class_weight, is what the loss of each sample counts for: the loss of a
        batch is the weighted mean, and its penalty is divided by the sum of the weights. Samples of weight 0 are left
        out.

        `callback(row)` is called after each epoch with a dictionary: epoch, loss, accuracy, seconds, loss_scale,
        skipped, overflow, underflow, lost, gradient_range, ... (`numprec.models.training.Training.epoch`). Where it
        returns True, training ends. Meanwhile the estimator is as the epoch left it: the callback may let it predict,
        score or save. What that takes is not in the seconds of any row.

        Raises ValueError or TypeError for parameters and data that cannot be used, MemoryError if the device has too
        little memory, and `numprec.models.training.LossScaleCollapsed` if gradients overflow whatever the loss scale.
        """
        self._check_parameters()
        again = self.warm_start and hasattr(self, "_checkpoint")
        X, codes, weights, classes = self._checked_data(X, y, sample_weight, reset=True)
        if again and not np.array_equal(classes, self.classes_):
            raise ValueError(f"warm_start keeps the classes of the last fit, {self.classes_}, not {classes}")
        if len(classes) == 1:
            warn(f"y has a single class, {classes.tolist()[0]!r}: there is nothing to learn")
        if not again:
            self._start(classes)
        X, codes, weights, held_out = self._set_aside(X, codes, weights)
        run = self._training(X, codes, weights)
        self.n_iter_ = 0
        if again:
            run.network.load(self._learned_by(run.network))
        else:
            run.network.initialise(self._seed)
        return self._train(run, held_out, self.max_iter, callback)

    def partial_fit(self, X, y, sample_weight=None, classes=None, *, callback=None):
        """One epoch on X and y, going on from where the last call left off. The first call needs `classes`, all that
        there will ever be, unless y has them all. `sample_weight` is as in `fit`. Returns self."""
        self._check_parameters()
        if self.early_stopping:
            raise ValueError("partial_fit does not go together with early_stopping=True")
        if self.class_weight == "balanced":
            raise ValueError("partial_fit sees a part of the labels, and so cannot balance them: give class_weight as "
                             "a dictionary, {class: weight}")
        first = not hasattr(self, "_checkpoint")
        classes = None if classes is None else np.unique(self._on_host(classes))
        known = classes if first else self.classes_
        X, codes, weights, known = self._checked_data(X, y, sample_weight, reset=first, classes=known)
        if classes is not None and not np.array_equal(classes, known):
            raise ValueError(f"classes are {known} since the first call, not {classes}")
        if first:
            self._start(known)
        run = self._training(X, codes, weights)
        self.n_iter_ = 0
        if first:
            run.network.initialise(self._seed)
        else:
            run.carry_on(self._learned_by(run.network))
        return self._train(run, None, 1, callback, partial=True)

    def resume(self, X, y, sample_weight=None, *, callback=None):
        """Goes on with a fit that was interrupted, or that ended at max_iter, raised since, on the same X, y and
        sample_weight. The result has the same bits as if the fit had gone on at once. Returns self."""
        check_is_fitted(self)
        self._check_parameters()
        X, codes, weights, _ = self._checked_data(X, y, sample_weight, reset=False, classes=self.classes_)
        X, codes, weights, held_out = self._set_aside(X, codes, weights)
        run = self._training(X, codes, weights)
        run.restore(*self._checkpoint)
        return self._train(run, held_out, self.max_iter - self.n_iter_, callback)

    def _checked_data(self, X, y, sample_weight, reset, classes=None):
        """The samples whose weight is not 0, the codes of their y, their weights or None, and the classes."""
        _, precision = self._where_and_how()
        if reset:
            X, y = self._checked_for_classes(X, y)
        else:
            X, y = self._checked_for_predict(X), column_or_1d(labels(self._on_host(y)), warn=True)
            check_consistent_length(X, y)
        check_range(X, precision.storage, "X", "standardise the data")
        classes = np.unique(y) if classes is None else classes
        foreign = np.setdiff1d(y, classes)
        if len(foreign):
            raise ValueError(f"y has the class {foreign.tolist()[0]!r}, which is not one of {classes}")
        codes, weights = np.searchsorted(classes, y).astype(np.int32), self._weights(sample_weight, X, y, classes)
        X = self._samples(X)
        if weights is not None and (weights == 0).any():
            X, codes, weights = (a[weights > 0] for a in (X, codes, weights))
        return X, codes, weights, classes

    def _weights(self, sample_weight, X, y, classes):
        """sample_weight times class_weight, or None where all are 1."""
        if sample_weight is None and self.class_weight is None:
            return None
        weights = self._checked_weights(sample_weight, X)
        if self.class_weight is not None:
            codes = np.searchsorted(classes, y)
            with np.errstate(all="ignore"):
                if self.class_weight == "balanced":
                    sums = np.bincount(codes, weights / weights.max(), len(classes))
                    there = sums > 0    # a class without weight has none to balance
                    of_class = np.where(there, sums.sum() / (there.sum() * sums), 0)
                else:
                    of_class = compute_class_weight(self.class_weight, classes=classes, y=y)
                weights = weights * of_class[codes]
        if not np.isfinite(weights).all():
            raise ValueError("sample_weight times class_weight exceeds the range of float64: use smaller ones")
        if not weights.any():
            raise ValueError("sample_weight, times class_weight, is zero for every sample")
        return None if (weights == 1).all() else weights

    def _check_parameters(self):
        for name, theirs in SCIKIT_LEARNS.items():
            value = getattr(self, name)
            if isinstance(value, str) and value in theirs:
                raise ValueError(f"{name}={value!r} is scikit-learn's and not implemented here; there are "
                                 f"{', '.join(map(repr, RULES[name]))}")
        check_parameters(self, RULES)

    def _start(self, classes):
        """What a first fit sets."""
        self._seed = int(check_random_state(self.random_state).randint(2 ** 31 - 1))
        self.classes_, self.n_outputs_ = classes, len(classes)
        self.loss_curve_, self.history_, self.n_iter_, self.t_ = [], [], 0, 0
        self.skipped_steps_, self.overflow_count_, self.best_loss_ = 0, 0, np.inf
        self.validation_scores_, self.best_validation_score_ = None, None
        self._waited, self._best = 0, None

    def _set_aside(self, X, codes, weights):
        """X, codes and weights; and what early stopping keeps of them to score, or None."""
        if not self.early_stopping:
            return X, codes, weights, None
        counts = np.bincount(codes)
        kept, held = train_test_split(np.arange(len(X)), test_size=float(self.validation_fraction),
                                      random_state=self._seed, stratify=codes if counts[counts > 0].min() > 1 else None)
        (X, X_held), (codes, codes_held), (weights, weights_held) = (
            (None, None) if a is None else (a[kept], a[held]) for a in (X, codes, weights))
        return X, codes, weights, (X_held, codes_held, weights_held)

    def _learned_by(self, network):
        """The checkpoint's arrays. ValueError unless they are those of such layers for such samples."""
        arrays, about = self._checkpoint
        for what, was, now in (("layers", about["layers"], network.shapes_of()),
                               ("samples' shape", about["shape"], list(network.shape))):
            if list(was) != now:
                raise ValueError(f"the {what} {'have' if what == 'layers' else 'has'} changed since the last fit, from "
                                 f"{was} to {now}: set what they were, or fit with warm_start=False")
        return arrays

    def _training(self, X, codes, weights):
        device, precision = self._where_and_how()
        rows = min(200 if self.batch_size == "auto" else int(self.batch_size), len(X))
        evaluated = EVALUATED if self.early_stopping else 0

        def needed(p):
            layout = Layout(self._layers(len(self.classes_)), X.shape[1:], p)
            of_samples = X.size * p.storage.bytes + len(X) * (4 + (0 if weights is None else p.accum.bytes))
            return of_samples + layout.bytes(rows, SOLVERS[self.solver], evaluated)
        check_memory(device, needed(precision), precision, needed)
        network = Network(self._layers(len(self.classes_)), X.shape[1:], device, precision)
        descent = Descent(
            solver=self.solver, learning_rate=self.learning_rate, learning_rate_init=float(self.learning_rate_init),
            epochs=int(self.max_iter), alpha=float(self.alpha), momentum=float(self.momentum),
            nesterovs_momentum=bool(self.nesterovs_momentum), beta_1=float(self.beta_1), beta_2=float(self.beta_2),
            epsilon=float(self.epsilon))
        scale = float(self.loss_scale) if is_real(self.loss_scale) else self.loss_scale
        if is_real(scale) and not precision.accum.tiny <= scale <= precision.accum.max:
            raise ValueError(f"loss_scale = {scale:g} is beyond the normal numbers of "
                             f"{precision.accum}, from {precision.accum.tiny:.2g} to {precision.accum.max:.2g}")
        counts = np.bincount(codes, None if weights is None else weights / weights.max())
        frequencies = counts[counts > 0] / counts.sum()
        self._constant_loss = float(-np.sum(frequencies * np.log(frequencies)))
        if weights is not None and rows < len(X):    # the mean over batches weighs samples by those beside them
            self._constant_loss = math.inf
        return Training(network, X, codes, rows, descent, self._seed, bool(self.shuffle), scale, self._load(),
                        epoch=len(self.loss_curve_), weights=weights)

    def _train(self, run, held_out, epochs, callback, partial=False):
        """So many epochs, unless there is a reason to stop; an interruption loses the one under way."""
        if held_out is None:
            self.validation_scores_, self.best_validation_score_, self._best = None, None, None
        self._keep(run)
        reason = None
        for _ in range(max(0, epochs)):
            before = self._checkpoint[0]
            row = run.epoch()
            finite = all(np.isfinite(run.fetched[name].astype(np.float64)).all() for name in ("masters", "statistics"))
            reason = self._note(row, run, held_out, partial, finite)
            if not finite:
                run.go_back(before)    # an update itself may overflow
                reason = "overflow"
            elif row["skipped"] < run.batches and np.array_equal(run.fetched["masters"], before["masters"]):
                reason = reason or ("converged" if row["loss"] == 0 else "stalled")    # no loss, no gradient
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

    def _note(self, row, run, held_out, partial, finite):
        """Takes down an epoch, whose weights may not be finite. Returns the reason to stop, if there is one."""
        self.n_iter_ += 1
        self.t_ += run.labels.shape[0]
        self.history_.append(row)
        self.loss_curve_.append(row["loss"])
        self.loss_, self.loss_scale_ = row["loss"], row["loss_scale"]
        self.skipped_steps_ += row["skipped"]
        self.overflow_count_ += row["overflow"]
        if held_out is None:
            best = np.inf if self.best_loss_ is None else self.best_loss_    # after a fit with early stopping
            better, self.best_loss_ = row["loss"] < best - self.tol, min(best, row["loss"])
        elif not finite:
            better, self.best_loss_ = False, None
        else:
            X, codes, weights = held_out
            right = run.network.evaluate(X, EVALUATED).argmax(axis=1) == codes
            row["validation"] = float(np.average(right, weights=weights))
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
        self._learned(run.network.cut(self._best or self._checkpoint[0]))

    def _report(self, reason, run, partial):
        """stop_reason_ and warnings."""
        sentence, best, epoch = None, min(self.loss_curve_, default=np.inf), len(self.loss_curve_)
        fell = epoch > 0 and self.loss_curve_[0] - best >= self.tol
        beyond = not best <= WORSE * self._constant_loss + self.tol
        no_better = (f"the loss is {best:.3g} at best, no better than the {self._constant_loss:.3g} of predicting how "
                     "often each class occurs: ")
        if reason == "converged" and (beyond or not fell and best > self._constant_loss / WORSE):
            reason, sentence = "stalled", no_better + "standardise the data, or try another learning_rate_init"
        elif reason == "overflow":
            what = f"gradients, first in {run.bad_owner}" if run.stopped else "weights or running moments"
            where = f"step {run.bad_step}" if run.stopped else f"epoch {epoch}"
            fmt = run.precision.storage if run.stopped else run.network.master
            scale = "" if run.dynamic or run.scale <= 1 else f"lower loss_scale = {run.scale:g}, "
            sentence = (f"{what} left the range of {fmt} in {where}; the weights are the last finite ones: {scale}"
                        f"lower learning_rate_init, or standardise the data{wider(run.precision)}")
        elif reason == "stalled" and run.schedule_is_over():
            sentence = (f"no weight changed in epoch {epoch}: the schedule learning_rate={self.learning_rate!r} ended "
                        f"after max_iter = {self.max_iter} epochs; raise max_iter, or use learning_rate='constant'")
        elif reason == "stalled" and self.history_[-1]["gradient_range"][1] == 0:
            scale = "" if run.dynamic else "set loss_scale='dynamic', "
            sentence = (f"no weight changed in epoch {epoch}: every gradient was 0, or too small for "
                        f"{run.precision.storage}; {scale}standardise the data, or use another activation")
        elif reason == "stalled":
            sentence = (f"no weight changed in epoch {epoch}: every update was below half the last bit of its weight "
                        f"in {run.network.master}; raise learning_rate_init{finer(run.precision)}")
        elif reason == "max_iter" and not partial and beyond:
            sentence = no_better + (f"raise max_iter = {self.max_iter}, standardise the data, or try another "
                                    "learning_rate_init")
        elif reason == "max_iter" and not partial and self.learning_rate == "constant":
            sentence = (f"the loss had not converged after max_iter = {self.max_iter} epochs: raise max_iter, tol or "
                        "learning_rate_init")
        self._ended(reason, sentence)

    # ---- predicting

    def predict_proba(self, X):
        """The probability of each class, in the order of classes_, in float64. Raises ValueError for samples so large
        that the scores leave the range of float64."""
        check_is_fitted(self)
        z = self._scores(self._checked_for_predict(X))
        beyond = ~np.isfinite(z).all(axis=1)
        if beyond.any():
            raise ValueError(f"the scores of {beyond.sum()} of {len(z)} samples, the first in row {beyond.argmax()}, "
                             "are beyond the range of float64: standardise the data")
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
