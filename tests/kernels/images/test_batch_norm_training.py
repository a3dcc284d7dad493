"""Batch normalisation in training: a ragged last batch, and steps that the loss scale skips."""
import numpy as np
import pytest

from numprec.kernels.images.batch_moments import MOMENTUM
from numprec.kernels.images.batch_norm import epsilon
from numprec.kernels.networks import loss_scale
from numprec.kernels.networks.batch import State
from numprec.models.layers import BatchNorm, Conv
from numprec.models.network import Dense, Network
from numprec.models.training import Descent, Training
from numprec.precision import PRECISIONS

FP64 = PRECISIONS["fp64"]
IMAGE = 3, 4, 2


def normalised(device, precision, X, labels, batch, scale=None):
    """A training of a small network; its batches are the samples in their order."""
    network = Network([Conv(5, 1, 1, "identity"), BatchNorm("tanh"), Dense(3)], IMAGE, device, precision)
    network.initialise(7)
    return Training(network, X, labels, batch, Descent("sgd", learning_rate_init=0.1, momentum=0.5), shuffle=False,
                    scale=scale)


def data(samples):
    rng = np.random.default_rng(0)
    return rng.standard_normal((samples, *IMAGE)), rng.integers(0, 3, samples).astype(np.int32)


def statistics(run):
    return {key: value for key, value in run.network.values().items() if key[1] in ("mean", "var")}


def by_numpy(values, x, labels):
    """Moments, logits and gradients for the true samples only, by the maths lines of the chapters, in float64."""
    v = {".".join(key): value for key, value in values.items()}
    n, pixels = len(x), x.reshape(-1, IMAGE[2])
    F, W, gamma = v["conv1.F"].reshape(IMAGE[2], -1), v["dense1.W"], v["norm1.gamma"]
    rows = pixels @ F + v["conv1.b"]
    mean, var = rows.mean(axis=0), rows.var(axis=0)
    inverse = 1 / np.sqrt(var + epsilon(FP64))
    u = (rows - mean) * inverse
    a = np.tanh(gamma * u + v["norm1.beta"])
    z = a.reshape(n, -1) @ W + v["dense1.b"]
    e = np.exp(z - z.max(axis=1, keepdims=True))
    dz = (e / e.sum(axis=1, keepdims=True) - np.eye(3)[labels]) / n
    da = (dz @ W.T).reshape(a.shape) * (1 - a * a)
    dgamma, dbeta = (da * u).sum(axis=0), da.sum(axis=0)
    drows = gamma * inverse * (da - dbeta / len(u) - u * dgamma / len(u))
    return {"norm1.mean": mean, "norm1.var": var}, z, {
        "dense1.W": a.reshape(n, -1).T @ dz, "dense1.b": dz.sum(axis=0), "norm1.gamma": dgamma, "norm1.beta": dbeta,
        "conv1.F": (pixels.T @ drows).reshape(v["conv1.F"].shape), "conv1.b": drows.sum(axis=0)}


def test_a_ragged_batch_is_that_of_its_true_rows(device):
    """Seven samples in batches of four: moments, running moments, results and gradients of the three that are left."""
    X, labels = data(7)
    run = normalised(device, FP64, X, labels, 4)
    run.run(1)
    before = run.network.values()
    run.run(1)
    moments, z, gradients = by_numpy(before, X[4:], labels[4:])
    close = dict(rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(device.to_host(run.network.buffer("dense1", "y", (4, 3)))[:3], z, **close)
    for (layer, name), value in statistics(run).items():
        expected = (1 - MOMENTUM) * before[layer, name] + MOMENTUM * moments[f"{layer}.{name}"]
        np.testing.assert_allclose(value, expected, **close)
    found = {".".join(key): value for key, value in run.network.gradient_values().items()}
    assert set(found) == set(gradients)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(found[name], gradient, err_msg=name, **close)


def test_running_moments_are_in_accum(device, precision):
    network = normalised(device, precision, *data(4), 4).network
    assert {network.statistics.dtype, network.fresh.dtype} == {np.dtype(precision.accum.element)}


# ---- steps that are skipped

@pytest.mark.parametrize("name", ["mixed_fp16", "fp16"])
def test_a_step_whose_gradients_overflow_leaves_no_trace(device, name):
    """The forward pass is finite, the gradients are not: neither weights nor running moments move."""
    run = normalised(device, PRECISIONS[name], *data(12), 4, scale="dynamic")
    run.run(1)
    before = run.network.values()
    control = device.to_host(run.control)
    good = control[loss_scale.Control.SCALE]
    control[loss_scale.Control.SCALE] = np.inf
    device.assign(run.control, control)
    run.run(1)
    for key, value in run.network.values().items():
        np.testing.assert_array_equal(value, before[key])
    control[loss_scale.Control.SCALE] = good
    device.assign(run.control, control)
    run.run(1)
    assert all(np.isfinite(value).all() and not np.array_equal(value, before[key])
               for key, value in statistics(run).items())


@pytest.mark.parametrize("name, scale", [("mixed_fp16", "dynamic"), ("fp16", "dynamic"), ("fp16", 1.0)])
def test_a_batch_beyond_the_range_leaves_no_trace(device, name, scale):
    """One image whose results overflow float16, and with them the moments of its batch. A dynamic scale skips the
    batch; without one, training stops there."""
    X, labels = data(12)
    X[5] = 6e4 * np.sign(X[5])
    run = normalised(device, PRECISIONS[name], X, labels, 4, scale)
    run.run(1)
    before = run.network.values()
    run.run(1)
    assert not np.isfinite(device.to_host(run.network.fresh).astype(np.float64)).all()
    assert device.to_host(run.counts)[1, loss_scale.Count.APPLIED] == 0
    assert bool(device.to_host(run.state)[State.STOP]) == (scale == 1.0)
    for key, value in run.network.values().items():
        np.testing.assert_array_equal(value, before[key])
        assert np.isfinite(value).all()
