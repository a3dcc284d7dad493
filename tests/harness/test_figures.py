"""The figures: they are files of the right kind, show what the rows say, and leave nothing out in silence."""
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import rows as fabricated
from matplotlib import image

from numprec.harness.show import figures
from numprec.harness.show.figures import kernels, numerics, style, training
from numprec.precision import FORMATS, PRECISIONS

ROOT = Path(__file__).resolve().parents[2]
SHIFTS = {"fp64": 0.0, "fp32": 1e-7, "fp16": -0.05, "mixed_fp16": 1e-4, "mixed_bf16": 2e-3}


def run_of_everything():
    """Rows of one ladder, one operation at several lengths, a regression and a network, in all precisions."""
    rows = []
    for i, p in enumerate(PRECISIONS):
        for rung, seconds in ("naive", 2e-3), ("tiled", 1e-3):
            rows.append(fabricated.kernel_row(p, "gram", rung, samples_s=[seconds / (i + 1)] * 3))
        rows += [fabricated.kernel_row(p, "dot", "tree", (k,), flops=2 * k, bytes=8 * k, error=k * u)
                 for u in (PRECISIONS[p].accum.u,) for k in (16, 64, 256, 1024)]
        rows += fabricated.runs(p, [0.4 + 0.02 * seed + SHIFTS[p] for seed in range(5)],
                                samples_s=[1e-3 / (i + 1)] * 3)
        rows += [fabricated.network_row(p, seed) for seed in range(3)]
    return rows


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    return folder, figures.draw(run_of_everything(), fabricated.environment(), folder)


@pytest.fixture(autouse=True)
def closed():
    with matplotlib.rc_context(style.STYLE):
        yield


