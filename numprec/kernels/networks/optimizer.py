"""Gradient descent: SGD with momentum, and Adam; weight decay, master weights.

Idea       All parameters of a network lie in a row, so that one launch with a thread for each updates all layers.
Maths      g = G / scale + decay w, where decay is 0 for biases
           SGD     v' = momentum v - rate g;  w' = w + v', or w + (momentum v' - rate g) with Nesterov's momentum
           Adam    m' = beta1 m + (1 - beta1) g;  v' = beta2 v + (1 - beta2) g^2
                   w' = w - rate m' / (sqrt(v') + epsilon), where the rate of the t-th update, from a table of the
                   host's, is learning rate * sqrt(1 - beta2^t) / (1 - beta1^t)
Shapes     W, G (n,): storage, all parameters of a network in a row; masters, v, m (n,): the format `kept`, which is
           master, or storage where the precision has none; control, state, history: see `loss_scale` and `batch`
Mapping    a thread per parameter: one launch updates a whole network
Precision  computed in accum, rounded to `kept`, and from there to storage for the layers. Where there are no masters,
           an update below half the weight's last bit is lost; history counts the weights that this happens to
Ladder     one step each
Cost       SGD 6 flops and 5 elements a parameter, Adam 14 and 7; masters one element more. Weight decay takes two
           flops, and half of the parameters decay here: one of the 6 or 14
Sources    I. Sutskever, J. Martens, G. Dahl and G. Hinton, On the importance of initialization and momentum in deep
               learning, ICML 2013, section 2 (Nesterov's accelerated gradient)
           D. P. Kingma and J. Ba, Adam: a method for stochastic optimization, ICLR 2015, end of section 2
           P. Micikevicius et al., Mixed precision training, ICLR 2018, section 3.1 (master weights)
"""
import math

import numpy as np
from numba import cuda, int32

from numprec.kernels.networks.batch import STATE, State
from numprec.kernels.networks.loss_scale import COUNTS, Control, Count, settings
from numprec.language.errors import Computed
from numprec.language.ladder import draw, helper, operation, rung
from numprec.precision import PRECISIONS

THREADS = 256            # per block


def kept_format(precision):
    """The format of masters and moments."""
    return precision.master or precision.storage


# ---- oracles: one update in fp64, by operations that carry an error bound along

def sgd_formula(w, g, c, v, nesterov=False):
    v = v * c[Control.BETA1] - g * c[Control.RATE]
    return (w + (v * c[Control.BETA1] - g * c[Control.RATE]) if nesterov else w + v), v


def adam_formula(w, g, c, m, v):
    m = m * c[Control.BETA1] + g * c[Control.COBETA1]
    v = v * c[Control.BETA2] + g * c[Control.COBETA2] * g
    return w - m * c[Control.RATE] / (v.sqrt() + c[Control.EPSILON]), m, v


def computed(precision, formula, control, W, G, *moments):
    """Weights and moments after an update, each Computed; the first half of the parameters decays."""
    accum, kept = precision.accum, kept_format(precision)
    c = control.astype(np.float64)
    w, g, *moments = (Computed(a, accum) for a in (W, G, *moments))
    g = g * c[Control.UNSCALE]
    decays, decayed = np.arange(len(W)) < len(W) // 2, g + w * c[Control.DECAY]
    g = Computed(np.where(decays, decayed.exact, g.exact), accum, np.where(decays, decayed.error, g.error))
    w, *moments = (a.to(kept) for a in formula(w, g, c, *moments))
    return w.to(precision.storage), *moments


# ---- kernels

@helper
def gradient(p):
    """The gradient of a parameter whose weight is w, without the loss scale and with weight decay."""
    accum = p.accum

    @cuda.jit(device=True)
    def gradient(G, i, w, control, decayed):
        g = accum(G[i]) * accum(control[Control.UNSCALE])
        if i < decayed:
            g += accum(control[Control.DECAY]) * w
        return g
    return gradient


@rung(of="sgd")
def momentum(p, nesterov=False):
    storage, accum, kept, gradient_of = p.storage, p.accum, kept_format(p), gradient(p)

    @cuda.jit
    def sgd_momentum(W, masters, G, v, control, state, history, decayed):
        i = cuda.grid(1)
        lost = False
        if i < W.size and state[State.APPLY] != 0:
            w = accum(masters[i])
            step = accum(control[Control.RATE]) * gradient_of(G, i, w, control, decayed)
            velocity = accum(control[Control.BETA1]) * accum(v[i]) - step
            change = accum(control[Control.BETA1]) * velocity - step if nesterov else velocity
            v[i] = kept(velocity)
            masters[i] = kept(w + change)
            W[i] = storage(accum(masters[i]))
            lost = change != accum(0) and accum(masters[i]) == w
        count = cuda.syncthreads_count(int32(lost))
        if cuda.threadIdx.x == 0 and count > 0:
            cuda.atomic.add(history, (state[State.ROW], Count.LOST), count)
    return sgd_momentum


