"""optimizer: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
import pytest
from ladders import Ladder
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

from numprec.kernels.networks import loss_scale, optimizer
from numprec.kernels.networks.batch import STATE, State
from numprec.models.training import Descent
from numprec.precision import PRECISIONS, precision_named

FP64 = PRECISIONS["fp64"]
PURE_BF16 = precision_named("storage=bfloat16,compute=bfloat16,accum=float32")


def controls(**numbers):
    control = np.zeros(loss_scale.CONTROL)
    for name, value in numbers.items():
        control[getattr(loss_scale.Control, name)] = value
    return control


EXAMPLES = {
    "sgd": ((controls(UNSCALE=0.5, RATE=0.25, DECAY=1, BETA1=0.5), np.array([1, 2]), np.array([4, 4]),
             np.array([2, 2])), ([1.25, 2.5], [0.25, 0.5])),
    "adam": ((controls(UNSCALE=1, RATE=1, BETA1=0.5, COBETA1=0.5, BETA2=0.75, COBETA2=0.25, EPSILON=1),
              np.array([3]), np.array([4]), np.array([2]), np.array([0])), ([2], [3], [4])),
    "convert": ((np.array([1.5, -2]),), [1.5, -2]),
}


class TestOptimizer(Ladder):
    chapter = "optimizer"
    examples = EXAMPLES
    exact = ("convert",)


def updated(device, precision, rung, W, gradients, control, moments=1, decayed=0, **options):
    """Weights in float64 after each of the updates by `gradients`, and how many of each were lost."""
    kept = optimizer.kept_format(precision)
    weights, masters = device.array(W, precision.storage), device.array(W, kept)
    masters = weights if precision.master is None else masters
    states = [device.zeros(W.size, kept) for _ in range(moments)]
    state = np.zeros(STATE, np.int64)
    state[State.APPLY] = 1
    state, history, path = device.array(state), device.zeros((1, loss_scale.COUNTS), np.int32), []
    for rate, G in gradients:
        control[loss_scale.Control.RATE] = rate
        optimizer.update(device, rung.variant(precision, **options), weights, masters,
                         device.array(G, precision.storage), *states,
                         device.array(control, precision.accum), state, history, decayed)
        path.append(device.to_host(masters).astype(np.float64))
    return path, device.to_host(weights).astype(np.float64), device.to_host(history)[0, loss_scale.Count.LOST]


@pytest.mark.parametrize("solver, options", [
    ("sgd", {"nesterovs_momentum": True}), ("sgd", {"nesterovs_momentum": False}), ("adam", {})])
def test_updates_are_scikit_learns(device, solver, options):
    """Twenty updates, fp64; Adam's correction of its first moments is in the table of rates."""
    rng = np.random.default_rng(0)
    W, gradients = rng.standard_normal(300), rng.standard_normal((20, 300))
    theirs = [W.copy()]
    if solver == "sgd":
        other = SGDOptimizer(theirs, learning_rate_init=0.1, momentum=0.9, nesterov=options["nesterovs_momentum"])
        rung, moments, variant = optimizer.momentum, 1, {"nesterov": options["nesterovs_momentum"]}
    else:
        other, rung, moments, variant = AdamOptimizer(theirs, learning_rate_init=0.1), optimizer.moments, 2, {}
    descent = Descent(solver=solver, learning_rate_init=0.1, alpha=0.0, **options)
    control = descent.control(FP64, 1.0)
    control[loss_scale.Control.UNSCALE] = 1
    path, *_ = updated(device, FP64, rung, W, zip(descent.rates(0, 20, 1), gradients), control, moments, **variant)
    for G, mine in zip(gradients, path):
        other.update_params(theirs, [G])
        np.testing.assert_allclose(mine, theirs[0], rtol=1e-12, atol=1e-14)


def test_weight_decay_spares_biases(device):
    control = Descent(solver="sgd", momentum=0.0, alpha=2.0).control(FP64, 1.0)
    control[[loss_scale.Control.UNSCALE, loss_scale.Control.DECAY]] = 1 / 4, 0.5
    path, *_ = updated(device, FP64, optimizer.momentum, np.ones(6), [(0.1, np.full(6, 4.0))], control, decayed=4)
    np.testing.assert_allclose(path[0], np.where(np.arange(6) < 4, 1 - 0.1 * 1.5, 1 - 0.1))


@pytest.mark.parametrize("name, lost", [("fp32", False), ("fp16", True), ("mixed_fp16", False), ("mixed_bf16", False),
                                        (PURE_BF16, True)], ids=str)
def test_small_updates_add_up_in_masters_only(device, name, lost):
    """Sixty-four updates by an eighth of the last bit of 1: a weight without a master stays 1 for ever, and this is
    counted."""
    precision = precision_named(name)
    control = Descent(solver="sgd", momentum=0.0).control(precision, 1.0)
    control[loss_scale.Control.UNSCALE] = 1
    small = precision.storage.u / 4 if lost else precision_named("fp16").storage.u / 4
    path, weights, count = updated(device, precision, optimizer.momentum, np.ones(10), [(small, -np.ones(10))] * 64,
                                   control, nesterov=False)
    if lost:
        assert (path[-1] == 1).all() and count == 640
    else:
        np.testing.assert_allclose(path[-1], 1 + 64 * small, rtol=1e-5)
        assert count == 0 and (weights == precision.storage.round(path[-1]).astype(np.float64)).all()
        assert (weights > 1).all()


def test_adam_divides_by_no_zero(device, precision):
    """Gradients of 0 leave the weight where it is, although an epsilon of 1e-8 is 0 in float16."""
    control = Descent().control(precision, 1.0)
    control[loss_scale.Control.UNSCALE] = 1
    path, *_ = updated(device, precision, optimizer.moments, np.ones(5), [(0.01, np.zeros(5))] * 3, control, moments=2)
    assert (path[-1] == 1).all()
