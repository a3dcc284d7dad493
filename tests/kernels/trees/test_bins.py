"""bins: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
from ladders import Ladder

from numprec.kernels.trees.bins import BINS, quantise

EXAMPLES = {
    "bins": ((np.array([[1, 2, np.nan, 4, 2]]),), ([[1.5, 3, *[np.inf] * 254]], [[0], [1], [255], [2], [1]])),
}


class TestBins(Ladder):
    chapter = "bins"
    examples = EXAMPLES

    def as_good(self, operation, rung, precision):
        if "mixed" in precision.name:
            return "the only rounding is to storage, which is no coarser in float16"
        return None


def test_edges_of_many_rows(device, precision):
    """From a sample, but with both ends; each bin gets its share of the rows."""
    rng = np.random.default_rng(0)
    x = np.sort(precision.storage.round(rng.standard_normal(5000)))
    x[-1] = precision.storage.round(100)
    edges, codes = (device.to_host(a) for a in quantise(device, precision, device.array(x[None])))
    assert codes[-1] == codes.max() and (np.diff(codes[:, 0].astype(int)) >= 0).all()
    x[::3] = np.nan
    _, missing = (device.to_host(a) for a in quantise(device, precision, device.array(x[None]), BINS - 1))
    known = missing[~np.isnan(x.astype(np.float64)), 0].astype(int)
    assert (missing[::3] == BINS - 1).all() and (np.diff(known) >= 0).all() and known[0] == 0 < known[-1] < BINS - 1
    if precision.storage.bits > 16:
        assert np.bincount(known).max() <= 5 * 3300 / 256
        assert np.bincount(codes[:, 0], minlength=256).max() <= 5 * 5000 / 256
