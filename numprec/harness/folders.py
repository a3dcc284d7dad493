"""The folder of a run: a new one, or one that is gone on with; and what its env.json says."""
import re
import sys
from pathlib import Path

from numprec.harness import environment, store
from numprec.harness.exits import Refused

PEAKS = {True: 0.5, False: 2.0}    # seconds to measure them in; the emulator's are a CPU's, and judge nothing


def opened(folder, options, scale, device):
    """The store, at the end of the run that is there if it is one of the same kind."""
    try:
        before = None if options.fresh else store.environment_of(folder)
        if before is not None:
            _same(folder, before, options, scale, device)
        used = (Path(folder) / store.RESULTS).exists()
        results = store.Store(folder, resume=before is not None)
        if used and before is None:
            _discard_what_was_made(results)
        return results
    except store.Unusable as error:
        raise Refused(error) from None
    except OSError as error:
        raise Refused(f"cannot write results: {error}") from None


def _discard_what_was_made(results):
    """Removes the tables and figures of the run before, of which the next one may have fewer."""
    from numprec.harness import figures
    names = re.compile(rf"(tables\.md|(kernels|training)\.csv|({'|'.join(figures.FIGURES)})(_\d+)?\.(png|svg))")
    try:
        for path in results.folder.iterdir():
            if names.fullmatch(path.name):
                path.unlink()
    except BaseException:
        results.__exit__()
        raise


def done(options):
    """Pairs of cell key and precision that the run in --out has finished."""
    try:
        rows = [] if options.fresh or not options.out else store.finished(options.out)
    except (OSError, ValueError):
        rows = []
    return {(row["cell"], row["precision"]) for row in rows}


def _same(folder, before, options, scale, device):
    had = {"schema": before.get("schema_version"), "device": before.get("device"), "scale": before.get("scale"),
           "grow": (before.get("options") or {}).get("grow")}
    has = {"schema": store.SCHEMA_VERSION, "device": device.name, "scale": scale.name, "grow": list(options.grow)}
    for what in has:
        if had[what] != has[what]:
            raise Refused(f"{folder} holds a run with {what} {had[what]}, and this one has {what} {has[what]}: name "
                          "another folder with --out, or discard that run with --fresh")


def environment_for(results, runs, precisions, scale, command, options):
    """What env.json is going to hold. A resumed run keeps what the first one found out about the device."""
    facts = runs.call(environment.collect, precisions=precisions, scale=scale.name, command=command)
    before = store.environment_of(results.folder) if results.rows else None
    if before is None:
        facts["peaks"] = _peaks(runs)
        facts["options"] = {"scale": scale.name, "grow": list(options.grow), "seeds": options.seeds,
                            "precision": options.precision, "model": options.model, "operation": options.operation,
                            "compare": options.compare, "budget": options.budget, "arguments": options.arguments}
        return facts
    if (before["git_commit"], before["git_dirty"]) != (facts["git_commit"], facts["git_dirty"]):
        print(f"bench.py: warning: the results so far are of commit {_commit(before)}, those to come of "
              f"{_commit(facts)}", file=sys.stderr)
    again = {key: facts[key] for key in ("time", "command", "git_commit", "git_dirty")}
    for name, had, has in (("CPU", before["cpu"], facts["cpu"]),
                           ("driver", *((each.get("gpu") or {}).get("driver") for each in (before, facts)))):
        if had != has:
            again[name.lower()] = has or "unknown"
            print(f"bench.py: warning: the results so far are of {name} {had or 'unknown'}, those to come of "
                  f"{has or 'unknown'}", file=sys.stderr)
    return {**before, "precisions": {**before["precisions"], **facts["precisions"]},
            "resumed": [*before.get("resumed", ()), again]}


def _commit(facts):
    return f"{(facts['git_commit'] or 'unknown')[:12]}" + (" with changes" if facts["git_dirty"] else "")


def _peaks(runs):
    """Ceilings of the device, or None where they could not be measured: no result depends on them."""
    try:
        from numprec.harness import peaks
        return runs.call(peaks.measure, seconds=PEAKS[runs.device.is_emulator])
    except Exception as error:
        print(f"bench.py: warning: no peaks were measured: {error}", file=sys.stderr)
        return None


def to_resume(options, root):
    """(folder, command line) of the run that --resume means: that in --out, or the latest unfinished one."""
    if options.fresh:
        raise Refused("--resume goes on with a run, and --fresh discards it: choose one")
    folder = Path(options.out) if options.out else _unfinished(root)
    if folder is None:
        raise Refused(f"there is no unfinished run under {root}")
    try:
        facts = store.environment_of(folder)
    except store.Unusable as error:
        raise Refused(error) from None
    if facts is None or "arguments" not in (facts.get("options") or ()):
        raise Refused(f"{folder} holds no run that could be resumed")
    return folder, facts["options"]["arguments"]


def _unfinished(root):
    """The latest folder below `root` with a run that has results missing, or None."""
    for folder in sorted(Path(root).glob("*/"), reverse=True):
        try:
            facts, rows = store.read(folder)
        except (OSError, ValueError):
            continue
        if len(rows) < facts.get("results", 0):
            return folder
    return None
