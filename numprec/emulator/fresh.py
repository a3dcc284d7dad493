"""Arrays that hold what nobody has written yet: known while somebody watches, so that reading them shows as a bug.

Kernels write them, and `Device.assign`; a NumPy assignment to an array of the emulator's is not seen.
"""
import contextlib
import weakref

import numpy as np

_watching = 0
_known = {}       # id: (weak reference to the array, a byte for each byte of it: 1 once written)


@contextlib.contextmanager
def watched():
    """Arrays that are made empty inside are known."""
    global _watching
    _watching += 1
    try:
        yield
    finally:
        _watching -= 1
        if not _watching:
            _known.clear()


def watch_always():
    """Arrays that are made empty from here on are known."""
    global _watching
    _watching += 1


def made_empty(array):
    """Tells that an array's contents are whatever was there."""
    if _watching and array.nbytes:
        key = id(array)
        _known[key] = weakref.ref(array, lambda _: _known.pop(key, None)), np.zeros(array.nbytes, np.uint8)


def _owner(array):
    """The array that was made empty and holds this one, or None."""
    while isinstance(array, np.ndarray):
        if id(array) in _known and _known[id(array)][0]() is array:
            return array
        array = array.base
    return None


def written_elsewhere(arrays):
    """Tells that a launch that nobody checks was given arrays: it may have written any of them."""
    if _known:
        for array in arrays:
            overwritten(array)


def written(array):
    """(the bytes of the one that was made empty and holds this array, where this one begins in it), or None."""
    owner = _owner(array) if _known else None
    if owner is None:
        return None
    return _known[id(owner)][1], np.lib.array_utils.byte_bounds(array)[0] - owner.ctypes.data


def overwritten(array):
    """Tells that the host has written all of an array."""
    found = written(array)
    if found is not None:
        low, high = np.lib.array_utils.byte_bounds(array)
        found[0][found[1]:found[1] + high - low] = 1