def text_of(path):
    root = ElementTree.parse(path).getroot()
    return [" ".join("".join(element.itertext()).split()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


def lines_of(ax):
    """{label: (x, y) of a line} for the lines that have one."""
    return {line.get_label(): line.get_xydata() for line in ax.lines if not line.get_label().startswith("_")}


# ---- files

def test_every_figure_is_drawn_as_png_and_svg(drawn):
    folder, paths = drawn
    assert [path.name for path in paths] == [f"{name}.{kind}" for name in figures.FIGURES for kind in ("png", "svg")]
    assert sorted(folder.iterdir()) == sorted(paths)
    for path in paths:
        if path.suffix == ".png":
            height, width = image.imread(path).shape[:2]
            assert width >= 900 and height > 300
            assert path.stat().st_size < 150_000
        else:
            assert ElementTree.parse(path).getroot().tag.endswith("svg")


@pytest.mark.parametrize("name, words", [
    ("scores", ["LinearRegression on diabetes", "fp64", "mixed_bf16", "worse", "equal"]),
    ("time_score", ["LinearRegression on diabetes", "fp16", "seconds of a fit"]),
    ("curves", ["MLPClassifier on digits", "epoch (line: mean of 3 seeds; band: all of them)", "target 0.8"]),
    ("loss_scale", ["MLPClassifier on digits", "mixed_fp16", "2¹⁶"]),
    ("exponents", ["float16", "bfloat16", "float8 e4m3", "float8 e5m2"]),
    ("roofline", ["gram", "fp32", "60 TFLOP/s of float32", "120 TFLOP/s of float16"]),
    ("speed_up", ["gram 64×64×64", "dot 1024", "mixed_fp16"]),
    ("error_time", ["gram 64×64×64", "1 naive, 2 tiled"]),
    ("error_length", ["dot K, tree", "1024", "fp16"]),
])
def test_figures_say_what_they_show(drawn, name, words):
    text = text_of(drawn[0] / f"{name}.svg")
    assert [word for word in words if word not in text] == []


def test_the_same_rows_give_the_same_bytes(drawn, tmp_path):
    again = figures.draw_one("loss_scale", run_of_everything(), fabricated.environment(), tmp_path)
    assert [path.read_bytes() for path in again] == [(drawn[0] / path.name).read_bytes() for path in again]


def test_the_backend_of_a_notebook_is_not_used(tmp_path):
    """It is named in the environment of what a notebook starts; and one that a process has chosen stays."""
    script = ("import sys; sys.path[:0] = sys.argv[1:3]\nfrom numprec.harness.show import figures\n"
              "import rows, matplotlib\n"
              "matplotlib.use('svg')\n"
              "print(len(figures.draw_one('loss_scale', rows.runs('mixed_fp16', [0.5, 0.5], rows.network_row),\n"
              "                           rows.environment(), sys.argv[3])))\n"
              "print(matplotlib.get_backend(), 'matplotlib.pyplot' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", script, *map(str, (ROOT, ROOT / "tests" / "harness", tmp_path))],
                          text=True,
                          capture_output=True, env={**os.environ, "MPLBACKEND": "module://nowhere.backend_inline"})
    assert done.stdout == "2\nsvg False\n", done.stderr


def test_without_rows_there_is_no_figure(tmp_path):
    assert figures.draw([], fabricated.environment(), tmp_path) == [] and not list(tmp_path.iterdir())


def test_what_failed_is_not_drawn_as_if_it_had_not(tmp_path):
    rows = [fabricated.training_row(p, status="FAIL", reason="broken") for p in PRECISIONS]
    rows += [fabricated.kernel_row(p, status="FAIL", reason="broken") for p in PRECISIONS]
    assert figures.draw(rows, fabricated.environment(), tmp_path) == []


@pytest.mark.parametrize("name", ["time_score", "curves", "roofline", "speed_up", "error_time"])
def test_times_of_the_emulator_are_marked(name, tmp_path):
    environment = fabricated.environment(emulator=True, device="Some GPU")    # as the rows call it
    path = figures.draw_one(name, run_of_everything(), environment, tmp_path)[1]
    assert any("CPU emulation, not comparable with a GPU" in text for text in text_of(path))


def test_many_ladders_take_several_pages(tmp_path):
    rows = [fabricated.kernel_row("fp32", f"operation{i}", rung) for i in range(kernels.PAGE + 1)
            for rung in ("naive", "tiled")]
    paths = figures.draw_one("error_time", rows, fabricated.environment(), tmp_path)
    assert [path.name for path in paths] == ["error_time.png", "error_time.svg", "error_time_2.png", "error_time_2.svg"]
    shown = text_of(paths[1]) + text_of(paths[3])
    assert all(f"operation{i} 64×64×64" in shown for i in range(kernels.PAGE + 1))


# ---- what they show

def test_pareto():
    assert training.pareto([(3, 0.9), (1, 0.5), (2, 0.4), (2.5, 0.7), (4, 0.9)]) == [(1, 0.5), (2.5, 0.7), (3, 0.9)]


def test_a_precision_whose_fits_do_not_finish_has_no_point():
    rows = [row for p in ("fp64", "fp32") for row in fabricated.runs(p, [0.4, 0.5, 0.6])]
    rows += fabricated.runs("fp16", [0.4, 0.5, 0.6], finished=False, stop_reason="stalled")
    ax = training.time_score(rows, fabricated.environment())[0].axes[0]
    named = [text.get_text() for text in ax.texts]
    assert "no time, so no point: fp16" in named and "fp16" not in named and "fp32" in named


def test_curves_are_means_over_the_seeds():
    rows = [fabricated.network_row("fp32", seed) for seed in range(2)]
    for row, shift in zip(rows, (-0.01, 0.03)):
        row["history"] = [{**epoch, "held_out": epoch["held_out"] + shift} for epoch in row["history"]]
    left, right = training.curves(rows, fabricated.environment())[0].axes
    expected = [epoch["held_out"] + 0.01 for epoch in fabricated.network_row("fp32")["history"]]
    assert lines_of(left)["fp32"] == pytest.approx(np.column_stack([[1, 2, 3], expected]))
    assert lines_of(right)["fp32"] == pytest.approx(np.column_stack([[0.1, 0.2, 0.3], expected]))


def test_the_margin_is_shaded_and_differences_are_paired():
    rows = fabricated.runs("fp64", [0.4, 0.5, 0.6]) + fabricated.runs("fp32", [0.402, 0.503, 0.604])
    right = numerics.scores(rows, fabricated.environment())[0].axes[1]
    margin = max(right.patches, key=lambda patch: patch.get_width())
    assert (margin.get_x(), margin.get_width()) == pytest.approx((-0.01, 0.02))
    assert any(line.get_xdata() == pytest.approx([0.002, 0.003, 0.004]) for line in right.lines
               if len(line.get_xdata()) == 3)


def test_ranges_of_formats():
    """Known ranges: float16 holds 2^-24 to 65504, float8 e4m3 2^-9 to 448, e5m2 2^-16 to 57344."""
    assert numerics.ranges() == {"float16": (-24, -14, 15), "bfloat16": (-133, -126, 127),
                                 "float8 e4m3": (-9, -6, 8), "float8 e5m2": (-16, -14, 15)}
    assert FORMATS["float16"].max < 2.0 ** 16


def test_shares_of_exponents():
    row = fabricated.network_row("fp32", exponents={"-3": 1, "-2": 3})
    ax = numerics.exponents([row], fabricated.environment()).axes[0]
    shares = dict(lines_of(ax)["fp32"].tolist())
    assert (shares[-3], shares[-2], sum(shares.values())) == (25, 75, 100)


def test_points_of_the_roofline():
    row = fabricated.kernel_row("fp32", flops=4e9, bytes=1e8, samples_s=[1e-3, 2e-3, 3e-3])
    ax = kernels.roofline([row], fabricated.environment()).axes[0]
    points = [line.get_xydata() for line in ax.lines if len(line.get_xydata()) == 1]
    assert points[0] == pytest.approx(np.array([[40, 2000]]))     # 4e9 / 1e8 operations a byte, 4e9 / 2 ms
    roof = next(line.get_ydata() for line in ax.lines if len(line.get_xydata()) > 1)
    assert roof.max() == pytest.approx(6e4)


def test_the_roofline_is_of_one_device():
    """Its ceilings were measured there."""
    rows = [fabricated.kernel_row("fp32"), fabricated.kernel_row("fp32", operation="gram", device="Another GPU")]
    ax = kernels.roofline(rows, fabricated.environment()).axes[0]
    assert [text.get_text() for text in ax.texts] == ["matmul"]


def test_bars_of_speed():
    rows = [fabricated.kernel_row("fp32", samples_s=[2e-3] * 3), fabricated.kernel_row("fp16", samples_s=[1e-3] * 3)]
    left = kernels.speed_up(rows, fabricated.environment())[0].axes[0]
    assert [(bar.get_x(), bar.get_width()) for bar in left.patches] == [(1, pytest.approx(1))]


def test_only_the_largest_shape_of_an_operation_stands_for_its_speed():
    rows = [fabricated.kernel_row(p, shape=(n, n, n), samples_s=[seconds] * 3) for p, n, seconds in (
        ("fp32", 64, 4e-3), ("fp16", 64, 1e-3), ("fp32", 8, 1e-3), ("fp16", 8, 1e-3))]
    left = kernels.speed_up(rows, fabricated.environment())[0].axes[0]
    assert [bar.get_width() for bar in left.patches] == [pytest.approx(3)]


def test_the_shape_that_most_rungs_have_stands_for_an_operation():
    rows = [fabricated.kernel_row(p, "matmul", rung, (8, 8, 8), samples_s=[seconds] * 3)
            for rung in ("naive", "tiled") for p, seconds in (("fp32", 4e-3), ("fp16", 1e-3))]
    rows += [fabricated.kernel_row(p, "matmul", "naive", (64, 64, 64), samples_s=[1e-3] * 3) for p in ("fp32", "fp16")]
    left = kernels.speed_up(rows, fabricated.environment())[0].axes[0]
    assert [bar.get_width() for bar in left.patches] == [pytest.approx(3)]


def test_error_against_length_needs_lengths():
    rows = [fabricated.kernel_row("fp32", shape=(64, 64, k), error=1e-6) for k in (16, 32, 64)]
    assert kernels.error_length(rows, fabricated.environment()) is None
    rows.append(fabricated.kernel_row("fp32", shape=(64, 64, 128), error=3e-6))
    rows.append(fabricated.kernel_row("fp32", shape=(256, 256, 256), error=1e-3))    # of another series
    ax = kernels.error_length(rows, fabricated.environment()).axes[0]
    assert ax.lines[0].get_xydata().tolist() == [[16, 1e-6], [32, 1e-6], [64, 1e-6], [128, 3e-6]]


@pytest.mark.parametrize("count, most, lengths", [(0, 6, []), (6, 6, [6]), (7, 6, [4, 3]), (13, 6, [5, 5, 3])])
def test_pages_are_of_about_equal_lengths(count, most, lengths):
    found = style.pages(range(count), most)
    assert [len(page) for page in found] == lengths and sum(found, []) == list(range(count))


# ---- labels

@pytest.mark.parametrize("wanted, gap", [([1, 1, 1], 2), ([0, 0.5, 9], 1), ([0, 5, 10], 2), ([], 1)])
def test_spread_keeps_order_and_distance(wanted, gap):
    found = style.spread(wanted, gap)
    assert all(b - a >= gap - 1e-9 for a, b in zip(found, found[1:]))
    assert np.mean(found) == pytest.approx(np.mean(wanted)) if wanted else found == []


def test_labels_of_points_do_not_overlap():
    figure, (ax,) = style.panels(1, 3)
    points = [(0.5, 0.5), (0.51, 0.5), (0.5, 0.52), (0.1, 0.9)]
    ax.plot(*zip(*points), "o")
    ax.margins(0.3)
    style.settle(figure)
    style.label_points(ax, points, ["mixed_fp16", "mixed_bf16", "fp16", "fp64"])
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == 4
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_titles_of_the_panels_do_not_overlap():
    """Names are longest where the data were enlarged."""
    rows = run_of_everything()
    rows += [fabricated.network_row("fp64", data=f"fashion_mnist[:5000], test [:10000] x{n}, synthetic")
             for n in (16, 256)]
    for figure in (page for draw in (numerics.scores, training.time_score, training.curves, kernels.error_time)
                   for page in draw(rows, fabricated.environment())):
        figure.draw_without_rendering()
        boxes = [title.get_window_extent() for ax in figure.axes if (title := ax._left_title).get_text()]
        assert boxes and not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_names_are_readable_on_white():
    """A contrast of 4.5 : 1, which WCAG 2.1 asks for in criterion 1.4.3."""
    for precision in PRECISIONS:
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in style.ink(precision)]
        assert 1.05 / (np.dot((0.2126, 0.7152, 0.0722), linear) + 0.05) >= 4.5, precision


def test_precisions_that_are_spelled_out_have_a_colour():
    assert style.in_order(["storage=float16,compute=float16,accum=float64", "fp16", "fp64"])[0] == "fp64"
    assert style.colour("storage=float16,compute=float16,accum=float64") not in map(style.colour, PRECISIONS)
