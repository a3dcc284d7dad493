"""What all estimators share: the precision and the device, the checks of what comes in, the report of how a fit ended.

Every fit leaves `stop_reason_`, one of

    converged        it did what it was asked to
    max_iter         it ran out of iterations
    stalled          an iteration no longer changed anything in this precision, short of the goal
    breakdown        the method met something it cannot go on from; the estimator says what it did instead
    rank_deficient   the data leave the solution open; the estimator says which one it gives
    overflow         numbers beyond the range of the format: there is no result, or none from there on
    interrupted      a callback ended it

and raises a ConvergenceWarning for all but the first, with what would help.
"""
import warnings

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from numprec import device as devices
from numprec.precision import PRECISIONS, precision_named

STOP_REASONS = ("converged", "max_iter", "stalled", "breakdown", "rank_deficient", "overflow", "interrupted")


class Estimator(BaseEstimator):
    """Base of the estimators, which have the parameters `precision` and `device`."""

    def _where_and_how(self):
        """The device and the Precision that the parameters name. Raises ValueError if one does not have the other."""
        precision = precision_named(self.precision)
        device = devices.get(self.device)
        available = device.availability(precision)
        if available.status == "unavailable":
            raise ValueError(f"precision {str(precision)!r} is unavailable on {device.name}: {available.reason}")
        return device, precision

    def _checked_for_fit(self, X, y, **options):
        """X and y as C-ordered float64 arrays. `options` are those of sklearn.utils.validation.check_X_y."""
        _refuse(X, "X", dimensions=2)
        _refuse(y, "y")
        X, y = validate_data(self, X, y, dtype="numeric", ensure_all_finite=False, y_numeric=True, **options)
        return np.ascontiguousarray(X, np.float64), np.ascontiguousarray(y, np.float64)

    def _checked_for_classes(self, X, y):
        """X as a C-ordered float64 array, and the labels y (n_samples,), whatever they are."""
        _refuse(X, "X", dimensions=2)
        X, y = validate_data(self, X, y, dtype="numeric", ensure_all_finite=False)
        check_classification_targets(y)
        return self._as_numbers(X), y

    def _checked_for_predict(self, X):
        """X as a C-ordered float64 array, with the features that the estimator was fitted to."""
        _refuse(X, "X", dimensions=2)
        X = validate_data(self, X, reset=False, dtype="numeric", ensure_all_finite=False)
        return self._as_numbers(X)

    def _as_numbers(self, X):
        """What the estimator computes with, given a checked X."""
        return np.ascontiguousarray(X, np.float64)

    def _ended(self, reason, sentence=None):
        """Sets stop_reason_, and warns unless all is well."""
        assert reason in STOP_REASONS
        self.stop_reason_ = reason
        if reason != "converged":
            warnings.warn(sentence, ConvergenceWarning, stacklevel=3)


def _refuse(values, name, dimensions=None):
    """ValueError, in one sentence, for what scikit-learn would refuse in many lines, and for NaNs and infinities with
    their number and the place of the first; the rest is left to scikit-learn."""
    if values is None:
        return
    values = np.asarray(values)
    if values.ndim == 1 and dimensions == 2:
        raise ValueError(f"Expected 2D array, got 1D array of length {len(values)} as {name}. Reshape your data: "
                         "reshape(-1, 1) for samples of one feature, reshape(1, -1) for one sample.")
    if values.dtype.kind in "USV":
        raise ValueError(f"Input {name} holds {values.dtype} instead of numbers: encode it first.")
    if values.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: pass the real and imaginary parts of {name} one by one.")
    if values.dtype.kind == "O":
        try:
            values = values.astype(np.float64)
        except (TypeError, ValueError):
            return
    for what, found in (("NaN", np.isnan), ("infinity", np.isinf)):
        if values.dtype.kind == "f" and found(values).any():
            places = np.argwhere(found(values))
            first = ", ".join(f"{axis} {i}" for axis, i in zip(("row", "column"), places[0]))
            count = "1 value" if len(places) == 1 else f"{len(places)} values"
            raise ValueError(f"Input {name} contains {what} ({count}, the first in {first}): remove or impute them.")


def check_range(values, fmt, name, remedy):
    """ValueError if rounding `values` to `fmt` overflows."""
    largest = np.abs(values).max(initial=0)
    if not np.isfinite(fmt.round(largest)):
        able = [p for p in PRECISIONS.values() if np.isfinite(p.storage.round(largest))]
        others = f", or use precision={str(min(able, key=lambda p: p.storage.bytes))!r}" if able else ""
        raise ValueError(f"max |{name}| = {largest:.2g} exceeds {fmt} max {fmt.max:g}: {remedy}{others}.")


def check_memory(device, needed, precision, per_element):
    """MemoryError if a fit needs more bytes than are free; `per_element(p)` tells what another precision needs."""
    free = device.free_memory()
    if needed > free:
        smaller = [str(p) for p in PRECISIONS.values() if needed / per_element(precision) * per_element(p) <= free]
        hint = f"; precision={smaller[0]!r} would fit" if smaller else ""
        raise MemoryError(f"the fit needs {needed / 1e9:.1f} GB on {device.name}, where {free / 1e9:.1f} GB are free"
                          + hint)
