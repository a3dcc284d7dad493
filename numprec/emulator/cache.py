"""Compiled kernels on disk, so that a second run starts at once.

    key = kernel_key(kernel, argtypes, (7, 5), "what else the code depends on")
    found = load(key)                        # (description, code), or None
    store(key, {"any": "JSON"}, code)

The file of an entry is named by its key, a hash of everything that the code depends on, and begins with a hash of key,
description and code. One that is damaged, or that belongs to another key, counts as absent. Code is executed, so the
folder must be the user's own, and nobody else may write to it. NUMPREC_CACHE names the folder ("" switches the cache
off); otherwise it lies where the system keeps caches.

What has not been used for a month is deleted, which takes the kernels of earlier versions; and so is, beyond 256 MiB,
what has not been used for longest.
"""
import contextlib
import enum
import functools
import hashlib
import json
import os
import re
import sys
import tempfile
import time
import types
import warnings
from pathlib import Path

import numba
import numba_cuda
import numpy as np

from numprec import places

MAX_BYTES = 256 * 2 ** 20
MAX_AGE = 30 * 86400           # seconds without use
_LEFT_OVER = 3600              # seconds after which a temporary file belongs to a process that has died
_SWEEP_EVERY = 256             # entries stored by this process
_USED = 86400                  # seconds by which the time of an entry's last use may be wrong

_ENTRY = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = re.compile(r"(?:[0-9a-f]{64}|compiled\.json)\.\w+\.part")
_NOTE = "compiled.json"        # numprec.harness.run.precompile writes it

_stored = 0
_refused = set()


def folder():
    """The folder of the cache, or None where it is switched off. It need not exist."""
    named = os.environ.get("NUMPREC_CACHE")
    if named is not None:
        return Path(named) if named else None
    base = places.caches()
    return base and base / "numprec" / "kernels"


def opened():
    """The folder of the cache, made if it is not there, or None where there is none that code may be taken from. One
    that other users own or can write to is refused with a warning, once, and stays refused in this process."""
    place = folder()
    if place is None or place in _refused:
        return None
    try:
        _make(place)
        status = place.stat()
    except (OSError, ValueError):
        return None
    if _private(status):
        return place
    _refused.add(place)
    warnings.warn(f"compiled kernels are neither read from {place} nor kept there, because other users own it or can "
                  "write to it: make it your own with chown and chmod go-w, or set NUMPREC_CACHE to another folder",
                  RuntimeWarning, stacklevel=2)
    return None


def _make(place):
    """Makes a folder and those above it, for this user alone; `Path.mkdir` gives the upper ones more."""
    if not place.is_dir():
        if place.parent != place:
            _make(place.parent)
        place.mkdir(mode=0o700, exist_ok=True)


def _private(status):
    """Whether a file is this user's and nobody else may write to it. Windows has no such modes; there a profile is the
    user's by its place."""
    return not hasattr(os, "geteuid") or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)


def clear():
    """Removes every compiled kernel from the disk: what the cache wrote, and the folder if nothing else is in it."""
    place = folder()
    if place is None:
        return
    for path in _files(place):
        if _ENTRY.fullmatch(path.name) or _TEMPORARY.fullmatch(path.name) or path.name == _NOTE:
            _unlink(path)
    with contextlib.suppress(OSError):
        place.rmdir()


def load(key):
    """(description, code) that was stored under a key, or None."""
    place = key and opened()
    if not place:
        return None
    try:
        with open(place / key, "rb") as file:
            status = os.fstat(file.fileno())
            data = file.read()
        head, _, code = data[32:].partition(b"\n")
        if not _private(status) or data[:32] != _seal(key, head, code):
            return None
        description = json.loads(head)
        if time.time() - status.st_mtime > _USED:
            with contextlib.suppress(OSError):          # one that may only be read
                os.utime(place / key)
        return description, code
    except (OSError, ValueError):
        return None


def store(key, description, code):
    """Stores code and a description, which JSON can hold, under a key; where the folder cannot be written, or the key
    is None, does nothing. Files are written whole or not at all."""
    global _stored
    place = key and opened()
    if not place:
        return
    head = json.dumps(description).encode()
    try:
        write(place / key, _seal(key, head, code) + head + b"\n" + code)
    except OSError:
        return
    if _stored % _SWEEP_EVERY == 0:
        sweep(place)
    _stored += 1


