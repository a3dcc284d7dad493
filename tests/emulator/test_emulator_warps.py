"""The emulator's warps and barriers: every lane, every width, threads that diverge, threads that leave.

Every kernel runs with its threads in index order and shuffled; both must give what the manual says.
"""
import re

import numpy as np
import pytest
from llvmlite import ir
from numba import boolean, cuda, float32, int32, int64, types
from numba.cuda import cgutils
from numba.cuda.extending import intrinsic

from numprec.emulator import EmulatorError, launch

FULL = 0xFFFFFFFF
LANES = np.arange(32)


@pytest.fixture(params=[None, 1, 2], ids=lambda s: f"seed={s}")
def seed(request):
    return request.param


# ---- shuffles

@intrinsic
def shuffle(typingctx, mask, mode, value, b, c):
    """shfl.sync with every operand: (value, whether the lane that was asked for lies within the segment)."""
    def codegen(context, builder, signature, args):
        word = ir.IntType(32)
        result = ir.LiteralStructType((word, ir.IntType(1)))
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(result, (word,) * 5), "llvm.nvvm.shfl.sync.i32")
        pair = builder.call(function, args)
        return context.make_tuple(builder, signature.return_type, [
            builder.extract_value(pair, 0), context.cast(builder, builder.extract_value(pair, 1), boolean, boolean)])
    return types.Tuple((int32, boolean))(int32, int32, int32, int32, int32), codegen


@cuda.jit
def every_shuffle(cs, lanes, value, within):
    """Block x does mode x; the others are laid out as the arrays are: c operands, steps, threads."""
    mode, i = cuda.blockIdx.x, cuda.threadIdx.x
    for w in range(cs.shape[1]):
        for step in range(lanes.shape[0]):
            got, inside = shuffle(int32(FULL), mode, int32(1000 + i), lanes[step, i], cs[mode, w])
            value[mode, w, step, i] = got
            within[mode, w, step, i] = inside


def source_lane(mode, width, lane, b):
    """CUDA C++ Programming Guide, "Warp Shuffle Functions": the lane that is read, and whether it may be."""
    first = lane // width * width
    asked = (first + b % width, lane - b, lane + b, lane ^ b)[mode]
    allowed = (True, asked >= first, asked < first + width, asked < first + width)[mode]
    return (asked if allowed else lane), allowed


def test_shuffles_for_every_mode_width_and_lane(seed):
    """b the same in all lanes, 0 to 31, and b different in every lane; a second and a third warp beside it."""
    widths = [1, 2, 4, 8, 16, 32]
    cs = np.array([[(32 - w) << 8 | (0 if mode == 1 else 31) for w in widths] for mode in range(4)], np.int32)
    lanes = np.concatenate([np.broadcast_to(LANES[:, None], (32, 96)),
                            np.random.default_rng(0).integers(0, 32, (8, 96))])
    value, within = np.zeros((4, 6, 40, 96), np.int32), np.zeros((4, 6, 40, 96), bool)
    launch(every_shuffle, 4, 96, (cs, lanes.astype(np.int32), value, within), seed=seed)
    for mode in range(4):
        for w, width in enumerate(widths):
            for step in range(40):
                right = [source_lane(mode, width, i % 32, lanes[step, i]) for i in range(96)]
                assert value[mode, w, step].tolist() == [
                    1000 + i // 32 * 32 + lane for i, (lane, _) in enumerate(right)]
                assert within[mode, w, step].tolist() == [inside for _, inside in right]


@cuda.jit
def typed_shuffles(x, out):
    i = cuda.threadIdx.x
    out[0, i] = cuda.shfl_sync(FULL, x[i], 5)
    out[1, i] = cuda.shfl_up_sync(FULL, x[i], 3)
    out[2, i] = cuda.shfl_down_sync(FULL, x[i], 7)
    out[3, i] = cuda.shfl_xor_sync(FULL, x[i], 18)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32, np.float64])
def test_shuffles_of_every_type(dtype, seed):
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, 64 * np.dtype(dtype).itemsize, dtype=np.uint8).view(dtype)
    out = np.zeros((4, 64), dtype)
    launch(typed_shuffles, 1, 64, (x, out), seed=seed)
    warps = x.reshape(2, 32)
    lanes = [np.full(32, 5), np.where(LANES >= 3, LANES - 3, LANES), np.where(LANES < 25, LANES + 7, LANES), LANES ^ 18]
    for row, source in zip(out, lanes):
        assert row.tobytes() == warps[:, source].tobytes()


