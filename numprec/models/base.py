"""What all estimators share: the precision and the device, the checks of what comes in, the report of how a fit ended.

Every fit leaves `stop_reason_`, one of

    converged        it did what it was asked to
    max_iter         it ran out of iterations
    stalled          an iteration no longer changed anything in this precision, short of the goal
    breakdown        the method met something it cannot go on from; the estimator says what it did instead
    rank_deficient   the data leave the solution open; the estimator says which one it gives
    overflow         numbers beyond the range of the format: there is no result, or none from there on
    interrupted      a callback ended it

and a ConvergenceWarning says what would help where the result is not what was asked for. A callback, `partial_fit` or a
schedule of learning rates that ends a fit does so without one.

X, y and sample weights may lie in the memory of a GPU, in anything with `__cuda_array_interface__` (CuPy, PyTorch,
Numba). Checks, units and classes are found in float64 on the host, so that such an array is copied to the host once,
and goes back rounded to storage, as what comes from the host does.
"""
import math
import numbers
import operator
import reprlib
import sys
import warnings

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._missing import is_pandas_na
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_array, check_X_y, validate_data

from numprec import device as devices
from numprec.precision import PRECISIONS, Precision, precision_named, unknown

STOP_REASONS = ("converged", "max_iter", "stalled", "breakdown", "rank_deficient", "overflow", "interrupted")
INSIDE = ("numprec", "sklearn", "joblib")     # packages whose lines are not the user's


class Scored:
    """A mixin left of scikit-learn's, which score NumPy's arrays."""

    def score(self, X, y, sample_weight=None):
        """scikit-learn's score of the predictions for X, in float64: the accuracy of a classifier, R2 of a regression.
        X, y and sample_weight may lie in the memory of a GPU. Weights may have any unit. Raises ValueError or TypeError
        for what cannot be scored."""
        X, y = map(self._on_host, (X, y))
        if sample_weight is not None:
            sample_weight = self._checked_weights(sample_weight, X)
            sample_weight = np.ldexp(sample_weight, -exponents(sample_weight))    # their sum stays in range
        return super().score(X, y, sample_weight)


class Estimator(BaseEstimator):
    """Base of the estimators, which have the parameters `precision` and `device`.

    A subclass says in `_allows_nan` whether X may have missing values, and names in `_learns` the attributes that hold
    what a fit learned: numbers, arrays, or lists or dictionaries of arrays; dots may lead further, "tree_.value".
    """

    _allows_nan = False
    _learns = ()

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._allows_nan
        return tags

    def _where_and_how(self):
        """The device and the Precision that the parameters name. Raises ValueError if one does not have the other."""
        check_parameters(self, WHERE_AND_HOW)
        precision = precision_named(self.precision)
        device = devices.get(self.device)
        available = device.availability(precision)
        if available.status == "unavailable":
            raise ValueError(f"precision {str(precision)!r} is unavailable on {device.name}: {available.reason}")
        return device, precision

    def _checked_for_fit(self, X, y, **options):
        """X and y as C-ordered float64 arrays. `options` are those of sklearn.utils.validation.check_X_y."""
        given, y = self._on_host(X), self._on_host(y)
        y = None if y is None else _finite(_numbers(y, "y", 1), "y")
        X, y = check_X_y(_numbers(given, "X", 2), y, dtype="numeric", ensure_all_finite=False, y_numeric=True,
                         estimator=self, **options)
        validate_data(self, given, skip_check_array=True)    # the names and the number of features
        return _finite(self._as_numbers(X), "X", self._allows_nan), _finite(np.ascontiguousarray(y, np.float64), "y")

    def _checked_for_classes(self, X, y):
        """X as a C-ordered float64 array, and the labels y (n_samples,), whatever they are."""
        given, y = self._on_host(X), labels(self._on_host(y))
        X, y = check_X_y(_numbers(given, "X", 2), y, dtype="numeric", ensure_all_finite=False, estimator=self)
        check_classification_targets(y)
        validate_data(self, given, skip_check_array=True)
        return _finite(self._as_numbers(X), "X", self._allows_nan), y

    def _checked_targets(self, y):
        """y, to be compared with predictions, as a float64 array."""
        with np.errstate(over="ignore"):    # of a wider format, found infinite afterwards
            return _finite(_numbers(self._on_host(y), "y", 1).astype(np.float64), "y")

    def _checked_for_predict(self, X):
        """X as a C-ordered float64 array, with the features that the estimator was fitted to."""
        given = self._on_host(X)
        X = check_array(_numbers(given, "X", 2), dtype="numeric", ensure_all_finite=False, estimator=self,
                        input_name="X")
        X = _finite(self._as_numbers(X), "X", self._allows_nan)
        validate_data(self, given, reset=False, skip_check_array=True)
        return X

    def _checked_weights(self, sample_weight, X):
        """Sample weights as a float64 array (n_samples,), each of them finite, none negative, not all 0; a number is
        the weight of every sample, and None is a weight of 1."""
        if sample_weight is not None:
            sample_weight = _numbers(self._on_host(sample_weight), "sample_weight")
            sample_weight = _finite(sample_weight.astype(np.float64), "sample_weight")
            sample_weight = sample_weight if sample_weight.ndim else np.full(len(X), sample_weight)
            if not sample_weight.any():
                raise ValueError(f"Sample weights must contain at least one non-zero number: all {len(X)} are 0")
        return _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)

    def _on_host(self, values):
        """`values`, or a copy of them on the host if they lie in the memory of a GPU."""
        if not hasattr(values, "__cuda_array_interface__"):
            return values
        device, _ = self._where_and_how()
        return device.from_gpu(values)

    def _as_numbers(self, X):
        """What the estimator computes with, given a checked X."""
        with np.errstate(over="ignore"):    # of a wider format, found infinite afterwards
            return np.ascontiguousarray(X, np.float64)

    def _ended(self, reason, sentence=None):
        """Sets stop_reason_, and warns with the sentence, if there is one.

        `reason` is one of STOP_REASONS, or an array of them where a fit solves several problems, one for each. This is
        the one place that sets it, for every estimator, after everything in `_learns` has been: no fit ends as
        converged whose numbers are not all finite. That is an overflow, and warns.
        """
        reason = np.array(reason)
        assert np.isin(reason, STOP_REASONS).all()
        spoilt = [name for name in self._learns if not _all_finite(operator.attrgetter(name)(self))]
        if spoilt and (reason == "converged").any():
            reason = np.where(reason == "converged", "overflow", reason)
            sentence = f"{' and '.join(spoilt)} left the range of the numbers: there is no result; rescale the data"
        self.stop_reason_ = reason if reason.ndim else str(reason)
        if sentence:
            warn(sentence, ConvergenceWarning)


