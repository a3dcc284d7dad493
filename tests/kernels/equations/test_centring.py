"""centring: the operations of its ladder."""
import numpy as np
from ladders import Ladder

LINE = np.array([[1], [2], [3]]), np.array([[1], [3], [5]])    # y = 2 x - 1
EXAMPLES = {
    "centring": ((*LINE, np.ones(1)), [2, 3]),
}


class TestCentring(Ladder):
    chapter = "centring"
    examples = EXAMPLES
