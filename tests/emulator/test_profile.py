"""The profiler: kernels whose counts are known beforehand, and the numbers of the textbook's ladders."""
import math

import numpy as np
import pytest
from numba import cuda, float32, types
from numba.cuda.descriptor import cuda_target

from numprec import device as devices
from numprec.emulator import emulate, listening, profile
from numprec.emulator.compile import front_end
from numprec.kernels.products import matmul
from numprec.precision import PRECISIONS

ROWS, PADDED = 32, 33


def counted(kernel, grid, block, *args, **options):
    with profile() as counts:
        emulate(kernel, **options)[grid, block](*args)
    found, = counts.launches
    return found


@cuda.jit
def strided(x, y, stride):
    i = cuda.grid(1)
    y[i] = x[i * stride]


@pytest.mark.parametrize("stride, sectors", [(1, 4), (2, 8), (8, 32), (32, 32)])
def test_a_strided_copy(stride, sectors):
    """A warp reads 32 floats that lie in 4 sectors, in 8 where every other float is read, and at most in 32."""
    n = 256
    c = counted(strided, 2, n // 2, np.zeros(n * stride, np.float32), np.zeros(n, np.float32), stride)
    assert (c.global_loads.requests, c.global_loads.units) == (n // 32, n // 32 * sectors)
    assert (c.global_stores.requests, c.global_stores.units) == (n // 32, n // 32 * 4)
    assert (c.read, c.written) == (4 * n, 4 * n) and c.lanes == 32
    assert c.efficiency == pytest.approx(2 * 4 / (sectors + 4))


def test_allocations_begin_at_a_sector():
    """As a GPU's do, wherever the host's array lies; a slice begins where it begins."""
    whole = np.zeros(65, np.float32)
    assert counted(strided, 1, 32, whole[:32], np.zeros(32, np.float32), 1).global_loads.units == 4
    assert counted(strided, 1, 32, whole[1:33], np.zeros(32, np.float32), 1).global_loads.units == 5


@cuda.jit
def one_for_all(x, y):
    y[cuda.grid(1)] = x[0]


def test_a_broadcast_is_one_sector():
    c = counted(one_for_all, 1, 64, np.zeros(8, np.float32), np.zeros(64, np.float32))
    assert (c.global_loads.requests, c.global_loads.units, c.global_loads.needed) == (2, 2, 8)


def transpose(width):
    @cuda.jit
    def transpose(x, y):
        tile = cuda.shared.array((ROWS, width), x.dtype)
        i, j = cuda.threadIdx.x, cuda.threadIdx.y
        tile[j, i] = x[j, i]
        cuda.syncthreads()
        y[j, i] = tile[i, j]
    return transpose


@pytest.mark.parametrize("width, dtype, wavefronts", [
    (ROWS, np.float32, 32), (PADDED, np.float32, 1), (ROWS, np.float64, 32), (PADDED, np.float64, 2)])
def test_bank_conflicts_of_a_transposed_tile(width, dtype, wavefronts):
    """A column of 32 words lies in one bank; padded by a word, in all of them. Doubles take two passes at least."""
    x = np.arange(ROWS * ROWS, dtype=dtype).reshape(ROWS, ROWS)
    y = np.zeros_like(x)
    c = counted(transpose(width), 1, (ROWS, ROWS), x, y)
    np.testing.assert_array_equal(y, x.T)
    assert (c.shared_loads.requests, c.shared_loads.units) == (32, 32 * wavefronts)
    assert c.shared_stores.units == 32 * (dtype().itemsize // 4)
    assert c.barriers == 32 and c.efficiency == 1


def reduction(interleaved):
    @cuda.jit
    def reduction(x, out):
        s = cuda.shared.array(256, float32)
        t = cuda.threadIdx.x
        s[t] = x[t]
        cuda.syncthreads()
        step = 1 if interleaved else 128
        while 0 < step < 256:
            if interleaved:
                if t % (2 * step) == 0:
                    s[t] += s[t + step]
                step *= 2
            else:
                if t < step:
                    s[t] += s[t + step]
                step //= 2
            cuda.syncthreads()
        if t == 0:
            out[0] = s[0]
    return reduction


def test_a_tree_that_diverges_and_one_that_does_not():
    """M. Harris, Optimizing parallel reduction in CUDA: 255 sums either way. Interleaved, every warp takes part in the
    first five steps; with halves, whole warps drop out."""
    x, out = np.ones(256, np.float32), np.zeros(1, np.float32)
    scattered, dense = (counted(reduction(i), 1, 256, x, out) for i in (True, False))
    assert out[0] == 256
    for c in scattered, dense:
        assert c.operations["fp32 add"] == 255 and c.barriers == 8 * 9
    assert scattered.shared_loads.requests == 2 * (5 * 8 + 4 + 2 + 1) + 1
    assert dense.shared_loads.requests == 2 * (4 + 2 + 1 + 5) + 1
    assert scattered.shared_loads.lanes == dense.shared_loads.lanes == 2 * 255 + 1


@cuda.jit
def exponentials(x, y):
    i = cuda.grid(1)
    y[i] = math.exp(x[i])


def test_special_functions_are_counted():
    """exp in float32 rests on the hardware's ex2, or is one function of the host's library."""
    c = counted(exponentials, 1, 64, np.zeros(64, np.float32), np.zeros(64, np.float32))
    assert c.operations["fp32 special"] == 64


@cuda.jit
def where_wanted(x, wanted, y):
    i = cuda.grid(1)
    for j in range(x.shape[1]):
        value = math.exp(x[i, j])
        y[i, j] = value * x[i, j] if wanted[i] >= 0 else float32(0)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_what_is_needed_in_one_copy_of_a_loop_is_counted_there(rows):
    """LLVM copies the loop for each value of the condition, and computes exp in one of them."""
    wanted = np.where(np.arange(4) < rows, 1, -1).astype(np.int32)
    c = counted(where_wanted, 1, 4, np.zeros((4, 50), np.float32), wanted, np.zeros((4, 50), np.float32))
    assert c.operations.get("fp32 special", 0) == rows * 50


@cuda.jit
def long_loop(x, n):
    for i in range(n):
        x[0] += 1


def test_a_long_kernel_is_counted_to_its_end(monkeypatch):
    """The rounds after which a sanitizer takes a launch for endless are not the profiler's."""
    monkeypatch.setattr(listening, "ROUNDS", 100)
    x = np.zeros(1, np.float32)
    assert counted(long_loop, 1, 1, x, 1000).global_loads.requests == 1000 and x[0] == 1000


@cuda.jit
def divergent(x, out):
    i = cuda.grid(1)
    s = float32(0)
    for k in range(i % 4 + 1):
        s += x[k * 32 + i]
    out[i] = s


def test_lanes_of_a_loop_of_different_lengths():
    """The k-th round of one lane is the k-th of the others: 32, 24, 16 and 8 lanes."""
    c = counted(divergent, 1, 32, np.zeros(160, np.float32), np.zeros(32, np.float32))
    assert (c.global_loads.requests, c.global_loads.lanes) == (4, 32 + 24 + 16 + 8)


MATMULS = {"fp32": "fp32 fma", "fp64": "fp64 fma", "fp16": "fp16 fma", "mixed_fp16": "fp32 fma"}


@pytest.mark.parametrize("precision", MATMULS)
def test_matmul_multiplies_and_adds_as_often_as_it_says(precision):
    device, p, size = devices.get("emulator"), PRECISIONS[precision], 64
    A, B = (device.array(np.ones((size, size)), p.storage) for _ in "AB")
    for rung in matmul.naive, matmul.tiled, matmul.register_blocked:
        with profile() as counts:
            matmul.launch(device, rung, p, A, B)
        c, = counts.launches
        assert c.operations[MATMULS[precision]] == size ** 3 and c.flops == 2 * size ** 3
        assert c.read == 2 * size ** 2 * p.storage.bytes and c.written == size ** 2 * p.storage.bytes


@pytest.mark.parametrize("rung", [matmul.tiled, matmul.register_blocked], ids=str)
def test_the_indices_of_an_unrolled_loop_cost_nothing(rung):
    """At each round it would take four integer operations at least: an element's place in each tile, the count, and
    the comparison that ends the loop."""
    A, size = np.ones((64, 64), np.float32), 64
    with profile() as counts:
        matmul.launch(devices.get("emulator"), rung, PRECISIONS["fp32"], A, A)
    c, = counts.launches
    assert c.operations["integer"] < 4 * size ** 3


def test_counts_depend_on_nothing_but_the_kernel():
    """Not on the order in which threads happen to run; several workers that are asked for make one here."""
    A, B = (np.ones((48, 48), np.float32) for _ in "AB")
    seen = set()
    for options in {}, {"workers": 2}, *({"seed": seed} for seed in range(20)):
        device = devices.get("emulator", **options)
        with profile() as counts:
            matmul.launch(device, matmul.tiled, PRECISIONS["fp32"], device.array(A), device.array(B))
        seen.add(str(counts))
    assert len(seen) == 1


def test_lines_of_the_source_stay_with_the_profiler(monkeypatch):
    """Numba shares float16's operators among kernels: made for a profile they would name lines, and NVIDIA's linker
    refuse the next kernel that uses them."""
    monkeypatch.setattr(cuda_target.target_context, "cached_internal_func", {})

    @cuda.jit
    def product(x):
        x[0] = x[0] * x[0]

    def modules(lines):
        return front_end(product, (types.float16[::1],), (7, 5), lines).texts
    assert any("Debug Info Version" in text for text in modules(True))
    assert not any("Debug Info Version" in text for text in modules(False))


def test_the_larger_of_two_is_no_arithmetic():
    """Nor is a magnitude; a root is."""
    @cuda.jit
    def magnitudes(x, y):
        i = cuda.grid(1)
        y[i] = max(abs(x[i]), min(x[i], y[i])) + math.sqrt(y[i])

    c = counted(magnitudes, 1, 32, np.ones(32, np.float32), np.ones(32, np.float32))
    assert {what: n for what, n in c.operations.items() if " " in what} == {"fp32 add": 32, "fp32 special": 32}