def warn(sentence, category=UserWarning):
    """warnings.warn, said of the user's line: the nearest one outside of this package and of those that call it on
    somebody's behalf."""
    frame, level = sys._getframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(sentence, category, stacklevel=level)


# ---- parameters

def is_whole(x):
    """Whether x is a whole number, of Python or NumPy, and not True or False."""
    return isinstance(x, numbers.Integral) and not isinstance(x, bool)


def is_real(x):
    """Whether x is a number on the real line or an end of it, and not True or False."""
    return isinstance(x, numbers.Real) and not isinstance(x, bool) and not math.isnan(x)


BOOLEAN = ("True or False", lambda x: isinstance(x, (bool, np.bool_)))
VERBOSE = ("True, False or a whole number of at least 0", lambda x: BOOLEAN[1](x) or is_whole(x) and x >= 0)
CLASS_WEIGHT = ("None, 'balanced' or a dictionary of finite weights of at least 0", lambda x: x is None or (
    x == "balanced" if isinstance(x, str) else isinstance(x, dict) and all(
        is_real(w) and 0 <= w < math.inf for w in x.values())))

# what every estimator has
WHERE_AND_HOW = {
    "precision": ("a name or a numprec.precision.Precision", lambda x: isinstance(x, (str, Precision))),
    "device": ("None, 'gpu' or 'emulator'", lambda x: x is None or isinstance(x, str)),
}


def check_parameters(estimator, rules):
    """ValueError, in one sentence, for the first parameter of `estimator` that is not what its rule allows.

    `rules` is {parameter: rule}. A rule is a list of the names that it may be, or a pair: what it may be, in words that
    go on after "max_iter is ...", and a function that tells whether a value is that. A function that fails has been
    given something else: a rule may compare and order without a look at the type.
    """
    for name, rule in rules.items():
        value = getattr(estimator, name)
        if isinstance(rule, list):
            if not (isinstance(value, str) and value in rule):
                raise unknown(name, value if isinstance(value, str) else shown(value), rule)
            continue
        words, allows = rule
        try:
            allowed = bool(allows(value))
        except Exception:
            allowed = False
        if not allowed:
            raise ValueError(f"{name} is {words}, not {shown(value)}")


def shown(value):
    """repr(value), on one line and of a length that fits into a sentence."""
    if hasattr(value, "shape") and value.shape != ():
        return f"an array of shape {tuple(value.shape)}"
    return " ".join(reprlib.repr(value).split())


# ---- data

