"""histogram: the operations of its ladder."""
import numpy as np
from ladders import Ladder

EXAMPLES = {
    "histogram": ((np.array([[0], [255], [255]]), np.array([0, 1, 1])), [[[1, 0], *[[0, 0]] * 254, [0, 2]]]),
}


class TestHistogram(Ladder):
    chapter = "histogram"
    examples = EXAMPLES
    exact = ("histogram",)
