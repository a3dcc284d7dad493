"""cross_entropy: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
import pytest
import scipy.special
from ladders import Ladder
from sklearn.metrics import log_loss

from numprec.kernels.networks import cross_entropy
from numprec.precision import PRECISIONS

EXAMPLES = {
    "cross_entropy": ((np.array([[0, np.log(3)], [5, 5]]), np.array([0, -1]), np.array([2])),
                      ([np.log(4), 0], [0, 0], [[-1.5, 1.5], [0, 0]])),
}
FP64 = PRECISIONS["fp64"]
RUNGS = pytest.mark.parametrize("rung", [cross_entropy.serial, cross_entropy.warp], ids=lambda rung: rung.name)


class TestCrossEntropy(Ladder):
    chapter = "cross_entropy"
    examples = EXAMPLES


def losses(device, precision, rung, Z, y, factor=1.0):
    loss, hit, dZ = cross_entropy.launch(
        device, rung, precision, device.array(Z, precision.storage), device.array(np.array(y, np.int32)),
        device.array(np.atleast_1d(factor), precision.accum))
    return [device.to_host(a).astype(np.float64) for a in (loss, hit, dZ)]


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
