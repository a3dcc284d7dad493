"""What the emulator's threads do to one another: atomics, grid barriers, races, and whose turn it is.

Results do not depend on the number of workers. Where they may depend on the order of threads, as a race does, seeds
make it show.
"""
import functools
import multiprocessing
import operator
import os
import queue
import threading
import time

import numpy as np
import pytest
from numba import cuda, float32, int32, int64, uint32

from numprec.emulator import EmulatorError, emulate, interrupts, launch
from numprec.emulator.launch import prepare

WORKERS = (1, 2, 3)
BLOCKS, THREADS = 40, 96
N = BLOCKS * THREADS


def is_serial(kernel, *args):
    return prepare(kernel, args).code.serial


# ---- atomics whose result does not depend on the order

@cuda.jit
def commuting(x, scalars, bins, counts):
    """Everybody into single words, into a histogram, and into a histogram of the block's own."""
    s = cuda.shared.array((2, 4), int32)
    i = cuda.grid(1)
    t = cuda.threadIdx.x
    if t < 8:
        s[t // 4, t % 4] = 0
    cuda.syncthreads()
    cuda.atomic.add(scalars, 0, x[i])
    cuda.atomic.sub(scalars, 1, x[i])
    cuda.atomic.max(scalars, 2, x[i])
    cuda.atomic.min(scalars, 3, x[i])
    cuda.atomic.and_(scalars, 4, x[i])
    cuda.atomic.or_(scalars, 5, x[i])
    cuda.atomic.xor(scalars, 6, x[i])
    cuda.atomic.add(bins, (i % 3, i % 5), 1)
    cuda.atomic.add(s, (t % 2, t % 4), 1)
    cuda.syncthreads()
    if t < 8:
        cuda.atomic.add(counts, t, s[t // 4, t % 4])


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint64])
def test_integer_atomics_under_contention(dtype):
    """Blocks run in parallel and nothing is lost."""
    limits = np.iinfo(dtype)
    x = np.random.default_rng(0).integers(limits.min, limits.max, N, dtype=dtype, endpoint=True)
    start = np.array([7, 7, x[0], x[0], limits.max if limits.min == 0 else -1, 0, 0], dtype)
    for workers in WORKERS:
        for seed in (None, 5):
            scalars, bins, counts = start.copy(), np.zeros((3, 5), np.int64), np.zeros(8, np.int64)
            launch(commuting, BLOCKS, THREADS, (x, scalars, bins, counts), workers=workers, seed=seed)
            with np.errstate(over="ignore"):
                right = [dtype(7) + x.sum(dtype=dtype), dtype(7) - x.sum(dtype=dtype), x.max(), x.min(),
                         np.bitwise_and.reduce(x), np.bitwise_or.reduce(x), np.bitwise_xor.reduce(x)]
            assert scalars.tolist() == [int(r) for r in right]
            assert bins.tolist() == [[sum(1 for i in range(a, N, 3) if i % 5 == b) for b in range(5)] for a in range(3)]
            assert counts.reshape(2, 4).tolist() == [[N // 4, 0, N // 4, 0], [0, N // 4, 0, N // 4]]
    assert not is_serial(commuting, x, scalars, bins, counts)


# ---- atomics whose result depends on the order, or that return one

@cuda.jit
def float_atomics(x, out, shared_sum):
    s = cuda.shared.array(1, float32)
    i = cuda.grid(1)
    if cuda.threadIdx.x == 0:
        s[0] = 0
    cuda.syncthreads()
    cuda.atomic.add(out, 0, x[i])
    cuda.atomic.sub(out, 1, x[i])
    cuda.atomic.max(out, 2, x[i])
    cuda.atomic.min(out, 3, x[i])
    cuda.atomic.nanmax(out, 4, x[i])
    cuda.atomic.nanmin(out, 5, x[i])
    cuda.atomic.add(s, 0, float32(x[i]))
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        shared_sum[cuda.blockIdx.x] = s[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_atomics(dtype):
    """A sum of floats depends on the order; blocks then take turns, and unseeded threads too."""
    x = np.random.default_rng(0).standard_normal(N).astype(dtype)
    x[5], x[N - 5] = -77, 88
    start = np.array([0, 0, -1, 1, np.nan, np.nan], dtype)
    results = set()
    for workers in WORKERS:
        out, shared_sum = start.copy(), np.zeros(BLOCKS, np.float32)
        launch(float_atomics, BLOCKS, THREADS, (x, out, shared_sum), workers=workers)
        results.add(out.tobytes() + shared_sum.tobytes())
    assert len(results) == 1 and is_serial(float_atomics, x, out, shared_sum)
    in_order = functools.reduce(operator.add, x, dtype(0))
    assert out.tolist() == [in_order, -in_order, 88, -77, 88, -77]
    rows = x.astype(np.float32).reshape(BLOCKS, THREADS)
    assert shared_sum.tolist() == [functools.reduce(operator.add, row, np.float32(0)) for row in rows]
    shuffled = start.copy()
    launch(float_atomics, BLOCKS, THREADS, (x, shuffled, shared_sum), seed=1)
    assert shuffled[0] != in_order and abs(shuffled[0] - in_order) < 1e-2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_atomics_and_nan(dtype):
    """max and min leave a NaN in memory and ignore one that is brought; nanmax and nanmin replace it."""
    x = np.array([np.nan, 1, np.nan, 3, 2, np.nan], dtype)
    out = np.array([0, 0, np.nan, np.nan, np.nan, 9], dtype)
    launch(float_atomics, 1, 6, (x, out, np.zeros(1, np.float32)))
    np.testing.assert_array_equal(out, np.array([np.nan, np.nan, np.nan, np.nan, 3, 1], dtype))
    out = np.array([0, 0, 0.5, 2.5, np.nan, np.nan], dtype)
    launch(float_atomics, 1, 6, (x, out, np.zeros(1, np.float32)))
    np.testing.assert_array_equal(out[2:], np.array([3, 1, 3, 1], dtype))
    alone = np.full(6, np.nan, dtype)
    launch(float_atomics, 1, 1, (x[:1].copy(), alone, np.zeros(1, np.float32)))
    assert np.isnan(alone).all()


@cuda.jit
def tickets(counter, order, exchanged, returned):
    """Each thread's turn; and a word that goes from hand to hand."""
    i = cuda.grid(1)
    order[cuda.atomic.add(counter, 0, 1)] = i
    returned[i] = cuda.atomic.exch(exchanged, 0, i)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_what_atomics_return(dtype):
    for workers in WORKERS:
        order, exchanged, returned = np.zeros(N, np.int64), np.full(1, -1, dtype), np.zeros(N, np.int64)
        launch(tickets, BLOCKS, THREADS, (np.zeros(1, dtype), order, exchanged, returned), workers=workers)
        assert order.tolist() == list(range(N))                      # blocks and threads by index
        assert returned.tolist() == list(range(-1, N - 1)) and exchanged[0] == N - 1
    shuffled = []
    for workers in WORKERS:
        exchanged[0] = -1
        launch(tickets, BLOCKS, THREADS, (np.zeros(1, dtype), order, exchanged, returned), workers=workers, seed=4)
        shuffled.append(order.copy())
    assert (shuffled[0] != np.arange(N)).any() and sorted(shuffled[0]) == list(range(N))
    assert (shuffled[0] == shuffled[1]).all() and (shuffled[1] == shuffled[2]).all()
    assert sorted([*returned, exchanged[0]]) == [-1, *range(N)]


@cuda.jit
def wrapping(counters, seen_up, seen_down):
    i = cuda.grid(1)
    seen_up[i] = cuda.atomic.inc(counters, 0, uint32(10))
    seen_down[i] = cuda.atomic.dec(counters, 1, uint32(6))


def test_inc_and_dec():
    """inc: 0 after the bound; dec: the bound after 0, and from whatever lies above the bound."""
    counters, up, down = np.array([3, 9], np.uint32), np.zeros(64, np.int64), np.zeros(64, np.int64)
    launch(wrapping, 2, 32, (counters, up, down))
    assert up.tolist() == [(3 + i) % 11 for i in range(64)]
    assert down.tolist() == [9] + [6 - i % 7 for i in range(63)]
    assert counters.tolist() == [(3 + 64) % 11, 6 - 63 % 7]


@cuda.jit
def compare_and_swap(words, total, locked, lock):
    i = cuda.grid(1)
    old = total[0]
    while True:                                   # an addition of one's own
        seen = cuda.atomic.cas(total, 0, old, old + i)
        if seen == old:
            break
        old = seen
    cuda.atomic.compare_and_swap(words[i % 4:], -1, i)
    while cuda.atomic.cas(lock, 0, 0, 1) != 0:
        pass
    locked[0] += 1
    cuda.threadfence()
    cuda.atomic.exch(lock, 0, 0)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_compare_and_swap(dtype):
    """A loop that adds, the first to claim a word, and a lock."""
    for workers in WORKERS:
        words, total, locked = np.full(8, -1, dtype), np.zeros(1, dtype), np.zeros(1)
        launch(compare_and_swap, BLOCKS, THREADS, (words, total, locked, np.zeros(1, np.int32)), workers=workers)
        assert words.tolist() == [0, 1, 2, 3, -1, -1, -1, -1]
        assert total[0] == N * (N - 1) // 2 and locked[0] == N


@cuda.jit
def last_block_adds_up(x, partial, done, out):
    """The pattern of a reduction in one launch: threadfence, count, and the last block sums the blocks' sums."""
    s = cuda.shared.array(128, float32)
    last = cuda.shared.array(1, int32)
    t = cuda.threadIdx.x
    s[t] = x[cuda.grid(1)]
    step = cuda.blockDim.x // 2
    while step:
        cuda.syncthreads()
        if t < step:
            s[t] += s[t + step]
        step //= 2
    if t == 0:
        partial[cuda.blockIdx.x] = s[0]
        cuda.threadfence()
        last[0] = cuda.atomic.add(done, 0, 1) == cuda.gridDim.x - 1
    cuda.syncthreads()
    if last[0] and t == 0:
        total = float32(0)
        for b in range(cuda.gridDim.x):
            total += partial[b]
        out[0] = total


def test_the_last_block():
    x = np.random.default_rng(1).standard_normal(64 * 128).astype(np.float32)
    results = set()
    for workers in WORKERS:
        for seed in (None, 0, 1):
            out = np.zeros(1, np.float32)
            launch(last_block_adds_up, 64, 128, (x, np.zeros(64, np.float32), np.zeros(1, np.int32), out),
                   workers=workers, seed=seed)
            results.add(out[0])
    assert len(results) == 1 and abs(results.pop() - x.sum(dtype=float)) < 1e-3


# ---- grid barriers

@cuda.jit
def pass_around(x, y, steps):
    """Each thread adds what its neighbours had before: a missing or a broken barrier shows in the next step."""
    grid = cuda.cg.this_grid()
    i = cuda.grid(1)
    n = x.size
    for _ in range(steps):
        y[i] = x[i] + 3 * x[(i + 1) % n] - x[(i + n - 1) % n]
        grid.sync()
        x[i] = y[i]
        grid.sync()


@pytest.mark.parametrize("blocks, threads", [(1, 32), (64, 32), (64, 128), (37, 200)])
def test_grid_barriers(blocks, threads):
    """200 barriers of more blocks than there are cores; few threads are run by one worker, many by all."""
    n, steps = blocks * threads, 100
    x = np.random.default_rng(0).integers(0, 100, n)
    right = x.copy()
    for _ in range(steps):
        right = right + 3 * np.roll(right, -1) - np.roll(right, 1)
    for workers in WORKERS:
        for seed in (None, 7):
            got = x.copy()
            launch(pass_around, blocks, threads, (got, np.zeros_like(x), steps), workers=workers, seed=seed)
            np.testing.assert_array_equal(got, right)


@cuda.jit
def sum_then_share(x, total, out):
    """Atomics on floats, a grid barrier, block barriers, dynamic shared memory and shuffles in one kernel."""
    s = cuda.shared.array(0, float32)
    i = cuda.grid(1)
    t = cuda.threadIdx.x
    value = x[i]
    for k in range(5):
        value += cuda.shfl_xor_sync(0xFFFFFFFF, value, 16 >> k)
    if t % 32 == 0:
        s[t // 32] = value
    cuda.syncthreads()
    if t == 0:
        for w in range(1, cuda.blockDim.x // 32):
            s[0] += s[w]
        cuda.atomic.add(total, 0, s[0])
    cuda.cg.this_grid().sync()
    out[i] = x[i] / total[0]


def test_grid_barrier_with_everything_else():
    """Float atomics make the blocks take turns here too: the same bits from any number of workers."""
    x = np.random.default_rng(0).uniform(0, 1, 60 * 128).astype(np.float32)
    results = set()
    for workers in WORKERS:
        out = np.zeros_like(x)
        launch(sum_then_share, 60, 128, (x, np.zeros(1, np.float32), out), shared=16, workers=workers)
        results.add(out.tobytes())
    assert len(results) == 1
    np.testing.assert_allclose(out, x / x.sum(dtype=float), rtol=1e-5)


@cuda.jit
def some_blocks_leave(x):
    if cuda.blockIdx.x % 16 == 3:
        return
    x[cuda.grid(1)] = 1
    cuda.cg.this_grid().sync()


@pytest.mark.parametrize("blocks", [8, 400])
def test_a_grid_barrier_that_blocks_miss(blocks):
    for workers in WORKERS:
        with pytest.raises(EmulatorError, match="some_blocks_leave: deadlock. Some blocks wait at a grid barrier"):
            launch(some_blocks_leave, blocks, 32, (np.zeros(blocks * 32),), workers=workers)


# ---- races, and memory that nobody wrote

@cuda.jit
def reverse_in_block(x, out):
    s = cuda.shared.array(256, float32)
    t = cuda.threadIdx.x
    s[t] = x[cuda.grid(1)]
    cuda.syncthreads()
    out[cuda.grid(1)] = s[cuda.blockDim.x - 1 - t]


@cuda.jit
def reverse_without_barrier(x, out):
    s = cuda.shared.array(256, float32)
    t = cuda.threadIdx.x
    s[t] = x[cuda.grid(1)]
    out[cuda.grid(1)] = s[cuda.blockDim.x - 1 - t]


@cuda.jit
def in_place_without_barrier(x):
    """Reads its neighbour, which may or may not have written already."""
    i = cuda.grid(1)
    x[i] = x[(i + 1) % x.size] + 1


def test_a_race_shows():
    """The order differs between seeds, and from the order by index; shared memory starts as NaN, also for the second
    block that a worker runs."""
    x = np.arange(1024, dtype=np.float32)
    with_barrier, without, in_place = set(), set(), set()
    for seed in [None, *range(20)]:
        for kernel, seen in ((reverse_in_block, with_barrier), (reverse_without_barrier, without)):
            out = np.zeros_like(x)
            launch(kernel, 4, 256, (x, out), seed=seed, workers=1)
            seen.add(out.tobytes())
        y = np.zeros(256)
        launch(in_place_without_barrier, 1, 256, (y,), seed=seed)
        in_place.add(y.tobytes())
    right = x.reshape(4, 256)[:, ::-1].tobytes()
    assert with_barrier == {right}
    assert right not in without and len(without) == len(in_place) == 21
    for result in without:
        assert np.isnan(np.frombuffer(result, np.float32).reshape(4, 256)).any(axis=1).all()


@cuda.jit
def untouched_shared(out):
    """What lies in static and in dynamic shared memory before anything is written."""
    a = cuda.shared.array(8, int32)
    b = cuda.shared.array((3, 5), float32)
    c = cuda.shared.array(0, int64)
    i = cuda.threadIdx.x
    out[cuda.blockIdx.x, 0, i] = a[i]
    out[cuda.blockIdx.x, 1, i] = c[i]
    out[cuda.blockIdx.x, 2, i] = b[i // 5, i % 5] != b[i // 5, i % 5]
    out[cuda.blockIdx.x, 3, i] = c.size
    cuda.syncthreads()
    a[i] = i
    b[i // 5, i % 5] = i
    c[i] = i


def test_shared_memory_is_poisoned():
    out = np.zeros((6, 4, 8), np.int64)
    for _ in range(2):
        launch(untouched_shared, 6, 8, (out,), shared=80, workers=1)
        assert (out == np.array([-1, -1, 1, 10])[:, None]).all()


def test_seeds_repeat():
    """The same seed gives the same order, in this run and in the next one; another gives another."""
    orders = []
    for seed in (11, 11, 12):
        order = np.zeros(N, np.int64)
        launch(tickets, BLOCKS, THREADS, (np.zeros(1, np.int32), order, np.zeros(1, np.int32), np.zeros(N, np.int64)),
               seed=seed)
        orders.append(order)
    assert (orders[0] == orders[1]).all() and (orders[0] != orders[2]).any()
    # warps run as wholes, lanes within them in any order, and blocks in any order
    for order in orders:
        assert (order.reshape(-1, 32) // 32 == order.reshape(-1, 32)[:, :1] // 32).all()


# ---- several launches at once

def _launch_in_child(results):
    y = np.arange(64 * 128)
    launch(pass_around, 64, 128, (y, np.zeros_like(y), 3), workers=2)
    out = np.zeros(1024, np.float32)
    launch(reverse_in_block, 4, 256, (np.arange(1024, dtype=np.float32), out), workers=2)
    results.put((y.sum(), out[0]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_workers_of_its_own():
    """The workers are threads, and threads are not inherited: a launch in the child must not wait for them."""
    context = multiprocessing.get_context("fork")
    here, there = queue.SimpleQueue(), context.SimpleQueue()
    _launch_in_child(here)
    child = context.Process(target=_launch_in_child, args=(there,))
    child.start()
    child.join(60)
    alive = child.is_alive()
    if alive:
        child.kill()
    assert not alive and there.get() == here.get()


@cuda.jit
def wait_for_the_host(flag):
    while cuda.atomic.add(flag, 0, 0) == 0:
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_watches_no_launch_of_another_thread():
    """It would watch it to its own end, as that launch never ends there."""
    flag, codes = np.zeros(1, np.int32), []
    prepare(wait_for_the_host, (flag,))

    def fork():
        while not interrupts._launches:
            time.sleep(0.001)
        child = os.fork()
        if child == 0:
            try:
                flag[0] = 1
                launch(wait_for_the_host, 1, 1, (flag,))
            finally:
                os._exit(len(interrupts._launches))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        flag[0] = 1

    thread = threading.Thread(target=fork)
    thread.start()
    launch(wait_for_the_host, 1, 1, (flag,))
    thread.join()
    assert codes == [0]


def test_launches_from_several_threads():
    """A launch has memory of its own, also while a kernel is compiled for the first time."""
    @cuda.jit
    def slow_reverse(x, out):
        s = cuda.shared.array(64, float32)
        t = cuda.threadIdx.x
        for _ in range(50):
            s[t] = x[cuda.grid(1)]
            cuda.syncthreads()
            out[cuda.grid(1)] = s[63 - t]
            cuda.syncthreads()

    right, failures = [], []

    def work(k):
        x = (np.arange(32 * 64) * (k + 1)).astype(np.float32)
        out, y = np.zeros_like(x), np.arange(64 * 128)
        for _ in range(5):
            emulate(slow_reverse, workers=2)[32, 64](x, out)
            right.append((out.reshape(32, 64) == x.reshape(32, 64)[:, ::-1]).all())
            launch(pass_around, 64, 128, (y, np.zeros_like(y), 3), workers=2)
            try:
                launch(some_blocks_leave, 400, 32, (np.zeros(400 * 32),), workers=2)
            except EmulatorError:
                failures.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(right) == len(failures) == 20 and all(right)
