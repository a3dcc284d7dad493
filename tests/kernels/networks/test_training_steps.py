"""Optimizers, the scale of the loss, and the steps of a training: against scikit-learn, models in Python, and NumPy."""
import numpy as np
import pytest

from numprec import device as devices
from numprec.kernels.networks import loss_scale, optimizer
from numprec.kernels.networks.batch import State
from numprec.kernels.networks.philox import permutation_oracle
from numprec.models.network import Dense, Network
from numprec.models.training import SCHEDULES, Descent, LossScaleCollapsed, Training
from numprec.precision import PRECISIONS

FP64 = PRECISIONS["fp64"]


# ---- learning rates

def test_schedules():
    lr, epochs, batches = 0.1, 10, 10
    rates = {name: Descent("sgd", name, lr, epochs).rates(0, 100, batches) for name in SCHEDULES}
    assert (rates["constant"] == lr).all()
    np.testing.assert_allclose(rates["cosine"][[0, 50]], [lr, lr / 2])
    assert (np.diff(rates["cosine"]) < 0).all() and rates["cosine"][-1] < lr / 1000
    np.testing.assert_allclose(rates["one_cycle"][[0, 30]], [lr / 25, lr])
    assert (np.diff(rates["one_cycle"][:31]) > 0).all() and (np.diff(rates["one_cycle"][30:]) < 0).all()
    with pytest.raises(ValueError, match="Did you mean 'cosine'"):
        Descent("sgd", "cosin")
    later = Descent("adam", "cosine", lr, epochs).rates(30, 10, batches)
    np.testing.assert_array_equal(later, Descent("adam", "cosine", lr, epochs).rates(0, 100, batches)[30:40])


# ---- a whole training against NumPy

def numpy_training(values, X, y, B, descent, seed, steps):
    """The weights of a network of one hidden tanh layer after SGD without a device, kernels, or a fixed batch size."""
    (W, b, V, c), N = [v.copy() for v in values], len(X)
    velocity, batches = [np.zeros_like(a) for a in (W, b, V, c)], -(-N // B)
    for step in range(steps):
        epoch, position = divmod(step, batches)
        rows = permutation_oracle((seed, epoch), np.arange(N))[position * B:(position + 1) * B]
        x, k, n = X[rows], y[rows], len(rows)
        h = np.tanh(x @ W + b)
        p = np.exp(h @ V + c)
        dz = (p / p.sum(axis=1, keepdims=True) - np.eye(p.shape[1])[k]) / n
        dh = dz @ V.T * (1 - h * h)
        gradients = [x.T @ dh + descent.alpha / n * W, dh.sum(axis=0), h.T @ dz + descent.alpha / n * V, dz.sum(axis=0)]
        for a, v, g in zip((W, b, V, c), velocity, gradients):
            v *= descent.momentum
            v -= descent.learning_rate_init * g
            a += descent.momentum * v - descent.learning_rate_init * g
    return W, b, V, c


def problem(N=53, D=7, C=3):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((N, D)), rng.integers(0, C, N)
    return X + 2 * np.eye(C, D)[y], y


def training(device, precision, B=16, descent=Descent("sgd", learning_rate_init=0.1, alpha=0.5), layers=None):
    X, y = problem()
    network = Network(layers or [Dense(5, "tanh"), Dense(3)], (7,), device, precision)
    network.initialise(4)
    return Training(network, X, y, B, descent, seed=9)


@pytest.mark.parametrize("B", [16, 53, 10])
def test_a_training_is_numpys(device, B):
    """Batches, the ragged last one, weight decay, momentum, two epochs and a half: fp64."""
    run = training(device, FP64, B)
    start = list(run.network.values().values())
    steps = run.batches * 5 // 2
    run.run(steps)
    X, y = problem()
    expected = numpy_training(start, X, y, B, run.descent, 9, steps)
    for mine, theirs in zip(run.network.values().values(), expected):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)


def test_one_start_and_one_order_in_all_precisions(device):
    """Initial values are those of fp64, rounded once; so is every batch."""
    runs = {name: training(device, p) for name, p in PRECISIONS.items()}
    exact = runs["fp64"].network.values()
    for name, run in runs.items():
        kept = optimizer.kept_format(run.precision)
        for key, value in run.network.values().items():
            np.testing.assert_array_equal(value, kept.round(exact[key]).astype(np.float64))
        run.run(3)
        rows = device.to_host(run.network.buffer("batch", "rows", (16,)))
        np.testing.assert_array_equal(rows, permutation_oracle((9, 0), np.arange(53))[32:48])


