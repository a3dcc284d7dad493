"""Before a first run on the emulator: its kernels are compiled, on all cores, into the cache on the disk.

Compiling takes most of a first run, and keeps one core busy, because a worker runs one cell at a time so that nothing
disturbs its times. Here several workers run each model and rung once in each precision, and what they find is thrown
away. A note in the cache says what has been compiled with which sources, so that it is not done again.
"""
import contextlib
import hashlib
import json
import os
import platform
import subprocess
import sys
import threading
from collections import deque
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from numprec.harness.measure.timing import Effort
from numprec.harness.record.environment import cores
from numprec.harness.run import planning
from numprec.harness.run.worker import Worker, execute

NOTE = "compiled.json"
MOST = 8         # workers, of several hundred MB each
FEW = 20         # units that are not worth the start of the workers
LONGEST = 900    # seconds, for a unit
ONCE = Effort(budget=0.0, warm_up=0.0, least=1)


def missing(cells):
    """The cells, in one precision each and with one seed each, whose kernels have not been compiled on this machine
    from these sources; none where there is no cache that could keep them."""
    from numprec.emulator import cache
    folder = cache.opened()
    if folder is None or not os.access(folder, os.W_OK) or cores() < 2:
        return []
    known, units = _read(folder), {}
    for cell in cells:
        if cell.kind != "peer":
            for p in cell.precisions:
                units.setdefault(_name(cell, p), replace(cell, precisions=(p,), effort=ONCE))
    found = [unit for name, unit in units.items() if name not in known]
    return found if len(found) >= FEW else []


def _name(cell, p):
    return f"{cell.operation.name}/{cell.rung.name} {p}" if cell.kind == "kernel" else (
        f"{planning.without_seed(cell.key)} {p}")


def compile_all(units, device_name, show):
    """Runs each unit once, on several workers; `show(done, units)` after each. A unit that fails will say so when it is
    measured. An interruption ends the workers."""
    waiting, done, stop = deque(units), [], threading.Event()
    workers = [Worker(device_name, stderr=subprocess.DEVNULL) for _ in range(min(cores(), MOST, len(units)))]

    def serve(worker):
        while waiting and not stop.is_set():
            try:
                unit = waiting.popleft()
            except IndexError:
                return
            with contextlib.suppress(Exception):
                worker.call(execute, LONGEST, cell=unit)
            done.append(unit)
            show(len(done), len(units))
    threads = [threading.Thread(target=serve, args=(worker,), daemon=True) for worker in workers]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _write(done)
    finally:
        stop.set()
        for worker in workers:
            worker.close()


# ---- the note

def _read(folder):
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        return set(note["compiled"]) if note["sources"] == _sources() else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _write(units):
    from numprec.emulator import cache
    folder = cache.opened()
    if folder is None:
        return
    names = _read(folder) | {_name(unit, unit.precisions[0]) for unit in units}
    with contextlib.suppress(OSError):    # then it is done again next time
        cache.write(folder / NOTE, json.dumps({"sources": _sources(), "compiled": sorted(names)}).encode())


def _sources():
    """A hash of what compiled kernels depend on, and of more: all of numprec, the versions, and the machine."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256(f"{platform.node()} {platform.machine()} {sys.version} {metadata.version('numba')} "
                            f"{metadata.version('numba-cuda')}".encode())
    for path in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".ll") and "harness" not in p.parts):
        digest.update(path.read_bytes())
    return digest.hexdigest()
