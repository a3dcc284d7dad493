"""Figures that belong to no window: neither pyplot nor a backend that somebody has chosen is asked.

A notebook has its own backend, and leaves its name in the environment of the programs that it starts, whose Python need
not have it. matplotlib then refuses to be imported.
"""
import os

try:
    import matplotlib
except ValueError:
    if "MPLBACKEND" not in os.environ:
        raise
    del os.environ["MPLBACKEND"]
    import matplotlib

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

rc_context, rcParams = matplotlib.rc_context, matplotlib.rcParams


def subplots(rows, columns, figsize, **how):
    """(figure, its axes) as pyplot's function of that name gives them, laid out by constraints."""
    figure = Figure(figsize=figsize, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **how)
