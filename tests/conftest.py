"""Fixtures of all tests: the device, and one precision after another."""
import pytest

from numprec import device as devices
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


def pytest_report_header(config):
    return f"device: {devices.get(seed=SEED).name} (thread order seeded with {SEED})"
