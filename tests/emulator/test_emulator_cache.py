"""The emulator's disk cache: what is found again, what is not, and what must do no harm."""
import os
import subprocess
import sys
import time
import types
import warnings
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from numba import cuda, typeof

from numprec import places
from numprec.emulator import cache as disk
from numprec.emulator import clear_cache, launch
from numprec.emulator.cache import fingerprint, kernel_key
from numprec.emulator.launch import prepare

ROOT = Path(__file__).resolve().parents[2]


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
from numba import cuda, typeof

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
        assert prepare(make(np.float32(1)), (np.zeros(4, np.float32),)).code.compile_seconds > 0
        assert compile_seconds(1) == 0
    assert sorted(files) == sorted(cache.iterdir())      # rewritten, and nothing left over


KEY, OTHER = disk.key("one"), disk.key("other")


def test_an_entry_is_bound_to_its_key(cache):
    """Not one flipped bit, no missing or added byte, and no entry under another name is taken for the one stored."""
    disk.store(KEY, {"symbol": "f", "stride": 1024}, b"code\nof a kernel")
    whole = (cache / KEY).read_bytes()
    assert disk.load(KEY) == ({"symbol": "f", "stride": 1024}, b"code\nof a kernel") and disk.load(OTHER) is None
    (cache / OTHER).write_bytes(whole)
    assert disk.load(OTHER) is None
    flipped = [bytes(b ^ 1 << bit if i == at else b for i, b in enumerate(whole))
               for at in range(len(whole)) for bit in range(8)]
    cut = [whole[:n] for n in range(len(whole))]
    for data in (*flipped, *cut, whole + b"\0", b"\0" + whole):
        (cache / KEY).write_bytes(data)
        assert disk.load(KEY) is None


def test_what_is_no_kernel_counts_as_absent(cache):
    """Whole entries under the right key that describe something else, or lack the function, are compiled anew."""
    assert compile_seconds(5) == 0
    for path in cache.iterdir():
        description, code = disk.load(path.name)
        if description:                                  # the scheduler's is empty
            wrong = ({**description, "symbol": "absent"}, {**description, "more": 1}, {}, [1], None,
                     {k: v for k, v in description.items() if k != "stride"})
            for other in wrong:
                disk.store(path.name, other, code)
                x = np.zeros(4, np.float32)
                assert prepare(make(np.float32(5)), (x,)).code.compile_seconds > 0
                disk.store(path.name, other, code)
                assert compile_seconds(5) == 0


def test_temporary_files_do_not_stay(cache, monkeypatch):
    """Neither where the disk is full, nor those of processes that died."""
    def full(*args):
        raise OSError(28, "No space left on device")

    disk.store(KEY, {}, b"code")
    monkeypatch.setattr(os, "replace", full)
    disk.store(OTHER, {}, b"code")
    assert [path.name for path in cache.iterdir()] == [KEY]
    monkeypatch.undo()
    for name, age in ((f"{KEY}.abc.part", 2 * 3600), (f"{OTHER}.abc.part", 0), ("compiled.json.17.part", 2 * 3600)):
        (cache / name).write_bytes(b"half")
        os.utime(cache / name, times=(time.time() - age,) * 2)
    disk.sweep(cache)
    assert sorted(path.name for path in cache.iterdir()) == sorted([KEY, f"{OTHER}.abc.part"])


def test_the_cache_has_bounds(cache, monkeypatch):
    """What was not used for long goes, and beyond the size what was not used for longest; use renews an entry."""
    monkeypatch.setattr(disk, "MAX_BYTES", 3500)
    keys = [disk.key(n) for n in range(6)]
    for days, key in enumerate(keys):
        disk.store(key, {}, bytes(900))
        os.utime(cache / key, times=(time.time() - days * 86400 - 100,) * 2)
    (cache / "thesis.txt").write_bytes(bytes(9000))
    assert disk.load(keys[5]) is not None
    disk.sweep(cache)
    assert {path.name for path in cache.iterdir()} == {keys[0], keys[1], keys[5], "thesis.txt"}
    os.utime(cache / keys[1], times=(time.time() - disk.MAX_AGE - 9,) * 2)
    disk.sweep(cache)
    assert {path.name for path in cache.iterdir()} == {keys[0], keys[5], "thesis.txt"}


# ---- whose folder it is

