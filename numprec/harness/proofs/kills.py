"""Kills runs of bench.py at random moments, and shows that nothing is lost and nothing is there twice.

    python -m numprec.harness.proofs.kills --times 50 --out data/results/kills.jsonl

A small run is started, killed with SIGKILL after a random time, resumed, killed again, and so on until it has
come to its end; then the next one is started. The results of each have to be those of a run that nobody disturbed: the
same cells in the same precisions, each once, with the same values wherever a value does not depend on the clock. The
worker process that a killed run leaves behind has to end by itself. One line of JSON describes a few kills, with
the seconds after which each came and the results that were there. Needs a system with SIGKILL.
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

from numprec.harness.record import store

ARGUMENTS = ("--scale", "smoke", "--operation", "sum/tree,max/tree", "--model", "LinearRegression",
             "--seeds", "30", "--precision", "fp64,fp32", "--device", "emulator", "--no-plots")
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
    root = str(Path(__file__).resolve().parents[3])
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


def trial(place, whole, times, seed):
    """Kills runs in folders below `place` `times` times, each after a random share of the time that the whole run
    takes, and lets each run end. Returns what came of it, as a dictionary."""
    rng, moments, found = random.Random(seed), [], Counter(lost=0, doubled=0, extra=0, different=0, orphans=0)
    everything, folder = results_in(whole.folder), _next(place)
    while sum(moment["killed"] for moment in moments) < times:
        delay = rng.uniform(0, whole.seconds)
        process = start(folder)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            pass
        children = _children(process.pid)
        process.kill()
        process.communicate()
        found["orphans"] += sum(not _ends(child) for child in children)
        moments.append({"after_s": round(delay, 3), "results": results_in(folder), "killed": process.returncode == -9})
        if results_in(folder) == everything:
            found += _ended(folder, whole)
            folder = _next(place)
    found += _ended(folder, whole)
    return {"seed": seed, "kills": times, "runs": len(list(Path(place).iterdir())), "results_of_each": everything,
            **{name: found[name] for name in ("lost", "doubled", "extra", "different", "orphans")}, "moments": moments}


def _next(place):
    place = Path(place)
    place.mkdir(exist_ok=True)
    return place / str(len(list(place.iterdir())))


def _ended(folder, whole):
    """Lets a run come to its end, and compares it."""
    finish(folder)
    return compare(store.read(whole.folder)[1], store.read(folder)[1], results_in(folder))


def compare(expected, found, lines):
    """How many results of one run the other one, in whose file there are so many `lines`, lacks, has twice, or has
    with other values."""
    wanted, got = ({_key(row): row for row in rows} for rows in (expected, found))
    different = sum(any(_other(wanted[key].get(name), got[key].get(name)) for name in LASTING)
                    for key in wanted.keys() & got.keys())
    return Counter(lost=len(wanted.keys() - got.keys()), doubled=lines - len(got),
                   extra=len(got.keys() - wanted.keys()), different=different)


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
        assert time.monotonic() < end, f"waited {seconds} s for nothing"
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
            outcome = trial(Path(place) / f"trial {seed}", whole, min(IN_A_TRIAL, options.times - killed), seed)
            killed, seed = killed + outcome["kills"], seed + 1
            lines.append(json.dumps(outcome))
            print(lines[-1], flush=True)
            if options.out:
                Path(options.out).write_text("\n".join(lines) + "\n", encoding="utf-8")
    bad = sum(json.loads(line)[what] for line in lines for what in ("lost", "doubled", "extra", "different", "orphans"))
    runs = sum(json.loads(line)["runs"] for line in lines)
    print(f"{killed} kills of {runs} runs, each {whole.seconds:.1f} s long where nobody kills it: "
          + (f"{bad} results or processes are not as they should be" if bad else
             "no result lost, doubled or different, and no process left behind"))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
