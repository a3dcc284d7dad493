"""qr: the operations of its ladder, and what the chapter promises besides."""
import numpy as np
from ladders import Ladder

from numprec.kernels.equations import qr
from numprec.precision import PRECISIONS

EXAMPLES = {
    "qr": ((np.array([[1, 1], [0, 1], [2, 0]]),), [[5, 1], [1, 2]]),
}
FP16 = PRECISIONS["fp16"]


class TestQr(Ladder):
    chapter = "qr"
    examples = EXAMPLES


def test_each_step_of_a_reflection_is_rounded(device):
    """In pure fp16, to the bit as in NumPy, which rounds each operation by itself: products that are used twice, and
    sums that are divided."""
    for A in np.random.default_rng(5).standard_normal((200, 2, 2)).astype(np.float16):
        R = device.to_host(qr.launch(device, qr.block, FP16, device.array(A, FP16.storage)))
        (lead, head), (below, other) = A
        norm = np.sqrt(lead * lead + below * below)
        beta = -norm if lead > 0 else norm
        first = lead - beta
        f = -first / beta * (head + below / first * other)
        assert R[0, 0] == beta and R[0, 1] == head - f


def test_stacks_of_factors_shrink():
    for N in 1, 1024, 1025, 10 ** 6, 10 ** 8:
        for P in 1, 11, 65, 1000:
            levels, left = qr._levels(N, P), N
            for _ in range(levels - 1):
                assert left > qr.rows_of_block(P)
                left = -(-left // qr.rows_of_block(P)) * P
            assert left <= qr.rows_of_block(P)
