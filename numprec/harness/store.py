"""The folder of a run: `env.json`, written once, and `results.jsonl`, one finished result a line.

The lines are only ever appended, and each is on the disk before the next cell starts, so that a run killed at any
moment loses nothing that it had finished. A line that was cut off by the kill is ignored when reading.

COLUMNS names what a row holds. Times are seconds per call. A value that was not measured is null; JSON has no
infinity and no NaN, which are the strings "inf", "-inf" and "nan".
"""
import json
import math
import os
from pathlib import Path

SCHEMA_VERSION = 1
COLUMNS = {    # of every row, and of a row of one kind; `status` is "ok", "FAIL" or "SKIP"
    "row": ("schema_version", "kind", "precision", "roles", "availability", "status", "reason", "seed", "launches",
            "samples_s", "calls_per_sample", "command"),
    "kernel": ("operation", "rung", "shape", "error", "error_over_bound", "compile_s", "flops", "bytes"),
    "training": ("model", "data", "stand_in", "n_train", "n_test", "test_to_train", "metric", "score", "stop_reason",
                 "finished", "n_iter", "condition", "warnings", "first_fit_s"),
}
RESULTS, ENVIRONMENT = "results.jsonl", "env.json"


class Store:
    """Appends to the run in `folder`, which is made if need be. Raises OSError where it cannot be written, and
    FileExistsError where it already holds a run."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / RESULTS).exists():
            raise FileExistsError(f"{self.folder} already holds a run; name another folder")
        self.rows = []
        self._file = open(self.folder / RESULTS, "x", encoding="utf-8")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def write_environment(self, environment):
        with open(self.folder / ENVIRONMENT, "w", encoding="utf-8") as file:
            json.dump(plain({"schema_version": SCHEMA_VERSION, **environment}), file, indent=2, allow_nan=False)

    def append(self, row):
        row = {"schema_version": SCHEMA_VERSION, **row}
        self._file.write(json.dumps(plain(row), allow_nan=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows.append(row)


def read(folder):
    """(environment, rows) of the run in `folder`."""
    folder = Path(folder)
    environment = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
    rows = []
    for line in (folder / RESULTS).read_text(encoding="utf-8").splitlines(keepends=True):
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


def _numbers(row):
    special = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
    return {key: special.get(value, value) if isinstance(value, str) else value for key, value in row.items()}
