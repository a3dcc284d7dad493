"""The chapters of a network's layers beyond their oracles: activations, softmax, random numbers, batches, gradients."""
import numpy as np
import pytest

from numprec.kernels.networks import cross_entropy, dense
from numprec.language.errors import Computed
from numprec.models.network import Dense, Layer, Network
from numprec.precision import FORMATS, PRECISIONS

FP64 = PRECISIONS["fp64"]


# ---- gradients of whole networks

class Plain(Layer):
    """A layer without parameters that leaves the derivative of the activation below to the network."""


@pytest.mark.parametrize("activation", dense.ACTIVATIONS)
@pytest.mark.parametrize("between", [False, True], ids=["", "layer between"])
def test_gradients_are_central_differences(device, activation, between):
    """Of all parameters of a network of three layers, in fp64; two rows of the batch are padding."""
    rng = np.random.default_rng(3)
    layers = [Dense(5, activation), *([Plain()] if between else []), Dense(4, activation), Dense(3)]
    network = Network(layers, (6,), device, FP64)
    network.initialise(1)
    X, y = rng.standard_normal((9, 6)), np.append(rng.integers(0, 3, 7), [-1, -1]).astype(np.int32)
    X[7:] = 0
    x, labels, factor = device.array(X), device.array(y), device.array(np.array([1 / 7]))
    rung = network.rung("cross_entropy")

    def loss(vector):
        at, values = 0, {}
        for key, value in network.values().items():
            values[key] = vector[at:at + value.size].reshape(value.shape)
            at += value.size
        network.assign(values)
        z = network.forward(x)
        return device.to_host(cross_entropy.launch(device, rung, FP64, z, labels, factor)[0]).sum() / 7

    vector = np.concatenate([v.ravel() for v in network.values().values()])
    loss(vector)
    network.backward(cross_entropy.launch(device, rung, FP64, network.forward(x), labels, factor)[2])
    gradient = np.concatenate([v.ravel() for v in network.gradient_values().values()])
    h = 1e-5
    central = np.array([(loss(vector + h * e) - loss(vector - h * e)) / (2 * h) for e in np.eye(len(vector))])
    np.testing.assert_allclose(gradient, central, atol=2e-9)


# ---- running error bounds

@pytest.mark.parametrize("name", ["float16", "float32"])
def test_running_bounds_hold_and_are_not_idle(name):
    """A formula computed in NumPy with a rounding after each operation stays within."""
    fmt, rng = FORMATS[name], np.random.default_rng(0)
    a, b, c = (fmt.round(rng.uniform(0.5, 2, 4000)) for _ in range(3))
    A, B, C = (Computed(x, fmt) for x in (a, b, c))
    for computed, bounded in ((a + b * c, A + B * C), (a - b, A - B), (a * b * c, A * B * C),
                              (a / (b + c), A / (B + C)),
                              (np.sqrt(a + b), (A + B).sqrt()), (np.log(a), A.log()), (np.exp(-a), (-A).exp())):
        error = abs(computed.astype(np.float64) - bounded.exact)
        assert (error <= bounded.error).all() and (error > bounded.error / 10).any()
    assert np.isinf((Computed(fmt.max, fmt) * 2).error)
