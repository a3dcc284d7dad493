"""The sanitizer finds planted bugs of each kind, names line, thread and element, and finds nothing where nothing is."""
import inspect
import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import cuda, float32, int32

from numprec import device as devices
from numprec.emulator import EmulatorError, SanitizerError, emulate, profile, sanitize
from numprec.kernels import operations
from numprec.precision import PRECISIONS


def line_of(kernel, text):
    """The number of the line of a kernel's source that holds a text."""
    lines, first = inspect.getsourcelines(kernel.py_func)
    number, = [first + i for i, line in enumerate(lines) if text in line]
    return number


def found(kernel, grid, block, *args, rounds=10 ** 5, **options):
    """The sentences about a launch, without the name of this file."""
    with sanitize(raises=False, rounds=rounds) as sanitizer:
        emulate(kernel, **options)[grid, block](*args)
    return [sentence.replace(f" of {__file__}", "") for sentence in sanitizer.findings]


def arrays(n=64):
    return np.arange(n, dtype=np.float32), np.zeros(n, np.float32)


@cuda.jit
def running_sum(x, out, barrier, last):
    tile = cuda.shared.array(64, float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    if i < last:
        tile[t] = x[i]
    if barrier:
        cuda.syncthreads()
    s = float32(0)
    for j in range(t + 1):
        s += tile[j]
    out[i] = s


def test_a_right_kernel_is_left_alone():
    x, out = arrays()
    for seed in None, 0, 1:
        assert found(running_sum, 1, 64, x, out, True, 64, seed=seed) == []
        np.testing.assert_array_equal(out, np.cumsum(x, dtype=np.float32))


def test_out_of_an_argument():
    x, out = arrays()
    reads, writes = found(running_sum, 2, 64, x, out, True, 128)
    assert reads == f"kernel running_sum, line {line_of(running_sum, 'tile[t] = x[i]')}: thread (0, 0, 0) of block " \
        "(1, 0, 0) reads x[64], but x has the shape (64,) (63 more like it)"
    assert writes == f"kernel running_sum, line {line_of(running_sum, 'out[i] = s')}: thread (0, 0, 0) of block " \
        "(1, 0, 0) writes out[64], but out has the shape (64,) (63 more like it)"


def test_a_missing_barrier_shows_in_every_order_of_threads():
    x, out = arrays()
    for seed in None, 0:
        first = found(running_sum, 1, 64, x, out, False, 64, seed=seed)
        assert any(f"line {line_of(running_sum, 's += tile[j]')}: " in s and "reads tile[" in s and
                   f"writes in line {line_of(running_sum, 'tile[t] = x[i]')} without a barrier in between" in s
                   for s in first)


def test_shared_memory_that_nobody_wrote():
    sentence, = found(running_sum, 1, 64, *arrays(), True, 63)
    assert "thread (63, 0, 0) of block (0, 0, 0) reads tile[63], which nobody has written" in sentence


@cuda.jit
def planted(x, out, bug):
    """One bug of each kind; `bug` chooses."""
    tile = cuda.shared.array((8, 8), float32)
    own = cuda.local.array(4, float32)
    i = cuda.grid(1)
    if bug == 0:
        tile[8, i % 8] = x[0]
    if bug == 1:
        own[i % 8] = x[0]
        out[i] = own[i % 4]
    if bug == 2:
        out[int32(x[10 ** 9])] = 1
    if bug == 3:
        out[i // 2] = x[i]
    if bug == 4:
        out[cuda.threadIdx.x] = x[i]
    if bug == 5:
        if i % 64 < 60:
            cuda.syncthreads()
    if bug == 6:
        if i % 64 < 32:
            cuda.syncthreads()    # here
        else:
            cuda.syncthreads()    # there
    if bug == 7:
        if i % 32 < 20:
            out[i] = cuda.shfl_down_sync(0xFFFFFFFF, x[i], 1)
    if bug == 8:
        while x[0] == 0:
            out[i] = i
    if bug == 9:
        cuda.atomic.add(out, 0, x[i])
        if i == 63:
            out[0] = 0


@pytest.mark.parametrize("bug, grid, expected", [
    (0, 1, ["writes tile[64], but tile has 64 elements (63 more like it)"]),
    (1, 1, ["writes own[4], but own has 4 elements (31 more like it)"]),
    (2, 1, ["reads x[1000000000], but x has the shape (128,)", "writes out[0], which thread"]),
    (3, 1, ["thread (1, 0, 0) of block (0, 0, 0) writes out[0], which thread (0, 0, 0) writes"]),
    (4, 2, ["of block (1, 0, 0) writes out[0], which thread (0, 0, 0) of block (0, 0, 0) writes in line",
            "without a barrier of the grid"]),
    (5, 1, ["4 of 64 threads of block (0, 0, 0) have exited and do not reach this barrier"]),
    (6, 1, ["wait here while others wait at the barrier of line"]),
    (7, 1, ["the mask of this shuffle or vote", "lanes that do not take part: 20, 21, 22"]),
    (8, 1, ["it seems to run forever"]),
    (9, 1, ["thread (63, 0, 0) of block (0, 0, 0) writes out[0], which thread (62, 0, 0) updates in line"]),
])
def test_planted_bugs(bug, grid, expected):
    x = np.zeros(128, np.float32)
    text = "\n".join(found(planted, grid, 64, x, np.zeros(128, np.float32), bug))
    for part in expected:
        assert part in text


def test_a_bug_of_each_kind_costs_no_memory_of_the_host():
    """What lies outside is not touched: the elements beside the slice stay."""
    x, out = arrays()
    found(running_sum, 1, 64, x[:32], out[:32], True, 64)
    assert not out[32:].any()


@cuda.jit
def neighbours(x, out, synchronise):
    tile = cuda.shared.array(64, int32)
    t = cuda.threadIdx.x
    tile[t] = x[t]
    if synchronise:
        cuda.syncwarp()
    out[t] = tile[t ^ 1]


def test_syncwarp_orders_a_warp():
    x, out = np.arange(64, dtype=np.int32), np.zeros(64, np.int32)
    assert found(neighbours, 1, 64, x, out, True, seed=1) == []
    assert any("without a barrier in between" in s for s in found(neighbours, 1, 64, x, out, False, seed=1))


@cuda.jit
def across(x, out, synchronise):
    i = cuda.grid(1)
    x[i] = i
    if synchronise:
        cuda.cg.this_grid().sync()
    out[i] = x[x.size - 1 - i]


def test_a_barrier_of_the_grid_orders_blocks():
    x, out = np.zeros(128, np.int32), np.zeros(128, np.int32)
    assert found(across, 4, 32, x, out, True) == []
    np.testing.assert_array_equal(out, np.arange(128)[::-1])
    sentences = found(across, 4, 32, x, out, False)
    assert sentences and all("without a barrier of the grid in between" in s for s in sentences)


def test_arrays_made_empty_are_known_to_hold_nothing():
    device, p = devices.get("emulator"), PRECISIONS["fp32"]
    x, _ = arrays()
    with sanitize(raises=False) as sanitizer:
        nothing, out = device.empty(64, p.storage), device.empty(64, p.storage)
        device.launch(running_sum, 1, 64, nothing, out, True, 64)
        assert "reads x[0], which nobody has written (63 more like it)" in sanitizer.findings[0]
        device.assign(nothing, x)
        device.launch(running_sum, 1, 64, nothing, out, True, 64)      # the host has written one, a kernel the other
        device.launch(running_sum, 1, 64, out, nothing, True, 64)
    assert len(sanitizer.findings) == 1


README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.mark.parametrize("old, new, grid, block, line, says", [
    ("range(1, x.size)", "range(1, x.size + 1)", 1, 1, "+= x[i]", "reads x[64], but x has the shape (64,)"),
    ("total[0] += x[i]", "total[i] += x[i]", 1, 1, "+= x[i]", "writes total[1], but total has the shape (1,)"),
    ("for i in range(1, x.size):", "i = 1\n    while i < x.size:", 1, 1, "+= x[i]", "run forever"),
    ("    total[0] = x[0]\n", "", 1, 1, "+= x[i]", "reads total[0], which nobody has written"),
    ("", "", 1, 2, "+= x[i]", "without a barrier in between"),
    ("", "", 2, 1, "+= x[i]", "of block (1, 0, 0)"),
], ids=["reads beyond", "writes beyond", "has no end", "begins with nothing", "threads race", "blocks race"])
def test_the_readmes_kernel_broken(tmp_path, old, new, grid, block, line, says):
    """Each way is told in a sentence that names the line."""
    source, = re.findall(r"@cuda\.jit\ndef running_sum.*?(?=\n\n)", README.read_text(encoding="utf-8"), re.S)
    assert old in source
    source = f"from numba import cuda\n\n\n{source.replace(old, new)}\n"
    (tmp_path / "broken.py").write_text(source, encoding="utf-8")
    broken = runpy.run_path(str(tmp_path / "broken.py"))["running_sum"]
    device, p = devices.get("emulator"), PRECISIONS["fp32"]
    with sanitize(raises=False, rounds=1000) as sanitizer:
        total = device.empty(1, p.storage)
        device.launch(broken, grid, block, device.array(arrays()[0] + 1, p.storage), total)
    number, = [n for n, text in enumerate(source.splitlines(), 1) if line in text]
    assert any(f"line {number} of {tmp_path / 'broken.py'}: " in s and says in s for s in sanitizer.findings), \
        sanitizer.findings


def test_writes_that_are_not_checked_count_as_writes():
    """Inside a profile, or on another thread's behalf."""
    device, p = devices.get("emulator"), PRECISIONS["fp32"]
    x, _ = arrays()
    with sanitize():
        middle, out = device.empty(64, p.storage), device.empty(64, p.storage)
        with profile():
            device.launch(running_sum, 1, 64, device.array(x), middle, True, 64)
        device.launch(running_sum, 1, 64, middle, out, True, 64)


@cuda.jit
def shifted(x, y):
    y[cuda.grid(1)] = x[cuda.grid(1)]


def test_misaligned_accesses():
    """A float at an odd address is a bug, a complex number at a multiple of 4 none: Numba loads two floats."""
    odd = np.zeros(4 * 32 + 1, np.uint8)[1:].view(np.float32)
    text = "\n".join(found(shifted, 1, 32, odd, np.zeros(32, np.float32)))
    assert "reads x[0] at an address that is no multiple of 4 bytes (31 more like it)" in text
    half = np.zeros(8 * 32 + 4, np.uint8)[4:].view(np.complex64)
    assert found(shifted, 1, 32, half, np.zeros(32, np.complex64)) == []


@cuda.jit
def many_barriers(x, n):
    i = cuda.grid(1)
    for k in range(n):
        x[(i + 32 * k) % x.size] = k
        cuda.cg.this_grid().sync()


def test_many_barriers_of_a_grid():
    """More than the sanitizer can tell apart: it then finds no race rather than a false one."""
    assert found(many_barriers, 2, 32, np.zeros(64, np.float32), 2 ** 16 + 10, rounds=10 ** 8) == []


@cuda.jit
def endless(x):
    x[99] = 1
    while x[0] == 0:
        pass


@cuda.jit
def nested(x, n):
    for i in range(20):
        for j in range(20):
            x[i, j] += n
    for i in range(n):
        x[0, 0] += i


def test_loops_that_are_known_to_be_short_are_not_counted():
    x = np.zeros((20, 20), np.float32)
    assert found(nested, 1, 1, x, 9, rounds=10) == []
    sentence, = found(nested, 1, 1, x, 20, rounds=10)
    assert f"line {line_of(nested, 'for i in range(n)')}: " in sentence and "seems to run forever" in sentence


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer that sends signals")
def test_the_exception_of_a_signal_is_not_hidden():
    """A Ctrl-C ends a checked launch as a Ctrl-C, whatever was found before it."""
    def ring(*args):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with sanitize(raises=False, rounds=10 ** 12) as sanitizer:
            emulate(endless)[1, 1](np.ones(4, np.float32))       # compiles, and ends
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 0.5)
                emulate(endless)[1, 1](np.zeros(4, np.float32))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(sanitizer.findings) == 2 and "writes x[99]" in sanitizer.findings[1]


@pytest.mark.skipif(sys.platform != "linux", reason="only there faults are caught")
def test_faults_are_caught_after_a_check():
    """Checked launches have a scheduler of their own; the plain one's handler stays the only one."""
    x = np.zeros(4, np.float32)
    found(shifted, 1, 4, x, x.copy())
    with pytest.raises(EmulatorError, match="memory that is not there"):
        emulate(far)[1, 1](x, 10 ** 11)


@cuda.jit
def far(x, at):
    x[at] = 1


def test_bugs_raise():
    with pytest.raises(SanitizerError, match="which nobody has written"), sanitize():
        emulate(running_sum)[1, 64](*arrays(), True, 63)


def test_any_program_can_be_checked_from_outside(tmp_path):
    """NUMPREC_SANITIZE=1 does for all launches what sanitize() does inside."""
    script = tmp_path / "program.py"
    script.write_text("import numpy as np\nfrom numba import cuda\nfrom numprec.emulator import emulate\n"
                      "@cuda.jit\ndef beyond(x):\n    x[cuda.grid(1)] = 1\n"
                      "emulate(beyond)[1, 33](np.zeros(32, np.float32))\n")
    done = subprocess.run([sys.executable, script], env={**os.environ, "NUMPREC_SANITIZE": "1"}, capture_output=True,
                          text=True)
    assert done.returncode == 1
    assert f"kernel beyond, line 6 of {script}: thread (32, 0, 0) of block (0, 0, 0) writes x[32], but x has the " \
           "shape (32,)" in done.stderr


SAMPLE = [("sum", "shuffle"), ("matmul", "register_blocked"), ("cross_entropy", "warp"), ("partition", "scanned"),
          ("smo_fit", "fused")]


@pytest.mark.parametrize("operation, rung", SAMPLE, ids="/".join)
def test_rungs_of_the_textbook(operation, rung):
    """`bench.py sanitize` looks at all of them, in every precision and in twenty orders."""
    from numprec.harness.measure import sanitizing
    assert sanitizing.findings(operations()[operation], operations()[operation].rung(rung), PRECISIONS["fp32"],
                               seeds=2) == []
