"""What the chapters on equations promise besides the error bounds that ladders.py checks."""
import numpy as np
import pytest

from numprec.kernels import operations
from numprec.kernels.equations import cholesky, gram, least_squares, qr, triangular
from numprec.kernels.equations.refinement import wider as wider_of
from numprec.kernels.equations.units import TILE, Info, Units, deal
from numprec.precision import PRECISIONS

OPERATIONS = operations()
FP16, FP64 = PRECISIONS["fp16"], PRECISIONS["fp64"]
GRAMS = OPERATIONS["gram"].rungs
CHOLESKYS = OPERATIONS["cholesky"].rungs


def moments(device, rung, precision, X, Y, v=None, **options):
    """Units and G on the host, in float64."""
    v = np.ones(1) if v is None else v
    parts = gram.launch(device, rung, precision, *(device.array(a, precision.storage) for a in (X, Y, v)), **options)
    *units, G = (device.to_host(part).astype(np.float64) for part in parts)
    return Units(*units), G


def by_name(rungs):
    return {"argvalues": rungs, "ids": [rung.name for rung in rungs]}


# ---- gram

@pytest.mark.parametrize("rung", **by_name(GRAMS))
@pytest.mark.parametrize("value", [0.0, 0.1, -3e4, 6e-8])
def test_a_constant_column_is_exactly_zero(device, rung, precision, value):
    X = np.c_[np.full(37, value), np.arange(37)]
    units, G = moments(device, rung, precision, X, np.arange(37.0)[:, None])
    assert not G[0].any() and not G[:, 0].any() and (G[1:, 1:] > 0).all()
    assert units.shift[0] + units.mean[0] / units.scale[0] == precision.storage.round(value).astype(np.float64)


@pytest.mark.parametrize("rung", **by_name(GRAMS))
def test_years_keep_their_digits(device, rung):
    """Whole numbers up to 2048 are exact in float16; sums of them, or of their squares, would not be."""
    years = np.repeat(np.arange(2000, 2021), 21)[:, None]
    units, G = moments(device, rung, FP16, years, years)
    mean = units.shift[0] + units.mean[0] / units.scale[0]
    variance = gram.readout((*units, G), years, years, np.ones(1))[1][0, 0] / len(years)
    assert abs(mean - 2010) < 0.1 and variance == pytest.approx(years.var(), rel=0.05)


@pytest.mark.parametrize("rung", **by_name(GRAMS))
def test_powers_of_two_change_no_bit(device, rung, precision):
    rng = np.random.default_rng(0)
    X, Y = precision.storage.round(rng.standard_normal((41, 3))), precision.storage.round(rng.standard_normal((41, 1)))
    _, G = moments(device, rung, precision, X, Y)
    _, same = moments(device, rung, precision, X.astype(np.float64) * [2.0 ** 5, 1, 2.0 ** -3], Y)
    np.testing.assert_array_equal(G, same)


@pytest.mark.parametrize("rung", **by_name(GRAMS))
def test_half_precision_lasts_for_many_rows(device, rung):
    """Sums of strips, scaled, then of those: a sum in one go stops growing at 2048."""
    N = 5000
    X, Y = np.random.default_rng(0).choice([-1.0, 1.0], (N, 1)), np.ones((N, 1))
    _, G = moments(device, rung, FP16, X, Y)
    exact = gram.oracle(X, Y, np.ones(1))[1][0, 0] / 2.0 ** np.ceil(np.log2(N))
    assert (abs(G[0, 0] / exact - 1) < 0.01) == (rung not in (gram.naive, gram.product))


@pytest.mark.parametrize("rung", **by_name(GRAMS))
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


def test_deal_leaves_no_block_without_a_row():
    for N in [*range(1, 300), 4095, 4097, 1_000_000, 1_000_003, 50_000_000]:
        for P in 1, 16, 17, 100, 1000:
            rows, blocks = deal(N, P)
            assert rows % TILE == 0 and (blocks - 1) * rows < N <= blocks * rows


# ---- cholesky

