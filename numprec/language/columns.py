"""Names for the columns of an array that holds a record in each row."""
from collections import namedtuple


def columns(name, fields):
    """The numbers 0, 1, 2, ... under the names in `fields`, a text with spaces between them.

    Node = columns("Node", "START COUNT")
    nodes[k, Node.COUNT]                      column 1, in a kernel too: the compiler puts the number in its place
    """
    names = fields.split()
    return namedtuple(name, names)(*range(len(names)))
