"""MLPClassifier: scikit-learn's contract, stopping, going on, saving; where low precision fails and mixed does not."""
import copy
import functools
import json
import os
import pickle
import platform
import random
import re
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import sklearn.neural_network
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_sample_weight_equivalence_on_dense_data, parametrize_with_checks

from numprec import PRECISIONS, MLPClassifier
from numprec.device import Emulator, Graph
from numprec.models import classifier, training
from numprec.models.network import Network

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
PURE_BF16 = "storage=bfloat16,compute=bfloat16,accum=float32"


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return train_test_split(X / 16, y, stratify=y, random_state=0)


@pytest.fixture(scope="module")
def small(digits):
    X, _, y, _ = digits
    return X[:150], y[:150]


def mlp(precision="fp32", **options):
    return MLPClassifier(precision, **{"hidden_layer_sizes": (16,), "max_iter": 4, "batch_size": 32, "random_state": 0,
                                       "learning_rate_init": 0.01, **options})


CHECKED = MLPClassifier(hidden_layer_sizes=(16,), max_iter=60, learning_rate_init=0.01, random_state=0)
EQUIVALENCE = "check_sample_weight_equivalence_on_dense_data"


@parametrize_with_checks([CHECKED], expected_failed_checks=lambda estimator: {EQUIVALENCE: "float64's, see below"})
def test_scikit_learns_contract(estimator, check):
    check(estimator)


def test_weights_are_repetitions_to_scikit_learn():
    """It asks for seven digits of probabilities, which float32 does not have after 60 epochs, and float64 has."""
    check_sample_weight_equivalence_on_dense_data("MLPClassifier", clone(CHECKED).set_params(precision="fp64"))


def test_parameters_are_scikit_learns():
    theirs = sklearn.neural_network.MLPClassifier().get_params()
    mine = MLPClassifier().get_params()
    assert set(mine) - set(theirs) == {"precision", "device", "loss_scale", "class_weight"}
    assert set(theirs) - set(mine) == {"power_t", "max_fun"}    # of solvers and schedules that are not here
    assert all(mine[name] == theirs[name] for name in set(mine) & set(theirs))


def test_as_accurate_as_scikit_learn(digits):
    X, X_test, y, y_test = digits
    options = dict(hidden_layer_sizes=(64,), max_iter=15, learning_rate_init=0.005, random_state=0)
    theirs = sklearn.neural_network.MLPClassifier(**options).fit(X, y).score(X_test, y_test)
    for name in PRECISIONS:
        model = MLPClassifier(name, **options).fit(X, y)
        assert model.score(X_test, y_test) > theirs - 0.02, name
        assert model.stop_reason_ == "max_iter" and model.n_iter_ == 15 == len(model.loss_curve_)
    assert theirs > 0.94


def test_pipeline_and_search_over_precisions(digits):
    X, X_test, y, y_test = digits
    search = GridSearchCV(make_pipeline(StandardScaler(), mlp()), {"mlpclassifier__precision": ["fp32", "half"]}, cv=2)
    search.fit(X[:400], y[:400])
    assert search.score(X_test, y_test) > 0.8


# ---- where low precision fails, and mixed precision does not

@pytest.mark.parametrize("rate, epochs, pure, gap", [(1e-3, 10, PURE_BF16, 0.15), (2e-4, 15, "fp16", 0.08)])
def test_stagnation_at_a_low_learning_rate(digits, rate, epochs, pure, gap):
    """Updates fall below half the last bit of the weights: in pure low precision most are lost and learning stalls,
    while the same formats with master weights keep up with fp64. float16 has three bits more than bfloat16, so that
    it takes a lower rate to stall it."""
    X, X_test, y, y_test = digits
    options = dict(hidden_layer_sizes=(128,), solver="sgd", learning_rate_init=rate, max_iter=epochs, alpha=0)
    models = {name: mlp(name, **options).fit(X, y) for name in ("fp64", "mixed_fp16", "mixed_bf16", pure)}
    scores = {name: model.score(X_test, y_test) for name, model in models.items()}
    lost = {name: np.mean([row["lost"] for row in model.history_]) for name, model in models.items()}
    assert abs(scores["mixed_fp16"] - scores["fp64"]) < 0.02 and abs(scores["mixed_bf16"] - scores["fp64"]) < 0.02
    assert scores[pure] < scores["fp64"] - gap
    assert lost["mixed_fp16"] < 0.05 and lost["mixed_bf16"] < 0.05 and lost[pure] > 0.6


def test_a_stall_is_said(small):
    with pytest.warns(ConvergenceWarning, match="no weight changed in epoch 1.*last bit.*float16.*mixed_fp16"):
        model = mlp("fp16", solver="sgd", learning_rate_init=1e-7, alpha=0).fit(*small)
    assert model.stop_reason_ == "stalled" and model.n_iter_ == 1
    assert mlp("mixed_fp16", solver="sgd", learning_rate_init=1e-7, alpha=0).fit(*small).stop_reason_ == "max_iter"