def write(path, content):
    """Writes `content`, bytes, to a file of the cache, whole or not at all. Raises OSError where that fails."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        _unlink(temporary)
        raise


def _seal(key, head, code):
    """What binds an entry to its key. A key and a head hold no line feed, so that the three cannot be shifted."""
    return hashlib.sha256(b"\n".join([key.encode(), head, code])).digest()


def sweep(place):
    """Deletes what exceeds the bounds on age and size, and the temporary files of processes that have died."""
    now, entries = time.time(), []
    for path in _files(place):
        try:
            status = path.lstat()
        except OSError:                # another process has deleted it
            continue
        age = now - status.st_mtime
        if _TEMPORARY.fullmatch(path.name) and age > _LEFT_OVER:
            _unlink(path)
        elif _ENTRY.fullmatch(path.name):
            entries.append((age, status.st_size, path))
    total = 0
    for age, size, path in sorted(entries):
        total += size
        if age > MAX_AGE or total > MAX_BYTES:
            _unlink(path)


def _files(place):
    try:
        return sorted(place.iterdir())
    except OSError:
        return []


def _unlink(path):
    with contextlib.suppress(OSError):     # in use, on Windows; or gone
        os.unlink(path)


# ---- what a kernel depends on

def kernel_key(kernel, argtypes, compute_capability, target):
    """The key of a dispatcher, compiled for Numba argument types; `target` is a text that stands for whatever else the
    code depends on. None for a kernel that has no fingerprint."""
    text = fingerprint(kernel.py_func)
    if text is None:
        return None
    versions = f"{sys.version_info[:2]} {numba.__version__} {numba_cuda.__version__} {sources()}"
    options = sorted((k, repr(v)) for k, v in kernel.targetoptions.items())
    return key(text, [(str(t), _fields(t)) for t in argtypes], tuple(compute_capability), target, versions, options)


def _fields(kind):
    """The names of the parts of a Numba type, and of theirs; the type's own text leaves them out."""
    return getattr(kind, "fields", None), [_fields(part) for part in getattr(kind, "types", ())]


def key(*parts):
    """A key of parts whose texts say everything that the code depends on."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


INNER = ("py_func", "_defn", "factory", "__wrapped__")    # the function in a dispatcher, intrinsic, rung, lru_cache


class _NoFingerprint(Exception):
    pass


def fingerprint(function):
    """A text that changes whenever the compiled form of a Python function may: its bytecode and constants, what it
    closes over, the globals it names and, in turn, the functions it calls. None where something it uses has no
    lasting description; such a kernel is not cached."""
    try:
        return repr(_describe(function, {}))
    except _NoFingerprint:
        return None


def _describe(value, seen):
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    if isinstance(value, (tuple, list, frozenset)):
        parts = [_describe(v, seen) for v in value]
        if hasattr(value, "_fields"):     # a named tuple: the code finds its parts by their names
            return [value._fields, parts]
        return sorted(parts) if isinstance(value, frozenset) else parts
    if isinstance(value, dict):
        return [(_describe(k, seen), _describe(v, seen)) for k, v in value.items()]
    if isinstance(value, (np.generic, np.dtype)):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, np.ndarray):
        return f"array {value.dtype} {value.shape} {hashlib.sha256(np.ascontiguousarray(value)).hexdigest()}"
    if isinstance(value, types.CodeType):
        return [value.co_code.hex(), value.co_names, value.co_varnames, _describe(value.co_consts, seen)]
    if isinstance(value, types.ModuleType):
        name = value.__name__
        if name.startswith("numba."):
            return "module of numba"      # numba.types changes its name on the way; Numba's version is in the key
        return f"module {name} {getattr(value, '__version__', '')}"
    if isinstance(value, type):
        return f"class {value.__module__}.{value.__qualname__}"
    if isinstance(value, (types.BuiltinFunctionType, np.ufunc)):
        return f"built-in {value.__name__}"
    inner = next(filter(None, (getattr(value, name, None) for name in INNER)), None)
    if inner is not None:
        options = repr(sorted((k, repr(v)) for k, v in getattr(value, "targetoptions", {}).items()))
        return [options, _describe(inner, seen)]
    if isinstance(value, types.FunctionType):
        if value in seen:
            return f"again {seen[value]}"
        seen[value] = len(seen)
        if _versioned(value.__module__ or ""):
            return f"{value.__module__}.{value.__qualname__}"
        names = _names(value.__code__)
        cells = [_described_use(c.cell_contents, names, seen) for c in value.__closure__ or ()]
        return [_describe(value.__code__, seen), cells, _describe(value.__defaults__, seen),
                [(name, _described_use(value.__globals__[name], names, seen))
                 for name in sorted(names & value.__globals__.keys())]]
    if type(value).__module__.startswith("numba."):
        return f"{type(value).__name__} {value}"
    if type(value).__module__ == "llvmlite.ir.types":
        return f"llvm {value}"
    if getattr(type(value), "__dataclass_params__", None) is not None and type(value).__dataclass_params__.frozen:
        fields = [(f, _describe(getattr(value, f), seen)) for f in value.__dataclass_fields__]
        return [type(value).__qualname__, fields]
    raise _NoFingerprint(type(value))


def _versioned(module):
    """Whether a module belongs to a package whose version is in the key."""
    return module.split(".")[0] in ("numba", "llvmlite", "numpy", "math")


def _described_use(value, names, seen):
    """What a function uses of a value: of a module, only what it may name."""
    if isinstance(value, types.ModuleType) and not _versioned(value.__name__):
        return [(name, _describe(getattr(value, name), seen)) for name in sorted(names & vars(value).keys())]
    if isinstance(value, type) and issubclass(value, enum.Enum):
        return [(member.name, _describe(member.value, seen)) for member in value]
    return _describe(value, seen)


def _names(code):
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


@functools.lru_cache(maxsize=None)
def sources():
    """Hash of the emulator's own sources and of the intrinsics that kernels use."""
    from importlib import resources
    digest = hashlib.sha256()
    for package, suffixes in (("numprec.emulator", (".py", ".ll")),
                              ("numprec.language", ("formats.py", "instructions.py"))):
        for file in sorted(resources.files(package).iterdir(), key=lambda f: f.name):
            if file.name.endswith(suffixes):
                digest.update(file.read_bytes())
    return digest.hexdigest()
