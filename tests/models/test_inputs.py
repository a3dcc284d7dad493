"""What users pass in, to any estimator: missing values in every type of column, arrays on a GPU, parameters of another
type; and what holds of every fit: no number that is not finite under "converged", warnings at the user's line."""
import datetime
import decimal
import fractions
import sys
import textwrap
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.exceptions import ConvergenceWarning

from numprec import CNNClassifier, DecisionTreeClassifier, LinearRegression, MLPClassifier, SVC, device as devices
from numprec.models.base import BOOLEAN, Estimator, check_parameters, check_range, is_whole, warn
from numprec.precision import FORMATS

X0, Y0 = np.arange(12.0).reshape(6, 2) ** 1.5, np.array([0, 1, 0, 1, 1, 0])
MODELS = [LinearRegression(), SVC(), DecisionTreeClassifier(),
          MLPClassifier(hidden_layer_sizes=[2], max_iter=1, random_state=0),
          CNNClassifier(layers="conv2", max_iter=1, random_state=0, image_shape=(1, 2, 1))]


class Checks(Estimator):
    """The checks, and no fit."""

    precision, device = "fp32", None


def columns(missing):
    """{name: six numbers in a column of that type, the last one missing if asked for}."""
    last = [None] if missing else [0]
    made = {name: pd.array([1, 0, 1, 0, 1, *last], dtype=name)
            for name in ("Int8", "Int64", "UInt16", "Float32", "Float64")}
    made["boolean"] = pd.array([True, False, True, False, True, *(last if missing else [False])], dtype="boolean")
    for kind, of in ((pa.int8(), int), (pa.int64(), int), (pa.float16(), np.float16), (pa.float32(), float),
                     (pa.float64(), float), (pa.bool_(), bool), (pa.decimal128(5, 2), decimal.Decimal),
                     (pa.string(), str)):
        values = [of(x) for x in (1, 0, 1, 0, 1)] + [None if missing else of(0)]
        made[f"arrow {kind}"] = pd.array(values, dtype=pd.ArrowDtype(kind))
    made["string"] = pd.array(["1", "0", "1", "0", "1", None if missing else "0"], dtype="string")
    made["category"] = pd.Categorical([1, 0, 1, 0, 1, *last])
    made["sparse"] = pd.arrays.SparseArray([1.0, 0, 1, 0, 1, np.nan if missing else 0])
    for name, gap in (("None", None), ("NA", pd.NA), ("nan", "nan"), ("NaT", pd.NaT)):
        made[f"object {name}"] = np.array([1, 0, 1, 0, 1, gap if missing else 0], object)
    return made


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside floats"])
@pytest.mark.parametrize("name", columns(True))
def test_missing_values(name, beside):
    """Every type of column: its numbers arrive, and the place of what is missing is named, in fit and in predict."""
    whole, gap = (pd.DataFrame({"a": columns(missing)[name]} | ({"b": np.arange(6.0)} if beside else {}))
                  for missing in (False, True))
    expected = np.stack([[1, 0, 1, 0, 1, 0], np.arange(6)], axis=1)[:, :whole.shape[1]]
    model = Checks()
    for X in (model._checked_for_fit(whole, Y0)[0], model._checked_for_classes(whole, Y0)[0],
              model._checked_for_predict(whole)):
        assert X.dtype == np.float64 and X.flags.c_contiguous
        np.testing.assert_array_equal(X, expected)
    assert list(model.feature_names_in_) == list(whole.columns)
    for use in (lambda: model._checked_for_fit(gap, Y0), lambda: model._checked_for_classes(gap, Y0),
                lambda: model._checked_for_predict(gap)):
        with pytest.raises(ValueError, match=r"^Input X contains NaN \(1 value, the first in row 5, column 0\): "):
            use()


@pytest.mark.parametrize("checks", ["_checked_for_fit", "_checked_for_classes"])
@pytest.mark.parametrize("name", columns(True))
def test_missing_targets(name, checks):
    y = columns(True)[name]
    if name == "object nan" and checks == "_checked_for_classes":
        y = np.where(y == "nan", float("nan"), y)    # a name among numbers, as a label
    with pytest.raises(ValueError, match=r"^Input y contains NaN \(1 value, the first in row 5\): "):
        getattr(Checks(), checks)(X0, pd.Series(y))


