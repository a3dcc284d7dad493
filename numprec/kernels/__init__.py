"""The textbook: five machine-learning algorithms, every step a CUDA kernel, every kernel in every precision.

A part is a folder, its `__init__` the title page; a chapter is a file. `PARTS` is the table of contents: in reading
order, so that a chapter uses only what stands before it.
"""
import importlib

PARTS = {
    "start": ("threads", "memory", "rounding"),
    "reductions": ("collectives", "reduce", "argmax", "norm"),
    "products": ("matmul",),
    "equations": ("units", "centring", "gram", "cholesky", "triangular", "householder", "qr", "least_norm",
                  "refinement", "least_squares"),
    "networks": ("philox", "dense", "cross_entropy", "batch", "loss_scale", "optimizer"),
    "images": ("im2col", "implicit", "conv", "pooling", "batch_moments", "batch_norm", "augment"),
    "trees": ("sort", "bins", "histogram", "impurity", "scan", "split", "nodes", "partition", "descend", "grow",
              "one_block", "levels", "tree_fit"),
    "margins": ("kernel_functions", "smo_step", "smo", "smo_fit", "working_set"),
}


def chapters():
    """{chapter: dotted name of its module}, in reading order."""
    return {chapter: f"numprec.kernels.{part}.{chapter}" for part, names in PARTS.items() for chapter in names}


def operations():
    """Every operation of every chapter, by name, in reading order."""
    for module in chapters().values():
        importlib.import_module(module)
    from numprec.language.ladder import registered
    order = {chapter: place for place, chapter in enumerate(chapters())}     # whichever was imported first
    return dict(sorted(registered().items(), key=lambda item: order.get(item[1].chapter, len(order))))


def highest_rung(name, precision, compute_capability):
    """The last rung of the operation `name` that is written for `precision` and compiles for the card."""
    return [r for r in operations()[name].rungs
            if r.supports(precision) and r.compute_capability <= tuple(compute_capability)][-1]
