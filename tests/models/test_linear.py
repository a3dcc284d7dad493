"""LinearRegression: scikit-learn's figures in every precision, its interface, its refusals, and how a fit ends."""
import pickle
import warnings
import weakref

import numpy as np
import pytest
from scipy.linalg import LinAlgWarning
from sklearn import linear_model
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import mean_squared_error, r2_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from numprec import LinearRegression
from numprec import device as devices
from numprec.kernels import operations
from numprec.kernels.equations import least_squares
from numprec.kernels.equations.refinement import wider
from numprec.models import base, linear
from numprec.precision import FORMATS, PRECISIONS, Precision

SOLVERS = ("cholesky", "qr", "refine")
WITHIN = {"fp64": 1e-9, "fp32": 1e-5, "mixed_fp16": 1e-3}    # of scikit-learn's R2: what the issue of each precision is


def diabetes(scaled=True):
    return train_test_split(*load_diabetes(return_X_y=True, scaled=scaled), test_size=0.2, random_state=42)


def quietly(model, *data):
    """model.fit(*data), and what it warned of."""
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        model.fit(*data)
    return model, [str(w.message) for w in raised]


@pytest.fixture(scope="module")
def normal():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 4)) + [0, 1, 2, 3]
    return X, X @ [1, -2, 3, 0.5] + 1 + rng.standard_normal(60)


# ---- figures

@pytest.mark.parametrize("scaled", [True, False], ids=["scaled", "raw"])
@pytest.mark.parametrize("solver", ["auto", *SOLVERS])
@pytest.mark.parametrize("name", WITHIN)
def test_diabetes(name, solver, scaled):
    X, X_test, y, y_test = diabetes(scaled)
    model, said = quietly(LinearRegression(name, solver), X, y)
    reference = linear_model.LinearRegression().fit(X, y).score(X_test, y_test)
    assert round(reference, 6) == 0.452603
    assert abs(model.score(X_test, y_test) - reference) <= WITHIN[name]
    assert model.stop_reason_ == "converged" and not said
    if name == "fp64":
        assert round(mean_squared_error(y_test, model.predict(X_test)), 3) == 2900.194


@pytest.mark.parametrize("solver", SOLVERS)
def test_error_is_that_of_the_theorem(precision, solver):
    """What rounding the data does is computed; what the kernels do on top of it is bounded, where a bound exists."""
    X, X_test, y, y_test = diabetes(scaled=False)
    model, _ = quietly(LinearRegression(precision, solver), X, y)
    rounded = [precision.storage.round(A).astype(np.float64) for A in (X, y[:, None])]
    one = np.ones(1)
    exact, bound = least_squares.oracle(*rounded, one), least_squares.error_bound(precision, *rounded, one)
    if solver == "refine":    # works on the data as they are, one format up
        wide = wider(precision)
        exact, bound = least_squares.oracle(X, y[:, None], one), np.inf
        rounding = abs(wide.storage.round(X).astype(np.float64) - X).max(axis=0)
        assert np.all(rounding <= wide.storage.u * abs(X).max(axis=0))
    assert np.all(abs(model.coef_ - exact[:, 0]) <= np.ravel(bound))
    assert np.isfinite(bound).all() == (solver != "refine" and str(precision) in WITHIN)


@pytest.mark.parametrize("scaled", [True, False], ids=["scaled", "raw"])
@pytest.mark.parametrize("name", ["fp16", "mixed_fp16", "mixed_bf16", "fp32"])
def test_refinement_reaches_fp64(name, scaled):
    X, X_test, y, y_test = diabetes(scaled)
    model, said = quietly(LinearRegression(name, "refine"), X, y)
    reference = linear_model.LinearRegression().fit(X, y)
    assert abs(model.score(X_test, y_test) - reference.score(X_test, y_test)) <= 1e-6
    assert model.stop_reason_ == "converged" and 1 < model.n_iter_ < 30 and not said


def test_pure_fp16_shows_its_loss():
    X, X_test, y, y_test = diabetes()
    model, said = quietly(LinearRegression("fp16", "cholesky"), X, y)
    reference = linear_model.LinearRegression().fit(X, y).score(X_test, y_test)
    loss = {solver: abs(quietly(LinearRegression("fp16", solver), X, y)[0].score(X_test, y_test) - reference)
            for solver in SOLVERS}
    assert loss["cholesky"] > loss["qr"] > loss["refine"]    # k^2 u, k u, and the wider format
    assert WITHIN["mixed_fp16"] < loss["cholesky"] < 0.05
    assert len(said) == 1 and "kappa^2 * u = 0.2" in said[0] and "solver='qr'" in said[0]
    assert model.stop_reason_ == "converged"