def test_an_overflow_is_said(small):
    X, y = small
    with pytest.warns(ConvergenceWarning, match=r"left the range of float16 in .*mixed_fp16"):
        model = mlp("fp16", solver="sgd", learning_rate_init=1000, activation="identity").fit(X * 100, y)
    assert model.stop_reason_ == "overflow"
    assert all(np.isfinite(a).all() for a in model.coefs_) and np.isfinite(model.predict_proba(X)).all()


def test_a_static_loss_scale_saves_small_gradients(small):
    """Pure float16 loses gradients below 2^-24; a loss scale keeps them, in the same arithmetic."""
    X, y = small
    plain, scaled = (mlp("fp16", batch_size=150, loss_scale=scale).fit(X, y).history_ for scale in (None, 2.0 ** 10))
    assert plain[0]["underflow"] > 4 * scaled[0]["underflow"] and scaled[0]["loss_scale"] == 1024
    assert mlp("fp16", loss_scale="dynamic").fit(X, y).history_[0]["loss_scale"] == 2 ** 15


@pytest.mark.parametrize("name, options, says", [
    ("mixed_fp16", {"loss_scale": 1e30},
     r"step 0; .*: lower loss_scale = 1e.30, .*use precision='mixed_bf16' or 'fp32'$"),
    ("fp32", {"learning_rate_init": 1e38}, "left the range of float32 .*: lower learning_rate_init.*precision='fp64'$"),
    ("fp64", {"learning_rate_init": 1e308}, "left the range of float64 .*, or standardise the data$"),
    ("fp64", {"learning_rate_init": 1e-300}, "last bit of its weight in float64; raise learning_rate_init$"),
    ("mixed_fp16", {"learning_rate_init": 1e-30}, "float32; raise learning_rate_init, or use precision='fp64'$"),
])
def test_advice_can_be_followed(small, name, options, says):
    """It names the parameter that is the cause, and no precision that is in force or would not help."""
    with pytest.warns(ConvergenceWarning, match=says):
        mlp(name, solver="sgd", **options).fit(*small)


# ---- when it stops

@pytest.mark.parametrize("options, factor", [({}, 1e30), ({"learning_rate": "cosine", "max_iter": 30}, 1e30),
                                             ({"learning_rate_init": 1e-9, "alpha": 0}, 1)])
def test_a_loss_that_does_not_fall_is_no_convergence(small, options, factor):
    """Of data that are no unit of measurement away from sense, and of a learning rate that is too small."""
    X, y = small
    with pytest.warns(ConvergenceWarning, match="no better than the 2.27 of predicting how.*standardise") as told:
        model = mlp(**{"max_iter": 100} | options).fit(X * factor, y)
    assert model.stop_reason_ == ("max_iter" if "learning_rate" in options else "stalled")
    assert told[0].filename == __file__
    constant = mlp(hidden_layer_sizes=(), max_iter=100, alpha=0).fit(np.zeros((40, 1)), np.arange(40) % 2)
    assert constant.stop_reason_ == "converged" and constant.loss_ < 0.7    # there is nothing else to learn


def test_a_schedule_that_is_over_is_said(small):
    X, y = small
    model = mlp(learning_rate="cosine", max_iter=2)
    for _ in range(2):
        model.partial_fit(X, y)
    with pytest.warns(ConvergenceWarning, match="learning_rate='cosine' ended after max_iter = 2 epochs; raise"):
        model.partial_fit(X, y)
    assert model.set_params(max_iter=20).partial_fit(X, y).stop_reason_ == "max_iter"


def test_numbers_beyond_float64_are_no_prediction(small):
    X, y = small
    model = mlp("fp64").fit(X, y)
    with pytest.raises(ValueError, match="of 1 of 3 samples, the first in row 1, are beyond the range of float64"):
        model.predict(np.array([[1.0], [1e308], [2.0]]) * np.ones(64))


def test_the_best_weights_are_finite(small):
    """An update that overflows is no validation score's best, though nothing was scored before it."""
    X, y = small
    model = mlp("fp16", solver="sgd", learning_rate_init=6e4, early_stopping=True, batch_size=200, loss_scale=1,
                max_iter=1).fit(1000 * X, y)
    assert model.stop_reason_ == "overflow" and np.isfinite(model.predict_proba(X)).all()
    assert "validation" not in model.history_[-1] and model.best_validation_score_ is None


def test_convergence(small):
    model = mlp(max_iter=500, tol=0.01, n_iter_no_change=3, learning_rate_init=0.02).fit(*small)
    assert model.stop_reason_ == "converged" and model.n_iter_ < 500
    assert min(model.loss_curve_[:-4]) - min(model.loss_curve_[-4:]) < 0.04
    assert model.loss_ == model.loss_curve_[-1] and model.best_loss_ == min(model.loss_curve_)
    with pytest.warns(ConvergenceWarning, match="max_iter = 2"):
        assert mlp(max_iter=2).fit(*small).stop_reason_ == "max_iter"


