"""loss_scale: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
import pytest
from ladders import Ladder

from numprec.kernels.networks import loss_scale
from numprec.kernels.networks.batch import COLLAPSED, OVERFLOW, STATE, State
from numprec.precision import PRECISIONS, precision_named

EXAMPLES = {
    "loss_scale": ((np.array([0.0, 2, -0.5]), np.array([1, 3]), np.array([1, 0])),
                   ([2, 2, 0.5, 2 ** 15], [1, 0, 0, 2 ** 31 - 1, 0, 1, 2, 0], [2 ** 15])),
}
FP16 = PRECISIONS["fp16"]


class TestLossScale(Ladder):
    chapter = "loss_scale"
    examples = EXAMPLES


class Scaler:
    """What a dynamic loss scale does, in Python."""

    def __init__(self, scale, grow_at, ceiling):
        self.scale, self.grow_at, self.ceiling, self.good, self.stop = scale, grow_at, ceiling, 0, 0

    def step(self, finite):
        if self.stop:
            return False
        if not finite:
            self.good = 0
            self.stop, self.scale = (0, self.scale / 2) if self.scale > 1 else (COLLAPSED, self.scale)
            return False
        self.good += 1
        if self.good >= self.grow_at and self.scale < self.ceiling:
            self.scale, self.good = self.scale * 2, 0
        return True


def judged(device, precision, gradients, scale, grow_at, dynamic=True):
    """(control, state, counts) after each batch of gradients."""
    state = np.zeros(STATE, np.int64)
    state[[State.BATCHES, State.COUNT, State.GROW_AT]] = len(gradients), 4, grow_at
    accum, n = precision.accum, len(gradients)
    state, control = device.array(state), device.array(loss_scale.settings(precision, scale=scale), accum)
    numbers, counts = device.zeros((n, loss_scale.NUMBERS), accum), device.zeros((n, loss_scale.COUNTS), np.int32)
    loss, hit, rates = device.zeros(4, accum), device.zeros(4, np.int32), device.zeros(n, accum)
    for G in gradients:
        loss_scale.judge(device, loss_scale.survey, precision, device.array(G, precision.storage), loss, hit, rates,
                         control, state, numbers, counts, dynamic)
        yield device.to_host(control).astype(np.float64), device.to_host(state), device.to_host(counts)


@pytest.mark.parametrize("name", ["mixed_fp16", "fp16"])
@pytest.mark.parametrize("scale", [4.0, 2.0 ** 14])
def test_dynamic_scale(device, name, scale):
    """Doubled after three good steps, halved at each overflow, never beyond the format, until it has collapsed."""
    rng, precision = np.random.default_rng(5), precision_named(name)
    good = rng.random(60) < np.where(np.arange(60) < 30, 0.9, 0.1)
    good[48:] = False
    gradients = np.where(good[:, None], 1.0, np.where(np.arange(7) == 3, np.inf, 1.0))
    control = loss_scale.settings(precision, scale=scale)
    model = Scaler(scale, 3, control[loss_scale.Control.CEILING])
    assert control[loss_scale.Control.CEILING] <= precision.accum.max
    scales = set()
    for i, (control, state, counts) in enumerate(judged(device, precision, gradients, scale, grow_at=3)):
        before = model.scale
        applied = model.step(good[i])
        assert control[loss_scale.Control.SCALE] == model.scale
        assert (state[State.GOOD], state[State.STOP]) == (model.good, model.stop)
        assert state[State.APPLY] == applied == counts[i, loss_scale.Count.APPLIED] and state[State.STEP] == i + 1
        if applied:
            assert control[loss_scale.Control.UNSCALE] == 1 / before    # of the gradients at hand, not of the next ones
        scales.add(model.scale)
    assert len(scales) > 4 and model.stop == COLLAPSED
    assert max(scales) == model.ceiling or (name, scale) != ("fp16", 2 ** 14)


def test_the_scale_grows_at_2000():
    assert loss_scale.GROW_AT == 2000 and loss_scale.START == 2 ** 15


def test_overflow_without_a_dynamic_scale_stops(device):
    """The weights before it stay; where and when it was is known."""
    G = np.ones((3, 5000))
    G[1, [1234, 4321]] = np.nan, np.inf
    *_, (control, state, counts) = judged(device, FP16, G, 1.0, 2000, dynamic=False)
    assert state[State.STOP] == OVERFLOW and state[State.UPDATES] == 1
    assert state[State.BAD_STEP] == 1 and state[State.BAD_INDEX] == 1234
    assert counts[:, loss_scale.Count.APPLIED].tolist() == [1, 0, 0] and counts[1, loss_scale.Count.BAD] == 2
