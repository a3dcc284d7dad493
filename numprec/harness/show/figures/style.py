"""How every figure looks, and what several of them need: colours, readable axes, labels that do not collide, files.

Colours are those of M. Okabe and K. Ito, Color Universal Design, 2008, which readers with any colour vision can tell
apart; markers say the same again. Names stand beside what they name wherever there is room, in place of a legend.

A figure is WIDTH inches wide, which makes its text readable when a README shrinks it to some 900 pixels.
"""
import io
import math
import textwrap

import matplotlib.colors
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from numprec.harness.record import store
from numprec.harness.record.environment import NOT_COMPARABLE
from numprec.harness.show.figures import canvas
from numprec.precision import PRECISIONS

COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP*X"
GREY, PALE = "#555555", "#E9E9E9"
STYLE = {
    "font.size": 11, "axes.titlesize": 11, "axes.labelsize": 11, "legend.fontsize": 10.5, "figure.titlesize": 13,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#DDDDDD",
    "grid.linewidth": 0.7, "axes.axisbelow": True, "axes.titlelocation": "left", "axes.titleweight": "bold",
    "figure.dpi": 150, "figure.facecolor": "white", "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08, "svg.fonttype": "none", "svg.hashsalt": "numprec",
}
MAKER = "numprec"    # in each file, so that store knows it again
WIDTH = 11
COLUMNS = 3                                             # of panels, where there are many
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
BESIDE = ((8, 0), (-8, 0), (0, 8), (0, -8))                      # offsets of a label from its point, in points
AROUND = ((7, 7), (-7, 7), (7, -7), (-7, -7),                    # clear of error bars
          (0, 19), (0, -19), (16, 14), (-16, 14), (16, -14), (-16, -14), (0, 31), (0, -31))


def title(name, environment):
    return f"{name} ({NOT_COMPARABLE})" if environment["is_emulator"] else f"{name} ({environment['device']})"


def seconds_label(what, environment):
    return f"{what}\n({NOT_COMPARABLE})" if environment["is_emulator"] else what


def colour(precision):
    return COLOURS[_index(precision) % len(COLOURS)]


def ink(precision):
    """Its colour for text, dark enough to read on white."""
    return tuple(0.7 * part for part in matplotlib.colors.to_rgb(colour(precision)))


def marker(precision):
    return MARKERS[_index(precision) % len(MARKERS)]


def _index(precision):
    names = list(PRECISIONS)
    return names.index(precision) if precision in names else len(names)


def in_order(precisions):
    """Names of precisions as the table of them has them; those that are spelled out come last."""
    return sorted(dict.fromkeys(precisions), key=_index)


def panels(count, height, environment=None, columns=COLUMNS, head=0.6):
    """A figure of `count` panels of the same height, in inches; those that are left over are off."""
    columns = min(columns, count)
    lines = math.ceil(count / columns)
    width = {1: 0.64, 2: 0.86}.get(columns, 1) * WIDTH
    figure, axes = canvas.subplots(lines, columns, (width, lines * height + head), squeeze=False)
    for ax in axes.flat[count:]:
        ax.set_axis_off()
    return figure, axes.flat[:count]


def pages(items, most):
    """`items` in lists of at most `most`, of about equal lengths; none for none."""
    items = list(items)
    count = math.ceil(len(items) / most)
    length = math.ceil(len(items) / count) if count else 0
    return [items[i * length:(i + 1) * length] for i in range(count)]


def name(ax, label):
    """A model's name over its panel, which is half a figure wide."""
    ax.set_title(textwrap.fill(label, 44))


def power(exponent, base=10):
    """A power as text that needs no markup."""
    return f"{base}{str(exponent).translate(SUPERSCRIPTS)}"


# ---- axes

