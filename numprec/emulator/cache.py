"""Compiled kernels on disk, so that a second run starts at once.

A file holds a line of JSON and the object code; its name is a hash of everything the code depends on. Files are
written whole or not at all, and checked when read: a damaged one counts as absent. NUMPREC_CACHE names the folder
("" switches the cache off); otherwise it lies where the system keeps caches.
"""
import enum
import functools
import hashlib
import json
import os
import shutil
import sys
import tempfile
import types
from pathlib import Path

import numpy as np


def folder():
    """The folder of the cache, or None where it is switched off."""
    named = os.environ.get("NUMPREC_CACHE")
    if named is not None:
        return Path(named) if named else None
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "numprec" / "kernels"


def clear():
    """Removes every compiled kernel from the disk."""
    place = folder()
    if place is not None and place.is_dir():
        shutil.rmtree(place)


def read(key):
    """(description, object code) for a key, or None."""
    place = folder()
    if place is None or key is None:
        return None
    try:
        head, _, code = (place / key).read_bytes().partition(b"\n")
        description = json.loads(head)
        if description.pop("sha256") != hashlib.sha256(code).hexdigest():
            return None
        return description, code
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write(key, description, code):
    """Stores object code; where the folder cannot be written, does nothing."""
    place = folder()
    if place is None or key is None:
        return
    head = json.dumps({**description, "sha256": hashlib.sha256(code).hexdigest()}).encode()
    try:
        place.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=place)
        with os.fdopen(handle, "wb") as file:
            file.write(head + b"\n" + code)
        os.replace(temporary, place / key)
    except OSError:
        pass


# ---- what a kernel depends on

INNER = ("py_func", "_defn", "factory", "__wrapped__")    # the function in a dispatcher, intrinsic, rung, lru_cache


class _NoFingerprint(Exception):
    pass


def fingerprint(function):
    """A text that changes whenever the compiled form of a Python function may: its bytecode and constants, what it
    closes over, the globals it names and, in turn, the functions it calls. None where something it uses has no
    lasting description; such a kernel is not cached."""
    try:
        return repr(_describe(function, set()))
    except _NoFingerprint:
        return None


def _describe(value, seen):
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    if isinstance(value, (tuple, list, frozenset)):
        parts = [_describe(v, seen) for v in value]
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
            return f"again {value.__qualname__}"
        seen.add(value)
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
    for package, suffixes in (("numprec.emulator", (".py", ".ll")), ("numprec.kernels", ("roles.py", "ptx.py"))):
        for file in sorted(resources.files(package).iterdir(), key=lambda f: f.name):
            if file.name.endswith(suffixes):
                digest.update(file.read_bytes())
    return digest.hexdigest()
