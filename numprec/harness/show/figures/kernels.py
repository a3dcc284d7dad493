"""Figures of kernels: error against time, speed against fp32, the roofline, error against length."""
import math

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from numprec.harness.judge import statistics
from numprec.harness.show import summary
from numprec.harness.show.figures import canvas, style

REFERENCE = "fp32"
PAGE = 12        # panels, or 2 * PAGE operations, of one figure
LENGTHS = 4      # that make a curve
COPIES = 1e-3    # flops a byte: what has fewer only copies, and would stretch the roofline's axes over empty decades


def grouped(rows, *columns):
    """{values of the columns: rows}, in the order of the rows."""
    groups = {}
    for row in rows:
        key = tuple(tuple(v) if isinstance(v := row[c], list) else v for c in columns)
        groups.setdefault(key[0] if len(columns) == 1 else key, []).append(row)
    return groups


def top_rungs(rows):
    """{operation: {precision: row}} of the highest rung that each precision was timed on."""
    return {operation: {row["precision"]: row for row in found}      # rungs come slowest first
            for operation, found in grouped(summary.main_shapes(rows), "operation").items()}


# ---- error against time

def error_time(rows, environment):
    """Figures with a panel per ladder: a line per precision, from the first rung to the last."""
    inexact = {name: found for name, found in grouped(summary.main_shapes(rows), "operation").items()
               if any(row["error"] for row in found)}
    ladders = {name: found for name, found in inexact.items() if len({row["rung"] for row in found}) > 1} or inexact
    if not ladders:
        return []
    errors = [row["error"] for found in ladders.values() for row in found if row["error"]]
    bottom = 10.0 ** (math.floor(math.log10(min(errors))) - 1)
    top = 10.0 ** math.ceil(math.log10(min(max(errors), 1e6)) + 0.5)
    return [_error_time_page(dict(page), bottom, top, environment) for page in style.pages(ladders.items(), PAGE)]


def _error_time_page(ladders, bottom, top, environment):
    figure, axes = style.panels(len(ladders), 2.75, head=1.3)
    columns = min(len(ladders), style.COLUMNS)
    for i, (ax, (operation, found)) in enumerate(zip(axes, ladders.items())):
        _ladder_panel(ax, operation, found, bottom, top)
        if i % columns == 0:
            ax.set_ylabel("relative error")
        if i + columns >= len(ladders):
            ax.set_xlabel("median time, ms")
    figure.suptitle(style.title("Error against time", environment))
    longest = max(len({row["rung"] for row in found}) for found in ladders.values())
    names = style.in_order(row["precision"] for found in ladders.values() for row in found)
    handles = [Line2D([], [], color=style.colour(name), linewidth=3, label=name) for name in names]
    handles += [Line2D([], [], color="#777777", linestyle="", marker=style.MARKERS[i % len(style.MARKERS)],
                       markersize=6, label=f"rung {i + 1}") for i in range(longest) if longest > 1]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3 * columns), frameon=False)
    return figure


def _ladder_panel(ax, operation, rows, bottom, top):
    rungs = list(dict.fromkeys(row["rung"] for row in rows))
    for precision, found in grouped(rows, "precision").items():
        points = [(1e3 * np.array(statistics.quartiles(row["samples_s"])), max(row["error"], bottom),
                   style.MARKERS[rungs.index(row["rung"]) % len(style.MARKERS)]) for row in found]
        ax.plot([time[1] for time, _, _ in points], [error for _, error, _ in points],
                color=style.colour(precision), linewidth=1, alpha=0.6)
        for (low, median, high), error, mark in points:
            ax.errorbar(median, error, xerr=[[median - low], [high - median]], color=style.colour(precision),
                        marker=mark, markersize=7, markeredgecolor="white", markeredgewidth=0.6, elinewidth=1)
    ladder = ", ".join(f"{i} {name}" for i, name in enumerate(rungs, 1)) if len(rungs) > 1 else rungs[0]
    name = f"{operation} {'×'.join(map(str, rows[0]['shape']))}"
    ax.set_title(name, pad=19, fontsize=min(11, 300 / len(name)))
    ax.text(0, 1.03, ladder, transform=ax.transAxes, fontsize=9.5 if len(ladder) < 52 else 8, color="#444444")
    ax.set_yscale("log")
    ax.set_ylim(bottom / 2, top)
    ax.yaxis.set_major_locator(LogLocator(numticks=7))
    ax.yaxis.set_major_formatter(FuncFormatter(
        lambda y, _: "exact" if y <= bottom * 1.01 else style.power(round(math.log10(y)))))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.margins(x=0.08)
    style.log_axis(ax.xaxis)


