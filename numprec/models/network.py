"""Networks of layers: what a layer is, where its parameters live, and the passes forward and backward.

A network is a list of layers. All parameters of one role lie in one flat array, layer after layer, so that the
optimizer is one launch and a checkpoint a handful of arrays:

    weights      storage           what the layers compute with
    masters      master            what the optimizer updates, where the precision has a master format; else `weights`
    gradients    storage           of the loss times the loss scale
    statistics   accum             what is learned otherwise than by gradients: running means over the batches of
    fresh        accum             the same of the last batch

A layer sees views of these, shaped as it asked for them. Rows of activations are samples. Rows that pad a ragged last
batch arrive as zeros, and the gradient that comes back for them is zero; layers that look across rows read the number
of true ones on the device, `network.state[COUNT]` (see `numprec.kernels.networks.optimizer` for the others).

How activations are differentiated: a layer ends in an activation (its attribute `activation`, "identity" if none),
fused into its own forward kernel. All activations here have a derivative that follows from their value, so the layer
*above*, which holds that value as its input x, multiplies by it in the kernel that writes the gradient of x. A layer is
therefore handed dz, the gradient of what it computed before its own activation, and returns the gradient of what the
layer below computed before its activation: (dL/dx) * derivative of `below` at x.
"""
import math
from dataclasses import dataclass
from typing import Callable

import numpy as np

from numprec.kernels.images import batch_moments
from numprec.kernels.networks import dense

ALIGN = 8    # elements: each parameter starts at a multiple of 16 bytes


@dataclass(frozen=True)
class Parameter:
    """An array that a layer learns. `draw(rng, shape)` gives its initial values in float64; `decay` tells whether
    weight decay applies to it; one that is not `trained` by gradients is a running mean, among the statistics."""

    name: str
    shape: tuple
    draw: Callable
    decay: bool = True
    trained: bool = True


def zeros(rng, shape):
    return np.zeros(shape)


def ones(rng, shape):
    return np.ones(shape)


def uniform(bound):
    """Initial values from [-bound, bound)."""
    return lambda rng, shape: rng.uniform(-bound, bound, shape)


class Layer:
    """Base of the layers, and the identity. A layer object belongs to one network.

    The network sets `name`; `values`, {parameter name: view of weights or statistics}; and, {parameter name: view},
    `gradients` and `fresh`, where a layer leaves the statistics of a batch that it is trained on. Kernels are launched
    on `network.device` in `network.precision`. Passes run inside a capture: they neither read results nor depend on
    anything but shapes, and get their arrays from `network.buffer`.
    """

    kind = "identity"            # names it: conv1, pool2, ...
    activation = "identity"      # key of numprec.kernels.networks.dense.ACTIVATIONS

    def build(self, shape):
        """Takes the shape of a sample, without the row axis. Returns the shape of its result, and the Parameters."""
        return shape, ()

    def forward(self, network, x, training):
        """The layer's result for the rows x, after its activation. What `backward` needs besides x stays in self,
        unless `training` is false."""
        return x

    def backward(self, network, x, dz, below):
        """Writes self.gradients. Returns dL/dx times the derivative at x of the activation `below`; or None, at no
        cost, where `below` is None: nothing is below."""
        if below in (None, "identity"):
            return None if below is None else dz
        return network.differentiate(self, below, x, dz)

    def exact(self, values, x, precision):
        """`forward` by NumPy, in float64, for values {parameter name: float64 array}."""
        return x


class Dense(Layer):
    """y = activation(x W + b), x flattened: W (inputs, units), b (units,)."""

    kind = "dense"

    def __init__(self, units, activation="identity", bound=None):
        self.units, self.activation, self.bound = units, activation, bound

    def build(self, shape):
        inputs = math.prod(shape)
        bound = self.bound or dense.initial_bound(self.activation, inputs, self.units)
        return (self.units,), (Parameter("W", (inputs, self.units), uniform(bound)),
                               Parameter("b", (self.units,), uniform(bound), decay=False))

    def forward(self, network, x, training):
        x = x.reshape(x.shape[0], -1)
        y = network.buffer(self, "y", (x.shape[0], self.units))
        return dense.forward(network.device, network.rung("matmul"), network.precision, x, self.values["W"],
                             self.values["b"], self.activation, out=y)

    def backward(self, network, x, dz, below):
        flat = x.reshape(x.shape[0], -1)
        device, precision = network.device, network.precision
        dense.weight_gradient(device, network.rung("matmul_ta"), precision, flat, dz, out=self.gradients["W"])
        dense.bias_gradient(device, network.rung("bias_gradient"), precision, dz, out=self.gradients["b"],
                            buffer=network.maker(self, "parts"))
        if below is None:
            return None
        dx = network.buffer(self, "dx", flat.shape)
        dense.input_gradient(device, network.rung("matmul_tb"), precision, dz, self.values["W"], flat, below, out=dx)
        return dx.reshape(x.shape)

    def exact(self, values, x, precision):
        z = x.reshape(len(x), -1) @ values["W"] + values["b"]
        return dense.ACTIVATIONS[self.activation].f(z)


