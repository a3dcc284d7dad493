"""Random numbers without a state, and the minibatches drawn with them.

Idea       A random number is a function of its index, without a state to keep: any thread draws any of them, in any
           order.
Maths      philox(counter, key): ten rounds of a keyed bijection on 128 bits, whose results pass every known test of
           randomness however the counters and keys are chosen. A random number is a function of (seed, step, index):
           any thread computes any of them, in any order, and every precision gets the same ones
           uniform[i] = the first b bits of philox((i, step, stream, 0), seed) as a fraction
           permuted(i), i in [0, n): a Feistel network of ROUNDS rounds is a bijection of [0, 4^h), the least such
           range that holds n; a result >= n is permuted again. This ends: the cycle comes back to i < n
Shapes     key (2,): int32, seed and step; index (n,): int32; uniform (n,): accum; permuted (n,): int32
Mapping    a thread per number, or per element of a batch, along the contiguous axis
Precision  b is the least of 32 and the bits of accum's significand: every fraction is a number of accum, exactly
Ladder     one step each
Cost       20 integer products a number, and the one flop that makes it a fraction; a permuted index costs ROUNDS
           numbers for each application, less than four on average; n indices read, n numbers written
Sources    J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011,
               section 4.3 (Philox-4x32-10)
           J. Black and P. Rogaway, Ciphers with arbitrary finite domains, CT-RSA 2002, sections 4 (cycle walking) and 5
"""
import numpy as np
from numba import cuda, int32, int64, uint32, uint64

from numprec.language.ladder import helper, operation, rung

THREADS = 128                                     # per block
MULTIPLY = np.uint32(0xD2511F53), np.uint32(0xCD9E8D57)
WEYL = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)     # golden ratio and sqrt(3) - 1, in units of 2^-32
ROUNDS = 6                                        # of the Feistel network
SHUFFLE = 1                                       # streams, so that no two uses share a number


# ---- oracles, by NumPy on whole arrays

def philox_oracle(counter, key):
    """Four uint32 arrays, for four counter arrays and two keys."""
    c = [np.asarray(x, np.uint64) for x in counter]
    k = [int(x) for x in key]
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = c[0] * np.uint64(MULTIPLY[0]), c[2] * np.uint64(MULTIPLY[1])
        c = [b >> np.uint64(32) ^ c[1] ^ np.uint64(k[0]), b & low, a >> np.uint64(32) ^ c[3] ^ np.uint64(k[1]), a & low]
        k = [(k[0] + int(WEYL[0])) % 2 ** 32, (k[1] + int(WEYL[1])) % 2 ** 32]
    return tuple(x.astype(np.uint32) for x in c)


def words(key, index, stream=0, part=0):
    """`random_word` for an array of indices."""
    return philox_oracle((index, np.full_like(index, key[1]), np.full_like(index, stream), np.full_like(index, part)),
                         (key[0], 0))[0]


def uniform_oracle(key, index):
    return words(key, index) * 2.0 ** -32


def permutation_oracle(key, index):
    n, h = len(index), half_width(len(index))
    mask = 2 ** h - 1

    def once(i):
        left, right = i >> h, i & mask
        for r in range(ROUNDS):
            left, right = right, left ^ (words(key, right, SHUFFLE, r).astype(np.int64) & mask)
        return left << h | right
    i = once(index.astype(np.int64))
    while (beyond := i >= n).any():
        i[beyond] = once(i[beyond])
    return i


def half_width(n):
    """The least h with 4^h >= n."""
    h = 0
    while 4 ** h < n:
        h += 1
    return h


def exact(precision, *arrays):
    return 0


def cut_off(precision, *arrays):
    """The bits of a word that accum has no room for."""
    return 2.0 ** -precision.accum.significand if precision.accum.significand < 32 else 0


# ---- device functions

@cuda.jit(device=True)
def philox(c0, c1, c2, c3, k0, k1):
    """Philox-4x32-10: four random words for a counter of four and a key of two."""
    for _ in range(10):
        a = uint64(MULTIPLY[0]) * uint64(c0)
        b = uint64(MULTIPLY[1]) * uint64(c2)
        c0, c1 = uint32(uint32(b >> uint64(32)) ^ c1 ^ k0), uint32(b)
        c2, c3 = uint32(uint32(a >> uint64(32)) ^ c3 ^ k1), uint32(a)
        k0, k1 = uint32(k0 + WEYL[0]), uint32(k1 + WEYL[1])
    return c0, c1, c2, c3


@cuda.jit(device=True)
def random_word(seed, step, index, stream, part):
    """32 random bits for (seed, step, index); `stream` names the use, `part` counts within it."""
    return philox(uint32(index), uint32(step), uint32(stream), uint32(part), uint32(seed), uint32(0))[0]


@helper
def fraction(p):
    """fraction(word): a random number in [0, 1), in accum."""
    accum = p.accum
    unused = np.uint32(max(0, 32 - accum.significand))
    parts = 2 ** min(32, accum.significand)

    @cuda.jit(device=True)
    def fraction(word):
        return accum(uint32(word >> unused)) / accum(parts)
    return fraction


@cuda.jit(device=True)
def permuted(i, n, seed, step):
    """Where a permutation of [0, n) that depends on (seed, step) takes i."""
    h = uint32(0)
    while (int64(1) << int64(2 * h)) < n:
        h = uint32(h + uint32(1))
    mask = uint32((int64(1) << int64(h)) - int64(1))
    x = int64(i)
    inside = False
    while not inside:
        left, right = uint32(x >> int64(h)), uint32(uint32(x) & mask)
        for r in range(ROUNDS):
            word = random_word(seed, step, right, SHUFFLE, r)
            left, right = right, uint32(left ^ uint32(word & mask))
        x = int64(left) << int64(h) | int64(right)
        inside = x < n
    return x


# ---- kernels

@rung(of="uniform")
def elementwise(p):
    number = fraction(p)

    @cuda.jit
    def random_uniform(key, index, out):
        i = cuda.grid(1)
        if i < out.size:
            out[i] = number(random_word(key[0], key[1], index[i], 0, 0))
    return random_uniform


@rung(of="permutation")
def walk(p):
    @cuda.jit
    def random_permutation(key, index, out):
        i = cuda.grid(1)
        if i < out.size:
            out[i] = int32(permuted(index[i], out.size, key[0], key[1]))
    return random_permutation


# ---- host side

def launch(device, rung, precision, key, index):
    out = device.empty(index.shape, precision.accum if rung is elementwise else np.int32)
    device.launch(rung[precision], -(-out.size // THREADS), THREADS, key, index, out)
    return out


def inputs(rng, shape, kind, precision):
    return rng.integers(0, 2 ** 31, 2).astype(np.int32), np.arange(*shape, dtype=np.int32)


about = dict(inputs=inputs, launch=launch, shapes=((1,), (2,), (17,), (300,)),
             bench_shapes={"smoke": (10_000,), "quick": (1_000_000,), "full": (2 ** 24,)})


operation("uniform", oracle=uniform_oracle, error_bound=cut_off,
          cost=lambda precision, n: {"flops": n, "bytes": n * (4 + precision.accum.bytes)}, **about)
operation("permutation", oracle=permutation_oracle, error_bound=exact,
          cost=lambda precision, n: {"flops": 0, "bytes": 8 * n}, **about)
