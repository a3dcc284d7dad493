"""The chapters of the convolutional network beyond their oracles: windows of any kind, pooling, moments, gradients."""
import numpy as np
import pytest

from numprec import device as devices
from numprec.kernels import operations
from numprec.kernels.images import augment, batch_moments, batch_norm, conv, im2col, pooling
from numprec.kernels.images.im2col import Window, window
from numprec.kernels.networks import cross_entropy
from numprec.kernels.networks.batch import APPLY, COUNT, SEED, STATE, STEP
from numprec.models.layers import BatchNorm, Conv, Pool, parse
from numprec.models.network import Dense, Network
from numprec.precision import PRECISIONS

OPERATIONS = operations()
FP32, FP64 = PRECISIONS["fp32"], PRECISIONS["fp64"]


def rounded(precision, *arrays):
    return [precision.storage.round(a) for a in arrays]


def within(result, exact, error):
    return (abs(result.astype(np.float64) - exact) <= error).all()


def state_of(device, **values):
    state = np.zeros(STATE, np.int64)
    for name, value in values.items():
        state[{"apply": APPLY, "count": COUNT, "seed": SEED, "step": STEP}[name]] = value
    return device.array(state)


# ---- windows

@pytest.mark.parametrize("image, size, stride, padding, expected", [
    ((5, 7), (3, 3), 1, "same", Window(3, 3, 1, 1, 1, 5, 7)),
    ((5, 7), (3, 3), 1, "valid", Window(3, 3, 1, 0, 0, 3, 5)),
    ((6, 7), (3, 3), 2, "same", Window(3, 3, 2, 0, 1, 3, 4)),    # one row of padding goes below
    ((6, 7), (2, 2), 2, "valid", Window(2, 2, 2, 0, 0, 3, 3)),
    ((4, 4), (2, 2), 1, "same", Window(2, 2, 1, 0, 0, 4, 4)),
    ((1, 9), (3, 3), 1, "same", Window(1, 3, 1, 0, 1, 1, 9)),    # cut down to the image
    ((1, 1), (2, 2), 2, "valid", Window(1, 1, 2, 0, 0, 1, 1)),
    ((8, 5), (1, 4), 3, "same", Window(1, 4, 3, 0, 1, 3, 2))])
def test_window(image, size, stride, padding, expected):
    assert window(image, size, stride, padding) == expected


GEOMETRIES = [    # images, size of the windows, stride, padding, channels, filters
    ((2, 5, 7), (3, 3), 1, "valid", 3, 5), ((2, 5, 6), (2, 2), 1, "same", 1, 33), ((1, 9, 4), (5, 3), 1, "same", 7, 2),
    ((3, 6, 7), (3, 3), 2, "same", 4, 9), ((2, 8, 8), (1, 1), 2, "valid", 3, 3), ((2, 9, 5), (2, 4), 3, "same", 5, 65),
    ((1, 11, 10), (4, 4), 3, "valid", 2, 3), ((3, 20, 21), (3, 2), 1, "same", 3, 4)]    # the last: many rows


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: "-".join(map(str, g)).replace(" ", ""))
def test_windows_of_any_kind(device, geometry, activation):
    """Every rung, forward and backward, within the bounds; what im2col and col2im do is in `unfolded`."""
    (B, H, W), size, stride, padding, C, O = geometry    # noqa: E741
    view = window((H, W), size, stride, padding)
    rng = np.random.default_rng(0)
    X, F, b, dZ = rounded(FP32, np.tanh(rng.standard_normal((B, H, W, C))),
                          rng.standard_normal((view.R, view.S, C, O)), rng.standard_normal(O),
                          rng.standard_normal((B, view.P, view.Q, O)))
    x, f, bias, dz = map(device.array, (X, F, b, dZ))
    for rung in OPERATIONS["conv"].rungs:
        Z = device.to_host(conv.forward(device, rung, FP32, x, f, bias, view, activation))
        assert within(Z, conv.oracle(X, F, b, view, activation),
                      conv.error_bound(FP32, X, F, b, view, activation)), rung
    for rung in OPERATIONS["conv_weight_gradient"].rungs:
        dF = device.to_host(conv.weight_gradient(device, rung, FP32, x, dz, view)).reshape(-1, O)
        assert within(dF, conv.columns_of(X, view).T @ conv.matrix(dZ),
                      conv.weight_error_bound(FP32, X, dZ, view)), rung
    for rung in OPERATIONS["conv_input_gradient"].rungs:
        dX = device.to_host(conv.input_gradient(device, rung, FP32, dz, f, x, view, activation))
        expected = conv.input_computed(FP32, dZ, F, X, view, activation)
        assert within(dX, expected.exact, expected.error), rung


