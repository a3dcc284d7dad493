"""Rows sorted by the side of the cut that they fall on, in all nodes at once.

Idea       Where a row goes depends on how many go before it: a prefix sum tells each thread at once, without a queue.
Maths      rows START .. START + COUNT of a node are divided, in their order, into those left of its cut and the others;
           the place where the right ones begin, CUT, is in START < CUT < START + COUNT

    one node of six rows, cut at place 2

        place           0  1  2  3  4  5
        row             0  1  2  3  4  5
        goes left       0  1  0  0  1  0
        lefts before    0  0  1  1  1  2       the exclusive prefix sum
        moves to        2  0  3  4  1  5       left: START + lefts before; right: CUT + (place - START - lefts before)

Shapes     nodes (2 N, 7): int32, see nodes. codes (N, D): uint8 (see bins). rows (N,): int32, by place; node_of (N,):
           the node of each place
Mapping    a thread per place
Precision  exact: codes are integers
Ladder     counted  every row counts those on its side that come before it in the node
           scanned  one prefix sum over all places counts for everybody: within blocks, over blocks, and then the move
Cost       no flops; N codes, rows and numbers of nodes read, N rows written
Sources    [1] G. E. Blelloch, Prefix sums and their applications, CMU-CS-90-190, 1990, section 1.3 (split)
           [2] M. Harris, S. Sengupta, J. D. Owens, Parallel prefix sum (scan) with CUDA, GPU Gems 3, 2007, chapter 39
"""

import numpy as np
from numba import cuda, int32

from numprec.kernels.reductions.collectives import WARP, block_scan
from numprec.kernels.trees.bins import BINS
from numprec.kernels.trees.nodes import ROOT, Node
from numprec.kernels.trees.sort import THREADS
from numprec.language.ladder import operation, rung


# ---- oracle: one node, cut in the middle of the bins

def oracle(codes):
    return np.argsort(codes[:, 0] > BINS // 2, kind="stable")


EACH = 4                 # places per thread
PLACES = EACH * THREADS


# ---- kernels, slowest first

@cuda.jit(device=True)
def on_the_left(codes, row, nodes, k):
    code = codes[row, nodes[k, Node.FEATURE]]
    return code <= nodes[k, Node.BIN] or (code == BINS - 1 and nodes[k, Node.MISSING] == 1)


@rung
def counted(p):
    @cuda.jit
    def partition_counted(codes, rows, node_of, nodes, moved):
        i = cuda.grid(1)
        if i < rows.size:
            k = node_of[i]
            place = i
            if nodes[k, Node.CUT] > 0:
                left = on_the_left(codes, rows[i], nodes, k)
                place = nodes[k, Node.START] if left else nodes[k, Node.CUT]
                for j in range(nodes[k, Node.START], i):
                    if on_the_left(codes, rows[j], nodes, k) == left:
                        place += 1
            moved[place] = rows[i]
    return partition_counted


@rung
def scanned(p):
    scan = block_scan[p]

    @cuda.jit
    def partition_mark(codes, rows, node_of, nodes, marks, sums):
        """marks[i] = 2 (left rows before place i in its block) + (whether i is one); sums[block] counts them all."""
        sums_s = cuda.shared.array(WARP, int32)
        ahead = int32(0)
        for step in range(EACH):
            i = cuda.blockIdx.x * PLACES + step * THREADS + cuda.threadIdx.x
            left = int32(0)
            if i < rows.size:
                k = node_of[i]
                if nodes[k, Node.CUT] > 0 and on_the_left(codes, rows[i], nodes, k):
                    left = int32(1)
            before, total = scan(left, sums_s)
            if i < rows.size:
                marks[i] = 2 * (ahead + before) + left
            ahead += total
        if cuda.threadIdx.x == 0:
            sums[cuda.blockIdx.x] = ahead

    @cuda.jit
    def partition_offsets(sums):
        """One block: each sum becomes that of the blocks before."""
        sums_s = cuda.shared.array(WARP, int32)
        ahead = int32(0)
        for b0 in range(0, sums.size, THREADS):
            b = b0 + cuda.threadIdx.x
            own = sums[b] if b < sums.size else int32(0)
            before, total = scan(own, sums_s)
            if b < sums.size:
                sums[b] = ahead + before
            ahead += total

    @cuda.jit
    def partition_move(rows, node_of, nodes, marks, sums, moved):
        """Moves each row, and hands each place on to the child that it now belongs to."""
        i = cuda.grid(1)
        if i < rows.size:
            k = node_of[i]
            start, middle = nodes[k, Node.START], nodes[k, Node.CUT]
            place = i
            if middle > 0:
                left = sums[i // PLACES] + (marks[i] >> 1) - sums[start // PLACES] - (marks[start] >> 1)
                place = start + left if marks[i] & 1 else middle + (i - start - left)
                node_of[i] = 2 * middle + (1 if i >= middle else 0)
            moved[place] = rows[i]
    return partition_mark, partition_offsets, partition_move


# ---- host side

def launch(device, rung, precision, codes, rows=None, node_of=None, nodes=None, scratch=None, moved=None):
    """The rows by place, after the cuts that `nodes` tells of; by default one node, cut in the middle of the bins."""
    N = len(codes)
    if nodes is None:
        rows = device.array(np.arange(N, dtype=np.int32))
        node_of = device.array(np.full(N, ROOT, np.int32))
        left = int((device.to_host(codes)[:, 0] <= BINS // 2).sum())
        table = np.zeros((ROOT + 1, len(Node)), np.int32)
        table[ROOT] = 0, N, 0, 0, BINS // 2, left, -1
        nodes, moved = device.array(table), device.empty(N, np.int32)
        scratch = device.empty(N, np.int32), device.empty(-(-N // PLACES), np.int32)
    if rung is counted:
        device.launch(rung[precision], -(-N // THREADS), THREADS, codes, rows, node_of, nodes, moved)
    else:
        mark, offsets, move = rung[precision]
        marks, sums = scratch
        device.launch(mark, sums.size, THREADS, codes, rows, node_of, nodes, marks, sums)
        device.launch(offsets, 1, THREADS, sums)
        device.launch(move, -(-N // THREADS), THREADS, rows, node_of, nodes, marks, sums, moved)
    return moved


# ---- how it is judged

def error_bound(precision, *arrays):
    return 0


def cost(precision, N):
    return {"flops": 0, "bytes": 13 * N}


def inputs(rng, shape, kind, precision):
    """Some rows on either side; all of them on the left would not be a cut."""
    codes = rng.integers(0, BINS, (shape[0], 1))
    codes[0], codes[-1] = 0, BINS - 1
    return codes.astype(np.uint8),


operation("partition", oracle=oracle, error_bound=error_bound, launch=launch, cost=cost, inputs=inputs,
          shapes=((2,), (33,), (257,), (PLACES + 1,), (3000,)),
          bench_shapes={"smoke": (1000,), "quick": (10_000,), "full": (40_000,)})