def exponents(values):
    """Of the powers of two above the largest number of each column, or of a vector."""
    return np.frexp(np.max(np.abs(values), axis=0))[1]


def _array(values, name, least):
    """numpy.asarray(values), in which an entry that a mask hides is NaN. ValueError or TypeError, in one sentence, for
    what is none, or has less than so many dimensions."""
    if sparse.issparse(values):
        raise TypeError(f"Sparse data was passed for {name}, but dense data is required: use {name}.toarray().")
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        values = values.astype(object).filled(np.nan)
    try:
        values = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Input {name} cannot be made an array: {str(error).partition('. ')[0]}") from error
    if values.ndim < least:
        given = f"1D array of length {len(values)}" if values.ndim else "a scalar"
        advice = (". Reshape your data: reshape(-1, 1) for samples of one feature, reshape(1, -1) for one sample."
                  if values.ndim else "")
        raise ValueError(f"Expected {least}D array, got {given} as {name}{advice}")
    return values


def _numbers(values, name, least=0):
    """`values` as an array of numbers, in which what is missing is NaN. ValueError or TypeError, in one sentence, for
    what cannot be that; the rest is left to scikit-learn."""
    values = _array(values, name, least)
    if values.dtype.kind in "USTV":
        raise ValueError(f"Input {name} holds {values.dtype} instead of numbers: encode it first.")
    if values.dtype.kind in "mM":
        raise ValueError(f"Input {name} holds {values.dtype} instead of numbers: make it one, such as "
                         "(t - t.min()) / numpy.timedelta64(1, 's').")
    if values.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: pass the real and imaginary parts of {name} one by one.")
    return _from_objects(values, name) if values.dtype.kind == "O" else values


def _from_objects(values, name):
    """An object array as float64; None, NaN and pandas' NA become NaN."""
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        pass    # there is an NA in it, or else what is to be named
    out = np.empty(values.shape)
    for place, value in np.ndenumerate(values):
        try:
            out[place] = np.nan if _is_missing(value) else float(value)
        except (TypeError, ValueError, OverflowError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"Input {name} holds {shown(value)} in {_where(place)}: {error}") from None
    return out


def labels(y):
    """y, of which scikit-learn makes labels. ValueError for missing ones, and for those that have no order."""
    if y is None:
        return y    # scikit-learn says so
    values = _array(y, "y", 0)
    kind = values.dtype.kind
    if kind == "c":
        raise ValueError("Complex data not supported: y holds labels, each of them a number or a name.")
    if kind in "mM":
        missing = np.isnat(values)
    elif kind == "O":
        missing = np.array([_is_missing(v) for v in values.flat], bool).reshape(values.shape)
        kinds = {"a name" if isinstance(v, str) else "a number" if isinstance(v, numbers.Real) else
                 f"a {type(v).__name__}" for v in values[~missing]}
        if len(kinds) > 1:
            raise ValueError(f"Input y mixes labels, here {' and there '.join(sorted(kinds))}: make them all names, or "
                             "all numbers.")
    else:
        missing = np.zeros(())
        _finite(values, "y")
    if missing.any():
        raise _spoilt("y", "NaN", missing)
    return y


def _is_missing(value):
    """Whether it is None, pandas' NA, or not equal to itself: NaN, NaT."""
    return value is None or is_pandas_na(value) or bool(np.any(value != value))


def _finite(values, name, allows_nan=False):
    """`values`. ValueError for infinities, and for NaNs unless they are allowed, with their number and the place of the
    first."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        for what, found in (("NaN", np.isnan(values)), ("infinity", np.isinf(values))):
            if found.any() and not (allows_nan and what == "NaN"):
                raise _spoilt(name, what, found)
    return values


def _spoilt(name, what, found):
    count = int(np.count_nonzero(found))
    first = np.unravel_index(np.argmax(found), found.shape)
    return ValueError(f"Input {name} contains {what} ({count} value{'s' * (count > 1)}, the first in {_where(first)}): "
                      "remove or impute them.")


def _where(place):
    return ", ".join(f"{axis} {i}" for axis, i in zip(("row", "column"), place)) or "its only place"


def _all_finite(values):
    """Whether a number, an array, or each of a list or dictionary of arrays is finite."""
    if isinstance(values, dict):
        values = list(values.values())
    return all(np.isfinite(a).all() for a in (values if isinstance(values, list) else [values]))


def check_range(values, fmt, name, remedy):
    """ValueError if rounding `values` to `fmt` overflows; NaN, a missing value, rounds to NaN."""
    largest = max(np.fmax.reduce(values, axis=None, initial=0), -np.fmin.reduce(values, axis=None, initial=0))
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
