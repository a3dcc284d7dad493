"""CNNClassifier: what layers can be named, what images it takes, how it learns, and scikit-learn's contract."""
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator

import numprec
from numprec import CNNClassifier
from numprec import device as devices
from numprec.models.layers import BatchNorm, Conv, Pool, parse
from numprec.models.network import Dense, Network
from numprec.precision import PRECISIONS

SMALL = "conv4-pool-conv8-pool-dense16"
DIGITS, LABELS = load_digits(return_X_y=True)
X, Y, X_TEST, Y_TEST = DIGITS[:300] / 16, LABELS[:300], DIGITS[300:600] / 16, LABELS[300:600]


def small(precision="fp32", **parameters):
    chosen = dict(layers=SMALL, image_shape=(8, 8, 1), batch_size=32, max_iter=3, random_state=0)
    return CNNClassifier(precision, **(chosen | parameters))


@pytest.fixture(autouse=True)
def few_epochs():
    """Every fit here ends before it has converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


# ---- layers by name

def test_the_default_network():
    layers = [*parse(CNNClassifier().layers, "relu", False), Dense(10)]
    network = Network(layers, (32, 32, 3), devices.get("emulator"), PRECISIONS["fp32"])
    assert [layer.name for layer in network.layers] == [
        "conv1", "conv2", "pool1", "conv3", "conv4", "pool2", "dense1", "dense2"]
    shapes = {".".join(key): value.shape for key, value in network.values().items()}
    assert shapes["conv2.F"] == (3, 3, 32, 32) and shapes["dense1.W"] == (8 * 8 * 64, 128)
    assert network.result_shape == (10,)


def test_words():
    layers = parse("conv8x5-conv4/2-pool3-avgpool-gap-dense7", "tanh", False)
    assert [type(layer) for layer in layers] == [Conv, Conv, Pool, Pool, Pool, Dense]
    assert (layers[0].filters, layers[0].size, layers[0].stride) == (8, 5, 1)
    assert (layers[1].filters, layers[1].size, layers[1].stride) == (4, 3, 2)
    assert [(p.size, p.average) for p in layers[2:5]] == [(3, False), (2, True), (None, True)]
    assert layers[0].activation == layers[5].activation == "tanh"
    normal = parse(["conv8", "pool"], "relu", True)
    assert [type(layer) for layer in normal] == [Conv, BatchNorm, Pool]
    assert (normal[0].activation, normal[1].activation) == ("identity", "relu")


@pytest.mark.parametrize("text, says", [
    ("conw32", "Did you mean 'conv32'"), ("conv", "'conv' is no layer"), ("conv0", "no layer"), ("", "unknown layer"),
    ("pool2/2", "no layer"), ("gap3", "no layer"), ("dense", "no layer"), ("conv8--pool", "unknown layer"),
    ("dense8-conv8", "'conv8' cannot follow a dense layer"), ("conv8 pool", "unknown layer"), ("dense8x3", "no layer")])
def test_wrong_words(text, says):
    with pytest.raises(ValueError, match=says):
        small(layers=text).fit(X, Y)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 1), (2, 3, 4), (7, 1, 2)], ids=str)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_windows_are_cut_down_to_small_images(shape, batch_norm):
    model = small(layers="conv3-pool-conv4/2-pool3-avgpool-dense5", image_shape=shape, batch_norm=batch_norm)
    rows = np.random.default_rng(0).standard_normal((40, np.prod(shape)))
    assert np.isfinite(model.fit(rows, np.arange(40) % 2).predict_proba(rows)).all()


# ---- images

def test_images_and_rows_are_the_same():
    rows = small().fit(X, Y)
    images = small(image_shape=None).fit(X.reshape(-1, 8, 8, 1), Y)
    assert images.image_shape_ == (8, 8, 1) == rows.image_shape_
    for name, array in rows.parameters_.items():
        np.testing.assert_array_equal(images.parameters_[name], array)
    np.testing.assert_array_equal(rows.predict(X_TEST), images.predict(X_TEST.reshape(-1, 8, 8, 1)))
    np.testing.assert_array_equal(images.predict(X_TEST), images.predict(X_TEST.reshape(-1, 8, 8, 1)))


def test_bytes_are_scaled(precision):
    pixels = (X * 255).astype(np.uint8)
    scaled = pixels / 127.5 - 1
    bytes_, numbers = small(precision, max_iter=1).fit(pixels, Y), small(precision, max_iter=1).fit(scaled, Y)
    for name, array in numbers.parameters_.items():
        np.testing.assert_array_equal(bytes_.parameters_[name], array)
    np.testing.assert_array_equal(bytes_.predict_proba(pixels), numbers.predict_proba(scaled))


@pytest.mark.parametrize("shape, given, says", [
    (None, (300, 8, 8), "samples, height, width, channels"), ((8, 8, 1), (300, 4, 16, 1), "image_shape is 8 x 8 x 1"),
    ((8, 9, 1), (300, 64), "64 features, but image_shape 8 x 9 x 1 makes 72"),
    ((8, 8), (300, 64), "image_shape is .height, width, channels"), ((8, 8, 0), (300, 64), "image_shape is")])
def test_wrong_shapes(shape, given, says):
    with pytest.raises(ValueError, match=says):
        small(image_shape=shape).fit(X.reshape(given), Y)


def test_other_images_at_prediction():
    model = small(image_shape=None, max_iter=1).fit(X.reshape(-1, 8, 8, 1), Y)
    with pytest.raises(ValueError, match="images are 4 x 16 x 1, but CNNClassifier was fitted to images of 8 x 8 x 1"):
        model.predict(X.reshape(-1, 4, 16, 1))


@pytest.mark.parametrize("wrong, says", [({"augment": -1}, "augment is"), ({"activation": "rely"}, "Did you mean"),
                                         ({"batch_size": 0}, "batch_size is"), ({"solver": "adan"}, "Did you mean")])
def test_wrong_parameters(wrong, says):
    with pytest.raises(ValueError, match=says):
        small(**wrong).fit(X, Y)


# ---- learning

def test_every_precision_learns_digits(precision):
    model = small(precision, max_iter=20, learning_rate_init=0.01).fit(X, Y)
    losses = model.loss_curve_
    assert losses[-1] < 0.5 * losses[0]
    assert model.score(X_TEST, Y_TEST) > 0.75, model.stop_reason_


@pytest.mark.parametrize("options", [{"batch_norm": True}, {"augment": 1}, {"batch_norm": True, "augment": 1},
                                     {"activation": "tanh", "solver": "sgd", "learning_rate": "one_cycle",
                                      "learning_rate_init": 0.1}], ids=str)
@pytest.mark.parametrize("name", ["fp32", "mixed_fp16"])
def test_options_learn_digits(name, options):
    model = small(name, max_iter=15, **{"learning_rate_init": 0.01} | options).fit(X, Y)
    assert model.loss_curve_[-1] < 0.7 * model.loss_curve_[0]
    assert model.score(X_TEST, Y_TEST) > (0.45 if "augment" in options else 0.7)    # few digits survive a mirror


def test_batch_norm_predicts_by_running_moments():
    """A prediction does not depend on the company it is made in."""
    model = small(batch_norm=True).fit(X, Y)
    np.testing.assert_allclose(model.predict_proba(X_TEST[:1]), model.predict_proba(X_TEST)[:1], rtol=1e-12)
    mean, var = model.parameters_["norm1.mean"], model.parameters_["norm1.var"]
    assert mean.any() and (var > 0).all() and not np.array_equal(var, np.ones_like(var))


def test_same_initial_values_and_batches_in_every_precision():
    first = {name: small(name, max_iter=1, learning_rate_init=1e-12).fit(X, Y) for name in ("fp64", "mixed_bf16")}
    for name, array in first["fp64"].parameters_.items():
        np.testing.assert_allclose(first["mixed_bf16"].parameters_[name], array, atol=1e-6)
    assert first["mixed_bf16"].loss_curve_[0] == pytest.approx(first["fp64"].loss_curve_[0], rel=0.02)


@pytest.mark.parametrize("name", ["fp64", "mixed_fp16"])
def test_a_fit_is_repeatable(name):
    """To the last bit, also with the random images of augmentation."""
    one, two = (small(name, batch_norm=True, augment=True).fit(X, Y) for _ in range(2))
    assert all(np.array_equal(a, two.parameters_[key]) for key, a in one.parameters_.items())
    other = small(name, batch_norm=True, augment=True, random_state=1).fit(X, Y)
    assert not np.array_equal(other.parameters_["conv1.F"], one.parameters_["conv1.F"])


def test_resume_is_as_if_never_stopped(precision, tmp_path):
    """In a new process, with the running moments, the random images and the loss scale."""
    options = dict(batch_norm=True, augment=1)
    whole = small(precision, max_iter=4, **options).fit(X, Y)
    half = small(precision, max_iter=2, **options).fit(X, Y)
    half.save(tmp_path / "half.npz")
    np.savez(tmp_path / "data.npz", X=X, Y=Y)
    code = ("import sys, numpy as np, warnings; warnings.simplefilter('ignore')\n"
            "from numprec import CNNClassifier\n"
            "data = np.load(sys.argv[2])\n"
            "CNNClassifier.load(sys.argv[1]).set_params(max_iter=4).resume(data['X'], data['Y']).save(sys.argv[3])\n")
    subprocess.run([sys.executable, "-c", code, *map(str, (tmp_path / f for f in ("half.npz", "data.npz", "all.npz")))],
                   check=True, cwd=Path(numprec.__file__).parents[1])
    resumed = CNNClassifier.load(tmp_path / "all.npz")
    assert resumed.n_iter_ == 4 and resumed.image_shape_ == (8, 8, 1)
    for name, array in whole.parameters_.items():
        np.testing.assert_array_equal(resumed.parameters_[name], array)
    np.testing.assert_array_equal(resumed.predict_proba(X_TEST), whole.predict_proba(X_TEST))


def test_early_stopping_scores_on_the_device():
    model = small(early_stopping=True, max_iter=6, batch_norm=True, learning_rate_init=0.01).fit(X, Y)
    assert len(model.validation_scores_) == model.n_iter_ and model.best_validation_score_ > 0.5


# ---- scikit-learn's contract

def test_check_estimator():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(CNNClassifier(layers="conv8-pool-dense32", learning_rate_init=0.01, max_iter=60), on_skip=None,
                        expected_failed_checks={
                            "check_sample_weight_equivalence_on_dense_data": "seven digits, of float32"})


def test_weights_are_repetitions():
    """Batch normalisation takes each image of a batch once, so that without it."""
    w = np.arange(40) % 3
    once = small("fp64", batch_size=500, max_iter=2).fit(X[:40], Y[:40], w)
    often = small("fp64", batch_size=500, max_iter=2).fit(X[:40].repeat(w, axis=0), Y[:40].repeat(w))
    assert once.loss_curve_ == pytest.approx(often.loss_curve_, rel=1e-12)
    for name, array in often.parameters_.items():
        np.testing.assert_allclose(once.parameters_[name], array, rtol=0, atol=1e-9)


def test_clone_and_pickle():
    model = small().fit(X, Y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X_TEST), model.predict_proba(X_TEST))
    assert clone(model).get_params() == model.get_params()