@cuda.jit
def butterfly_sum(x, out):
    i = cuda.grid(1)
    total = x[i]
    for k in range(5):
        total += cuda.shfl_xor_sync(FULL, total, 16 >> k)
    if cuda.laneid == 0:
        out[i // 32] = total


def test_butterfly(seed):
    x = np.random.default_rng(2).standard_normal(256)
    out = np.zeros(8)
    launch(butterfly_sum, 2, 128, (x, out), seed=seed)
    tree = x.reshape(8, 32)
    for offset in (16, 8, 4, 2, 1):
        tree = tree + tree[:, LANES ^ offset]
    np.testing.assert_array_equal(out, tree[:, 0])


@cuda.jit
def diverging_shuffles(x, out, count):
    """Lanes i % 3 == g form a group that goes round its own ring g + 1 times 7 steps, then all meet."""
    i = cuda.threadIdx.x
    group = i % 3
    mask = (0x49249249, 0x92492492, 0x24924924)[group]
    value = x[i]
    steps = 0
    while steps < 7 * (group + 1):
        following = i + 3 if i + 3 < 32 else group
        value = cuda.shfl_sync(mask, value, following) + 1
        steps += 1
    count[i] = steps
    out[i] = value + cuda.shfl_sync(FULL, value, 0)


def test_groups_of_a_warp_shuffle_on_their_own(seed):
    x, out, count = np.arange(32) * 100, np.zeros(32, np.int64), np.zeros(32, np.int64)
    launch(diverging_shuffles, 1, 32, (x, out, count), seed=seed)
    value = x.copy()
    for group in range(3):
        ring = LANES[group::3]
        value[ring] = np.roll(x[ring], -7 * (group + 1)) + 7 * (group + 1)
    np.testing.assert_array_equal(out, value + value[0])
    np.testing.assert_array_equal(count, 7 * (LANES % 3 + 1))


@cuda.jit
def halves_in_branches(x, out):
    i = cuda.threadIdx.x
    if i < 16:
        out[i] = cuda.shfl_down_sync(0x0000FFFF, x[i], 1)
    else:
        out[i] = cuda.shfl_xor_sync(0xFFFF0000, x[i], 1) + cuda.shfl_sync(0xFFFF0000, x[i], 16)


def test_two_halves_in_two_branches(seed):
    """Lane 15 reads lane 16, which takes no part: its value is undefined, here all ones, a NaN."""
    x, out = np.arange(32, dtype=np.float32), np.zeros(32, np.float32)
    launch(halves_in_branches, 1, 32, (x, out), seed=seed)
    np.testing.assert_array_equal(out, [*range(1, 16), np.nan, *((i ^ 1) + 16 for i in range(16, 32))])


# ---- votes, matches, masks

@cuda.jit
def votes(patterns, masks, out):
    """Each mask with its complement: the two groups vote apart."""
    i = cuda.threadIdx.x
    lane = i % 32
    for p in range(patterns.size):
        for m in range(masks.size):
            mask = masks[m] if masks[m] >> lane & 1 else ~masks[m] & FULL
            predicate = patterns[p] >> lane & 1 == 1
            out[p, m, 0, i] = cuda.all_sync(mask, predicate)
            out[p, m, 1, i] = cuda.any_sync(mask, predicate)
            out[p, m, 2, i] = cuda.eq_sync(mask, predicate)
            out[p, m, 3, i] = cuda.ballot_sync(mask, predicate)


def test_votes_with_every_kind_of_mask(seed):
    rng = np.random.default_rng(3)
    patterns = np.array([0, FULL, 1, 1 << 31, 0xFFFF, *rng.integers(0, 2 ** 32, 10)], np.int64)
    masks = np.array([FULL, 0xFFFF, 0x55555555, 1, 1 << 31, *rng.integers(0, 2 ** 32, 6)], np.int64)
    out = np.zeros((patterns.size, masks.size, 4, 64), np.int64)
    launch(votes, 1, 64, (patterns, masks, out), seed=seed)
    for p, pattern in enumerate(patterns.tolist()):
        for m, mask in enumerate(masks.tolist()):
            for i in range(64):
                group = mask if mask >> i % 32 & 1 else ~mask & FULL
                ballot = pattern & group
                assert [*out[p, m, :3, i], out[p, m, 3, i] & FULL] == [
                    ballot == group, ballot != 0, ballot in (0, group), ballot]


@cuda.jit
def matches(x, mask, any_of, all_of, whether):
    i = cuda.threadIdx.x
    if mask >> i % 32 & 1:
        any_of[i] = cuda.match_any_sync(mask, x[i])
        all_of[i], whether[i] = cuda.match_all_sync(mask, x[i])


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("mask", [FULL, 0x0F0F3333])
def test_matches(dtype, mask):
    """The second warp holds one value only. Equal means: of the same bits."""
    x = np.concatenate([np.array([0, -1, 2, 3])[np.random.default_rng(0).integers(0, 4, 32)] * (2 ** 20 + 1),
                        np.full(32, 5)]).astype(dtype)
    any_of, all_of, whether = np.zeros(64, np.int64), np.zeros(64, np.int64), np.zeros(64, bool)
    launch(matches, 1, 64, (x, np.int32(np.uint32(mask).view(np.int32)), any_of, all_of, whether), seed=3)
    named = [i for i in range(64) if mask >> i % 32 & 1]
    for i in named:
        warp = [j for j in named if j // 32 == i // 32]
        assert any_of[i] & FULL == sum(1 << j % 32 for j in warp if x[j] == x[i])
        same = all(x[j] == x[i] for j in warp)
        assert whether[i] == same and all_of[i] & FULL == (mask if same else 0)


@cuda.jit
def lane_facts(out):
    i = cuda.threadIdx.x
    out[0, i] = cuda.laneid
    out[1, i] = cuda.lanemask_lt()
    out[2, i] = cuda.warpsize


def test_lane_facts():
    """threads of a 2-D block are counted along x first."""
    out = np.zeros((3, 40), np.int64)
    launch(lane_facts, 1, 40, (out,))
    assert out[0].tolist() == [i % 32 for i in range(40)]
    assert (out[1] & FULL).tolist() == [(1 << i % 32) - 1 for i in range(40)]
    assert (out[2] == 32).all()


@cuda.jit
def neighbours_through_shared(x, out):
    s = cuda.shared.array(64, float32)
    i = cuda.threadIdx.x
    for step in range(10):
        s[i] = x[i] + step
        cuda.syncwarp()
        out[i] += s[i ^ 1]
        cuda.syncwarp()


@cuda.jit
def without_syncwarp(x, out):
    s = cuda.shared.array(64, float32)
    i = cuda.threadIdx.x
    s[i] = x[i]
    out[i] = s[i ^ 1]


def test_syncwarp(seed):
    x, out = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    launch(neighbours_through_shared, 1, 64, (x, out), seed=seed)
    np.testing.assert_array_equal(out, 10 * x[np.arange(64) ^ 1] + 45)
    launch(without_syncwarp, 1, 64, (x, out), seed=seed)
    assert np.isnan(out).any()                           # a missing syncwarp shows


@cuda.jit
def ragged_warp(x, out):
    i = cuda.grid(1)
    total = x[i]
    for k in range(5):
        other = cuda.shfl_down_sync(FULL, total, 16 >> k)
        if cuda.laneid + (16 >> k) < min(32, cuda.blockDim.x - cuda.threadIdx.x // 32 * 32):
            total += other
    if cuda.laneid == 0:
        out[cuda.blockIdx.x, cuda.threadIdx.x // 32] = total


@pytest.mark.parametrize("threads", [1, 31, 33, 40, 95])
def test_blocks_that_are_no_multiple_of_a_warp(threads, seed):
    """A mask may name lanes beyond the end of the block; what is read of them is not a number."""
    x, out = np.arange(3 * threads), np.zeros((3, 3), np.int64)
    launch(ragged_warp, 3, threads, (x, out), seed=seed)
    for block in range(3):
        for warp in range(-(-threads // 32)):
            assert out[block, warp] == x[block * threads:][:threads][warp * 32:][:32].sum()


# ---- barriers

@cuda.jit
def leaving_one_by_one(rounds, alive, every, some):
    """Thread i stays for i + 1 rounds; each round counts those that are left."""
    i = cuda.threadIdx.x
    for step in range(rounds):
        if step > i:
            return
        alive[step, i] = cuda.syncthreads_count(i % 2)
        every[step, i] = cuda.syncthreads_and(int32(i >= step))
        some[step, i] = cuda.syncthreads_or(int32(i == rounds - 1))
        cuda.syncthreads()


@pytest.mark.parametrize("threads", [7, 64, 100])
def test_barriers_in_a_loop_that_threads_leave(threads, seed):
    """bar.red takes the predicates of the threads that arrive; one that has exited no longer counts."""
    alive, every, some = (np.full((threads, threads), -1) for _ in range(3))
    launch(leaving_one_by_one, 2, threads, (threads, alive, every, some), seed=seed)
    for step in range(threads):
        assert (alive[step, step:] == sum(i % 2 for i in range(step, threads))).all()
        assert (every[step, step:] == 1).all() and (some[step, step:] == 1).all()
        assert (alive[step, :step] == -1).all()


@cuda.jit
def reduced_predicates(x, out):
    i = cuda.threadIdx.x
    for step in range(x.shape[0]):
        out[step, 0, i] = cuda.syncthreads_count(x[step, i])
        out[step, 1, i] = cuda.syncthreads_and(x[step, i])
        out[step, 2, i] = cuda.syncthreads_or(x[step, i])


def test_barriers_that_reduce(seed):
    """Any nonzero predicate is true."""
    x = np.random.default_rng(0).integers(-2, 3, (9, 96)).astype(np.int32)
    x[0], x[1], x[2] = 0, 4, -1
    x[3] = np.arange(96) == 5
    x[4] = np.arange(96) != 5
    out = np.zeros((9, 3, 96), np.int64)
    launch(reduced_predicates, 1, 96, (x, out), seed=seed)
    true = x != 0
    for step in range(9):
        assert (out[step, 0] == true[step].sum()).all()
        assert (out[step, 1] == true[step].all()).all() and (out[step, 2] == true[step].any()).all()


@cuda.jit
def barriers_and_warps(x, out):
    """A block-wide scan: warps of different length, barriers between, one branch with and one without shuffles."""
    s = cuda.shared.array(32, int64)
    i = cuda.threadIdx.x
    lane = cuda.laneid
    value = x[i]
    for k in range(5):
        other = cuda.shfl_up_sync(FULL, value, 1 << k)
        if lane >= 1 << k:
            value += other
    if lane == 31 or i == cuda.blockDim.x - 1:
        s[i // 32] = value
    cuda.syncthreads()
    if i == 0:
        for w in range(1, (cuda.blockDim.x + 31) // 32):
            s[w] += s[w - 1]
    cuda.syncthreads()
    out[i] = value + s[i // 32 - 1] if i >= 32 else value


@pytest.mark.parametrize("threads", [20, 64, 200])
def test_a_scan_with_barriers_and_shuffles(threads, seed):
    x, out = np.random.default_rng(5).integers(-99, 99, threads), np.zeros(threads, np.int64)
    launch(barriers_and_warps, 1, threads, (x, out), seed=seed)
    np.testing.assert_array_equal(out, np.cumsum(x))


# ---- what cannot go on

@cuda.jit
def barrier_for_some(x):
    if cuda.threadIdx.x < 10:
        cuda.syncthreads()
    else:
        cuda.syncwarp()
        x[0] = cuda.shfl_sync(FULL, x[0], 0)


@cuda.jit
def barrier_in_a_branch(x):
    i = cuda.threadIdx.x
    while i < 10:
        cuda.syncthreads()
    cuda.cg.this_grid().sync()


@cuda.jit
def lane_that_does_not_come(x):
    i = cuda.threadIdx.x
    if i != 5:
        x[0] = cuda.shfl_sync(FULL, x[0], 0)
    else:
        cuda.syncthreads()


@cuda.jit
def not_in_its_own_mask(x):
    x[0] = cuda.shfl_sync(0xF0, x[0], 4)


@cuda.jit
def masks_that_differ(x):
    x[0] = cuda.shfl_sync(FULL if cuda.threadIdx.x < 16 else 0xFFFFFFFE, x[0], 16)


@pytest.mark.parametrize("kernel, threads, says", [
    (barrier_for_some, 64, "10 wait at a block barrier, 22 wait in a warp operation for lanes of its mask that do not "
                           "come, 32 have exited"),
    (barrier_in_a_branch, 64, "10 wait at a block barrier, 54 wait at a grid barrier"),
    (lane_that_does_not_come, 32, "1 wait at a block barrier, 31 wait in a warp operation"),
    (not_in_its_own_mask, 32, "28 wait in a warp operation"),
    (masks_that_differ, 32, "32 wait in a warp operation"),
], ids=lambda k: getattr(getattr(k, "py_func", None), "__name__", ""))
def test_a_deadlock_is_an_error(kernel, threads, says, seed):
    """It is reported, not waited for; the message names the kernel, the block and where the threads stand."""
    with pytest.raises(EmulatorError, match=re.escape("block (0, 0, 0): deadlock")) as error:
        launch(kernel, 1, threads, (np.zeros(1, np.float32),), seed=seed)
    assert kernel.py_func.__name__ in str(error.value) and says in str(error.value)


@cuda.jit
def third_block_hangs(x):
    """Exited threads do not stop a barrier; one that waits for the grid does."""
    there = cuda.blockIdx.y == 1 and cuda.blockIdx.x == 2
    if there and cuda.threadIdx.x == 0:
        return
    if there and cuda.threadIdx.x == 1:
        cuda.cg.this_grid().sync()
    x[cuda.threadIdx.x] = cuda.syncthreads_count(1)


def test_the_block_is_named():
    with pytest.raises(EmulatorError, match=re.escape("block (2, 1, 0): deadlock. Of 32 threads, 30 wait at a block")):
        launch(third_block_hangs, (3, 2), 32, (np.zeros(32),))