def test_early_stopping_keeps_the_best(digits):
    X, X_test, y, y_test = digits
    model = mlp(early_stopping=True, max_iter=60, n_iter_no_change=4, hidden_layer_sizes=(32,)).fit(X, y)
    scores = model.validation_scores_
    assert model.stop_reason_ == "converged" and len(scores) == model.n_iter_ == np.argmax(scores) + 1 + 5 or (
        max(scores) - scores[-1] < 0.02)
    assert model.best_validation_score_ == max(scores) and model.best_loss_ is None
    held = train_test_split(X, y, test_size=0.1, random_state=model._seed, stratify=y)[1::2]
    assert model.score(*held) == max(scores)
    assert model.score(X_test, y_test) > 0.9


def test_callback(small):
    rows = []
    model = mlp().fit(*small, callback=rows.append)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4] and rows == model.history_
    assert {"loss", "accuracy", "seconds", "loss_scale", "skipped", "gradient_range"} <= set(rows[0])
    model = mlp().fit(*small, callback=lambda row: row["epoch"] == 2)
    assert model.stop_reason_ == "interrupted" and model.n_iter_ == 2


class Clock:
    """Stands still until it is told to go on."""

    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(training, "time", clock)
    return clock


def test_a_callback_sees_the_estimator_as_the_epoch_left_it(small, clock):
    """It predicts with the weights of that moment; what it takes is in no row's seconds."""
    X, y = small
    predicted, weights, model = [], [], mlp("mixed_fp16", max_iter=3)

    def look(row):
        assert row["epoch"] == model.n_iter_ == len(predicted) + 1
        predicted.append(model.predict_proba(X))
        weights.append([a.copy() for a in model.coefs_])
        clock.now += 1
    model.fit(X, y, callback=look)
    for epochs in 1, 2, 3:
        alone = mlp("mixed_fp16", max_iter=epochs).fit(X, y)
        np.testing.assert_array_equal(predicted[epochs - 1], alone.predict_proba(X))
        assert all(np.array_equal(a, b) for a, b in zip(weights[epochs - 1], alone.coefs_))
    assert [row["seconds"] for row in model.history_] == [0, 0, 0] and clock.now == 3
    wanted = {"epoch", "loss", "accuracy", "seconds", "loss_scale", "skipped", "overflow", "underflow", "lost",
              "gradient_range"}
    assert wanted <= set(model.history_[0])


def test_seconds_are_those_of_the_steps(small, clock, monkeypatch):
    """Of an epoch's five batches, but not of the capture, which compiles the kernels, nor of an evaluation."""
    def taking(seconds, function):
        def slow(*args, **options):
            clock.now += seconds
            return function(*args, **options)
        return slow
    monkeypatch.setattr(Emulator, "_instantiate", taking(1000, Emulator._instantiate))
    monkeypatch.setattr(Network, "evaluate", taking(100, Network.evaluate))
    monkeypatch.setattr(Graph, "replay", taking(10, Graph.replay))
    model = mlp(device="emulator", max_iter=2, early_stopping=True).fit(*small)
    assert [row["seconds"] for row in model.history_] == [10, 10] and clock.now == 1220


def test_an_epoch_waits_and_copies_once(small, monkeypatch):
    """All that the host wants of the device comes in one copy; what goes there are an epoch's learning rates and the
    count of updates that they begin with, and nothing is allocated."""
    calls, at_epochs_end = [], []
    for name in "_fetch", "_overwrite", "_copy", "zeros", "empty":
        def counted(*args, name=name, function=getattr(Emulator, name)):
            calls.append(name)
            return function(*args)
        monkeypatch.setattr(Emulator, name, counted)
    mlp("mixed_fp16", device="emulator").fit(*small, callback=lambda row: at_epochs_end.append(len(calls)))
    for begin, end in zip(at_epochs_end, at_epochs_end[1:]):
        assert sorted(calls[begin:end]) == ["_fetch", "_overwrite", "_overwrite"]


@pytest.mark.parametrize("name", ["fp32", "mixed_fp16"])
def test_gradient_exponents(small, tmp_path, name):
    """Of the last batch, without the loss scale: they are those that fp64 has, but for rounding, and the ends of the
    range are the history's."""
    X, y = small
    options = dict(max_iter=1, batch_size=150, activation="tanh")
    model, exact = mlp(name, **options).fit(X, y), mlp("fp64", **options).fit(X, y)
    counts = model.gradient_exponents_
    assert sum(counts.values()) + model.gradient_zeros_ == sum(a.size for a in model.coefs_ + model.intercepts_)
    assert (min(counts), max(counts)) == tuple(np.frexp(model.history_[-1]["gradient_range"])[1] - 1)
    differing = sum(abs(counts.get(e, 0) - n) for e, n in exact.gradient_exponents_.items())
    assert differing < 0.05 * sum(counts.values())
    model.save(tmp_path / "model.npz")
    assert MLPClassifier.load(tmp_path / "model.npz").gradient_exponents_ == counts


