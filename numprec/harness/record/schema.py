"""What may stand in the files of a run: each column of a row and each entry of the environment, with its values.

A file may have been edited, cut, or written by another version. All that is made of a run relies on what is checked
here, once, when it is read; `row` and `environment` say what is wrong in words, or "" where nothing is.

Times are seconds per call. A value that was not measured is null; JSON has no infinity and no NaN, which are the
strings "inf", "-inf" and "nan".
"""
import math
import re
from dataclasses import dataclass
from typing import Callable

VERSION = 2
LARGEST = 2 ** 63    # of whole numbers; NumPy has none beyond


@dataclass(frozen=True)
class Kind:
    """A kind of values: how it is called, and whether a value is one."""

    name: str
    holds: Callable

    def __or__(self, other):
        return Kind(f"{self.name} or {other.name}", lambda x: self.holds(x) or other.holds(x))


def _number(x):
    return isinstance(x, float) or _whole(x)


def _whole(x):
    return isinstance(x, int) and not isinstance(x, bool) and abs(x) < LARGEST


def _text(x):
    """Half of a surrogate pair, which JSON can say, can be neither printed nor written."""
    try:
        return isinstance(x, str) and x.encode() is not None
    except UnicodeEncodeError:
        return False


def one_of(*values):
    return Kind("one of " + ", ".join(values), lambda x: isinstance(x, str) and x in values)


def list_of(kind, least=0):
    return Kind(f"a list of {kind.name}" + (f", at least {least}" if least else ""),
                lambda x: isinstance(x, (list, tuple)) and len(x) >= least and all(map(kind.holds, x)))


def table_of(kind):
    return Kind(f"a table of {kind.name}", lambda x: isinstance(x, dict) and all(map(_text, x)) and all(
        map(kind.holds, x.values())))


def record(required, optional=()):
    """A dictionary that has all the entries `required` {name: Kind}, and some `optional` ones."""
    known = {**required, **dict(optional)}
    return Kind("a record of " + ", ".join(known), lambda x: isinstance(x, dict) and all(
        kind.holds(x[name]) if name in x else name not in required for name, kind in known.items()))


NULL = Kind("null", lambda x: x is None)
NUMBER = Kind("a number", _number)
ERROR = Kind("a number from 0, inf or nan", lambda x: _number(x) and not x < 0)
AMOUNT = Kind("a number from 0", lambda x: _number(x) and 0 <= x < math.inf)
POSITIVE = Kind("a positive number", lambda x: _number(x) and 0 < x < math.inf)
WHOLE = Kind("a whole number", _whole)
COUNT = Kind("a whole number from 0", lambda x: _whole(x) and x >= 0)
ATLEAST1 = Kind("a whole number from 1", lambda x: _whole(x) and x >= 1)
FLAG = Kind("true or false", lambda x: isinstance(x, bool))
TEXT = Kind("a text", _text)
NAME = Kind("a name", lambda x: _text(x) and x.isprintable() and x != "")
ANY = Kind("anything", lambda x: True)
SAMPLES = list_of(POSITIVE, 1) | NULL
EXPONENTS = Kind("a table of exponents of 2 and counts", lambda x: isinstance(x, dict) and all(
    re.fullmatch("-?[0-9]{1,4}", exponent) and COUNT.holds(count) for exponent, count in x.items()))
METRICS = "accuracy", "R2"

_EPOCH = record(
    {"epoch": COUNT, "loss": NUMBER | NULL, "accuracy": NUMBER | NULL, "seconds": AMOUNT | NULL,
     "loss_scale": POSITIVE | NULL, "skipped": AMOUNT | NULL, "overflow": AMOUNT | NULL, "underflow": AMOUNT | NULL,
     "lost": AMOUNT | NULL, "gradient_range": list_of(NUMBER) | NULL, "held_out": NUMBER | NULL,
     "elapsed_s": AMOUNT | NULL})
_TRAINING = {
    "model": NAME, "data": NAME, "stand_in": NAME | NULL, "grow": ATLEAST1, "n_train": ATLEAST1 | NULL,
    "n_test": ATLEAST1 | NULL, "n_features": ATLEAST1 | NULL, "test_to_train": AMOUNT | NULL,
    "metric": one_of(*METRICS) | NULL, "score": NUMBER | NULL, "labels_differ": COUNT | NULL,
    "stop_reason": TEXT | list_of(TEXT) | NULL, "finished": FLAG | NULL, "n_iter": COUNT | list_of(COUNT) | NULL,
    "condition": NUMBER | NULL, "warnings": list_of(TEXT) | NULL, "first_fit_s": AMOUNT | NULL,
    "compile_s": AMOUNT | NULL, "transfer_s": AMOUNT | NULL, "predict_s": AMOUNT | NULL, "model_bytes": COUNT | NULL,
    "peak_bytes": COUNT | NULL, "energy_j": NUMBER | NULL, "history": list_of(_EPOCH) | NULL, "target": NUMBER | NULL,
    "target_s": AMOUNT | NULL,
    "counts": record({name: AMOUNT for name in ("overflow", "skipped", "stalled", "underflow", "lost")}) | NULL,
    "exponents": EXPONENTS | NULL, "parameters": table_of(ANY) | NULL}
