"""batch_moments: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
from image_problems import TWO_ROWS, rounded, state_of
from ladders import Ladder

from numprec.kernels.images import batch_moments

EXAMPLES = {
    "batch_moments": ((np.array([[1], [3], [99]]), TWO_ROWS), ([2], [1])),
    "running_moments": ((np.array([20, np.inf]), np.array([10, 3]), np.eye(16, dtype=int)[10]), [11, 3]),
}


class TestBatchMoments(Ladder):
    chapter = "batch_moments"
    examples = EXAMPLES


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