def test_schedules_end_at_max_iter_without_a_warning(small, recwarn):
    for name in "cosine", "one_cycle":
        assert mlp(learning_rate=name).fit(*small).stop_reason_ == "max_iter"
    assert not [w for w in recwarn if w.category is ConvergenceWarning]


# ---- weights

def weighted(small, seed=0):
    X, y = small
    return X[:60], y[:60], np.random.default_rng(seed).integers(0, 4, 60)


@pytest.mark.parametrize("name, solver, close", [("fp64", "sgd", 1e-13), ("fp64", "adam", 1e-10),
                                                 ("fp16", "sgd", 0.02)])
def test_whole_weights_are_repetitions(small, name, solver, close):
    """With all samples in one batch, decay and zeros included; class_weight multiplies."""
    X, y, w = weighted(small)
    options = dict(solver=solver, batch_size=500, alpha=3.0, max_iter=6)
    once = mlp(name, **options, class_weight={0: 2}).fit(X, y, w)
    times = w * np.where(y == 0, 2, 1)
    often = mlp(name, **options).fit(X.repeat(times, axis=0), y.repeat(times))
    assert once.loss_curve_ == pytest.approx(often.loss_curve_, rel=close)
    for a, b in zip(once.coefs_, often.coefs_):
        np.testing.assert_allclose(a, b, rtol=0, atol=close * abs(b).max())
    assert once.t_ == 6 * np.count_nonzero(times)


def test_weights_of_any_size(small):
    """Only their ratios count, but for the penalty, which scikit-learn divides by their sum; weights of 1 are none."""
    X, y, w = weighted(small)
    one, large, small_ = (mlp("fp16", batch_size=16, alpha=0, max_iter=2).fit(X, y, w * unit)
                          for unit in (1, 2.0 ** 1000, 2.0 ** -1000))
    assert identical(one, large) and identical(one, small_) and one.loss_ > 0
    assert identical(mlp(max_iter=1).fit(X, y), mlp(max_iter=1).fit(X, y, np.ones(60)))
    with pytest.raises(ValueError, match="alpha / sample_weight is as large as .* which float16 cannot hold"):
        mlp("fp16").fit(X, y, w * 1e-300)
    with pytest.raises(ValueError, match="Negative"):
        mlp().fit(X, y, w - 1)
    with pytest.raises(ValueError, match="zero for every sample"):
        mlp(class_weight={c: 0 for c in range(10)}).fit(X, y, w)
    with pytest.raises(ValueError, match="class_weight is None, 'balanced' or a dictionary of finite weights"):
        mlp(class_weight={0: "much"}).fit(X, y)


def test_weights_go_on(small, tmp_path):
    """A fit with weights that is resumed has the bits of one that was not; other weights are other data."""
    X, y, w = weighted(small)
    options = dict(batch_size=16, class_weight="balanced", max_iter=4)
    whole, half = mlp(**options).fit(X, y, w), mlp(**options | {"max_iter": 2}).fit(X, y, w)
    half.save(tmp_path / "half.npz")
    half = MLPClassifier.load(tmp_path / "half.npz").set_params(max_iter=4)
    assert half.get_params() == whole.get_params() and identical(half.resume(X, y, w), whole)
    with pytest.raises(ValueError, match="another training: its data"):
        half.resume(X, y)
    with pytest.raises(ValueError, match="cannot balance them: give class_weight as a dictionary"):
        half.partial_fit(X, y, w)
    parts = mlp(batch_size=16, max_iter=1)
    assert identical(parts.partial_fit(X, y, w), mlp(batch_size=16, max_iter=1).fit(X, y, w))


def test_weights_tell_what_counts(small):
    """A validation score is weighted too."""
    X, y, _ = weighted(small)
    y = (y > 4).astype(int)
    w = np.where(y == 1, 1e6, 1e-6)
    model = mlp(early_stopping=True, max_iter=3).fit(X, y, w)
    assert (model.predict(X) == 1).mean() > 0.9 and model.best_validation_score_ > 0.99


def test_one_heavy_sample_is_no_stall(small):
    """Batches without it count as much as the one that has it, and a constant prediction's loss is that of it alone."""
    X, y, _ = weighted(small)
    w = np.where(np.arange(60) == 7, 1e6, 1)
    model = mlp(batch_size=10, max_iter=60, tol=1e-2).fit(X, y, w)
    assert model.score(X, y) > 0.9 and model.stop_reason_ == "converged"


def test_weights_of_classes_that_are_not_there(small):
    X, y = small
    some, known = np.isin(y, [1, 2]), np.arange(3)
    parts = mlp(class_weight={0: 2.0, 1: 3.0}).partial_fit(X[some], y[some], classes=known)
    assert identical(parts, mlp().partial_fit(X[some], y[some], np.where(y[some] == 1, 3.0, 1), classes=known))
    few = np.isin(y, known)
    weightless = mlp(class_weight={0: 2.0}, max_iter=1).fit(X[few], y[few], 1.0 * (y[few] > 0))
    assert identical(weightless, mlp(max_iter=1).fit(X[few], y[few], 1.0 * (y[few] > 0)))


