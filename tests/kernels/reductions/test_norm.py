"""norm: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
import pytest
from ladders import OPERATIONS, U64, Ladder, exact_dot, oracle, run, violations

from numprec.kernels.reductions import norm

EXAMPLES = {
    "norm": ((np.array([3, 4]),), 5),
}


class TestNorm(Ladder):
    chapter = "norm"
    examples = EXAMPLES


@pytest.mark.parametrize("rung", OPERATIONS["norm"].rungs, ids=lambda rung: rung.name)
def test_norm_of_the_whole_range(device, rung, precision):
    """Squares of the largest and of the smallest number leave the range; the norm need not."""
    big, small = precision.storage.max / 2, precision.storage.eta
    for x, exact in ([big, big], np.hypot(big, big)), ([0, -small, 0], small), ([0, 0], 0), ([np.inf, 1], np.inf):
        x = precision.storage.round(np.array(x))
        result, = run(device, OPERATIONS["norm"], rung, precision, [x])
        bound = norm.error_bound(precision, x) if np.isfinite(exact) else 0
        assert not violations(result, exact, bound).any()


def test_the_oracle_of_norm():
    assert oracle("norm", np.array([6e4, 0], np.float16)) == np.float16(6e4)
    assert oracle("norm", np.array([3e300, 4e300])) == pytest.approx(5e300, rel=4 * U64)
    assert oracle("norm", np.array([3e-320, 4e-320])) == pytest.approx(5e-320, rel=1e-3)    # subnormal: few digits
    assert oracle("norm", np.zeros(3)) == 0
    assert oracle("norm", np.array([1, -np.inf])) == np.inf
    x = np.random.default_rng(0).standard_normal(1000)
    assert oracle("norm", x) ** 2 == pytest.approx(exact_dot(x, x), rel=1000 * U64)
