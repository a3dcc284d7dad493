"""Every kernel against its oracle: one test for each operation, precision, shape and rung, on every kind of data.

The error bounds are theorems, so nothing here holds a tolerance. That they are also tight enough to notice a mistake is
tested too: a kernel one precision lower breaks them, and where no lower one exists the result must agree, bit for bit,
with the chain of roundings that the chapter promises.
"""
import functools

import numpy as np
import pytest

from numprec import device as devices
from numprec.kernels import operations
from numprec.kernels.products import matmul
from numprec.kernels.reductions import argmax, norm, reduce
from numprec.language.ladder import KINDS, draw
from numprec.precision import FORMATS, PRECISIONS

OPERATIONS = operations()
CASES = [pytest.param(op, rung, p, shape, id=f"{op.name}-{rung.name}-{p}-{'x'.join(map(str, shape))}")
         for op in OPERATIONS.values() for p in PRECISIONS.values() for shape in op.shapes
         for rung in op.rungs if rung.supports(p)]    # rungs one after the other: they share operands and oracle
RUNGS = [pytest.param(op, rung, id=f"{op.name}-{rung.name}") for op in OPERATIONS.values() for rung in op.rungs]
FP16 = PRECISIONS["fp16"]


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


@functools.lru_cache(maxsize=len(KINDS))
def given(name, precision, shape, kind):
    """Operands, and what the theorem says of them, for all rungs of an operation."""
    arrays = problem(OPERATIONS[name], shape, kind, precision)
    return arrays, theorem(OPERATIONS[name], precision, arrays)


def checked(operation, precision, results, arrays, known=None):
    """(result, exact, bound, violations) for each result of an operation; `known` is its `theorem`."""
    with np.errstate(all="ignore"):
        parts = values(operation, results, arrays), *(known or theorem(operation, precision, arrays))
        return [(*each, violations(*each)) for each in zip(*parts, strict=True)]


@pytest.mark.parametrize("operation, rung, precision, shape", CASES)
def test_within_bound_and_repeatable(device, operation, rung, precision, shape):
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


# ---- the bounds have teeth

EXACT = {"max", "argmax", "argmin", "permutation", "convert", "im2col", "max_pool", "augment", "sort",
         "histogram", "partition", "descend", "grow"}    # nothing is rounded: no precision is more exact
LOWER = {"fp64": "fp32", "fp32": "fp16", "mixed_fp16": "fp16", "mixed_bf16": "fp16"}
AS_GOOD = {
    "storage": "the only rounding is to storage, which is no coarser in float16",
    "refine": "the residual is formed one format wider, so that a lower precision reaches the same solution",
    "element": "a few roundings to float16 are finer than the one to bfloat16",
    "mixed": "centred columns are rounded to compute, and the condition number carries that error, the larger one, on",
}


def as_good(operation, rung, precision):
    """Why one precision lower is no worse, where it is not."""
    if operation.name == "least_squares":
        return AS_GOOD["refine"] if rung.name == "refine" else AS_GOOD["mixed"] if "mixed" in precision else None
    if operation.name in ("activation_gradient", "max_pool_gradient"):
        return AS_GOOD["element"] if precision == "mixed_bf16" else None
    if operation.name == "bins":
        return AS_GOOD["storage"] if "mixed" in precision else None
    return None


@pytest.mark.parametrize("precision", LOWER, ids=str)
@pytest.mark.parametrize("operation, rung", RUNGS)
def test_one_precision_lower_breaks_the_bound(device, operation, rung, precision):
    """The same operands, exact in both precisions; some result of some shape is too far off."""
    if operation.name in EXACT:
        assert not np.any(operation.error_bound(PRECISIONS[precision], np.ones(3)))
        return
    reason = as_good(operation, rung, precision)
    precision, lower = PRECISIONS[precision], PRECISIONS[LOWER[precision]]
    broken = 0
    for shape in operation.shapes:
        arrays = [a if a.dtype.kind in "iu" else lower.storage.round(a)
                  for a in problem(operation, shape, "random", precision)]
        results = run(device, operation, rung, lower, arrays)
        broken += sum(wrong.sum() for *_, wrong in checked(operation, precision, results, arrays))
    assert bool(broken) != bool(reason), reason


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", OPERATIONS["matmul"].shapes, ids=str)
@pytest.mark.parametrize("rung", OPERATIONS["matmul"].rungs, ids=lambda rung: rung.name)
def test_float16_matmul_is_the_fused_chain(device, rung, shape, kind):
    A, B = problem(OPERATIONS["matmul"], shape, kind, FP16)
    C, = run(device, OPERATIONS["matmul"], rung, FP16, (A, B))
    with np.errstate(invalid="ignore"):
        products = A.T.astype(np.float64)[:, :, None] * B.astype(np.float64)[:, None, :]
    np.testing.assert_array_equal(C, fused_chain(products))    # of zeros, either sign will do


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 31, 257, 4096])
def test_float16_dot_is_the_fused_chain(device, n, kind):
    x, y = problem(OPERATIONS["dot"], (n,), kind, FP16)
    result, = run(device, OPERATIONS["dot"], reduce.serial, FP16, (x, y))
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(result[0], fused_chain(x.astype(np.float64) * y.astype(np.float64)))


# ---- what the chapters promise besides

