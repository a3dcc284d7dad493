"""The layers of a convolutional network, and the short text that names them.

    conv32      3 x 3 windows, 32 filters, as many results as pixels; conv32x5: 5 x 5; conv32/2: every second pixel
    pool        the largest element of 2 x 2 windows; pool3: of 3 x 3
    avgpool     the average of 2 x 2 windows; avgpool3: of 3 x 3
    gap         the average of the whole image (global average pooling)
    dense128    128 units, each connected to everything below

joined by "-". Windows that are larger than the image are cut down to it.
"""
import math
import re

import numpy as np

from numprec.kernels.images import batch_moments, batch_norm, conv, im2col, pooling
from numprec.kernels.networks import dense
from numprec.kernels.networks.batch import STATE, State
from numprec.models.network import Dense, Layer, Parameter, ones, uniform, zeros
from numprec.precision import unknown

WORDS = re.compile(r"(?P<kind>[a-z]+)(?P<number>\d{0,18})(?:x(?P<size>\d{1,18}))?(?:/(?P<stride>\d{1,18}))?",
                   re.ASCII)


def parse(text, activation, batch_norm):
    """The layers that `text` names, each but the last layer of the network, which it does not name."""
    layers = []
    for word in text.split("-") if isinstance(text, str) else text:
        layers += _layer(str(word).strip(), activation, batch_norm)
        if len(layers) > 1 and isinstance(layers[-2], Dense) and not isinstance(layers[-1], Dense):
            raise ValueError(f"{word!r} cannot follow a dense layer, whose results are no image")
    return layers


def _layer(word, activation, batch_norm):
    match = WORDS.fullmatch(word)
    kind, number, size, stride = match.group("kind", "number", "size", "stride") if match else (word, "", None, None)
    numbers = [int(n) for n in (number, size, stride) if n]
    known = {"conv": number, "pool": True, "avgpool": True, "gap": not number, "dense": number}
    if kind not in known:
        raise unknown("layer", word, ["conv32", "conv32x5", "conv32/2", "pool", "avgpool", "gap", "dense128"])
    if not known[kind] or (kind != "conv" and (size or stride)) or 0 in numbers:
        raise ValueError(f"{word!r} is no layer; layers look like conv32, conv32x5, conv32/2, pool, avgpool3, gap, "
                         "dense128")
    if kind == "dense":
        return [Dense(int(number), activation)]
    if kind != "conv":
        return [Pool(int(number or 2), average=kind != "pool")] if kind != "gap" else [Pool(None, average=True)]
    layer = Conv(int(number), int(size or 3), int(stride or 1), "identity" if batch_norm else activation)
    return [layer, BatchNorm(activation)] if batch_norm else [layer]


class Conv(Layer):
    """z = activation(x * F + b), with as many windows as pixels, or one in `stride` of them in each direction.
    F (R, S, C, filters), b (filters,)."""

    kind = "conv"

    def __init__(self, filters, size=3, stride=1, activation="relu"):
        self.filters, self.size, self.stride, self.activation = filters, size, stride, activation

    def build(self, shape):
        self.view = im2col.window(shape[:2], (self.size, self.size), self.stride, "same")
        F = (self.view.R, self.view.S, shape[2], self.filters)
        # K. He et al., Delving deep into rectifiers, ICCV 2015, section 2.2, for a uniform distribution
        bound = math.sqrt(6 / math.prod(F[:3]))
        return (self.view.P, self.view.Q, self.filters), (
            Parameter("F", F, uniform(bound)), Parameter("b", (self.filters,), zeros, decay=False))

    def forward(self, network, x, training):
        z = network.buffer(self, "z", (x.shape[0], self.view.P, self.view.Q, self.filters))
        return conv.forward(network.device, network.rung("conv"), network.precision, x, self.values["F"],
                            self.values["b"], self.view, self.activation, out=z,
                            buffer=network.maker(self, "columns"))

    def backward(self, network, x, dz, below):
        device, precision = network.device, network.precision
        conv.weight_gradient(device, network.rung("conv_weight_gradient"), precision, x, dz, self.view,
                             out=self.gradients["F"], buffer=network.maker(self, "sums"))
        dense.bias_gradient(device, network.rung("bias_gradient"), precision, dz.reshape(-1, self.filters),
                            out=self.gradients["b"], buffer=network.maker(self, "bias_sums"))
        if below is None:
            return None
        return conv.input_gradient(device, network.rung("conv_input_gradient"), precision, dz, self.values["F"], x,
                                   self.view, below, out=network.buffer(self, "dx", x.shape),
                                   buffer=network.maker(self, "columns"))

    def exact(self, values, x, precision):
        return conv.oracle(x, values["F"], values["b"], self.view, self.activation)


