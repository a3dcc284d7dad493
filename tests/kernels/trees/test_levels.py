"""levels: the operations of its ladder."""
import numpy as np
from ladders import Ladder

EXAMPLES = {
    "grow": ((np.array([[1, 2]]), np.array([1, 0])), [1, 0]),
}


class TestLevels(Ladder):
    chapter = "levels"
    examples = EXAMPLES
    exact = ("grow",)
