"""least_squares: the operations of its ladder."""
import numpy as np
from ladders import Ladder

LINE = np.array([[1], [2], [3]]), np.array([[1], [3], [5]])    # y = 2 x - 1
EXAMPLES = {
    "least_squares": ((*LINE, np.ones(1)), [[2]]),
}


class TestLeastSquares(Ladder):
    chapter = "least_squares"
    examples = EXAMPLES

    def as_good(self, operation, rung, precision):
        if rung.name == "refine":
            return "the residual is formed one format wider, so that a lower precision reaches the same solution"
        if "mixed" in precision.name:
            return ("centred columns are rounded to compute, and the condition number carries that error, the larger "
                    "one, on")
        return None