# ---- speed against fp32

def speed_up(rows, environment):
    """Figures with a row per operation: how many times as fast as fp32, and the share of what the device could do."""
    from numprec.harness.show import roofline
    operations = {name: found for name, found in top_rungs(rows).items()
                  if REFERENCE in found and len(found) > 1}
    figures = []
    for page in style.pages(operations.items(), 2 * PAGE):
        names = style.in_order(name for _, found in page for name in found)
        figure, (left, right) = _two_columns(len(page), len(names))
        for y, (operation, found) in enumerate(page):
            base = float(np.median(found[REFERENCE]["samples_s"]))
            for name, row in found.items():
                offset = 0.7 * ((names.index(name) + 0.5) / len(names) - 0.5)
                times, height = np.array(row["samples_s"]), 0.62 / len(names)
                if name != REFERENCE:
                    low, middle, high = statistics.quartiles(base / times)
                    left.barh(y + offset, middle - 1, left=1, height=height, color=style.colour(name))
                    left.plot([low, high], [y + offset] * 2, color="#888888", linewidth=1)
                bound = roofline.bound(row, environment)
                if bound is not None and bound.share is not None:
                    right.barh(y + offset, 100 * bound.share, height=height, color=style.colour(name),
                               alpha=0.4 if bound.kind == "launch" else 1)
        left.axvline(1, color="#444444", linewidth=1)
        left.set_xlabel(f"times as fast as {REFERENCE}, on the highest rung of each")
        right.set_xlabel("% of the ceiling that binds it")
        style.log_axis(left.xaxis)
        style.name_rows(left, [f"{operation} {'×'.join(map(str, next(iter(found.values()))['shape']))}"
                               for operation, found in page])
        style.name_rows(right, [""] * len(page))
        figure.suptitle(style.title(f"Speed over {REFERENCE}", environment)
                        + "\npale: bound by launches, not by memory or computing")
        handles = [Line2D([], [], color=style.colour(n), linewidth=6, label=n) for n in names]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(names), frameon=False)
        figures.append(figure)
    return figures


def _two_columns(lines, bars):
    return canvas.subplots(1, 2, (style.WIDTH, 1.4 + lines * max(0.3, 0.11 * bars)), width_ratios=(1.2, 1))


# ---- roofline

