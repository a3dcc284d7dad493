"""Linear regression, least squares by the kernels of `numprec.kernels.equations.least_squares`."""
import math
from types import SimpleNamespace

import numpy as np
from scipy.linalg import LinAlgWarning
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from numprec.kernels import operations
from numprec.kernels.equations import least_squares
from numprec.kernels.equations.refinement import wider
from numprec.kernels.equations.units import Ended, Info
from numprec.models.base import (BOOLEAN, Estimator, Scored, check_memory, check_parameters, check_range,
                                 exponents, is_real, is_whole, warn)
from numprec.precision import FORMATS, Format, cheapest

SOLVERS = ("auto", "cholesky", "qr", "refine")
UNSAFE = 0.1     # relative error of coef_ from which on "auto" leaves Cholesky, and a fit warns
MOST = 2 ** 31 - 1

RULES = {
    "solver": list(SOLVERS),
    "fit_intercept": BOOLEAN,
    "copy_X": BOOLEAN,
    "tol": ("a number of at least 0", lambda x: is_real(x) and x >= 0),
    "n_jobs": ("None or a whole number", lambda x: x is None or is_whole(x)),
    "positive": ("False: positive=True is scikit-learn's, and scipy.optimize.nnls would do",
                 lambda x: isinstance(x, (bool, np.bool_)) and not x),
    "scale": BOOLEAN,
    "max_iter": ("a whole number of at least 1", lambda x: is_whole(x) and x >= 1),
}


