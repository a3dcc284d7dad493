"""The contents of the book, from its chapters' docstrings and operations: the only source of every list of them.

`python -m numprec.kernels` prints them. `update` writes them where they also stand: the table of ladders on the title
page of each part, which is the docstring of its package, and README's reading order. `stale` says what is out of date.

A docstring begins with its title. What follows is labelled, in columns: a word, blanks, and text that goes on below,
indented as deep.
"""
import ast
import re
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from numprec import kernels

COMMAND = "python -m numprec.kernels --write"
INDENT = 11                     # of what a label labels
WIDTH = 120
README = "README.md"
_LABEL = re.compile(r"^([A-Z][a-z]+)(?: {2,}(.*))?$")
_LADDERS = re.compile(rf"^Ladders\b.*\n(?: {{{INDENT}}}.*\n)*", re.MULTILINE)
_ORDER = re.compile(r"(<!-- contents:reading-order -->\n).*?(<!-- /contents:reading-order -->)", re.DOTALL)
AROUND = ("precision.py", "language/", "models/", "device.py", "cubins.py", "emulator/", "datasets/", "harness/")
"""What README names after the book, of the package."""


class Exercise(NamedTuple):
    """Under the label Try: a command, what to ask oneself before running it, and the answer, which a test demands of
    its output: RUNG, COLUMN: NUMBER, or a text in quotes that it holds; an explanation may follow. A question that
    begins with "Exercise:" is for pencil and paper; its answer is not in the output."""

    command: str
    question: str
    answer: str = ""

    @property
    def by_hand(self):
        return self.question.startswith("Exercise:")


class Page(NamedTuple):
    """A docstring: its title, which is one sentence, and {label: text}, without the indentation."""

    title: str
    labels: dict

    def sentence(self, label):
        """The first sentence under a label, on one line; "" where there is no such label."""
        text = " ".join(self.labels.get(label, "").split())
        return re.split(r"(?<=\.)(?: \[[^\]]*\])?\s+(?=[A-Z])", text)[0]

    def exercises(self):
        """The Exercises under the label Try."""
        found = re.split(r"^(?=python -m numprec)", self.labels.get("Try", ""), flags=re.MULTILINE)
        return [Exercise(command, *re.split(r"\s*Answer: ", " ".join(rest.split()), maxsplit=1))
                for command, _, rest in (each.partition("\n") for each in found if each)]


def page(text):
    """The Page of a docstring."""
    title, _, body = text.partition("\n\n")
    labels, lines = {}, None
    for line in body.splitlines():
        if found := _LABEL.match(line):
            lines = labels.setdefault(found[1], [])
            lines.append(" " * INDENT + (found[2] or ""))
        elif line and not line.startswith(" " * INDENT):
            lines = None                            # a picture, or a paragraph of its own
        elif lines is not None:
            lines.append(line)
    return Page(" ".join(title.split()), {name: textwrap.dedent("\n".join(text)).strip("\n")
                                          for name, text in labels.items()})


def page_of(module):
    """The Page of a module, by its dotted name, whose file is read but not run."""
    return page(docstring(file_of(module)))


def file_of(module):
    """The file of a module or package, which is not run."""
    return Path(find_spec(module).origin)


def docstring(path):
    """Of the module in a file."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def imported(chapter):
    """The chapters that a chapter imports, in reading order; its file is read but not run."""
    tree = ast.parse(file_of(kernels.chapters()[chapter]).read_text(encoding="utf-8"))
    names = {each for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
             for each in (node.module, f"{node.module}.{alias.name}")}
    return [name for name, module in kernels.chapters().items() if module in names]


def part_module(part):
    return f"numprec.kernels.{part}"


def ladders(chapter):
    """[(operation, its rungs in words)] of a chapter, in reading order."""
    return [(o.name, f"the ladder of {o.ladder}" if o.ladder not in (None, o.name)
             else ", ".join(rung.name for rung in o.rungs))
            for o in kernels.operations().values() if o.chapter == chapter]


def text():
    """The contents, part by part and chapter by chapter."""
    parts = []
    for part, names in kernels.PARTS.items():
        lines = [f"{part}: {page_of(part_module(part)).title}"]
        for name in names:
            found = page_of(kernels.chapters()[name])
            lines += ["", *_entry(f"  {name}", found.title)]
            for head, what in (("GPU idea", found.sentence("Idea")), ("precision idea", found.sentence("Precision")),
                               ("rungs", "; ".join(f"{name}: {rungs}" for name, rungs in ladders(name)))):
                lines += _entry(f"    {head}", what) if what else []
        parts.append("\n".join(lines))
    return "\n\n\n".join(parts)


def _entry(head, text):
    width = 20
    return textwrap.wrap(text, WIDTH, initial_indent=head.ljust(width), subsequent_indent=" " * width)


# ---- what is generated

def table_of_ladders(part):
    """The lines below the label Ladders on a part's title page."""
    rows, columns = [], (0, 0)
    for chapter in kernels.PARTS[part]:
        for operation, rungs in ladders(chapter):
            rows.append((chapter if not rows or chapter not in {row[0] for row in rows} else "", operation, rungs))
    columns = [max(map(len, column)) for column in list(zip(*rows))[:2]] if rows else columns
    lines = [f"{chapter.ljust(columns[0])}  {operation.ljust(columns[1])}  " for chapter, operation, _ in rows]
    wrapped = [textwrap.fill(rungs, WIDTH - INDENT, initial_indent=line, subsequent_indent=" " * len(line))
               for line, (*_, rungs) in zip(lines, rows)]
    head = f"Ladders    each from its slowest rung to its fastest, as `{COMMAND}` writes them\n"
    return head + textwrap.indent("\n".join(wrapped) + "\n", " " * INDENT)


def reading_order():
    """README's section: the parts of the book, then what is around them."""
    rows = [(f"`numprec/kernels/{part}/`", page_of(part_module(part)).title,
             ", ".join(f"[{name}]({_path(kernels.chapters()[name])})" for name in names))
            for part, names in kernels.PARTS.items()]
    around = [(f"`numprec/{name}`", page_of("numprec." + name.removesuffix("/").removesuffix(".py")).title)
              for name in AROUND]
    around.append(("`tests/`", "Every kernel in every precision against NumPy in float64."))
    return "\n".join(("| part | what | chapters |\n|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows),
                      "\n| around it | what |\n|---|---|", *(f"| {' | '.join(row)} |" for row in around), ""))


def _path(module):
    return module.replace(".", "/") + ".py"


def _fresh(root):
    """{file: its text as it has to be} of what holds something generated. A part whose page has no label Ladders
    shows no table."""
    root, found = Path(root), {}
    for part in kernels.PARTS:
        path = root / _path(f"{part_module(part)}.__init__")
        before = path.read_text(encoding="utf-8")
        found[path] = _LADDERS.sub(lambda _: table_of_ladders(part), before, count=1)
    path = root / README
    before = path.read_text(encoding="utf-8")
    if not _ORDER.search(before):
        raise ValueError(f"{README} has no place for the reading order")
    found[path] = _ORDER.sub(lambda ends: ends[1] + reading_order() + ends[2], before)
    return found


def stale(root):
    """The files below `root` that say something else than the book does."""
    return [path for path, text in _fresh(root).items() if path.read_text(encoding="utf-8") != text]


def update(root):
    """Writes them; returns their paths."""
    fresh, written = _fresh(root), stale(root)
    for path in written:
        path.write_text(fresh[path], encoding="utf-8", newline="\n")
    return written
