"""The folder of a run: a new one, or one that is resumed; and what its env.json says."""
import contextlib
import itertools
import os
import re
import sys
from datetime import datetime, timezone
from pathlib import Path

from numprec.harness.record import environment, store
from numprec.harness.record.exits import Refused
from numprec.harness.run import planning

PEAKS = {True: 0.5, False: 2.0}    # seconds to measure them in; the emulator's are a CPU's, and judge nothing


@contextlib.contextmanager
def opened(request, plan, runs):
    """(store, environment) of a run in its folder, with the environment written; a run of the same kind that is there
    is resumed."""
    with _store(request.out or new(request.root), request, plan, runs.device) as results:
        facts = environment_for(results, request, plan, runs)
        left = planning.remaining(plan.wanted, results.done)
        facts["cells"] = len(plan.wanted)
        facts["results"] = max(facts.get("results", 0), len(results.done) + sum(len(cell.precisions) for cell in left))
        try:
            results.write_environment(facts)
        except OSError as error:
            raise Refused(f"cannot write results: {error}") from None
        yield results, facts


def _store(folder, request, plan, device):
    try:
        before = None if request.fresh else store.environment_of(folder)
        if before is not None:
            _same(folder, before, request, plan, device)
        return store.Store(folder, resume=before is not None, fresh=request.fresh, files=_made(Path(folder)))
    except store.Unusable as error:
        raise Refused(error) from None
    except OSError as error:
        raise Refused(f"cannot write results: {error}") from None


def new(root):
    """A new folder below `root`, called by the time. Another run may have begun in the same second, or the clock been
    set back."""
    name = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    for number in itertools.count(1):
        folder = Path(root) / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not os.path.lexists(folder):    # it is `root` that is in the way
                raise Refused(f"cannot write results: {root} is not a folder") from None
            continue
        except OSError as error:
            raise Refused(f"cannot write results: {error}") from None
        return folder


def _made(folder):
    """Names of the tables and figures in a folder."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = [name for name in names if name in ("tables.md", "kernels.csv", "training.csv")]
    pictures = [name for name in names if name.endswith((".png", ".svg"))]
    if pictures:
        from numprec.harness.show import figures
        pattern = re.compile(rf"({'|'.join(figures.FIGURES)})(_\d+)?\.(png|svg)")
        found += filter(pattern.fullmatch, pictures)
    return found


def done(request):
    """Pairs of cell key and precision that the run in --out has finished."""
    if request.fresh or not request.out:
        return set()
    try:
        if store.environment_of(request.out) is None:
            return set()
        return store.finished(request.out, warn=lambda problem: None)
    except OSError:      # reported when the folder is opened
        return set()


def _same(folder, before, request, plan, device):
    had = {"device": before["device"], "scale": before["scale"], "grow": before.get("options", {}).get("grow")}
    has = {"device": device.name, "scale": plan.scale.name, "grow": list(request.grow)}
    for what in has:
        if had[what] != has[what]:
            raise Refused(f"{folder} holds a run with {what} {had[what]}, and this one has {what} {has[what]}: name "
                          "another folder with --out, or discard that run with --fresh")


def environment_for(results, request, plan, runs):
    """What env.json is going to hold. A resumed run keeps what the first one found out about the device."""
    facts = runs.call(environment.collect, precisions=plan.precisions, scale=plan.scale.name, command=request.command)
    before = store.environment_of(results.folder) if results.rows else None
    if before is None:
        facts["peaks"] = _peaks(runs)
        facts["options"] = request.recorded(plan.scale)
        return facts
    if (before["git_commit"], before["git_dirty"]) != (facts["git_commit"], facts["git_dirty"]):
        print(f"bench.py: warning: results so far are of commit {_commit(before)}, those to come of "
              f"{_commit(facts)}", file=sys.stderr)
    again = {key: facts[key] for key in ("time", "command", "git_commit", "git_dirty")}
    for name, had, has in (("CPU", before["cpu"], facts["cpu"]),
                           ("driver", *((each.get("gpu") or {}).get("driver") for each in (before, facts)))):
        if had != has:
            again[name.lower()] = has or "unknown"
            print(f"bench.py: warning: results so far are of {name} {had or 'unknown'}, those to come of "
                  f"{has or 'unknown'}", file=sys.stderr)
    return {**before, "precisions": {**before["precisions"], **facts["precisions"]},
            "resumed": [*before.get("resumed", ()), again]}


def _commit(facts):
    return f"{(facts['git_commit'] or 'unknown')[:12]}" + (" with changes" if facts["git_dirty"] else "")


def _peaks(runs):
    """Ceilings of the device, or None where they could not be measured: no result depends on them."""
    try:
        from numprec.harness.measure import peaks
        return runs.call(peaks.measure, seconds=PEAKS[runs.device.is_emulator])
    except Exception as error:
        print(f"bench.py: warning: no peaks were measured: {error}", file=sys.stderr)
        return None


def to_resume(request):
    """(folder, command line) of the run that --resume means: that in --out, or the latest unfinished one."""
    if request.fresh:
        raise Refused("--resume continues a run, and --fresh discards it: choose one")
    folder = request.out or _unfinished(request.root)
    if folder is None:
        raise Refused(f"there is no unfinished run under {request.root}")
    try:
        facts = store.environment_of(folder)
    except store.Unusable as error:
        raise Refused(error) from None
    except OSError as error:
        raise Refused(f"cannot read a run: {error}") from None
    if facts is None or "arguments" not in facts.get("options", {}):
        raise Refused(f"{folder} holds no run that can be resumed")
    return folder, facts["options"]["arguments"]


def _unfinished(root):
    """The latest folder below `root` with a run that has results missing, or None."""
    for folder in sorted(Path(root).glob("*/"), reverse=True):
        try:
            facts, rows = store.read(folder, warn=lambda problem: None)
        except OSError:
            continue
        if sum(map(store.final, rows)) < facts.get("results", 0):
            return folder
    return None