class LinearRegression(Scored, MultiOutputMixin, RegressorMixin, Estimator):
    """Ordinary least squares, trained in a chosen precision.

    Parameters
    ----------
    precision : str or Precision, default="fp32"
        The formats of the training; see `numprec.PRECISIONS`.
    solver : {"auto", "cholesky", "qr", "refine"}, default="auto"
        "cholesky" solves the normal equations: fastest, and the condition number counts twice. "qr" factors X itself
        and finds its rank. "refine" corrects the solution of a Cholesky factor in this precision with residuals one
        format wider, in which X is then kept. "auto" is "cholesky", and "qr" where that breaks down or cannot promise
        one digit.
    fit_intercept : bool, default=True
        Whether to centre X and y. The middle of a column that stays within a factor of two, such as years or seconds
        since 1970, is subtracted in float64 before it is rounded to storage: its digits lie in the differences.
    copy_X, tol, n_jobs
        scikit-learn's, without a meaning here: X is never written to, nothing is solved iteratively but by "refine",
        and a fit is one launch, or a few.
    positive : False
        scikit-learn's; True is refused.
    scale : bool, default=True
        Whether to scale columns and rows by powers of two, which rounds nothing and keeps narrow formats in their
        range. Off, only the values themselves need to fit, and sums of their squares may overflow.
    max_iter : int, default=30
        Most corrections by "refine".
    device : {None, "gpu", "emulator"}, default=None
        Where to train; None is the GPU if there is one.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,) or (n_targets, n_features)
    intercept_ : float or ndarray of shape (n_targets,)
        float64, whatever the precision. Undoing the scales, and the intercept from the means, is done in float64.
    condition_ : float
        Condition number of X, centred, its columns scaled to norm 1, from its factor R; infinite below full rank.
    rank_ : int
        Columns of X that are independent in this precision; from "cholesky", all of them or those before a breakdown.
    n_iter_ : int
        1, or the number of corrections.
    solver_ : str
        What produced coef_.
    stop_reason_ : str
        "converged"; "breakdown": Cholesky met a pivot that is noise, and QR took over; "rank_deficient": of all
        solutions, coef_ is the one of least norm, as in scikit-learn; "stalled" or "max_iter": "refine" did not reach
        the wider format's accuracy; "overflow": coef_ is NaN.
    overflow_count_ : int
        Numbers of the factor or the solution that are not finite, or targets whose coefficients float64 cannot hold.
    n_features_in_, feature_names_in_
        As everywhere in scikit-learn.

    Predictions are NumPy's, in float64, so that scores tell apart how models were trained and nothing else.
    """

    _learns = ("coef_", "intercept_")

    def __init__(self, precision="fp32", solver="auto", *, fit_intercept=True, copy_X=True, tol=1e-6, n_jobs=None,
                 positive=False, scale=True, max_iter=30, device=None):
        self.precision = precision
        self.solver = solver
        self.fit_intercept = fit_intercept
        self.copy_X = copy_X
        self.tol = tol
        self.n_jobs = n_jobs
        self.positive = positive
        self.scale = scale
        self.max_iter = max_iter
        self.device = device

    def fit(self, X, y, sample_weight=None):
        """Fits X (n_samples, n_features) to y (n_samples,) or (n_samples, n_targets), with sample_weight (n_samples,).
        Returns self. Raises ValueError or TypeError for what cannot be fitted, MemoryError for what has no room."""
        device, precision = self._where_and_how()
        check_parameters(self, RULES)
        X, y = self._checked_for_fit(X, y, multi_output=True)
        problem = _Problem(self, device, precision, X, y.reshape(len(y), -1), sample_weight)

        solver = "cholesky" if self.solver == "auto" else self.solver
        result = problem.solve(solver)
        broke = result.rank < X.shape[1] and result.finite
        hopeless = self.solver == "auto" and _expected_error("cholesky", result.condition, precision) > UNSAFE
        if solver != "qr" and (broke or hopeless):
            result = problem.solve("qr")
            solver = "qr"

        self.solver_, self.rank_, self.condition_ = solver, result.rank, result.condition
        self.n_iter_, self.overflow_count_ = result.iterations, result.overflows
        self.coef_ = result.coef.T if y.ndim == 2 else result.coef[:, 0]
        self.intercept_ = result.intercept if y.ndim == 2 else float(result.intercept[0])
        self._report(result, precision, broke)
        return self

    def predict(self, X):
        """X @ coef_ + intercept_, in float64; NaN after a fit without a result. Raises ValueError for samples so large
        that the predictions leave the range of float64."""
        check_is_fitted(self)
        with np.errstate(over="ignore", invalid="ignore"):    # said below
            predicted = self._checked_for_predict(X) @ self.coef_.T + self.intercept_
        beyond = ~np.isfinite(predicted.reshape(len(predicted), -1)).all(axis=1)
        if beyond.any() and self.stop_reason_ != "overflow":
            raise ValueError(f"the predictions for {beyond.sum()} of {len(predicted)} samples, the first in row "
                             f"{beyond.argmax()}, are beyond the range of float64: rescale the data")
        return predicted

    def score(self, X, y, sample_weight=None):
        """R2, in float64; NaN after a fit without a result. y and sample_weight may have any unit. Raises ValueError or
        TypeError for what cannot be scored."""
        predicted = self.predict(X)
        if not np.isfinite(predicted).all():
            return float("nan")
        y = self._checked_targets(y)
        check_consistent_length(predicted, y)
        if sample_weight is not None:
            sample_weight = self._checked_weights(sample_weight, predicted)
            kept = sample_weight > 0
            predicted, y, sample_weight = predicted[kept], y[kept], sample_weight[kept]
            sample_weight = np.ldexp(sample_weight, -exponents(sample_weight))
        with np.errstate(over="ignore"):    # of predictions so wrong that R2 is -inf
            if y.size == predicted.size:
                # squares of the units themselves may leave the range of float64
                y = y.reshape(predicted.shape)
                unit = np.where(y.any(axis=0), exponents(y), exponents(predicted))
                y, predicted = np.ldexp(y, -unit), np.nan_to_num(np.ldexp(predicted, -unit))
            return r2_score(y, predicted, sample_weight=sample_weight)

    def _report(self, result, precision, broke):
        """stop_reason_ and warnings."""
        if result.beyond:
            fp64 = FORMATS["float64"]
            return self._ended("overflow", "coef_ or intercept_, in the units of the data, is beyond the range of "
                               f"float64 ({fp64.eta:.0e} to {fp64.max:.0e}): there is no result; rescale the data")
        if not result.finite:
            remedy = ("rescale the data" if self.scale else "use scale=True") + _wider_range(precision)
            return self._ended("overflow", f"{result.overflows} numbers of the factorisation are beyond the range of "
                               f"{precision.accum} (max {precision.accum.max:g}): there is no result; {remedy}")
        if result.rank < self.n_features_in_:
            return self._ended("rank_deficient", f"only {result.rank} of {self.n_features_in_} columns of X are "
                               f"independent in precision {precision}: coef_ is the solution of least norm")
        kappa = f"a condition number kappa of {self.condition_:.3g}"
        if self.solver_ == "refine" and not result.refined(precision):
            reason = "max_iter" if result.iterations >= self.max_iter else "stalled"
            return self._ended(reason, f"refinement ended after {result.iterations} corrections, the last of relative "
                               f"size {result.progress:.1e}: a factor in precision {precision} is too coarse for "
                               f"{kappa}; use solver='qr' or {_enough('cholesky', self.condition_)}")
        if broke and self.solver != "auto":
            self._ended("breakdown", f"Cholesky broke down in precision {precision}: X'X is not positive definite up "
                        "to rounding; coef_ is that of solver='qr'")
        else:
            self._ended("converged")
        error = _expected_error(self.solver_, self.condition_, precision)
        if error > UNSAFE:
            law = "kappa^2 * u" if self.solver_ == "cholesky" else "kappa * u"
            advice = _enough(self.solver_, self.condition_)
            if self.solver_ == "cholesky" and _expected_error("qr", self.condition_, precision) <= UNSAFE:
                advice = f"solver='qr' or {advice}"
            digits = max(0, int(-np.log10(error)))
            warn(f"{law} = {error:.2g} with {kappa}: expect about {digits} correct digits in coef_; {advice} "
                 "would do", LinAlgWarning)


