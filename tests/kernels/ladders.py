"""What every chapter is tested for: its operations against their oracles and bounds, its kernels compiled for two cards
and compared with what the emulator runs, its costs with what is counted.

A chapter's file says which chapter it is of, and gives an example of each operation with its result:

    class TestMatmul(Ladder):
        chapter = "matmul"
        examples = {"matmul": ((np.eye(2), np.eye(2)), np.eye(2)), ...}

The error bounds are theorems, so nothing here holds a tolerance. That they are also tight enough to notice a mistake is
tested too: a kernel one precision lower breaks them.
"""
import functools
import itertools
from fractions import Fraction

import audit_exceptions as exceptions
import numpy as np
import pytest

from numprec import device as devices
from numprec.emulator import cache
from numprec.harness.measure import arithmetic, audit, profiling
from numprec.kernels import operations
from numprec.language.ladder import KINDS
from numprec.precision import FORMATS, PRECISIONS

OPERATIONS = operations()
LOWER = {"fp64": "fp32", "fp32": "fp16", "mixed_fp16": "fp16", "mixed_bf16": "fp16"}
U64, FP32 = FORMATS["float64"].u, PRECISIONS["fp32"]
NEAR = 0.05        # of a cost that is counted: what does not grow with the shape may be left out


def problem(operation, shape, kind, precision, seed=0):
    """The operands, rounded to storage."""
    with np.errstate(over="ignore"):
        drawn = map(np.asarray, operation.inputs(np.random.default_rng(seed), shape, kind, precision))
        return [precision.storage.round(a) if a.dtype.kind == "f" else a for a in drawn]


def as_tuple(x):
    return x if isinstance(x, tuple) else (x,)


def run(device, operation, rung, precision, arrays):
    """Host copies of what a rung returns, as a tuple."""
    results = operation.launch(device, rung, precision, *(device.array(a) for a in arrays))
    return tuple(device.to_host(r) for r in as_tuple(results))


def values(operation, results, arrays):
    """What the theorem speaks of, as a tuple."""
    if operation.readout is None:
        return results
    return as_tuple(operation.readout(results if len(results) > 1 else results[0], *arrays))


def largest(array):
    """The largest finite number of the array's format."""
    return next((f.max for f in FORMATS.values() if f.numpy == array.dtype), np.inf)


def violations(result, exact, bound):
    """Where a result is none that the bound allows, as an array of booleans.

    Where even the smallest allowed value lies beyond the format's range the result must be infinite, where the largest
    one lies within it must be finite; between, either will do. An exact NaN demands a NaN.
    """
    exact = np.asarray(exact, np.float64)
    top, value = largest(result), result.astype(np.float64).reshape(exact.shape)
    with np.errstate(invalid="ignore", over="ignore"):
        bound = np.nan_to_num(np.broadcast_to(bound, exact.shape), nan=np.inf, posinf=np.inf)
        near = abs(value - exact) <= bound
        infinite = value == np.copysign(np.inf, exact)
        right = np.where(abs(exact) + bound <= top, near, near | infinite)
        right = np.where(np.isinf(exact) | (abs(exact) - bound > top), infinite, right)
    return ~np.where(np.isnan(exact), np.isnan(value), right)


def theorem(operation, precision, arrays):
    """The oracle's results and their bounds, each a tuple."""
    with np.errstate(all="ignore"):
        return as_tuple(operation.oracle(*arrays)), as_tuple(operation.error_bound(precision, *arrays))


@functools.lru_cache(maxsize=64)
def given(name, precision, shape, kind):
    """Operands, and what the theorem says of them, for all rungs of an operation."""
    arrays = problem(OPERATIONS[name], shape, kind, precision)
    return arrays, theorem(OPERATIONS[name], precision, arrays)


def checked(operation, precision, results, arrays, known=None):
    """(result, exact, bound, violations) for each result of an operation; `known` is its `theorem`."""
    with np.errstate(all="ignore"):
        parts = values(operation, results, arrays), *(known or theorem(operation, precision, arrays))
        return [(*each, violations(*each)) for each in zip(*parts, strict=True)]


def oracle(name, *arrays):
    return OPERATIONS[name].oracle(*arrays)


def exact_dot(x, y):
    """Rounded once, at the end."""
    return float(sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(x, y)))


