"""batch: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
from ladders import Ladder

from numprec.kernels import highest_rung
from numprec.kernels.networks import batch
from numprec.precision import PRECISIONS

PADDING = [0] * 63                               # a batch has 64 rows, of which one is true here
EXAMPLES = {
    "batch": ((np.array([[7]]), np.array([3]), np.zeros(16, int), np.array([4])),
              (np.reshape([7, *PADDING], (64, 1)), np.array([4, *PADDING]) - 1, [4])),
    "weigh": ((np.array([1, 5, 3]), np.array([2, 0, -1]), np.array([8])), ([4], [0.75, 0.25, 0], [6, 2, 0])),
}
FP64 = PRECISIONS["fp64"]


class TestBatch(Ladder):
    chapter = "batch"
    examples = EXAMPLES
    cost_shapes = {
        "batch": (1024, 64),        # the last batch is full
    }


def test_batches_cover_an_epoch(device):
    """Each sample once an epoch, the last batch filled up with zeros; without shuffling, in order."""
    N, B = 23, 8
    X = np.arange(1.0, N + 1)[:, None] * np.ones(3)
    labels, rung = np.arange(N, dtype=np.int32), highest_rung("batch", FP64, device.compute_capability)
    for shuffle in True, False:
        seen = []
        for position in range(3):
            state = np.zeros(batch.STATE, np.int64)
            state[batch.State.POSITION] = position
            state = device.array(state)
            rows, y, x = device.empty(B, np.int32), device.empty(B, np.int32), device.empty((B, 3), FP64.storage)
            factor = device.empty(1, FP64.accum)
            batch.select(device, rung, FP64, device.array(labels), state, device.array(np.array([4.0])), rows, y,
                         factor, shuffle)
            batch.copy(device, rung, FP64, device.array(X), rows, x)
            x, y, count = device.to_host(x), device.to_host(y), device.to_host(state)[batch.State.COUNT]
            assert count == (8 if position < 2 else 7) and device.to_host(factor)[0] == 4 / count
            np.testing.assert_array_equal(x, (y + 1.0)[:, None] * np.ones(3))    # 0 where y is -1
            seen += y[y >= 0].tolist()
        assert sorted(seen) == list(range(N)) and (seen == sorted(seen)) == (not shuffle)
