"""Training a network by minibatches: the step, captured once and replayed; schedules; history; checkpoints.

A step is: choose and copy a batch, forward, loss and its gradient, backward, survey of the gradients, and update of the
weights and of the running statistics, unless the survey forbids it. All that changes from step to step lives on the
device (`numprec.kernels.networks.batch` and `.loss_scale`), so a step is the same list of launches each time, and the
host neither waits nor allocates between two epochs' ends. There it reads one row of history for each batch, and writes
the learning rates of the next epoch.
"""
import io
import json
import math
import os
import platform
import re
import secrets
import time
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from numprec.kernels.networks import batch, cross_entropy, loss_scale, optimizer
from numprec.kernels.networks.batch import COLLAPSED, OVERFLOW, STATE, State
from numprec.kernels.networks.loss_scale import CONTROL, COUNTS, NUMBERS, START, Control, Count, Figure
from numprec.precision import FORMATS, PRECISIONS, Format, unknown

APART = 256                        # bytes: where arrays of a Block may begin
SOLVERS = {"sgd": 1, "adam": 2}    # and how many moments they keep


class LossScaleCollapsed(ArithmeticError):
    """Gradients overflow although the loss is no longer scaled up. `layer` and `step` say where and when first."""

    def __init__(self, layer, step, precision):
        self.layer, self.step = layer, step
        super().__init__(f"the loss scale fell to 1 and gradients still overflow, in step {step} first in {layer}: "
                         f"lower learning_rate_init, or standardise the data{wider(precision)}")


def wider(precision):
    """What a warning of an overflow says about other precisions: those with room for larger numbers, smallest first."""
    able = [p for p in PRECISIONS.values() if p.storage.max > 2 * precision.storage.max or (
        p.storage == precision.storage and p.master and not precision.master)]
    return _instead(sorted(able, key=lambda p: p.storage.bytes)[:2])


def finer(precision):
    """What a warning of lost updates says about other precisions: the smallest one with finer masters."""
    able = [p for p in PRECISIONS.values() if (p.master or p.storage).u < (precision.master or precision.storage).u]
    return _instead(sorted(able, key=lambda p: p.storage.bytes)[:1])


def _instead(precisions):
    return f", or use precision={' or '.join(repr(str(p)) for p in precisions)}" if precisions else ""


# ---- learning rates, as a fraction of the largest, after a fraction t of all updates

def constant(t):
    return 1.0


def cosine(t):
    """I. Loshchilov and F. Hutter, SGDR: stochastic gradient descent with warm restarts, ICLR 2017; no restarts."""
    return (1 + math.cos(math.pi * t)) / 2


def one_cycle(t, rise=0.3, first=1 / 25, last=4e-6):
    """L. N. Smith and N. Topin, Super-convergence, 2018: up from `first`, then down to `last`, each along a cosine."""
    if t < rise:
        return 1 + (first - 1) * cosine(t / rise)
    return last + (1 - last) * cosine((t - rise) / (1 - rise))


SCHEDULES = {"constant": constant, "cosine": cosine, "one_cycle": one_cycle}


@dataclass(frozen=True)
class Descent:
    """How to descend; names and defaults are scikit-learn's."""

    solver: str = "adam"
    learning_rate: str = "constant"
    learning_rate_init: float = 0.001
    epochs: int = 200                # that the schedule is for
    alpha: float = 0.0001
    momentum: float = 0.9
    nesterovs_momentum: bool = True
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self):
        for name, known in ("solver", SOLVERS), ("learning_rate", SCHEDULES):
            if getattr(self, name) not in known:
                raise unknown(name, str(getattr(self, name)), list(known))

    def rates(self, first, count, batches):
        """The rates of updates first, first + 1, ...: with Adam's correction for moments that start from 0."""
        t = range(first, first + count)
        schedule, total = SCHEDULES[self.learning_rate], max(1, self.epochs * batches)
        with np.errstate(over="ignore", invalid="ignore"):    # seen as weights that are not finite
            rates = self.learning_rate_init * np.array([schedule(min(u / total, 1)) for u in t])
            if self.solver == "adam":
                t = np.array(t) + 1.0
                rates *= np.sqrt(1 - self.beta_2 ** t) / (1 - self.beta_1 ** t)
        return rates

    def control(self, precision, scale):
        beta1 = self.beta_1 if self.solver == "adam" else self.momentum
        return loss_scale.settings(precision, self.alpha, beta1, self.beta_2, self.epsilon, scale)