def fused_chain(products, start=0.0):
    """fl(... fl(fl(start + a_0 b_0) + a_1 b_1) ...) in float16, one rounding a step, for exact products in float64.

    The sum of a float16 and a product of two is rounded to float64 first, which changes nothing: it is inexact there
    only if its operands lie more than 53 bits apart. If the product is the smaller one, it is far below a quarter of
    the sum's last bit, and either rounding leaves the sum alone; if it is the larger one, it is above 2^28, where
    every result is infinite.
    """
    acc = np.full(products.shape[1:], start)
    with np.errstate(over="ignore", invalid="ignore"):
        for product in products:
            acc = (acc + product).astype(np.float16).astype(np.float64)
    return acc.astype(np.float16)


# ---- the audit

EXPECTED = {(kernel, p): table for table in ("COPIED", "SHARED", "BOTH")
            for kernel, (precisions, _) in getattr(exceptions, table).items() for p in precisions}


def relation(machine, emulated):
    """How two counts differ, as the tables of exceptions are named."""
    if set(machine) != set(emulated):
        return "of other kinds"
    more, fewer = (any(sign * machine[kind] > sign * emulated[kind] for kind in machine) for sign in (1, -1))
    return "BOTH" if more and fewer else "COPIED" if more else "SHARED" if fewer else "equal"


_first = {}


def alike(kernel, argtypes):
    """The first kernel seen whose compiled form is that of `kernel`, which is the kernel itself but for those that are
    the same in several precisions."""
    key = cache.kernel_key(kernel, argtypes, audit.CARDS[0], "audit")
    return kernel if key is None else _first.setdefault(key, kernel)


@functools.lru_cache(maxsize=None)
def looked_at(kernel, argtypes, least):
    """({card: Findings}, operations counted in machine code, and in the emulator's) for cards that have `least`."""
    found = {cc: audit.inspect(audit.compile_ptx(kernel, argtypes, cc)) for cc in audit.CARDS if cc >= least}
    return (found, arithmetic.of_machine(kernel, argtypes, max(audit.CARDS[0], least)),
            arithmetic.of_emulator(kernel, argtypes))


# ---- the tests of a chapter