@pytest.mark.parametrize("solver", ["auto", *SOLVERS])
def test_one_launch(precision, solver):
    X, _, y, _ = diabetes()
    device = devices.get()
    before = device.launches
    model, _ = quietly(LinearRegression(precision, solver), X, y)
    fits = 2 if solver == "auto" and model.solver_ == "qr" else 1      # Cholesky, and QR where that is not enough
    assert device.launches - before == fits
    assert fits == (2 if solver == "auto" and str(precision) == "fp16" else 1)


def test_condition():
    X, _, y, _ = diabetes(scaled=False)
    A = X - X.mean(axis=0)
    exact = np.linalg.cond(A / np.linalg.norm(A, axis=0))
    for solver in SOLVERS:
        assert LinearRegression("fp64", solver).fit(X, y).condition_ == pytest.approx(exact, rel=1e-9)
    assert LinearRegression("mixed_bf16").fit(X, y).condition_ == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("solver", SOLVERS)
def test_many_rows(precision, solver):
    """Grids instead of one block; more launches, but not more for more rows."""
    rng = np.random.default_rng(1)
    units = 2.0 ** np.arange(-10, 10)
    X = (rng.standard_normal((9000, 20)) + 3) * units
    y = X @ (1 / units) + rng.standard_normal(9000)
    assert not least_squares.fits_one_block(*X.shape)
    reference = linear_model.LinearRegression().fit(X, y)
    before = devices.get().launches
    model, said = quietly(LinearRegression(precision, solver), X, y)
    assert devices.get().launches - before <= (7 if solver != "refine" else 9 + 2 * least_squares.LOOK)
    assert model.stop_reason_ == "converged" and not said
    if solver == "refine":
        assert np.allclose(model.coef_, reference.coef_, rtol=2e-4)
    assert abs(model.score(X, y) - reference.score(X, y)) <= {"fp64": 1e-9, "fp32": 1e-5}.get(str(precision), 1e-2)


# ---- how a fit ends

@pytest.mark.parametrize("solver", ["auto", *SOLVERS])
def test_overflow_is_said(solver):
    X, X_test, y, y_test = diabetes(scaled=False)
    model, said = quietly(LinearRegression("fp16", solver, scale=False), X, y)
    assert model.stop_reason_ == "overflow" and model.overflow_count_ > 0
    assert np.isnan(model.coef_).all() and np.isnan(model.predict(X_test)).all()
    assert np.isnan(model.score(X_test, y_test)) and np.isnan(model.condition_)
    assert len(said) == 1 and "float16" in said[0] and "scale=True" in said[0] and "mixed_fp16" in said[0]


def test_scaling_prevents_it():
    X, X_test, y, y_test = diabetes(scaled=False)
    model, _ = quietly(LinearRegression("fp16"), X, y)
    assert model.stop_reason_ == "converged" and model.overflow_count_ == 0 and model.score(X_test, y_test) > 0.44
    # the sums of mixed precision reach far enough without
    assert abs(LinearRegression("mixed_fp16", scale=False).fit(X, y).score(X_test, y_test) - 0.452603) < 1e-3


@pytest.mark.parametrize("unit", [1e-12, 1e9])
def test_units_do_not_matter(normal, precision, unit):
    """Far outside the range of float16; a power of two changes no bit at all."""
    X, y = normal
    expected = LinearRegression(precision).fit(X, y).score(X, y)
    other = LinearRegression(precision).fit(X * unit, y / unit).score(X * unit, y / unit)
    assert other == pytest.approx(expected, abs=1e-3)
    power = 2.0 ** np.round(np.log2(unit))
    a, b = LinearRegression(precision).fit(X, y), LinearRegression(precision).fit(X * power, y)
    np.testing.assert_array_equal(a.coef_, b.coef_ * power)


@pytest.mark.parametrize("solver", ["auto", *SOLVERS])
@pytest.mark.parametrize("spoil", [lambda X: np.c_[X, X[:, 1]], lambda X: np.c_[X, np.full(len(X), 0.1)],
                                   lambda X: np.c_[X, X[:, :1] - 2 * X[:, 1:2]]], ids=["twice", "constant", "sum"])
