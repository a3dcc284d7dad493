"""Fits in several threads and processes at once: no errors, and the bits of a fit that is alone."""
import multiprocessing
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

import numprec
from numprec import device as devices

THREADS = 4
RNG = np.random.default_rng(5)
X = RNG.standard_normal((24, 4))
Y = (X[:, 0] > 0) + (X[:, 1] > 0.5)
ESTIMATORS = {
    "tree": lambda: numprec.DecisionTreeClassifier(max_depth=3),
    "linear": numprec.LinearRegression,
    "svm": numprec.SVC,
    "mlp": lambda: numprec.MLPClassifier(hidden_layer_sizes=(3,), max_iter=3, batch_size=12, random_state=0),
    "cnn": lambda: numprec.CNNClassifier(image_shape=(2, 2, 1), max_iter=2, batch_size=12, random_state=0),
}


def fitted(name):
    """The bytes of what a fit predicts, and the kernels that it launched."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")    # that a few epochs are not enough
        before = devices.get().launches
        model = ESTIMATORS[name]().fit(X, Y)
        launches = devices.get().launches - before
    answer = model.predict_proba if hasattr(model, "predict_proba") else model.predict
    return answer(X).tobytes(), launches


@pytest.fixture
def many_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_threads(many_switches):
    """Each estimator beside each other one, networks capturing their steps among them."""
    alone = {name: fitted(name) for name in ESTIMATORS}
    work = [name for _ in range(6) for name in ESTIMATORS]
    with ThreadPoolExecutor(THREADS) as pool:
        for name, found in zip(work, pool.map(fitted, work)):
            assert found == alone[name], name


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_child_processes(start):
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system does not {start}")
    if start == "fork" and not devices.get().is_emulator:
        pytest.skip("CUDA does not survive a fork")
    alone = fitted("mlp")    # this process has threads of the emulator, which a fork has not
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(start)) as pool:
        assert pool.submit(fitted, "mlp").result(timeout=600) == alone
