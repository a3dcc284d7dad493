"""The rows of a run as pictures, each as PNG and SVG.

    canvas      figures without a window
    style       colours, axes, labels, files
    training    what a fit costs against how well it predicts; networks epoch by epoch; the loss scale
    numerics    scores seed by seed; how large gradients are
    kernels     error against time, speed, the roofline, error against length

Only these files import matplotlib, and they open no window. A figure that has nothing to show is left out.
"""
from pathlib import Path

from numprec.harness.show.figures import canvas  # first, so that matplotlib can be imported
from numprec.harness.show.figures import kernels, numerics, style, training

FIGURES = {    # name of the file: function of (rows, environment) to a figure, some or None; caption
    "scores": (numerics.scores, "Left: the held-out score of every seed (ticks), and the mean with its 95 % interval. "
               "Right: the difference to fp64 on the same seed, which leaves out what the split does. "
               "Shaded: the margin, fixed before the run, within which a difference counts as none; beside it "
               "the verdict."),
    "time_score": (training.time_score, "Median time of a fit with quartiles over the seeds, and the mean held-out "
                   "score with its 95 % interval. Dashed: the Pareto front, the precisions that no other one beats in "
                   "both. A precision in which a fit did not finish has no time, and so no point. The intervals are "
                   "wider than those of the differences to fp64, because splits differ more than precisions do."),
    "curves": (training.curves, "The score after each epoch, of at most the first 1,000 held-out samples: by epoch, "
               "where precisions can be compared directly, and by the seconds that training had taken until then, "
               "evaluation left out."),
    "loss_scale": (training.loss_scale, "The factor by which the loss is multiplied, so that small gradients do not "
                   "vanish in half precision. It is doubled after many good steps, and halved with a step that "
                   "overflows, which is skipped."),
    "exponents": (numerics.exponents, "How large the gradients of the last batch of seed 0 are, the loss scale divided "
                  "out, and which numbers formats below 32 bits can hold. What lies to the left of a bar becomes 0 in "
                  "that format unless the loss is scaled up."),
    "roofline": (kernels.roofline, "The highest rung of each operation: rate of useful operations against operations "
                 "per byte that has to be moved, under the copy bandwidth and the rate of multiply-adds measured in "
                 "the same run. Labelled where there is room."),
    "speed_up": (kernels.speed_up, "Left: how many times as fast as fp32 each precision is on its highest rung; lines: "
                 "quartiles. Right: how much of the ceiling that binds it a kernel reaches; over 100 % where caches, "
                 "or a graph of launches, beat the peak measured."),
    "error_time": (kernels.error_time, "Each ladder of kernels, slowest rung first: median time with quartiles, and "
                   "the largest error over the largest magnitude of the fp64 oracle."),
    "error_length": (kernels.error_length, "How the error of a sum grows with its number of terms, precision by "
                     "precision: what counts is the format of the running sum. An exact result has no point."),
}


def draw(rows, environment, folder):
    """Writes every figure that the rows allow into `folder`; returns the paths, in the order of FIGURES."""
    return [path for name in FIGURES for path in draw_one(name, rows, environment, folder)]


def draw_one(name, rows, environment, folder):
    """Writes one figure of FIGURES, or its pages, where there are several: name, name_2, ..."""
    with canvas.rc_context(style.STYLE):
        made = FIGURES[name][0](rows, environment) or []
        pages = made if isinstance(made, list) else [made]
        return [path for i, page in enumerate(pages, 1)
                for path in style.save(page, Path(folder) / (name if i == 1 else f"{name}_{i}"))]