COLUMNS = {    # of every row, and of a row of one kind
    "row": {
        "schema_version": Kind(str(VERSION), lambda x: _whole(x) and x == VERSION),
        "kind": one_of("kernel", "training", "peer"), "cell": NAME, "precision": NAME, "roles": TEXT,
        "availability": TEXT | NULL, "status": one_of("ok", "FAIL", "SKIP"), "reason": TEXT, "seed": COUNT,
        "launches": COUNT | NULL, "samples_s": SAMPLES, "calls_per_sample": ATLEAST1 | NULL, "command": TEXT,
        "device": TEXT | NULL, "clocks": table_of(NUMBER | FLAG | NULL) | NULL,
        "cell_s": POSITIVE,      # seconds that the cell took, all of its precisions together
        "of": ATLEAST1},         # rows that were written together with this one, it included
    "kernel": {
        "operation": NAME, "rung": NAME, "shape": list_of(ATLEAST1, 1), "error": ERROR | NULL,
        "error_over_bound": ERROR | NULL, "compile_s": AMOUNT | NULL, "flops": COUNT | NULL, "bytes": COUNT | NULL,
        "end_to_end_s": SAMPLES, "format": TEXT | NULL},
    "training": _TRAINING,
    "peer": {**_TRAINING, "library": NAME},
}
MEASURED = {    # what a row whose status is ok has to have
    "kernel": ("samples_s", "error", "flops", "bytes", "format"),
    "training": ("samples_s", "metric", "n_train", "n_test", "test_to_train", "score", "counts", "warnings"),
    "peer": ("samples_s", "metric", "n_train", "n_test", "test_to_train", "score"),
}
_AGAIN = record({"time": TEXT, "command": TEXT, "git_commit": TEXT | NULL, "git_dirty": FLAG | NULL},
                {"cpu": TEXT, "driver": TEXT})
_CARD = record({}, {
    **dict.fromkeys(("multiprocessors", "memory_bytes", "sm_clock_mhz", "sm_clock_max_mhz", "memory_clock_mhz",
                     "memory_clock_max_mhz", "power_limit_w"), NUMBER | NULL),
    **dict.fromkeys(("ecc", "mig"), FLAG | NULL),
    **dict.fromkeys(("driver", "cuda_driver", "cuda_runtime"), TEXT | NULL)})
_PEAKS = record({"copy_bytes_per_s": POSITIVE | NULL, "launch_s": POSITIVE | NULL,
                 "flops_per_s": table_of(POSITIVE | NULL)},
                {"launch_in_graph_s": POSITIVE | NULL, "problems": table_of(TEXT), "seconds": AMOUNT})
_OPTIONS = record({}, {
    "scale": TEXT, "grow": list_of(ATLEAST1), "seeds": ATLEAST1 | NULL, "compare": FLAG, "budget": NUMBER | NULL,
    "arguments": list_of(TEXT), **dict.fromkeys(("precision", "model", "operation"), TEXT | NULL)})
ENVIRONMENT = {
    "time": TEXT, "command": TEXT, "scale": TEXT, "device": TEXT, "is_emulator": FLAG,
    "compute_capability": list_of(COUNT, 2), "times": TEXT, "cpu": TEXT, "cores": COUNT | NULL, "platform": TEXT,
    "python": TEXT, "packages": table_of(TEXT | NULL), "git_commit": TEXT | NULL, "git_dirty": FLAG | NULL,
    "precisions": table_of(record({"roles": TEXT, "status": TEXT, "reason": TEXT})),
}
FURTHER = {"gpu": _CARD | NULL, "peaks": _PEAKS | NULL, "options": _OPTIONS, "cells": COUNT, "results": COUNT,
           "resumed": list_of(_AGAIN)}


def row(found):
    """What is wrong with a row as JSON gave it, in words, or ""; columns that may be null and are not there become
    null, as in a row of an earlier version."""
    if not isinstance(found, dict):
        return "it is no record"
    columns = {**COLUMNS["row"], **COLUMNS.get(found["kind"] if isinstance(found.get("kind"), str) else "", {})}
    for name, kind in columns.items():
        if name == "of" and name not in found:
            continue
        if not kind.holds(found.get(name)):
            return _wrong(name, kind, found)
        found.setdefault(name, None)
    if found["status"] == "ok":
        for name in MEASURED[found["kind"]]:
            if found[name] is None:
                return f"{name} is null, although its status is ok"
    if found.get("labels_differ") is not None and found["labels_differ"] > (found["n_test"] or 0):
        return f"labels_differ is {found['labels_differ']}, of {found['n_test']} labels"
    return ""


def environment(found):
    """The same of what env.json holds."""
    if not isinstance(found, dict):
        return "it is no record"
    if found.get("schema_version") != VERSION or not _whole(found["schema_version"]):
        return f"schema_version is {_shown(found.get('schema_version'))}, and this numprec reads {VERSION}"
    for name, kind in ENVIRONMENT.items():
        if name not in found or not kind.holds(found[name]):
            return _wrong(name, kind, found)
    for name, kind in FURTHER.items():
        if name in found and not kind.holds(found[name]):
            return _wrong(name, kind, found)
    return ""


def _wrong(name, kind, found):
    if name not in found:
        return f"{name} is missing"
    said = kind.name if len(kind.name) < 80 else kind.name[:77] + "..."
    return f"{name} is {_shown(found[name])}, not {said}"


def _shown(value):
    text = ascii(value)
    return text if len(text) < 40 else text[:37] + "..."
