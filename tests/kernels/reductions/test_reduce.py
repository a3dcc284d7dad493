"""reduce: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
import pytest
from ladders import OPERATIONS, U64, Ladder, exact_dot, fused_chain, oracle, problem, run

from numprec.harness.measure import profiling
from numprec.kernels import operations
from numprec.kernels.reductions import reduce
from numprec.language.ladder import KINDS
from numprec.precision import FORMATS, PRECISIONS

EXAMPLES = {
    "sum": ((np.arange(1, 1001),), 500500),
    "dot": ((np.arange(1, 101), np.arange(1, 101)), 338350),
}
FP16 = PRECISIONS["fp16"]
FP32 = PRECISIONS["fp32"]


class TestReduce(Ladder):
    chapter = "reduce"
    examples = EXAMPLES


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 31, 257, 4096])
def test_float16_dot_is_the_fused_chain(device, n, kind):
    x, y = problem(OPERATIONS["dot"], (n,), kind, FP16)
    result, = run(device, OPERATIONS["dot"], reduce.serial, FP16, (x, y))
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(result[0], fused_chain(x.astype(np.float64) * y.astype(np.float64)))


def test_float16_stops_counting_at_2048(device):
    """1 is half of the last bit of 2048, and the tie goes to the even 2048. A tree never adds so unequal numbers."""
    ones = np.ones(4096, np.float16)
    for rung, expected in (reduce.serial, 2048), (reduce.tree, 4096), (reduce.shuffle, 4096):
        assert run(device, OPERATIONS["sum"], rung, FP16, [ones])[0] == expected
    assert run(device, OPERATIONS["sum"], reduce.serial, PRECISIONS["mixed_fp16"], [ones])[0] == 4096


def test_the_oracle_of_sum():
    x = np.ldexp(np.random.default_rng(0).standard_normal(1000), np.random.default_rng(1).integers(-30, 30, 1000))
    assert abs(oracle("sum", x) - exact_dot(x, np.ones(1000))) <= 1000 * U64 * np.sum(abs(x))


def test_the_oracle_of_dot():
    x, y = np.random.default_rng(0).standard_normal((2, 1000))
    assert abs(oracle("dot", x, y) - exact_dot(x, y)) <= 1000 * U64 * np.sum(abs(x * y))


def test_the_bound_of_a_sum_is_reached():
    """1 + u + u + ... from left to right loses each u: an error of (n - 1) u, the bound to first order."""
    n, u = 100, FORMATS["float16"].u
    x = np.array([1] + [u] * (n - 1), np.float16)
    total = x[0]
    for element in x[1:]:
        total = np.float16(total + element)
    bound = OPERATIONS["sum"].error_bound(PRECISIONS["fp16"], x)
    assert 0.9 * bound < abs(float(total) - oracle("sum", x)) <= bound


def test_an_addition_that_one_lane_needs_is_counted_once_a_warp():
    """The compiler moves the last one of each warp's sum to the lane that writes it."""
    operation = operations()["sum"]
    found = profiling.counted(profiling.launched(operation, operation.rung("shuffle"), FP32, (256,)))
    every_thread, warps, first = 256, 8, 1                  # 256 threads in 8 warps; the first thread writes the result
    assert found["flops"] == (1 + 4) * every_thread + warps + 4 * every_thread + first
