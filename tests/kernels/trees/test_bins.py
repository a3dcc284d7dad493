"""bins: the operations of its ladder."""
import numpy as np
from ladders import Ladder

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
