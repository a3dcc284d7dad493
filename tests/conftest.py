"""Fixtures of all tests: the device, and one precision after another."""
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest

from numprec import device as devices
from numprec import kernels
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


def pytest_collection_modifyitems(items):
    """Longest files first, so that no worker is left with one at the end: those of kernels, which are compiled, by the
    length of the chapter, then the others by their own."""
    chapters = {f"test_{name}": Path(find_spec(module).origin) for name, module in kernels.chapters().items()}

    def place(path):
        text = chapters.get(path.stem)
        return text is None, -len((text or path).read_bytes())
    order = sorted({item.path for item in items}, key=lambda path: (place(path), path))
    items.sort(key=lambda item: order.index(item.path))
