"""least_squares: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
import pytest
from ladders import Ladder

from numprec.kernels import operations
from numprec.kernels.equations import least_squares
from numprec.kernels.equations.refinement import wider as wider_of
from numprec.kernels.equations.units import Info
from numprec.precision import PRECISIONS

LINE = np.array([[1], [2], [3]]), np.array([[1], [3], [5]])    # y = 2 x - 1
EXAMPLES = {
    "least_squares": ((*LINE, np.ones(1)), [[2]]),
}
FP16, FP64 = PRECISIONS["fp16"], PRECISIONS["fp64"]
OPERATION = operations()["least_squares"]


class TestLeastSquares(Ladder):
    chapter = "least_squares"
    examples = EXAMPLES

    def as_good(self, operation, rung, precision):
        if rung.name == "refine":
            return "the residual is formed one format wider, so that a lower precision reaches the same solution"
        if "mixed" in precision.name:
            return ("centred columns are rounded to compute, and the condition number carries that error, the larger "
                    "one, on")
        return None


def fit(device, name, precision, X, Y, v=None, **options):
    v = np.ones(1) if v is None else v
    arrays = (device.array(a, precision.storage) for a in (X, Y, v))
    rung = OPERATION.rung(name)
    return least_squares.solve(device, rung, precision, *arrays, **options).to_host(device)


def unscaled(result, D):
    scale = result.units.scale.astype(np.float64)
    return result.W.astype(np.float64) * scale[:D, None] / scale[D:]


def test_pivoting_takes_the_largest_first(device, precision):
    rng = np.random.default_rng(0)
    X = rng.permuted(np.linspace(-1, 1, 64)[:, None] * np.ones(5), axis=0) * [0.51, 1, 0.6, 0.8, 0.7]
    result = fit(device, "qr", precision, X, X[:, :1], scale=False)
    diagonal = abs(np.diag(result.R))[:5].astype(np.float64)
    assert result.info[Info.RANK] == 5 and sorted(result.order) == list(range(5)) and result.order[0] == 1
    assert np.all(diagonal[1:] <= diagonal[:-1] * (1 + 50 * precision.accum.u))


@pytest.mark.parametrize("rank, D", [(0, 3), (1, 1), (2, 5), (4, 9), (16, 17), (3, 40)])
def test_least_norm(device, rank, D):
    """Against the pseudoinverse, on columns in different units; which is the norm of what counts."""
    rng = np.random.default_rng(rank)
    X = rng.standard_normal((60, rank)) @ rng.standard_normal((rank, D)) * 4.0 ** rng.integers(-2, 3, D)
    Y = rng.standard_normal((60, 2))
    result = fit(device, "qr", FP64, X, Y)
    A, B = X - X.mean(axis=0), Y - Y.mean(axis=0)
    assert result.info[Info.RANK] == rank
    np.testing.assert_allclose(unscaled(result, D), np.linalg.pinv(A, rcond=1e-12) @ B, rtol=1e-9, atol=1e-12)


def test_least_norm_over_the_whole_range_of_units(device):
    """Units further apart than float16 reaches; a plain square would underflow to nothing, and divide by it."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 6)) * 2.0 ** np.array([-14, -8, 0, 4, 9, 13])
    X = np.c_[X, X[:, 2]]
    result = fit(device, "qr", FP16, X, rng.standard_normal((50, 1)))
    assert result.info[Info.RANK] == 6 and np.isfinite(result.W.astype(np.float64)).all()


@pytest.mark.parametrize("name", ["cholesky", "qr", "refine"])
def test_one_block_and_grids_agree(device, precision, name, monkeypatch):
    rng = np.random.default_rng(0)
    X, Y, v = rng.standard_normal((2100, 3)), rng.standard_normal((2100, 2)), rng.uniform(0.3, 1, 2100)
    one = fit(device, name, precision, X, Y, v)
    monkeypatch.setattr(least_squares, "fits_one_block", lambda N, P: False)
    many = fit(device, name, precision, X, Y, v)
    tolerance = 40 * (wider_of(precision) if name == "refine" else precision).u
    np.testing.assert_allclose(unscaled(one, 3), unscaled(many, 3), atol=tolerance)
    assert one.info[Info.RANK] == many.info[Info.RANK] == 3


def test_residuals_are_one_format_higher():
    wider = {name: wider_of(p).accum.name for name, p in PRECISIONS.items()}
    assert wider == {"fp64": "float64", "fp32": "float64", "fp16": "float32", "mixed_fp16": "float32",
                     "mixed_bf16": "float32"}


@pytest.mark.parametrize("name", ["fp16", "mixed_bf16", "fp32"])
def test_a_correction_gains_the_digits_of_the_factor(device, name):
    """Each pass multiplies the error by about k^2 u of the factor, down to the wider format's own."""
    precision = PRECISIONS[name]
    rng = np.random.default_rng(5)
    X, Y = precision.storage.round(rng.standard_normal((80, 4))), precision.storage.round(rng.standard_normal((80, 1)))
    exact = least_squares.oracle(X, Y, np.ones(1))
    wide = wider_of(precision)
    errors = []
    for iterations in range(4):
        arrays = (device.array(a, wide.storage) for a in (X, Y, np.ones(1)))
        rung = OPERATION.rung("refine")
        result = least_squares.solve(device, rung, precision, *arrays, iterations=iterations).to_host(device)
        errors.append(np.linalg.norm(unscaled(result, 4) - exact) / np.linalg.norm(exact))
    limit = 20 * wide.accum.u
    for before, after in zip(errors, errors[1:]):
        assert after <= max(before * 50 * precision.u, limit)
    assert errors[0] > 1000 * errors[-1] and errors[-1] <= limit
