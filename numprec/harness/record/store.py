"""The folder of a run: `env.json`, and `results.jsonl`, one finished result a line.

The rows of a cell, one per precision, are appended in one write, and are on the disk before the next cell starts, so
that a run killed at any moment loses nothing that it had finished. Each row says how many were written with it, so
that a resumed run can cut off what a kill left half written: all rows of that write, because the precisions of a cell
are measured in turns. Everything else stays. A line that is damaged costs the cell that it belongs to. Of rows of one
cell and precision the last one counts. A lock keeps a second process out of the folder.

Each file that this program writes is recognised by its first bytes. Other files of the same name, and symbolic links,
are neither overwritten nor deleted.

COLUMNS names what a row holds, `numprec.harness.record.schema` which values.
"""
import contextlib
import errno
import gzip
import json
import math
import os
import re
import secrets
import stat
import sys
import time
import zlib
from pathlib import Path

from numprec.harness.record import schema
from numprec.harness.record.rows import fail

SCHEMA_VERSION = schema.VERSION
COLUMNS = {kind: tuple(columns) for kind, columns in schema.COLUMNS.items()}    # of every row, and of those of one kind
SPECIAL = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
KILLED = "the worker was lost"    # how the reason of a failure begins that is not the cell's fault
RESULTS, ENVIRONMENT, LOCK = "results.jsonl", "env.json", ".lock"
PROBE = 1 << 20      # bytes that have to fit on the disk before a run starts
LARGEST = 1 << 30    # bytes of a file that is read
TEMPORARY, STALE = ".numprec-", 3600    # how a name begins; seconds after which nobody can be writing to it any more
ROW = b'{"schema_version": '    # how each line of results begins
MARKS = {            # what stands at the beginning of another file of ours
    ENVIRONMENT: rb'\A\{\s*"schema_version": ', "tables.md": rb"\A# Results[^\n]*\n\n```\ndevice    ",
    "kernels.csv": rb"\Aoperation,rung,precision,availability,", "training.csv": rb"\Alabel,library,times,model,",
    "report.html": rb"<title>numprec: precisions compared on "}
IN_PICTURES = b"numprec"
BEGINNING = 4096     # bytes
REPORTED = 5             # damaged lines of a file that are reported one by one


class Unusable(OSError):
    """The folder cannot take this run; the message says why, and what can be done."""


class Gone(OSError):
    """The file of results was deleted or moved while the run wrote to it."""