@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no such modes")
def test_a_folder_that_others_can_write_to_is_refused(cache, monkeypatch):
    """With one warning; the folder that the cache makes is the user's alone, whatever the umask."""
    before = os.umask(0)
    try:
        disk.store(KEY, {}, b"code")
    finally:
        os.umask(before)
    assert cache.stat().st_mode & 0o777 == 0o700 and disk.load(KEY)
    (cache / KEY).chmod(0o666)
    assert disk.load(KEY) is None
    (cache / KEY).chmod(0o600)
    cache.chmod(0o770)
    with pytest.warns(RuntimeWarning, match="other users own it or can write to it"):
        assert disk.load(KEY) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        disk.store(OTHER, {}, b"code")
        cache.chmod(0o700)
        assert disk.load(KEY) is None                    # in this process it stays so
    assert [path.name for path in cache.iterdir()] == [KEY]
    monkeypatch.setattr(disk, "_refused", set())
    monkeypatch.setattr(os, "geteuid", lambda: cache.stat().st_uid + 1)
    with pytest.warns(RuntimeWarning, match="other users own it"):
        assert disk.load(KEY) is None


def test_the_folders_above_are_the_users_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("NUMPREC_CACHE", raising=False)
    monkeypatch.setattr(places, "caches", lambda: tmp_path / "home" / ".cache")
    assert disk.opened() == tmp_path / "home" / ".cache" / "numprec" / "kernels"
    if hasattr(os, "geteuid"):
        assert {path.stat().st_mode & 0o777 for path in (tmp_path / "home").rglob("*")} == {0o700}


@pytest.mark.skipif(sys.platform == "win32", reason="the conventions of XDG")
def test_where_the_system_keeps_caches(tmp_path, monkeypatch):
    """An empty or relative XDG_CACHE_HOME is ignored, and a user without a home has no cache."""
    monkeypatch.delenv("NUMPREC_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert disk.folder() == tmp_path / "x" / "numprec" / "kernels"
    for ignored in ("", "cache", "./cache", "~/cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert disk.folder() == tmp_path / ".cache" / "numprec" / "kernels"

    def nobody(*args):
        raise RuntimeError("Could not determine home directory.")
    monkeypatch.setattr(Path, "home", nobody)
    assert places.caches() is None and disk.folder() is None and disk.load(KEY) is None
    disk.store(KEY, {}, b"code")
    clear_cache()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert disk.folder() == tmp_path / "x" / "numprec" / "kernels"


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


def test_clearing_leaves_what_is_not_the_caches(cache, tmp_path, monkeypatch):
    """Other files and folders stay, and a link to the cache is no obstacle."""
    disk.store(KEY, {}, b"code")
    for name in (f"{OTHER}.x_1.part", "compiled.json", "compiled.json.3.part", "thesis.txt", f"{OTHER}.txt",
                 OTHER.upper()):
        (cache / name).write_text("text")
    (cache / OTHER / "photo").mkdir(parents=True)
    monkeypatch.setenv("NUMPREC_CACHE", str(tmp_path / "link"))
    (tmp_path / "link").symlink_to(cache, target_is_directory=True)
    clear_cache()
    assert {path.name for path in cache.iterdir()} == {"thesis.txt", f"{OTHER}.txt", OTHER.upper(), OTHER}
    assert (cache / OTHER / "photo").is_dir() and (tmp_path / "link").is_symlink()


def test_fastmath_and_types_have_entries_of_their_own(cache):
    def body(x, y):
        y[cuda.grid(1)] = x[cuda.grid(1)]

    launch(cuda.jit(body), 1, 8, (np.zeros(8, np.int16), np.zeros(8, np.int16)))    # the scheduler's is there then
    before = len(list(cache.iterdir()))
    for options in ({}, {"fastmath": True}):
        for dtype in (np.float32, np.float64, np.int8):
            y = np.zeros(8, dtype)
            launch(cuda.jit(**options)(body), 1, 8, (np.arange(8).astype(dtype), y))
            assert y.tolist() == list(range(8))
    assert len(list(cache.iterdir())) == before + 6


def test_named_tuples_differ_by_the_names_of_their_parts():
    """Two tuples of one name and the same types, their fields in another order, as arguments and as constants."""
    def first(pair, out):
        out[0] = pair.a[0]

    def constant(pair):
        def kernel(out):
            out[0] = pair.a
        return kernel

    array = np.array([1.0]), np.array([2.0])
    forward, backward = namedtuple("Pair", "a b"), namedtuple("Pair", "b a")
    keys = {kernel_key(cuda.jit(first), [typeof(kind(*array)), typeof(array[0])], (7, 5), "")
            for kind in (forward, backward)}
    assert len(keys) == 2
    nested = {kernel_key(cuda.jit(first), [typeof((kind(*array), 1)), typeof(array[0])], (7, 5), "")
              for kind in (forward, backward)}
    assert len(nested | keys) == 4
    assert fingerprint(constant(forward(1, 2))) != fingerprint(constant(backward(1, 2)))


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
    from numprec import kernels
    from numprec.precision import precision_named
    rungs = [rung for operation in kernels.operations().values() for rung in operation.rungs]
    kernels = [kernel for rung in rungs for kernel in kernels_of(rung[precision_named("fp32")])]
    assert len(kernels) > len(rungs)
    assert [kernel.py_func.__name__ for kernel in kernels if not fingerprint(kernel.py_func)] == []
