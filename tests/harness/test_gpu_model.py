"""What is read from machine code, the occupancy that follows, and the model of a launch's time."""
import numpy as np
import pytest

from numprec import device as devices
from numprec.emulator import profile
from numprec.harness.measure import audit, gpu_model
from numprec.harness.measure.machine_code import Resources, occupancy, resources
from numprec.kernels import operations
from numprec.kernels.products import matmul
from numprec.precision import PRECISIONS

FP32 = PRECISIONS["fp32"]


@pytest.mark.parametrize("used, threads, card, dynamic, blocks", [
    # as the occupancy calculator of Nsight Compute has them
    (Resources(32, 0, 0), 256, (7, 5), 0, 4),           # all of 1024 threads
    (Resources(130, 0, 8704), 64, (7, 5), 0, 7),        # 15 warps of 4352 registers
    (Resources(64, 0, 32768), 128, (7, 5), 0, 2),       # shared memory
    (Resources(16, 0, 0), 32, (7, 5), 0, 16),           # the most blocks
    (Resources(32, 0, 0), 1024, (9, 0), 0, 2),
    (Resources(128, 0, 0), 256, (8, 0), 0, 2),
    (Resources(40, 0, 0), 128, (8, 0), 80 * 1024, 2),   # of 164 KB, 1 KB reserved for each block
])
def test_occupancy(used, threads, card, dynamic, blocks):
    assert occupancy(used, threads, card, dynamic) == blocks


@pytest.mark.parametrize("card", [(7, 5), (9, 0)])
def test_resources_of_a_kernel(card):
    kernel, argtypes = audit.launches(operations()["matmul"], matmul.tiled, FP32)[0]
    used = resources(kernel, argtypes, card)
    assert 16 <= used.registers <= 64 and used.local_bytes == 0
    assert used.shared_bytes == 2 * matmul.TILE ** 2 * 4


def test_the_model_takes_the_scarcest_unit():
    """A product of 64^3 on one block: the larger of what each unit needs, and never less than a launch."""
    device = devices.get("emulator")
    A, B = (device.array(np.ones((64, 64)), FP32.storage) for _ in "AB")
    with profile() as counts:
        matmul.launch(device, matmul.tiled, FP32, A, B)
    c, = counts.launches
    for card in gpu_model.CARDS:
        found = gpu_model.time(c, Resources(40, 0, 2048), card)
        assert found.seconds == gpu_model.LAUNCH + max(found.parts.values())
        assert found.parts[found.bound] == max(found.parts.values())
        blocks = 16
        assert found.parts["wavefronts"] == c.wavefronts / (blocks * card.hertz)
        assert found.parts["memory"] == 3 * 64 * 64 * 4 / card.bandwidth
        assert found.parts["fp32 operations"] == pytest.approx(64 ** 3 / (card.rates["fp32"] * blocks * card.hertz))
        assert 0 < found.occupancy <= 1
