"""argmax: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
import pytest
from ladders import OPERATIONS, Ladder, oracle, run

from numprec.kernels.reductions import argmax
from numprec.precision import PRECISIONS

EXAMPLES = {
    "max": ((np.array([2, -7, 5, -7, 5]),), 5),
    "argmax": ((np.array([2, -7, 5, -7, 5]),), 2),
    "argmin": ((np.array([2, -7, 5, -7, 5]),), 1),
}


class TestArgmax(Ladder):
    chapter = "argmax"
    examples = EXAMPLES
    exact = ("max", "argmax", "argmin")


@pytest.mark.parametrize("rung", OPERATIONS["argmax"].rungs, ids=lambda rung: rung.name)
@pytest.mark.parametrize("n", [3, 300, 5000])
def test_ties_and_nan(device, rung, precision, n):
    """The first of equal elements; a NaN before every number, the first NaN before the others. As in NumPy."""
    rng = np.random.default_rng(n)
    rounded = precision.storage.round
    few = rounded(rng.integers(-2, 3, n))
    for x in few, rounded(np.zeros(n)), rounded(np.where(rng.random(n) < 2 / n, np.nan, few)), \
            rounded(np.full(n, np.nan)), rounded(np.full(n, -np.inf)):
        for name in "max", "argmax", "argmin":
            result, = run(device, OPERATIONS[name], rung, precision, [x])
            np.testing.assert_array_equal(result[0].astype(np.float64), OPERATIONS[name].oracle(x))


@pytest.mark.parametrize("rung", OPERATIONS["argmax"].rungs, ids=lambda rung: rung.name)
def test_largest_element_and_index_from_one_call(device, rung):
    """The second launch looks up, by index, the elements that the blocks of the first have chosen."""
    x = np.zeros(40009, np.float32)
    x[39999] = 1
    best, where = argmax.launch(device, rung, PRECISIONS["fp32"], device.array(x))
    assert device.to_host(best)[0] == 1 and device.to_host(where)[0] == 39999


def test_the_oracles_of_extremes_see_a_nan():
    x = np.array([2, -7, 5, np.nan, np.nan], np.float16)
    assert np.isnan(oracle("max", x)) and oracle("argmax", x) == oracle("argmin", x) == 3