def log_axis(axis, powers=False):
    """Ticks at 1, 2, 5 times a power of ten in plain numbers, for an axis that may span less than a decade; at powers
    of ten where it spans many, or where `powers` asks for them."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    if high / low < 4 and not powers:
        middle = math.sqrt(low * high)
        low, high = middle / 2, middle * 2
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if powers or high / low > 1e4:
        step = max(1, round((last - first) / 6))
        ticks = [10.0 ** e for e in range(first, last + 1) if e % step == 0]
        names = [power(round(math.log10(t))) for t in ticks]
    else:
        ticks = [s * 10.0 ** e for e in range(first, last + 1) for s in
                 ((1,) if high / low > 500 else (1, 3) if high / low > 60 else
                 (1, 2, 5) if high / low > 8 else (1, 1.5, 2, 3, 5, 7))]
        names = [f"{t:g}" for t in ticks]
    shown = [(t, name) for t, name in zip(ticks, names) if low <= t <= high]
    axis.set_major_locator(FixedLocator([t for t, _ in shown]))
    axis.set_major_formatter(FixedFormatter([name for _, name in shown]))
    axis.set_minor_locator(NullLocator())
    (axis.axes.set_xlim if axis.axis_name == "x" else axis.axes.set_ylim)(low, high)


def name_rows(ax, names, labels=True):
    """Lines of a table: the first on top."""
    ax.set_yticks(range(len(names)), names if labels else [""] * len(names))
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)


# ---- labels

def label_ends(ax, ends, gap=1.25):
    """Names at the right end of lines, {name: (x, y)}, moved apart where they would overlap."""
    names = sorted(ends, key=lambda name: ends[name][1])
    figure = ax.figure
    figure.draw_without_rendering()
    size = figure.dpi / 72 * canvas.rcParams["font.size"] * gap
    pixels = [ax.transData.transform(ends[name]) for name in names]
    wanted = np.array([y for _, y in pixels])
    heights = np.array(spread(wanted, size))
    frame = ax.get_window_extent()
    heights += min(0, frame.y1 - heights[-1]) + max(0, frame.y0 - heights[0])
    right = max(x for x, _ in pixels)
    for name, (x, y), height in zip(names, pixels, heights):
        ax.annotate(name, ends[name], xytext=((right - x + 8) * 72 / figure.dpi, (height - y) * 72 / figure.dpi),
                    textcoords="offset points", color=ink(name), va="center", annotation_clip=False)


def spread(wanted, gap):
    """The nearest positions, in the same ascending order, that are `gap` apart."""
    groups = [[y, 1] for y in wanted]                  # centre and size of labels that touch
    merged = True
    while merged:
        merged = False
        for i in range(len(groups) - 1):
            (a, n), (b, m) = groups[i], groups[i + 1]
            if b - a < gap * (n + m) / 2:
                groups[i:i + 2] = [[(a * n + b * m) / (n + m), n + m]]
                merged = True
                break
    return [centre + gap * (i - (n - 1) / 2) for centre, n in groups for i in range(n)]


def label_points(ax, points, names, colours=None, fontsize=10, places=AROUND, must=True):
    """Names beside points, where they cover neither a point nor other text; one that finds no such place is left out
    unless it `must` be there. The layout has to be final."""
    renderer = ax.figure.canvas.get_renderer()
    unit, frame = ax.figure.dpi / 72, ax.get_window_extent().extents
    at = [ax.transData.transform(point) for point in points]
    taken = [(x - 4 * unit, y - 4 * unit, x + 4 * unit, y + 4 * unit) for x, y in at]
    taken += [text.get_window_extent(renderer).extents for text in ax.texts]
    for i, (point, name) in enumerate(zip(points, names)):
        text = ax.annotate(name, point, (0, 0), textcoords="offset points", fontsize=fontsize, zorder=5,
                           color=colours[i] if colours else "#222222", annotation_clip=False, in_layout=False,
                           bbox=dict(facecolor="white", alpha=0.7, edgecolor="none", pad=0.5) if must else None)
        left, bottom, right, top = text.get_window_extent(renderer).extents
        wide, high = right - left, top - bottom

        def box(place):
            x, y = at[i] + unit * np.array(place)
            left, bottom = x - wide * (1 - np.sign(place[0])) / 2, y - high * (1 - np.sign(place[1])) / 2
            return left, bottom, left + wide, bottom + high

        def cost(place):
            here = box(place)
            outside = max(frame[0] - here[0], here[2] - frame[2], frame[1] - here[1], here[3] - frame[3], 0)
            return 1e3 * outside + sum(_overlap(here, other) for other in taken)
        best = min(places, key=cost)
        if cost(best) and not must:
            text.remove()
            continue
        text.set(position=best, ha=("center", "left", "right")[int(np.sign(best[0]))],
                 va=("center", "bottom", "top")[int(np.sign(best[1]))])
        taken.append(box(best))


def _overlap(a, b):
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0


def settle(figure):
    """Ends the layout, so that labels which were placed by pixels stay where they are."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


# ---- files

def save(figure, path):
    """`path` with .png and with .svg; the same figure gives the same bytes.

    `Figure.savefig` draws everything twice, once to find the layout; here that is done once for both files.
    """
    if figure.get_layout_engine():
        settle(figure)
    figure.canvas.draw()
    image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    image = image.quantize(128, dither=Image.Dither.NONE)               # a third of the bytes
    said, png, svg = PngInfo(), io.BytesIO(), io.BytesIO()
    said.add_text("Software", MAKER)
    image.save(png, "png", pnginfo=said)
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": MAKER})
    paths = [path.with_suffix(".png"), path.with_suffix(".svg")]
    for each, content in zip(paths, (png, svg)):
        store.replace(each, content.getvalue())
    return paths
