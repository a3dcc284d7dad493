"""A run as one page of HTML that needs nothing else: answer, verdicts, tables, figures, and how the numbers were made.

Nothing is fetched: the style is in the page, and the figures are data in it. It reads on a phone (wide tables scroll by
themselves), in print and in the dark; verdicts are words first and colours second.
"""
import base64
import html
import tempfile
from pathlib import Path

from numprec.harness.judge import statistics, verdicts
from numprec.harness.record import store
from numprec.harness.record.environment import header
from numprec.harness.show import roofline, summary
from numprec.harness.show.tables import layout, of_kernels, of_training

NAME = "report.html"
OF_KERNELS = ("speed_up", "roofline", "error_time", "error_length")    # figures; the others are of models
STYLE = """\
:root { color-scheme: light dark; --ink: #1a1a1a; --faint: #595959; --paper: #fff; --line: #d5d5d5; --wash: #f4f4f4;
        --link: #0b57a4; --good: #00664a; --bad: #a63a00; --open: #5d4a00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --faint: #b0b0b0; --paper: #161616; --line: #444; --wash: #222; --link: #8cc4ff;
          --good: #66d3ab; --bad: #ff9d66; --open: #f0d060; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
       font: 1rem/1.55 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 1rem 0 .5rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .75rem; padding-bottom: .25rem; border-bottom: 2px solid var(--line); }
h3 { font-size: 1.08rem; margin: 1.75rem 0 .5rem; }
p, li { max-width: 48rem; } a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; padding: 0; }
.answer { border-left: 4px solid var(--link); padding: .1rem 1rem; background: var(--wash); max-width: 50rem; }
.answer p:first-child { font-weight: 600; }
.mark { color: var(--bad); font-weight: 600; }
.scroll { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .6rem; text-align: left; vertical-align: top; white-space: nowrap;
         border-bottom: 1px solid var(--line); }
thead th { background: var(--wash); border-bottom: 2px solid var(--faint); }
tbody th[colspan] { padding-top: .8rem; } .r { text-align: right; }
.verdicts td, .verdicts th { padding: .28rem .4rem; } .verdicts th { white-space: normal; min-width: 6rem; }
.verdicts td span { display: block; white-space: normal; }
.equal, .better { color: var(--good); font-weight: 600; } .worse, .fails { color: var(--bad); font-weight: 600; }
.undecided { color: var(--open); font-weight: 600; }
.legend, figcaption { color: var(--faint); font-size: .88rem; max-width: 56rem; }
figure { margin: 1.5rem 0; } figure img { max-width: 100%; height: auto; background: #fff; }
@media screen and (max-width: 40rem) { figure img { max-width: none; width: 40rem; } }
pre { overflow-x: auto; background: var(--wash); padding: .75rem 1rem; font-size: .82rem; line-height: 1.45; }
summary { cursor: pointer; font-weight: 600; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; } .scroll { overflow: visible; }
  table { font-size: 6.5pt; } th, td { padding: .1rem .25rem; white-space: normal; }
  tr, figure { break-inside: avoid; } h2, h3 { break-after: avoid; } }
"""


def write(folder):
    """Writes report.html into the folder of a run; returns its path. OSError where there is no run."""
    environment, rows = store.read(folder)
    path = Path(folder) / NAME
    store.replace(path, page(rows, environment).encode())
    return path


def page(rows, environment):
    """The whole page."""
    pictures = _pictures(rows, environment)
    kernels = of_kernels.table(rows, environment)
    parts = [
        ("Answer", _answer(rows, environment)),
        ("Recommendations", _list(verdicts.recommend(rows, environment))),
        ("Verdicts", _table(summary.safe(rows, environment), "verdicts")
         + _folded("The verdicts as sentences", _list(v.sentence for v in verdicts.judge(rows)))),
        ("Models in figures", "".join(figure for name, figure in pictures if name not in OF_KERNELS)),
        ("Models in tables", "".join(map(_table, of_training.tables(rows, environment)))),
        ("Kernels in figures", "".join(figure for name, figure in pictures if name in OF_KERNELS)),
        ("Kernels in a table", _table(kernels)),
        ("What failed, was skipped or warned", _list(layout.reasons(rows, _name)) or "<p>Nothing.</p>"),
        ("Measured on", f"<pre>{_text(header(environment))}</pre>"),
        ("How the numbers are made", _method(rows, environment)),
    ]
    parts = [(heading, body) for heading, body in parts if body]
    contents = "".join(f'<li><a href="#{_anchor(heading)}">{_text(heading)}</a></li>' for heading, _ in parts)
    mark = f'<p class="mark">Times: {_text(environment["times"])}.</p>' if environment["is_emulator"] else ""
    sections = "".join(_section(heading, body) for heading, body in parts)
    name = f"numprec: precisions compared on {environment['device']}"
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{_text(name)}</title>\n'
            f"<style>\n{STYLE}</style>\n</head>\n<body>\n<header><h1>{_text(name)}</h1>\n"
            f"<p>{_text(environment['time'])}, scale {_text(environment['scale'])}, {len(rows)} results</p>{mark}\n"
            f'<nav aria-label="Contents"><ul>{contents}</ul></nav></header>\n<main>\n{sections}</main>\n</body>\n'
            "</html>\n")


