"""The data sets: what they contain, where it is from, and how they are split."""
import numpy as np
import pytest

from numprec import datasets

# shape, dtype, number of classes, and how the arrays' SHA-256 begins; scikit-learn computes the scaling of diabetes,
# so its last bits are not the data's
FACTS = {
    "iris": ((150, 4), np.float64, 3, "0055ca9c3c36"),
    "diabetes": ((442, 10), np.float64, None, ""),
    "diabetes_raw": ((442, 10), np.float64, None, "e9c1f7559552"),
    "digits": ((1797, 64), np.uint8, 10, "fe61bc84cd6a"),
}


def test_every_data_set_is_tested():
    assert set(FACTS) == set(datasets.names())


@pytest.mark.parametrize("name", FACTS)
def test_contents(name):
    shape, dtype, classes, digest = FACTS[name]
    data = datasets.load(name)
    assert data.name == name and data.X.shape == shape and data.X.dtype == dtype
    assert data.task == ("classification" if classes else "regression")
    assert classes is None or len(np.unique(data.y)) == classes
    assert data.source and data.licence and data.stand_in is None
    assert data.sha256.startswith(digest)


@pytest.mark.parametrize("name", FACTS)
def test_splits_are_paired_and_complete(name):
    data = datasets.load(name)
    one, again, other = data.split(1), data.split(1), data.split(2)
    for a, b in zip(one, again):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one.y_test, other.y_test)
    assert len(one.X_train) + len(one.X_test) == len(data.X)
    assert len(one.y_test) == pytest.approx(0.2 * len(data.y), abs=1)
    np.testing.assert_array_equal(np.sort(np.concatenate([one.y_train, one.y_test])), np.sort(data.y))
    assert data.test_to_train == pytest.approx(0.25)


def test_classes_keep_their_shares():
    split = datasets.load("iris").split(0)
    np.testing.assert_array_equal(np.bincount(split.y_test), (10, 10, 10))


def test_arrays_are_shared_and_read_only():
    data = datasets.load("iris")
    assert datasets.load("iris") is data
    with pytest.raises(ValueError, match="read-only"):
        data.X[0, 0] = 0


def test_a_test_set_of_its_own_is_every_split():
    X, y = np.zeros((4, 1)), np.zeros(4)
    data = datasets.Dataset("own", "regression", X, y, "nowhere", "none", test=(X[:1], y[:1]))
    assert data.split(0).X_test is data.split(1).X_test is data.test[0]
    assert data.test_to_train == 0


def test_unknown_name():
    with pytest.raises(ValueError, match="Did you mean 'diabetes'"):
        datasets.load("diabetis")
