"""Augmentation: each image of a batch is mirrored or not, and shifted, at random.

Idea       Each thread computes where its element comes from: mirror and shift are index arithmetic on one copy.
Maths      Y[b, h, w, c] = X[b, h + v, w' + u, c], and 0 outside of the image; w' is w, or W - 1 - w where mirrored
           mirrored (one in two), v and u (each from -reach to reach) are random numbers of (seed, step, b)
Shapes     X, Y (B, H, W, C): storage; state: see `batch`
Mapping    an element to a thread, (w, c) along x
Precision  nothing is rounded, and every precision sees the same images
Ladder     one step
Cost       no flops; B H W C elements read and written
Sources    A. Krizhevsky, I. Sutskever and G. E. Hinton, ImageNet classification with deep convolutional neural
               networks, NIPS 2012, section 4.1
"""
import numpy as np
from numba import cuda, uint32

from numprec.kernels.images.im2col import BLOCK
from numprec.kernels.networks.batch import STATE, State
from numprec.kernels.networks.philox import random_word, words
from numprec.language.indices import divmod32
from numprec.language.ladder import draw, operation, rung

STREAM = 2               # of random numbers, see `philox`
REACH = 4                # pixels


def oracle(X, state, reach=REACH):
    B, H, W, C = X.shape
    word = words((state[State.SEED], state[State.STEP]), np.arange(B), STREAM).astype(np.int64)
    padded = np.pad(X.astype(np.float64), ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    span = 2 * reach + 1
    Y = np.empty(X.shape)
    for b in range(B):
        v, u = (word[b] >> 1 & 0x7FFF) * span >> 15, (word[b] >> 16 & 0x7FFF) * span >> 15
        image = padded[b, v:v + H, u:u + W]
        Y[b] = image[:, ::-1] if word[b] & 1 else image
    return Y


@rung
def shift(p, reach=REACH):
    storage = p.storage
    span = 2 * reach + 1

    @cuda.jit
    def augment_shift(X, state, Y):
        wc, bh = cuda.grid(2)
        B, H, W, C = X.shape
        if bh < B * H and wc < W * C:
            b, h = divmod32(bh, H)
            w, c = divmod32(wc, C)
            word = random_word(state[State.SEED], state[State.STEP], b, STREAM, 0)
            i = uint32(h + ((word >> 1 & 0x7FFF) * span >> 15) - reach)
            j = uint32((W - 1 - w if word & 1 else w) + ((word >> 16 & 0x7FFF) * span >> 15) - reach)
            Y[b, h, w, c] = X[b, i, j, c] if i < H and j < W else storage(0)
    return augment_shift


def launch(device, rung, precision, X, state, reach=REACH, out=None):
    B, H, W, C = X.shape
    Y = device.empty(X.shape, precision.storage) if out is None else out
    device.launch(rung.variant(precision, reach=reach), (-(-W * C // BLOCK[0]), -(-B * H // BLOCK[1])), BLOCK,
                  X, state, Y)
    return Y


def inputs(rng, shape, kind, precision):
    state = np.zeros(STATE, np.int64)
    state[[State.SEED, State.STEP]] = rng.integers(0, 2 ** 31, 2)
    return draw(rng, shape, kind, precision), state


operation("augment", inputs=inputs, oracle=oracle, error_bound=lambda precision, *arrays: 0.0, launch=launch,
          cost=lambda precision, B, H, W, C: {"flops": 0, "bytes": 2 * B * H * W * C * precision.storage.bytes},
          cost_differs="Pixels that are shifted out of the image are not read.",
          shapes=((1, 1, 1, 1), (9, 7, 11, 3), (5, 2, 33, 1)),
          bench_shapes={"smoke": (8, 16, 16, 3), "quick": (64, 32, 32, 3), "full": (512, 32, 32, 3)})
