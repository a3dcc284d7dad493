"""Work that many processes share, and a file of what came of it: a line of JSON for each piece. A piece that has its
line, made from the same sources, is not done again."""
import contextlib
import hashlib
import json
import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from numprec.harness.record.environment import cores
from numprec.harness.record.exits import FAILED, Refused


class Ledger:
    """The file `path`, which is made if need be. `key` names the columns that tell one row from another, the first of
    which every row begins with; `facts` are columns that all rows of this time have. `rows` {values of `key`: row}
    holds those that are there and have the same facts. Raises Refused where the file cannot be read or written, and
    where it is another program's."""

    def __init__(self, path, key, facts):
        self.path, self.rows, self._key, self._facts = Path(path), {}, key, facts
        with self._refusing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b")
            try:
                self._file.seek(0)
                self._read(self._file.read())
            except BaseException:
                self._file.close()
                raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def _read(self, content):
        begin = f'{{"{self._key[0]}": '.encode()
        if not (content.startswith(begin) or begin.startswith(content)):
            raise Refused(f"{self.path} was not written by this program, and is not touched: name another file with "
                          "--out")
        keep = content.rfind(b"\n") + 1    # the rest was left half written by an interruption
        for line in content[:keep].splitlines():
            try:
                row = json.loads(line)
                if all(row[name] == value for name, value in self._facts.items()):
                    self.rows[tuple(row[name] for name in self._key)] = row
            except (ValueError, TypeError, KeyError, RecursionError):
                continue               # damaged: it is done again
        self._file.truncate(keep)

    def add(self, row):
        """Writes a row; Refused where that fails."""
        row = {**row, **self._facts}
        with self._refusing():
            self._file.write(json.dumps(row).encode() + b"\n")
            self._file.flush()
        self.rows[tuple(row[name] for name in self._key)] = row

    @contextlib.contextmanager
    def _refusing(self):
        try:
            yield
        except OSError as error:
            raise Refused(f"cannot keep what is found: {error}") from None


@contextlib.contextmanager
def workers(**options):
    """An executor of as many processes as there are cores, with `options` of ProcessPoolExecutor. Where its block ends
    by an exception, Ctrl-C say, nobody waits for them: they are killed. Raises Refused where one of them crashes."""
    before = multiprocessing.active_children()
    pool = ProcessPoolExecutor(cores(), mp_context=multiprocessing.get_context("spawn"), initializer=signal.signal,
                               initargs=(signal.SIGINT, signal.SIG_IGN), **options)    # Ctrl-C is for the parent
    try:
        yield pool
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            if process not in before:
                process.kill()
                process.join()
        if isinstance(error, BrokenProcessPool):
            raise Refused("a process that ran kernels crashed; what was found before is kept, and the same command "
                          "continues from there", FAILED) from None
        raise
    pool.shutdown()


def sources():
    """A hash of what is checked: the kernels, what they are written in, and the emulator that checks them."""
    root, digest = Path(__file__).resolve().parents[2], hashlib.sha256()
    for path in sorted(p for part in ("kernels", "language", "emulator") for p in (root / part).rglob("*")
                       if p.suffix in (".py", ".ll")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
