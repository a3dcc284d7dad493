"""Decision tree classifier: CART, grown by the kernels of the chapters sort to levels, in any precision."""
import math
import numbers
from dataclasses import replace

import numpy as np
import sklearn.tree
from sklearn.base import ClassifierMixin
from sklearn.tree._tree import NODE_DTYPE, Tree
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from numprec.kernels import levels, partition
from numprec.kernels.grow import NONE, Rules, flatten, warps_for
from numprec.kernels.impurity import entropy, gini
from numprec.kernels.partition import COUNT, DEPTH, FEATURE
from numprec.models.base import Estimator, check_memory, check_range
from numprec.precision import precision_named, unknown

CRITERIA = {"gini": gini, "entropy": entropy, "log_loss": entropy}
WEIGHT_BITS = 62         # of the sum of all weights, as integers


class DecisionTreeClassifier(ClassifierMixin, Estimator):
    """A binary decision tree. `precision`, `exact_rows` and `device` are its own, the rest is named as in scikit-learn.

    Features and thresholds are in the storage format of the precision, impurities and gains in accum; counts, weighted
    or not, are integers. Of equally good splits, the one on the lowest feature is taken, and of those the one at the
    lowest threshold, in every precision, and nothing is drawn at random unless random_state asks for it. Small data are
    full of such ties, and the lowest feature need not be the best choice for other samples: scikit-learn's trees, which
    draw, are better on Iris by 0.008 on average over 100 splits, as are these with a random_state for each.

    Parameters
    ----------
    precision : str or Precision
        "fp64", "fp32", "fp16", "mixed_fp16", "mixed_bf16", an alias, or the long form.
    criterion : "gini", "entropy" or "log_loss" (the same as entropy)
    max_depth : int or None
    min_samples_split, min_samples_leaf : int, or a fraction of the samples
    min_weight_fraction_leaf : float
        A share of the sum of all weights, up to 0.5.
    min_impurity_decrease : float
        A gain that falls short of it by less than rounding may have cost, still counts.
    class_weight : dict, "balanced" or None
    random_state : int, RandomState or None
        Unless it is None, a fit draws an order of the features, the same in every precision, and ties go to the first
        one in that order. scikit-learn draws one for each node.
    exact_rows : int
        Nodes of more samples than this are split at the edges of 256 bins, smaller ones at any threshold. A fit of no
        more samples is a single launch.
    device : "gpu", "emulator" or None
        None is the GPU if there is one.

    Attributes
    ----------
    tree_ : sklearn.tree._tree.Tree
        The nodes in scikit-learn's own structure: export_text, plot_tree and what else reads one take it.
    classes_, n_classes_, n_outputs_, max_features_, n_features_in_, feature_names_in_, feature_importances_
        As in scikit-learn.
    stop_reason_ : "converged"
    precision_ : str
        The precision of the fit, in which predictions are made too.
    """

    def __init__(self, precision="fp32", *, criterion="gini", max_depth=None, min_samples_split=2, min_samples_leaf=1,
                 min_weight_fraction_leaf=0.0, min_impurity_decrease=0.0, class_weight=None, random_state=None,
                 exact_rows=2048, device=None):
        self.precision = precision
        self.criterion = criterion
        self.max_depth = max_depth
        self.min_samples_split = min_samples_split
        self.min_samples_leaf = min_samples_leaf
        self.min_weight_fraction_leaf = min_weight_fraction_leaf
        self.min_impurity_decrease = min_impurity_decrease
        self.class_weight = class_weight
        self.random_state = random_state
        self.exact_rows = exact_rows
        self.device = device

    def fit(self, X, y, sample_weight=None):
        """Grows a tree on X (n_samples, n_features) and the labels y (n_samples,). Returns self."""
        device, precision = self._where_and_how()
        X, y = self._checked_for_classes(X, y)
        criterion, rules = self._rules(len(X))
        check_range(X, precision.storage, "X", "standardise the data")
        self.classes_, y_encoded = np.unique(y, return_inverse=True)
        self.n_classes_, self.n_outputs_, self.max_features_ = len(self.classes_), 1, X.shape[1]
        weight = None if sample_weight is None else _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if self.class_weight is not None:
            weight = compute_sample_weight(self.class_weight, y) * (1 if weight is None else weight)
        if weight is not None and not (weight > 0).all():
            X, y_encoded, weight = (a[weight > 0] for a in (X, y_encoded, weight))
            if not len(X):
                raise ValueError("sample_weight, times class_weight, is 0 for every sample: there is nothing to fit")
        weight, unit = (None, 1.0) if weight is None else _as_integers(weight)
        order = np.arange(X.shape[1])    # the kernels prefer the feature of the lowest number
        if self.random_state is not None:
            order = check_random_state(self.random_state).permutation(order)
        self._grow(device, precision, X, y_encoded, weight, unit, criterion, rules, order)
        self.precision_ = str(precision)
        self._ended("converged")
        return self

    def _rules(self, N):
        """The criterion and the Rules, for N samples. Raises ValueError for what is not allowed."""
        if self.criterion not in CRITERIA:
            raise unknown("criterion", self.criterion, list(CRITERIA))
        _whole("max_depth", self.max_depth, 1, or_none=True)
        _whole("exact_rows", self.exact_rows, 1)
        _whole("min_samples_split", self.min_samples_split, 2, or_fraction=True)
        _whole("min_samples_leaf", self.min_samples_leaf, 1, or_fraction=True)
        fraction = self.min_weight_fraction_leaf
        if not isinstance(fraction, numbers.Real) or not 0 <= fraction <= 0.5:
            raise ValueError(f"min_weight_fraction_leaf is in [0, 0.5], not {fraction!r}")
        if not isinstance(self.min_impurity_decrease, numbers.Real) or not self.min_impurity_decrease >= 0:
            raise ValueError(f"min_impurity_decrease is a number of at least 0, not {self.min_impurity_decrease!r}")

        def rows(value, at_least):
            return min(NONE // 2, value if isinstance(value, numbers.Integral) else max(at_least, math.ceil(value * N)))
        return CRITERIA[self.criterion], Rules(
            max_depth=min(NONE, NONE if self.max_depth is None else self.max_depth),
            min_split=rows(self.min_samples_split, 2), least=rows(self.min_samples_leaf, 1),
            min_decrease=float(self.min_impurity_decrease), exact=int(min(self.exact_rows, NONE)))

    def _grow(self, device, precision, X, y, weight, unit, criterion, rules, order):
        """Sets tree_. What the kernels call feature k is column order[k] of X."""
        (N, D), C, weighted = X.shape, self.n_classes_, weight is not None
        everything = int(weight.sum()) if weighted else N
        rules = replace(rules, lightest=math.ceil(self.min_weight_fraction_leaf * everything))
        if not warps_for(C, weighted):
            raise ValueError(f"y has {C} classes, more than the kernels have room to count")
        if N * max(D, 2) > NONE:
            raise ValueError(f"X has {N} x {D} values, more than the 2^31 that the kernels can number")

        def per_element(p):
            return levels.bytes_needed(p, D, N, C, weighted, rules) / (N * D)
        check_memory(device, int(per_element(precision) * N * D), precision, per_element)
        grown = levels.fit(
            device, precision, device.array(np.take(X.T, order, axis=0), precision.storage),
            device.array(y.astype(np.int32)), device.array(weight) if weighted else None, C, criterion, rules,
            everything)
        nodes, values = device.to_host(grown.nodes), device.to_host(grown.values)
        place, left, right = flatten(nodes)
        counts, leaf = values[place].astype(np.float64), left < 0
        whole = counts.sum(axis=1)
        table = np.zeros(len(place), NODE_DTYPE)
        table["left_child"], table["right_child"] = left, right
        table["feature"] = np.where(leaf, -2, order[np.where(leaf, 0, nodes[place, FEATURE])])
        table["threshold"] = np.where(leaf, -2, device.to_host(grown.threshold)[place].astype(np.float64))
        table["impurity"] = device.to_host(grown.impurities)[place]
        table["n_node_samples"], table["weighted_n_node_samples"] = nodes[place, COUNT], whole / unit
        self.tree_ = Tree(D, np.array([C], np.intp), 1)
        self.tree_.__setstate__({"max_depth": int(nodes[place, DEPTH].max()), "node_count": len(place), "nodes": table,
                                 "values": np.ascontiguousarray((counts / whole[:, None])[:, None, :])})

    def apply(self, X):
        """The number of the leaf that each sample ends in."""
        check_is_fitted(self)
        precision, (device, _) = precision_named(self.precision_), self._where_and_how()
        X = self._checked_for_predict(X)
        tree = self.tree_
        links = np.stack([tree.feature, tree.children_left, tree.children_right], axis=1).astype(np.int32)
        leaf = partition.descend(
            device, partition.walk, precision,
            device.array(np.ascontiguousarray(X.T), precision.storage), device.array(links),
            device.array(tree.threshold, precision.storage))
        return device.to_host(leaf).astype(np.int64)

    def predict_proba(self, X):
        """The share of each class, in the order of classes_, among the training samples of a sample's leaf."""
        return self.tree_.value[self.apply(X), 0] if hasattr(self, "tree_") else self.apply(X)

    def predict_log_proba(self, X):
        """The logarithm of predict_proba."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict(self, X):
        """The class of the largest share, the first of equal ones."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)] if hasattr(self, "tree_") else self.apply(X)

    def get_depth(self):
        """The depth of the deepest leaf; that of the root is 0."""
        check_is_fitted(self)
        return self.tree_.max_depth

    def get_n_leaves(self):
        """The number of leaves."""
        check_is_fitted(self)
        return self.tree_.n_leaves

    @property
    def feature_importances_(self):
        """How much impurity each feature removed, of what all did. What rounding makes negative is 0."""
        check_is_fitted(self)
        removed = np.maximum(self.tree_.compute_feature_importances(normalize=False), 0)
        return removed / removed.sum() if removed.any() else removed


# export_text and plot_tree ask whether they are given one of these, and then read tree_ and a few attributes
sklearn.tree.DecisionTreeClassifier.register(DecisionTreeClassifier)


def _as_integers(weight):
    """Positive weights as int64, times a power of two, the unit, that brings their sum to WEIGHT_BITS bits."""
    weight = weight.astype(np.float64)
    unit = math.ldexp(1.0, WEIGHT_BITS - 1 - math.frexp(math.fsum(weight))[1])
    return np.maximum(np.rint(weight * unit), 1).astype(np.int64), unit


def _whole(name, value, least, or_none=False, or_fraction=False):
    """ValueError unless the parameter is a whole number of at least `least`, or what else is allowed."""
    if or_none and value is None:
        return
    if isinstance(value, numbers.Integral) and value >= least:
        return
    if or_fraction and isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral) and 0 < value <= 1:
        return
    also = " or None" * or_none + " or a fraction of the samples in (0, 1]" * or_fraction
    raise ValueError(f"{name} is a whole number of at least {least}{also}, not {value!r}")
