"""Knows every operation of the textbook and every rung of its ladder.

An *operation* is what a ladder computes: its fp64 oracle, error bound, cost, inputs and launch. A *rung* is one way
to compute it: a factory that closes over a Precision and returns the `@cuda.jit` kernel (or kernels) for it.
A chapter declares rungs with `@rung`, slowest first, and describes the operation at its end with `operation(...)`.
Tests, audit and benchmark walk `operations()`: a new step is one function in its chapter, and nothing else.

What several kernels share is a device function, and a *helper* hands it out: a factory like a rung's, decorated with
`@helper`, at the top level of its chapter, where a search for its name finds it.

    @helper
    def warp_sum(p, width=WARP):         warp_sum[p], or warp_sum(p, width=16): built once, the same object ever after
        @cuda.jit(device=True)
        def warp_sum(acc): ...
        return warp_sum

What an operation is made of (arrays on the host are NumPy, rounded to the precision's storage format):

    inputs(rng, shape, kind, precision) the arrays of one problem, in float64 (or integers); `kind` is one of KINDS
    oracle(*arrays)                     the result in float64, by NumPy; a tuple where there are several
    error_bound(precision, *arrays)     largest |kernel - oracle| that the theory allows, shaped like the oracle's
                                        result; 0 where it must be exact
    launch(device, rung, precision, *device_arrays)    runs a rung; returns device arrays shaped like the oracle's,
                                        one-element arrays where the oracle's is a scalar
    cost(precision, *shape)             {"flops": ..., "bytes": ...}, a floor under what a rung does: the operations in
                                        floating point that the maths needs (an fma is two, a division, a root, an exp
                                        one; comparisons, integers and conversions none), and the bytes of arguments
                                        and results, each moved once. What does not grow with the shape may be left
                                        out; where values decide how much is needed, it may be more than these need
    shapes                              ragged test shapes: 1, primes, one off the tile
    bench_shapes                        {"smoke": shape, "quick": shape, "full": shape}
    ladder                              the operation whose rungs it climbs, where not its own: a dot product climbs
                                        the ladder of the sum, with other options for the factories
    readout(result, *arrays)            where the theorem speaks of something else than what `launch` returns: that,
                                        in float64 (for a Cholesky factor R, the product R'R)
    chapter                             name of the chapter that describes it
    operands                            places of the arrays whose products are summed: each element is rounded to the
                                        role compute where it meets its partner. `error_bound` is for elements that
                                        compute holds; what rounding others costs is added here
    memory(precision, *shape)           bytes that its arguments and results take on the device, where a floor under
                                        what is moved says too little: of a matrix that is read in part, all of it
    cost_differs                        one sentence, where the ladder's first rung does not come within 5 % of `cost`,
                                        in flops or in bytes: why not
"""
import functools
import inspect
import sys
from dataclasses import dataclass, replace
from typing import Callable

import numpy as np

KINDS = ("random", "same_sign", "large", "overflow", "subnormal")
"""random: standard normal. same_sign: uniform in [0, 1), where errors add up instead of cancelling. large: scaled
so that the result comes near the largest number of storage. overflow: four times that. subnormal: operands below its
smallest normal number."""

_rungs = {}          # operation name -> its rungs, in the order of their definition
_operations = {}


class _Factory:
    """`factory(precision, **options)`, called once for each precision and choice of options (hashable values)."""

    def __init__(self, factory):
        self.factory = factory
        self._signature = inspect.signature(factory)
        self._built = {}

    def __getitem__(self, precision):
        return self.variant(precision)

    def variant(self, precision, *options, **named):
        """What the factory returns for `precision` and these options, built once."""
        chosen = self._signature.bind(precision, *options, **named)
        chosen.apply_defaults()
        key = chosen.args
        if key not in self._built:
            from numprec.language import formats  # noqa: F401  teaches Numba what a Format is
            self._built[key] = self.factory(*key)
        return self._built[key]


class Helper(_Factory):
    """A device function for each precision: `helper[p]`, or `helper(p, **options)` for a factory that takes options."""

    def __init__(self, factory):
        super().__init__(factory)
        functools.update_wrapper(self, factory)

    __call__ = _Factory.variant


