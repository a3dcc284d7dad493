"""The way down a finished tree.

Idea       A row walks alone: 32 of them in a warp part at the first node and wait for the one that walks longest.
Maths      from the root, to the left child if X[feature, n] <= threshold, or if it is missing (NaN) and the
           node sends that left; else to the right one
Shapes     X (D, M): storage, links (K, 4): int32, see Link: feature (-1 in a leaf), left, right, and whether missing
           values go left; threshold (K,): storage
Mapping    a thread per row
Precision  exact: thresholds and features have one format
Ladder     one step
Cost       no flops; of each row, a value for each level, but no more than D of them, and its leaf; every node once
"""
import numpy as np
from numba import cuda

from numprec.kernels.trees.sort import THREADS
from numprec.language.columns import columns
from numprec.language.ladder import draw, operation, rung


# ---- oracle

def oracle(X, links, threshold):
    at = np.zeros(X.shape[1], int)
    while (links[at, 0] >= 0).any():
        f, t = np.maximum(links[at, 0], 0), threshold[at].astype(np.float64)
        x = X[f, np.arange(len(at))].astype(np.float64)
        left = np.where(np.isnan(x), links[at, 3] > 0, x <= t)
        at = np.where(links[at, 0] < 0, at, np.where(left, links[at, 1], links[at, 2]))
    return at


Link = columns("Link", "FEATURE LEFT RIGHT MISSING_LEFT")


# ---- kernel

@rung
def walk(p):
    accum = p.accum

    @cuda.jit
    def descend_walk(X, links, threshold, leaf):
        n = cuda.grid(1)
        if n < X.shape[1]:
            k = 0
            while links[k, Link.FEATURE] >= 0:
                x = accum(X[links[k, Link.FEATURE], n])
                goes_left = x <= accum(threshold[k]) or (x != x and links[k, Link.MISSING_LEFT] > 0)
                k = links[k, Link.LEFT] if goes_left else links[k, Link.RIGHT]
            leaf[n] = k
    return descend_walk


# ---- host side

def launch(device, rung, precision, X, links, threshold):
    """The leaf of each column of X."""
    leaf = device.empty(X.shape[1], np.int32)
    device.launch(rung[precision], -(-X.shape[1] // THREADS), THREADS, X, links, threshold, leaf)
    return leaf


# ---- how it is judged

def error_bound(precision, *arrays):
    return 0


def cost(precision, D, M, depth):
    storage, nodes = precision.storage.bytes, 2 ** (depth + 1) - 1
    return {"flops": 0, "bytes": M * (min(D, depth) * storage + 4) + nodes * (16 + storage)}


def inputs(rng, shape, kind, precision):
    """A complete tree of some depth, except that some nodes are leaves early. A threshold may equal a value, and some
    values are missing."""
    D, M, depth = shape
    K = 2 ** (depth + 1) - 1
    k = np.arange(K)
    feature = np.where((k < K // 2) & (rng.random(K) < 0.9), rng.integers(0, D, K), -1)
    X = draw(rng, (D, M), kind, precision)
    threshold = rng.choice(X.ravel(), K)
    X[rng.random((D, M)) < 0.1] = np.nan
    return X, np.stack([feature, 2 * k + 1, 2 * k + 2, rng.integers(0, 2, K)], axis=1).astype(np.int32), threshold


operation("descend", oracle=oracle, error_bound=error_bound, launch=launch, cost=cost,
          inputs=inputs, shapes=((1, 1, 0), (3, 257, 5), (2, 1000, 9)),
          bench_shapes={"smoke": (4, 150, 5), "quick": (8, 10_000, 10), "full": (32, 1_000_000, 12)},
          cost_differs="Nodes that nobody comes to are not read, nor values that no node on a row's way asks for.")