def test_float16_stops_counting_at_2048(device):
    """1 is half of the last bit of 2048, and the tie goes to the even 2048. A tree never adds so unequal numbers."""
    ones = np.ones(4096, np.float16)
    for rung, expected in (reduce.serial, 2048), (reduce.tree, 4096), (reduce.shuffle, 4096):
        assert run(device, OPERATIONS["sum"], rung, FP16, [ones])[0] == expected
    assert run(device, OPERATIONS["sum"], reduce.serial, PRECISIONS["mixed_fp16"], [ones])[0] == 4096


@pytest.mark.parametrize("rung", OPERATIONS["argmax"].rungs, ids=lambda rung: rung.name)
@pytest.mark.parametrize("n", [3, 300, 5000])
def test_ties_and_nan(device, rung, precision, n):
    """The first of equal elements; a NaN before every number, the first NaN before the others. As in NumPy."""
    rng = np.random.default_rng(n)
    rounded = precision.storage.round
    few = rounded(rng.integers(-2, 3, n))
    for x in few, rounded(np.zeros(n)), rounded(np.where(rng.random(n) < 2 / n, np.nan, few)), \
            rounded(np.full(n, np.nan)), rounded(np.full(n, -np.inf)):
        for name in "max", "argmax", "argmin":
            result, = run(device, OPERATIONS[name], rung, precision, [x])
            np.testing.assert_array_equal(result[0].astype(np.float64), OPERATIONS[name].oracle(x))


@pytest.mark.parametrize("rung", OPERATIONS["norm"].rungs, ids=lambda rung: rung.name)
def test_norm_of_the_whole_range(device, rung, precision):
    """Squares of the largest and of the smallest number leave the range; the norm need not."""
    big, small = precision.storage.max / 2, precision.storage.eta
    for x, exact in ([big, big], np.hypot(big, big)), ([0, -small, 0], small), ([0, 0], 0), ([np.inf, 1], np.inf):
        x = precision.storage.round(np.array(x))
        result, = run(device, OPERATIONS["norm"], rung, precision, [x])
        bound = norm.error_bound(precision, x) if np.isfinite(exact) else 0
        assert not violations(result, exact, bound).any()


@pytest.mark.parametrize("transposed", [{}, {"transpose_a": True}, {"transpose_b": True},
                                        {"transpose_a": True, "transpose_b": True}], ids="+".join)
@pytest.mark.parametrize("rung", OPERATIONS["matmul"].rungs, ids=lambda rung: rung.name)
def test_epilogue(device, rung, precision, transposed):
    """Bias and rectifier, applied to the sum before its one rounding to storage."""
    A, B = problem(OPERATIONS["matmul"], (17, 70, 31), "random", precision)
    bias = precision.storage.round(np.random.default_rng(1).standard_normal(70))
    exact = np.maximum(matmul.oracle(A, B) + bias.astype(np.float64), 0)
    bound = matmul.error_bound(precision, A, B) + (precision.storage.u + precision.accum.u) * (exact + abs(
        bias.astype(np.float64)))
    a, b = (np.ascontiguousarray(X.T if f"transpose_{x}" in transposed else X) for x, X in (("a", A), ("b", B)))
    C = matmul.launch(device, rung, precision, device.array(a), device.array(b), **transposed,
                      epilogue=biased_rectifier, extra=device.array(bias))
    C = device.to_host(C)
    assert not violations(C, exact, bound).any()
    assert (C == 0).any() and (C.astype(np.float64) > 0).any()


def biased_rectifier(p):
    from numba import cuda
    accum = p.accum

    @cuda.jit(device=True)
    def biased_rectifier(acc, m, n, bias):
        return max(acc + accum(bias[n]), accum(0))
    return biased_rectifier


def test_transposing_changes_no_bit(device, precision):
    """The operand's place in memory decides who reads what, not who adds what."""
    A, B = problem(OPERATIONS["matmul"], (33, 65, 63), "random", precision)
    plain = [run(device, OPERATIONS["matmul"], rung, precision, (A, B))[0] for rung in OPERATIONS["matmul"].rungs]
    left = [run(device, OPERATIONS["matmul_ta"], rung, precision, (np.ascontiguousarray(A.T), B))[0]
            for rung in OPERATIONS["matmul"].rungs]
    right = [run(device, OPERATIONS["matmul_tb"], rung, precision, (A, np.ascontiguousarray(B.T)))[0]
             for rung in OPERATIONS["matmul"].rungs]
    assert len({C.tobytes() for C in plain + left + right}) == 1    # nor does the rung: all walk k upwards


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(precision, kind):
    """The data are what their names say, once rounded."""
    x = precision.storage.round(draw(np.random.default_rng(0), 1000, kind, precision, terms=10)).astype(np.float64)
    top, tiny = precision.storage.max, precision.storage.tiny
    assert {"random": x.min() < -1 and x.max() > 1, "same_sign": x.min() >= 0 and x.max() <= 1,
            "large": top / 20 < x.min() and x.max() <= top / 10, "overflow": x.min() > top / 5,
            "subnormal": 0 < abs(x).max() <= tiny}[kind]


@pytest.mark.parametrize("rung", OPERATIONS["argmax"].rungs, ids=lambda rung: rung.name)
def test_largest_element_and_index_from_one_call(device, rung):
    """The second launch looks up, by index, the elements that the blocks of the first have chosen."""
    x = np.zeros(40009, np.float32)
    x[39999] = 1
    best, where = argmax.launch(device, rung, PRECISIONS["fp32"], device.array(x))
    assert device.to_host(best)[0] == 1 and device.to_host(where)[0] == 39999
