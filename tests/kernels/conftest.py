"""What the tests of kernels share: a kernel is compiled once for its tests and its audit."""
from functools import lru_cache

import pytest

from numprec.emulator import compile as compiler
from numprec.precision import PRECISIONS

pytest.register_assert_rewrite("ladders")

# A kernel's tests and its audit start from the same half of a compilation, which is most of the audit's time. A file is
# run by one process, and one precision after another, so that what was compiled last is what is asked for next.
compiler.front_end = lru_cache(maxsize=64)(compiler.front_end)


def pytest_collection_modifyitems(items):
    order = list(PRECISIONS)
    groups = []                                  # of neighbours that are tests of one chapter's operations
    for item in items:
        if not groups or item.cls is None or item.cls is not groups[-1][0].cls:
            groups.append([])
        groups[-1].append(item)

    def place(item):
        given = getattr(item, "callspec", None)
        precision = str(given and (given.params.get("precision") or given.params.get("finer")))
        return order.index(precision) if precision in order else -1
    items[:] = [item for group in groups for item in sorted(group, key=place)]
