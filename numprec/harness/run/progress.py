"""What a run says on stderr while it runs: a bar on a terminal, a line per cell elsewhere."""
import sys
import threading
from statistics import median
from time import perf_counter

from numprec.harness.run.planning import duration, without_seed

QUIET, NORMAL, VERBOSE = -1, 0, 1


class Progress:
    """`begin(cell)` and `end(cell, rows, seconds)` around each of `total` cells. `expected(cell)` are the seconds that
    one is likely to take, from which the time left is estimated. Failures are shown at any verbosity; VERBOSE shows
    each result."""

    def __init__(self, cells, expected, verbosity=NORMAL):
        self.total, self.verbosity, self.done = len(cells), verbosity, 0
        self._expected = {cell.key: (_kind(cell), expected(cell)) for cell in cells}
        self._paces, self._spent, self._started = {}, 0.0, None
        self._begun, self._bar, self._closed = {}, None, threading.Event()
        if verbosity > QUIET and sys.stderr.isatty():
            from tqdm import tqdm
            self._bar = tqdm(total=self.total, unit="cell", dynamic_ncols=True,
                             bar_format="{n_fmt}/{total_fmt} |{bar}| {elapsed}{desc}")
            self._ticker = threading.Thread(target=self._tick, daemon=True)
            self._ticker.start()

    def begin(self, cell):
        self._begun[cell.key] = perf_counter()
        self._started = self._started or perf_counter()

    def end(self, cell, rows, seconds):
        self.done += 1
        self._begun.pop(cell.key, None)
        self._spent += seconds
        kind, expected = self._expected.pop(cell.key)
        self._paces.setdefault(kind, []).append(seconds / expected)
        failed = [row for row in rows if row["status"] == "FAIL"]
        if self._bar is not None:
            self._show()
            self._bar.update()
        elif self.verbosity > QUIET:
            outcome = "FAIL " + ", ".join(row["precision"] for row in failed) if failed else "ok"
            self._say(f"[{self.done:{len(str(self.total))}}/{self.total}] {cell}: {outcome}, {duration(seconds)}; "
                      f"about {duration(self.left())} left")
        for row in rows if self.verbosity >= VERBOSE else failed:
            self._say(f"{row['status']:>6} {cell} {row['precision']}" + (f": {row['reason']}" if row["reason"] else ""))

    def left(self):
        """Seconds that the other cells will take, if they exceed what was expected as those of their kind did so far,
        and as many run at a time."""
        if not self._paces:
            return sum(expected for _, expected in self._expected.values())
        typical = median(pace for paces in self._paces.values() for pace in paces)
        paces = {kind: median(paces) for kind, paces in self._paces.items()}
        work = sum(expected * paces.get(kind, typical) for kind, expected in self._expected.values())
        return work * min(1.0, (perf_counter() - self._started) / self._spent) if self._spent else work

    def close(self):
        self._closed.set()
        if self._bar is not None:
            self._ticker.join()
            self._bar.close()

    def _say(self, text):
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def _tick(self):
        while not self._closed.wait(1):
            self._show()

    def _show(self):
        """Which cells are under way, and for how long: on a first run they are being compiled."""
        now = perf_counter()
        cells = ", ".join(f"{key} {now - begun:.0f} s" for key, begun in list(self._begun.items()))
        self._bar.set_description_str(f", about {duration(self.left())} left  {cells}")


class Counter:
    """`counter(done, total)` shows the progress of what comes before the cells: on a terminal in one line that
    changes, elsewhere in a line every EVERY seconds. Threads may share it."""

    EVERY = 15

    def __init__(self, what, verbosity=NORMAL):
        self._what, self._verbosity, self._lock = what, verbosity, threading.Lock()
        self._started, self._shown = perf_counter(), perf_counter()

    def __call__(self, done, total):
        if self._verbosity == QUIET:
            return
        with self._lock:
            now, terminal = perf_counter(), sys.stderr.isatty()
            text = f"{self._what}: {done} of {total}, {duration(now - self._started)}"
            if terminal:
                print(f"\r{text}  ", end="\n" if done == total else "", file=sys.stderr, flush=True)
            elif done == total or now - self._shown > self.EVERY:
                self._shown = now
                print(text, file=sys.stderr, flush=True)


def _kind(cell):
    """What cells are compared with each other: all kernels, and the seeds of a model."""
    return "kernel" if cell.kind == "kernel" else without_seed(cell.key)
