"""gram: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
import pytest
from ladders import Ladder

from numprec.kernels import operations
from numprec.kernels.equations import gram
from numprec.kernels.equations.units import Units
from numprec.precision import PRECISIONS

LINE = np.array([[1], [2], [3]]), np.array([[1], [3], [5]])    # y = 2 x - 1
EXAMPLES = {
    "gram": ((*LINE, np.ones(1)), ([2, 3], [[2, 4], [4, 8]])),
}
FP16, FP64 = PRECISIONS["fp16"], PRECISIONS["fp64"]
GRAMS = operations()["gram"].rungs


class TestGram(Ladder):
    chapter = "gram"
    examples = EXAMPLES


def moments(device, rung, precision, X, Y, v=None, **options):
    """Units and G on the host, in float64."""
    v = np.ones(1) if v is None else v
    parts = gram.launch(device, rung, precision, *(device.array(a, precision.storage) for a in (X, Y, v)), **options)
    *units, G = (device.to_host(part).astype(np.float64) for part in parts)
    return Units(*units), G


@pytest.mark.parametrize("rung", GRAMS, ids=lambda rung: rung.name)
@pytest.mark.parametrize("value", [0.0, 0.1, -3e4, 6e-8])
def test_a_constant_column_is_exactly_zero(device, rung, precision, value):
    X = np.c_[np.full(37, value), np.arange(37)]
    units, G = moments(device, rung, precision, X, np.arange(37.0)[:, None])
    assert not G[0].any() and not G[:, 0].any() and (G[1:, 1:] > 0).all()
    assert units.shift[0] + units.mean[0] / units.scale[0] == precision.storage.round(value).astype(np.float64)


@pytest.mark.parametrize("rung", GRAMS, ids=lambda rung: rung.name)
def test_years_keep_their_digits(device, rung):
    """Whole numbers up to 2048 are exact in float16; sums of them, or of their squares, would not be."""
    years = np.repeat(np.arange(2000, 2021), 21)[:, None]
    units, G = moments(device, rung, FP16, years, years)
    mean = units.shift[0] + units.mean[0] / units.scale[0]
    variance = gram.readout((*units, G), years, years, np.ones(1))[1][0, 0] / len(years)
    assert abs(mean - 2010) < 0.1 and variance == pytest.approx(years.var(), rel=0.05)


@pytest.mark.parametrize("rung", GRAMS, ids=lambda rung: rung.name)
def test_powers_of_two_change_no_bit(device, rung, precision):
    rng = np.random.default_rng(0)
    X, Y = precision.storage.round(rng.standard_normal((41, 3))), precision.storage.round(rng.standard_normal((41, 1)))
    _, G = moments(device, rung, precision, X, Y)
    _, same = moments(device, rung, precision, X.astype(np.float64) * [2.0 ** 5, 1, 2.0 ** -3], Y)
    np.testing.assert_array_equal(G, same)


@pytest.mark.parametrize("rung", GRAMS, ids=lambda rung: rung.name)
def test_half_precision_lasts_for_many_rows(device, rung):
    """Sums of strips, scaled, then of those: a sum in one go stops growing at 2048."""
    N = 5000
    X, Y = np.random.default_rng(0).choice([-1.0, 1.0], (N, 1)), np.ones((N, 1))
    _, G = moments(device, rung, FP16, X, Y)
    exact = gram.oracle(X, Y, np.ones(1))[1][0, 0] / 2.0 ** np.ceil(np.log2(N))
    assert (abs(G[0, 0] / exact - 1) < 0.01) == (rung not in (gram.naive, gram.product))


@pytest.mark.parametrize("rung", GRAMS, ids=lambda rung: rung.name)
def test_without_scale_or_centre(device, rung):
    rng = np.random.default_rng(0)
    X, Y, v = rng.standard_normal((50, 3)) + 2, rng.standard_normal((50, 2)), rng.uniform(0.5, 1, 50)
    Z, w = np.hstack([X, Y]), (v * v)[:, None]
    units, G = moments(device, rung, FP64, X, Y, v, centre=False, scale=False)
    np.testing.assert_allclose(G, (w * Z).T @ Z, rtol=1e-13)
    assert not units.shift.any() and not units.mean.any() and (units.scale == 1).all()
    units, G = moments(device, rung, FP64, X, Y, v, centre=True, scale=False)
    A = Z - (w * Z).sum(axis=0) / w.sum()
    np.testing.assert_allclose(G, (w * A).T @ A, rtol=1e-12, atol=1e-12)