class Store:
    """Appends to the run in `folder`, which is made if need be. `resume` continues the run that is there, if one
    is; `fresh` discards it, with the other `files` that it wrote, but for pictures that do not say that they are this
    program's. With neither there may be no results there. Raises OSError where nothing can be written, and Unusable
    where another process writes already, or where a file is in the way that is not this program's: any of `files` but
    where a run is resumed, whose results matter more."""

    def __init__(self, folder, resume=False, fresh=False, files=()):
        self.folder, files = Path(folder), [Path(folder) / name for name in files]
        results, environment = self.folder / RESULTS, self.folder / ENVIRONMENT
        if fresh:
            files = [path for path in files if not _unmarked_picture(path)]

        def refuse():
            for path in (results, environment, *(() if resume else files)):
                refuse_foreign(path)
            if not resume and not fresh and results.exists() and results.stat().st_size:
                raise Unusable(f"{results} holds results, and no {ENVIRONMENT} beside it says of what: name another "
                               "folder, or discard them with --fresh")
        refuse()               # before anything is made there, and once more when nobody else can make anything
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.folder / LOCK)
        try:
            refuse()
            sweep(self.folder)
            self._probe()
            self.rows, size = _complete(results, warn) if resume else ([], 0)
            if not resume:     # the environment last: whenever this is killed, none is beside the results of others
                for path in (*files, environment):
                    path.unlink(missing_ok=True)
            self._file = _opened(results)
            self._file.truncate(size)
            self._file.seek(size)
        except BaseException:
            self._lock.close()
            raise
        self.done, self.added = _done(self.rows), 0    # keys of what need not be run; rows added since

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        self._lock.close()

    def _probe(self):
        probe = self.folder / f"{TEMPORARY}{secrets.token_hex(8)}"
        try:
            with open(probe, "xb") as file:
                file.write(bytes(PROBE))
                file.flush()
                os.fsync(file.fileno())
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()

    def write_environment(self, environment):
        """Replaces `env.json`, whole or not at all."""
        text = json.dumps(plain({"schema_version": SCHEMA_VERSION, **environment}), indent=2, allow_nan=False)
        replace(self.folder / ENVIRONMENT, text.encode())

    def check(self):
        """Raises Gone where the file that this one appends to is no longer in its place."""
        path, mine = self.folder / RESULTS, os.fstat(self._file.fileno())
        with contextlib.suppress(OSError):
            there = os.stat(path)
            if mine.st_nlink and (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                return
        raise Gone(f"{path} was deleted or moved while the run wrote to it")

    def append(self, rows):
        """Adds the rows of one cell. Where they cannot all be written, none are, and it raises OSError; Gone where
        they went to a file that is no longer in its place."""
        rows = [_sound({"schema_version": SCHEMA_VERSION, "cell": None, **row, "of": len(rows)}) for row in rows]
        lines = "".join(json.dumps(plain(row), allow_nan=False) + "\n" for row in rows).encode()
        before, had = self._file.tell(), (self.rows, self.done, self.added)
        try:
            while lines:                          # a disk that fills up takes a part, and refuses the next
                lines = lines[self._file.write(lines):]
            self.rows = _latest(self.rows + rows)    # a Ctrl-C finds them here even while the disk works
            self.done, self.added = _done(self.rows), self.added + len(rows)
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(before)
                self._file.seek(before)
            self.rows, self.done, self.added = had
            raise
        self.check()


def _lock(path):
    """An open file that no other process can have locked, until it is closed or this process ends."""
    file = _opened(path)
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


# ---- files of ours, and of others

def _opened(path):
    """A file to read and write, unbuffered, that is made if need be; never what a symbolic link points to."""
    _refuse_odd(path)
    how = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return open(os.open(path, how, 0o666), "r+b", buffering=0)


def _refuse_odd(path):
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise Unusable(f"{path} is not a regular file (links are not followed): move it away, or name another folder")


def refuse_foreign(path):
    """Raises Unusable where there is a file at `path` that this program did not write."""
    _refuse_odd(path)
    if os.path.exists(path) and not _ours(Path(path)):
        raise Unusable(f"{path} was not written by this program, and is not touched: move it away, or name another "
                       "folder")


def _unmarked_picture(path):
    """Whether there is a picture that this program did not draw, or an early version did; warns that it stays."""
    unmarked = path.name not in MARKS and path.is_file() and not path.is_symlink() and not _ours(path)
    if unmarked:
        warn(f"{path} does not say that this program drew it, and is not touched")
    return unmarked


def _ours(path):
    """Whether this program wrote the file, or it is empty, so that nothing is lost with it."""
    with open(path, "rb") as file:
        if path.name == RESULTS:    # of which any line may be damaged, and the last one cut
            begins = file.read(PROBE)
            return ROW.startswith(begins) or any(line.startswith(ROW) for line in begins.splitlines())
        begins = file.read(BEGINNING)
    return not begins or bool(re.search(MARKS.get(path.name, IN_PICTURES), begins))


def replace(path, content):
    """Writes `content`, bytes, to `path`, whole or not at all; Unusable where the file there is not ours."""
    path = Path(path)
    refuse_foreign(path)
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def sweep(folder):
    """Deletes what runs that were killed left half written."""
    for path in Path(folder).glob(TEMPORARY + "*"):
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > STALE:
                path.unlink()


# ---- reading

def warn(problem):
    print(f"bench.py: warning: {problem}", file=sys.stderr)


def _read(path):
    """The bytes of a plain file; a link to one is followed."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise Unusable(f"{path} is not a regular file")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise Unusable(f"{path} holds more than {LARGEST} bytes, which no run writes")
    return content


def _complete(path, warn):
    """(rows, bytes to keep) of a results file: the rows of the cells that were written to their end, and where the half
    of a cell begins that a kill left at the end of the file. `warn` is called with what is wrong with a line."""
    try:
        content = _read(path)
    except FileNotFoundError:
        return [], 0
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Unusable(f"{path} is damaged: {error}") from None
    lines = content.split(b"\n")
    rows, group, problems, keep, place = [], [], [], 0, 0
    for number, line in enumerate(lines[:-1], 1):
        row, problem = _row(line)
        begun, place = place, place + len(line) + 1
        stale = len(group)    # rows of the group that this line shows to be what is left of a cell
        if group and not problem and (row["cell"], row.get("of")) == (group[0][0]["cell"], group[0][0]["of"]):
            seen = [other["precision"] for other, _ in group]
            stale = seen.index(row["precision"]) + 1 if row["precision"] in seen else 0
        if stale:
            first = group[0][0]
            problems.append((number - 1 - len(group) + stale, f"{stale} of the {first['of']} rows of {first['cell']} "
                             "that were written together are there"))
            group = group[stale:]
        if problem:
            problems.append((number, problem))
        else:
            group.append((row, begun))
            if len(group) == row.get("of", 1):
                rows += [row for row, _ in group]
                group = []
        keep = group[0][1] if group else place
    for number, problem in problems[:REPORTED]:
        warn(f"{path}, line {number}: {problem}; its cell will run again")
    if len(problems) > REPORTED:
        warn(f"{path}: {len(problems) - REPORTED} more lines are damaged")
    return _latest(rows), keep


def _row(line):
    """(row, "") of a line, or (None, what is wrong with it)."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None, "it is damaged"
    try:
        row = _numbers(row)
    except RecursionError:
        return None, "it is damaged"
    problem = schema.row(row)
    return (None, problem) if problem else (row, "")


def _sound(row):
    """`row`, or, where it would be refused when it is read again, the failure to measure what may stand in it, which
    names the column."""
    problem = schema.row(_numbers(plain(row)))
    if not problem:
        return row
    row = dict(row)
    fail(row, f"a value cannot be kept: {problem}")
    for name, kind in {**schema.COLUMNS["row"], **schema.COLUMNS.get(row["kind"], {})}.items():
        if kind.holds(None) and not kind.holds(_numbers(plain(row.get(name)))):
            row[name] = None
    return row


def _latest(rows):
    """The last row of each cell and precision."""
    return list({_key(row): row for row in rows}.values())


def _key(row):
    return row["cell"], row["precision"]


def final(row):
    """Whether a row is one that no second try would change: a worker that was killed says nothing of its cell."""
    return row["status"] != "FAIL" or not row["reason"].startswith(KILLED)


def _done(rows):
    return {_key(row) for row in rows if final(row)}


def finished(folder, warn=warn):
    """(cell, precision) of what a resumed run in `folder` does not run again."""
    return _done(_complete(Path(folder) / RESULTS, warn)[0])


def environment_of(folder):
    """What `env.json` in a folder says, or None where there is no run. Unusable where that is not what it should be."""
    path = Path(folder) / ENVIRONMENT
    try:
        found = _numbers(json.loads(_read(path)))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError):
        problem = "it is not JSON"
    else:
        problem = schema.environment(found)
    if problem:
        raise Unusable(f"{path} cannot be used: {problem}; name another folder, or "
                       + ("discard the run with --fresh" if _ours(path) else "move it away"))
    return found


def read(folder, warn=warn):
    """(environment, rows) of the run in `folder`, whose results may have been gzipped to be kept. FileNotFoundError
    where there is none, Unusable where env.json is damaged; `warn` is called with what is wrong with a line."""
    folder = Path(folder)
    environment = environment_of(folder)
    if environment is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder / ENVIRONMENT))
    plain, packed = folder / RESULTS, folder / (RESULTS + ".gz")
    path = packed if packed.exists() and not plain.exists() else plain
    os.stat(path)
    return environment, _complete(path, warn)[0]


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