# ---- parts

def _section(heading, body):
    anchor = _anchor(heading)
    return f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{_text(heading)}</h2>{body}</section>\n'


def _answer(rows, environment):
    paragraphs = verdicts.answer(rows, environment).splitlines()
    return f'<div class="answer">{"".join(f"<p>{_text(p)}</p>" for p in paragraphs)}</div>' if paragraphs else ""


def _table(table, name=""):
    """A layout.Table with its legend and notes; "" for None."""
    if table is None:
        return ""
    align = [' class="r"' if a == "r" else "" for a in table.align]
    head = "".join(f'<th scope="col"{a}>{_text(column)}</th>' for column, a in zip(table.columns, align))
    bodies = []
    for heading, rows in table.blocks:
        above = f'<tr><th colspan="{len(table.columns)}" scope="rowgroup">{_text(heading)}</th></tr>' if heading else ""
        lines = "".join("<tr>" + "".join(_cell(cell, a, i) for i, (cell, a) in enumerate(zip(row, align))) + "</tr>\n"
                        for row in rows)
        bodies.append(f"<tbody>{above}{lines}</tbody>\n")
    notes = _list(" ".join(note.split()) for note in table.notes)
    title = _text(table.title)
    above = "" if name else f"<h3>{title}</h3>\n"
    return (f'{above}<div class="scroll" role="region" tabindex="0" aria-label="{title}">'
            f'<table class="{name or "wide"}"><thead><tr>{head}</tr></thead>\n{"".join(bodies)}</table></div>\n'
            f'<p class="legend">{_text(" ".join(table.legend.split()))}</p>{notes}\n')


def _cell(cell, align, column):
    lines = [_text(line) for line in str(cell).split("\n")]
    for i, line in enumerate(lines):
        word = line.split(",")[0].split(" ")[0]
        if word in verdicts.VERDICTS:
            lines[i] = f'<span class="{word}">{line}</span>'
    tag = 'th scope="row"' if column == 0 else "td"
    return f"<{tag}{align}>{'<br>'.join(lines)}</{tag.split()[0]}>"


def _pictures(rows, environment):
    """[(name, <figure>)], each page of a figure by itself."""
    from numprec.harness.show import figures
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (_, caption) in figures.FIGURES.items():
            drawn = [path for path in figures.draw_one(name, rows, environment, folder) if path.suffix == ".svg"]
            for i, path in enumerate(drawn, 1):
                said = f"{caption} (Part {i} of {len(drawn)}.)" if len(drawn) > 1 else caption
                data = "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
                alt = _text(f"Figure {path.stem}. {said} The tables of this page hold the numbers.")
                found.append((name, f'<figure><div class="scroll"><img alt="{alt}" src="{data}"></div>'
                                    f"<figcaption>{_text(said)}</figcaption></figure>\n"))
    return found


def _method(rows, environment):
    """The rules, as the code that follows them states them, and how to repeat the run."""
    docs = "".join(f"<h3>{_text(heading)}</h3>{_prose(module.__doc__)}" for heading, module in (
        ("Samples and intervals", statistics), ("Verdicts", verdicts), ("What a kernel is bound by", roofline)))
    return (f"<p>Every number is made from the raw samples in {store.RESULTS} beside this page: {len(rows)} rows, one "
            f"per cell and precision, each with the command that repeats it; {store.ENVIRONMENT} says what they were "
            f"measured on. The whole run:</p><pre>{_text(environment['command'])}</pre>"
            "<p>No time stands here whose result was not verified in the same run: kernels against their fp64 oracle, "
            f"fits by the way they ended.</p>{docs}")


def _prose(doc):
    """Paragraphs of a docstring; what is indented stays as it is."""
    parts = []
    for block in (doc or "").strip().split("\n\n"):
        listed = any(line.startswith("    ") for line in block.splitlines())
        parts.append(f"<pre>{_text(block)}</pre>" if listed else f"<p>{_text(' '.join(block.split()))}</p>")
    return "".join(parts)


def _list(sentences):
    items = "".join(f"<li>{_text(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""


def _folded(label, body):
    return f"<details><summary>{_text(label)}</summary>{body}</details>" if body else ""


def _name(row):
    name = f"{row['operation']}/{row['rung']}" if row["kind"] == "kernel" else row["model"] or row["cell"]
    return f"{row.get('library', '')} {name} {row['precision']}".strip()


def _anchor(heading):
    return "".join(c if c.isalnum() else "-" for c in heading.lower())


def _text(value):
    return html.escape(str(value))
