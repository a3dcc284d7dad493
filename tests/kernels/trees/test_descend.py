"""descend: the operations of its ladder."""
import numpy as np
from ladders import Ladder

EXAMPLES = {
    "descend": ((np.array([[1, 3, 2, np.nan]]), np.array([[0, 1, 2, 1], [-1, 0, 0, 0], [-1, 0, 0, 0]]),
                 np.array([2, 0, 0])), [1, 2, 1, 1]),
}


class TestDescend(Ladder):
    chapter = "descend"
    examples = EXAMPLES
    exact = ("descend",)
