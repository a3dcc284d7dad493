"""Fixtures of all tests: the device, and one precision after another."""
import signal
from functools import lru_cache

import pytest

from numprec import device as devices
from numprec.emulator import compile as compiler
from numprec.precision import PRECISIONS

SEED = 2024    # of the emulator's thread order, so that no test passes because threads happen to run in order


@pytest.fixture(scope="session")
def device():
    """The GPU or the emulator, as `NUMPREC_DEVICE` and the machine say; the emulator shuffles its threads."""
    return devices.get(seed=SEED)


@pytest.fixture(params=PRECISIONS.values(), ids=str)
def precision(request):
    """Each registered precision in turn."""
    return request.param


def pytest_configure(config):
    """A suite that runs in the background (nohup, &) ignores signals that tests send, to themselves and to programs
    that they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_report_header(config):
    return f"device: {devices.get(seed=SEED).name} (thread order seeded with {SEED})"


# A kernel's tests and its audit start from the same half of a compilation, which is most of the audit's time: they run
# in one process, one after another.
compiler.front_end = lru_cache(maxsize=64)(compiler.front_end)


def pytest_collection_modifyitems(items):
    for item in items:
        given = getattr(item, "callspec", None)
        if given and {"operation", "rung", "precision"} <= given.params.keys():
            item.add_marker(pytest.mark.xdist_group(
                "-".join(str(given.params[name]) for name in ("operation", "rung", "precision"))))