@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
def test_missing_values_in_every_estimator(model):
    gap = pd.DataFrame({"a": columns(True)["Int64"], "b": np.arange(6)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(gap.fillna(0), Y0)
    if model.__sklearn_tags__().input_tags.allow_nan:
        assert len(model.predict(gap)) == 6 and model.fit(gap, Y0).n_features_in_ == 2
        return
    for use in (model.predict, lambda X: model.fit(X, Y0)):
        with pytest.raises(ValueError, match="Input X contains NaN .1 value, the first in row 5, column 0.: "):
            use(gap)


def test_an_estimator_may_allow_them():
    class Allows(Checks):
        _allows_nan = True

    model, X = Allows(), X0.copy()
    assert model.__sklearn_tags__().input_tags.allow_nan and not Checks().__sklearn_tags__().input_tags.allow_nan
    X[2, 1] = np.nan
    np.testing.assert_array_equal(model._checked_for_classes(X, Y0)[0], X)
    np.testing.assert_array_equal(model._checked_for_predict(X), X)
    X[3, 0] = np.inf
    with pytest.raises(ValueError, match="infinity .1 value, the first in row 3, column 0"):
        model._checked_for_predict(X)
    check_range(np.array([np.nan, -3.0]), FORMATS["float16"], "X", "")
    with pytest.raises(ValueError, match="max .X. = 7e.04 exceeds float16"):
        check_range(np.array([np.nan, -7e4]), FORMATS["float16"], "X", "scale it")


@pytest.mark.parametrize("X, sentence", [
    (np.ma.array(X0, mask=X0 > 35), "Input X contains NaN (1 value, the first in row 5, column 1)"),
    (X0.astype("M8[s]"), "Input X holds datetime64[s] instead of numbers"),
    (pd.DataFrame({"a": pd.to_timedelta(Y0, unit="s")}), "Input X holds timedelta64"),
    (pd.DataFrame({"a": [datetime.date(2020, 1, 1)] * 6, "b": Y0}), "Input X holds datetime.date(2020, 1, 1) in row 0"),
    (pd.DataFrame({"a": list("abcabc"), "b": Y0}), "Input X holds 'a' in row 0, column 0: could not convert"),
    (np.array([[1, 10 ** 400]] * 6, object), "in row 0, column 1: int too large"),
    (np.longdouble(10) ** (100 * X0), "Input X contains infinity (9 values"),
    ([[1], [2, 3]], "Input X cannot be made an array"),
    (None, "Expected 2D array, got a scalar as X"),
    (7, "Expected 2D array, got a scalar as X"),
])
def test_refused_in_a_sentence(X, sentence):
    for use in (lambda: Checks()._checked_for_fit(X, Y0), lambda: Checks()._checked_for_classes(X, Y0)):
        with pytest.raises((ValueError, TypeError)) as error:
            use()
        assert str(error.value).startswith(sentence) or sentence in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("y, sentence", [
    (np.array([1, "a", 2, 1, 1, 2], object), "Input y mixes labels, here a name and there a number"),
    (np.array([1, {}, 2, 1, 1, 2], object), "Input y mixes labels, here a dict and there a number"),
    (np.array([0, 1, 2, 1, "NaT", 2], "M8[s]"), "Input y contains NaN (1 value, the first in row 4)"),
    (np.ma.array(Y0, mask=Y0 == 1), "Input y contains NaN (3 values, the first in row 1)"),
    (Y0 + 1j, "Complex data not supported"),
    (3, "y should be a 1d array"),
])
def test_refused_labels(y, sentence):
    with pytest.raises(ValueError) as error:
        Checks()._checked_for_classes(X0, y)
    assert str(error.value).startswith(sentence) and "\n" not in str(error.value)


def test_weights():
    def checked(w):
        return Checks()._checked_weights(w, X0)
    np.testing.assert_array_equal(checked(None), np.ones(6))
    np.testing.assert_array_equal(checked(2), np.full(6, 2.0))
    np.testing.assert_array_equal(checked(pd.array(Y0, dtype="Int64")), Y0)
    for w, sentence in (([1, 2, np.nan, 1, 1, 1], "Input sample_weight contains NaN .1 value, the first in row 2"),
                        (pd.array([1, 2, None, 1, 1, 1], dtype="Int64"), "sample_weight contains NaN"),
                        (np.inf, "sample_weight contains infinity"), (np.ones((6, 1)), "must be 1D"),
                        (["a"] * 6, "holds <U1 instead of numbers"), (-Y0, "Negative values"),
                        (0 * Y0, "at least one non-zero number: all 6 are 0"), (0, "all 6 are 0")):
        with pytest.raises(ValueError, match=sentence):
            checked(w)


# ---- arrays on a GPU

class OnGPU:
    """Like CuPy's array: it says where it lies, and does not become a NumPy array by itself."""

    def __init__(self, host):
        self.host = np.asarray(host)
        self.__cuda_array_interface__ = dict(self.host.__array_interface__, version=3)

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")


@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
def test_arrays_on_a_gpu(model, monkeypatch):
    """One copy each; then everything is as with the same array on the host, uint16 as a number too."""
    copies = []

    def from_gpu(self, array):
        copies.append(array)
        return array.host.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = model.fit(X0.astype(np.uint16), Y0).predict(X0)
        if devices.get().is_emulator:
            with pytest.raises(ValueError, match="lies in the memory of a GPU, which the CPU emulator .* not reach"):
                model.predict(OnGPU(X0))
        monkeypatch.setattr(type(devices.get()), "from_gpu", from_gpu)
        X, y, w = OnGPU(X0.astype(np.uint16)), OnGPU(Y0), OnGPU(np.ones(6))
        model.fit(X, y)
        assert copies == [X, y]
        np.testing.assert_array_equal(model.predict(OnGPU(np.asfortranarray(X0))), expected)
        assert model.score(X, y) == model.score(X, y, w) == model.score(X.host, Y0)
        assert model.fit(X, y, w).score(X.host, Y0) == model.score(X, y)
        if hasattr(model, "partial_fit"):
            model = type(model)(**model.get_params())
            for _ in range(2):
                model.partial_fit(X, y, w, classes=OnGPU(np.arange(2)))
            model.set_params(max_iter=2).resume(X, y, w)


def test_images_on_a_gpu(monkeypatch):
    monkeypatch.setattr(type(devices.get()), "from_gpu", lambda self, array: array.host.copy())
    images = OnGPU(np.arange(24, dtype=np.uint8).reshape(6, 2, 2, 1))
    images.ndim = 4
    X, y = CNNClassifier()._checked_for_classes(images, OnGPU(Y0))
    assert X.dtype == np.uint8 and X.shape == (6, 4)


def test_weights_on_a_gpu(monkeypatch):
    monkeypatch.setattr(type(devices.get()), "from_gpu", lambda self, array: array.host.copy())
    np.testing.assert_array_equal(Checks()._checked_weights(OnGPU(Y0), X0), Y0)


# ---- parameters, endings, warnings

def test_parameters_follow_their_rules():
    class Ruled(Checks):
        def __init__(self, way="this", count=1, flag=True):
            self.way, self.count, self.flag = way, count, flag

    rules = {"way": ["this", "that"], "count": ("a whole number of at least 1", lambda x: is_whole(x) and x >= 1),
             "flag": BOOLEAN}
    check_parameters(Ruled("that", np.int8(3), np.bool_(False)), rules)
    for parameters, sentence in (
            ({"way": "thi"}, "unknown way 'thi'. Did you mean 'this'? Known: this, that."),
            ({"way": None}, "unknown way 'None'. Known: this, that."),
            ({"way": np.ones(3)}, "unknown way 'an array of shape (3,)'. Known: this, that."),
            ({"count": 0}, "count is a whole number of at least 1, not 0"),
            ({"count": True}, "count is a whole number of at least 1, not True"),
            ({"count": np.ones(2)}, "count is a whole number of at least 1, not an array of shape (2,)"),
            ({"count": [1] * 99}, "count is a whole number of at least 1, not [1, 1, 1, 1, 1, 1, ...]"),
            ({"flag": "no"}, "flag is True or False, not 'no'"),
            ({"flag": np.ones(2)}, "flag is True or False, not an array")):
        with pytest.raises(ValueError) as error:
            check_parameters(Ruled(**parameters), rules)
        assert str(error.value).startswith(sentence)


@pytest.mark.parametrize("parameters", [{"precision": np.ones(3)}, {"precision": None}, {"precision": {}},
                                        {"device": np.ones(3)}, {"device": {}}, {"device": 3}])
def test_precision_and_device_too(parameters):
    for model in MODELS:
        with pytest.raises(ValueError, match=f"^{next(iter(parameters))} is .*, not ") as error:
            type(model)(**parameters).fit(X0, Y0)
        assert "\n" not in str(error.value)


def test_nothing_converges_to_what_is_not_finite():
    class Learns(Checks):
        _learns = ("coef_", "inner_.table", "arrays_", "named_")

        def learn(self, coef=1.0, table=1.0, arrays=1.0, named=1.0, ended="converged"):
            self.coef_, self.arrays_, self.named_ = coef, [np.ones(2), np.full(2, arrays)], {"W": np.full(3, named)}
            self.inner_ = Checks()
            self.inner_.table = np.full(2, table)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                self._ended(ended)
            return self.stop_reason_, [str(w.message) for w in said]

    assert Learns().learn() == ("converged", [])
    for name, where in ("coef", "coef_"), ("table", "inner_.table"), ("arrays", "arrays_"), ("named", "named_"):
        for bad in np.nan, -np.inf:
            reason, said = Learns().learn(**{name: bad})
            assert reason == "overflow" and len(said) == 1 and said[0].startswith(f"{where} left the range")
    reasons, said = Learns().learn(np.nan, ended=["max_iter", "converged"])     # one for each of several problems
    assert list(reasons) == ["max_iter", "overflow"] and len(said) == 1
    assert list(Learns().learn(ended=["max_iter", "converged"])[0]) == ["max_iter", "converged"]


def test_warnings_point_at_the_users_line():
    # as if these lines stood in the package
    scope = {"__name__": "numprec.models.deep", "warn": warn, "ConvergenceWarning": ConvergenceWarning}
    exec(textwrap.dedent("""
        class Deep:
            def fit(self):
                self._inner()

            def _inner(self):
                warn("something", ConvergenceWarning)

        def outer():
            warn("something")
        """), scope)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        here = sys._getframe().f_lineno
        scope["outer"]()
        scope["Deep"]().fit()
    assert [(w.filename, w.lineno) for w in said] == [(__file__, here + 1), (__file__, here + 2)]


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("unit", [2.0 ** 1023, 2.0 ** -1000])
def test_weights_of_a_score_have_any_unit(unit):
    weights = np.array([1, 0.5, 0, 1, 1.75, 1])
    for model in MODELS:
        model = model.__class__(**model.get_params())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X0, Y0)
        assert model.score(X0, Y0, weights * unit) == model.score(X0, Y0, weights)
        for bad, words in ((-weights, "Negative"), (0 * weights, "non-zero"), (weights * np.nan, "NaN")):
            with pytest.raises(ValueError, match=words):
                model.score(X0, Y0, bad)


# values that the narrow types below hold exactly, and others that go with them
NARROW = {"max_iter": 120, "tol": 0.125, "C": 0.5, "gamma": 0.25, "coef0": 0.5, "degree": 2, "max_depth": 3,
          "min_samples_split": 30, "min_samples_leaf": 20, "min_impurity_decrease": 2.0 ** -6, "max_leaf_nodes": 4,
          "ccp_alpha": 2.0 ** -7, "max_features": 1, "random_state": 100, "alpha": 2.0 ** -10, "batch_size": 120,
          "learning_rate_init": 2.0 ** -9, "momentum": 0.75, "beta_1": 0.875, "beta_2": 1 - 2.0 ** -10,
          "epsilon": 2.0 ** -14, "n_iter_no_change": 2, "loss_scale": 1024.0, "validation_fraction": 0.25}
BESIDE = {"validation_fraction": {"early_stopping": True}, "momentum": {"solver": "sgd"}, "degree": {"kernel": "poly"},
          "coef0": {"kernel": "poly"}}


@pytest.mark.filterwarnings("error::RuntimeWarning", "ignore::UserWarning")
@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
def test_numbers_of_any_type_as_parameters(model, tmp_path):
    """A parameter counts by its value: nothing is computed in the type of a narrow NumPy scalar, where it overflows."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(150, 2))
    y = (X[:, 0] > 0).astype(int)
    for name in NARROW.keys() & model.get_params().keys():
        value = NARROW[name]
        types = (np.int8, np.uint8) if isinstance(value, int) else (
            np.float16, np.float32, np.longdouble, fractions.Fraction)
        given = model.get_params() | BESIDE.get(name, {})
        expected, *got = (type(model)(**given | {name: of(value)}).fit(X, y) for of in (type(value), *types))
        for other in got:
            if hasattr(other, "save"):
                other.save(tmp_path / "model.npz")
                assert getattr(type(other).load(tmp_path / "model.npz"), name) == value
            np.testing.assert_array_equal(other.predict(X), expected.predict(X), err_msg=name)
            for attribute in ("coef_", "dual_coef_", "loss_curve_", "n_iter_"):
                if attribute in vars(expected):
                    np.testing.assert_array_equal(getattr(other, attribute), getattr(expected, attribute), name)
