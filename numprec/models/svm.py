"""Support vector classifier: trained in any precision by the kernels of part `margins`."""
import time
from itertools import combinations

import numpy as np
from scipy.linalg import LinAlgWarning
from sklearn.base import ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import _ovr_decision_function
from sklearn.utils.validation import check_is_fitted

from numprec.kernels import operations
from numprec.kernels.margins import kernel_functions, smo, smo_fit, working_set
from numprec.kernels.margins.smo_step import CONVERGED, MAX_ITER, OVERFLOW, STALLED, Info, Number
from numprec.models.base import (BOOLEAN, CLASS_WEIGHT, VERBOSE, Estimator, Scored, check_memory, check_parameters,
                                 check_range, is_real, is_whole, warn)
from numprec.precision import FORMATS, PRECISIONS, cheapest

REASONS = {CONVERGED: "converged", MAX_ITER: "max_iter", STALLED: "stalled", OVERFLOW: "overflow"}
FUNCTIONS = list(kernel_functions.FUNCTIONS)
KERNELS = FUNCTIONS + ["precomputed"]
INVARIANT = ("linear", "rbf")    # to a shift of X, the first but for the intercept
ONE_BLOCK = 2048         # samples of a binary problem up to which one block looks at all of them
ONE_LAUNCH = 2 ** 24     # products up to which that block also makes its kernel matrix
CHUNK = 2 ** 22          # values of the kernel function that a prediction holds at a time
FAR = 1e140              # times the length scale of an rbf kernel: it is 0 from there on, and squares do not overflow
UNSAFE = 0.1             # error of the kernel matrix, in units of what tells samples apart, from which a fit warns
# Chosen: iterations of a binary problem of n samples, with the data standardised, rarely are as many as PATIENCE
PATIENCE, EACH = 1000, 10
LIMIT = 5                # and LIMIT times as many are the default on the emulator
UNEVEN = 10              # ratio of the features' spreads from which it is taken for the reason

RULES = {
    "C": ("a positive number, or np.inf", lambda x: is_real(x) and x > 0),
    "kernel": KERNELS,
    "degree": ("a whole number from 0 to 100", lambda x: is_whole(x) and 0 <= x <= 100),
    "gamma": ("'scale', 'auto' or a number of at least 0",
              lambda x: x in ("scale", "auto") if isinstance(x, str) else is_real(x) and 0 <= x < np.inf),
    "coef0": ("a number", lambda x: is_real(x) and abs(x) < np.inf),
    "shrinking": BOOLEAN,
    "probability": BOOLEAN,
    "tol": ("a positive number", lambda x: is_real(x) and 0 < x < np.inf),
    "cache_size": ("a number of megabytes", lambda x: is_real(x) and x >= 0),
    "class_weight": CLASS_WEIGHT,
    "verbose": VERBOSE,
    "max_iter": ("a positive whole number or -1", lambda x: is_whole(x) and (x > 0 or x == -1)),
    "decision_function_shape": ["ovr", "ovo"],
    "break_ties": BOOLEAN,
    "state": ["accum", "storage"],
}


