"""Decision tree classifier: CART, grown by the kernels of the part on trees, in any precision."""
import heapq
import math
from dataclasses import replace

import numpy as np
import sklearn.tree
from sklearn.base import ClassifierMixin, clone
from sklearn.tree._tree import NODE_DTYPE, Tree, _build_pruned_tree_ccp, ccp_pruning_path
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import check_is_fitted

from numprec.kernels.trees import tree_fit
from numprec.kernels.trees.bins import bins_of
from numprec.kernels.trees.impurity import entropy, gini, room
from numprec.kernels.trees.nodes import Node, Rules, flatten
from numprec.kernels.trees.one_block import warps_for
from numprec.kernels.trees.scan import NONE
from numprec.models.base import CLASS_WEIGHT, Estimator, Scored, check_memory, check_parameters, is_real, is_whole
from numprec.precision import FORMATS

CRITERIA = {"gini": gini, "entropy": entropy, "log_loss": entropy}
WEIGHT_BITS = 62         # of the sum of all weights, as integers


def _rows(least):
    """The rule of a number of samples, or of a share of them."""
    return (f"a whole number of at least {least} or a fraction of the samples in (0, 1]",
            lambda x: x >= least if is_whole(x) else is_real(x) and 0 < x <= 1)


RULES = {
    "criterion": list(CRITERIA),
    "splitter": ("'best', the only one implemented here", lambda x: x == "best"),
    "max_depth": ("a whole number of at least 1 or None", lambda x: x is None or is_whole(x) and x >= 1),
    "min_samples_split": _rows(2),
    "min_samples_leaf": _rows(1),
    "min_weight_fraction_leaf": ("a number in [0, 0.5]", lambda x: is_real(x) and 0 <= x <= 0.5),
    "max_features": ("a whole number of at least 1, a fraction of the features in (0, 1], 'sqrt', 'log2' or None",
                     lambda x: x is None or (x in ("sqrt", "log2") if isinstance(x, str) else
                                             x >= 1 if is_whole(x) else is_real(x) and 0 < x <= 1)),
    "max_leaf_nodes": ("a whole number of at least 2 or None", lambda x: x is None or is_whole(x) and x >= 2),
    "min_impurity_decrease": ("a number of at least 0", lambda x: is_real(x) and x >= 0),
    "class_weight": CLASS_WEIGHT,
    "ccp_alpha": ("a number of at least 0", lambda x: is_real(x) and x >= 0),
    "monotonic_cst": ("None, as constraints are not implemented here", lambda x: x is None),
    "random_state": ("a whole number in [0, 2^32), a RandomState or None", check_random_state),
    "exact_rows": ("a whole number of at least 1", lambda x: is_whole(x) and x >= 1),
}


