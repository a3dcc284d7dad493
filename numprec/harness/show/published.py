"""The result tables and figures of README.md, made from the runs that are kept in data/results/.

A run is kept as it was written, in a folder of its own: env.json, and results.jsonl, which may be gzipped. README.md
says where its results go:

    <!-- results:verdicts -->            of the run measured last
    <!-- results:figure-scores RUN -->   of the run in data/results/RUN
    <!-- /results:figure-scores -->      the end; what stands between is replaced

`update` fills all of them in; `stale` names those that say something else than the runs do. A figure is compared by a
digest of what it was drawn from, in figures/inputs.json, and not by its pixels, which vary with matplotlib's version.
data/results/proofs.jsonl is of `numprec.harness.proofs.trainings`, and its section results:proofs.
"""
import hashlib
import json
import re
from pathlib import Path

from tabulate import tabulate

from numprec.harness.judge import verdicts
from numprec.harness.record import store
from numprec.harness.show import summary
from numprec.precision import unknown

README, RESULTS, FIGURES, INPUTS = "README.md", Path("data/results"), Path("data/results/figures"), "inputs.json"
MARKER = re.compile(r"<!-- results:(?P<name>\S+)(?: (?P<run>\S+))? -->\n(?P<body>.*?)<!-- /results:(?P<end>\S+) -->",
                    re.DOTALL)
OPENING = re.compile(r"<!-- results:(\S+)")
FIGURE = "figure-"


def update(root):
    """Brings README.md and its figures up to date; returns the paths that were written. ValueError where a marker
    asks for what there is not."""
    root, written = Path(root), []
    readme = (root / README).read_text(encoding="utf-8")
    fresh, figures = _filled(root, readme)
    known = _inputs(root)
    for path, (run, name, digest) in figures.items():
        if known.get(path) != digest or not (root / path).exists():
            _draw(root / path, name, run)
            written.append(root / path)
    if {path: digest for path, (_, _, digest) in figures.items()} != known:
        written.append(root / FIGURES / INPUTS)
        written[-1].parent.mkdir(parents=True, exist_ok=True)
        written[-1].write_text(json.dumps({path: figures[path][2] for path in sorted(figures)}, indent=2) + "\n",
                               encoding="utf-8")
    if fresh != readme:
        (root / README).write_text(fresh, encoding="utf-8", newline="\n")
        written.append(root / README)
    return written


def stale(root):
    """What `update` would change, a sentence each; [] where all is up to date."""
    root = Path(root)
    readme = (root / README).read_text(encoding="utf-8")
    fresh, figures = _filled(root, readme)
    known = _inputs(root)
    sentences = [f"{README}: the section {old['name']} does not say what {RESULTS.as_posix()} does"
                 for old, new in zip(MARKER.finditer(readme), MARKER.finditer(fresh)) if old["body"] != new["body"]]
    for path, (_, _, digest) in figures.items():
        if not (root / path).exists():
            sentences.append(f"{path} is missing")
        elif known.get(path) != digest:
            sentences.append(f"{path} was drawn from other results")
    return sentences + [f"{path} is no longer shown" for path in known if path not in figures]


# ---- runs

def runs(root):
    """{name of the folder: (environment, rows)} of the runs that are kept, in the order of their times."""
    found = {}
    for path in sorted((Path(root) / RESULTS).glob(f"*/{store.ENVIRONMENT}")):
        found[path.parent.name] = store.read(path.parent)
    return dict(sorted(found.items(), key=lambda item: (item[1][0]["time"], item[0])))


