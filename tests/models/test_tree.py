"""The decision tree: the same as scikit-learn's in fp64, of the same bits in every run, and at home in scikit-learn."""
import pickle
import warnings
from fractions import Fraction
from functools import partial
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
import sklearn.tree
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from numprec import device as devices
from numprec.kernels.networks.philox import permutation_oracle
from numprec.kernels.trees import descend, tree_fit
from numprec.kernels.trees.impurity import every_cut, left_over_of
from numprec.kernels.trees.nodes import Node, Rules, flatten
from numprec.models.tree import CRITERIA, Columns, DecisionTreeClassifier
from numprec.precision import PRECISIONS

matplotlib.use("Agg")
IRIS = load_iris(return_X_y=True)


def split(seed):
    X, y = IRIS
    return train_test_split(X, y, test_size=0.2, stratify=y, random_state=seed)


def without_ties(N, D, classes, options, weight=None):
    """Values that float32 holds, all different and well apart, and labels for which every node of the tree has one
    best cut, the others being worse by more than rounding. (In a node of two samples all features are equally good.)"""
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        X = np.stack([rng.permutation(N * 7)[:N] / 64 for _ in range(D)], axis=1)
        y = (X @ rng.standard_normal(D) / X.std() + rng.standard_normal(N)) // 1
        y = (y - y.min()).astype(int) % classes
        tree = sklearn.tree.DecisionTreeClassifier(random_state=0, **options).fit(X, y, weight)
        if not any(tied(X, y, tree, rows) for rows in tree.decision_path(X.astype(np.float32)).T.toarray() > 0):
            return X, y
    raise AssertionError("no such data")


def tied(X, y, tree, rows):
    """Whether the best cut of the samples `rows` has an equal. A tie of classes by their weights is not looked for."""
    if len(set(y[rows])) == 1 or rows.sum() < 2 * tree.min_samples_leaf:
        return False
    cuts = sorted(left_over_of(left, np.bincount(y[rows]), CRITERIA[tree.criterion])
                  for *_, left in every_cut(X[rows].T, y[rows], None)
                  if min(left.sum(), rows.sum() - left.sum()) >= tree.min_samples_leaf)
    return len(cuts) > 1 and cuts[1] - cuts[0] < 1e-9


def same_trees(ours, theirs):
    """Node for node: structure, features, thresholds and counts; impurities up to the rounding of scikit-learn's
    weighted sums, which add up to N terms of at most 1."""
    rounding = theirs.n_node_samples[0] * np.finfo(np.float64).eps
    for name in "children_left", "children_right", "feature", "threshold", "n_node_samples":
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    for name in "impurity", "value", "weighted_n_node_samples":
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-12, atol=rounding,
                                   err_msg=name)
    inner = theirs.children_left >= 0
    np.testing.assert_array_equal(ours.missing_go_to_left[inner], theirs.missing_go_to_left[inner])
    assert ours.max_depth == theirs.max_depth


def bits(model):
    state = model.tree_.__getstate__()
    return state["nodes"].tobytes() + state["values"].tobytes()


# ---- as scikit-learn

@pytest.mark.parametrize("options", [
    {}, {"criterion": "entropy"}, {"max_depth": 2}, {"min_samples_leaf": 5}, {"min_samples_split": 0.5},
    {"min_impurity_decrease": 0.01}, {"class_weight": "balanced"}, {"class_weight": {0: 2.5}, "criterion": "entropy"},
    {"class_weight": "balanced", "min_weight_fraction_leaf": 0.1}], ids=str)