class Ladder:
    """The tests of `chapter`. `examples` is {operation: (arrays, what its oracle returns)}; `exact` names operations in
    which nothing is rounded, so that no precision is more exact; `cost_shapes` is {operation: shape} where costs are
    compared at another shape than that of the smoke scale."""

    chapter = None
    examples = {}
    exact = ()
    cost_shapes = {}

    def as_good(self, operation, rung, precision):
        """Why one precision lower is no worse, where it is not."""

    def pytest_generate_tests(self, metafunc):
        """Each combination of what a test asks for by name; `finer` is a precision that has a lower one."""
        names = [n for n in ("operation", "finer", "precision", "shape", "kind", "rung") if n in metafunc.fixturenames]
        # rungs one after the other: they share operands and oracle
        cases = []
        for operation in (op for op in OPERATIONS.values() if op.chapter == self.chapter):
            choices = {"operation": [operation], "rung": operation.rungs, "finer": map(PRECISIONS.get, LOWER),
                       "precision": PRECISIONS.values(), "shape": operation.shapes, "kind": KINDS}
            for values in itertools.product(*(choices[n] for n in names)):
                case = dict(zip(names, values))
                if "rung" not in case or "precision" not in case or case["rung"].supports(case["precision"]):
                    cases.append(pytest.param(*values, id="-".join(map(label, values))))
        if names:
            metafunc.parametrize(names, cases)

    def test_every_operation_has_an_example(self):
        assert set(self.examples) == {op.name for op in OPERATIONS.values() if op.chapter == self.chapter} != set()
        assert {*self.exact, *self.cost_shapes} <= set(self.examples)

    def test_oracle(self, operation):
        arrays, expected = self.examples[operation.name]
        for got, exact in zip(as_tuple(operation.oracle(*arrays)), as_tuple(expected), strict=True):
            np.testing.assert_allclose(got, exact, rtol=8 * U64, atol=8 * U64)

    def test_parts_fit_together(self, operation, precision, kind):
        """A bound has the shape of what it bounds and is positive; a cost counts; nothing is NaN."""
        for shape in operation.shapes:
            arrays, (exact, bound) = given(operation.name, precision, shape, kind)
            assert len(exact) == len(bound)
            for e, b in zip(exact, bound):
                assert np.broadcast_shapes(np.shape(e), np.shape(b)) == np.shape(e)
                # where operands overflow, infinity less infinity is no number
                assert kind == "overflow" or not np.isnan(e).any() and np.all(np.asarray(b) >= 0)
            cost = operation.cost(precision, *shape)
            assert cost["flops"] >= 0 and cost["bytes"] >= min(cost["flops"], 1)
        assert set(operation.bench_shapes) == {"smoke", "quick", "full"}
        assert all(len(shape) == len(operation.shapes[0]) for shape in operation.bench_shapes.values())

    def test_a_bound_grows_with_the_unit_roundoff(self, operation):
        shape = operation.shapes[min(2, len(operation.shapes) - 1)]
        arrays = problem(operation, shape, "random", PRECISIONS["fp16"])
        with np.errstate(all="ignore"):
            bounds = [as_tuple(operation.error_bound(PRECISIONS[p], *arrays))
                      for p in ("fp64", "fp32", "mixed_fp16", "fp16")]
        for finer, coarser in itertools.pairwise(bounds):
            assert all(np.all(np.asarray(f) <= np.asarray(c)) for f, c in zip(finer, coarser))

    def test_within_bound_and_repeatable(self, device, operation, rung, precision, shape):
        if device.compute_capability < rung.compute_capability:
            pytest.skip(f"{rung} needs compute capability {rung.compute_capability}")
        for kind in KINDS:
            arrays, known = given(operation.name, precision, shape, kind)
            results = run(device, operation, rung, precision, arrays)
            for result, exact, bound, wrong in checked(operation, precision, results, arrays, known):
                assert not wrong.any(), f"{kind}: {wrong.sum()} of {wrong.size}: " \
                    f"{result[wrong.reshape(result.shape)][:3]}, exact {np.asarray(exact)[wrong][:3]}, bound {bound}"
            again = run(devices.get(device.kind, seed=1), operation, rung, precision, arrays)
            assert [r.tobytes() for r in again] == [r.tobytes() for r in results], kind

    def test_one_precision_lower_breaks_the_bound(self, device, operation, rung, finer):
        """The same operands, exact in both precisions; some result of some shape is too far off."""
        if operation.name in self.exact:
            assert not np.any(operation.error_bound(finer, np.ones(3)))
            return
        reason, lower = self.as_good(operation, rung, finer), PRECISIONS[LOWER[finer.name]]
        broken = 0
        for shape in operation.shapes:
            arrays = [a if a.dtype.kind in "iu" else lower.storage.round(a)
                      for a in problem(operation, shape, "random", finer)]
            results = run(device, operation, rung, lower, arrays)
            broken += sum(wrong.sum() for *_, wrong in checked(operation, finer, results, arrays))
        assert bool(broken) != bool(reason), reason

    def test_compiled_code(self, operation, rung, precision):
        """No float64 that was not asked for; the emulator's code rounds what the machine's does; and a top rung keeps
        everything in registers."""
        launches = audit.launches(operation, rung, precision)
        assert launches, "the chapter launches nothing"
        float64, local_bytes, apart = {}, {}, {}
        for kernel, argtypes in launches:
            name = kernel.py_func.__name__
            assert not audit.python_floats(kernel)
            found, machine, emulated = looked_at(alike(kernel, argtypes), argtypes, rung.compute_capability)
            expected = EXPECTED.get((f"{operation.name}/{name}", str(precision)), "equal")
            if relation(machine, emulated) != expected:
                apart[name] = {"expected": expected, "machine": machine, "emulated": emulated}
            for cc, findings in found.items():
                if findings.float64 and FORMATS["float64"] not in precision.formats:
                    float64[name, cc] = findings.float64
                if findings.local_bytes and rung is operation.rungs[-1]:
                    local_bytes[name, cc] = findings.local_bytes
        key = f"{operation.name}/{rung.name}", str(precision)
        assert bool(float64) == (key in exceptions.FLOAT64), float64 or "the exception no longer applies"
        assert bool(local_bytes) == (key in exceptions.LOCAL_MEMORY), local_bytes or "the exception no longer applies"
        assert not apart

    def test_a_cost_is_what_is_counted_or_says_why_not(self, operation):
        """Of the first rung. A sentence that explains a difference which is none is wrong too."""
        shape = self.cost_shapes.get(operation.name, operation.bench_shapes["smoke"])
        cost = operation.cost(FP32, *shape)
        found = profiling.counted(profiling.launched(operation, operation.rungs[0], FP32, shape))
        near = {name: abs(found[name] - cost[name]) <= NEAR * cost[name] for name in cost}
        assert all(near.values()) == (operation.cost_differs is None), (found, cost)
        assert operation.cost_differs is None or operation.cost_differs.endswith(".")


def label(value):
    """The name of an operation, a rung, a precision or a kind; a shape as 17x70x31."""
    return "x".join(map(str, value)) if isinstance(value, tuple) else getattr(value, "name", str(value))