def digest(environment, rows):
    """Of the values, not of the bytes of a file, whose line ends may have been changed."""
    text = json.dumps(store.plain([environment, rows]), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _inputs(root):
    path = root / FIGURES / INPUTS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


# ---- sections

def _filled(root, readme):
    """(README.md with every section filled in, {path of a figure: (run, its name, digest)})."""
    every, figures, digests = runs(root), {}, {}
    matches = list(MARKER.finditer(readme))
    broken = [m["name"] for m in matches if m["name"] != m["end"]] or [
        name for name in OPENING.findall(readme) if name not in {m["name"] for m in matches}]
    if broken:
        raise ValueError(f"{README}: <!-- results:{broken[0]} --> has no <!-- /results:{broken[0]} --> of its own")

    def fill(match):
        name, wanted = match["name"], match["run"]
        if name == "proofs":
            body = _proofs(root)
        else:
            if wanted is not None and wanted not in every:
                raise unknown("run", wanted, list(every))
            if not every:
                raise ValueError(f"{README} shows {name}, but {RESULTS.as_posix()} holds no run")
            folder = wanted or list(every)[-1]
            if folder not in digests:
                digests[folder] = digest(*every[folder])
            if name.startswith(FIGURE):
                path = (FIGURES / f"{folder}-{_figure(name)}.png").as_posix()
                figures[path] = every[folder], _figure(name), digests[folder]
                body = _picture(path, _figure(name), every[folder][0])
            else:
                body = _section(name)(folder, *every[folder])
        run = f" {wanted}" if wanted else ""
        return f"<!-- results:{name}{run} -->\n{body}\n<!-- /results:{name} -->"
    return MARKER.sub(fill, readme), figures


def _answer(folder, environment, rows):
    return "\n\n".join(verdicts.answer(rows, environment).splitlines())


def _recommendations(folder, environment, rows):
    return "\n".join(f"- {line}" for line in verdicts.recommend(rows, environment))


def _verdicts(folder, environment, rows):
    return _table(summary.safe(rows, environment))


def _cost(folder, environment, rows):
    return _table(summary.cost(rows, environment))


def _kernels(folder, environment, rows):
    table = summary.fast(rows, environment)
    count = len(table.blocks[0][1]) if table else 0
    return f"<details>\n<summary>{count} operations</summary>\n\n{_table(table)}\n\n</details>"


def _measured(folder, environment, rows):
    e = environment
    commit = f", commit {e['git_commit'][:12]}{' with changes' if e['git_dirty'] else ''}" if e["git_commit"] else ""
    mark = f" Times: {e['times']}." if e["is_emulator"] else ""
    command = re.sub(r" --out[ =]\S+", "", e["command"])    # a folder of the machine that it ran on
    return (f"Measured on {e['device']} ({e['cpu']}, {e['cores']} cores), {e['time'][:10]}{commit}: `{command}`, "
            f"{len(rows)} results, kept in [{RESULTS.as_posix()}/{folder}]({RESULTS.as_posix()}/{folder}).{mark}")


SECTIONS = {"answer": _answer, "recommendations": _recommendations, "verdicts": _verdicts, "cost": _cost,
            "kernels": _kernels, "measured": _measured}


def _section(name):
    if name not in SECTIONS:
        raise unknown("section of results", name, [*SECTIONS, "proofs", FIGURE + "scores"])
    return SECTIONS[name]


def _table(table):
    """A layout.Table without its heading, the legend below it."""
    return "Not measured." if table is None else table.section()


def _proofs(root):
    """A line for each training of a proof; files of other JSON lines are named."""
    lines, others = [], []
    for path in sorted((root / RESULTS).glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        proofs = [row for row in rows if isinstance(row, dict) and "proof" in row]
        lines += [(row["proof"], row["model"], row["data"], row["precision"], row["seed"], len(row["history"]),
                   f"{row['accuracy']:.4f} [{row['interval'][0]:.4f}, {row['interval'][1]:.4f}]",
                   f"{row['seconds']:.0f}", row["device"], "; ".join(row["missed"]) or "reached") for row in proofs]
        if len(proofs) < len(rows):
            others.append(f"`{path.name}` ({len(rows)} lines)")
    columns = ("proof", "model", "data", "precision", "seed", "epochs", "held-out accuracy [95 %]", "s", "device",
               "figures")
    parts = [tabulate(lines, columns, tablefmt="github", disable_numparse=True)] if lines else []
    parts += [f"Also in {RESULTS.as_posix()}: {', '.join(others)}."] if others else []
    return "\n\n".join(parts) or "None yet."


# ---- figures

def _figure(name):
    from numprec.harness.show.figures import FIGURES as every
    figure = name.removeprefix(FIGURE)
    if figure not in every:
        raise unknown("figure", figure, list(every))
    return figure


def _picture(path, name, environment):
    from numprec.harness.show.figures import FIGURES as every
    where = "under CPU emulation" if environment["is_emulator"] else f"on {environment['device']}"
    return f"![{name.replace('_', ' ')}, measured {where}]({path})\n\n{every[name][1]}"


def _draw(path, name, run):
    import tempfile

    from numprec.harness.show.figures import draw_one
    environment, rows = run
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw_one(name, rows, environment, folder)
        if not drawn:
            raise ValueError(f"the run has nothing to draw in {path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(drawn[0].read_bytes())