def roofline(rows, environment):
    """A panel per precision: the highest rung of each operation under the ceilings that this run measured. What
    only copies has no place in it.

    S. Williams, A. Waterman and D. Patterson, Roofline, Communications of the ACM 52(4), 2009.
    """
    from numprec.harness.show import roofline as ceilings
    peaks = environment.get("peaks") or {}
    bandwidth, rates = peaks.get("copy_bytes_per_s"), peaks.get("flops_per_s") or {}
    points = [row for found in top_rungs(rows).values() for row in found.values()
              if row["bytes"] and (row["flops"] or 0) > COPIES * row["bytes"]
              and row["device"] == environment["device"]]    # whose peaks these are
    groups = {name: found for name in style.in_order(row["precision"] for row in points)
              if rates.get((found := [row for row in points if row["precision"] == name])[0].get("format"))}
    if not bandwidth or not groups:
        return None
    intensity = {id(row): row["flops"] / row["bytes"] for row in points}
    speed = {id(row): row["flops"] / float(np.median(row["samples_s"])) / 1e9 for row in points}
    shown = [row for found in groups.values() for row in found]
    low = min(min(intensity[id(row)] for row in shown) / 2, 0.1)
    high = max(max(intensity[id(row)] for row in shown) * 4, 4 * max(rates.values()) / bandwidth)
    bottom = min(speed[id(row)] for row in shown) / 4
    top = 4 * max(max(rates.values()) / 1e9, *(speed[id(row)] for row in shown))
    figure, axes = style.panels(len(groups), 3.5)
    for ax, (name, found) in zip(axes, groups.items()):
        rate, x = rates[found[0]["format"]] / 1e9, np.geomspace(low, high, 200)
        ax.plot(x, np.minimum(rate, x * bandwidth / 1e9), color="#444444", linewidth=1.6)
        ax.fill_between(x, np.minimum(rate, x * bandwidth / 1e9), top, color=style.PALE, linewidth=0)
        for row in found:
            bound = ceilings.bound(row, environment)
            launch = bound is not None and bound.kind == "launch"
            ax.plot(intensity[id(row)], speed[id(row)], marker=style.marker(name), markersize=6.5, zorder=3,
                    color=style.colour(name), markerfacecolor="white" if launch else style.colour(name))
        ax.set_title(name)
        ax.set_xlim(low, high)
        ax.set_ylim(bottom, top)
        style.log_axis(ax.xaxis, powers=True)
        style.log_axis(ax.yaxis, powers=True)
        ax.set_title(f"{_rate(1e9 * rate, 'FLOP/s')} of {found[0]['format']}", loc="right", fontsize=10,
                     fontweight="normal")
        ax.set_xlabel("operations / byte of memory traffic")
    for ax in axes[::min(len(groups), style.COLUMNS)]:
        ax.set_ylabel("GFLOP/s")
    figure.suptitle(style.title("Roofline", environment)
                    + f"\nceilings: copying at {_rate(bandwidth, 'B/s')}, and multiply-adds; hollow: bound by launches")
    style.settle(figure)
    for ax, found in zip(axes, groups.values()):
        found = sorted(found, key=lambda row: -row["flops"])
        style.label_points(ax, [(intensity[id(row)], speed[id(row)]) for row in found], [r["operation"] for r in found],
                           fontsize=8.5, places=style.BESIDE, must=False)
    return figure


def _rate(x, unit):
    """A rate with its prefix: 2.6 TB/s."""
    power = min(4, max(0, math.floor(math.log10(x) / 3)))
    return f"{x / 1e3 ** power:.3g} {' kMGT'[power].strip()}{unit}"


# ---- error against length

def error_length(rows, environment):
    """A panel per operation that was run at several lengths: error against the one that varies."""
    groups = {}
    for (operation, rung), found in grouped([row for row in rows if row["kind"] == "kernel" and row["error"]],
                                            "operation", "rung").items():
        for i in range(len(found[0]["shape"])):
            series = grouped([{**row, "fixed": [*row["shape"][:i], None, *row["shape"][i + 1:]]} for row in found],
                             "fixed")
            groups |= {(operation, rung, i): each for each in series.values() if len(_lengths(each, i)) >= LENGTHS}
    if not groups:
        return None
    figure, axes = style.panels(len(groups), 3.6, columns=2)
    for ax, ((operation, rung, varying), found) in zip(axes, groups.items()):
        ends = {}
        for name, own in grouped(found, "precision").items():
            points = sorted((row["shape"][varying], row["error"]) for row in own)
            ax.plot(*zip(*points), color=style.colour(name), marker=style.marker(name), markersize=6,
                    markeredgecolor="white")
            ends[name] = points[-1]
        fixed = "×".join("K" if i == varying else str(n) for i, n in enumerate(found[0]["shape"]))
        ax.set_title(f"{operation} {fixed}, {rung}")
        ax.set_xlabel("K, terms of each sum")
        ax.set_ylabel("relative error")
        ax.set_xscale("log", base=2)
        lengths = _lengths(found, varying)
        ax.set_xticks(lengths, [str(n) for n in lengths], rotation=30 if len(lengths) > 7 else 0)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.margins(x=0.05)
        style.log_axis(ax.yaxis, powers=True)
        style.label_ends(ax, ends)
    figure.suptitle("Error against the length of sums")
    return figure


def _lengths(rows, i):
    return sorted({row["shape"][i] for row in rows})
