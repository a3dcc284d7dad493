"""The data sets that the models are trained on, with their provenance.

`load(name)` returns a Dataset: arrays in their natural dtype (float64 measurements, uint8 pixels), untouched by
any precision. `Dataset.split(seed)` gives training and test data: a seeded 80/20 split, or the data set's own
test set where it has one. Iris, diabetes and digits come inside scikit-learn and need no network. Fashion-MNIST and
CIFAR-10 are looked for and, at need, downloaded: see `numprec.datasets.files`. Where they cannot be had,
`load(name, stand_in=True)` gives digits in their place, marked as such.
"""
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from numprec.datasets.files import DataCorrupt, DataUnavailable, digest
from numprec.precision import unknown

__all__ = ["DataCorrupt", "DataUnavailable", "Dataset", "Split", "load", "names"]

TEST_SIZE = 0.2


class Split(NamedTuple):
    """Training and test data, in the order of scikit-learn's train_test_split."""

    X_train: np.ndarray
    X_test: np.ndarray
    y_train: np.ndarray
    y_test: np.ndarray


@dataclass(frozen=True, eq=False)
class Dataset:
    """One data set. `X` holds a sample a row, images too, whose height, width and channels are `image_shape`."""

    name: str
    task: str                           # "classification" or "regression"
    X: np.ndarray
    y: np.ndarray
    source: str
    licence: str
    test: tuple | None = None           # its own (X_test, y_test)
    image_shape: tuple | None = None
    stand_in: str | None = None         # the data set that this one replaces because it could not be had

    @property
    def sha256(self):
        """Of the bytes of every array, X first: see `numprec.datasets.files.digest`."""
        return digest((self.X, self.y, *(self.test or ())))

    @property
    def test_to_train(self):
        """Size of the test set over that of the training set where seeds draw overlapping splits, else 0."""
        return 0.0 if self.test else TEST_SIZE / (1 - TEST_SIZE)

    def split(self, seed):
        """Training and test data. Equal seeds give equal splits, whatever the precision, so that results pair.

        Classes keep their shares (a stratified split). With a test set of its own the data set ignores `seed`.
        """
        if self.test:
            return Split(self.X, self.test[0], self.y, self.test[1])
        from sklearn.model_selection import train_test_split
        strata = self.y if self.task == "classification" else None
        return Split(*train_test_split(self.X, self.y, test_size=TEST_SIZE, random_state=seed, stratify=strata))

    def first(self, train, test=None):
        """The first `train` samples, and the first `test` of the test set, under a name that says so."""
        fewer = self.test is not None and test is not None and test < len(self.test[0])
        if train >= len(self.X) and not fewer:
            return self
        name = self.name + f"[:{train}]" * (train < len(self.X)) + f", test [:{test}]" * fewer
        return replace(self, name=name, X=self.X[:train], y=self.y[:train],
                       test=self.test and tuple(a[:test] for a in self.test))


def _iris():
    from sklearn.datasets import load_iris
    X, y = load_iris(return_X_y=True)
    return Dataset("iris", "classification", X, y.astype(np.int32), licence="CC BY 4.0",
                   source="R. A. Fisher, The use of multiple measurements in taxonomic problems, 1936; "
                          "UCI Machine Learning Repository, as in scikit-learn's load_iris")


def _diabetes(scaled=True):
    from sklearn.datasets import load_diabetes
    X, y = load_diabetes(return_X_y=True, scaled=scaled)
    return Dataset("diabetes" if scaled else "diabetes_raw", "regression", X, y,
                   licence="distributed with scikit-learn (BSD 3-Clause)",
                   source="B. Efron, T. Hastie, I. Johnstone and R. Tibshirani, Least angle regression, Annals of "
                          f"Statistics 32(2), 2004, as in scikit-learn's load_diabetes(scaled={scaled})")


def _digits():
    from sklearn.datasets import load_digits
    X, y = load_digits(return_X_y=True)
    return Dataset("digits", "classification", X.astype(np.uint8), y.astype(np.int32), licence="CC BY 4.0",
                   image_shape=(8, 8, 1),
                   source="E. Alpaydin and C. Kaynak, Optical recognition of handwritten digits, 1998; UCI Machine "
                          "Learning Repository (its test part), as in scikit-learn's load_digits; pixels 0 to 16")


def _images(name, image_shape, source, licence):
    from numprec.datasets import images
    X, y, *test = images.arrays(name)
    return Dataset(name, "classification", X, y, source, licence, test=tuple(test), image_shape=image_shape)


def _fashion_mnist():
    return _images("fashion_mnist", (28, 28, 1), licence="MIT",
                   source="H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking "
                          "machine learning algorithms, arXiv:1708.07747, 2017; Zalando")


def _cifar10():
    return _images("cifar10", (32, 32, 3), licence="none given; its author asks for a citation",
                   source="A. Krizhevsky, Learning multiple layers of features from tiny images, University of "
                          "Toronto 2009; binary version")


# A new data set is one function that returns a Dataset, and one row here.
_LOADERS = {
    "iris": _iris,
    "diabetes": _diabetes,
    "diabetes_raw": lambda: _diabetes(scaled=False),
    "digits": _digits,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
}


def names():
    """The data sets there are."""
    return tuple(_LOADERS)


def load(name, stand_in=False):
    """The Dataset called `name`; its arrays are shared and read-only. Raises ValueError with the nearest name.

    A data set whose files are not here and cannot be downloaded raises DataUnavailable, which says what to do; with
    `stand_in`, it warns, once, and digits comes in its place, `stand_in` naming what it stands for. Files that are not
    what they should be raise DataCorrupt in either case.
    """
    if name not in _LOADERS:
        raise unknown("data set", name, list(_LOADERS))
    try:
        return _load(name)
    except DataUnavailable as error:
        if not stand_in:
            raise
        _announce(name, str(error))
        return replace(_load("digits"), stand_in=name)


@lru_cache(maxsize=None)
def _announce(name, why):
    """Warns of a stand-in, once a process; Python's own filter forgets what it has shown as soon as anyone catches
    warnings, as every fit of a benchmark does."""
    warnings.warn(f"digits stands in for {name}: {why}", stacklevel=3)


@lru_cache(maxsize=None)
def _load(name):
    data = _LOADERS[name]()
    for a in (data.X, data.y, *(data.test or ())):
        a.flags.writeable = False
    return data