def test_unfolding_changes_no_bit(device, precision):
    """All rungs add up r, s, c in the same order, and a product with the padding adds exactly nothing."""
    arrays = map(precision.storage.round, conv.layers(np.random.default_rng(0), (2, 5, 7, 3, 33), "random", precision))
    X, F, bias, _ = map(device.array, arrays)
    results = [device.to_host(conv.forward(device, rung, precision, X, F, bias, im2col.near(X)))
               for rung in OPERATIONS["conv"].rungs]
    assert len({r.tobytes() for r in results}) == 1


def test_the_oracle_is_a_sum_over_windows():
    """By four loops, and its gradients by transposition: <conv(x), z> = <x, input gradient of z> and so on."""
    rng = np.random.default_rng(0)
    X, F, dZ = (rng.standard_normal(shape) for shape in ((2, 6, 5, 3), (3, 2, 3, 4), (2, 3, 3, 4)))
    view = window((6, 5), (3, 2), 2, "same")
    assert view[3:] == (0, 0, 3, 3)
    Z = conv.oracle(X, F, np.zeros(4), view, "identity")
    for p in range(3):
        for q in range(3):
            patch = np.zeros((2, 3, 2, 3))
            part = X[:, 2 * p:2 * p + 3, 2 * q:2 * q + 2]
            patch[:, :part.shape[1], :part.shape[2]] = part
            np.testing.assert_allclose(Z[:, p, q], np.einsum("brsc,rsco->bo", patch, F), atol=1e-13)
    dX = conv.input_computed(FP64, dZ, F, X, view, "identity").exact
    dF = (conv.columns_of(X, view).T @ conv.matrix(dZ)).reshape(F.shape)
    assert np.sum(Z * dZ) == pytest.approx(np.sum(X * dX)) == pytest.approx(np.sum(F * dF))


# ---- pooling

@pytest.mark.parametrize("size, stride", [((2, 2), 2), ((3, 2), 1), ((2, 3), 3), ((9, 9), 9)], ids=str)
def test_pooling_of_any_kind(device, size, stride):
    rng = np.random.default_rng(0)
    X = np.round(rng.standard_normal((2, 7, 6, 5)), 1).astype(np.float32)    # with ties
    view = window(X.shape[1:3], size, stride)
    Y, where = pooling.max_oracle(X, view)
    dY = rng.standard_normal(Y.shape).astype(np.float32)
    rungs = {name: OPERATIONS[name].rungs[-1] for name in OPERATIONS if "pool" in name}
    x, dy = device.array(X), device.array(dY)
    got, places = pooling.max_pool(device, rungs["max_pool"], FP32, x, view)
    np.testing.assert_array_equal(device.to_host(got), Y)
    np.testing.assert_array_equal(device.to_host(places), where)
    averaged, expected = pooling.average_pool(device, rungs["average_pool"], FP32, x, view), \
        pooling.average_computed(FP32, X, view)
    assert within(device.to_host(averaged).reshape(expected.exact.shape), expected.exact, expected.error)
    for dx, expected in (
            (pooling.max_gradient(device, rungs["max_pool_gradient"], FP32, dy, places, x, view, "tanh"),
             pooling.max_gradient_computed(FP32, dY, where, X, view, "tanh")),
            (pooling.average_gradient(device, rungs["average_pool_gradient"], FP32, dy, x, view, "tanh"),
             pooling.average_gradient_computed(FP32, dY, X, view, "tanh"))):
        assert within(device.to_host(dx), expected.exact, expected.error)


def test_max_pooling_keeps_a_nan(device, precision):
    X = np.zeros((1, 2, 4, 1))
    X[0, 1, 0], X[0, 0, 2], X[0, 0, 3] = np.nan, -np.inf, np.inf
    Y, where = pooling.max_pool(device, pooling.elementwise, precision, device.array(X, precision.storage),
                                window((2, 4), (2, 2), 2))
    np.testing.assert_array_equal(device.to_host(Y).astype(np.float64).ravel(), [np.nan, np.inf])
    np.testing.assert_array_equal(device.to_host(where).ravel(), [4, 3])