class SVC(Scored, ClassifierMixin, Estimator):
    """C-support vector classification, one-vs-one. `precision`, `state` and `device` are its own, the rest is named as
    in scikit-learn.

    Parameters
    ----------
    precision : str or Precision, default="fp32"
        The formats of the training: X and the kernel matrix are kept in storage; all sums, the multipliers alpha and
        the gradient are in accum.
    C : float
        Bounds the multipliers. Beyond the range of accum, as np.inf is, it is the largest number there, a hard margin.
    kernel : "linear", "poly", "rbf", "sigmoid" or "precomputed"
        For "precomputed", fit takes the kernel matrix (n_samples, n_samples) in place of X, and predict
        (n_queries, n_samples); `cache_size` then says nothing.
    degree, gamma, coef0
        Of the kernel function; gamma is a number, "scale" or "auto".
    tol : float
        The gap at which a fit is converged. What the format cannot resolve is reported as stalled.
    cache_size : float
        Megabytes that the kernel matrix may take. Where it needs more, its rows are made again as needed.
    class_weight : dict, "balanced" or None
    max_iter : int
        Most iterations of a binary problem; -1 is ten million on a GPU, and on the emulator 5000 + 50 n, with n the
        samples of the largest problem. Data that are not standardised may need more.
    decision_function_shape : "ovr" or "ovo"
    break_ties : bool
    verbose : bool or int
        Prints how far a fit has come, about once a second.
    shrinking, probability, random_state
        Accepted for scikit-learn's sake. Nothing is shrunk or drawn at random, and probability=True is refused.
    state : "accum" or "storage"
        The format that alpha and the gradient are kept in. "storage" shows what a narrow format does to a running sum:
        in bfloat16 most fits of Iris stall short of tol. Their accuracy does not tell: stop_reason_ and gap_ do.
    device : "gpu", "emulator" or None
        None is the GPU if there is one.

    Attributes
    ----------
    support_, support_vectors_, n_support_, dual_coef_, intercept_, coef_ (linear), classes_, class_weight_,
    fit_status_, shape_fit_, n_features_in_, feature_names_in_
        As in scikit-learn, in float64. support_vectors_ are the samples as the kernels saw them, rounded to storage.
        A class whose samples have no weight is in classes_, but has no binary problem and is never predicted.
    n_iter_, stop_reason_, gap_ : arrays, one element a binary problem
        Iterations; "converged", "max_iter", "stalled" or "overflow"; and the gap that was left, as accum sees it.
        Whatever is not converged raises a ConvergenceWarning.
    precision_ : str
        The precision of the fit.

    X is scaled by a power of two, which rounds nothing, so that gamma (for the linear kernel, the mean square of the
    samples) comes near 1, and with it what the formats have to hold. For the linear and rbf kernels, which do not
    change, a feature with an offset, such as a time, is first moved by its median, in float64. Where samples differ by
    little more than the rounding of the kernel matrix even so, a LinAlgWarning says it. Predictions are NumPy's, in
    float64, so that scores tell apart how models were trained and nothing else.
    """

    _learns = ("support_vectors_", "dual_coef_", "intercept_")

    def __init__(self, precision="fp32", *, C=1.0, kernel="rbf", degree=3, gamma="scale", coef0=0.0, shrinking=True,
                 probability=False, tol=1e-3, cache_size=2000, class_weight=None, verbose=False, max_iter=-1,
                 decision_function_shape="ovr", break_ties=False, random_state=None, state="accum", device=None):
        self.precision = precision
        self.C = C
        self.kernel = kernel
        self.degree = degree
        self.gamma = gamma
        self.coef0 = coef0
        self.shrinking = shrinking
        self.probability = probability
        self.tol = tol
        self.cache_size = cache_size
        self.class_weight = class_weight
        self.verbose = verbose
        self.max_iter = max_iter
        self.decision_function_shape = decision_function_shape
        self.break_ties = break_ties
        self.random_state = random_state
        self.state = state
        self.device = device

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = self.kernel == "precomputed"
        return tags

    # ---- training

    def fit(self, X, y, sample_weight=None):
        """Fits X (n_samples, n_features), or the kernel matrix (n_samples, n_samples), to the labels y (n_samples,),
        with weights (n_samples,) of at least 0. Returns self."""
        device, precision = self._where_and_how()
        check_parameters(self, RULES)
        if self.probability:
            raise ValueError("probability=True is not implemented here: wrap the SVC in "
                             "sklearn.calibration.CalibratedClassifierCV")
        X, y = self._checked_for_classes(X, y)
        if self.kernel == "precomputed" and X.shape[0] != X.shape[1]:
            raise ValueError("Precomputed matrix must be a square matrix. Input is a {}x{} matrix.".format(*X.shape))
        self.classes_, y = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("The number of classes has to be greater than one; got 1 class")
        self.class_weight_ = compute_class_weight(self.class_weight, classes=self.classes_, y=self.classes_[y])
        self._gamma, self.shape_fit_ = self._gamma_of(X), X.shape
        bound = self._bounds(X, y, sample_weight)

        self._center = _offset(X) if self.kernel in INVARIANT else np.zeros(X.shape[1])
        centred = X - self._center
        scale, alpha_unit = self._units(centred, bound)
        with np.errstate(over="ignore"):
            scaled = centred * (alpha_unit if self.kernel == "precomputed" else scale)
        name = {"precomputed": "kernel matrix"}.get(self.kernel, "X" if scale == 1 else "X * sqrt(gamma)")
        check_range(scaled, precision.storage, name, "standardise the data")
        self._warn_of_resolution(X, precision)
        members, bound = self._members(y, bound, alpha_unit, precision)

        alpha, numbers_, info = self._minimize(device, precision, scaled, members, bound, scale)
        self._scale, self._alpha_unit = scale, alpha_unit
        self._keep(X, precision.storage.round(scaled).astype(np.float64), members, alpha)
        self._intercept = numbers_[:, Number.INTERCEPT].copy()
        self.n_iter_, self.gap_ = info[:, Info.ITERATIONS].copy(), np.maximum(numbers_[:, Number.GAP], 0)
        reasons = np.array([REASONS[ended] for ended in info[:, Info.ENDED]], "<U9")
        self._ended(np.where(self._in_the_users_units(reasons == "overflow"), "overflow", reasons))
        self.fit_status_, self.precision_ = int((self.stop_reason_ != "converged").any()), str(precision)
        self._report(precision, numbers_[:, Number.SIZE], X)
        return self

    def _bounds(self, X, y, sample_weight):
        """Of each multiplier: C times the weights; 0 where a weight is, and nowhere else. Raises ValueError where
        fewer than two classes have any."""
        weight = self._checked_weights(sample_weight, X)
        of_class = self.class_weight_[y]
        positive = (weight > 0) & (of_class > 0)
        left = np.unique(y[positive])
        if len(left) < 2:
            raise ValueError("Invalid input - all samples with positive weights belong to the same class." if len(left)
                             else "Invalid input - all samples have zero weights.")
        with np.errstate(over="ignore", invalid="ignore"):
            return np.where(positive, np.maximum(float(self.C) * weight * of_class, FORMATS["float64"].eta), 0.0)

    def _members(self, y, bound, alpha_unit, precision):
        """The samples of each class that has a weight, and the bounds of all in units of `alpha_unit`, in accum. A
        sample whose bound is 0 there is left out, as one without weight is."""
        bound = np.minimum(bound, FORMATS["float64"].max / (4 * len(y)))    # all of them can be added up
        with np.errstate(over="ignore"):
            rounded = precision.accum.round(np.minimum(bound / alpha_unit, precision.accum.max)).astype(np.float64)
        self._active = np.unique(y[bound > 0])
        members = [np.flatnonzero((y == c) & (rounded > 0)) for c in self._active]
        for c, own in zip(self._active, members):
            if len(own) == 0:
                raise ValueError(f"C, with its weights, is at most {bound[y == c].max():.2g} in a class, which is 0 in "
                                 f"{precision.accum}: use larger ones, or a precision with a wider accum")
        return members, rounded

    def _gamma_of(self, X):
        if self.gamma == "scale" and self.kernel not in ("linear", "precomputed"):
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                variance = X.var()
                gamma = 1.0 / (X.shape[1] * variance)
            if not np.isfinite(variance) or (not np.isfinite(gamma) and X.min() != X.max()):
                way = "exceeds" if not np.isfinite(variance) else "is below"
                raise ValueError(f"the variance of X, which gamma='scale' is made from, {way} the range of float64: "
                                 "standardise the data.")
            return gamma if np.isfinite(gamma) else 1.0
        return float(self.gamma) if not isinstance(self.gamma, str) else 1.0 / X.shape[1]

    def _units(self, X, bound):
        """The power of two that X is multiplied by, and the one that the multipliers then come in. With
        X' = s X, gamma becomes gamma / s^2; for the linear kernel K' = s^2 K, and alpha and C are divided by s^2. A
        kernel matrix is scaled as the linear kernel's."""
        size = self._gamma
        if self.kernel in ("linear", "precomputed"):
            squares = abs(X.diagonal())[:, None] if self.kernel == "precomputed" else X
            largest = abs(squares).max(initial=0)
            with np.errstate(over="ignore"):
                if self.kernel == "linear":
                    mean = largest ** 2 * np.sum((X / (largest or 1)) ** 2) / len(X)
                else:
                    mean = largest * np.mean(squares / (largest or 1))
                size = 1 / mean if mean > 0 and np.isfinite(mean) else 1.0
                # so that C / s^2 is at least 2^-8, six bits above the smallest normal number of float16
                size = min(size, bound.max() * 2 ** 8)
        exponent = int(np.clip(np.round(np.log2(size) / 2), -500, 500)) if size > 0 else 0
        scale = 2.0 ** exponent
        return scale, scale ** 2 if self.kernel in ("linear", "precomputed") else 1.0

    def _minimize(self, device, precision, X, members, bound, scale):
        """alpha of all binary problems, end to end, and their numbers and info, as float64 arrays on the host. X is
        scaled; for "precomputed" it is the kernel matrix."""
        storage, accum = precision.storage, precision.accum
        pairs = [np.concatenate([members[i], members[j]]) for i, j in combinations(range(len(members)), 2)]
        sizes, sample = [len(pair) for pair in pairs], np.concatenate(pairs)
        signs = np.concatenate([np.repeat([1.0, -1.0], [len(members[i]), len(members[j])])
                                for i, j in combinations(range(len(members)), 2)])
        Y, C = device.array(signs, storage), device.array(bound[sample], accum)
        gamma = self._gamma / scale ** 2
        parameters = device.array(np.array([gamma, float(self.coef0), self.degree]), accum)
        largest, (N, D), made = max(sizes), X.shape, self.kernel == "precomputed"
        patience = PATIENCE + EACH * largest
        max_iter = int(self.max_iter)
        if max_iter == -1:
            max_iter = LIMIT * patience if device.is_emulator else 10 ** 7
        limits = float(self.tol), min(2 ** 31 - 1, max_iter)
        product = operations()["matmul"].rungs[-1]
        watch = _Watch(device, self, X, patience)
        if made:
            check_memory(device, N * N * storage.bytes, precision, lambda p: p.storage.bytes)
        X_ = device.array(X, storage)

        def given(row, col):
            return smo.problems_of(device, precision, sizes, row, col, Y, C, self.state)

        if not made and largest <= ONE_BLOCK and len(sample) * largest * D <= ONE_LAUNCH:
            local = np.concatenate([np.arange(size) for size in sizes])
            todo = given(np.arange(len(sample)), local)
            K = device.empty((len(sample), largest), storage)
            smo.solve(device, smo_fit.fused, precision, K, todo, *limits, fill=smo_fit.Source(
                X_, parameters, FUNCTIONS.index(self.kernel), device.array(sample.astype(np.int32))), watch=watch)
        elif made or N * N * storage.bytes <= min(self.cache_size * 2 ** 20, device.free_memory() / 2):
            K = X_ if made else kernel_functions.launch(device, product, precision, X_, X_, parameters, self.kernel)
            todo = given(sample, sample)
            if largest <= ONE_BLOCK:
                smo.solve(device, smo.problems, precision, K, todo, *limits, watch=watch)
            else:
                working_set.solve(device, working_set.working_set, precision, todo, *limits, K=K, watch=watch)
        else:
            rows = min(working_set.SET, largest)
            check_memory(device, rows * largest * storage.bytes, precision, lambda p: p.storage.bytes)
            local = np.concatenate([np.arange(size) for size in sizes])
            todo = given(local, local)
            working_set.solve(device, working_set.working_set, precision, todo, *limits, rows_of=lambda q: (
                device.array(X[pairs[q]], storage), parameters, self.kernel, product), watch=watch)
        alpha, _, numbers, info = todo.found
        return (device.to_host(alpha).astype(np.float64), device.to_host(numbers).astype(np.float64),
                device.to_host(info))

    def _keep(self, X, seen, members, alpha):
        """support_, support_vectors_, n_support_ and the coefficients, as libsvm arranges them: the samples of each
        class together; row r of the coefficients of class c belongs to its problem with class r, or r + 1 where
        r >= c. `seen` is what the kernels saw of X, scaled."""
        coef, start = np.zeros((len(members) - 1, len(X))), 0
        for i, j in combinations(range(len(members)), 2):
            for own, row, sign in ((members[i], j - 1, 1.0), (members[j], i, -1.0)):
                coef[row, own] = sign * alpha[start:start + len(own)]
                start += len(own)
        used = [own[(coef[:, own] != 0).any(axis=0)] for own in members]
        self.support_ = np.concatenate(used).astype(np.int32)
        self.n_support_ = np.array(list(map(len, used)), np.int32)
        self._dual_coef = coef[:, self.support_]
        if self.kernel == "precomputed":
            self.support_vectors_, self._seen = np.empty((0, 0)), None
            return
        X, self._seen = X[self.support_], seen[self.support_]
        moved = self._seen / self._scale
        # what storage holds exactly is given back exactly
        self.support_vectors_ = np.where(moved == X - self._center, X, moved + self._center)

    def _in_the_users_units(self, lost):
        """dual_coef_, intercept_ and, of the linear kernel, the weights of the features, from what the kernels found
        for scaled and centred samples. Which problems have no result: those that are `lost`, and those whose decisions
        would be beyond the range of float64. They have the intercept 0."""
        sign = -1.0 if len(self.classes_) == 2 else 1.0
        with np.errstate(over="ignore", invalid="ignore"):
            self.dual_coef_ = sign * self._alpha_unit * self._dual_coef
            total = np.array([abs(coef).sum() * self._alpha_unit for _, coef in self._problems()])
            intercept = self._intercept
            if self.kernel == "linear":
                weights = self._scale * np.array([coef @ self._seen[of] for of, coef in self._problems()])
                intercept = intercept - weights @ self._center
                total += abs(weights).sum(axis=1)
            lost = lost | ~np.isfinite(intercept) | ~np.isfinite(total)
        self.intercept_ = sign * np.where(lost, 0, intercept)
        if self.kernel == "linear":
            self._weights = np.where(lost[:, None], 0, weights)
        return lost

    def _problems(self):
        """Of each binary problem: its support vectors, by their places in support_, and their coefficients."""
        start = np.concatenate([[0], np.cumsum(self.n_support_)])
        for i, j in combinations(range(len(self._active)), 2):
            of_i, of_j = np.arange(start[i], start[i + 1]), np.arange(start[j], start[j + 1])
            yield (np.concatenate([of_i, of_j]),
                   np.concatenate([self._dual_coef[j - 1, of_i], self._dual_coef[i, of_j]]))

    # ---- what is said of a fit

    def _warn_of_resolution(self, X, precision):
        """Warns where the rounding of the kernel matrix to storage, u times its diagonal, is not small beside the
        variance of the samples in the space that the kernel function stands for: mean K_ii - mean K_ij."""
        size = self._relative_size(X)
        if not precision.storage.u * size > UNSAFE:
            return
        able = [p for p in PRECISIONS.values() if p.storage.u * size <= UNSAFE]
        others = f", or use precision={str(min(able, key=lambda p: p.storage.bytes))!r}" if able else ""
        why = {"rbf": "gamma is small beside their distances, or was made from features of other sizes",
               "precomputed": "they have a large common offset"}.get(
            self.kernel, f"they have a large common offset, which matters to kernel={self.kernel!r}")
        remedy = "centre the kernel matrix" if self.kernel == "precomputed" else "standardise the data"
        warn(f"the kernel matrix is {size:.2g} times as large as what tells samples apart, of which "
             f"{precision.storage} holds less than one digit: {why}; {remedy}{others}", LinAlgWarning)

    def _relative_size(self, X):
        """mean K_ii / (mean K_ii - mean K_ij): the first factor of the kernel function stands for it in "poly" and
        "sigmoid". 0 where all samples are alike, and for the linear kernel, whose samples have been centred."""
        if self.kernel == "linear":
            return 0.0
        largest = abs(X).max(initial=0) or 1.0
        X = X / largest
        if self.kernel == "precomputed":
            size, variance = abs(X.diagonal()).mean(), X.diagonal().mean() - X.mean()
        else:
            size, variance = np.sum(X ** 2) / len(X), np.sum((X - X.mean(axis=0)) ** 2) / len(X)
        if self.kernel == "rbf":
            with np.errstate(over="ignore"):
                size, variance = 1.0, -np.expm1(-2 * self._gamma * variance * largest * largest)
        with np.errstate(over="ignore"):
            return np.float64(size) / variance if variance > 0 else 0.0

    def _report(self, precision, size, X):
        """Warns of what did not converge, with what would help."""
        count = len(self.stop_reason_)
        for reason in ("overflow", "stalled", "max_iter"):
            found = self.stop_reason_ == reason
            if not found.any():
                continue
            those = f"{found.sum()} of {count} binary problems" if count > 1 else "the problem"
            if reason == "overflow":
                sentence = f"numbers left the range of {precision.accum} or {precision.storage} in {those}: there is " \
                           f"no result; standardise the data, use gamma='scale', smaller C and weights" \
                           + _wider_range(precision)
            else:
                left = f"a gap of up to {self.gap_[found].max():.2g} was left, above tol={float(self.tol):g}"
                if reason == "max_iter":
                    sentence = f"{those} ended after {self.n_iter_[found].max()} iterations; {left}: raise max_iter " \
                               f"or standardise the data{_unevenness(self.kernel, X)}"
                else:
                    sentence = f"{those} stalled in precision {precision}: steps no longer change what " \
                               f"{getattr(precision, self.state)} can hold; {left}; " \
                               + _enough(self.tol, self.gap_[found].max(), size[found].max(), precision, self.state)
            warn(sentence, ConvergenceWarning)

    # ---- prediction, by NumPy in float64

    def _pairwise(self, X):
        """Decision of each binary problem (n_samples, n_problems); positive for the class that comes first."""
        check_is_fitted(self)
        X = self._checked_for_predict(X)
        if (self.stop_reason_ == "overflow").any():
            raise ValueError("the fit ended in an overflow, so that there is nothing to predict with: see the warning "
                             "it raised")
        out = np.empty((len(X), len(self._intercept)))
        step = max(1, CHUNK // max(1, len(self.support_)))
        with np.errstate(over="ignore", invalid="ignore"):
            for n in range(0, len(X), step):
                K = self._kernel(X[n:n + step])
                for q, (of, coef) in enumerate(self._problems()):
                    out[n:n + step, q] = K[:, of] @ coef + self._intercept[q]
        lost = np.isnan(out).any(axis=1)
        if lost.any():
            raise ValueError(f"the decision is beyond the range of float64 for {lost.sum()} of {len(X)} samples, the "
                             f"first in row {lost.argmax()}: standardise the data")
        return out

    def _kernel(self, X):
        """The kernel function of X and the support vectors, both as the fit scaled them."""
        if self.kernel == "precomputed":
            return X[:, self.support_] * self._alpha_unit
        X, Z, gamma = (X - self._center) * self._scale, self._seen, self._gamma / self._scale ** 2
        if self.kernel == "rbf":
            middle = Z.mean(axis=0) if len(Z) else 0
            X, Z = np.clip(X - middle, -FAR, FAR), Z - middle
            squares = np.sum(X * X, axis=1)[:, None] + np.sum(Z * Z, axis=1) - 2 * X @ Z.T
            return np.exp(-gamma * np.maximum(squares, 0))
        if self.kernel == "linear":
            return X @ Z.T
        base = gamma * (X @ Z.T) + float(self.coef0)
        return base ** self.degree if self.kernel == "poly" else np.tanh(base)

    def decision_function(self, X):
        """Decisions in float64: (n_samples,) for two classes, otherwise (n_samples, n_classes) or, for the shape "ovo",
        (n_samples, n_problems), which is n_classes * (n_classes - 1) / 2 where each class has a weight. A class that
        has none gets -1 in the shape "ovr", less than any other."""
        decisions = self._pairwise(X)
        if len(self.classes_) == 2:
            return -decisions[:, 0]
        if self.decision_function_shape == "ovr":
            out = np.full((len(decisions), len(self.classes_)), -1.0)
            # an infinite decision is cut to what can be added up
            most = FORMATS["float64"].max / (4 * len(self.classes_))
            out[:, self._active] = _ovr_decision_function(
                decisions < 0, np.clip(-decisions, -most, most), len(self._active))
            return out
        return decisions

    def predict(self, X):
        """The class that wins most of its binary problems; of several, the first or, with `break_ties`, the one of the
        largest decision."""
        check_is_fitted(self)
        if self.break_ties and self.decision_function_shape == "ovo":
            raise ValueError("break_ties must be False when decision_function_shape is 'ovo'")
        if self.break_ties and len(self.classes_) > 2:
            return self.classes_[np.argmax(self.decision_function(X), axis=1)]
        decisions = self._pairwise(X)
        votes = np.zeros((len(decisions), len(self.classes_)), int)
        for (i, j), decision in zip(combinations(self._active, 2), decisions.T):
            votes[:, i] += decision > 0
            votes[:, j] += ~(decision > 0)
        return self.classes_[np.argmax(votes, axis=1)]

    @property
    def coef_(self):
        """Weights of the features, a row for each binary problem; of the linear kernel only. Read-only."""
        if self.kernel != "linear":
            raise AttributeError("coef_ is only available when using a linear kernel")
        check_is_fitted(self)
        coef = -self._weights if len(self.classes_) == 2 else self._weights.copy()
        coef.flags.writeable = False
        return coef


class _Watch:
    """What the user hears of a fit that goes on: once that it is slow and why, and with `verbose` how far it is."""

    def __init__(self, device, model, X, patience):
        self.device, self.model, self.X, self.patience = device, model, X, patience
        self.printed, self.warned = time.monotonic(), False

    def __call__(self, todo, info):
        open_ = info[:, Info.ENDED] == 0
        if not self.warned and info[open_, Info.ITERATIONS].max() >= self.patience:
            self.warned = True
            warn(f"a binary problem is not solved after {info[:, Info.ITERATIONS].max()} iterations, which is slow: "
                 f"standardise the data, or use a smaller C or a larger tol{_unevenness(self.model.kernel, self.X)}")
        if self.model.verbose and time.monotonic() - self.printed >= 1:
            self.printed = time.monotonic()
            started = open_ & (info[:, Info.ITERATIONS] > 0)
            gap = self.device.to_host(todo.found.numbers).astype(np.float64)[started, Number.GAP]
            print(f"SVC: {open_.sum()} of {len(info)} binary problems left, {info[:, Info.ITERATIONS].sum()} steps "
                  f"so far, gap {gap.max(initial=0):.2g} (tol {float(self.model.tol):g})", flush=True)


def _offset(X):
    """What each feature is moved by before it is rounded: its median, a value of its own, so that whole numbers stay
    whole, and 0 where that does not halve the largest number, which saves a bit."""
    middle = np.partition(X, len(X) // 2, axis=0)[len(X) // 2]
    with np.errstate(over="ignore"):
        spread = abs(X - middle).max(axis=0)
    return np.where(spread < abs(X).max(axis=0) / 2, middle, 0.0)


def _unevenness(kernel, X):
    """In words, how much the spreads of features differ, where that is what makes a kernel slow."""
    if kernel in ("rbf", "precomputed"):
        return ""
    with np.errstate(over="ignore", invalid="ignore"):
        spread = X.std(axis=0)
    spread = spread[(spread > 0) & np.isfinite(spread)]
    if len(spread) == 0 or spread.max() < UNEVEN * spread.min():
        return ""
    return f"; the spreads of its features differ by a factor of {spread.max() / spread.min():.2g}"


def _enough(tol, gap, size, precision, state):
    """The cheapest way to resolve `tol` where f is as large as `size`, in words. A gap is the difference of two f, and
    each of them known to a unit in its last place, 2 u."""
    stalled, need = getattr(precision, state).u, 4 * size
    if stalled > precision.accum.u and need * precision.accum.u <= tol:
        return f"state='accum' would do in this precision, in {precision.accum}"
    better = cheapest(lambda p: p.accum.u < precision.accum.u and need * p.accum.u <= tol)
    if better:
        return f"precision={str(better)!r} would do"
    finest = min(p.accum.u for p in PRECISIONS.values())
    return f"no precision resolves that: use tol={max(need * finest, 2 * gap):.1g} or more"


def _wider_range(precision):
    """The cheapest precision whose numbers reach further, in words."""
    wider = cheapest(lambda p: p.storage.max > precision.storage.max and p.accum.max >= precision.accum.max)
    return f" or precision={str(wider)!r}" if wider else ""
