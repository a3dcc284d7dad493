"""conv: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
import pytest
from image_problems import rounded, within
from ladders import OPERATIONS, Ladder

from numprec.kernels.images import conv, im2col
from numprec.kernels.images.im2col import window
from numprec.precision import PRECISIONS

LINE_OF_PIXELS = np.array([1, 2, 3]).reshape(1, 1, 3, 1)
SLOPE = np.array([1, 0, -1]).reshape(1, 3, 1, 1)
EXAMPLES = {
    "conv": ((LINE_OF_PIXELS, SLOPE, np.ones(1)), np.reshape([0, 0, 3], (1, 1, 3, 1))),
    "conv_weight_gradient": ((LINE_OF_PIXELS, np.ones((1, 1, 3, 1))), [[3], [6], [5]]),
    "conv_input_gradient": ((np.array([1, 0, 0]).reshape(1, 1, 3, 1), SLOPE, LINE_OF_PIXELS),
                            np.reshape([0, -1, 0], (1, 1, 3, 1))),
}
FP32, FP64 = PRECISIONS["fp32"], PRECISIONS["fp64"]
GEOMETRIES = [    # images, size of the windows, stride, padding, channels, filters
    ((2, 5, 7), (3, 3), 1, "valid", 3, 5), ((2, 5, 6), (2, 2), 1, "same", 1, 33), ((1, 9, 4), (5, 3), 1, "same", 7, 2),
    ((3, 6, 7), (3, 3), 2, "same", 4, 9), ((2, 8, 8), (1, 1), 2, "valid", 3, 3), ((2, 9, 5), (2, 4), 3, "same", 5, 65),
    ((1, 11, 10), (4, 4), 3, "valid", 2, 3), ((3, 20, 21), (3, 2), 1, "same", 3, 4)]    # the last: many rows


class TestConv(Ladder):
    chapter = "conv"
    examples = EXAMPLES


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