def helper(factory):
    """Decorator: `factory(precision, **options)` returns a device function, and is called once for each choice."""
    return Helper(factory)


class Rung(_Factory):
    """One step of a ladder. `rung[precision]` is what its factory returns for that precision, built once;
    `rung.variant(precision, **options)` the same for factories that take options, such as a transposed operand."""

    def __init__(self, factory, operation, compute_capability, supports):
        super().__init__(factory)
        self.name = factory.__name__
        self.operation = operation
        self.chapter = _last(factory.__module__)
        self.compute_capability = compute_capability
        self.supports = supports

    def __repr__(self):
        return f"{self.operation}/{self.name}"


@dataclass(frozen=True)
class Operation:
    """See the module's docstring for what each callable takes and returns."""

    name: str
    inputs: Callable
    oracle: Callable
    error_bound: Callable
    launch: Callable
    cost: Callable
    shapes: tuple
    bench_shapes: dict
    ladder: str | None = None
    readout: Callable | None = None
    memory: Callable | None = None
    cost_differs: str | None = None
    chapter: str | None = None
    operands: tuple = ()

    @property
    def rungs(self):
        """The ladder, slowest first."""
        return tuple(_rungs[self.ladder or self.name])

    def rung(self, name):
        """The rung called `name`. Raises KeyError with the names there are."""
        for r in self.rungs:
            if r.name == name:
                return r
        raise KeyError(f"{self.name} has no rung {name!r}; it has {', '.join(r.name for r in self.rungs)}")


def rung(factory=None, *, of=None, compute_capability=(7, 5), supports=lambda precision: True):
    """Decorator: registers `factory(precision) -> kernel(s)` as the next rung of the operation `of`.

    `of` defaults to the chapter's name. `compute_capability` is the least that the rung compiles for, and
    `supports(precision)` tells which precisions it is written for.
    """
    def register(factory):
        step = Rung(factory, of or _last(factory.__module__), compute_capability, supports)
        _rungs.setdefault(step.operation, []).append(step)
        return step
    return register if factory is None else register(factory)


def _last(module):
    """The chapter of a module: the last part of its dotted name."""
    return module.rpartition(".")[2]


def draw(rng, shape, kind, precision, terms=1, factors=1):
    """float64 values of one `kind` for an operation that sums `terms` products of `factors` operands each."""
    if kind in ("large", "overflow"):
        operand = (precision.storage.max / terms) ** (1 / factors)
        return rng.uniform(0.7, 1, shape) * operand * (4 if kind == "overflow" else 1) ** (1 / factors)
    if kind == "subnormal":
        return rng.uniform(-1, 1, shape) * precision.storage.tiny
    return rng.random(shape) if kind == "same_sign" else rng.standard_normal(shape)


def operation(name, **parts):
    """Describes the operation `name`; its rungs were registered above it in the chapter, which is the caller."""
    described = Operation(name, chapter=_last(sys._getframe(1).f_globals["__name__"]), **parts)
    if described.operands:
        described = replace(described, error_bound=_with_compute(described))
    _operations[name] = described
    return described


def _with_compute(operation):
    """The operation's error bound, for operands that compute need not hold: a kernel does with them what it does with
    the rounded ones, so the bound is theirs, and the oracle's change from the given operands to these."""
    def error_bound(precision, *arrays):
        if precision.compute.holds(precision.storage):
            return operation.error_bound(precision, *arrays)
        rounded = [precision.compute.round(a) if i in operation.operands else a for i, a in enumerate(arrays)]
        bound = operation.error_bound(precision, *rounded)
        before, after = operation.oracle(*arrays), operation.oracle(*rounded)
        if not isinstance(bound, tuple):
            return _apart(before, after, bound)
        return tuple(map(_apart, before, after, bound))
    return error_bound


def _apart(before, after, bound):
    """|after - before| + bound; infinite where that is no number."""
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.abs(np.subtract(after, before)) + bound, nan=np.inf, posinf=np.inf)


def registered():
    """Every operation of the chapters that were imported, by name, in the order of their definition."""
    return dict(_operations)