class _Problem:
    """The data of one fit, on the device once they are needed, and the solutions of it."""

    def __init__(self, model, device, precision, X, Y, sample_weight):
        self.model, self.device, self.precision = model, device, precision
        weight = np.ones(1)
        if sample_weight is not None:
            weight = model._checked_weights(sample_weight, X)
            kept = weight > 0
            X, Y, weight = X[kept], Y[kept], weight[kept]
        self.D = X.shape[1]
        root = np.sqrt(weight / weight.max())
        (X, *x_units), (Y, *y_units) = (self._in_range(A, name) for A, name in ((X, "X"), (Y, "y")))
        self.host = X, Y, root
        self.middle, self.exponent = (np.concatenate(parts) for parts in zip(x_units, y_units))
        self.arrays = {}

    def _in_range(self, A, name):
        """A, and what was done to each of its columns: the middle that was subtracted, and the exponent of the power of
        two it was divided by to fit into the storage format.

        A column that stays within a factor of two loses nothing by its middle: the difference is exact [Higham,
        Accuracy and Stability, theorem 2.5], and what was a number of a narrower format remains one.
        """
        storage, (low, high) = self.precision.storage, (A.min(axis=0), A.max(axis=0))
        largest, least = (f(abs(low), abs(high)) for f in (np.maximum, np.minimum))
        far = (np.sign(low) == np.sign(high)) & (largest / 2 <= least) & bool(self.model.fit_intercept)
        middle = np.where(far, np.where(low == high, low, low / 2 + high / 2), 0)
        if far.any():
            A, low, high = A - middle, low - middle, high - middle
        if not self.model.scale:
            check_range(A, storage, name, f"use scale=True, standardise {name}")
            return A, middle, np.zeros(A.shape[1], np.intc)
        reach = np.maximum(high, -low)
        outside = (reach > storage.max / 2) | ((reach > 0) & (reach < storage.tiny * 2 ** 10))
        exponent = np.where(outside, np.frexp(reach)[1] - 1, 0)
        return (np.ldexp(A, -exponent) if outside.any() else A), middle, exponent

    def _on_device(self, fmt):
        if fmt not in self.arrays:
            self.arrays[fmt] = [self.device.array(A, fmt) for A in self.host]
        return self.arrays[fmt]

    def solve(self, solver):
        model, device, precision = self.model, self.device, self.precision
        fmt = wider(precision).storage if solver == "refine" else precision.storage
        rung, (N, _), T = operations()["least_squares"].rung(solver), self.host[0].shape, self.host[1].shape[1]

        def needed(p):
            return bytes_needed(rung, p, N, self.D, T)
        self.arrays = {of: arrays for of, arrays in self.arrays.items() if of == fmt}    # of an earlier solution
        held = sum(array.nbytes for arrays in self.arrays.values() for array in arrays)
        check_memory(device, needed(precision) - held, precision, needed)
        fit = least_squares.solve(device, rung, precision, *self._on_device(fmt), bool(model.fit_intercept),
                                  bool(model.scale), int(min(model.max_iter, MOST))).to_host(device)
        return _Result(fit, self.D, solver, self.middle, self.exponent, bool(model.fit_intercept))


