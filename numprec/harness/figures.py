"""The rows of a run as pictures: error against time for every ladder, held-out score for every precision.

The only file that imports matplotlib; it draws to files and opens no window. Colours are those of M. Okabe and
K. Ito, Color Universal Design, 2008, which readers with any colour vision can tell apart; shapes say the same again.
"""
import math

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from numprec.harness import statistics, tables
from numprec.precision import PRECISIONS

matplotlib.use("Agg")

COLOURS = ("#000000", "#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442")
MARKERS = "osD^vP*X"
STYLE = {
    "font.size": 11, "axes.titlesize": 11, "axes.labelsize": 11, "legend.fontsize": 10, "figure.titlesize": 13,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#DDDDDD",
    "grid.linewidth": 0.7, "axes.axisbelow": True, "savefig.dpi": 150, "figure.facecolor": "white",
}
WIDTH = 11    # inches; readable at the width of a README


def draw(rows, environment, folder):
    """Writes every figure that the rows allow into `folder`; returns the paths."""
    with plt.rc_context(STYLE):
        figures = {"error_time": error_time(rows, environment), "scores": scores(rows, environment)}
        paths = []
        for name, figure in figures.items():
            if figure is not None:
                paths.append(folder / f"{name}.png")
                figure.savefig(paths[-1])
                plt.close(figure)
    return paths


def colour(precision):
    names = list(PRECISIONS)
    return COLOURS[names.index(precision) % len(COLOURS)] if precision in names else "#777777"


# ---- error against time

def error_time(rows, environment):
    """A panel per operation; a line per precision, from the first rung of the ladder to the last."""
    rows = [row for row in rows if row["kind"] == "kernel" and row["samples_s"]]
    inexact = {row["operation"] for row in rows if row["error"]}
    exact = [name for name in dict.fromkeys(row["operation"] for row in rows) if name not in inexact]
    rows = [row for row in rows if row["operation"] in inexact]
    if not rows:
        return None
    operations = list(dict.fromkeys(row["operation"] for row in rows))
    columns = min(len(operations), 3)
    lines = math.ceil(len(operations) / columns)
    figure, axes = plt.subplots(lines, columns, figsize=(max(6.5, WIDTH / 3 * columns), 2.9 * lines + 1.4),
                                squeeze=False, layout="constrained")
    errors = [row["error"] for row in rows if row["error"]]
    bottom = 10.0 ** (math.floor(math.log10(min(errors))) - 1)
    top = 10.0 ** math.ceil(math.log10(min(max(errors), 1e6)) + 0.5)
    for ax, operation in zip(axes.flat, operations):
        _ladder_panel(ax, operation, [row for row in rows if row["operation"] == operation], bottom, top)
    for i, ax in enumerate(axes.flat):
        if i >= len(operations):
            ax.set_axis_off()
        if i % columns == 0:
            ax.set_ylabel("relative error")
        if i + columns >= len(operations):
            ax.set_xlabel("median time, ms")
    also = f"\nexact in every precision, not drawn: {', '.join(exact)}" if exact else ""
    figure.suptitle(tables.title("Error against time", environment) + also)
    longest = max(len({row["rung"] for row in rows if row["operation"] == name}) for name in operations)
    precisions = [name for name in PRECISIONS if any(row["precision"] == name for row in rows)]
    handles = [Line2D([], [], color=colour(name), marker="o", markersize=6, label=name) for name in precisions]
    handles += [Line2D([], [], color="#777777", linestyle="", marker=MARKERS[i % len(MARKERS)], markersize=6,
                       label=f"rung {i + 1}") for i in range(longest)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3 * columns), frameon=False)
    return figure


def _ladder_panel(ax, operation, rows, bottom, top):
    rungs = list(dict.fromkeys(row["rung"] for row in rows))
    for precision in dict.fromkeys(row["precision"] for row in rows):
        points = [(1e3 * np.array(statistics.quartiles(row["samples_s"])), max(row["error"], bottom),
                   MARKERS[rungs.index(row["rung"]) % len(MARKERS)]) for row in rows if row["precision"] == precision]
        ax.plot([time[1] for time, _, _ in points], [error for _, error, _ in points],
                color=colour(precision), linewidth=1, alpha=0.6)
        for (low, median, high), error, marker in points:
            ax.errorbar(median, error, xerr=[[median - low], [high - median]], color=colour(precision),
                        marker=marker, markersize=6, markeredgecolor="white", markeredgewidth=0.6, elinewidth=1)
    shape = "x".join(map(str, rows[0]["shape"]))
    ladder = ", ".join(f"{i} {name}" for i, name in enumerate(rungs, 1))
    ax.set_title(f"{operation} {shape}", loc="left", fontweight="bold", pad=20)
    ax.text(0, 1.02, ladder, transform=ax.transAxes, fontsize=8.5, color="#444444", va="bottom")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(bottom / 2, top)
    ax.yaxis.set_major_locator(LogLocator(numticks=7))
    ax.yaxis.set_major_formatter(FuncFormatter(
        lambda y, _: "exact" if y <= bottom * 1.01 else f"$10^{{{round(math.log10(y))}}}$"))
    ax.yaxis.set_minor_locator(NullLocator())
    _readable_times(ax)


