"""The problem of a training cell: its data, split by its seed, and how a model is scored on it.

A problem can be grown: its training set is then made of its own rows, drawn again and again with noise added, so that
there is more work of the same kind. The held-out rows stay the real ones, untouched. That shows from which size on the
precision matters for time; scores on grown data say little, because the rows are no new evidence.
"""
from dataclasses import dataclass

import numpy as np

from numprec import datasets

NOISE = 0.05      # of a grown row, over the standard deviation of each feature
COPIES = 4        # of the training set that a fit keeps on the host at a time, at most


@dataclass(frozen=True)
class Problem:
    """Data and how to score predictions of it."""

    data: datasets.Dataset
    split: datasets.Split
    metric: str
    grow: int

    @property
    def name(self):
        return grown_name(self.data.name, self.grow)

    @property
    def regression(self):
        return self.data.task == "regression"

    def score(self, predicted, first=None):
        """Of predictions for the held-out rows, or for the first of them; in float64."""
        return SCORES[self.metric](self.split.y_test[:first], predicted)

    def columns(self):
        """What a row says about it."""
        return {"data": self.name, "stand_in": self.data.stand_in, "grow": self.grow,
                "n_train": len(self.split.y_train), "n_test": len(self.split.y_test),
                "n_features": self.split.X_train.shape[1], "test_to_train": self.data.test_to_train,
                "metric": self.metric}


def of(cell):
    """The Problem of a cell; the same in every precision. Raises MemoryError where it would not fit into memory."""
    model = cell.model
    data = datasets.load(model.data, stand_in=True)
    if model.first:
        data = data.first(model.first, 2 * model.first)
    split = _grown(_in_unit_range(data.split(cell.seed)), data, cell)
    return Problem(data, split, "R2" if data.task == "regression" else "accuracy", cell.grow)


def grown_name(name, factor):
    return name if factor == 1 else f"{name} x{factor}, synthetic"


def _grown(split, data, cell):
    if cell.grow == 1:
        return split
    import psutil
    X, n = split.X_train, len(split.X_train) * cell.grow
    needed, free = COPIES * n * X.shape[1] * 8, psutil.virtual_memory().available
    if needed > free:
        raise MemoryError(f"{data.name} grown {cell.grow} times takes {needed / 1e9:.0f} GB, where {free / 1e9:.0f} GB "
                          "are free: use a smaller --grow")
    rng = np.random.default_rng([cell.seed, cell.grow])
    chosen = rng.integers(0, len(X), n)
    rows = X[chosen] + rng.normal(0, 1, (n, X.shape[1])).astype(X.dtype) * (NOISE * X.std(axis=0))
    rows = np.clip(rows, X.min(axis=0), X.max(axis=0)).astype(X.dtype)
    return split._replace(X_train=rows, y_train=split.y_train[chosen])


def _in_unit_range(split):
    """Pixels, which come as uint8, divided by the largest one; other data as they are."""
    if split.X_train.dtype != np.uint8:
        return split
    top = np.float32(split.X_train.max())
    return split._replace(X_train=split.X_train / top, X_test=split.X_test / top)


def _r2(y, predicted):
    """Coefficient of determination; NaN where a prediction is not finite."""
    from sklearn.metrics import r2_score
    predicted = np.asarray(predicted).astype(np.float64)
    return float(r2_score(y, predicted)) if np.isfinite(predicted).all() else float("nan")


def _accuracy(y, predicted):
    return float(np.mean(np.asarray(predicted) == y))


SCORES = {"R2": _r2, "accuracy": _accuracy}
