"""What a run says on stderr while it runs: a bar on a terminal, a line per cell elsewhere."""
import sys
import threading
from time import perf_counter

from numprec.harness.planning import duration

QUIET, NORMAL, VERBOSE = -1, 0, 1


class Progress:
    """`begin(cell)` and `end(cell, rows, seconds)` around each of `total` cells. `expected(cell)` are the seconds that
    one is likely to take, by which the time left is told. Failures are told at any verbosity; VERBOSE tells of each
    result."""

    def __init__(self, cells, expected, verbosity=NORMAL):
        self.total, self.verbosity, self.done = len(cells), verbosity, 0
        self._expected = {cell.key: expected(cell) for cell in cells}
        self._spent, self._foreseen = 0.0, 0.0
        self._begun, self._bar, self._closed = {}, None, threading.Event()
        if verbosity > QUIET and sys.stderr.isatty():
            from tqdm import tqdm
            self._bar = tqdm(total=self.total, unit="cell", dynamic_ncols=True,
                             bar_format="{n_fmt}/{total_fmt} |{bar}| {elapsed}{desc}")
            self._ticker = threading.Thread(target=self._tick, daemon=True)
            self._ticker.start()

    def begin(self, cell):
        self._begun[cell.key] = perf_counter()

    def end(self, cell, rows, seconds):
        self.done += 1
        self._begun.pop(cell.key, None)
        self._spent += seconds
        self._foreseen += self._expected.pop(cell.key, 0.0)
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
        """Seconds that the other cells will take, if they exceed what was expected as those so far did."""
        pace = self._spent / self._foreseen if self._foreseen else 1.0
        return pace * sum(self._expected.values())

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