def test_precisions_agree_while_they_can(device):
    """After ten steps, weights differ by little more than the precision."""
    weights = {}
    for name, p in PRECISIONS.items():
        run = training(device, p)
        run.run(10)
        weights[name] = np.concatenate([v.ravel() for v in run.network.values().values()])
    for name, tolerance in ("fp32", 1e-6), ("fp16", 5e-3), ("mixed_fp16", 2e-3), ("mixed_bf16", 2e-2):
        difference = abs(weights[name] - weights["fp64"]).max()
        assert 0 < difference < tolerance, name


def test_the_host_is_not_asked_within_an_epoch(device, monkeypatch):
    """The step is captured once; then an epoch reads nothing, allocates nothing and launches the same list."""
    run = training(device, PRECISIONS["mixed_fp16"])
    run.run(1)
    per_step, before = len(run._graph.launches), device.launches
    with monkeypatch.context() as patch:
        for name in "to_host", "array", "empty", "zeros", "synchronize", "assign":
            patch.setattr(devices.Device if hasattr(devices.Device, name) else type(device), name,
                          lambda *args, **kwargs: pytest.fail("the host was asked"))
        run.run(run.batches - 1)
    assert device.launches - before == (run.batches - 1) * per_step


def test_history(device):
    run = training(device, PRECISIONS["mixed_fp16"])
    rows = [run.epoch() for _ in range(12)]
    assert [row["epoch"] for row in rows] == list(range(1, 13)) and rows[-1]["step"] == 12 * run.batches
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["accuracy"] > 0.8
    smallest, largest = rows[0]["gradient_range"]
    assert 0 < smallest < largest < 2 and rows[0]["loss_scale"] == 2 ** 15 and rows[0]["seconds"] > 0
    assert rows[0]["skipped"] == rows[0]["overflow"] == 0


def test_overflow_is_skipped_and_the_scale_found(device):
    """Gradients of 2^15 times 40 do not fit float16; the scale is halved until they do, and training goes on."""
    X, y = problem()
    network = Network([Dense(3)], (7,), device, PRECISIONS["mixed_fp16"])
    network.initialise(4)
    run = Training(network, X * 100, y, 16, Descent("sgd", learning_rate_init=1e-5), seed=9)
    rows = [run.epoch() for _ in range(6)]
    assert rows[0]["skipped"] > 0 and rows[0]["overflow"] > 0 and rows[-1]["skipped"] == 0
    assert rows[-1]["updates"] + sum(row["skipped"] for row in rows) == rows[-1]["step"]
    assert rows[-1]["loss_scale"] < 2 ** 15
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_a_skipped_step_changes_nothing(device):
    run = training(device, PRECISIONS["mixed_fp16"], descent=Descent())
    run.run(3)
    before, _ = run.checkpoint()
    control = device.to_host(run.control)
    control[loss_scale.Control.SCALE] = np.inf
    device.assign(run.control, control)
    run.run(1)
    after, _ = run.checkpoint()
    for name in "weights", "masters", "moment0", "moment1":
        assert np.array_equal(before[name], after[name])
    assert after["state"][State.UPDATES] == 3 and after["state"][State.STEP] == 4


def test_collapse_names_layer_and_step(device):
    """A weight that is not finite can be helped by no scale."""
    run = training(device, PRECISIONS["mixed_fp16"])
    run.epoch()
    values = run.network.values()
    values["dense2", "W"][:] = np.nan
    run.network.assign(values)
    with pytest.raises(LossScaleCollapsed, match="fell to 1.*in step 19 first in dense1.W.*learning_rate") as caught:
        for _ in range(10):
            run.epoch()
    assert caught.value.layer == "dense1.W" and caught.value.step == 19


# ---- checkpoints

@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_a_checkpoint_goes_on_bit_for_bit(device, precision, solver):
    """From the middle of an epoch, and over the end of another."""
    descent = Descent(solver, "one_cycle", 0.05, epochs=4)
    whole, first, second = (training(device, precision, descent=descent) for _ in range(3))
    whole.run(14)
    first.run(7)
    second.restore(*first.checkpoint())
    second.run(7)
    for (name, a), b in zip(whole.checkpoint()[0].items(), second.checkpoint()[0].values()):
        assert a.tobytes() == b.tobytes(), name


def test_a_checkpoint_of_something_else_is_refused(device):
    run = training(device, FP64)
    checkpoint = run.checkpoint()
    for other, says in ((training(device, PRECISIONS["fp32"]), "its precision is fp64, not fp32"),
                        (training(device, FP64, B=17), "its batch_size is 16, not 17"),
                        (training(device, FP64, descent=Descent("adam")), "descent"),
                        (training(device, FP64, layers=[Dense(6, "tanh"), Dense(3)]), "layers")):
        with pytest.raises(ValueError, match=says):
            other.restore(*checkpoint)
