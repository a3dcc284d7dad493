"""split: the operations of its ladder."""
import numpy as np
from ladders import Ladder

EXAMPLES = {
    "split": ((np.array([[2, 2, 2, 2], [1, 2, 3, 4]]), np.array([0, 0, 1, 1])), [0, 0]),
    "split_weighted": ((np.array([[1, 2, 3, np.nan]]), np.array([1, 0, 0, 1]), np.array([1, 1, 2, 1])), [0, 0]),
}


class TestSplit(Ladder):
    chapter = "split"
    examples = EXAMPLES
    cost_shapes = {
        "split": (8, 512, 3),       # rows of a column's largest value have no cut
    }
