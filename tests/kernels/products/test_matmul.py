"""matmul: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
import pytest
from ladders import OPERATIONS, U64, Ladder, exact_dot, fused_chain, oracle, problem, run, violations

from numprec.kernels.products import matmul
from numprec.language.ladder import KINDS
from numprec.precision import PRECISIONS

EXAMPLES = {
    "matmul": ((np.tril(np.ones((7, 7))), np.eye(7) - np.eye(7, k=-1)), np.eye(7)),
    "matmul_ta": ((np.triu(np.ones((7, 7))), np.eye(7) - np.eye(7, k=-1)), np.eye(7)),
    "matmul_tb": ((np.tril(np.ones((7, 7))), np.eye(7) - np.eye(7, k=1)), np.eye(7)),
}
FP16 = PRECISIONS["fp16"]


class TestMatmul(Ladder):
    chapter = "matmul"
    examples = EXAMPLES


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", OPERATIONS["matmul"].shapes, ids=str)
@pytest.mark.parametrize("rung", OPERATIONS["matmul"].rungs, ids=lambda rung: rung.name)
def test_float16_matmul_is_the_fused_chain(device, rung, shape, kind):
    A, B = problem(OPERATIONS["matmul"], shape, kind, FP16)
    C, = run(device, OPERATIONS["matmul"], rung, FP16, (A, B))
    with np.errstate(invalid="ignore"):
        products = A.T.astype(np.float64)[:, :, None] * B.astype(np.float64)[:, None, :]
    np.testing.assert_array_equal(C, fused_chain(products))    # of zeros, either sign will do


TRANSPOSED = ("a", "b", "ab")
EPILOGUES = [(p, "") for p in PRECISIONS.values()] + [(PRECISIONS["fp32"], which) for which in TRANSPOSED]


@pytest.mark.parametrize("precision, transposed", EPILOGUES, ids=str)
@pytest.mark.parametrize("rung", OPERATIONS["matmul"].rungs, ids=lambda rung: rung.name)
def test_epilogue(device, rung, precision, transposed):
    """Bias and rectifier, applied to the sum before its one rounding to storage."""
    A, B = problem(OPERATIONS["matmul"], (17, 70, 31), "random", precision)
    bias = precision.storage.round(np.random.default_rng(1).standard_normal(70))
    exact = np.maximum(matmul.oracle(A, B) + bias.astype(np.float64), 0)
    bound = matmul.error_bound(precision, A, B) + (precision.storage.u + precision.accum.u) * (exact + abs(
        bias.astype(np.float64)))
    a, b = (np.ascontiguousarray(X.T if x in transposed else X) for x, X in (("a", A), ("b", B)))
    C = matmul.launch(device, rung, precision, device.array(a), device.array(b), transpose_a="a" in transposed,
                      transpose_b="b" in transposed, epilogue=biased_rectifier, extra=device.array(bias))
    C = device.to_host(C)
    assert not violations(C, exact, bound).any()
    assert (C == 0).any() and (C.astype(np.float64) > 0).any()


def biased_rectifier(p):
    from numba import cuda
    accum = p.accum

    @cuda.jit(device=True)
    def biased_rectifier(acc, m, n, bias):
        return max(acc + accum(bias[n]), accum(0))
    return biased_rectifier


def test_transposing_changes_no_bit(device, precision):
    """The operand's place in memory decides who reads what, not who adds what."""
    A, B = problem(OPERATIONS["matmul"], (33, 65, 63), "random", precision)
    plain = [run(device, OPERATIONS["matmul"], rung, precision, (A, B))[0] for rung in OPERATIONS["matmul"].rungs]
    left = [run(device, OPERATIONS["matmul_ta"], rung, precision, (np.ascontiguousarray(A.T), B))[0]
            for rung in OPERATIONS["matmul"].rungs]
    right = [run(device, OPERATIONS["matmul_tb"], rung, precision, (A, np.ascontiguousarray(B.T)))[0]
             for rung in OPERATIONS["matmul"].rungs]
    assert len({C.tobytes() for C in plain + left + right}) == 1    # nor does the rung: all walk k upwards


def test_the_oracle_of_matmul():
    """A Vandermonde matrix evaluates polynomials."""
    points = np.arange(5)
    np.testing.assert_array_equal(oracle("matmul", np.vander(points, 4), np.array([[2], [-3], [0], [1]])).ravel(),
                                  2 * points ** 3 - 3 * points ** 2 + 1)
    A, B = np.random.default_rng(0).standard_normal((2, 8, 8))
    exact = [[exact_dot(row, column) for column in B.T] for row in A]
    assert np.all(abs(oracle("matmul", A, B) - exact) <= 8 * U64 * (abs(A) @ abs(B)))
    for name, left, right in ("matmul_ta", A.T, B), ("matmul_tb", A, B.T):
        np.testing.assert_allclose(oracle(name, left, right), A @ B, rtol=1e-12, atol=1e-14)
