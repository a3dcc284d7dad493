"""The chapters of a network's layers beyond their oracles: activations, softmax, random numbers, batches, gradients."""
import numpy as np
import pytest
import scipy.special
from sklearn.metrics import log_loss

from numprec.kernels import highest_rung
from numprec.kernels.networks import batch, cross_entropy, dense, philox
from numprec.kernels.products.matmul import register_blocked
from numprec.language.errors import Computed
from numprec.models.network import Dense, Layer, Network
from numprec.precision import FORMATS, PRECISIONS

FP64 = PRECISIONS["fp64"]


def rounded(precision, *arrays):
    return [precision.storage.round(a) for a in arrays]


# ---- activations

@pytest.mark.parametrize("name", dense.ACTIVATIONS)
def test_activations_within_their_bounds(device, precision, name):
    rng = np.random.default_rng(0)
    X, W, b = rounded(precision, rng.standard_normal((17, 31)), rng.standard_normal((31, 9)), rng.standard_normal(9))
    Y = device.to_host(dense.forward(device, register_blocked, precision, *map(device.array, (X, W, b)), name))
    expected = dense.activated(precision, X, W, b, name)
    assert (abs(Y.astype(np.float64) - expected.exact) <= expected.error).all()
    dZ, below = rounded(precision, rng.standard_normal((17, 9)), np.tanh(rng.standard_normal((17, 31))))
    dX = dense.input_gradient(device, register_blocked, precision, *map(device.array, (dZ, W, below)), name)
    dX = device.to_host(dX)
    expected = dense.differentiated(precision, dZ, W, below, name)
    assert (abs(dX.astype(np.float64) - expected.exact) <= expected.error).all()


@pytest.mark.parametrize("name", dense.ACTIVATIONS)
def test_a_derivative_follows_from_the_value(name):
    x, h = np.linspace(-3, 3, 101) + 0.003, 1e-6
    f, g = dense.ACTIVATIONS[name].f, dense.ACTIVATIONS[name].g
    np.testing.assert_allclose(g(f(x)), (f(x + h) - f(x - h)) / (2 * h), atol=1e-8)
    assert (abs(g(f(x))) <= dense.ACTIVATIONS[name].slope).all()


@pytest.mark.parametrize("name", dense.ACTIVATIONS)
def test_activations_at_the_ends_of_the_range(device, precision, name):
    """A NaN stays one, so that an overflow shows; the largest numbers give the limits."""
    top = precision.storage.max
    x = precision.storage.round(np.array([[np.nan], [top], [-top]]))
    zero, one = (precision.storage.round(np.full((1, 1), v)) for v in (0, 1))
    y = dense.forward(device, register_blocked, precision, *map(device.array, (x, one, zero[0])), name)
    y = device.to_host(y).astype(np.float64)[:, 0]
    assert np.isnan(y[0])
    np.testing.assert_array_equal(y[1:], dense.ACTIVATIONS[name].f(np.array([top, -top])))


# ---- softmax and cross-entropy

def losses(device, precision, rung, Z, y, factor=1.0):
    loss, hit, dZ = cross_entropy.launch(
        device, rung, precision, device.array(Z, precision.storage), device.array(np.array(y, np.int32)),
        device.array(np.atleast_1d(factor), precision.accum))
    return [device.to_host(a).astype(np.float64) for a in (loss, hit, dZ)]


RUNGS = pytest.mark.parametrize("rung", [cross_entropy.serial, cross_entropy.warp], ids=lambda rung: rung.name)


@RUNGS
def test_cross_entropy_is_scikit_learns(device, rung):
    rng = np.random.default_rng(0)
    Z, y = rng.standard_normal((50, 7)) * 3, rng.integers(0, 7, 50)
    loss, hit, dZ = losses(device, FP64, rung, Z, y, factor=1 / 50)
    p = scipy.special.softmax(Z, axis=1)
    np.testing.assert_allclose(loss.mean(), log_loss(y, p, labels=np.arange(7)), rtol=1e-13)
    np.testing.assert_allclose(dZ, (p - np.eye(7)[y]) / 50, atol=1e-16)
    assert hit.sum() == (Z.argmax(axis=1) == y).sum()


@RUNGS
def test_extreme_logits(device, precision, rung):
    """Without the shift by the maximum, exp overflows float16 at 12; with it, nothing does."""
    big = min(precision.storage.max, precision.accum.max) / 4
    loss, hit, dZ = losses(device, precision, rung, [[big, 0, 0], [0, 0, -big], [30, 30, 30]], [0, 2, 1])
    np.testing.assert_array_equal(loss[0], 0)
    assert np.isfinite(loss).all() and abs(loss[1] / big - 1) < 0.01
    np.testing.assert_array_equal(dZ[0], 0)
    np.testing.assert_allclose(dZ[2], [1 / 3, -2 / 3, 1 / 3], rtol=4 * precision.u)
    np.testing.assert_array_equal(hit, [1, 0, 0])    # of equal logits, the first is the prediction


