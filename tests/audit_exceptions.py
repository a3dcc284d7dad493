"""What the audit would refuse, and why it may stay. An entry of the first two tables that no longer applies fails the
audit too.

    (operation/rung, precision): reason
"""

FLOAT64 = {
    ("least_squares/refine", "fp32"): "iterative refinement forms its residual one format higher than the factor",
}
"""float64 instructions outside fp64."""

LOCAL_MEMORY = {}
"""Local memory on a top rung."""

COPIED = {
    "average_pool_each": "the loop over a window is unrolled after all, in float16",
    "cholesky_block": "a load and its conversion stand in two branches",
    "qr_block": "a load and its conversion stand in two branches",
    "gram_naive": "a loop for samples with weights, and one for those without",
    "gram_sums": "a loop for samples with weights, and one for those without",
    "set_candidates": "a loop for each of the two halves of the set",
    "split_candidates": "one loop for features with a missing value, and one for the others",
    "triangular_block": "the loop is entered in two ways, for R and for its transpose",
}
"""Kernels, by name, of whose operations the machine has more than the emulator: they stand there several times."""

SHARED = {
    "cross_entropy_serial": "a logit is converted once for two uses",
    "cross_entropy_warp": "a logit is converted once for two uses",
    "gram_scales": "the same differences in two comparisons",
    "normalize_gradient": "the same difference in two terms",
    "normalize_sums": "the same difference in two terms",
    "phases_second": "an entry of K is converted once for two uses",
    "set_minimize": "an entry of K is converted once for two uses",
}
"""Kernels of whose operations the machine has fewer: it computes once what the text has twice."""

BOTH = {
    "set_choose": "f is loaded and converted in two branches; the gap is computed once for two uses",
} | dict.fromkeys(("gram_block", "gram_columns", "least_squares_cholesky", "least_squares_qr", "least_squares_refine"),
                  "has gram's loops with weights and without, and its differences")
"""Kernels of which both is true: they are compared by the kinds of operations alone."""
