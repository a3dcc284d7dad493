"""partition: the operations of its ladder."""
import numpy as np
from ladders import Ladder

EXAMPLES = {
    "partition": ((np.array([[200], [3], [130], [128]]),), [1, 3, 0, 2]),
}


class TestPartition(Ladder):
    chapter = "partition"
    examples = EXAMPLES
    exact = ("partition",)
