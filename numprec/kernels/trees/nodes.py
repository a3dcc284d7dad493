"""The table of nodes, which is the tree while it grows.

Shapes     nodes (2 N, 7): int32, a row per node. MISSING says where the rows went whose values are missing: 1 left,
           0 right, -1 if there were none. The children of the node with cut s are 2 s and 2 s + 1, the root is
           1: as no two nodes cut at the same place, every node has a number of its own, without anyone counting, and
           all of them together need no more than 2 N. Leaves have CUT 0 and FEATURE -1
"""
from dataclasses import dataclass

import numpy as np

START, COUNT, DEPTH, FEATURE, BIN, CUT, MISSING = range(7)
ROOT = 1


@dataclass
class Grown:
    """The table of nodes (see partition) and what goes with it, on the device."""

    nodes: object
    threshold: object
    impurities: object
    values: object


def flatten(nodes):
    """The nodes that are in use, parents before children and left before right: (places in the table, left, right).

    `left` and `right` are numbers in that order, -1 in a leaf.
    """
    generations = [np.array([ROOT])]
    while len(generations[-1]):
        middle = nodes[generations[-1], CUT]
        middle = middle[middle > 0]
        generations.append(np.stack([2 * middle, 2 * middle + 1], axis=1).ravel())
    size = [np.ones(len(g), int) for g in generations]      # of subtrees
    for g in range(len(generations) - 2, -1, -1):
        size[g][nodes[generations[g], CUT] > 0] += size[g + 1].reshape(-1, 2).sum(axis=1)
    number_of = np.zeros(len(nodes), int)
    place = np.zeros(size[0][0], int)
    left, right = np.full((2, size[0][0]), -1)
    for g, ids in enumerate(generations[:-1]):
        place[number_of[ids]] = ids
        parents = number_of[ids[nodes[ids, CUT] > 0]]
        left[parents], right[parents] = parents + 1, parents + 1 + size[g + 1][::2]
        number_of[generations[g + 1]] = np.stack([left[parents], right[parents]], axis=1).ravel()
    return place, left, right
