"""tree_fit: the operations of its ladder."""
import numpy as np
from ladders import Ladder

EXAMPLES = {
    "grow": ((np.array([[1, 2]]), np.array([1, 0])), [1, 0]),
}


class TestTreeFit(Ladder):
    chapter = "tree_fit"
    examples = EXAMPLES
    exact = ("grow",)