def _readable_times(ax):
    """Ticks at 1, 2, 5 times a power of ten in plain numbers, for an axis that may span less than a decade."""
    low, high = ax.get_xlim()
    if high / low < 4:
        middle = math.sqrt(low * high)
        low, high = middle / 2, middle * 2
        ax.set_xlim(low, high)
    steps = (1,) if high / low > 100 else (1, 2, 5)
    ticks = [s * 10.0 ** e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for s in steps]
    ticks = [t for t in ticks if low <= t <= high]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_minor_locator(NullLocator())


# ---- held-out score

def scores(rows, environment):
    """A row of panels per model: the score of every seed (a tick) with its mean, and the paired difference to fp64."""
    groups = {key: {name: found for name, found in precisions.items()
                    if any(_has_score(row) for row in found)}
              for key, precisions in tables.by_model(rows).items()}
    groups = {key: precisions for key, precisions in groups.items() if precisions}
    if not groups:
        return None
    tallest = max(map(len, groups.values()))
    figure, axes = plt.subplots(len(groups), 2, figsize=(WIDTH, len(groups) * (1.0 + 0.5 * tallest) + 0.7),
                                squeeze=False, layout="constrained", width_ratios=(1.15, 1))
    for (left, right), ((model, data, metric), precisions) in zip(axes, groups.items()):
        names = [name for name in PRECISIONS if name in precisions]
        summaries = {name: tables.summarize(precisions[name], precisions.get(tables.BASELINE)) for name in names}
        stand_in = next((f", in place of {row['stand_in']}" for row in precisions[names[0]] if row["stand_in"]), "")
        seeds = len(precisions[names[0]])
        _score_panel(left, names, precisions, summaries)
        left.set_title(f"{model} on {data}{stand_in}", loc="left", fontweight="bold")
        left.set_xlabel(f"{metric} on held-out data: {seeds} seeds, and mean with 95 % interval")
        _difference_panel(right, names, precisions, summaries)
        right.set_xlabel(f"{metric} minus that of {tables.BASELINE} on the same seed")
    note = "trained under CPU emulation" if environment["is_emulator"] else f"trained on {environment['device']}"
    figure.suptitle(f"Held-out score by precision ({note})")
    return figure


def _has_score(row):
    return row["status"] == "ok" and row["score"] is not None and np.isfinite(row["score"])


def _score_panel(ax, names, precisions, summaries):
    for y, name in enumerate(names):
        values = [row["score"] for row in precisions[name] if _has_score(row)]
        ax.plot(values, np.full(len(values), y + 0.28), "|", color=colour(name), markersize=8)
        _interval(ax, summaries[name]["score"], y, name)
    _name_rows(ax, names)


def _difference_panel(ax, names, precisions, summaries):
    """Differences run over many powers of ten: a logarithmic axis on either side of a linear middle."""
    reference = {row["seed"]: row["score"] for row in precisions.get(tables.BASELINE, ()) if _has_score(row)}
    largest, smallest = 0.0, math.inf
    for y, name in enumerate(names):
        values = [row["score"] - reference[row["seed"]] for row in precisions[name]
                  if _has_score(row) and row["seed"] in reference]
        if name == tables.BASELINE or not values:
            continue
        ax.plot(values, np.full(len(values), y + 0.28), "|", color=colour(name), markersize=8)
        interval = summaries[name]["difference"]
        _interval(ax, interval, y, name)
        bounds = np.abs([*values, *(b for b in (interval.low, interval.high) if np.isfinite(b))])
        largest = max(largest, bounds.max())
        smallest = min(smallest, np.median(np.abs(values)) or math.inf)
    ax.axvline(0, color="#444444", linewidth=1)
    if largest:
        threshold = 10.0 ** math.floor(math.log10(min(smallest, largest)))
        ax.set_xscale("symlog", linthresh=threshold, linscale=1.0)
        limit = 10.0 ** math.ceil(math.log10(largest))
        ax.set_xlim(-1.5 * limit, 1.5 * limit)
        decades = range(round(math.log10(limit)), round(math.log10(threshold)) - 1, -1)
        powers = sorted(10.0 ** e for e in decades[::max(1, math.ceil(len(decades) / 4))])
        powers = powers[len(powers) > 3:]                  # room for the 0
        ticks = [-t for t in reversed(powers)] + [0.0] + powers
        ax.set_xticks(ticks, ["0" if t == 0 else f"${'-' if t < 0 else ''}10^{{{round(math.log10(abs(t)))}}}$"
                              for t in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
    else:
        ax.text(0.5, 0.5, "no differences to show", transform=ax.transAxes, ha="center", color="#444444")
        ax.set_xticks([])
    _name_rows(ax, names, labels=False)


def _interval(ax, interval, y, name):
    if interval is None or not np.isfinite(interval.value):
        return
    half = interval.half_width if np.isfinite(interval.half_width) else 0
    ax.errorbar(interval.value, y, xerr=half, color=colour(name), marker="o", markersize=7, capsize=4, linewidth=2,
                markeredgecolor="white", markeredgewidth=0.8, zorder=3)


def _name_rows(ax, names, labels=True):
    ax.set_yticks(range(len(names)), names if labels else [""] * len(names))
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
