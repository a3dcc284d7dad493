"""What the audit would refuse, and why it may stay. An entry that no longer applies fails the audit too.

    (operation/rung, precision): reason
"""

FLOAT64 = {
    ("least_squares/refine", "fp32"): "iterative refinement forms its residual one format higher than the factor",
}
"""float64 instructions outside fp64."""

LOCAL_MEMORY = {}
"""Local memory on a top rung."""