class Pool(Layer):
    """Windows of size x size elements beside each other, or one of the whole image; an odd rest is left out."""

    kind = "pool"

    def __init__(self, size, average=False):
        self.size, self.average = size, average

    def build(self, shape):
        size = self.size or max(shape[:2])
        self.view = im2col.window(shape[:2], (size, size), size)
        return (self.view.P, self.view.Q, shape[2]), ()

    def forward(self, network, x, training):
        shape = x.shape[0], self.view.P, self.view.Q, x.shape[3]
        y = network.buffer(self, "y", shape)
        device, precision = network.device, network.precision
        if self.average:
            return pooling.average_pool(device, network.rung("average_pool"), precision, x, self.view, out=y)
        where = network.buffer(self, "where", shape, np.int32)
        return pooling.max_pool(device, network.rung("max_pool"), precision, x, self.view, out=(y, where))[0]

    def backward(self, network, x, dz, below):
        if below is None:
            return None
        dx, device, precision = network.buffer(self, "dx", x.shape), network.device, network.precision
        if self.average:
            return pooling.average_gradient(device, network.rung("average_pool_gradient"), precision, dz, x, self.view,
                                            below, out=dx)
        where = network.buffer(self, "where", dz.shape, np.int32)
        return pooling.max_gradient(device, network.rung("max_pool_gradient"), precision, dz, where, x, self.view,
                                    below, out=dx)

    def exact(self, values, x, precision):
        windows = pooling.windows(x, self.view)
        y = windows.mean(axis=1) if self.average else windows.max(axis=1)
        return y.reshape(len(x), self.view.P, self.view.Q, -1)


class BatchNorm(Layer):
    """y = activation(gamma u + beta), where u is x, centred and scaled channel by channel: by the moments of the batch
    in training, else by running ones."""

    kind = "norm"

    def __init__(self, activation="relu"):
        self.activation = activation

    def build(self, shape):
        self.rows_per_sample, C = math.prod(shape[:-1]), (shape[-1],)
        return shape, (Parameter("gamma", C, ones, decay=False), Parameter("beta", C, zeros, decay=False),
                       Parameter("mean", C, zeros, decay=False, trained=False),
                       Parameter("var", C, ones, decay=False, trained=False))

    def forward(self, network, x, training):
        device, precision, values = network.device, network.precision, self.values
        rows = x.reshape(-1, x.shape[-1])
        state, mean, var = self._every(network), values["mean"], values["var"]
        if training:
            state, (mean, var) = network.state, self._moments()
            batch_moments.launch(device, network.rung("batch_moments"), precision, rows, state, self.rows_per_sample,
                                 out=(mean, var), buffer=network.maker(self, "strips"))
        batch_norm.forward(device, network.rung("batch_norm"), precision, rows, mean, var, values["gamma"],
                           values["beta"], state, self.rows_per_sample, self.activation,
                           out=self._like(network, "y", rows))
        return self._like(network, "y", rows).reshape(x.shape)

    def backward(self, network, x, dz, below):
        rows, dz = x.reshape(-1, x.shape[-1]), dz.reshape(-1, x.shape[-1])
        dx = self._like(network, "dx", rows)
        batch_norm.gradient(network.device, network.rung("batch_norm_gradient"), network.precision, dz, rows,
                            *self._moments(), self.values["gamma"], network.state, self.rows_per_sample,
                            below or "identity", out=(dx, self.gradients["gamma"], self.gradients["beta"]),
                            buffer=network.maker(self, "sums"))
        return dx.reshape(x.shape)

    def _like(self, network, name, rows):
        return network.buffer(self, name, rows.shape)

    def _moments(self):
        """Those of the batch."""
        return self.fresh["mean"], self.fresh["var"]

    def _every(self, network):
        """A state that counts every row as true."""
        if getattr(self, "_state", None) is None:
            state = np.zeros(STATE, np.int64)
            state[State.COUNT] = 2 ** 31
            self._state = network.device.array(state)
        return self._state

    def exact(self, values, x, precision):
        u = (x - values["mean"]) / np.sqrt(values["var"] + batch_norm.epsilon(precision))
        return dense.ACTIVATIONS[self.activation].f(values["gamma"] * u + values["beta"])