def near_one(weights, rows, fmt):
    """The weights of samples times 2^-exponent, and that exponent: so that their mean is in [1/4, 1), or less where
    else the sum of so many rows would come near the largest number of `fmt`. Powers of two keep their digits."""
    largest = weights.max()
    exponent = math.frexp(largest)[1] + math.frexp((weights / largest).mean())[1]
    sums = min(rows * math.ldexp(largest, -exponent), len(weights))
    exponent += max(0, math.ceil(math.log2(2 * sums / fmt.max)))
    return np.ldexp(weights, -exponent), exponent


def copy_rows(training, rows, x):
    """The default way to load a batch: x = X[rows]."""
    batch.copy(training.device, training.network.rung("batch"), training.precision, training.X, rows, x)


class Block:
    """Arrays in one allocation, {name: (shape, format)}, so that one copy brings them all to the host."""

    def __init__(self, device, arrays):
        self.device, self._places, size = device, {}, 0
        for name, (shape, fmt) in arrays.items():
            element, dtype = (fmt.element, fmt.numpy) if isinstance(fmt, Format) else (fmt, fmt)
            end = size + math.prod(shape) * np.dtype(dtype).itemsize
            self._places[name] = slice(size, end), element, dtype, shape
            size = -(-end // APART) * APART
        self.bytes = device.zeros(size, np.uint8)
        self.arrays = {name: self.bytes[part].view(element).reshape(shape)
                       for name, (part, element, _, shape) in self._places.items()}

    def fetch(self):
        """All arrays on the host; it waits for the device."""
        host = self.device.to_host(self.bytes)
        return {name: host[part].view(dtype).reshape(shape) for name, (part, _, dtype, shape) in self._places.items()}


class Training:
    """A network, its data, and the state between them. The network's arrays move into the training's, and stay there.

    `scale` is the loss scale: "dynamic", a number, or None for what the precision says. `load(training, rows, x)`
    launches what fills the rows x of a batch: a plain copy, or one that flips and shifts images. `weights` (N,), at
    least 0 and not all 0, are what the samples' losses count for; None is 1 for each.
    """

    def __init__(self, network, X, labels, batch_size, descent=Descent(), seed=0, shuffle=True, scale=None,
                 load=copy_rows, epoch=0, grow_at=loss_scale.GROW_AT, weights=None):
        self.network, self.device, self.precision = network, network.device, network.precision
        self.descent, self.shuffle, self.load = descent, shuffle, load
        device, precision, accum = self.device, self.precision, self.precision.accum
        scale = ("dynamic" if precision.loss_scale == "dynamic" else 1.0) if scale is None else scale
        self.dynamic = scale == "dynamic"
        self.scale = START if self.dynamic else float(scale)
        self.batch_size = min(batch_size, len(X))
        self.batches = -(-len(X) // self.batch_size)
        self.X, self.labels = device.array(X, precision.storage), device.array(labels, np.int32)
        self._block = Block(device, formats(network, descent.solver, self.batches))
        arrays = self._block.arrays
        self.state, self.control, self.rates, self.numbers, self.counts = (
            arrays[name] for name in ("state", "control", "rates", "numbers", "counts"))
        self.moments = [array for name, array in arrays.items() if name.startswith("moment")]
        network.move({name: arrays[name] for name in network.formats()})
        state = np.zeros(STATE, np.int64)
        state[[State.SEED, State.EPOCH, State.BATCHES, State.GROW_AT]] = seed, epoch, self.batches, grow_at
        device.assign(self.state, state)
        control = descent.control(precision, self.scale)
        self.weights = None
        if weights is not None:
            weights, exponent = near_one(weights, self.batch_size, accum)
            self.weights = device.array(weights, accum)
            with np.errstate(over="ignore"):
                control[Control.ALPHA] = np.ldexp(control[Control.ALPHA], -exponent)
            if not control[Control.ALPHA] <= accum.max:
                raise ValueError(f"alpha / sample_weight is as large as {control[Control.ALPHA]:.2g}, which {accum} "
                                 "cannot hold: use larger weights, or alpha=0")
        device.assign(self.control, control, accum)
        network.state = self.state
        self._graph, self._position, self._data = None, 0, None
        self.fetched = None      # the last checkpoint's arrays, as long as they are those of the device
        self.stopped, self.bad_step, self.bad_owner = 0, None, None    # why, when and where training stopped for good

    # ---- the step

    def _step(self):
        network, device, precision, B = self.network, self.device, self.precision, self.batch_size
        rung, control, state = network.rung, self.control, self.state
        rows, y = (network.buffer("batch", name, (B,), np.int32) for name in ("rows", "y"))
        x = network.buffer("batch", "x", (B, *network.shape))
        scale, factor, total = (control[i:i + 1] for i in (Control.SCALE, Control.FACTOR, Control.TOTAL))
        share = None
        batch.select(device, rung("batch"), precision, self.labels, state, scale, rows, y, factor, self.shuffle)
        if self.weights is not None:
            share, factor = (network.buffer("batch", name, (B,), precision.accum) for name in ("share", "factor"))
            batch.weighed(device, rung("weigh"), precision, self.weights, rows, scale, total, share,
                          factor)
        self.load(self, rows, x)
        z = network.forward(x)
        loss, hit, dz = cross_entropy.launch(device, rung("cross_entropy"), precision, z, y, factor)
        network.backward(dz)
        loss_scale.judge(device, rung("loss_scale"), precision, network.gradients, loss, hit, self.rates, control,
                         state, self.numbers, self.counts, self.dynamic, share=share)
        name, options = self.descent.solver, {}
        if name == "sgd":
            options["nesterov"] = bool(self.descent.nesterovs_momentum)
        optimizer.update(device, rung(name).variant(precision, **options), network.weights, network.masters,
                         network.gradients, *self.moments, control, state, self.counts, network.decayed)
        network.follow()

    def run(self, steps):
        """So many steps; an epoch may begin or end on the way."""
        self._prepare()
        while steps:
            if self._position == 0:
                self._begin_epoch()
            some = min(steps, self.batches - self._position)
            self.fetched = None
            self._graph.replay(some)
            self._position = (self._position + some) % self.batches
            steps -= some

    def _prepare(self):
        """Captures the step, which compiles its kernels, once."""
        if self._graph is None:
            with self.device.capture() as self._graph:
                self._step()

    def _begin_epoch(self):
        state = self.fetched["state"] if self.fetched else self.device.to_host(self.state)
        self.device.assign(self.state[State.BASE:State.BASE + 1], state[State.UPDATES:State.UPDATES + 1])
        rates = self.descent.rates(int(state[State.UPDATES]), self.batches, self.batches)
        self.device.assign(self.rates, rates, self.precision.accum)

    def epoch(self):
        """To the end of the epoch. Returns its row of the history, whose seconds are those of its steps: kernels are
        compiled before, and nothing is evaluated or copied."""
        self._prepare()
        start = time.perf_counter()
        self.run(self.batches - self._position)
        self.device.synchronize()
        seconds = time.perf_counter() - start
        return self._row(self.fetch()) | {"seconds": seconds}

    def schedule_is_over(self):
        """Whether all updates that the schedule is for have been made, as of the last checkpoint."""
        return self.descent.learning_rate != "constant" and (
            int(self.fetched["state"][State.UPDATES]) >= self.descent.epochs * self.batches)

    def fetch(self):
        """All arrays that the next step depends on, besides the data: {name: host array}; it waits for the device."""
        self.fetched = self._block.fetch()
        self.fetched.setdefault("masters", self.fetched["weights"])
        return self.fetched

    def _row(self, arrays):
        """What happened in the epoch, given the arrays at its end.

        `gradient_range` leaves out zeros and the loss scale; `overflow` counts gradients that were not finite,
        `underflow` is the share of subnormal ones, and `lost` that of updates which left their weight as it was.
        `loss_scale` is that of the last batch.
        """
        numbers, counts = (arrays[name].astype(np.float64) for name in ("numbers", "counts"))
        state = arrays["state"]
        self.stopped = int(state[State.STOP])
        if self.stopped:
            self.bad_step, self.bad_owner = int(state[State.BAD_STEP]), self.network.owner(state[State.BAD_INDEX])
        if self.stopped == COLLAPSED:
            raise LossScaleCollapsed(self.bad_owner, self.bad_step, self.precision)
        rows, good = counts[:, Count.ROWS], counts[:, Count.APPLIED] == 1
        gradients = counts[:, Count.ROWS].size * self.network.size
        with np.errstate(all="ignore"):
            smallest, largest = (numbers[:, i] / numbers[:, Figure.SCALED] for i in (Figure.SMALLEST, Figure.LARGEST))
            loss = float(np.sum(numbers[:, Figure.LOSS] * rows) / rows.sum())
        return {
            "epoch": int(state[State.EPOCH]), "step": int(state[State.STEP]), "updates": int(state[State.UPDATES]),
            "loss": loss,
            "accuracy": float(counts[:, Count.HITS].sum() / rows.sum()),
            "loss_scale": float(numbers[-1, Figure.SCALED]), "skipped": int((~good).sum()),
            "gradient_range": (float(smallest[smallest > 0].min(initial=np.inf)), float(largest.max())),
            "overflow": int(counts[:, Count.BAD].sum()),
            "underflow": float(counts[:, Count.SUBNORMAL].sum() / gradients),
            "lost": float(counts[good, Count.LOST].sum() / max(1, good.sum() * self.network.size)),
        }

    # ---- checkpoints

    def _about(self):
        """What a checkpoint must agree with."""
        if self._data is None:
            X, labels = self.device.to_host(self.X), self.device.to_host(self.labels)
            self._data = [*X.shape, zlib.crc32(labels, zlib.crc32(X.view(np.uint8)))]
            if self.weights is not None:
                self._data[-1] = zlib.crc32(self.device.to_host(self.weights).view(np.uint8), self._data[-1])
        descent = asdict(self.descent)
        if self.descent.learning_rate == "constant":
            del descent["epochs"]
        return {"precision": str(self.precision), "layers": self.network.shapes_of(), "shape": list(self.network.shape),
                "data": self._data, "batch_size": self.batch_size, "shuffle": bool(self.shuffle),
                "dynamic": self.dynamic, "descent": descent}

    def checkpoint(self):
        """Everything that the next step depends on, besides the data, {name: host array}, and what it belongs to."""
        return self.fetched or self.fetch(), self._about() | {"position": self._position}

    def restore(self, arrays, about):
        """Goes on from a checkpoint. ValueError if it was made by another training."""
        mine = self._about()
        differing = [name for name in mine if json.loads(json.dumps(mine[name])) != about.get(name)]
        if differing:
            name = differing[0]
            raise ValueError(f"the checkpoint is of another training: its {name} is {about.get(name)}, "
                             f"not {mine[name]}")
        check(arrays, self.network, self.descent.solver, self.batches)
        if about.get("position") != arrays["state"][State.POSITION]:
            raise ValueError("the checkpoint does not say where in the epoch it was made")
        for name, array in self._block.arrays.items():
            self.device.assign(array, arrays[name])
        self._position, self.fetched = about["position"], None

    def go_back(self, arrays):
        """Weights, statistics and moments are again those of an earlier checkpoint."""
        self.network.load(arrays)
        for i, moment in enumerate(self.moments):
            self.device.assign(moment, arrays[f"moment{i}"])
        self.fetched = None

    def carry_on(self, arrays):
        """Goes on from a checkpoint of the same network, with the data and the batches of this training."""
        check(arrays, self.network, self.descent.solver, max(1, np.size(arrays.get("rates"))))
        self.go_back(arrays)
        if self.dynamic:
            place = slice(Control.SCALE, Control.SCALE + 1)
            self.device.assign(self.control[place], arrays["control"][place])
        state = arrays["state"].copy()
        state[State.BATCHES], state[State.POSITION] = self.batches, 0
        self.device.assign(self.state, state)


# ---- checkpoints: their arrays, and files of them

def formats(layout, solver, batches):
    """(shape, format) of each array that the next step of a training depends on, besides the data."""
    accum = layout.precision.accum
    return {"state": ((STATE,), np.dtype(np.int64)), "control": ((CONTROL,), accum), "rates": ((batches,), accum),
            "numbers": ((batches, NUMBERS), accum), "counts": ((batches, COUNTS), np.dtype(np.int32)),
            **layout.formats(), **{f"moment{i}": ((layout.size,), layout.master) for i in range(SOLVERS[solver])}}


def check(arrays, layout, solver, batches):
    """ValueError, in one sentence, unless the arrays of a checkpoint are those of such a training: all of them there,
    of the right shape and dtype, weights finite, and the state within what kernels index."""
    wanted = formats(layout, solver, batches)
    check_learned(arrays, layout)
    for name in wanted:
        _check_array(name, arrays.get(name), *wanted[name])
        if name.startswith("moment") and np.isnan(arrays[name].astype(np.float64)).any():
            raise ValueError(f"the checkpoint's {name} holds NaN")
    state, scale = arrays["state"].tolist(), float(arrays["control"][Control.SCALE])
    right = (
        all(0 <= number < 2 ** 53 for number in state) and state[State.POSITION] < state[State.BATCHES] == batches
        and state[State.BASE] <= state[State.UPDATES] <= state[State.STEP]
        and state[State.SEED] < 2 ** 31 and state[State.GROW_AT] > 0
        and state[State.STOP] in (0, OVERFLOW, COLLAPSED) and state[State.BAD_INDEX] < layout.size)
    if not right:
        raise ValueError("the checkpoint's state counts steps, batches or places that there are not")
    if not 0 < scale < math.inf:
        raise ValueError(f"the checkpoint's loss scale is {scale}")


def check_learned(arrays, layout):
    """`check`, of weights, masters and statistics alone."""
    wanted = layout.formats()
    for name, (shape, fmt) in ({"masters": wanted["weights"]} | wanted).items():
        _check_array(name, arrays.get(name), shape, fmt)
        if not np.isfinite(arrays[name].astype(np.float64)).all():
            raise ValueError(f"the checkpoint's {name} are not all finite")


def _check_array(name, array, shape, fmt):
    dtype = fmt.numpy if isinstance(fmt, Format) else fmt
    if array is None or array.shape != shape or array.dtype != dtype:
        found = "missing" if array is None else f"{array.dtype} of shape {array.shape}"
        raise ValueError(f"the checkpoint's {name} should be {np.dtype(dtype)} of shape {shape}, and is {found}")


PARTIAL = re.compile(r"\.numprec-([0-9a-f]{8})-(\d+)-[0-9a-f]{16}\.partial")


def write(path, arrays, about):
    """An npz file: the arrays, bfloat16 as its bits, and, under "json", the text of `about`. It replaces an older one
    in one step, once all of it is on the disk. Nothing in it is pickled. What a process that was killed while writing
    left in the folder is removed."""
    path = Path(path)
    bits = [name for name, a in arrays.items() if a.dtype == FORMATS["bfloat16"].numpy]
    plain = {name: a.view(np.uint16) if name in bits else a for name, a in arrays.items()}
    text = json.dumps({"about": about, "bfloat16": bits}, default=_plain)
    host = f"{zlib.crc32(platform.node().encode()):08x}"
    for left in path.parent.glob(".numprec-*.partial"):
        made = PARTIAL.fullmatch(left.name)
        if made and made[1] == host and not psutil.pid_exists(int(made[2])):
            left.unlink(missing_ok=True)
    partial = path.with_name(f".numprec-{host}-{os.getpid()}-{secrets.token_hex(8)}.partial")
    try:
        with open(partial, "xb") as file:
            np.savez(file, json=np.array(text), **plain)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _plain(value):
    """What JSON has for a number or an array of NumPy's, or another number."""
    plain = value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
    return plain if isinstance(plain, (bool, int, float, str, list)) else float(plain)


def read(path):
    """(arrays, about) of a file that `write` made. ValueError if it is something else."""
    with open(path, "rb") as file:
        return understood(path, _parsed, file)


def understood(path, function, *args):
    """function(*args). ValueError, which names the file, for whatever it raises: what reads a file that anybody may
    have made, down to zip archives, decompressors and Python's tokenizer, has errors of many kinds."""
    try:
        return function(*args)
    except MemoryError:
        raise
    except Exception as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is no checkpoint of numprec, or damaged: {what}") from error


def _parsed(file):
    """Arrays are stored as they are, so that none takes more memory than the file is long."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sum(m.file_size for m in members) > os.fstat(file.fileno()).st_size:
            raise ValueError("it is compressed, or not whole")
        arrays = {m.filename.removesuffix(".npy"): _array(archive.read(m)) for m in members}
    text = json.loads(str(arrays.pop("json")))
    for name in text["bfloat16"]:
        if arrays[name].dtype != np.uint16:
            raise ValueError(f"its {name} are no bits of bfloat16")
        arrays[name] = arrays[name].view(FORMATS["bfloat16"].numpy)
    return arrays, text["about"]


def _array(data):
    """The array of an npy file, which holds nothing else and no objects."""
    file = io.BytesIO(data)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, dtype = headers[np.lib.format.read_magic(file)](file)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError("an array is not as long as its head says")
    return np.ndarray(shape, dtype, data, file.tell(), order="F" if fortran else "C").copy(order="C")
