"""The tests that all chapters share: their data are what the names say."""
import numpy as np
import pytest

from numprec.language.ladder import KINDS, draw


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(precision, kind):
    """The data are what their names say, once rounded."""
    x = precision.storage.round(draw(np.random.default_rng(0), 1000, kind, precision, terms=10)).astype(np.float64)
    top, tiny = precision.storage.max, precision.storage.tiny
    assert {"random": x.min() < -1 and x.max() > 1, "same_sign": x.min() >= 0 and x.max() <= 1,
            "large": top / 20 < x.min() and x.max() <= top / 10, "overflow": x.min() > top / 5,
            "subnormal": 0 < abs(x).max() <= tiny}[kind]