def test_ensembles_weigh(small):
    X, y = small
    boosted = AdaBoostClassifier(mlp(max_iter=2), n_estimators=2, random_state=0).fit(X, y)
    assert len(boosted.estimators_) == 2 and boosted.score(X, y) > 0.3
    few = np.where(np.arange(150) < 2, "rare", "common")    # in some samples the rare class is not drawn
    bag = BaggingClassifier(mlp(max_iter=2, class_weight="balanced"), n_estimators=3, random_state=0).fit(X, few)
    assert np.isfinite(bag.predict_proba(X)).all()


# ---- going on

def identical(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_))


def test_two_fits_are_the_same(small, precision):
    a, b = (mlp(precision).fit(*small) for _ in range(2))
    assert identical(a, b) and a.loss_curve_ == b.loss_curve_
    assert not identical(a, mlp(precision, random_state=1).fit(*small))


def test_partial_fit_is_fit_by_epochs(small):
    X, y = small
    whole, parts = mlp().fit(X, y), mlp()
    for _ in range(4):
        parts.partial_fit(X, y, classes=np.unique(y))
    assert identical(whole, parts) and len(parts.loss_curve_) == 4 and parts.t_ == 600
    assert whole.n_iter_ == 4 and parts.n_iter_ == 1    # of the last call, as in scikit-learn
    with pytest.raises(ValueError, match="since the first call"):
        parts.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="has the class 77"):
        parts.partial_fit(X, np.full(150, 77))
    parts.partial_fit(X[:20], y[:20])    # other sizes go
    with pytest.raises(ValueError, match="early_stopping"):
        mlp(early_stopping=True).partial_fit(X, y)


def test_warm_start(small):
    X, y = small
    model = mlp(warm_start=True).fit(X, y)
    before = model.loss_
    model.fit(X, y)
    assert model.n_iter_ == 4 and len(model.loss_curve_) == 8 and model.t_ == 1200
    assert [row["epoch"] for row in model.history_] == list(range(1, 9))
    assert model.loss_curve_[4] < model.loss_curve_[0] and model.loss_ < before
    with pytest.raises(ValueError, match="warm_start keeps the classes"):
        model.fit(X, y + 1)
    with pytest.raises(ValueError, match="layers have changed"):
        model.set_params(hidden_layer_sizes=(17,)).fit(X, y)


@pytest.mark.parametrize("sizes", [(15,), (16, 8)])
def test_going_on_wants_the_same_layers(small, sizes):
    """Also where padding or another order of the sizes makes them as many elements."""
    X, y = small
    model = mlp(hidden_layer_sizes=(16,) if len(sizes) == 1 else (8, 16), max_iter=1).fit(X[:, :4], y)
    before = model.coefs_
    model.set_params(hidden_layer_sizes=sizes, warm_start=True)
    for go_on in model.fit, model.partial_fit:
        with pytest.raises(ValueError, match="the layers have changed since the last fit, from .* to .*: set what"):
            go_on(X[:, :4], y)
    assert model.coefs_ is before


@pytest.mark.parametrize("name", ["fit", "partial_fit"])
def test_weights_follow_a_fit_that_continues_without_early_stopping(small, name):
    X, y = small
    model = mlp(early_stopping=True).fit(X, y)
    getattr(model.set_params(early_stopping=False, warm_start=True), name)(X, y)
    learned = model._checkpoint[0]["masters"].astype(np.float64)
    assert set(np.concatenate([w.ravel() for w in model.coefs_])) <= set(learned)
    assert model.best_validation_score_ is None and model.validation_scores_ is None


GO_ON = """
import sys, warnings
import numpy as np
from numprec import MLPClassifier
warnings.simplefilter("ignore")
folder, data = sys.argv[1], np.load(sys.argv[1] + "/data.npz")
for name in sys.argv[2:]:
    model = MLPClassifier.load(f"{folder}/{name}.npz").set_params(max_iter=4)
    model.resume(data["X"], data["y"]).save(f"{folder}/{name}.npz")
"""


def test_a_saved_training_resumes_bit_for_bit_in_another_process(small, tmp_path):
    """In each precision, with early stopping too: as if it had never been interrupted."""
    X, y = small
    np.savez(tmp_path / "data.npz", X=X, y=y)
    wholes = {name: mlp(name, early_stopping=name == "fp32").fit(X, y) for name in PRECISIONS}
    for name, whole in wholes.items():
        whole.set_params(max_iter=2).fit(X, y).save(tmp_path / f"{name}.npz")
        whole.set_params(max_iter=4).fit(X, y)
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", GO_ON, tmp_path, *PRECISIONS], cwd=root, check=True)
    for name, whole in wholes.items():
        model = MLPClassifier.load(tmp_path / f"{name}.npz")
        assert identical(model, whole) and model.loss_curve_ == whole.loss_curve_
        assert model.validation_scores_ == whole.validation_scores_ and model.n_iter_ == 4
        assert model.get_params() == whole.get_params()


