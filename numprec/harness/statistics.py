"""What the samples of a run support: medians of times, means of scores, and how far to trust them.

Times are summed up by median and quartiles, because their distribution has one long tail; the interval of the
median is a bootstrap, which assumes no shape. Scores are compared in pairs, seed by seed, because the split
moves a score far more than the precision does. With 5 to 10 seeds a bootstrap of the mean difference would be
too narrow, so Student's t is used; and where the seeds draw overlapping splits of one data set the differences
are not independent, which the correction of Nadeau and Bengio pays for by a wider interval.

Sources
    B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap, Chapman & Hall 1993, section 13.3 (percentile).
    C. Nadeau and Y. Bengio, Inference for the Generalization Error, Machine Learning 52(3), 2003, section 3.
"""
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate, its confidence interval (NaN where the sample is too small for one) and how it was made."""

    value: float
    low: float
    high: float
    n: int
    method: str

    @property
    def half_width(self):
        return (self.high - self.low) / 2


def bootstrap(samples, statistic=np.median, level=LEVEL, resamples=RESAMPLES, seed=0):
    """Percentile bootstrap of `statistic(array, axis=-1)`; the same samples give the same interval."""
    samples = np.asarray(samples, np.float64)
    n = len(samples)
    if n < 2:
        return Interval(float(statistic(samples, axis=-1)), np.nan, np.nan, n, "none")
    drawn = samples[np.random.default_rng(seed).integers(0, n, (resamples, n))]
    low, high = np.quantile(statistic(drawn, axis=-1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(samples, axis=-1)), float(low), float(high), n, "percentile bootstrap")


def quartiles(samples):
    """First quartile, median, third quartile."""
    return tuple(float(q) for q in np.quantile(np.asarray(samples, np.float64), [0.25, 0.5, 0.75]))


def mean(values, test_to_train=0.0, level=LEVEL):
    """Mean with Student's t interval.

    `test_to_train` is the size of a test set over that of its training set where each value comes from another
    split of the same data (0.25 for 80/20); 0 where the values are independent, as with a fixed test set.
    """
    from scipy.stats import t    # here, because scipy.stats takes half a second to import

    values = np.asarray(values, np.float64)
    n = len(values)
    method = f"corrected t, n={n}" if test_to_train else f"t, n={n}"
    if n < 2:
        return Interval(float(values.mean()), np.nan, np.nan, n, "none")
    spread = np.sqrt((1 / n + test_to_train) * values.var(ddof=1))
    half = float(t.ppf((1 + level) / 2, n - 1) * spread)
    centre = float(values.mean())
    return Interval(centre, centre - half, centre + half, n, method)


def paired_difference(values, baseline, test_to_train=0.0, level=LEVEL):
    """Mean of `values - baseline`, taken seed by seed, with the interval of `mean`."""
    values, baseline = np.asarray(values, np.float64), np.asarray(baseline, np.float64)
    if values.shape != baseline.shape:
        raise ValueError(f"pairs need equal lengths, not {len(values)} and {len(baseline)}")
    return mean(values - baseline, test_to_train, level)
