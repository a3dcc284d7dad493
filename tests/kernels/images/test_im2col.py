"""im2col: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
import pytest
from ladders import Ladder

from numprec.kernels.images.im2col import Window, window

LINE_OF_PIXELS = np.array([1, 2, 3]).reshape(1, 1, 3, 1)
EXAMPLES = {
    "im2col": ((LINE_OF_PIXELS,), [[0, 1, 2], [1, 2, 3], [2, 3, 0]]),    # 3 x 3 windows are cut down to 1 x 3
    "col2im": ((np.ones((3, 3)), LINE_OF_PIXELS), np.reshape([2, 3, 2], (1, 1, 3, 1))),
}


class TestIm2col(Ladder):
    chapter = "im2col"
    examples = EXAMPLES
    exact = ("im2col",)


@pytest.mark.parametrize("image, size, stride, padding, expected", [
    ((5, 7), (3, 3), 1, "same", Window(3, 3, 1, 1, 1, 5, 7)),
    ((5, 7), (3, 3), 1, "valid", Window(3, 3, 1, 0, 0, 3, 5)),
    ((6, 7), (3, 3), 2, "same", Window(3, 3, 2, 0, 1, 3, 4)),    # one row of padding goes below
    ((6, 7), (2, 2), 2, "valid", Window(2, 2, 2, 0, 0, 3, 3)),
    ((4, 4), (2, 2), 1, "same", Window(2, 2, 1, 0, 0, 4, 4)),
    ((1, 9), (3, 3), 1, "same", Window(1, 3, 1, 0, 1, 1, 9)),    # cut down to the image
    ((1, 1), (2, 2), 2, "valid", Window(1, 1, 2, 0, 0, 1, 1)),
    ((8, 5), (1, 4), 3, "same", Window(1, 4, 3, 0, 1, 3, 2))])
def test_window(image, size, stride, padding, expected):
    assert window(image, size, stride, padding) == expected