@RUNGS
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_shows(device, precision, rung, bad):
    loss, _, dZ = losses(device, precision, rung, [[0, bad, 1], [0, 0, 0]], [0, 0])
    assert np.isnan(loss[0]) and np.isnan(dZ[0]).any() and np.isfinite(dZ[1]).all()


@RUNGS
@pytest.mark.parametrize("name", ["fp64", "fp16"])
def test_a_factor_for_each_row(device, rung, name):
    """Within the bound of the operation, whose oracle takes either; and the loss does not see it."""
    precision, rng = PRECISIONS[name], np.random.default_rng(0)
    Z, y = precision.storage.round(rng.standard_normal((9, 5))), rng.integers(-1, 5, 9).astype(np.int32)
    factor = precision.accum.round(rng.random(9))
    exact = cross_entropy.oracle(Z, y, factor)
    for mine, right, bound in zip(losses(device, precision, rung, Z, y, factor), exact,
                                  cross_entropy.error_bound(precision, Z, y, factor)):
        assert (abs(mine - right) <= bound).all()
    np.testing.assert_array_equal(exact[0], cross_entropy.oracle(Z, y, np.ones(1))[0])


# ---- random numbers

def test_philox_known_answers():
    """The known answers of Random123, the authors' library."""
    for counter, key, answer in (
            ((0, 0, 0, 0), (0, 0), (0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8)),
            ((0xffffffff,) * 4, (0xffffffff,) * 2, (0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd)),
            ((0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344), (0xa4093822, 0x299f31d0),
             (0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1))):
        assert tuple(int(w) for w in philox.philox_oracle(counter, key)) == answer


def test_uniform_numbers_are_prefixes_of_each_other(device):
    """Precisions differ in how many bits of the same number they have room for; and the numbers are uniform."""
    key, index = np.array([7, 3], np.int32), np.arange(20000, dtype=np.int32)
    numbers = {name: device.to_host(philox.launch(
        device, philox.elementwise, PRECISIONS[name], device.array(key), device.array(index))).astype(np.float64)
        for name in ("fp64", "fp32", "fp16")}
    for name, bits in ("fp32", 24), ("fp16", 11):
        np.testing.assert_array_equal(numbers[name], np.floor(numbers["fp64"] * 2 ** bits) / 2 ** bits)
    counts, _ = np.histogram(numbers["fp64"], bins=20, range=(0, 1))
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8    # chi squared, 19 degrees of freedom, 1 in 1000
    other = philox.uniform_oracle((7, 4), index)
    assert abs(np.corrcoef(numbers["fp64"], other)[0, 1]) < 0.03


def test_permutations(device):
    """Each index once, whatever n; another epoch has another order, and so has another seed."""
    for n in [*range(1, 70), 1000]:
        index = np.arange(n, dtype=np.int32)
        orders = [device.to_host(philox.launch(device, philox.walk, FP64, device.array(np.array(key, np.int32)),
                                               device.array(index))) for key in ((0, 0), (0, 1), (1, 0))]
        assert all(np.array_equal(np.sort(order), index) for order in orders)
    assert len({order.tobytes() for order in orders}) == 3


def test_permutations_mix():
    """Where an element goes is uniform: over many epochs, each place gets each element about as often."""
    counts = np.zeros((10, 10))
    for epoch in range(2000):
        counts[np.arange(10), philox.permutation_oracle((5, epoch), np.arange(10))] += 1
    assert ((counts - 200) ** 2 / 200).sum() < 81 + 4 * np.sqrt(2 * 81)


def test_batches_cover_an_epoch(device):
    """Each sample once an epoch, the last batch filled up with zeros; without shuffling, in order."""
    N, B = 23, 8
    X = np.arange(1.0, N + 1)[:, None] * np.ones(3)
    labels, rung = np.arange(N, dtype=np.int32), highest_rung("batch", FP64, device.compute_capability)
    for shuffle in True, False:
        seen = []
        for position in range(3):
            state = np.zeros(batch.STATE, np.int64)
            state[batch.POSITION] = position
            state = device.array(state)
            rows, y, x = device.empty(B, np.int32), device.empty(B, np.int32), device.empty((B, 3), FP64.storage)
            factor = device.empty(1, FP64.accum)
            batch.select(device, rung, FP64, device.array(labels), state, device.array(np.array([4.0])), rows, y,
                         factor, shuffle)
            batch.copy(device, rung, FP64, device.array(X), rows, x)
            x, y, count = device.to_host(x), device.to_host(y), device.to_host(state)[batch.COUNT]
            assert count == (8 if position < 2 else 7) and device.to_host(factor)[0] == 4 / count
            np.testing.assert_array_equal(x, (y + 1.0)[:, None] * np.ones(3))    # 0 where y is -1
            seen += y[y >= 0].tolist()
        assert sorted(seen) == list(range(N)) and (seen == sorted(seen)) == (not shuffle)


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
