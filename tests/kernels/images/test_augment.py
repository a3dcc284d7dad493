"""augment: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
from image_problems import TWO_ROWS, state_of
from ladders import Ladder

from numprec.kernels.images import augment
from numprec.precision import PRECISIONS

EXAMPLES = {
    "augment": ((np.zeros((2, 3, 3, 1)), TWO_ROWS), np.zeros((2, 3, 3, 1))),
}
FP64 = PRECISIONS["fp64"]


class TestAugment(Ladder):
    chapter = "augment"
    examples = EXAMPLES
    exact = ("augment",)


def test_augmentation_moves_and_mirrors(device):
    """Every image is a mirrored or plain window of the padded one, each about as often, and another one each step."""
    X = np.arange(1.0, 301).reshape(1, 5, 20, 3) * np.ones((200, 1, 1, 1))
    Y = [device.to_host(augment.launch(device, augment.shift, FP64, device.array(X),
                                       state_of(device, seed=7, step=step), 2)) for step in (0, 1)]
    padded = np.pad(X[0], ((2, 2), (2, 2), (0, 0)))
    found = {}
    for v in range(5):
        for u in range(5):
            for mirrored in False, True:
                image = padded[v:v + 5, u:u + 20]
                found[v, u, mirrored] = (image[:, ::-1] if mirrored else image).tobytes()
    kinds = {image: kind for kind, image in found.items()}
    seen = [kinds[y.tobytes()] for y in Y[0]]
    counts = [np.bincount([int(kind[i]) for kind in seen]) for i in range(3)]
    assert all(count.min() > 200 / len(count) / 2 for count in counts)
    assert [kinds[y.tobytes()] for y in Y[1]] != seen


def test_augmentation_is_the_same_in_every_precision(device, precision):
    X = np.random.default_rng(0).integers(0, 128, (4, 6, 6, 2)).astype(np.float64)    # exact in all formats
    state = state_of(device, seed=1, step=2)
    Y = augment.launch(device, augment.shift, precision, device.array(X, precision.storage), state)
    np.testing.assert_array_equal(device.to_host(Y).astype(np.float64), augment.oracle(X, device.to_host(state)))