# ---- moments and normalisation

def test_moments_of_many_rows(device, precision):
    """A hundred thousand rows of mean 1000: their number and their sums are beyond the range of float16, and sums of
    squares would cancel."""
    rng = np.random.default_rng(0)
    X, = rounded(precision, 1000 + 8 * rng.integers(-2, 3, (100_003, 2)))
    mean, var = batch_moments.launch(device, batch_moments.strips, precision, device.array(X),
                                     state_of(device, count=100_000), 1)
    exact = X[:100_000].astype(np.float64)
    u = precision.accum.u
    np.testing.assert_allclose(device.to_host(mean), exact.mean(axis=0), rtol=100 * u)
    np.testing.assert_allclose(device.to_host(var), exact.var(axis=0), rtol=max(1e-9, 600 * u))


def test_running_moments(device, precision):
    """They move a tenth of the way towards those of each batch, unless it is skipped, or these are not finite."""
    running = np.array([1, 2, -3, 0.5])
    for apply in 1, 0:
        for fresh in [2, 4, 0, -1.5], [np.nan, 4, np.inf, -np.inf]:
            moved = device.array(running, precision.accum)
            fresh_there = device.array(np.array(fresh), precision.accum)
            batch_moments.move(device, batch_moments.elementwise, precision, fresh_there, moved,
                               state_of(device, apply=apply), out=moved)
            expected = np.where(np.isfinite(fresh) & (apply == 1), 0.9 * running + 0.1 * np.array(fresh), running)
            np.testing.assert_allclose(device.to_host(moved).astype(np.float64), expected, rtol=4 * precision.accum.u)


def test_padding_rows_change_nothing(device, precision):
    """Neither moments, results nor gradients of the true rows; three rows a sample."""
    rng = np.random.default_rng(0)
    X, dZ, gamma, beta = rounded(precision, rng.standard_normal((12, 5)), rng.standard_normal((12, 5)),
                                 rng.uniform(1, 2, 5), rng.standard_normal(5))

    def run(rows):
        state = state_of(device, count=2)
        x, dz, g, b = map(device.array, (X[:rows], dZ[:rows], gamma, beta))
        mean, var = batch_moments.launch(device, batch_moments.strips, precision, x, state, 3)
        y = batch_norm.forward(device, batch_norm.elementwise, precision, x, mean, var, g, b, state, 3)
        parts = batch_norm.gradient(device, batch_norm.strips, precision, dz, x, mean, var, g, state, 3)
        return [device.to_host(a) for a in (mean, var, y, *parts)]
    for few, many in zip(run(6), run(12)):
        np.testing.assert_array_equal(many[:len(few)], few)
        assert not many[len(few):].any()


# ---- augmentation

def test_augmentation_moves_and_mirrors(device):
    """Every image is a mirrored or plain window of the padded one, each about as often, and another one each step."""
    X = np.arange(1.0, 301).reshape(1, 5, 20, 3) * np.ones((200, 1, 1, 1))
    Y = [device.to_host(augment.launch(device, augment.shift, FP64, device.array(X),
                                       state_of(device, seed=7, step=step), 2)) for step in (0, 1)]
    padded = np.pad(X[0], ((2, 2), (2, 2), (0, 0)))
    found = {}
    for v in range(5):
        for u in range(5):
            for mirrored in False, True:
                image = padded[v:v + 5, u:u + 20]
                found[v, u, mirrored] = (image[:, ::-1] if mirrored else image).tobytes()
    kinds = {image: kind for kind, image in found.items()}
    seen = [kinds[y.tobytes()] for y in Y[0]]
    counts = [np.bincount([int(kind[i]) for kind in seen]) for i in range(3)]
    assert all(count.min() > 200 / len(count) / 2 for count in counts)
    assert [kinds[y.tobytes()] for y in Y[1]] != seen


def test_augmentation_is_the_same_in_every_precision(device, precision):
    X = np.random.default_rng(0).integers(0, 128, (4, 6, 6, 2)).astype(np.float64)    # exact in all formats
    state = state_of(device, seed=1, step=2)
    Y = augment.launch(device, augment.shift, precision, device.array(X, precision.storage), state)
    np.testing.assert_array_equal(device.to_host(Y).astype(np.float64), augment.oracle(X, device.to_host(state)))


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
