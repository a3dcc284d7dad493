"""The folder of a run: `env.json`, and `results.jsonl`, one finished result a line.

The rows of a cell, one per precision, are appended in one write, and are on the disk before the next cell starts, so
that a run killed at any moment loses nothing that it had finished. Each row says how many were written with it, so
that a resumed run can cut off what a kill left half written: all rows of that write, because the precisions of a cell
are measured in turns. Everything else stays. A lock keeps a second process out of the folder.

COLUMNS names what a row holds. Times are seconds per call. A value that was not measured is null; JSON has no
infinity and no NaN, which are the strings "inf", "-inf" and "nan".
"""
import contextlib
import gzip
import json
import math
import os
from pathlib import Path

SCHEMA_VERSION = 2
_TRAINING = (
    "model", "data", "stand_in", "grow", "n_train", "n_test", "n_features", "test_to_train", "metric", "score",
    "labels_differ", "stop_reason", "finished", "n_iter", "condition", "warnings", "first_fit_s", "compile_s",
    "transfer_s", "predict_s", "model_bytes", "peak_bytes", "energy_j", "history", "target", "target_s", "counts",
    "exponents", "parameters")
COLUMNS = {    # of every row, and of a row of one kind; `status` is "ok", "FAIL" or "SKIP"
    "row": ("schema_version", "kind", "cell", "precision", "roles", "availability", "status", "reason", "seed",
            "launches", "samples_s", "calls_per_sample", "command", "device", "clocks",
            "cell_s",      # seconds that the cell took, all of its precisions together
            "of"),         # rows that were written together with this one, it included
    "kernel": ("operation", "rung", "shape", "error", "error_over_bound", "compile_s", "flops", "bytes",
               "end_to_end_s", "format"),
    "training": _TRAINING,
    "peer": (*_TRAINING, "library"),
}
SPECIAL = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
RESULTS, ENVIRONMENT, LOCK = "results.jsonl", "env.json", ".lock"
PROBE = 1 << 20    # bytes that have to fit on the disk before a run starts


class Unusable(OSError):
    """The folder cannot take this run; the message says why, and what can be done."""


class Store:
    """Appends to the run in `folder`, which is made if need be. `resume` goes on with the run that is there, if one
    is; otherwise whatever run was there is discarded. Raises OSError where nothing can be written, and Unusable where
    another process writes already."""

    def __init__(self, folder, resume=False):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.folder / LOCK)
        try:
            self._probe()
            results = self.folder / RESULTS
            if not resume:     # first, so that no kill leaves an environment that is not that of the results
                (self.folder / ENVIRONMENT).unlink(missing_ok=True)
            self.rows, size = _complete(results) if resume and results.exists() else ([], 0)
            self._file = open(results, "r+b" if size else "wb", buffering=0)
            self._file.truncate(size)
            self._file.seek(size)
        except BaseException:
            self._lock.close()
            raise
        self.done = {(row["cell"], row["precision"]) for row in self.rows}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        self._lock.close()

    def _probe(self):
        probe = self.folder / ".probe"
        try:
            with open(probe, "wb") as file:
                file.write(bytes(PROBE))
                file.flush()
                os.fsync(file.fileno())
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()

    def write_environment(self, environment):
        """Replaces `env.json`, whole or not at all."""
        half = self.folder / (ENVIRONMENT + ".new")
        with open(half, "w", encoding="utf-8") as file:
            json.dump(plain({"schema_version": SCHEMA_VERSION, **environment}), file, indent=2, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, self.folder / ENVIRONMENT)

    def append(self, rows):
        """Adds the rows of one cell. Where they cannot all be written, none are, and it raises OSError."""
        rows = [{"schema_version": SCHEMA_VERSION, "cell": None, **row, "of": len(rows)} for row in rows]
        lines = "".join(json.dumps(plain(row), allow_nan=False) + "\n" for row in rows).encode()
        before, count, keys = self._file.tell(), len(self.rows), {(row["cell"], row["precision"]) for row in rows}
        try:
            while lines:                          # a disk that fills up takes a part, and refuses the next
                lines = lines[self._file.write(lines):]
            self.rows += rows                     # a Ctrl-C finds them here even while the disk works
            self.done |= keys
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(before)
            del self.rows[count:]
            self.done = {(row["cell"], row["precision"]) for row in self.rows}
            raise


def _lock(path):
    """An open file that no other process can have locked, until it is closed or this process ends."""
    file = open(path, "ab")
    try:
        try:
            import fcntl
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:    # Windows
            import msvcrt
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        file.close()
        raise Unusable(f"another process is writing to {path.parent}; wait for it, or name another folder") from None
    except OSError:
        pass                   # a file system without locks
    return file


def _complete(path):
    """(rows, bytes that they take) of the cells in a results file that were written to their end."""
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    rows, begin = [], 0
    for number, line in enumerate(lines, 1):
        try:
            rows.append(_numbers(json.loads(line)))
        except ValueError:
            raise Unusable(f"line {number} of {path} is damaged; name another folder, or --fresh") from None
    while begin < len(rows) and (end := begin + (rows[begin].get("of") or 1)) <= len(rows):
        begin = end
    return rows[:begin], sum(map(len, lines[:begin]))


def finished(folder):
    """The rows that a resumed run in `folder` keeps."""
    return _complete(Path(folder) / RESULTS)[0]


def environment_of(folder):
    """What `env.json` in a folder says, or None where there is no run."""
    try:
        return json.loads((Path(folder) / ENVIRONMENT).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise Unusable(f"{Path(folder) / ENVIRONMENT} is damaged; name another folder, or --fresh") from None


def read(folder):
    """(environment, rows) of the run in `folder`, whose results may have been gzipped to be kept."""
    folder = Path(folder)
    environment = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
    plain, packed, rows = folder / RESULTS, folder / (RESULTS + ".gz"), []
    lines = gzip.decompress(packed.read_bytes()) if packed.exists() and not plain.exists() else plain.read_bytes()
    for line in lines.decode().splitlines(keepends=True):
        if line.endswith("\n"):
            rows.append(_numbers(json.loads(line)))
    return environment, rows


def plain(value):
    """`value` in JSON's own types."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if hasattr(value, "item"):    # a NumPy scalar
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)


def _numbers(value):
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return SPECIAL.get(value, value) if isinstance(value, str) else value
