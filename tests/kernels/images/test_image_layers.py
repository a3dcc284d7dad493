"""The chapters of the convolutional network beyond their oracles: windows of any kind, pooling, moments, gradients."""
import numpy as np
import pytest
from image_problems import state_of

from numprec import device as devices
from numprec.kernels.networks import cross_entropy
from numprec.models.layers import BatchNorm, Conv, Pool, parse
from numprec.models.network import Dense, Network
from numprec.precision import PRECISIONS

FP64 = PRECISIONS["fp64"]


# ---- gradients of layers and of whole networks

NETWORKS = {
    "conv": [Conv(3, 3, 1, "tanh")],
    "conv/2": [Conv(3, 3, 2, "logistic"), Conv(2, 2, 1, "tanh")],
    "pool": [Conv(2, 3, 1, "tanh"), Pool(2)],
    "pool at the bottom": [Pool(2), Conv(2, 3, 1, "tanh")],
    "avgpool": [Conv(2, 3, 1, "tanh"), Pool(3, average=True)],
    "gap": [Conv(3, 3, 1, "tanh"), Pool(None, average=True)],
    "norm": [Conv(3, 3, 1, "identity"), BatchNorm("tanh")],
    "norm at the bottom": [BatchNorm("tanh"), Conv(2, 3, 1, "tanh")],
    "norm of an activation": [Conv(2, 3, 1, "tanh"), BatchNorm("logistic")],
    "all": [Conv(3, 3, 1, "identity"), BatchNorm("tanh"), Pool(2), Conv(2, 2, 1, "identity"), BatchNorm("relu"),
            Dense(4, "tanh")],
    "as the default": parse("conv2-conv2-pool-conv3-conv3-pool-dense4", "tanh", batch_norm=False),
    "as the default, normalised": parse("conv2-conv2-pool-conv3-conv3-pool-dense4", "tanh", batch_norm=True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_central_differences(device, name):
    """Of all parameters, in fp64; the last sample of the batch is padding."""
    rng = np.random.default_rng(3)
    network = Network([*NETWORKS[name], Dense(3)], (5, 6, 2), device, FP64)
    network.initialise(1)
    network.state = state_of(device, count=3)
    X, y = rng.standard_normal((4, 5, 6, 2)), np.array([0, 2, 1, -1], np.int32)
    X[3:] = 0
    x, labels, factor = device.array(X), device.array(y), device.array(np.array([1 / 3]))
    rung = network.rung("cross_entropy")
    trained = [(layer.name, p.name) for layer, p in network.specified if p.trained]

    def loss(vector):
        at, values = 0, {}
        for key, value in network.values().items():
            if key in trained:
                value = vector[at:at + value.size].reshape(value.shape)
                at += value.size
            values[key] = value
        network.assign(values)
        return device.to_host(cross_entropy.launch(device, rung, FP64, network.forward(x), labels, factor)[0]).sum() / 3

    values = network.values()
    vector = np.concatenate([values[key].ravel() for key in trained])
    vector += 0.1 * rng.standard_normal(len(vector))
    loss(vector)
    network.backward(cross_entropy.launch(device, rung, FP64, network.forward(x), labels, factor)[2])
    gradients = network.gradient_values()
    gradient = np.concatenate([gradients[key].ravel() for key in trained])
    h = 1e-5
    central = np.array([(loss(vector + h * e) - loss(vector - h * e)) / (2 * h) for e in np.eye(len(vector))])
    np.testing.assert_allclose(gradient, central, atol=5e-9)
    assert np.count_nonzero(gradient) > len(gradient) / 2


@pytest.mark.parametrize("name", NETWORKS)
def test_numpy_agrees_with_the_device(device, name):
    """What predictions are made by."""
    network = Network([*NETWORKS[name], Dense(3)], (5, 6, 2), device, FP64)
    network.initialise(1)
    X = np.random.default_rng(0).standard_normal((4, 5, 6, 2))
    x = X
    for layer in network.layers:
        values = {key[1]: value for key, value in network.values().items() if key[0] == layer.name}
        x = layer.exact(values, x, FP64)
    np.testing.assert_allclose(network.evaluate(X, 3), x, rtol=1e-12, atol=1e-12)


def test_the_order_of_threads_changes_no_bit(device, precision):
    """Forward and backward through all layers."""
    rng = np.random.default_rng(0)
    X, dZ = rng.standard_normal((3, 5, 6, 2)), rng.standard_normal((3, 3))
    results = []
    for seed in 1, 2:
        other = devices.get(device.kind, seed=seed)
        network = Network([*NETWORKS["all"], Dense(3)], (5, 6, 2), other, precision)
        network.initialise(1)
        network.state = state_of(other, count=3)
        z = network.forward(other.array(X, precision.storage))
        network.backward(other.array(dZ, precision.storage))
        results.append(b"".join(other.to_host(a).tobytes() for a in (z, network.gradients, network.fresh)))
    assert results[0] == results[1]
