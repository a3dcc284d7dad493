"""philox: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
from ladders import Ladder

from numprec.kernels.networks import philox
from numprec.precision import PRECISIONS

EXAMPLES = {
    "uniform": ((np.zeros(2, int), np.zeros(1, int)), [0x6627e8d5 / 2 ** 32]),    # of Random123's known answers
    "permutation": ((np.zeros(2, int), np.zeros(1, int)), [0]),
}
FP64 = PRECISIONS["fp64"]


class TestPhilox(Ladder):
    chapter = "philox"
    examples = EXAMPLES
    exact = ("permutation",)


def test_philox_known_answers():
    """The known answers of Random123, the authors' library."""
    for counter, key, answer in (
            ((0, 0, 0, 0), (0, 0), (0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8)),
            ((0xffffffff,) * 4, (0xffffffff,) * 2, (0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd)),
            ((0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344), (0xa4093822, 0x299f31d0),
             (0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1))):
        assert tuple(int(w) for w in philox.philox_oracle(counter, key)) == answer


def test_uniform_numbers_are_prefixes_of_each_other(device):
    """Precisions differ in how many bits of the same number they have room for; and the numbers are uniform."""
    key, index = np.array([7, 3], np.int32), np.arange(20000, dtype=np.int32)
    numbers = {name: device.to_host(philox.launch(
        device, philox.elementwise, PRECISIONS[name], device.array(key), device.array(index))).astype(np.float64)
        for name in ("fp64", "fp32", "fp16")}
    for name, bits in ("fp32", 24), ("fp16", 11):
        np.testing.assert_array_equal(numbers[name], np.floor(numbers["fp64"] * 2 ** bits) / 2 ** bits)
    counts, _ = np.histogram(numbers["fp64"], bins=20, range=(0, 1))
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8    # chi squared, 19 degrees of freedom, 1 in 1000
    other = philox.uniform_oracle((7, 4), index)
    assert abs(np.corrcoef(numbers["fp64"], other)[0, 1]) < 0.03


def test_permutations(device):
    """Each index once, whatever n; another epoch has another order, and so has another seed."""
    for n in [*range(1, 70), 1000]:
        index = np.arange(n, dtype=np.int32)
        orders = [device.to_host(philox.launch(device, philox.walk, FP64, device.array(np.array(key, np.int32)),
                                               device.array(index))) for key in ((0, 0), (0, 1), (1, 0))]
        assert all(np.array_equal(np.sort(order), index) for order in orders)
    assert len({order.tobytes() for order in orders}) == 3


def test_permutations_mix():
    """Where an element goes is uniform: over many epochs, each place gets each element about as often."""
    counts = np.zeros((10, 10))
    for epoch in range(2000):
        counts[np.arange(10), philox.permutation_oracle((5, epoch), np.arange(10))] += 1
    assert ((counts - 200) ** 2 / 200).sum() < 81 + 4 * np.sqrt(2 * 81)
