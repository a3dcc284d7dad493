"""qr: the operations of its ladder."""
import numpy as np
from ladders import Ladder

EXAMPLES = {
    "qr": ((np.array([[1, 1], [0, 1], [2, 0]]),), [[5, 1], [1, 2]]),
}


class TestQr(Ladder):
    chapter = "qr"
    examples = EXAMPLES