def factor(device, rung, precision, A):
    """R and the number of good pivots."""
    D = len(A)
    R, floor = device.empty((D, D), precision.accum), device.empty((D,), precision.accum)
    rank = device.empty((1,), np.int32)
    threads = 1 if rung.name == "serial" else (TILE, TILE)
    device.launch(rung[precision], 1, threads, device.array(A, precision.storage), R, floor, rank)
    return device.to_host(R), int(device.to_host(rank)[0])


@pytest.mark.parametrize("rung", **by_name(CHOLESKYS))
def test_breakdown(device, rung, precision):
    """Where it happens: at the first pivot that is negative, zero, lost in its rounding error, or not finite."""
    rng = np.random.default_rng(0)
    M = rng.standard_normal((6, 40))
    M[4] = M[0] - M[1] + M[2]
    singular = M @ M.T / 40
    assert factor(device, rung, precision, np.eye(9))[1] == 9
    assert factor(device, rung, precision, np.diag([1.0, 2, -1, 4]))[1] == 2
    assert factor(device, rung, precision, np.zeros((3, 3)))[1] == 0
    for bad in np.nan, np.inf, -np.inf:
        assert factor(device, rung, precision, np.diag([1, 1, 1, bad]))[1] == 3
    if precision.storage == precision.accum:    # else A is singular no longer once it is rounded
        assert factor(device, rung, precision, singular)[1] == 4
    assert factor(device, rung, precision, np.array([[1, 1], [1, 1 + precision.accum.u]]))[1] == 1


def test_rungs_of_cholesky_and_substitution_agree_to_the_bit(device, precision):
    A, = cholesky.inputs(np.random.default_rng(1), (19,), "random", precision)
    R = [factor(device, rung, precision, A)[0] for rung in CHOLESKYS]
    np.testing.assert_array_equal(R[0], R[1])
    B = device.array(np.random.default_rng(2).standard_normal((19, 3)), precision.storage)
    R = device.array(np.triu(A), precision.storage)
    X = [device.to_host(triangular.launch(device, rung, precision, R, B)) for rung in OPERATIONS["triangular"].rungs]
    np.testing.assert_array_equal(*X)


# ---- qr and least squares

def fit(device, name, precision, X, Y, v=None, **options):
    v = np.ones(1) if v is None else v
    arrays = (device.array(a, precision.storage) for a in (X, Y, v))
    rung = OPERATIONS["least_squares"].rung(name)
    return least_squares.solve(device, rung, precision, *arrays, **options).to_host(device)


def unscaled(result, D):
    scale = result.units.scale.astype(np.float64)
    return result.W.astype(np.float64) * scale[:D, None] / scale[D:]


def test_each_step_of_a_reflection_is_rounded(device):
    """In pure fp16, to the bit as in NumPy, which rounds each operation by itself: products that are used twice, and
    sums that are divided."""
    for A in np.random.default_rng(5).standard_normal((200, 2, 2)).astype(np.float16):
        R = device.to_host(qr.launch(device, qr.block, FP16, device.array(A, FP16.storage)))
        (lead, head), (below, other) = A
        norm = np.sqrt(lead * lead + below * below)
        beta = -norm if lead > 0 else norm
        first = lead - beta
        f = -first / beta * (head + below / first * other)
        assert R[0, 0] == beta and R[0, 1] == head - f


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


def test_stacks_of_factors_shrink():
    for N in 1, 1024, 1025, 10 ** 6, 10 ** 8:
        for P in 1, 11, 65, 1000:
            levels, left = qr._levels(N, P), N
            for _ in range(levels - 1):
                assert left > qr.rows_of_block(P)
                left = -(-left // qr.rows_of_block(P)) * P
            assert left <= qr.rows_of_block(P)


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
        rung = OPERATIONS["least_squares"].rung("refine")
        result = least_squares.solve(device, rung, precision, *arrays, iterations=iterations).to_host(device)
        errors.append(np.linalg.norm(unscaled(result, 4) - exact) / np.linalg.norm(exact))
    limit = 20 * wide.accum.u
    for before, after in zip(errors, errors[1:]):
        assert after <= max(before * 50 * precision.u, limit)
    assert errors[0] > 1000 * errors[-1] and errors[-1] <= limit
