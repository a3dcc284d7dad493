"""Support vector classifier, trained in any precision by the kernels of the chapters kernel_rows to working_set."""
import numbers
import warnings
from itertools import combinations

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import _ovr_decision_function
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from numprec.kernels import kernel_rows, smo, smo_fit, working_set
from numprec.kernels.registry import operations
from numprec.kernels.smo_step import CONVERGED, ENDED, GAP, INTERCEPT, ITERATIONS, MAX_ITER, OVERFLOW, SIZE, STALLED
from numprec.models.base import Estimator, check_memory, check_range
from numprec.precision import PRECISIONS, unknown

REASONS = {CONVERGED: "converged", MAX_ITER: "max_iter", STALLED: "stalled", OVERFLOW: "overflow"}
FUNCTIONS = list(kernel_rows.FUNCTIONS)
ONE_BLOCK = 2048         # samples of a binary problem up to which one block looks at all of them
ONE_LAUNCH = 2 ** 24     # products up to which that block also makes its kernel matrix
CHUNK = 2 ** 22          # values of the kernel function that a prediction holds at a time


class SVC(ClassifierMixin, Estimator):
    """C-support vector classification, one-vs-one. `precision`, `state` and `device` are its own, the rest is named as
    in scikit-learn.

    Parameters
    ----------
    precision : str or Precision, default="fp32"
        The formats of the training: X and the kernel matrix are kept in storage; all sums, the multipliers alpha and
        the gradient are in accum.
    C : float
        Bounds the multipliers. Beyond the range of accum it is the largest number there, a hard margin.
    kernel : "linear", "poly", "rbf" or "sigmoid"
    degree, gamma, coef0
        Of the kernel function; gamma is a number, "scale" or "auto".
    tol : float
        The gap at which a fit is converged. What the format cannot resolve is reported as stalled.
    cache_size : float
        Megabytes that the kernel matrix may take. Where it needs more, its rows are made again as needed.
    class_weight : dict, "balanced" or None
    max_iter : int
        Most iterations of a binary problem; -1 is ten million.
    decision_function_shape : "ovr" or "ovo"
    break_ties : bool
    random_state : any
        Without effect: nothing is drawn at random.
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
    n_iter_, stop_reason_, gap_ : arrays, one element a binary problem
        Iterations; "converged", "max_iter", "stalled" or "overflow"; and the gap that was left, as accum sees it.
        Whatever is not converged raises a ConvergenceWarning.
    precision_ : str
        The precision of the fit.

    X is scaled by a power of two, which rounds nothing, so that gamma (for the linear kernel, the mean square of the
    samples) comes near 1, and with it what the formats have to hold. Predictions are NumPy's, in float64, so that
    scores tell apart how models were trained and nothing else.
    """

    def __init__(self, precision="fp32", *, C=1.0, kernel="rbf", degree=3, gamma="scale", coef0=0.0, tol=1e-3,
                 cache_size=2000, class_weight=None, max_iter=-1, decision_function_shape="ovr", break_ties=False,
                 random_state=None, state="accum", device=None):
        self.precision = precision
        self.C = C
        self.kernel = kernel
        self.degree = degree
        self.gamma = gamma
        self.coef0 = coef0
        self.tol = tol
        self.cache_size = cache_size
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.decision_function_shape = decision_function_shape
        self.break_ties = break_ties
        self.random_state = random_state
        self.state = state
        self.device = device

    # ---- training

    def fit(self, X, y, sample_weight=None):
        """Fits X (n_samples, n_features) to the labels y (n_samples,). Returns self."""
        device, precision = self._where_and_how()
        self._check_parameters()
        X, y = self._checked_for_classes(X, y)
        self.classes_, y = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("The number of classes has to be greater than one; got 1 class")
        self.class_weight_ = compute_class_weight(self.class_weight, classes=self.classes_, y=self.classes_[y])
        self._gamma, self.shape_fit_ = self._gamma_of(X), X.shape
        weight = np.ones(len(X)) if sample_weight is None else _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if (self.class_weight_ < 0).any():
            raise ValueError("class_weight must not be negative")
        bound = self.C * weight * self.class_weight_[y]
        members = [np.flatnonzero((y == c) & (bound > 0)) for c in range(len(self.classes_))]
        if min(map(len, members)) == 0:
            raise ValueError("sample_weight, times class_weight, is 0 for every sample of a class: leave it out of y")

        scale, alpha_unit = self._units(X, bound)
        check_range(X * scale, precision.storage, "X" if scale == 1 else "X * sqrt(gamma)", "standardise the data")
        bound = np.minimum(bound / alpha_unit, precision.accum.max)
        if (precision.accum.round(bound[bound > 0]) == 0).any():
            raise ValueError(f"C, with its weights, is as small as {bound[bound > 0].min() * alpha_unit:.2g}, which is "
                             f"0 in {precision.accum}: use larger ones, or a precision with a wider accum")
        alpha, numbers_, info = self._minimize(device, precision, X * scale, members, bound, scale)
        self._keep(precision.storage.round(X * scale).astype(np.float64) / scale, members, alpha * alpha_unit)
        self._intercept = numbers_[:, INTERCEPT].copy()
        self.intercept_ = -self._intercept if len(members) == 2 else self._intercept
        self.n_iter_, self.gap_ = info[:, ITERATIONS].copy(), np.maximum(numbers_[:, GAP], 0)
        self.stop_reason_ = np.array([REASONS[ended] for ended in info[:, ENDED]])
        self.fit_status_, self.precision_ = int((self.stop_reason_ != "converged").any()), str(precision)
        self._report(precision, numbers_[:, SIZE])
        return self

    def _check_parameters(self):
        def refuse(name, condition, allowed):
            if not condition(getattr(self, name)):
                raise ValueError(f"{name} is {allowed}, not {getattr(self, name)!r}")

        def number(x):
            return isinstance(x, numbers.Real) and not isinstance(x, bool) and np.isfinite(x)

        for name, known in (("kernel", FUNCTIONS), ("decision_function_shape", ["ovr", "ovo"]),
                            ("state", ["accum", "storage"])):
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known)
        refuse("C", lambda x: number(x) and x > 0, "a positive number")
        refuse("tol", lambda x: number(x) and x > 0, "a positive number")
        refuse("cache_size", lambda x: number(x) and x >= 0, "a number of megabytes")
        refuse("coef0", number, "a number")
        refuse("degree", lambda x: isinstance(x, numbers.Integral) and 0 <= x <= 100, "a whole number from 0 to 100")
        refuse("max_iter", lambda x: isinstance(x, numbers.Integral) and (x > 0 or x == -1), "a positive whole number "
               "or -1")
        refuse("gamma", lambda x: x in ("scale", "auto") if isinstance(x, str) else number(x) and x >= 0,
               "'scale', 'auto' or a number of at least 0")

    def _gamma_of(self, X):
        if self.gamma == "scale":
            with np.errstate(over="ignore", invalid="ignore"):
                variance = X.var()
            if not np.isfinite(variance) and self.kernel != "linear":
                raise ValueError("the variance of X, which gamma='scale' is made from, exceeds the range of float64: "
                                 "standardise the data.")
            return 1.0 / (X.shape[1] * variance) if variance > 0 else 1.0
        return 1.0 / X.shape[1] if self.gamma == "auto" else float(self.gamma)

    def _units(self, X, bound):
        """The power of two that X is multiplied by, and the one that the multipliers then come in. With
        X' = s X, gamma becomes gamma / s^2; for the linear kernel K' = s^2 K, and alpha and C are divided by s^2."""
        size = self._gamma
        if self.kernel == "linear":
            largest = abs(X).max(initial=0)
            with np.errstate(over="ignore"):
                mean = largest ** 2 * np.sum((X / (largest or 1)) ** 2) / len(X)
            size = 1 / mean if mean > 0 and np.isfinite(mean) else 1.0
            # so that C / s^2 is at least 2^-8, six bits above the smallest normal number of float16
            size = min(size, bound.max() * 2 ** 8)
        exponent = int(np.clip(np.round(np.log2(size) / 2), -500, 500)) if size > 0 else 0
        scale = 2.0 ** exponent
        return scale, scale ** 2 if self.kernel == "linear" else 1.0

    def _minimize(self, device, precision, X, members, bound, scale):
        """alpha of all binary problems, end to end, and their numbers and info, as float64 arrays on the host."""
        storage, accum = precision.storage, precision.accum
        pairs = [np.concatenate([members[i], members[j]]) for i, j in combinations(range(len(members)), 2)]
        sizes, sample = [len(pair) for pair in pairs], np.concatenate(pairs)
        signs = np.concatenate([np.repeat([1.0, -1.0], [len(members[i]), len(members[j])])
                                for i, j in combinations(range(len(members)), 2)])
        Y, C = device.array(signs, storage), device.array(bound[sample], accum)
        gamma = self._gamma / scale ** 2
        parameters = device.array(np.array([gamma, self.coef0, self.degree]), accum)
        max_iter = min(2 ** 31 - 1, 10 ** 7 if self.max_iter == -1 else int(self.max_iter))
        largest, (N, D) = max(sizes), X.shape
        product = operations()["matmul"].rungs[-1]
        X_ = device.array(X, storage)

        def given(row, col):
            return smo.problems_of(device, precision, sizes, row, col, Y, C, self.state)

        if largest <= ONE_BLOCK and len(sample) * largest * D <= ONE_LAUNCH:
            local = np.concatenate([np.arange(size) for size in sizes])
            todo = given(np.arange(len(sample)), local)
            K = device.empty((len(sample), largest), storage)
            smo.solve(device, smo_fit.fused, precision, K, todo, self.tol, max_iter, fill=(
                X_, parameters, FUNCTIONS.index(self.kernel), device.array(sample.astype(np.int32))))
        elif N * N * storage.bytes <= min(self.cache_size * 2 ** 20, device.free_memory() / 2):
            K = kernel_rows.launch(device, product, precision, X_, X_, parameters, self.kernel)
            todo = given(sample, sample)
            if largest <= ONE_BLOCK:
                smo.solve(device, smo.problems, precision, K, todo, self.tol, max_iter)
            else:
                working_set.solve(device, working_set.working_set, precision, todo, self.tol, max_iter, K=K)
        else:
            rows = min(working_set.SET, largest)
            check_memory(device, rows * largest * storage.bytes, precision, lambda p: p.storage.bytes)
            local = np.concatenate([np.arange(size) for size in sizes])
            todo = given(local, local)
            working_set.solve(device, working_set.working_set, precision, todo, self.tol, max_iter, rows_of=lambda q: (
                device.array(X[pairs[q]], storage), parameters, self.kernel, product))
        return (device.to_host(todo.alpha).astype(np.float64), device.to_host(todo.numbers).astype(np.float64),
                device.to_host(todo.info))

    def _keep(self, X, members, alpha):
        """support_, support_vectors_, n_support_ and dual_coef_, as libsvm arranges them: the samples of each class
        together; row r of the coefficients of class c belongs to its problem with class r, or r + 1 where r >= c."""
        coef, start = np.zeros((len(members) - 1, len(X))), 0
        for i, j in combinations(range(len(members)), 2):
            for own, row, sign in ((members[i], j - 1, 1.0), (members[j], i, -1.0)):
                coef[row, own] = sign * alpha[start:start + len(own)]
                start += len(own)
        used = [own[(coef[:, own] != 0).any(axis=0)] for own in members]
        self.support_ = np.concatenate(used).astype(np.int32)
        self.n_support_ = np.array(list(map(len, used)), np.int32)
        self.support_vectors_ = X[self.support_]
        self._dual_coef = coef[:, self.support_]
        self.dual_coef_ = -self._dual_coef if len(members) == 2 else self._dual_coef

    def _report(self, precision, size):
        """Warns of what did not converge, with what would help."""
        count = len(self.stop_reason_)
        for reason in ("overflow", "stalled", "max_iter"):
            found = self.stop_reason_ == reason
            if not found.any():
                continue
            those = f"{found.sum()} of {count} binary problems" if count > 1 else "the problem"
            if reason == "overflow":
                sentence = f"numbers left the range of {precision.accum} or {precision.storage} in {those}: there is " \
                           f"no result; standardise the data, use gamma='scale'{_wider_range(precision)}"
            else:
                left = f"a gap of up to {self.gap_[found].max():.2g} was left, above tol={self.tol:g}"
                if reason == "max_iter":
                    sentence = f"{those} ended after {self.max_iter} iterations; {left}: raise max_iter or " \
                               "standardise the data"
                else:
                    sentence = f"{those} stalled in precision {precision}: steps no longer change what " \
                               f"{getattr(precision, self.state)} can hold; {left}; " \
                               f"{_enough(self.tol, self.gap_[found].max(), size[found].max(), precision, self.state)}"
            warnings.warn(sentence, ConvergenceWarning, stacklevel=3)

    # ---- prediction, by NumPy in float64

    def _pairwise(self, X):
        """Decision of each binary problem (n_samples, n_problems); positive for the class that comes first."""
        check_is_fitted(self)
        X = self._checked_for_predict(X)
        if (self.stop_reason_ == "overflow").any():
            raise ValueError("the fit ended in an overflow, so that there is nothing to predict with: see the warning "
                             "it raised")
        start = np.concatenate([[0], np.cumsum(self.n_support_)])
        out = np.empty((len(X), len(self._intercept)))
        step = max(1, CHUNK // max(1, len(self.support_)))
        for n in range(0, len(X), step):
            K = self._kernel(X[n:n + step], self.support_vectors_)
            for q, (i, j) in enumerate(combinations(range(len(self.classes_)), 2)):
                of_i, of_j = slice(start[i], start[i + 1]), slice(start[j], start[j + 1])
                out[n:n + step, q] = (K[:, of_i] @ self._dual_coef[j - 1, of_i] + K[:, of_j] @ self._dual_coef[i, of_j]
                                      + self._intercept[q])
        return out

    def _kernel(self, X, Z):
        if self.kernel == "rbf":
            middle = Z.mean(axis=0) if len(Z) else 0
            X, Z = X - middle, Z - middle
            squares = np.sum(X * X, axis=1)[:, None] + np.sum(Z * Z, axis=1) - 2 * X @ Z.T
            return np.exp(-self._gamma * np.maximum(squares, 0))
        if self.kernel == "linear":
            return X @ Z.T
        base = self._gamma * (X @ Z.T) + self.coef0
        return base ** self.degree if self.kernel == "poly" else np.tanh(base)

    def decision_function(self, X):
        """Decisions in float64: (n_samples,) for two classes, otherwise (n_samples, n_classes) or, for the shape "ovo",
        (n_samples, n_classes * (n_classes - 1) / 2)."""
        decisions = self._pairwise(X)
        if len(self.classes_) == 2:
            return -decisions[:, 0]
        if self.decision_function_shape == "ovr":
            return _ovr_decision_function(decisions < 0, -decisions, len(self.classes_))
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
        for (i, j), decision in zip(combinations(range(len(self.classes_)), 2), decisions.T):
            votes[:, i] += decision > 0
            votes[:, j] += ~(decision > 0)
        return self.classes_[np.argmax(votes, axis=1)]

    @property
    def coef_(self):
        """Weights of the features, a row for each binary problem; of the linear kernel only."""
        if self.kernel != "linear":
            raise AttributeError("coef_ is only available when using a linear kernel")
        check_is_fitted(self)
        if len(self.classes_) == 2:
            return self.dual_coef_ @ self.support_vectors_
        start = np.concatenate([[0], np.cumsum(self.n_support_)])
        return np.array([sum(self.dual_coef_[row, start[c]:start[c + 1]] @ self.support_vectors_[start[c]:start[c + 1]]
                             for c, row in ((i, j - 1), (j, i)))
                         for i, j in combinations(range(len(self.classes_)), 2)])


def _enough(tol, gap, size, precision, state):
    """The cheapest way to resolve `tol` where f is as large as `size`, in words. A gap is the difference of two f, and
    each of them known to a unit in its last place, 2 u."""
    stalled, need = getattr(precision, state).u, 4 * size
    if stalled > precision.accum.u and need * precision.accum.u <= tol:
        return f"state='accum' would do in this precision, in {precision.accum}"
    for p in sorted(PRECISIONS.values(), key=lambda p: (p.storage.bytes, p.u)):
        if p.accum.u < precision.accum.u and need * p.accum.u <= tol:
            return f"precision={str(p)!r} would do"
    finest = min(p.accum.u for p in PRECISIONS.values())
    return f"no precision resolves that: use tol={max(need * finest, 2 * gap):.1g} or more"


def _wider_range(precision):
    """The cheapest precision whose numbers reach further, in words."""
    able = [p for p in PRECISIONS.values() if p.storage.max > precision.storage.max and
            p.accum.max >= precision.accum.max]
    return f" or precision={str(min(able, key=lambda p: (p.storage.bytes, p.u)))!r}" if able else ""
