"""Figures of numbers: how large gradients are, beside what each format can hold; scores, seed by seed."""
import math

import numpy as np
from matplotlib.ticker import NullLocator

from numprec.harness.judge import outcomes, verdicts
from numprec.harness.show.figures import canvas, style
from numprec.precision import FORMATS

EIGHT_BITS = {    # name: exponents of the smallest number, the smallest normal one, the largest
    "e4m3": (-9, -6, 8),       # P. Micikevicius et al., FP8 formats for deep learning, 2022, table 1
    "e5m2": (-16, -14, 15),
}


def ranges():
    """{format: exponents of its smallest number, its smallest normal one and its largest}."""
    halves = {name: tuple(math.floor(math.log2(x)) for x in (f.eta, f.tiny, f.max))
              for name, f in FORMATS.items() if f.bits == 16}
    return halves | {f"float8 {name}": exponents for name, exponents in EIGHT_BITS.items()}


def exponents(rows, environment):
    """A panel per network, after P. Micikevicius et al., Mixed precision training, ICLR 2018, figure 3: the share of
    gradients at each exponent, and below it what formats reach."""
    groups = {}
    for label, precisions in outcomes.by_model(rows).items():
        for name, outcome in precisions.items():
            for row in outcome.run:
                counts = {int(e): n for e, n in (row.get("exponents") or {}).items() if _is_whole(e)}
                if sum(counts.values()):
                    groups.setdefault(label, {}).setdefault(name, counts)
    if not groups:
        return None
    figure, axes = style.panels(len(groups), 4.3, columns=2)
    every = [e for found in groups.values() for counts in found.values() for e in counts]
    low, high = max(min(every) - 2, -60), min(max(every) + 2, 20)
    low, high = min(low, -27), max(high, 3)
    for ax, (label, found) in zip(axes, groups.items()):
        top = 0.0
        for i, name in enumerate(style.in_order(found)):
            total = sum(found[name].values())
            shares = [100 * found[name].get(e, 0) / total for e in range(low, high + 1)]
            ax.step(range(low, high + 1), shares, where="mid", color=style.colour(name), label=name,
                    linewidth=max(1, 3.4 - 0.5 * i))    # what is below shows on either side
            top = max(top, *shares)
        _draw_ranges(ax, top, low, high)
        style.name(ax, label)
        ax.set_xlabel("exponent: gradients from 2ᵉ to 2ᵉ⁺¹")
        ax.set_ylabel("% of gradients")
        ax.legend(frameon=False, loc="upper left", fontsize=9.5)
    figure.suptitle("Gradients of the last batch, and what formats can hold"
                    "\nshaded: normal numbers; pale: subnormal ones; without: becomes 0 or overflows")
    return figure


def _is_whole(text):
    try:
        int(text)
    except ValueError:
        return False
    return True


def _draw_ranges(ax, top, low, high):
    """A bar per format below the axis of the shares."""
    height = top * 0.11
    for i, (name, (least, normal, largest)) in enumerate(ranges().items()):
        y = -height * (i + 1)
        for first, last, alpha in (least, normal, 0.25), (normal, largest + 1, 0.65):
            first, last = max(first, low), min(last, high + 1)
            if last > first:
                ax.barh(y, last - first, left=first - 0.5, height=0.86 * height, color=style.COLOURS[6], alpha=alpha,
                        linewidth=0)
        ax.text(high, y, name, ha="right", va="center", fontsize=9)
    ax.axhline(0, color="#444444", linewidth=1)
    ax.set_ylim(-height * (len(ranges()) + 0.7), top * 1.12)
    ax.set_xlim(low, high + 0.5)
    step = next(s for s in (1, 2, 5, 10, 20) if top / s <= 6) if top <= 120 else 20
    ax.set_yticks(np.arange(0, top * 1.05, step))


# ---- scores