def test_an_interruption_loses_one_epoch(small):
    """Ctrl-C reaches the caller; the model has the last finished epoch, and can go on."""
    def interrupt(row):
        if row["epoch"] == 3:
            raise KeyboardInterrupt
    X, y = small
    model = mlp()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y, callback=interrupt)
    assert model.n_iter_ == 3 and np.isfinite(model.score(X, y))
    assert identical(model.resume(X, y), mlp().fit(X, y))


def test_resume_wants_the_same_data(small):
    X, y = small
    model = mlp().fit(X, y)
    with pytest.raises(ValueError, match="another training: its data"):
        model.resume(X + 1, y)
    with pytest.raises(NotFittedError):
        mlp().resume(X, y)


@pytest.mark.parametrize("labels", [["one", "two"], [False, True], [3.0, 5.0]])
def test_labels_survive(small, tmp_path, labels):
    X, y = small
    names = np.array(labels)[y % 2]
    model = mlp("mixed_bf16").fit(X, names)
    model.save(tmp_path / "model.npz")
    for other in MLPClassifier.load(tmp_path / "model.npz"), pickle.loads(pickle.dumps(model)):
        assert (other.predict(X) == model.predict(X)).all() and other.stop_reason_ == model.stop_reason_
        assert identical(other.partial_fit(X, names), pickle.loads(pickle.dumps(model)).partial_fit(X, names))


def test_files(small, tmp_path):
    """Nothing pickled; bfloat16 as tagged bits; damaged and foreign files are refused; nothing half-written stays."""
    path = tmp_path / "model.npz"
    mlp("mixed_bf16").fit(*small).save(path)
    with np.load(path, allow_pickle=False) as file:
        text = json.loads(str(file["json"]))
        assert text["bfloat16"] == ["weights"] and file["weights"].dtype == np.uint16
        assert text["about"]["parameters"]["precision"] == "mixed_bf16"
    assert [p.name for p in tmp_path.iterdir()] == ["model.npz"]
    whole = path.read_bytes()
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    (tmp_path / "half.npz").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "text.npz").write_text("hello")
    for name in "other", "half", "text":
        with pytest.raises(ValueError, match=f"{name}.npz is no checkpoint"):
            MLPClassifier.load(tmp_path / f"{name}.npz")
    with pytest.raises(FileNotFoundError):
        MLPClassifier.load(tmp_path / "none.npz")


@pytest.fixture(scope="module")
def saved(small, tmp_path_factory):
    """A small checkpoint: its path, arrays and description, and the data of its training."""
    X, y = small[0][:40, 20:24], small[1][:40] % 3
    path = tmp_path_factory.mktemp("saved") / "model.npz"
    mlp("mixed_fp16", hidden_layer_sizes=(4,), max_iter=1, batch_size=16, class_weight={0: 2.0}).fit(X, y).save(path)
    return path, *training.read(path), X, y


def goes_on(path, X, y):
    """Loads, and goes on for an epoch. A ValueError, the only error there may be, is returned, and is one line."""
    try:
        model = MLPClassifier.load(path, device="emulator")
        assert np.isfinite(model.predict_proba(X)).all()
        model.set_params(max_iter=model.n_iter_ + 1).resume(X, y, callback=lambda row: True)
        return None
    except ValueError as error:
        assert "\n" not in str(error)
        return error


@pytest.mark.parametrize("name, change, says", [
    ("masters", lambda a: a * np.nan, "masters are not all finite"),
    ("weights", lambda a: a[:-8], "weights should be float16 of shape .48,., and is float16 of shape .40,."),
    ("masters", lambda a: a.astype(str), "masters should be float32 of shape"),
    ("moment1", lambda a: None, "moment1 should be .* and is missing"), ("moment0", lambda a: a * np.nan, "holds NaN"),
    ("counts", lambda a: a.astype(np.int64), "counts should be int32"), ("rates", lambda a: a[:1], "rates should be"),
    ("control", lambda a: a * 0, "loss scale is 0.0"), ("classes_", lambda a: a[::-1], "do not belong together"),
    *(("state", lambda a, i=i, to=to: np.where(np.arange(16) == i, to, a), "state counts|not belong|does not say")
      for i, to in ((0, 2 ** 40), (2, 10 ** 12), (2, -1), (3, 2 ** 40), (6, -5), (7, 10 ** 9), (12, 7), (14, 99)))])
def test_arrays_of_a_checkpoint_are_those_of_its_layers(saved, tmp_path, name, change, says):
    """Kernels index by some of them."""
    _, arrays, about, X, y = saved
    arrays = {n: change(a) if n == name else a for n, a in arrays.items()}
    training.write(tmp_path / "changed.npz", {n: a for n, a in arrays.items() if a is not None}, about)
    error = goes_on(tmp_path / "changed.npz", X, y)
    assert error is not None and re.search(says, str(error)), error