class _Result:
    """A Fit in the units of the data, in float64."""

    def __init__(self, fit, D, solver, middle, exponent, centred):
        shift, unit, mean, R, W = (np.asarray(A, np.float64) for A in (*fit.units, fit.R, fit.W))
        R = np.triu(R[:D, :D])
        self.rank, self.ended = int(fit.info[Info.RANK]), int(fit.info[Info.ENDED])
        self.iterations = int(fit.info[Info.ITERATIONS]) if solver == "refine" else 1
        self.progress = None if fit.change is None else float(fit.change[0])
        solved = self.rank == D or solver == "qr"
        computed = (shift, unit, mean, R, W) if solved else (shift, unit, mean, R)
        self.overflows = int(sum(np.count_nonzero(~np.isfinite(A)) for A in computed))
        self.finite, self.beyond = self.overflows == 0, False
        self.condition = np.inf if self.finite else np.nan
        self.coef, self.intercept = np.full(W.shape, np.nan), np.full(W.shape[1], np.nan)
        if not (self.finite and solved):
            return
        if self.rank == D:
            self.condition = float(np.linalg.cond(R / np.linalg.norm(R, axis=0)))
        scale = exponent - (np.frexp(unit)[1] - 1)    # of powers of two, which may lie far outside of float64
        with np.errstate(over="ignore", invalid="ignore"):
            coef = np.ldexp(W, scale[D:] - scale[:D, None])
            mean = np.ldexp(shift, exponent) + np.ldexp(mean, scale) + middle
            intercept = mean[D:] - mean[:D] @ coef if centred else np.zeros(W.shape[1])
            lost = abs(np.ldexp(coef, scale[:D, None] - scale[D:]) - W)    # to underflow, or all of it to overflow
            beyond = ~((lost <= UNSAFE * abs(W).max(axis=0)).all(axis=0) & np.isfinite(intercept))
        if beyond.any():
            self.finite, self.beyond, self.condition = False, True, np.nan
            self.overflows = int(np.count_nonzero(beyond))
            return
        self.coef, self.intercept = coef, intercept

    def refined(self, precision):
        """Whether refinement reached what rounding of its residuals allows: a relative correction of about kappa^2 u
        of their format."""
        u = wider(precision).accum.u
        small = self.progress <= 10 * self.condition ** 2 * u
        return self.ended == Ended.CONVERGED or (self.ended != Ended.BROKEN and small)


def bytes_needed(rung, precision, N, D, T):
    """Bytes that X, Y, v and all that `least_squares.solve` makes take together, also what it drops on
    the way: a GPU frees memory when it sees fit. Found by going through it on a device that only counts."""
    fmt = wider(precision).storage if rung.name == "refine" else precision.storage
    device = _Counting()
    X, Y, v = (device.empty(shape, fmt) for shape in ((N, D), (N, T), (N,)))
    least_squares.solve(device, rung, precision, X, Y, v, iterations=1)
    return device.bytes


class _Counting:
    """A device that makes nothing and runs nothing, but counts the bytes of its arrays, each a multiple of 256: to that
    cudaMalloc aligns at least (CUDA C++ Programming Guide, section "Device Memory Accesses")."""

    bytes = 0

    def empty(self, shape, fmt):
        itemsize = fmt.bytes if isinstance(fmt, Format) else np.dtype(fmt).itemsize
        self.bytes += -(-math.prod(shape) * itemsize // 256) * 256
        return SimpleNamespace(shape=shape)

    zeros = empty

    def launch(self, kernel, grid, block, *args):
        """Nothing runs."""


def _expected_error(solver, condition, precision):
    """Relative error of coef_, by order of magnitude: what rounding the data does and what the method does. Refinement
    rounds neither, but a condition number near 1 / u of the factor's data may as well be infinite."""
    rounding = condition * precision.storage.u
    if solver == "refine":
        return max(condition ** 2 * wider(precision).accum.u, rounding if rounding > 0.5 else 0)
    return max(condition ** (2 if solver == "cholesky" else 1) * precision.accum.u, rounding)


def _enough(solver, condition):
    """The cheapest precision of which no warning would come, in words."""
    safe = cheapest(lambda p: _expected_error(solver, condition, p) <= UNSAFE)
    return f"precision={str(safe)!r}" if safe else "columns that are less alike"


def _wider_range(precision):
    """The cheapest precision whose sums reach further, in words."""
    wider = cheapest(lambda p: p.accum.max > precision.accum.max)
    return f" or precision={str(wider)!r}" if wider else ""
