"""Kills runs of bench.py at random moments, and shows that nothing is lost and nothing is there twice.

    python -m numprec.harness.kills --times 50 --out data/results/kills.jsonl

A trial starts a small run, kills its process with SIGKILL after a random time, goes on with it, kills it again, some
five times, and then lets it end. Its results have to be those of a run that nobody disturbed: the same cells in the
same precisions, each once, with the same values wherever a value does not depend on the clock. The worker process that
a killed run leaves behind has to end by itself. One line of JSON tells of each trial. Needs a system with SIGKILL.
"""
import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil

from numprec.harness import store

ARGUMENTS = ("--scale", "smoke", "--operation", "sum/tree,max/tree", "--model", "LinearRegression",
             "--precision", "fp64,fp32", "--device", "emulator", "--no-plots")
LASTING = ("error", "error_over_bound", "launches", "score", "stop_reason", "n_iter", "condition", "status", "reason",
           "n_train", "n_test", "flops", "bytes")    # columns that do not depend on the clock
IN_A_TRIAL = 5
PATIENCE = 300    # seconds for what takes a few


@dataclass(frozen=True)
class Whole:
    """A run that was left alone, and the seconds it took."""

    folder: Path
    seconds: float


def start(folder, *more):
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.Popen([sys.executable, "bench.py", *ARGUMENTS, *more, "--out", str(folder)], cwd=root,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(folder):
    process = start(folder)
    _, said = process.communicate(timeout=PATIENCE)
    if process.returncode != 0:
        raise RuntimeError(f"bench.py ended with {process.returncode}: {said}")


def uninterrupted(folder):
    begun = time.perf_counter()
    finish(folder)
    return Whole(Path(folder), time.perf_counter() - begun)


def trial(folder, whole, times, seed):
    """Kills a run `times` times, each after a random share of the time that the whole run takes, and lets it end.
    Returns what came of it, as a dictionary."""
    moments, rng = [], random.Random(seed)
    orphans = 0
    for _ in range(times):
        delay = rng.uniform(0, whole.seconds)
        process = start(folder)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            pass
        children = _children(process.pid)
        process.kill()
        process.communicate()
        orphans += sum(not _ends(child) for child in children)
        moments.append({"after_s": round(delay, 3), "results": results_in(folder), "ended": process.returncode})
    finish(folder)
    return {"seed": seed, "kills": sum(moment["ended"] == -9 for moment in moments), "moments": moments,
            "orphans": orphans, **compare(store.read(whole.folder)[1], store.read(folder)[1])}


def compare(expected, found):
    """How many results of one run the other one lacks, has twice, or has with other values."""
    wanted, got = ({_key(row): row for row in rows} for rows in (expected, found))
    counts = Counter(map(_key, found))
    return {"results": len(found), "lost": len(wanted.keys() - got.keys()),
            "doubled": sum(n - 1 for n in counts.values()), "extra": len(got.keys() - wanted.keys()),
            "different": sum(any(_other(wanted[key].get(name), got[key].get(name)) for name in LASTING)
                             for key in wanted.keys() & got.keys())}


def _key(row):
    return row["cell"], row["precision"]


def _other(a, b):
    return a != b and not (a != a and b != b)    # NaN is the same as NaN here


def results_in(folder):
    """Whole lines in a results file, which may not be there."""
    try:
        return (Path(folder) / store.RESULTS).read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition, seconds):
    """Until it holds; AssertionError if it does not come to."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.02)


def _children(pid):
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _ends(child):
    try:
        wait_for(lambda: not alive(child.pid), 30)
    except AssertionError:
        return False
    return True


def main():
    p = argparse.ArgumentParser(description="Kills runs of bench.py at random moments, and resumes them.")
    p.add_argument("--times", type=int, default=50, help="kills in all")
    p.add_argument("--seed", type=int, default=0, help="of the first trial's moments")
    p.add_argument("--out", help="file for the outcome, a line of JSON per trial")
    options = p.parse_args()
    lines, killed, seed = [], 0, options.seed
    with tempfile.TemporaryDirectory() as place:
        uninterrupted(Path(place) / "first")    # compiles the kernels
        whole = uninterrupted(Path(place) / "whole")
        while killed < options.times:
            outcome = trial(Path(place) / str(seed), whole, min(IN_A_TRIAL, options.times - killed), seed)
            killed, seed = killed + outcome["kills"], seed + 1
            lines.append(json.dumps(outcome))
            print(lines[-1], flush=True)
            if options.out:
                Path(options.out).write_text("\n".join(lines) + "\n", encoding="utf-8")
    bad = sum(json.loads(line)[what] for line in lines for what in ("lost", "doubled", "extra", "different", "orphans"))
    print(f"{killed} kills in {len(lines)} runs of {whole.seconds:.1f} s: "
          + (f"{bad} results or processes are not as they should be" if bad else
             "no result lost, doubled or different, and no process left behind"))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