@pytest.mark.parametrize("N, D, classes", [(80, 3, 2), (150, 4, 4)])
def test_node_for_node_in_fp64(N, D, classes, options):
    options = {"max_depth": 4, **options}
    X, y = without_ties(N, D, classes, options)
    ours = DecisionTreeClassifier("fp64", **options).fit(X, y)
    theirs = sklearn.tree.DecisionTreeClassifier(random_state=0, **options).fit(X, y)
    same_trees(ours.tree_, theirs.tree_)
    np.testing.assert_array_equal(ours.apply(X), theirs.apply(X))
    np.testing.assert_allclose(ours.feature_importances_, theirs.feature_importances_, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("seed", range(5))
def test_node_for_node_to_the_end(seed):
    """A single feature: both take the lowest of equally good thresholds, and whole trees agree."""
    rng = np.random.default_rng(seed)
    X, y = rng.permutation(400)[:120, None] / 8, rng.integers(0, 2, 120)
    same_trees(DecisionTreeClassifier("fp64").fit(X, y).tree_,
               sklearn.tree.DecisionTreeClassifier(random_state=0).fit(X, y).tree_)


def deterministic(X, y, options):
    """scikit-learn's tree, or None if it depends on the order in which features are drawn."""
    trees = [sklearn.tree.DecisionTreeClassifier(random_state=state, **options).fit(X, y) for state in range(6)]
    links = [(tree.tree_.feature.tobytes(), tree.tree_.threshold.tobytes()) for tree in trees]
    return trees[0] if len(set(links)) == 1 else None


@pytest.mark.parametrize("parameter, values", [("max_leaf_nodes", [2, 5, 9]), ("ccp_alpha", [0.004, 0.01, 0.03]),
                                               ("min_samples_leaf", [1, 3, 4])])
def test_missing_values_and_pruning_as_in_scikit_learn(parameter, values):
    """Missing by chance, or more often in one class; predictions see values that no node has seen missing."""
    compared = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        N, D = rng.integers(3, 60), rng.integers(1, 4)
        X = np.stack([rng.permutation(N * 7)[:N] / 64 for _ in range(D)], axis=1)
        y = (X[:, 0] > np.median(X[:, 0])) ^ (rng.random(N) < 0.15)
        X[(rng.random((N, D)) < 0.3) & (y | (rng.random(N) < seed % 3 / 2))[:, None]] = np.nan
        options = {parameter: values[seed % 3]}
        theirs = deterministic(X, y, options)
        if theirs is not None:
            ours = DecisionTreeClassifier("fp64", **options).fit(X, y)
            same_trees(ours.tree_, theirs.tree_)
            X_test = np.where(rng.random((N, D)) < 0.3, np.nan, X + rng.standard_normal((N, D)))
            for data in X, X_test:
                np.testing.assert_array_equal(ours.apply(data), theirs.apply(data))
            for name, path in ours.cost_complexity_pruning_path(X, y).items():
                np.testing.assert_allclose(path, theirs.cost_complexity_pruning_path(X, y)[name], atol=1e-12)
            compared.append(ours.tree_)
    assert len(compared) > 10 and max(tree.node_count for tree in compared) > 6
    if parameter == "min_samples_leaf":
        inner = [(tree.threshold[k], tree.missing_go_to_left[k]) for tree in compared
                 for k in np.flatnonzero(tree.feature >= 0)]
        assert {left for _, left in inner} == {0, 1} and (np.inf, 0) in inner


def test_sample_weight_in_fp64():
    weight = np.random.default_rng(1).random(200) * (np.arange(200) % 7 > 0)
    X, y = without_ties(200, 4, 3, {"max_depth": 4}, weight)
    ours = DecisionTreeClassifier("fp64", max_depth=4).fit(X, y, weight)
    theirs = sklearn.tree.DecisionTreeClassifier(max_depth=4, random_state=0).fit(X, y, weight)
    same_trees(ours.tree_, theirs.tree_)


def test_weights_of_any_size():
    """Weights that are all alike, of a sum beyond float64 or below its normal numbers, are weights of 1; a power of two
    changes no weight."""
    X, y = IRIS
    plain = DecisionTreeClassifier("fp64", max_depth=3).fit(X, y, np.ones(150))
    for scale in 1e308, 1e-300, 5e-324, 2.0 ** 900:
        model = DecisionTreeClassifier("fp64", max_depth=3).fit(X, y, np.full(150, scale))
        for name in "feature", "threshold", "n_node_samples":
            np.testing.assert_array_equal(getattr(model.tree_, name), getattr(plain.tree_, name))
        np.testing.assert_allclose(model.tree_.value, plain.tree_.value, rtol=1e-14)
        np.testing.assert_allclose(model.feature_importances_, plain.feature_importances_, rtol=1e-12)
        assert np.isfinite(model.tree_.weighted_n_node_samples).all() and model.stop_reason_ == "converged"
    model = DecisionTreeClassifier("fp64").fit([[0.0], [1.0]], [0, 1], [1e308, 1e308])
    assert (model.predict([[0], [1]]) == [0, 1]).all()
    weight = np.random.default_rng(0).random(150)
    plain = DecisionTreeClassifier("fp64").fit(X, y, weight)
    weights = dict.fromkeys(range(3), 2.0 ** 1000)
    model = DecisionTreeClassifier("fp64", class_weight=weights).fit(X, y, weight * 2.0 ** 900)
    np.testing.assert_array_equal(model.tree_.value, plain.tree_.value)
    small = DecisionTreeClassifier("fp64").fit(X, y, weight * 2.0 ** -60)
    np.testing.assert_array_equal(small.tree_.weighted_n_node_samples * 2.0 ** 60, plain.tree_.weighted_n_node_samples)
    with pytest.raises(ValueError, match="class_weight is None, 'balanced' or a dictionary of finite weights"):
        DecisionTreeClassifier(class_weight={0: -1.0}).fit(X, y)


def textbook(X, y):
    """Labels of a test set by CART in exact arithmetic, with the ties of this package: a function of the test set."""
    counts = np.bincount(y)

    def sides(rows):
        parts = [np.bincount(y[r]).tolist() for r in (rows, ~rows)]
        return sum(Fraction(sum(n * n for n in p), sum(p)) for p in parts)
    cuts = [(-sides(X[:, f] <= a), f, a, b) for f in range(X.shape[1])
            for a, b in pairwise(np.unique(X[:, f]))] if np.count_nonzero(counts) > 1 else []
    if not cuts:
        return lambda T: np.full(len(T), counts.argmax())
    _, f, a, b = min(cuts)
    left = X[:, f] <= a
    below, above = textbook(X[left], y[left]), textbook(X[~left], y[~left])
    return lambda T: np.where(T[:, f] <= a / 2 + b / 2, below(T), above(T))


def mean_accuracy(make, states):
    """Over 100 splits, with a random_state from `states` for each."""
    scores = []
    for seed, state in zip(range(100), states, strict=True):
        X, X_test, y, y_test = split(seed)
        scores.append(make(random_state=state).fit(X, y).score(X_test, y_test))
    return np.mean(scores)


def test_iris_accuracy_over_100_splits():
    """Iris is full of ties, so that a score depends on the order of the features. Where both draw, anew for each fit,
    the means agree; with 500 fits a mean has a standard error of 0.001."""
    def drawn(make):
        return np.mean([mean_accuracy(make, range(first, first + 100)) for first in range(0, 500, 100)])
    assert abs(drawn(partial(DecisionTreeClassifier, "fp64")) - drawn(sklearn.tree.DecisionTreeClassifier)) <= 0.005


def test_ties_on_iris_go_to_the_lowest_feature():
    """Without a random_state the tree is that of exact arithmetic, which is less accurate than one that draws."""
    for seed in range(0, 100, 10):
        X, X_test, y, _ = split(seed)
        predicted = DecisionTreeClassifier("fp64").fit(X, y).predict(X_test)
        np.testing.assert_array_equal(predicted, textbook(X, y)(X_test))
    lowest = mean_accuracy(partial(DecisionTreeClassifier, "fp64"), [None] * 100)
    assert abs(lowest - mean_accuracy(sklearn.tree.DecisionTreeClassifier, [0] * 100)) <= 0.01


def test_random_state_is_an_order_of_the_features(precision):
    """That of the columns of a permuted X, and so the same in every precision."""
    X, y = IRIS
    names = load_iris().feature_names
    for state in range(4):
        order = np.random.RandomState(state).permutation(4)
        model = DecisionTreeClassifier(precision, random_state=state).fit(X, y)
        permuted = DecisionTreeClassifier(precision).fit(X[:, order], y)
        features = permuted.tree_.feature
        np.testing.assert_array_equal(model.tree_.feature, np.where(features < 0, features, order[features]))
        np.testing.assert_array_equal(model.tree_.threshold, permuted.tree_.threshold)
        np.testing.assert_array_equal(model.predict(X), permuted.predict(X[:, order]))
        np.testing.assert_allclose(model.feature_importances_[order], permuted.feature_importances_, rtol=1e-12)
        assert bits(clone(model).fit(X, y)) == bits(model) and sklearn.tree.export_text(model, feature_names=names)
    drawn = np.random.RandomState(0)
    assert len({bits(DecisionTreeClassifier(precision, random_state=drawn).fit(X, y)) for _ in range(8)}) > 1


def test_data_without_ties_know_no_order():
    X, y = without_ties(80, 3, 2, {"max_depth": 4})
    trees = [bits(DecisionTreeClassifier("fp64", max_depth=4, random_state=state).fit(X, y)) for state in (None, 1, 2)]
    assert len(set(trees)) == 1


def test_label_differences_to_fp64():
    """float32, and halves with sums in float32, see all of Iris: its values stay apart, and the gains in order. Pure
    float16 rounds gains, so that some ties are broken otherwise."""
    differences = dict.fromkeys(PRECISIONS, 0)
    for seed in range(20):
        X, X_test, y, y_test = split(seed)
        exact = DecisionTreeClassifier("fp64").fit(X, y).predict(X_test)
        for name in PRECISIONS:
            differences[name] += (DecisionTreeClassifier(name).fit(X, y).predict(X_test) != exact).sum()
    assert differences["fp64"] == differences["fp32"] == 0
    assert max(differences.values()) <= 0.03 * 600, differences


@parametrize_with_checks([DecisionTreeClassifier()])
def test_scikit_learn_accepts_it(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


def test_it_is_drawn_by_scikit_learn():
    X, y = IRIS
    model = DecisionTreeClassifier(max_depth=2).fit(X, y)
    theirs = sklearn.tree.DecisionTreeClassifier(max_depth=2, random_state=2).fit(X, y)
    text = sklearn.tree.export_text(model, feature_names=load_iris().feature_names)
    assert "petal length (cm) <= 2.45" in text and text.count("class:") == model.get_n_leaves()
    assert len(sklearn.tree.plot_tree(model, filled=True)) >= model.tree_.node_count
    assert "digraph" in sklearn.tree.export_graphviz(model)
    assert isinstance(model.tree_, type(theirs.tree_))
    matplotlib.pyplot.close("all")


def test_in_a_pipeline_and_a_grid_search():
    X, y = IRIS
    pipe = make_pipeline(StandardScaler(), DecisionTreeClassifier())
    search = GridSearchCV(pipe, {"decisiontreeclassifier__precision": ["fp64", "fp16"],
                                 "decisiontreeclassifier__max_depth": [1, 3]}, cv=3).fit(X, y)
    assert search.best_score_ > 0.9 and search.best_params_["decisiontreeclassifier__max_depth"] == 3


# ---- whatever comes, in every precision

def test_string_labels(precision):
    X, y = IRIS
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    model = DecisionTreeClassifier(precision).fit(X, names)
    assert model.score(X, names) > 0.98 and set(model.classes_) == set(names)
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1)


@pytest.mark.parametrize("n", range(1, 6))
def test_few_samples(precision, n):
    X, y = np.arange(3.0 * n).reshape(n, 3), np.arange(n)
    model = DecisionTreeClassifier(precision).fit(X, y)
    assert (model.predict(X) == y).all() and model.get_n_leaves() == n


def test_one_class_is_one_leaf(precision):
    model = DecisionTreeClassifier(precision).fit(np.arange(10.0)[:, None], ["only"] * 10)
    assert model.get_n_leaves() == 1 and model.get_depth() == 0 and model.predict([[99.0]]) == ["only"]
    assert (model.feature_importances_ == 0).all() and model.stop_reason_ == "converged"


def test_samples_that_no_feature_separates(precision):
    """Constant features, and the same row with two labels: a leaf that is not pure, and the first class of equals."""
    model = DecisionTreeClassifier(precision).fit(np.ones((4, 3)), [1, 0, 1, 0])
    assert model.get_n_leaves() == 1 and (model.predict(np.ones((2, 3))) == 0).all()
    np.testing.assert_array_equal(model.predict_proba(np.ones((1, 3))), [[0.5, 0.5]])
    X = np.array([[0, 7], [0, 7], [1, 7], [1, 7.0]])
    model = DecisionTreeClassifier(precision).fit(X, [0, 1, 1, 1])
    assert model.get_n_leaves() == 2 and model.tree_.feature[0] == 0
    np.testing.assert_array_equal(model.predict_proba(X)[:, 1], [0.5, 0.5, 1, 1])


def test_more_features_than_samples(precision):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((6, 100)), [0, 1, 2, 0, 1, 2]
    assert DecisionTreeClassifier(precision).fit(X, y).score(X, y) == 1


def test_unbalanced(precision):
    X = np.arange(200.0)[:, None]
    y = np.arange(200) == 150
    model = DecisionTreeClassifier(precision).fit(X, y)
    assert model.score(X, y) == 1
    assert model.get_n_leaves() == 3 or precision.accum.bits == 16    # where several cuts seem equally good


def test_near_the_limit_of_the_format(precision):
    """Half of the sum of two neighbours would overflow; the sum of their halves does not."""
    top = precision.storage.max
    X = np.array([-top, -top / 2, 0.75 * top, top])[:, None]
    model = DecisionTreeClassifier(precision).fit(X, [0, 1, 2, 3])
    assert model.score(X, [0, 1, 2, 3]) == 1 and np.isfinite(model.tree_.threshold).all()
    if precision.storage.max < 1e300:    # a power of two brings more into the range
        for scale in 2.0, 1e250, 1e-250:
            assert DecisionTreeClassifier(precision).fit(X * scale, [0, 1, 2, 3]).score(X * scale, [0, 1, 2, 3]) == 1
    small = np.array([0, 1, 2, 3])[:, None] * precision.storage.eta
    assert DecisionTreeClassifier(precision).fit(small, [0, 1, 0, 1]).score(small, [0, 1, 0, 1]) == 1


def test_neighbours_of_a_format_are_split(precision):
    """A threshold between two neighbours rounds onto one of them: it must be the left one."""
    for k in 1, 2, 3:
        x = np.array([1 + 2 * precision.storage.u * k, 1 + 2 * precision.storage.u * (k + 1)])[:, None]
        model = DecisionTreeClassifier(precision).fit(x, [0, 1])
        assert x[0] <= model.tree_.threshold[0] < x[1] and (model.predict(x) == [0, 1]).all()
        assert model.tree_.threshold[0] == x[0] or precision.storage.bits < 64


def test_an_offset_costs_no_digits(precision):
    """Seconds since 1970, of which float32 holds every 128th, float16 none and bfloat16 one in 8 million."""
    t = (1.7e9 + 2 * np.arange(60.0))[:, None]
    y = np.arange(60) % 2
    for X in t, -t, np.hstack([np.ones((60, 1)), t * 2.0 ** 900]), np.where(np.arange(60)[:, None] == 7, np.nan, t):
        model = DecisionTreeClassifier(precision).fit(X, y)
        assert model.score(X, y) == 1 and model.get_n_leaves() >= 58
    exact = DecisionTreeClassifier("fp64", max_depth=1).fit(t, y > 0.5 * (np.arange(60) > 20)).tree_.threshold[0]
    stump = DecisionTreeClassifier(precision, max_depth=1).fit(t, y > 0.5 * (np.arange(60) > 20)).tree_.threshold[0]
    assert abs(stump - exact) < 1


@pytest.mark.parametrize("offset", [0, 1000.0, -3e7])
def test_a_prediction_is_the_kernels(precision, offset, device, monkeypatch):
    """The walk down tree_ in float64, wherever it is made, ends in the leaf that the kernel finds for the stored data:
    also next to a threshold, beyond all values, and where a value is missing."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((200, 3)) + offset, rng.integers(0, 3, 200)
    X[:, 2] = np.round(X[:, 2] - offset, 1)
    X[rng.random((200, 3)) < 0.1] = np.nan
    model = DecisionTreeClassifier(precision).fit(X, y)
    tree, columns = model.tree_, Columns(X, precision.storage)
    inner = tree.children_left >= 0
    near = [tree.threshold[np.isfinite(tree.threshold) & (tree.feature == f)] for f in range(3)]
    near = [np.concatenate([x, np.nextafter(x, np.inf), np.nextafter(x, -np.inf), [np.nan, 1e300, -1e300, 0]])
            for x in near]
    X_test = np.stack([rng.choice(x, 500) for x in near], axis=1)
    links = np.stack([tree.feature, tree.children_left, tree.children_right, tree.missing_go_to_left], axis=1)
    stored = np.where(inner, tree.threshold, 0.0)
    threshold = np.array([columns.stored(np.full((1, 3), t))[0, f] for t, f in zip(stored, tree.feature)])
    monkeypatch.setenv("NUMPREC_DEVICE", "gpu")
    elsewhere = pickle.loads(pickle.dumps(model)).set_params(device="gpu")
    for data in X, X_test:
        leaf = descend.launch(device, descend.walk, precision, device.array(np.ascontiguousarray(
            columns.stored(data).T)), device.array(links.astype(np.int32)), device.array(threshold))
        np.testing.assert_array_equal(model.apply(data), device.to_host(leaf))
        np.testing.assert_array_equal(elsewhere.apply(data), model.apply(data))
    assert (model.tree_.n_node_samples[model.apply(X)] >= 1).all()
    for leaf in np.unique(model.apply(X)):
        assert (model.apply(X) == leaf).sum() == tree.n_node_samples[leaf]


def test_ties(precision):
    """The lowest feature, also against a copy and a mirror image; then the lowest threshold."""
    rng = np.random.default_rng(0)
    x = rng.permutation(40).astype(float)
    y = x > 17
    for X in (np.stack([x, x], axis=1), np.stack([-x, x], axis=1), np.stack([x % 2, x, -x, x], axis=1)):
        model = DecisionTreeClassifier(precision).fit(X, y)
        assert model.tree_.feature[0] == (1 if X.shape[1] == 4 else 0)
    model = DecisionTreeClassifier(precision, max_depth=1).fit(np.arange(6.0)[:, None], [0, 1, 1, 1, 1, 0])
    assert precision.storage.round(model.tree_.threshold[0]) == 0.5


def test_counts_beyond_float16():
    """float16 holds no odd number above 2048, and nothing above 65504; counts are integers."""
    X, y = np.arange(3001.0)[:, None] % 1500, np.arange(3001) % 1500 < 700
    model = DecisionTreeClassifier("fp16", exact_rows=4000).fit(X, y)
    assert model.tree_.n_node_samples[0] == 3001 and model.score(X, y) == 1
    X = np.repeat([[0.0], [1.0]], [70_001, 2], axis=0)
    model = DecisionTreeClassifier("fp16").fit(X, X[:, 0])
    assert list(model.tree_.weighted_n_node_samples) == [70_003, 70_001, 2] and model.score(X, X[:, 0]) == 1


def test_max_features(precision):
    """The root takes the best of the features that its number draws, a node of a constant one the next that can be cut,
    and so the tree is whole; each precision draws alike."""
    X, y = IRIS
    for state in range(4):
        drawn = np.random.RandomState(state)
        order = drawn.permutation(4)
        place = permutation_oracle((drawn.randint(2 ** 31 - 1), 1), np.arange(4))
        one, two = (DecisionTreeClassifier(precision, max_features=most, random_state=state).fit(X, y)
                    for most in (1, 0.5))
        assert one.max_features_ == 1 and two.max_features_ == 2
        assert one.tree_.feature[0] == order[place == 0] and two.tree_.feature[0] in order[place < 2]
        assert one.get_n_leaves() >= two.get_n_leaves() > 1 and one.score(X, y) == two.score(X, y) == 1
        assert bits(clone(one).fit(X, y)) == bits(one)
    constant = np.hstack([np.zeros((150, 9)), X[:, 2:3]])
    for most in "sqrt", "log2", 1, 0.01:
        model = DecisionTreeClassifier(precision, max_features=most, random_state=0).fit(constant, y)
        assert model.max_features_ == {"sqrt": 3, "log2": 3}.get(most, 1) and set(model.tree_.feature) == {9, -2}
    most = DecisionTreeClassifier(precision, max_features=4, random_state=1).fit(X, y)
    assert bits(most) == bits(DecisionTreeClassifier(precision, random_state=1).fit(X, y))


# ---- many rows

WEIGHTED = {"criterion": "entropy", "class_weight": "balanced"}


@pytest.mark.parametrize("precision, options", [*((str(p), {}) for p in PRECISIONS), ("fp32", WEIGHTED),
                                                ("fp16", WEIGHTED)], ids=str)
def test_by_levels(precision, options):
    """With fewer values than bins, histograms find the same cuts as an exact search: the rows are divided alike."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 40, (1500, 3)).astype(float)
    y = (X[:, 0] + rng.integers(0, 20, 1500)) // 20 + (X[:, 1] > 20)
    missing = np.where((rng.random((1500, 3)) < 0.1) | ((y == 1) & (rng.random(1500) < 0.5))[:, None], np.nan, X)
    for data, more in (X, {}), (missing, {}), (missing, {"max_features": 1, "random_state": 3}):
        exact = DecisionTreeClassifier(precision, **options, **more).fit(data, y)
        binned = DecisionTreeClassifier(precision, exact_rows=100, **options, **more).fit(data, y)
        for name in "n_node_samples", "feature", "value", "missing_go_to_left":
            np.testing.assert_array_equal(getattr(binned.tree_, name), getattr(exact.tree_, name))


def test_launches_and_accuracy_of_many_rows():
    """O(depth) launches; as accurate as scikit-learn."""
    X, y = make_classification(6000, 8, n_informative=5, random_state=0)
    X, X_test, y, y_test = train_test_split(X, y, random_state=0)
    device = devices.get()
    before = device.launches
    model = DecisionTreeClassifier(max_depth=8, exact_rows=256).fit(X, y)
    assert device.launches - before <= 9 * 8 + 4
    theirs = sklearn.tree.DecisionTreeClassifier(max_depth=8, random_state=0).fit(X, y)
    assert model.score(X_test, y_test) >= theirs.score(X_test, y_test) - 0.02


def test_iris_is_one_launch(precision):
    device = devices.get()
    before = device.launches
    DecisionTreeClassifier(precision).fit(*IRIS)
    assert device.launches - before == 1


# ---- the same bits

def test_twenty_orders_of_threads(precision):
    X, _, y, _ = split(0)
    plain = DecisionTreeClassifier(precision).fit(X, y)
    assert bits(DecisionTreeClassifier(precision).fit(X, y)) == bits(plain)
    for seed in range(20):
        device = devices.get(seed=seed)
        grown = tree_fit.fit(device, precision, device.array(np.ascontiguousarray(X.T), precision.storage),
                             device.array(y.astype(np.int32)), C=3)
        nodes = device.to_host(grown.nodes)
        place, left, _ = flatten(nodes)
        np.testing.assert_array_equal(left, plain.tree_.children_left)
        np.testing.assert_array_equal(np.where(left < 0, -2, nodes[place, Node.FEATURE]), plain.tree_.feature)
        thresholds = device.to_host(grown.threshold)[place].astype(float)
        expected = precision.storage.round(plain.tree_.threshold).astype(float)
        np.testing.assert_array_equal(np.where(left < 0, -2, thresholds), expected)
        np.testing.assert_array_equal(device.to_host(grown.impurities)[place], plain.tree_.impurity)


def test_orders_of_threads_by_levels(precision):
    rng = np.random.default_rng(0)
    X, y = precision.storage.round(rng.standard_normal((3, 900))), rng.integers(0, 3, 900).astype(np.int32)
    trees = []
    for seed in None, 1, 2:
        device = devices.get(seed=seed)
        grown = tree_fit.fit(device, precision, device.array(X), device.array(y), C=3, rules=Rules(exact=100))
        place, *links = flatten(device.to_host(grown.nodes))
        trees.append([device.to_host(a)[place].tobytes() for a in (grown.nodes, grown.impurities, grown.values)])
    assert trees[0] == trees[1] == trees[2]


# ---- conventions

@pytest.mark.parametrize("parameters, says", [
    ({"criterion": "ginni"}, "Did you mean 'gini'"), ({"precision": "fp61"}, "Did you mean"),
    ({"max_depth": 0}, "max_depth is a whole number of at least 1 or None"), ({"exact_rows": 0}, "exact_rows"),
    ({"min_samples_split": 1}, "min_samples_split"), ({"min_samples_leaf": 0.0}, "fraction"),
    ({"min_impurity_decrease": -1}, "at least 0"), ({"criterion": ["gini"]}, "unknown criterion"),
    ({"splitter": "random"}, "splitter is 'best', the only one implemented here, not 'random'"),
    ({"monotonic_cst": [1, 0, 0, 0]}, "monotonic_cst is None, as constraints are not implemented here"),
    ({"max_features": "auto"}, "'sqrt', 'log2' or None, not 'auto'"), ({"max_features": 0}, "max_features"),
    ({"max_leaf_nodes": 1}, "max_leaf_nodes is a whole number of at least 2 or None, not 1"),
    ({"ccp_alpha": np.nan}, "ccp_alpha is a number of at least 0, not nan"), ({"class_weight": "even"}, "'balanced'"),
    ({"min_samples_leaf": np.ones((3, 3))}, "not an array of shape"), ({"random_state": "x"}, "a RandomState"),
    *(({name: {"a": [None]}}, f"{name} is ") for name in (
        "max_depth", "min_samples_split", "min_weight_fraction_leaf", "min_impurity_decrease", "exact_rows")),
], ids=str)
def test_bad_parameters(parameters, says):
    with pytest.raises(ValueError, match=says) as refused:
        DecisionTreeClassifier(**parameters).fit(*IRIS)
    assert "\n" not in str(refused.value)


def test_bad_data():
    X, y = IRIS
    model = DecisionTreeClassifier()
    with pytest.raises(NotFittedError):
        model.predict(X)
    with pytest.raises(ValueError, match="infinity .1 value, the first in row 3, column 2"):
        bad = X.copy()
        bad[3, 2] = np.inf
        model.fit(bad, y)
    with pytest.raises(ValueError, match="non-zero"):
        model.fit(X, y, np.zeros(len(y)))
    with pytest.raises(ValueError, match="nothing to fit"):
        DecisionTreeClassifier(class_weight={0: 0, 1: 0, 2: 0}).fit(X, y)
    with pytest.raises(ValueError, match="expecting 4 features"):
        model.fit(X, y).predict(X[:, :3])


def test_copies():
    X, y = IRIS
    model = DecisionTreeClassifier("bf16-mixed", max_depth=4).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert bits(clone(model).fit(X, y)) == bits(model)
    assert bits(clone(model).fit(np.asfortranarray(X.astype(">f8")), list(y))) == bits(model)
