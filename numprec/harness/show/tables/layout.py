"""How a table and a number are laid out, as text and as Markdown."""
import textwrap
from dataclasses import dataclass

import numpy as np
import tabulate

from numprec.harness.record.environment import NOT_COMPARABLE
from numprec.harness.record.wording import without_numbers

WIDTH = 118                 # of running text
NOTHING = "-"
tabulate.MIN_PADDING = 0    # a column is as wide as its heading, not two wider


@dataclass(frozen=True)
class Table:
    """Rows in blocks, a heading over each; a legend says how every number was made, notes what went wrong."""

    title: str
    columns: tuple
    align: str        # "l" or "r", one for each column
    blocks: list      # (heading, [row]); a heading may be empty
    legend: str
    notes: tuple = ()

    def _body(self, style, rows):
        alignment = [{"l": "left", "r": "right"}[a] for a in self.align]
        return tabulate.tabulate(rows, self.columns, tablefmt=style, disable_numparse=True,
                                 colalign=alignment).splitlines()

    def text(self):
        lines = iter(self._body("simple", [row for _, rows in self.blocks for row in rows]))
        out = [self.title, "", *("  " + next(lines) for _ in range(2))]
        for heading, rows in self.blocks:
            out += [heading] * bool(heading) + ["  " + next(lines).rstrip() for _ in rows]
        return "\n".join([*out, "", filled(self.legend), *(filled(note, "  ") for note in self.notes)])

    def markdown(self):
        rows = []
        for heading, found in self.blocks:
            rows += [[f"**{heading}**"] + [""] * (len(self.columns) - 1)] * bool(heading) + list(found)
        notes = [f"- {' '.join(note.split())}" for note in self.notes]
        return "\n".join([f"## {self.title}", "", *self._github(rows), "", " ".join(self.legend.split()), "", *notes])

    def section(self):
        """Markdown without headings and notes, for a page that has its own."""
        body = self._github([row for _, rows in self.blocks for row in rows])
        return "\n".join([*body, "", f"{self.title}. {' '.join(self.legend.split())}"])

    def _github(self, rows):
        return self._body("github", [[str(cell).replace("|", "\\|").replace("\n", "<br>") for cell in row]
                                     for row in rows])


def filled(text, indent=""):
    """A paragraph of running text."""
    return textwrap.fill(" ".join(text.split()), WIDTH, subsequent_indent=indent)


def title(name, environment):
    """A heading, which says so where the times are the emulator's."""
    return f"{name} ({NOT_COMPARABLE})" if environment["is_emulator"] else name


# ---- numbers

def number(x):
    """Three significant digits, never in exponent form between 0.001 and 999999."""
    if x is None:
        return NOTHING
    if x == 0 or not np.isfinite(x):
        return f"{x:g}"
    if not 1e-3 <= abs(x) < 1e6:
        return f"{x:.1e}"
    exponent = int(f"{x:.2e}".partition("e")[2])
    return f"{x:.{max(0, 2 - exponent)}f}"


def scientific(x):
    return NOTHING if x is None else "0" if x == 0 else f"{x:.1e}"


def plus_minus(interval, form="{:.4f}"):
    """A mean with half its interval; the mean alone where there is none."""
    if interval is None:
        return NOTHING
    value = form.format(interval.value)
    return f"{value} ± {form.format(interval.half_width)}" if np.isfinite(interval.half_width) else value


def between(low, high, scale=1.0):
    return f"{number(scale * low)} - {number(scale * high)}"


def whole(values):
    """The whole numbers of several fits: the one they share, or the least and the largest."""
    return NOTHING if not values else f"{min(values):.0f}" if min(values) == max(values) else \
        f"{min(values):.0f} - {max(values):.0f}"


def chance(p):
    """A p-value."""
    return NOTHING if p is None or not np.isfinite(p) else "<1e-4" if p < 1e-4 else f"{p:.4f}"


# ---- notes

def reasons(rows, name):
    """A line for each distinct failure, skip or warning; those that differ in their numbers alone share one."""
    lines = {}
    for row in rows:
        said = [(row["status"], row["reason"])] if row["status"] != "ok" else []
        for kind, text in said + [("warning", warning) for warning in row.get("warnings") or ()]:
            text = " ".join(text.split())
            lines.setdefault((kind, without_numbers(text)), []).append((name(row), text))
    notes = []
    for (kind, _), said in lines.items():
        names, texts = (list(dict.fromkeys(each)) for each in zip(*said))
        others = "" if len(texts) == 1 else f" (and {len(texts) - 1} times with other numbers)"
        notes.append(f"{kind} {_some(names)}: {texts[0]}{others}")
    return tuple(notes)


def _some(names, most=4):
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