def scores(rows, environment):
    """Figures with a row of panels per model: the score of every seed (a tick) with its mean, and the paired difference
    to fp64."""
    groups = {label: {name: o for name in style.in_order(precisions) if (o := precisions[name]).scores}
              for label, precisions in outcomes.by_model(rows).items()}
    groups = {label: found for label, found in groups.items() if found}
    judged = {(v.label, v.precision): v for v in verdicts.judge(rows)}
    return [_scores_page(dict(page), judged, environment) for page in style.pages(groups.items(), 6)]


def _scores_page(groups, judged, environment):
    lines = sum(map(len, groups.values()))
    figure, axes = canvas.subplots(len(groups), 2, (style.WIDTH, 0.36 * lines + 1.05 * len(groups) + 0.6),
                                   squeeze=False, width_ratios=(1.1, 1),
                                   height_ratios=[len(found) + 1.5 for found in groups.values()])
    for (left, right), (label, found) in zip(axes, groups.items()):
        first = next(iter(found.values()))
        seeds = max(len(o.scores) for o in found.values())
        for y, (name, outcome) in enumerate(found.items()):
            values = list(outcome.scores.values())
            left.plot(values, np.full(len(values), y + 0.3), "|", color=style.colour(name), markersize=8)
            _interval(left, outcome.score, y, name)
        style.name_rows(left, list(found))
        style.name(left, label)
        left.set_xlabel(f"{first.metric}, {seeds} seeds: mean with 95 % interval")
        _differences(right, label, found, judged)
        right.set_xlabel(f"{first.metric} minus {outcomes.BASELINE}'s on the same seed")
    trained = "under CPU emulation" if environment["is_emulator"] else f"on {environment['device']}"
    figure.suptitle(f"Held-out score by precision, trained {trained}")
    return figure


def _differences(ax, label, found, judged):
    """Differences run over many powers of ten: a logarithmic axis on either side of a linear middle. The margin within
    which they count as none is shaded."""
    reference = found[outcomes.BASELINE].scores if outcomes.BASELINE in found else {}
    margin = next(iter(found.values())).margin
    sizes = [margin]
    for y, (name, outcome) in enumerate(found.items()):
        verdict = judged.get((label, name))
        if verdict:
            ax.annotate(verdict.brief, (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=10,
                        color=style.ink(name))
        if name == outcomes.BASELINE:
            continue
        values = [score - reference[seed] for seed, score in outcome.scores.items() if seed in reference]
        ax.plot(values, np.full(len(values), y + 0.3), "|", color=style.colour(name), markersize=8)
        interval = verdict.interval if verdict else None
        _interval(ax, interval, y, name)
        sizes += [abs(v) for v in values]
        sizes += [abs(b) for b in ((interval.low, interval.high) if interval else ()) if np.isfinite(b)]
    ax.axvspan(-margin, margin, color=style.PALE, linewidth=0, zorder=0)
    ax.axvline(0, color="#444444", linewidth=1)
    threshold, limit = margin / 10, 10.0 ** math.ceil(math.log10(max(sizes) * 1.05))
    ax.set_xscale("symlog", linthresh=threshold, linscale=0.6)
    ax.set_xlim(-1.1 * limit, 1.1 * limit)
    powers = [10.0 ** e for e in range(round(math.log10(threshold)), round(math.log10(limit)) + 1)]
    powers = powers[-1::-max(1, round(len(powers) / 3))][::-1]
    ticks = [-t for t in reversed(powers)] + [0.0] + powers
    ax.set_xticks(ticks, [f"{t:+g}" if t else "0" for t in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    style.name_rows(ax, list(found), labels=False)


def _interval(ax, interval, y, name):
    if interval is None or not np.isfinite(interval.value):
        return
    low, high = interval.value - interval.low, interval.high - interval.value
    bars = [[low], [high]] if np.isfinite(low) and np.isfinite(high) else None
    ax.errorbar(interval.value, y, xerr=bars, color=style.colour(name), marker=style.marker(name), markersize=7,
                capsize=4, linewidth=2, markeredgecolor="white", markeredgewidth=0.8, zorder=3)