def places(tree, at=()):
    """The path of each value in a tree of dictionaries and lists."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*at, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*at, key))


def test_hand_made_checkpoints_raise_nothing_but_value_errors(saved, tmp_path):
    """Bits flipped, files cut, and values of the description replaced: each loads as it was, or is refused."""
    path, arrays, about, X, y = saved
    whole, changed, rng = path.read_bytes(), tmp_path / "changed.npz", random.Random(0)
    for _ in range(60):
        some = bytearray(whole[:rng.choice([len(whole), rng.randrange(len(whole))])])
        for _ in range(rng.choice([1, 5, 40])):
            if some:
                some[rng.randrange(len(some))] ^= 1 << rng.randrange(8)
        changed.write_bytes(some)
        goes_on(changed, X, y)
    odd, refused = [None, -1, 10 ** 30, "x", [], {}, True, 1.5, [None], {"a": 1}, float("nan")], 0
    for _ in range(120):
        other = copy.deepcopy(about)
        *way, last = rng.choice(list(places(other)))
        part = functools.reduce(lambda tree, key: tree[key], way, other)
        part[last] = rng.choice(odd)
        training.write(changed, arrays, other)
        refused += goes_on(changed, X, y) is not None
    assert refused > 60
    with zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as archive:    # a bomb: a gigabyte from a megabyte
        archive.writestr("json.npy", bytes(10 ** 6))
    assert "compressed" in str(goes_on(changed, X, y))


def test_a_model_loads_on_any_device(saved, monkeypatch):
    """Where it was trained is not saved; and loading takes no device at all."""
    path, _, about, X, _ = saved
    assert "device" not in about["parameters"]
    monkeypatch.setattr(training.Training, "__init__", None)
    monkeypatch.setattr(Network, "__init__", None)
    assert MLPClassifier.load(path).device is None and MLPClassifier.load(path, device="gpu").predict(X).shape == (40,)
    assert MLPClassifier.load(path).class_weight == {0: 2.0}


def test_what_is_saved_agrees_with_what_was_trained(small, tmp_path):
    model = mlp(max_iter=1).fit(*small)
    with pytest.raises(ValueError, match="other layers, or another precision, than were trained"):
        model.set_params(hidden_layer_sizes=(4,)).save(tmp_path / "model.npz")
    model.set_params(hidden_layer_sizes=np.array([16]), alpha=np.float32(0.5)).save(tmp_path / "model.npz")
    assert MLPClassifier.load(tmp_path / "model.npz").hidden_layer_sizes == (16,)


def test_what_a_killed_process_left_is_swept(saved, tmp_path):
    """Its own leavings and no other file; and a name may be as long as the file system allows."""
    _, arrays, about, *_ = saved
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    host = f"{zlib.crc32(platform.node().encode()):08x}"
    dead, living, other = (f".numprec-{h}-{pid}-{'0' * 16}.partial" for h, pid in (
        (host, int(done.stdout)), (host, os.getpid()), ("0" * 8, int(done.stdout))))
    for name in dead, living, other, "mine.1.partial":
        (tmp_path / name).touch()
    training.write(tmp_path / ("m" * 251 + ".npz"), arrays, about)
    assert {p.name for p in tmp_path.iterdir()} == {living, other, "mine.1.partial", "m" * 251 + ".npz"}


# ---- what is refused

@pytest.mark.parametrize("sizes", [2 ** 31, (2 ** 40, 2 ** 40), 2 ** 62])
def test_a_network_that_does_not_fit_is_refused_at_once(small, sizes):
    with pytest.raises(MemoryError, match="the fit needs .* GB .* are free"):
        mlp(hidden_layer_sizes=sizes).fit(*small)


def test_memory_is_counted(small, monkeypatch):
    """What is asked for beforehand is what is allocated, but for scratch."""
    room = []
    for name in "zeros", "empty", "_copy":
        def counted(*args, function=getattr(Emulator, name)):
            room.append(function(*args))
            return room[-1]
        monkeypatch.setattr(Emulator, name, counted)
    asked = []
    monkeypatch.setattr(classifier, "check_memory", lambda device, needed, precision, each: asked.append(needed))
    mlp("mixed_fp16", hidden_layer_sizes=(300, 200), max_iter=1, device="emulator").fit(*small)
    moved = sum(a.nbytes for a in room if a.dtype == np.float32 and a.size > 50_000)    # masters, before they moved
    assert asked[0] == pytest.approx(sum(a.nbytes for a in room) - moved, rel=0.15)


def test_extremes_end_in_words(recwarn):
    """Whatever the data and the parameters: a fit, or a sentence; and no NaN among what it predicts."""
    rng, pick, fitted = np.random.default_rng(0), random.Random(0), 0
    for _ in range(60):
        n, d = pick.choice([(1, 1), (5, 2), (12, 3)])
        X = rng.standard_normal((n, d)) * 10.0 ** pick.choice([-310, -40, -5, 0, 0, 4, 30, 300, 307])
        w = pick.choice([None, rng.random(n), rng.random(n) * 1e-300, rng.integers(0, 2, n) * 1e308])
        model = mlp(pick.choice(["fp64", "fp16", "mixed_fp16"]), hidden_layer_sizes=pick.choice([(), (3,)]), max_iter=2,
                    alpha=pick.choice([0, 1e-4, 1e300]), learning_rate_init=pick.choice([1e-300, 1e-3, 1e30, 1e308]),
                    loss_scale=pick.choice([None, None, "dynamic", 1e-4, 1024, 1e300]), batch_size=5,
                    class_weight=pick.choice([None, None, "balanced", {0: 1e300}]),
                    early_stopping=pick.choice([False, True]))
        try:
            model.fit(X, rng.integers(0, pick.choice([1, 3]), n), w)
        except (ValueError, training.LossScaleCollapsed) as error:
            assert "\n" not in str(error)
            continue
        assert all(np.isfinite(a).all() for a in model.coefs_ + model.intercepts_)
        try:
            assert np.isfinite(model.predict_proba(X)).all()
            fitted += 1
        except ValueError as error:
            assert "beyond the range of float64" in str(error)
    assert fitted > 15 and not [w for w in recwarn if w.category is RuntimeWarning]


@pytest.mark.parametrize("options, says", [
    ({"solver": "adma"}, "Did you mean 'adam'"),
    ({"activation": "Relu"}, "Did you mean 'relu'"),
    ({"learning_rate": "invscaling"}, "'invscaling' is scikit-learn's and not implemented here; there are 'constant', "
                                      "'cosine', 'one_cycle'"),
    ({"learning_rate": "adaptive"}, "learning_rate='adaptive' is scikit-learn's"),
    ({"learning_rate": "cosin"}, "Did you mean 'cosine'"),
    ({"solver": "lbfgs"}, "solver='lbfgs' is scikit-learn's and not implemented here; there are 'sgd', 'adam'"),
    ({"learning_rate_init": 0}, "learning_rate_init is a number above 0, not 0"),
    ({"batch_size": 0}, "batch_size is 'auto' or a whole number"),
    ({"hidden_layer_sizes": (16, 0)}, "hidden_layer_sizes is a whole number of at least 1, or a sequence of them"),
    ({"hidden_layer_sizes": ["16"]}, "hidden_layer_sizes is a whole number"),
    ({"hidden_layer_sizes": (16, 8.0)}, "hidden_layer_sizes is a whole number"),
    ({"hidden_layer_sizes": [[4], [5, 6]]}, "hidden_layer_sizes is a whole number"),
    ({"hidden_layer_sizes": True}, "hidden_layer_sizes is a whole number"),
    ({"hidden_layer_sizes": -1}, "hidden_layer_sizes is a whole number"),
    ({"activation": {"relu": 1}}, "unknown activation"),
    ({"solver": np.arange(3)}, "unknown solver 'an array of shape .3,.'"),
    ({"shuffle": "no"}, "shuffle is True or False, not 'no'"),
    ({"warm_start": np.ones(2)}, "warm_start is True or False, not an array of shape .2,."),
    ({"loss_scale": np.ones(2)}, "loss_scale is None, 'dynamic' or a number above 0, not an array"),
    ({"loss_scale": 1e60}, "loss_scale = 1e.60 is beyond the normal numbers of float32"),
    ({"batch_size": [4]}, "batch_size is 'auto' or a whole number"),
    ({"learning_rate_init": 10 ** 400}, "learning_rate_init is a number above 0"),
    ({"max_iter": 1.5}, "max_iter is a whole number"),
    ({"loss_scale": "static"}, "loss_scale is None, 'dynamic' or a number"),
    ({"precision": "fp17"}, "Did you mean 'fp16'"),
    ({"momentum": float("nan")}, "momentum is a number"),
])
def test_parameters_are_refused_in_a_sentence(small, options, says):
    with pytest.raises(ValueError, match=says):
        mlp(**options).fit(*small)


def test_data_are_refused_in_a_sentence(small):
    X, y = small
    with pytest.raises(ValueError, match="max .X. = 1e.05 exceeds float16 max 65504: standardise the data"):
        mlp("fp16").fit(X * 1e5, y)
    with pytest.raises(ValueError, match=r"contains NaN \(1 value, the first in row 1, column 2\)"):
        mlp().fit(np.where((np.arange(150)[:, None] == 1) & (np.arange(64) == 2), np.nan, X), y)
    with pytest.warns(UserWarning, match="single class"):
        assert (mlp().fit(X, np.ones(150)).predict(X) == 1).all()


def test_hidden_layers_may_be_none(small):
    """A softmax regression."""
    X, y = small
    model = mlp(hidden_layer_sizes=(), max_iter=60).fit(X, y)
    assert model.n_layers_ == 2 and model.score(X, y) > 0.9
    assert mlp(hidden_layer_sizes=8).fit(X, y).coefs_[0].shape == (64, 8)
