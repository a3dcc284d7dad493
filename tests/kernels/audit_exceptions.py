"""What the audit would refuse, and why it may stay. An entry that no longer applies fails the audit too.

    (operation/rung, precision): reason
"""
from numprec.precision import PRECISIONS

FLOAT64 = {
    ("least_squares/refine", "fp32"): "iterative refinement forms its residual one format higher than the factor",
}
"""float64 instructions outside fp64."""

LOCAL_MEMORY = {}
"""Local memory on a top rung."""

# ---- kernels of which the emulator and the machine count different numbers of operations, of the same kinds:
#          {operation/kernel: (precisions, reason)}

_EVERY = tuple(PRECISIONS)
_COPIES_FOR_NONE = "NVVM copies the loop that divides by a number of columns, for none of them"
_TIMES_ONE = "ptxas leaves out the product with noise(), which is 1"
_GAP = "the gap is computed once for two uses"
_WEIGHTS = "a loop for samples with weights, and one for those without"
_RANGE = f"{_WEIGHTS}; the same differences in two comparisons"

COPIED = {
    "average_pool/average_pool_window_mean": (("fp16",), "NVVM unrolls the loop over a window by four after all"),
    "centring/centring_sums": (_EVERY, _WEIGHTS),
    "gram/centring_sums": (_EVERY, _WEIGHTS),
    "gram/gram_naive": (_EVERY, _WEIGHTS),
    "gram/matmul_register_blocked": (("fp16",), "NVVM copies the loop that writes a patch, for a scale of 1"),
    "least_squares/least_squares_qr": (_EVERY, _WEIGHTS),
    "least_squares/least_squares_refine": (("fp64", "mixed_fp16", "mixed_bf16"), _WEIGHTS),
    "qr/qr_serial": (_EVERY, "NVVM copies the reflection of a column, for none below the diagonal"),
    "cholesky/cholesky_block": (("mixed_fp16",), _COPIES_FOR_NONE),
    "grow/grow_try": (_EVERY, "NVVM copies the loop over the rows of a node, for no classes"),
    "qr/qr_block": (("mixed_fp16",), _COPIES_FOR_NONE),
    "split/split_candidates": (_EVERY, "NVVM copies the loop over the classes, for no samples"),
    "split_weighted/split_candidates": (("fp16",), "NVVM copies the loop over the classes, for no samples"),
    "triangular/triangular_block": (_EVERY, _COPIES_FOR_NONE),
    "triangular/triangular_serial": (_EVERY, "NVVM copies the back substitution, for no rows"),
    "working_set/set_candidates": (("mixed_fp16",), "NVVM copies the loop: for the first candidates, and for each half "
                                                    "of the later ones"),
}
"""The machine has more of some: they stand there several times."""

SHARED = {
    "centring/centring_units": (_EVERY, "the same differences in two comparisons"),
    "gram/centring_units": (_EVERY, "the same differences in two comparisons"),
    "gram/gram_combine": (("fp16",), "1 / 2 is computed once for two scales"),
    "cross_entropy/cross_entropy_serial": (("mixed_fp16",), "a logit is converted once for two uses"),
    "cross_entropy/cross_entropy_warp": (("mixed_fp16",), "a logit is converted once for two uses"),
    "grow/grow_cut": (("mixed_fp16",), "a value compared with itself, to tell a missing one, is converted once"),
    "batch_norm_gradient/batch_norm_gradient": (_EVERY, "the same difference in two terms"),
    "batch_norm_gradient/batch_norm_sums": (("mixed_fp16",), "an entry of X is converted once for two uses"),
    "smo/phases_first": (("fp16",), _TIMES_ONE),
    "smo/phases_second": (("mixed_fp16",), "an entry of K is converted once for two uses"),
    "smo/smo_block": (("fp16",), _TIMES_ONE),
    "smo_fit/smo_fit": (("fp16",), _TIMES_ONE),
    "working_set/set_choose": (("fp64", "fp32", "fp16", "mixed_bf16"), f"{_GAP}; in fp16, {_TIMES_ONE}"),
    "working_set/set_minimize": (("fp16", "mixed_fp16"), f"in fp16, {_TIMES_ONE}; in mixed_fp16, an entry of K is "
                                                         "converted once for two uses"),
}
"""The machine has fewer of some: it computes once what the text has twice, or leaves out what changes nothing."""

BOTH = {
    "centring/centring_naive": (_EVERY, _RANGE),
    "centring/centring_block": (_EVERY, _RANGE),
    "gram/centring_naive": (_EVERY, _RANGE),
    "gram/centring_block": (_EVERY, _RANGE),
    "least_squares/least_squares_cholesky": (_EVERY, _RANGE),
    "least_squares/least_squares_refine": (("fp32", "fp16"), _RANGE),
    "working_set/set_choose": (("mixed_fp16",), f"f is loaded and converted in two branches; {_GAP}"),
}
"""The machine has more of some and fewer of others."""