class DecisionTreeClassifier(Scored, ClassifierMixin, Estimator):
    """A binary decision tree. `precision`, `exact_rows` and `device` are its own, the rest is named as in scikit-learn.

    Features and thresholds are in the storage format of the precision, impurities and gains in accum; counts, weighted
    or not, are integers. Columns are multiplied by a power of two that brings them into the range of the format; and a
    column of values that lie within a factor of two, and of which rounding would make some equal, is stored as its
    differences to the one nearest to zero, so that an offset costs no digits. In fp64 columns are stored as they are.
    A threshold of tree_ is the largest number, in the units of X, that is stored as what goes left: so a prediction
    is a walk down tree_ with X in float64, on any computer, and ends in the leaf that the kernels would find.

    X may have missing values (NaN). At each split they go to the side that leaves less impurity, and in predictions
    to the same one; where a node had none, to the child of more samples. An infinite threshold parts the samples of
    missing values from all others.

    Of equally good splits, the one on the lowest feature is taken, and of those the one at the lowest threshold, in
    every precision, and nothing is drawn at random unless random_state or max_features asks for it. Small data are
    full of such ties, and the lowest feature need not be the best choice for other samples: scikit-learn's trees, which
    draw, are better on Iris by 0.008 on average over 100 splits, as are these with a random_state for each.

    Parameters
    ----------
    precision : str or Precision
        "fp64", "fp32", "fp16", "mixed_fp16", "mixed_bf16", an alias, or the long form.
    criterion : "gini", "entropy" or "log_loss" (the same as entropy)
    splitter : "best"
        The only one.
    max_depth : int or None
    min_samples_split, min_samples_leaf : int, or a fraction of the samples
    min_weight_fraction_leaf : float
        A share of the sum of all weights, up to 0.5.
    max_features : int, float, "sqrt", "log2" or None
        How many features, or which share of them, are drawn for each node: the same in every precision, and other ones
        than scikit-learn's. If none of them can be cut, the first one drawn after them that can is.
    max_leaf_nodes : int or None
        The tree is grown whole, and of it those nodes are kept that dividing the leaf of the largest gain each time
        leads to.
    min_impurity_decrease : float
        A gain that falls short of it by less than rounding may have cost, still counts.
    class_weight : dict, "balanced" or None
    ccp_alpha : float
        Of minimal cost-complexity pruning, which is scikit-learn's own.
    monotonic_cst : None
        There are no constraints.
    random_state : int, RandomState or None
        Unless it is None, a fit draws an order of the features, the same in every precision, and ties go to the first
        one in that order. scikit-learn draws one for each node. It also decides what max_features draws.
    exact_rows : int
        Nodes of more samples than this are split at the edges of 256 bins, smaller ones at any threshold. A fit of no
        more samples is a single launch.
    device : "gpu", "emulator" or None
        None is the GPU if there is one.

    Attributes
    ----------
    tree_ : sklearn.tree._tree.Tree
        The nodes in scikit-learn's own structure: export_text, plot_tree and what else reads one take it. Where weights
        are so large or so small that their sums leave float64's range, they are given times a power of two.
    classes_, n_classes_, n_outputs_, max_features_, n_features_in_, feature_names_in_, feature_importances_
        As in scikit-learn.
    stop_reason_ : "converged"
    precision_ : str
        The precision of the fit, in which predictions are made too.
    """

    _allows_nan = True
    _learns = ("tree_.value", "tree_.impurity", "tree_.weighted_n_node_samples")

    def __init__(self, precision="fp32", *, criterion="gini", splitter="best", max_depth=None, min_samples_split=2,
                 min_samples_leaf=1, min_weight_fraction_leaf=0.0, max_features=None, max_leaf_nodes=None,
                 min_impurity_decrease=0.0, class_weight=None, ccp_alpha=0.0, monotonic_cst=None, random_state=None,
                 exact_rows=2048, device=None):
        self.precision = precision
        self.criterion = criterion
        self.splitter = splitter
        self.max_depth = max_depth
        self.min_samples_split = min_samples_split
        self.min_samples_leaf = min_samples_leaf
        self.min_weight_fraction_leaf = min_weight_fraction_leaf
        self.max_features = max_features
        self.max_leaf_nodes = max_leaf_nodes
        self.min_impurity_decrease = min_impurity_decrease
        self.class_weight = class_weight
        self.ccp_alpha = ccp_alpha
        self.monotonic_cst = monotonic_cst
        self.random_state = random_state
        self.exact_rows = exact_rows
        self.device = device

    def fit(self, X, y, sample_weight=None):
        """Grows a tree on X (n_samples, n_features), in which NaN is a missing value, and the labels y (n_samples,).
        Returns self."""
        device, precision = self._where_and_how()
        check_parameters(self, RULES)
        X, y = self._checked_for_classes(X, y)
        criterion, rules = CRITERIA[self.criterion], self._rules(*X.shape)
        self.classes_, y_encoded = np.unique(y, return_inverse=True)
        self.n_classes_, self.n_outputs_ = len(self.classes_), 1
        weights = [] if sample_weight is None else [self._checked_weights(sample_weight, X)]
        if self.class_weight is not None:
            weights.append(compute_sample_weight(self.class_weight, y))
        if weights:
            counts = np.all([weight > 0 for weight in weights], axis=0)
            X, y_encoded, *weights = (a[counts] for a in (X, y_encoded, *weights))
            if not len(X):
                raise ValueError("sample_weight, times class_weight, is 0 for every sample: there is nothing to fit")
        weight, power = _as_integers(*weights) if weights else (None, 0)
        order = np.arange(X.shape[1])    # the kernels prefer the feature of the lowest number
        if self.random_state is not None:
            drawn = check_random_state(self.random_state)
            order = drawn.permutation(order)
        if self.max_features_ < len(order):
            drawn = check_random_state(None) if self.random_state is None else drawn
            rules = replace(rules, seed=int(drawn.randint(2 ** 31 - 1)))
        self._grow(device, precision, X, y_encoded, weight, power, criterion, rules, order)
        if self.ccp_alpha > 0:
            whole, self.tree_ = self.tree_, self._no_tree()
            _build_pruned_tree_ccp(self.tree_, whole, float(self.ccp_alpha))
        self.precision_ = str(precision)
        self._ended("converged")
        return self

    def cost_complexity_pruning_path(self, X, y, sample_weight=None):
        """What ccp_alpha prunes a tree of these data to, as in scikit-learn: a Bunch of `ccp_alphas`, at which the tree
        changes, and `impurities`, of its leaves from there on."""
        whole = clone(self).set_params(ccp_alpha=0.0).fit(X, y, sample_weight)
        return Bunch(**ccp_pruning_path(whole.tree_))

    def _rules(self, N, D):
        """The Rules, for N samples of D features. Sets max_features_."""
        def rows(value, at_least):
            return min(NONE // 2, int(value) if is_whole(value) else max(at_least, math.ceil(value * N)))
        most = self.max_features
        self.max_features_ = D if most is None else int(most) if is_whole(most) else max(1, int(
            math.sqrt(D) if most == "sqrt" else math.log2(D) if most == "log2" else most * D))
        depths = [NONE] if self.max_depth is None else [NONE, int(self.max_depth)]
        if self.max_leaf_nodes is not None:
            depths.append(int(self.max_leaf_nodes) - 1)    # no tree of so many leaves is deeper
        return Rules(max_depth=min(depths), min_split=rows(self.min_samples_split, 2),
                     least=rows(self.min_samples_leaf, 1), min_decrease=float(self.min_impurity_decrease),
                     exact=int(min(self.exact_rows, NONE)), most=min(self.max_features_, NONE))

    def _grow(self, device, precision, X, y, weight, power, criterion, rules, order):
        """Sets tree_. Weights are in units of 2^-power. What the kernels call feature k is column order[k] of X."""
        (N, D), C, weighted = X.shape, self.n_classes_, weight is not None
        everything = int(weight.sum()) if weighted else N
        rules = replace(rules, lightest=math.ceil(self.min_weight_fraction_leaf * everything))
        if not warps_for(C, weighted):
            raise ValueError(f"y has {C} classes, more than the kernels have room to count")
        if N * max(D, 2) > NONE:
            raise ValueError(f"X has {N} x {D} values, more than the 2^31 that the kernels can number")

        def per_element(p):
            return tree_fit.bytes_needed(p, D, N, C, weighted, rules) / (N * D)
        check_memory(device, int(per_element(precision) * N * D), precision, per_element)
        columns = Columns(X, precision.storage)
        grown = tree_fit.fit(
            device, precision, device.array(np.take(columns.stored(X).T, order, axis=0)),
            device.array(y.astype(np.int32)), device.array(weight) if weighted else None, C, criterion, rules,
            everything, bins_of(X))
        nodes, values, impurity = (device.to_host(a) for a in (grown.nodes, grown.values, grown.impurities))
        place, left, right = flatten(nodes)
        impurity, weights = impurity.astype(np.float64), values.astype(np.float64).sum(axis=1)
        if self.max_leaf_nodes is not None:
            removed = (weights * impurity)[place]
            gain = np.where(left < 0, 0, removed - removed[left] - removed[right])
            kept, left, right = best_first(left, right, gain, self.max_leaf_nodes)
            place = place[kept]
        leaf, missing = left < 0, nodes[place, Node.MISSING]
        feature = order[np.where(leaf, 0, nodes[place, Node.FEATURE])]
        count, whole = nodes[place, Node.COUNT], weights[place]
        table = np.zeros(len(place), NODE_DTYPE)
        table["left_child"], table["right_child"] = left, right
        table["feature"], table["threshold"] = np.where(leaf, -2, feature), -2
        table["threshold"][~leaf] = columns.largest(device.to_host(grown.threshold)[place[~leaf]], feature[~leaf])
        table["impurity"] = impurity[place]
        table["n_node_samples"], table["weighted_n_node_samples"] = count, np.ldexp(whole, -power)
        table["missing_go_to_left"] = ~leaf & np.where(missing < 0, count[left] > count[right], missing)
        self.tree_ = self._no_tree()
        self.tree_.__setstate__({"max_depth": int(nodes[place, Node.DEPTH].max()), "node_count": len(place),
                                 "nodes": table,
                                 "values": np.ascontiguousarray((values[place] / whole[:, None])[:, None, :])})

    def _no_tree(self):
        return Tree(self.n_features_in_, np.array([self.n_classes_], np.intp), 1)

    def apply(self, X):
        """The number of the leaf that each sample ends in. No kernel runs: see the class for why none is needed."""
        check_is_fitted(self)
        X = self._checked_for_predict(X)
        nodes = self.tree_.__getstate__()["nodes"]
        at, going = np.zeros(len(X), np.int64), np.arange(len(X))
        while len(going):
            node = nodes[at[going]]
            inner = node["left_child"] >= 0
            going, node = going[inner], node[inner]
            x = X[going, node["feature"]]
            goes_left = np.where(np.isnan(x), node["missing_go_to_left"], x <= node["threshold"])
            at[going] = np.where(goes_left, node["left_child"], node["right_child"])
        return at

    def predict_proba(self, X):
        """The share of each class, in the order of classes_, among the training samples of a sample's leaf."""
        check_is_fitted(self)
        return self.tree_.value[self.apply(X), 0]

    def predict_log_proba(self, X):
        """The logarithm of predict_proba."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict(self, X):
        """The class of the largest share, the first of equal ones."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

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


class Columns:
    """How the columns of X (n_samples, n_features) are rounded to a format: x becomes 2^exponent (x - origin)."""

    def __init__(self, X, storage):
        self.storage = storage
        self.origin, self.exponent = np.zeros(X.shape[1]), np.zeros(X.shape[1], int)
        if storage == FORMATS["float64"]:
            return
        low, high = (reduce(X, axis=0) for reduce in (np.fmin.reduce, np.fmax.reduce))
        for f in np.flatnonzero(((low > 0) & (high / 2 <= low)) | ((high < 0) & (low / 2 >= high))):
            self._fit_range(f, low[f], high[f])
            values = np.unique(X[:, f])    # differences of such numbers are exact (P. H. Sterbenz, 1974)
            if len(np.unique(self._round(values, f).astype(np.float64))) < len(values):
                self.origin[f] = low[f] if low[f] > 0 else high[f]
        for f in range(X.shape[1]):
            self._fit_range(f, low[f] - self.origin[f], high[f] - self.origin[f])

    def _fit_range(self, f, low, high):
        span = max(abs(low), abs(high))
        self.exponent[f] = room(self.storage) - math.frexp(span)[1] if span > 0 else 0

    def _round(self, x, f):
        with np.errstate(over="ignore"):    # what is beyond the range that was fitted is beyond every threshold
            return self.storage.round(np.ldexp(x - self.origin[f], self.exponent[f]))

    def stored(self, X):
        """X in the storage format."""
        return self._round(X, slice(None))

    def largest(self, threshold, feature):
        """The largest float64 numbers x of the features that are stored as `threshold` or less, by bisection."""
        threshold = threshold.astype(np.float64)
        if self.storage == FORMATS["float64"]:
            return threshold
        low, high = (_ordered(np.full(len(threshold), end).view(np.int64)) for end in (-np.inf, np.inf))
        for _ in range(64):
            middle = (low & high) + ((low ^ high) >> 1)
            goes_left = self._round(_ordered(middle).view(np.float64), feature).astype(np.float64) <= threshold
            low, high = np.where(goes_left, middle, low), np.where(goes_left, high, middle)
        return np.where(np.isinf(threshold), np.inf, _ordered(low).view(np.float64))


def _ordered(bits):
    """Integers in the order of the float64 numbers that have these bits; and back."""
    return np.where(bits < 0, bits ^ np.int64(2 ** 63 - 1), bits)


def _as_integers(*weights):
    """The products of positive weights as int64, whose sum has WEIGHT_BITS bits, and the power of two by which they
    were multiplied; or as much of it as keeps sums in the old unit, and a single 1, within float64's range."""
    product, exponent = 1.0, 0
    for weight in weights:
        largest = math.frexp(weight.max())[1]
        product, exponent = product * np.ldexp(weight, -largest), exponent + largest
    total = math.frexp(math.fsum(product))[1]
    integers = np.maximum(np.rint(np.ldexp(product, WEIGHT_BITS - 1 - total)), 1).astype(np.int64)
    return integers, WEIGHT_BITS - 1 - min(max(total + exponent, WEIGHT_BITS - 1022), 1023)


def best_first(left, right, gain, most):
    """The nodes of a tree of at most `most` leaves that comes about when the leaf of the largest gain is divided each
    time: their numbers in order of appearance, and links to the left and right ones by that order, -1 in a leaf."""
    kept, first = [0], [-1]    # old numbers, and the new number of the left child, after which the right one comes
    frontier = [(-gain[0], 0)]
    while frontier and len(kept) < 2 * most - 1:
        k = heapq.heappop(frontier)[1]
        if left[kept[k]] >= 0:
            first[k] = len(kept)
            for child in left[kept[k]], right[kept[k]]:
                heapq.heappush(frontier, (-gain[child], len(kept)))
                kept.append(child)
                first.append(-1)
    first = np.array(first)
    return np.array(kept), first, np.where(first < 0, -1, first + 1)
