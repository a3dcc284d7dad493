"""cholesky: the operations of its ladder."""
import numpy as np
from ladders import Ladder

EXAMPLES = {
    "cholesky": ((np.array([[4, 2], [9, 10]]),), [[4, 2], [2, 10]]),    # only the upper half is read,
}


class TestCholesky(Ladder):
    chapter = "cholesky"
    examples = EXAMPLES
    cost_shapes = {
        "cholesky": (48,),          # work of D elements stands beside D^2
    }
