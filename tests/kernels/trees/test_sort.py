"""sort: the operations of its ladder."""
import numpy as np
from ladders import Ladder

EXAMPLES = {
    "sort": ((np.array([3, np.nan, 1, 2, 1]),), [2, 4, 3, 0, 1]),
}


class TestSort(Ladder):
    chapter = "sort"
    examples = EXAMPLES
    exact = ("sort",)
