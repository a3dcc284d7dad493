"""The emulator's disk cache: what is found again, what is not, and what must do no harm."""
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from numba import cuda

from numprec.emulator import clear_cache, launch
from numprec.emulator.cache import fingerprint
from numprec.emulator.launch import prepare

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the test's own."""
    monkeypatch.setenv("NUMPREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


SCRIPT = """\
import numpy as np
from numba import cuda, float32
from numprec.emulator.launch import launch, prepare

FACTOR = np.float32(2)


@cuda.jit(device=True)
def helper(x):
    return x * FACTOR + np.float32(1)


def make(power):
    @cuda.jit
    def kernel(x, y):
        s = cuda.shared.array(32, float32)
        i = cuda.grid(1)
        s[i] = helper(x[i]) ** power
        cuda.syncthreads()
        y[i] = s[31 - i]
    return kernel


x, y = np.ones(32, np.float32), np.zeros(32, np.float32)
kernel = make(2)
launch(kernel, 1, 32, (x, y), seed=1)
print(prepare(kernel, (x, y)).code.compile_seconds, y[0])
"""


def test_a_second_process_compiles_nothing(tmp_path, cache):
    """It finds what the first one made, under whatever seed Python hashes strings."""
    (tmp_path / "script.py").write_text(SCRIPT)
    seconds = []
    for _ in range(2):
        done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "random"})
        assert done.returncode == 0, done.stderr
        spent, result = done.stdout.split()
        seconds.append(float(spent))
        assert float(result) == 9
    assert seconds[0] > 0 and seconds[1] == 0


# ---- what a kernel's key depends on

KERNEL = """\
import enum
import numpy as np
from numba import cuda

FACTOR = np.float32(2)
TABLE = np.arange(4)


class Mode(enum.IntEnum):
    FAST = 1


@cuda.jit(device=True)
def deeper(x):
    return x - 1


@cuda.jit(device=True)
def helper(x):
    return deeper(x) * FACTOR


def make(power, other, module):
    @cuda.jit
    def kernel(x):
        x[0] = helper(x[0]) ** power + other + TABLE[1] + settings.TERM + module.TERM + Mode.FAST
    return kernel
"""
CHANGES = [("FACTOR = np.float32(2)", "FACTOR = np.float32(3)"), ("FACTOR = np.float32(2)", "FACTOR = np.float64(2)"),
           ("x - 1", "x - 2"), ("x - 1", "x + 1"), ("deeper(x) *", "deeper(x) +"), ("arange(4)", "arange(5)"),
           ("arange(4)", "arange(4.0)"), ("FAST = 1", "FAST = 2"), ("x[0]) **", "x[1]) **"),
           ("@cuda.jit\n    def kernel", "@cuda.jit(fastmath=True)\n    def kernel")]


def key_text(source=KERNEL, power=2, other=np.float32(1), term=1, unused=1, module_term=1):
    """What stands for a kernel in its key, options included."""
    settings, module = types.ModuleType("settings"), types.ModuleType("module")
    settings.TERM, settings.UNUSED, module.TERM = term, unused, module_term
    scope = {"settings": settings, "__name__": "kernels_of_a_test"}
    exec(source, scope)
    kernel = scope["make"](power, other, module)
    return fingerprint(kernel.py_func), kernel.targetoptions.get("fastmath")


def test_the_key_changes_with_everything_that_a_kernel_uses():
    base = key_text()
    assert base[0] is not None and key_text() == base
    seen = {base}
    for old, new in CHANGES:
        assert KERNEL.count(old) == 1
        seen.add(key_text(KERNEL.replace(old, new)))
    for change in ({"power": 3}, {"other": np.float32(2)}, {"other": np.float64(1)}, {"other": 1}, {"term": 2},
                   {"module_term": 2}, {"term": 1.0}):
        seen.add(key_text(**change))
    assert len(seen) == 1 + len(CHANGES) + 7
    assert key_text(unused=2) == base


def test_what_has_no_lasting_description_has_no_key():
    """Its kernel is compiled in every process, and right."""
    class Opaque:
        pass

    assert key_text(other=Opaque())[0] is None
    assert key_text(term=Opaque())[0] is None


# ---- files

def make(n):
    @cuda.jit
    def fill(x):
        x[cuda.grid(1)] = n
    return fill


def compile_seconds(n):
    x = np.zeros(4, np.float32)
    launch(make(np.float32(n)), 1, 4, (x,))
    assert (x == n).all()
    return prepare(make(np.float32(n)), (x,)).code.compile_seconds


def test_a_damaged_file_counts_as_absent(cache):
    assert compile_seconds(1) == 0                       # the second compilation finds the first one's file
    files = [f for f in cache.iterdir()]
    assert files
    for damage in (lambda data: data[:len(data) // 2], lambda data: b"", lambda data: b"{}\n" + data,
                   lambda data: data[:-9] + bytes(b ^ 255 for b in data[-9:]), lambda data: b"[1]\n"):
        for file in files:
            file.write_bytes(damage(file.read_bytes()))
        assert compile_seconds(1) == 0
    assert sorted(files) == sorted(cache.iterdir())      # rewritten, and nothing left over


def test_the_cache_can_be_switched_off(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMPREC_CACHE", "")
    monkeypatch.chdir(tmp_path)
    assert compile_seconds(2) > 0 and not list(tmp_path.iterdir())
    clear_cache()


def test_a_folder_that_cannot_be_written_is_harmless(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NUMPREC_CACHE", str(tmp_path / "file" / "cache"))
    assert compile_seconds(3) > 0
    clear_cache()


def test_clearing(cache):
    compile_seconds(4)
    assert any(cache.iterdir())
    clear_cache()
    assert not cache.exists() and compile_seconds(4) == 0


def test_fastmath_and_types_have_entries_of_their_own(cache):
    def body(x, y):
        y[cuda.grid(1)] = x[cuda.grid(1)]

    for options in ({}, {"fastmath": True}):
        for dtype in (np.float32, np.float64, np.int8):
            y = np.zeros(8, dtype)
            launch(cuda.jit(**options)(body), 1, 8, (np.arange(8).astype(dtype), y))
            assert y.tolist() == list(range(8))
    assert len(list(cache.iterdir())) == 6


def kernels_of(built):
    """Those that a rung's factory returned: one, several, or several by name."""
    if isinstance(built, (tuple, list)):
        for each in built:
            yield from kernels_of(each)
    elif hasattr(built, "py_func"):
        yield built
    else:
        yield from kernels_of(list(getattr(built, "__dict__", {}).values()))


def test_every_kernel_of_the_textbook_is_kept():
    """A kernel without a fingerprint would be compiled again in every process; names that a module uses for something
    else, such as a dictionary or a rung, must not cost it one."""
    from numprec.kernels import registry
    from numprec.precision import precision_named
    rungs = [rung for operation in registry.operations().values() for rung in operation.rungs]
    kernels = [kernel for rung in rungs for kernel in kernels_of(rung[precision_named("fp32")])]
    assert len(kernels) > len(rungs)
    assert [kernel.py_func.__name__ for kernel in kernels if not fingerprint(kernel.py_func)] == []
