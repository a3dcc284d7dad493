"""What a kernel's time is bound by: launches, memory or arithmetic, and how near it comes to that ceiling.

Each of the three has a least time, from what the operation needs and from the peaks that the same run measured: its
launches at the cost of an empty one, its bytes at the bandwidth of a copy, its operations at the rate of fused
multiply-adds in the format of its sums. The largest of them bounds the kernel, since no schedule beats it; its share of
the time is how close the kernel comes. A share above 1 means that the need is met more cheaply than the peak supposes,
as where operands stay in a cache, or where a kernel computes several numbers at a time.

Source
    S. Williams, A. Waterman and D. Patterson, Roofline: An Insightful Visual Performance Model for Multicore
    Architectures, Communications of the ACM 52(4), 2009.
"""
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Bound:
    """`share` is the least time by the bounding resource over the time measured."""

    kind: str     # "launch", "memory" or "compute"
    share: float

    def __str__(self):
        percent = 100 * self.share
        return f"{self.kind} {percent:.0f} %" if percent >= 9.95 else f"{self.kind} {percent:#.2g} %"


def floors(row, environment):
    """{kind: least seconds} for the peaks that are known."""
    peaks = environment.get("peaks") or {}
    copy, launch = peaks.get("copy_bytes_per_s"), peaks.get("launch_s")
    flops = (peaks.get("flops_per_s") or {}).get(row["format"])
    least = {}
    if launch and row["launches"]:
        least["launch"] = row["launches"] * launch
    if copy and row["bytes"] is not None:
        least["memory"] = row["bytes"] / copy
    if flops and row["flops"] is not None:
        least["compute"] = row["flops"] / flops
    return least


def bound(row, environment):
    """The Bound of a kernel row; None where it has no time, or where one of the three peaks is not known."""
    least = floors(row, environment)
    if not row["samples_s"] or len(least) < 3:
        return None
    kind = max(least, key=least.get)
    return Bound(kind, least[kind] / float(np.median(row["samples_s"])))