def test_rank_deficient(normal, precision, solver, spoil):
    X, y = spoil(normal[0]), normal[1]
    model, said = quietly(LinearRegression(precision, solver), X, y)
    reference = linear_model.LinearRegression().fit(X, y)
    if model.rank_ == 5 and precision.storage.bits < 32:    # rounding the data made the columns independent ...
        assert any("kappa" in s and "about 0 correct digits" in s for s in said)    # ... and the fit says so
        return
    assert model.stop_reason_ == "rank_deficient" and model.rank_ == 4 and np.isinf(model.condition_)
    assert len(said) == 1 and "4 of 5 columns" in said[0]
    if str(precision) == "fp64":
        np.testing.assert_allclose(model.coef_, reference.coef_, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(model.predict(X), reference.predict(X), rtol=1e-9)
    assert model.score(X, y) == pytest.approx(reference.score(X, y), abs=0.02)


def test_more_features_than_samples(precision):
    rng = np.random.default_rng(3)
    X, y = rng.standard_normal((7, 12)), rng.standard_normal(7)
    model, said = quietly(LinearRegression(precision), X, y)
    reference = linear_model.LinearRegression().fit(X, y)
    assert model.rank_ == 6 and model.stop_reason_ == "rank_deficient" and "6 of 12" in said[0]
    close = 1e-9 if str(precision) == "fp64" else 20 * precision.u
    np.testing.assert_allclose(model.coef_, reference.coef_, atol=close)


@pytest.mark.parametrize("solver", ["auto", "cholesky", "refine"])
def test_breakdown_hands_over_to_qr(normal, solver):
    """k^2 is too much for Cholesky, k is not for QR."""
    X, y = normal
    X = np.c_[X, X[:, 0] + 2e-4 * np.cos(np.arange(60))]
    model, said = quietly(LinearRegression("fp32", solver), X, y)
    assert model.solver_ == "qr" and model.rank_ == 5
    assert model.stop_reason_ == ("converged" if solver == "auto" else "breakdown")
    assert (not said) if solver == "auto" else "Cholesky broke down in precision fp32" in said[0]
    reference = linear_model.LinearRegression().fit(X, y)
    assert model.score(X, y) == pytest.approx(reference.score(X, y), abs=1e-5)


def test_condition_warns(normal):
    X, y = normal
    close = np.c_[X, X[:, 0] + 1e-3 * np.cos(np.arange(60))]
    model, said = quietly(LinearRegression("fp32", "cholesky"), close, y)
    assert model.condition_ > 1000 and model.stop_reason_ == "converged"
    assert len(said) == 1 and "kappa^2 * u" in said[0] and "digits" in said[0]
    assert "solver='qr' or precision='fp64'" in said[0]
    with pytest.warns(LinAlgWarning):
        LinearRegression("fp32", "cholesky").fit(close, y)
    assert not quietly(LinearRegression("fp64"), close, y)[1]
    assert not quietly(LinearRegression("fp32", "qr"), close, y)[1]
    hopeless, _ = quietly(LinearRegression("fp32", "auto"), np.c_[X, X[:, 0] + 1e-4 * np.cos(np.arange(60))], y)
    assert hopeless.solver_ == "qr"


def test_refinement_that_does_not_get_there(normal):
    X, y = normal
    X = np.c_[X, X[:, 0] + 0.02 * np.cos(np.arange(60))]
    model, said = quietly(LinearRegression("mixed_bf16", "refine", max_iter=1), X, y)
    assert model.stop_reason_ == "max_iter" and model.n_iter_ == 1 and "too coarse" in said[0]
    with pytest.warns(ConvergenceWarning):
        LinearRegression("mixed_bf16", "refine", max_iter=1).fit(X, y)


def test_refinement_is_right_or_says_so(normal):
    """Ever closer columns, until the factor is no longer good for anything."""
    X, y = normal
    reasons = set()
    for step in np.geomspace(1, 1e-4, 20):
        close = np.c_[X, X[:, 0] + step * np.cos(np.arange(60))]
        reference = linear_model.LinearRegression().fit(close, y)
        model, said = quietly(LinearRegression("fp16", "refine"), close, y)
        reasons.add(model.stop_reason_)
        assert said or model.score(close, y) == pytest.approx(reference.score(close, y), abs=1e-6)
    assert {"converged", "rank_deficient"} < reasons


# ---- offsets, ranks, ends of the range

@pytest.mark.parametrize("seconds", [2, 7])
@pytest.mark.parametrize("weighted", [False, True])
def test_offsets(precision, seconds, weighted):
    """Seconds since 1970, and targets far from 0: the differences count, and they fit into every format."""
    t = 1.7e9 + seconds * np.arange(60)
    y = 0.25 * (t - t[0]) + 1e6
    weight = np.tile([1, 4, 0], 20) if weighted else None
    model, said = quietly(LinearRegression(precision), t[:, None], y, weight)
    close = 4 * precision.u if precision.accum.bits < 32 or seconds == 7 else 4 * precision.accum.u
    assert model.coef_[0] == pytest.approx(0.25, rel=close)
    assert model.stop_reason_ == "converged" and not said
    np.testing.assert_allclose(model.predict(t[:, None]) - y, 0, atol=close * np.ptp(y) + 1e-6)


def test_offsets_change_nothing_in_fp64(normal):
    """Far from 0, column by column, coefficients are those near it, up to how far float64 resolves the sums."""
    X, y = normal
    offset = 2.0 ** 20 * np.array([1, 0, -1, 3])
    X = np.round(X * 2 ** 20) / 2 ** 20
    for solver in SOLVERS:
        near, far = (LinearRegression("fp64", solver).fit(X + shift, y) for shift in (0, offset))
        np.testing.assert_allclose(far.coef_, near.coef_, rtol=1e-13)
        np.testing.assert_allclose(far.predict(X + offset), near.predict(X), atol=1e-8)


def test_offset_without_an_intercept(precision):
    """A column of ones is no help in narrow formats: they see two columns that are alike, and say so."""
    t = 1.7e9 + 2 * np.arange(60.0)
    model, said = quietly(LinearRegression(precision, fit_intercept=False), np.c_[t, np.ones(60)], 0.25 * (t - t[0]))
    right = np.allclose(model.coef_, [0.25, -0.25 * t[0]], rtol=1e-6)
    assert right == (str(precision) == "fp64") and (right or "1 of 2 columns" in said[0])


def test_rank_of_the_identity(precision):
    """Centred, its columns sum to 0."""
    model, said = quietly(LinearRegression(precision), np.eye(5), [0, 1, 4, 2, 2])
    assert model.rank_ == 4 and model.stop_reason_ == "rank_deficient" and len(said) == 1
    np.testing.assert_allclose(model.coef_, [-1.8, -0.8, 2.2, 0.2, 0.2], rtol=64 * precision.accum.u)


def test_rank_of_dummies(precision):
    """Categories, one column each: one of every factor's columns is one too many, and a full rank is a mistake."""
    rng = np.random.default_rng(7)
    for _ in range(60):
        N, levels = rng.integers(8, 400), rng.integers(2, 9, rng.integers(1, 4))
        X = np.hstack([np.eye(k)[rng.integers(0, k, N)] for k in levels] + [rng.integers(0, 50, (N, rng.integers(2)))])
        y = np.round(3 * rng.standard_normal(N))
        model, _ = quietly(LinearRegression(precision), X, y)
        centred = X - X.mean(axis=0)
        expected = np.linalg.lstsq(centred, y - y.mean(), rcond=1e-10)[0]
        assert model.rank_ == np.linalg.matrix_rank(centred)
        np.testing.assert_allclose(model.coef_, expected, atol=64 * precision.accum.u * abs(expected).max())


def test_numbers_near_the_smallest(precision):
    """Units of 1e-309 and 1e-320 are numbers as good as any, unless the result is beyond the largest float64."""
    X = np.random.default_rng(0).standard_normal((20, 3))
    for x_unit in 1e-309, 1e-320, 1e300:
        for y_unit in 1e-309, 1.0, 1e300:
            model, said = quietly(LinearRegression(precision), X * x_unit, X[:, 0] * y_unit)
            predicted = model.predict(X * x_unit)
            if not 1e-308 < y_unit / x_unit < 1e308:
                assert model.stop_reason_ == "overflow" and np.isnan(model.coef_).all() and np.isnan(predicted).all()
                assert len(said) == 1 and "is beyond the range of float64 (5e-324 to 2e+308)" in said[0]
                continue
            assert model.stop_reason_ == "converged" and not said
            assert model.coef_[0] == pytest.approx(y_unit / x_unit, rel=max(4 * precision.u, 1e-3))
            np.testing.assert_allclose(predicted, X[:, 0] * y_unit, atol=max(8 * precision.u, 1e-3) * y_unit)


# ---- what scikit-learn's does too

@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("targets", [None, 1, 3, 20])
@pytest.mark.parametrize("weighted", [False, True])
def test_as_scikit_learn(normal, solver, intercept, targets, weighted):
    X, y = normal
    rng = np.random.default_rng(2)
    if targets:
        y = y[:, None] * np.arange(1, targets + 1) + rng.standard_normal((60, targets))
    weight = rng.integers(0, 4, 60) * 0.7 if weighted else None
    mine = LinearRegression("fp64", solver, fit_intercept=intercept).fit(X, y, weight)
    other = linear_model.LinearRegression(fit_intercept=intercept).fit(X, y, weight)
    assert mine.coef_.shape == other.coef_.shape and mine.coef_.dtype == np.float64
    assert np.shape(mine.intercept_) == (np.shape(other.intercept_) if intercept else np.shape(mine.intercept_))
    np.testing.assert_allclose(mine.coef_, other.coef_, rtol=1e-9)
    np.testing.assert_allclose(mine.intercept_, other.intercept_, rtol=1e-9)
    np.testing.assert_allclose(mine.predict(X), other.predict(X), rtol=1e-9)
    assert mine.score(X, y, weight) == pytest.approx(other.score(X, y, weight), abs=1e-12)


def test_weights_in_every_precision(normal, precision):
    """A weight of 0 takes a row away, to the bit; one of 2 is a second copy, up to rounding."""
    X, y = normal
    weight = np.r_[np.zeros(20), np.ones(40)]
    np.testing.assert_array_equal(LinearRegression(precision).fit(X, y, weight).coef_,
                                  LinearRegression(precision).fit(X[20:], y[20:], np.ones(40)).coef_)
    doubled = LinearRegression(precision).fit(X, y, np.r_[np.ones(20), np.full(40, 2)])
    copied = LinearRegression(precision).fit(np.r_[X, X[20:]], np.r_[y, y[20:]])
    np.testing.assert_allclose(doubled.coef_, copied.coef_, atol=100 * precision.u)


def test_interface(normal):
    X, y = normal
    model = LinearRegression("half", solver="qr", max_iter=7)
    assert model.precision == "half" and clone(model).get_params() == model.get_params()
    fitted = pickle.loads(pickle.dumps(model.fit(X, y)))
    np.testing.assert_array_equal(fitted.predict(X), model.predict(X))
    assert str(LinearRegression(PRECISIONS["fp32"]).fit(X, y).precision) == "fp32"
    again = clone(model).fit(X, y)
    np.testing.assert_array_equal(again.coef_, model.coef_)


def test_harmless_parameters(normal):
    """They are scikit-learn's and change nothing; a number of scikit-learn's own may be NumPy's."""
    X, y = normal
    model = LinearRegression("fp64", n_jobs=-1, copy_X=False, tol=1e-3, positive=False, fit_intercept=np.bool_(True),
                             max_iter=np.int64(2 ** 40)).fit(X, y)
    np.testing.assert_array_equal(model.coef_, LinearRegression("fp64").fit(X, y).coef_)


def test_warnings_are_of_the_users_line(normal):
    X, y = normal
    close = np.c_[X, X[:, 0] + 1e-3 * np.cos(np.arange(60))]
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        LinearRegression("fp32", "cholesky").fit(close, y)
        LinearRegression("fp32", "cholesky").fit(np.c_[X, X], y)
        make_pipeline(StandardScaler(), LinearRegression("fp32")).fit(np.c_[X, X], y)
    assert [w.category for w in raised] == [LinAlgWarning, ConvergenceWarning, ConvergenceWarning]
    assert {w.filename for w in raised} == {__file__}


def test_precision_is_a_parameter(normal):
    X, y = normal
    search = GridSearchCV(make_pipeline(StandardScaler(), LinearRegression()),
                          {"linearregression__precision": list(PRECISIONS)}, cv=3).fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert len(scores) == len(PRECISIONS) and np.ptp(scores) < 0.01


def test_a_failed_precision_is_not_chosen():
    X, _, y, _ = diabetes(scaled=False)
    search = GridSearchCV(LinearRegression(scale=False), {"precision": ["fp16", "fp32"]}, cv=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search.fit(X, y)
    assert search.best_params_ == {"precision": "fp32"}


ROUNDED = {"check_sample_weight_equivalence_on_dense_data":
           "compares fits of differently ordered sums to 1e-7, finer than this precision rounds"}


def test_check_estimator(precision):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(LinearRegression(precision), on_skip=None,
                                  expected_failed_checks={} if str(precision) == "fp64" else ROUNDED)
    assert sum(r["status"] == "passed" for r in results) > 50


@pytest.mark.parametrize("solver", SOLVERS[1:])
def test_check_estimator_with_other_solvers(solver):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(LinearRegression("fp64", solver), on_skip=None)


# ---- what comes in

X0, Y0 = np.arange(12.0).reshape(6, 2) ** 1.5, np.array([1.0, 2, 4, 3, 5, 4])


def spoiled(A, value, *places):
    A = A.copy()
    for place in places:
        A[place] = value
    return A


@pytest.mark.parametrize("X, y, sentence", [
    (spoiled(X0, np.nan, (1, 1), (3, 0)), Y0, "Input X contains NaN (2 values, the first in row 1, column 1)"),
    (spoiled(X0, np.inf, (5, 0)), Y0, "Input X contains infinity (1 value, the first in row 5, column 0)"),
    (X0, spoiled(Y0, np.nan, 4), "Input y contains NaN (1 value, the first in row 4)"),
    (X0, spoiled(Y0, -np.inf, 2), "Input y contains infinity (1 value, the first in row 2)"),
    (spoiled(X0.astype(object), np.nan, (0, 1)), Y0, "Input X contains NaN (1 value, the first in row 0, column 1)"),
    (X0[:0], Y0[:0], "Found array with 0 sample(s)"),
    (X0[:, :0], Y0, "Found array with 0 feature(s)"),
    (X0[:, 0], Y0, "Expected 2D array, got 1D array of length 6 as X"),
    (X0[None], Y0, "Found array with dim 3"),
    (X0, Y0[:-1], "inconsistent numbers of samples: [6, 5]"),
    (X0.astype(str), Y0, "Input X holds <U"),
    (X0, Y0.astype(str), "Input y holds <U"),
    ([["a", "b"]] * 6, Y0, "Input X holds <U1 instead of numbers"),
    (X0 + 1j, Y0, "Complex data not supported"),
    (X0, Y0 + 1j, "Complex data not supported"),
    (X0, None, "requires y to be passed"),
])
def test_refused(X, y, sentence):
    with pytest.raises(ValueError) as error:
        LinearRegression().fit(X, y)
    assert sentence in str(error.value) and "\n" not in str(error.value).strip()


@pytest.mark.parametrize("parameters, sentence", [
    ({"precision": "fp23"}, "unknown precision 'fp23'. Did you mean 'fp32'?"),
    ({"solver": "choleski"}, "unknown solver 'choleski'. Did you mean 'cholesky'?"),
    ({"solver": None}, "unknown solver 'None'"),
    ({"max_iter": 0}, "max_iter is a whole number of at least 1, not 0"),
    ({"max_iter": 2.5}, "max_iter is a whole number"),
    ({"max_iter": True}, "max_iter is a whole number"),
    ({"max_iter": np.ones(2)}, "max_iter is a whole number of at least 1, not an array of shape (2,)"),
    ({"solver": np.ones(3)}, "unknown solver 'an array of shape (3,)'. Known: auto, cholesky, qr, refine."),
    ({"solver": {}}, "unknown solver '{}'"),
    ({"fit_intercept": "no"}, "fit_intercept is True or False, not 'no'"),
    ({"scale": np.ones(2)}, "scale is True or False, not an array"),
    ({"positive": True}, "positive is False: positive=True is scikit-learn's, and scipy.optimize.nnls would do, not "),
    ({"n_jobs": "all"}, "n_jobs is None or a whole number, not 'all'"),
    ({"tol": None}, "tol is a number of at least 0, not None"),
    ({"precision": None}, "precision is a name or a numprec.precision.Precision, not None"),
    ({"device": "tpu"}, "the device is 'gpu' or 'emulator', not 'tpu'"),
    ({"precision": Precision("sums", *[FORMATS["bfloat16"]] * 3)}, "is unavailable on"),
])
def test_refused_parameters(parameters, sentence):
    with pytest.raises(ValueError) as error:
        LinearRegression(**parameters).fit(X0, Y0)
    assert sentence in str(error.value)


@pytest.mark.parametrize("weight, sentence", [(-np.ones(6), "Negative values"), (np.ones(5), "expected (6,)"),
                                              (np.zeros(6), "non-zero")])
def test_refused_weights(weight, sentence):
    with pytest.raises(ValueError) as error:
        LinearRegression().fit(X0, Y0, weight)
    assert sentence in str(error.value)


@pytest.mark.parametrize("name", ["fp16", "mixed_fp16"])
def test_beyond_the_range(name):
    with pytest.raises(ValueError) as error:
        LinearRegression(name, scale=False).fit(X0 * 1e4, Y0)
    assert str(error.value).startswith("max |X| = 3.6e+05 exceeds float16 max 65504: use scale=True")
    assert "mixed_bf16" in str(error.value)
    with pytest.raises(ValueError, match="max .y. = 5e.05 exceeds float16"):
        LinearRegression(name, scale=False).fit(X0, Y0 * 1e5)
    assert LinearRegression(name).fit(X0 * 1e4, Y0 * 1e5).stop_reason_ == "converged"


def test_prediction_refuses(normal):
    X, y = normal
    with pytest.raises(NotFittedError):
        LinearRegression().predict(X)
    model = LinearRegression().fit(X, y)
    with pytest.raises(ValueError, match="X has 3 features, but LinearRegression is expecting 4"):
        model.predict(X[:, :3])
    with pytest.raises(ValueError, match="Input X contains NaN .1 value, the first in row 2, column 3"):
        model.predict(spoiled(X, np.nan, (2, 3)))
    with pytest.raises(ValueError, match="Expected 2D array"):
        model.predict(X[0])
    far = LinearRegression().fit(X0, 1e10 * Y0)
    with np.errstate(all="raise"), pytest.raises(ValueError, match="the predictions for 1 of 6 samples, the first in "
                                                 "row 2, are beyond the range of float64"):
        far.predict(np.where(np.arange(6)[:, None] == 2, 1e305, X0))


def read_only(A):
    A = A.copy()
    A.setflags(write=False)
    return A


@pytest.mark.parametrize("view", [
    np.asfortranarray, read_only, lambda A: A.astype(">f8"), lambda A: A.astype(object), lambda A: A.tolist(),
    lambda A: np.repeat(A, 2, axis=0)[::2], lambda A: A[::-1][::-1],
    lambda A: A.astype(np.float32), lambda A: A.astype(np.float16), lambda A: A.astype(np.int8),
], ids=["F", "read-only", "big-endian", "object", "list", "strided", "reversed", "float32", "float16", "int8"])
def test_accepted(view, precision):
    """The same numbers in any form give the same fit, and none is changed."""
    X, y = np.round(X0), Y0
    expected = LinearRegression(precision).fit(X, y)
    seen_X, seen_y = view(X), view(y) if view is not np.asfortranarray else y
    model = LinearRegression(precision).fit(seen_X, seen_y)
    np.testing.assert_array_equal(model.coef_, expected.coef_)
    np.testing.assert_array_equal(model.predict(seen_X), expected.predict(X))
    np.testing.assert_array_equal(np.asarray(seen_X, float), X)
    assert model.coef_.dtype == np.float64


def test_feature_names(monkeypatch):
    """Without a data frame library: as if the arrays had names."""
    names = ["a", "b"]
    monkeypatch.setattr("sklearn.utils.validation._get_feature_names", lambda X: np.array(names, object))
    model = LinearRegression().fit(X0, Y0)
    assert list(model.feature_names_in_) == ["a", "b"] and model.n_features_in_ == 2
    names.reverse()
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(X0)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("N, D, T", [(6, 2, 1), (9000, 20, 3)])
def test_memory_is_counted(monkeypatch, solver, N, D, T):
    """bytes_needed is what a fit allocates, in one launch or on a grid, and no more may be lacking."""
    device, made, rung = devices.get(), [], operations()["least_squares"].rung(solver)
    for name in "empty", "zeros":
        def counted(self, shape, fmt, make=getattr(type(device), name)):
            made.append(make(self, shape, fmt))
            return made[-1]
        monkeypatch.setattr(type(device), name, counted)
    monkeypatch.setattr(type(device), "launch", lambda *_, **__: None)
    monkeypatch.setattr(type(device), "to_host", lambda *_: np.zeros(3))
    for p in PRECISIONS["fp64"], PRECISIONS["mixed_bf16"]:
        made.clear()
        stored = wider(p).storage if solver == "refine" else p.storage
        arrays = [device.empty(shape, stored) for shape in ((N, D), (N, T), (N,))]
        least_squares.solve(device, rung, p, *arrays)
        assert linear.bytes_needed(rung, p, N, D, T) == sum(-(-a.nbytes // 256) * 256 for a in made)


def test_too_large(monkeypatch):
    def needed(p):
        return linear.bytes_needed(operations()["least_squares"].rung("qr"), PRECISIONS[p], 600, 2, 1)
    X, y = np.tile(X0, (100, 1)), np.tile(Y0, 100)
    monkeypatch.setattr(type(devices.get()), "free_memory", lambda self: needed("fp64") - 1)
    with pytest.raises(MemoryError, match=r"needs .* GB .* free; precision='fp32' would fit"):
        LinearRegression("fp64", "qr").fit(X, y)
    monkeypatch.setattr(type(devices.get()), "free_memory", lambda self: needed("fp64"))
    assert LinearRegression("fp64", "qr").fit(X, y).stop_reason_ == "converged"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("solver", ["auto", "refine"])
def test_a_second_solution_finds_room(monkeypatch, solver):
    """With memory for either solution and no more: the first one's data are used again, or gone."""
    kind, live = type(devices.get()), set()
    room = max(linear.bytes_needed(operations()["least_squares"].rung(name), PRECISIONS["fp32"], 600, 2, 1)
               for name in ("qr", "refine" if solver == "refine" else "cholesky"))

    def counted(self, values, fmt, make=kind.array):
        made = make(self, values, fmt)
        key = len(asked), made.nbytes
        live.add(key)
        weakref.finalize(made, live.discard, key)
        asked.append(fmt)
        return made
    asked = []
    monkeypatch.setattr(kind, "array", counted)
    monkeypatch.setattr(kind, "free_memory", lambda self: room - sum(nbytes for _, nbytes in live))
    X = np.tile(X0[:, [0, 0]], (100, 1))
    model = LinearRegression("fp32", solver).fit(X, np.tile(Y0, 100))
    assert model.solver_ == "qr" and len(asked) == (6 if solver == "refine" else 3)


def test_every_ending_has_a_name():
    assert set(base.STOP_REASONS) == {"converged", "max_iter", "stalled", "breakdown", "rank_deficient", "overflow",
                                      "interrupted"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("unit, weight", [(2.0 ** -990, 1), (2.0 ** -600, 1), (2.0 ** 1015, 1), (1, 2.0 ** 1020),
                                          (1, 2.0 ** -1000), (2.0 ** 1015, 2.0 ** 1020)])
def test_r2_knows_no_units(unit, weight):
    """Squares and sums in the units of the data would leave the range of float64, to NaN or to a perfect 1."""
    rng = np.random.default_rng(3)
    X, Y, w = rng.normal(size=(40, 3)), rng.normal(size=(40, 2)), rng.random(40) * (rng.random(40) < 0.7)
    units = np.array([1, unit])
    expected, model = (LinearRegression("fp64").fit(X, targets, w) for targets in (Y, Y * units))
    assert model.score(X, Y * units, w * weight) == expected.score(X, Y, w)
    assert abs(model.score(X, Y * units) - r2_score(Y, expected.predict(X))) < 1e-12


@pytest.mark.filterwarnings("error")
def test_r2_of_predictions_that_are_far_off():
    X = np.array([[1.0], [2], [4]])
    model = LinearRegression("fp64").fit(X, X[:, 0] * 1e200)
    assert model.score(X, np.array([1.0, 0, 1])) == -np.inf
    assert model.score(X, np.zeros(3)) == 0         # as scikit-learn's, where y has no variance
    for y, words in ((np.ones((3, 2)), "different number of output"), (np.ones(2), "inconsistent numbers"),
                     (["a", "b", "c"], "holds <U1"), ([1, 2, np.nan], "contains NaN"), (7, "Expected 1D array")):
        with pytest.raises(ValueError, match=words):
            model.score(X, y)
