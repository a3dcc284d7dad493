"""gram: the operations of its ladder."""
import numpy as np
from ladders import Ladder

LINE = np.array([[1], [2], [3]]), np.array([[1], [3], [5]])    # y = 2 x - 1
EXAMPLES = {
    "gram": ((*LINE, np.ones(1)), ([2, 3], [[2, 4], [4, 8]])),
}


class TestGram(Ladder):
    chapter = "gram"
    examples = EXAMPLES