@rung(of="adam")
def moments(p):
    storage, accum, kept, gradient_of = p.storage, p.accum, kept_format(p), gradient(p)

    @cuda.jit
    def adam_moments(W, masters, G, m, v, control, state, history, decayed):
        """Many arguments: five arrays of one shape, and what sets the step."""
        i = cuda.grid(1)
        lost = False
        if i < W.size and state[State.APPLY] != 0:
            w = accum(masters[i])
            g = gradient_of(G, i, w, control, decayed)
            mean = accum(control[Control.BETA1]) * accum(m[i]) + accum(control[Control.COBETA1]) * g
            square = accum(control[Control.BETA2]) * accum(v[i]) + accum(control[Control.COBETA2]) * g * g
            change = accum(control[Control.RATE]) * mean / (math.sqrt(square) + accum(control[Control.EPSILON]))
            m[i], v[i] = kept(mean), kept(square)
            masters[i] = kept(w - change)
            W[i] = storage(accum(masters[i]))
            lost = change != accum(0) and accum(masters[i]) == w
        count = cuda.syncthreads_count(int32(lost))
        if cuda.threadIdx.x == 0 and count > 0:
            cuda.atomic.add(history, (state[State.ROW], Count.LOST), count)
    return adam_moments


@rung(of="convert")
def elementwise(p):
    """The same numbers in the format of masters and moments."""
    kept = kept_format(p)

    @cuda.jit
    def optimizer_convert(x, out):
        i = cuda.grid(1)
        if i < x.size:
            out[i] = kept(x[i])
    return optimizer_convert


# ---- host side

def update(device, kernel, W, *arrays):
    """Runs an update kernel over all parameters."""
    device.launch(kernel, -(-W.size // THREADS), THREADS, W, *arrays)


def convert(device, rung, precision, x):
    out = device.empty(x.shape, kept_format(precision))
    device.launch(elementwise[precision], -(-x.size // THREADS), THREADS, x, out)
    return out


def launch(device, rung, precision, control, W, G, *moments):
    """One update of copies of W and moments, which it returns; half of W decays."""
    masters, *moments = (convert(device, None, precision, a) for a in (W, *moments))
    W = masters if precision.master is None else device.empty(W.shape, precision.storage)
    state = np.zeros(STATE, np.int64)
    state[State.APPLY] = 1
    history = device.zeros((1, COUNTS), np.int32)
    update(device, rung[precision], W, masters, G, *moments, control, device.array(state), history, W.size // 2)
    return W, *moments


def inputs(rng, shape, kind, precision, count):
    control = settings(precision, epsilon=1e-3)
    control[[Control.UNSCALE, Control.RATE, Control.DECAY]] = 1 / 8, 0.1, 0.01
    W, G, m = (draw(rng, shape, kind, precision, factors=2) for _ in range(3))
    return control, W, G, *(m, m ** 2)[:count]


def optimizer(name, formula, moments, operations):
    fp64 = PRECISIONS["fp64"]

    operation(name, launch=launch, inputs=lambda *problem: inputs(*problem, moments),
              oracle=lambda *arrays: tuple(part.exact for part in computed(fp64, formula, *arrays)),
              error_bound=lambda p, *arrays: tuple(part.error for part in computed(p, formula, *arrays)),
              cost=lambda p, n: {"flops": operations * n, "bytes": n * (
                  2 * p.storage.bytes + (2 * moments + (2 if p.master else 1)) * kept_format(p).bytes)},
              cost_differs="The update is in place, as in training, but here of copies that are made before.",
              shapes=((1,), (2,), (255,), (777,)),
              bench_shapes={"smoke": (10_000,), "quick": (200_000,), "full": (2 ** 24,)})


optimizer("sgd", sgd_formula, 1, 6)
optimizer("adam", adam_formula, 2, 14)
operation("convert", launch=convert, inputs=lambda rng, shape, kind, p: (draw(rng, shape, kind, p),),
          oracle=lambda x: x.astype(np.float64), error_bound=lambda precision, x: np.zeros(x.shape),
          cost=lambda p, n: {"flops": 0, "bytes": n * (p.storage.bytes + kept_format(p).bytes)},
          shapes=((1,), (300,)), bench_shapes={"smoke": (10_000,), "quick": (200_000,), "full": (2 ** 24,)})