def build(layers, shape):
    """Names the layers and builds them one on the other, for samples of `shape`. Returns (layer, Parameter) for all
    that they learn, in order, and the shapes of what goes into each layer and out of the last."""
    specified, counts, shapes = [], {}, [tuple(shape)]
    for layer in layers:
        counts[layer.kind] = counts.get(layer.kind, 0) + 1
        layer.name = f"{layer.kind}{counts[layer.kind]}"
        shape, parameters = layer.build(shapes[-1])
        specified += [(layer, p) for p in parameters]
        shapes.append(tuple(shape))
    return specified, shapes


class Layout:
    """Where the parameters of layers lie in the flat arrays of a precision, and how much room all takes. It needs no
    device, and allocates nothing.

    `size` elements of weights, the first `decayed` of which decay, and `statistics_size` of statistics; `places` is
    {(layer name, parameter name): (flat array's name, offset)}.
    """

    def __init__(self, layers, shape, precision):
        self.layers, self.shape, self.precision = list(layers), tuple(shape), precision
        self.master = precision.master or precision.storage
        self.specified, self.shapes = build(self.layers, self.shape)
        self.result_shape = self.shapes[-1]
        self._place()

    def _place(self):
        """Parameters that decay come first, so that one number tells them from the others."""
        self.places = {}
        sizes = {"weights": 0, "statistics": 0}
        for decay in (True, False):
            for layer, p in self.specified:
                if p.decay == decay:
                    flat = "weights" if p.trained else "statistics"
                    self.places[layer.name, p.name] = flat, sizes[flat]
                    sizes[flat] += -(-math.prod(p.shape) // ALIGN) * ALIGN
            if decay:
                self.decayed = sizes["weights"]
        self.size, self.statistics_size = max(sizes["weights"], 1), max(sizes["statistics"], 1)

    def formats(self):
        """(shape, format) of each flat array that is learned."""
        masters = {} if self.precision.master is None else {"masters": ((self.size,), self.master)}
        return {"weights": ((self.size,), self.precision.storage), **masters,
                "statistics": ((self.statistics_size,), self.precision.accum)}

    def bytes(self, rows, moments, evaluated=0):
        """What training by batches of so many rows allocates, with so many moments to a weight: parameters, gradients,
        what each layer computes and its gradient; and what layers compute of rows that are only `evaluated`. Data, and
        partial sums of a few megabytes, are not counted."""
        storage, accum = self.precision.storage.bytes, self.precision.accum.bytes
        masters = self.master.bytes if self.precision.master else 0
        elements = sum(map(math.prod, self.shapes))
        return (self.size * (2 * storage + masters + moments * self.master.bytes) + 2 * self.statistics_size * accum
                + (2 * rows + evaluated) * elements * storage)

    def shapes_of(self):
        """For each layer its name and the shapes of its parameters, as lists: what tells one network from another."""
        return [[layer.name, *(list(shape) for _, shape in sorted(
            (p.name, p.shape) for owner, p in self.specified if owner is layer))] for layer in self.layers]

    def cut(self, arrays):
        """What `Network.assign` takes: the parameters, in float64, given the masters and the statistics."""
        flat = {"weights": arrays["masters"], "statistics": arrays["statistics"]}
        return {key: value.astype(np.float64) for key, value in self._cut(flat)}

    def _cut(self, flat):
        for layer, p in self.specified:
            target, offset = self.places[layer.name, p.name]
            if target in flat:
                yield (layer.name, p.name), flat[target][offset:offset + math.prod(p.shape)].reshape(p.shape)

    def owner(self, index):
        """Which parameter has the element `index` of the flat weights: "dense2.W"."""
        starts = [(offset, ".".join(key)) for key, (flat, offset) in self.places.items() if flat == "weights"]
        return max(start for start in starts if start[0] <= index)[1]


class Network(Layout):
    """The layers and their arrays, for one precision on one device."""

    def __init__(self, layers, shape, device, precision):
        super().__init__(layers, shape, precision)
        self.device, zeros = device, device.zeros
        self.gradients = zeros(self.size, precision.storage)
        self.fresh = zeros(self.statistics_size, precision.accum)
        self.move({name: zeros(*place) for name, place in self.formats().items()}, copy=False)
        self._buffers, self._rungs = {}, {}

    def move(self, arrays, copy=True):
        """From now on what is learned lives in these device arrays, see `formats`."""
        for name, array in arrays.items():
            if copy:
                self.device.assign(array, getattr(self, name))
            setattr(self, name, array)
        self.masters = arrays.get("masters", self.weights)
        self._bind()

    def _bind(self):
        for layer in self.layers:
            layer.values, layer.gradients, layer.fresh = {}, {}, {}
        for layer, p in self.specified:
            flat, offset = self.places[layer.name, p.name]
            part = slice(offset, offset + math.prod(p.shape))
            layer.values[p.name] = getattr(self, flat)[part].reshape(p.shape)
            if p.trained:
                layer.gradients[p.name] = self.gradients[part].reshape(p.shape)
            else:
                layer.fresh[p.name] = self.fresh[part].reshape(p.shape)

    # ---- what layers use

    def buffer(self, layer, name, shape, fmt=None):
        """The array `name` of a layer, storage unless `fmt` says otherwise; the same one whenever it is asked for."""
        key = getattr(layer, "name", layer), name, tuple(shape)
        if key not in self._buffers:
            self._buffers[key] = self.device.empty(tuple(shape), fmt or self.precision.storage)
        return self._buffers[key]

    def maker(self, layer, name):
        """`buffer` as a function of shape and format, for host functions that need scratch."""
        return lambda shape, fmt=None: self.buffer(layer, name, shape, fmt)

    def rung(self, operation):
        """The highest rung of an operation that the device and the precision have."""
        if operation not in self._rungs:
            from numprec.kernels import highest_rung
            self._rungs[operation] = highest_rung(operation, self.precision, self.device.compute_capability)
        return self._rungs[operation]

    def differentiate(self, layer, activation, x, dy):
        """dy times the derivative of an activation at its value x, for layers that cannot do it on the way."""
        dz = self.buffer(layer, "dz", x.shape)
        return dense.differentiate(self.device, self.precision, dy, x, activation, out=dz)

    # ---- values

    def initialise(self, seed):
        """Draws all parameters, in float64, in the order of the layers: the same numbers in every precision."""
        rng = np.random.Generator(np.random.Philox(seed))
        self.assign({(layer.name, p.name): p.draw(rng, p.shape) for layer, p in self.specified})

    def assign(self, values):
        """Sets parameters, {(layer name, parameter name): float64 array}, rounding each once to every format."""
        flat = {"weights": np.zeros(self.size), "statistics": np.zeros(self.statistics.size)}
        for (layer, name), value in values.items():
            target, offset = self.places[layer, name]
            flat[target][offset:offset + value.size] = np.ravel(value)
        self.device.assign(self.weights, flat["weights"], self.precision.storage)
        self.device.assign(self.masters, flat["weights"], self.master)
        self.device.assign(self.statistics, flat["statistics"], self.precision.accum)

    def arrays(self):
        """Host copies of the flat arrays that are learned, {name: array}; `load` takes them."""
        return {name: self.device.to_host(getattr(self, name)) for name in ("weights", "masters", "statistics")}

    def load(self, arrays):
        for name in "weights", "masters", "statistics":
            array = getattr(self, name)
            if arrays[name].size != array.size:
                raise ValueError(f"the network has {array.size} {name}, not {arrays[name].size}: "
                                 "its layers have changed")
            self.device.assign(array, arrays[name])

    def values(self):
        """What `assign` takes."""
        return self.cut(self.arrays())

    def gradient_values(self):
        """The gradients of the last backward pass, like `values`."""
        flat = {"weights": self.device.to_host(self.gradients)}
        return {key: value.astype(np.float64) for key, value in self._cut(flat)}

    # ---- passes

    def forward(self, x, training=True):
        """The result of the last layer for rows x."""
        self._inputs = []
        for layer in self.layers:
            self._inputs.append(x)
            x = layer.forward(self, x, training)
        return x

    def backward(self, dz):
        """Writes all gradients, given that of the last layer's result before its activation."""
        activations = [None] + [layer.activation for layer in self.layers[:-1]]
        for layer, x, below in reversed(list(zip(self.layers, self._inputs, activations))):
            dz = layer.backward(self, x, dz, below)

    def follow(self):
        """Moves the statistics towards those of the last batch, unless it updates nothing (`state[APPLY]`)."""
        if any(layer.fresh for layer in self.layers):
            batch_moments.move(self.device, self.rung("running_moments"), self.precision, self.fresh, self.statistics,
                               self.state, out=self.statistics)

    def evaluate(self, X, rows):
        """The network's result for a host array X, in float64; `rows` samples at a time."""
        results = []
        for first in range(0, len(X), rows):
            x = self.device.array(X[first:first + rows], self.precision.storage)
            results.append(self.device.to_host(self.forward(x, training=False)).astype(np.float64))
        return np.concatenate(results)
