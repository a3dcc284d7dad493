"""What the samples of a run support: medians of times, means of scores, and how far to trust them.

Times are summed up by median and percentiles, because their distribution has one long tail; the interval of the
median is a bootstrap, which assumes no shape, and two sets of times are compared by ranks. Times of fits are paired,
seed by seed, and their ratios compared by Student's t of logarithms. Scores are compared in
pairs, seed by seed, because the split moves a score far more than the precision does. With 5 to 10 seeds a bootstrap
of the mean difference would be too narrow, so Student's t is used; and where the seeds draw overlapping splits of one
data set the differences are not independent, which the correction of Nadeau and Bengio pays for by a wider interval.

Equality cannot be shown by a test that fails to find a difference: with few seeds it finds none. It is shown by two
one-sided tests, one against each end of a margin that was fixed before any run (MARGINS); both reject at 5 % exactly
if the 90 % interval of the difference lies within the margin.

Sources
    B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap, Chapman & Hall 1993, section 13.3 (percentile).
    C. Nadeau and Y. Bengio, Inference for the Generalization Error, Machine Learning 52(3), 2003, section 3.
    D. J. Schuirmann, A comparison of the two one-sided tests procedure and the power approach for assessing the
    equivalence of average bioavailability, J. Pharmacokinetics and Biopharmaceutics 15(6), 1987 (TOST).
    H. B. Mann and D. R. Whitney, On a test of whether one of two random variables is stochastically larger than the
    other, Annals of Mathematical Statistics 18(1), 1947.
    C. J. Clopper and E. S. Pearson, The use of confidence or fiducial limits, Biometrika 26(4), 1934 (`most`).
"""
import math
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000
ALPHA = 0.05                                # of each of the two one-sided tests
MARGINS = {"accuracy": 0.01, "R2": 0.01}    # differences up to here count as none: one point of accuracy, 0.01 of R2
LEAST_EFFECT = 0.02                         # a smaller change of a median time is no change
RANK_ALPHA = 0.01                           # of the rank test; reached from 5 samples on either side
LEAST_PAIRS = 5                             # for fewer, a t test of ratios would rest on its assumptions alone
MOST_SEEDS = 1e9                            # what would need more is decided by no number of seeds


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

    def within(self, low, high):
        """Whether the whole interval lies between `low` and `high`; not where there is none."""
        return low < self.low and self.high < high


# ---- times

def bootstrap(samples, level=LEVEL, resamples=RESAMPLES):
    """The median with its percentile bootstrap; the same samples give the same interval."""
    return _bootstrap((samples,), np.median, level, resamples)


def _bootstrap(samples, statistic, level, resamples):
    """`statistic(*samples, axis=-1)` with its percentile bootstrap, each of the samples drawn by itself."""
    samples = [np.asarray(each, np.float64) for each in samples]
    value, n = float(statistic(*samples, axis=-1)), min(map(len, samples))
    if n < 2:
        return Interval(value, np.nan, np.nan, n, "none")
    from scipy.stats import bootstrap  # here, because scipy.stats takes half a second to import
    found = bootstrap(samples, statistic, n_resamples=resamples, vectorized=True, confidence_level=level,
                      method="percentile", rng=np.random.default_rng(0)).confidence_interval
    return Interval(value, float(found.low), float(found.high), n, "percentile bootstrap")


def ratio(above, below, paired=False, level=LEVEL, resamples=RESAMPLES):
    """median(above) / median(below) with its percentile bootstrap. Of `paired` samples, one of each for every seed, the
    geometric mean of their ratios with Student's t interval of the logarithms: few pairs are too few for a bootstrap,
    which with two covers the truth half of the time."""
    if paired:
        logs = mean(np.log(np.divide(above, below)), level=level)
        return Interval(*(float(np.exp(x)) for x in (logs.value, logs.low, logs.high)), logs.n,
                        "t of log ratios" if logs.n > 1 else "none")
    return _bootstrap((above, below), lambda a, b, axis: np.median(a, axis) / np.median(b, axis), level, resamples)


def quartiles(samples):
    """First quartile, median, third quartile."""
    return tuple(float(q) for q in np.quantile(np.asarray(samples, np.float64), [0.25, 0.5, 0.75]))


def spread(samples):
    """10th percentile, median, 90th percentile."""
    return tuple(float(q) for q in np.quantile(np.asarray(samples, np.float64), [0.1, 0.5, 0.9]))


@dataclass(frozen=True)
class Change:
    """Two sets of time samples compared: "same", "faster" or "slower" (the second than the first), or "ambiguous"."""

    verdict: str
    ratio: Interval    # second over first
    p: float           # of the test, two-sided


def compare_times(first, second, least=LEAST_EFFECT):
    """Slower (faster): the rank test rejects at RANK_ALPHA and the median changed by more than `least`. The same: the
    interval of the ratio of medians lies within `least`. Ambiguous: neither."""
    from scipy.stats import mannwhitneyu
    changed = ratio(second, first)
    return _change(changed, float(mannwhitneyu(first, second, alternative="two-sided").pvalue), least)


def compare_pairs(first, second, least=LEAST_EFFECT):
    """The same of one time of each seed in either set, by a t test of the logarithms of their ratios; no slower or
    faster from fewer than LEAST_PAIRS."""
    from scipy.stats import t
    changed, n, p = ratio(second, first, paired=True), len(first), np.nan
    if n > 1:
        logs = np.log(np.divide(second, first))
        error = standard_error(logs)
        p = float(2 * t.sf(abs(logs.mean()) / error, n - 1)) if error > 0 else float(logs[0] == 0)
    return _change(changed, p if n >= LEAST_PAIRS else np.nan, least)


def _change(changed, p, least):
    if p < RANK_ALPHA and not 1 / (1 + least) <= changed.value <= 1 + least:
        verdict = "slower" if changed.value > 1 else "faster"
    else:
        verdict = "same" if changed.within(1 / (1 + least), 1 + least) else "ambiguous"
    return Change(verdict, changed, p)


# ---- scores

def mean(values, test_to_train=0.0, level=LEVEL):
    """Mean with Student's t interval.

    `test_to_train` is the size of a test set over that of its training set where each value comes from another
    split of the same data (0.25 for 80/20); 0 where the values are independent, as with a fixed test set.
    """
    from scipy.stats import t
    values = np.asarray(values, np.float64)
    n = len(values)
    method = f"corrected t, n={n}" if test_to_train else f"t, n={n}"
    if n < 2:
        return Interval(float(values.mean()), np.nan, np.nan, n, "none")
    half = float(t.ppf((1 + level) / 2, n - 1) * standard_error(values, test_to_train))
    centre = float(values.mean())
    return Interval(centre, centre - half, centre + half, n, method)


def standard_error(values, test_to_train=0.0):
    """That of the mean; Nadeau and Bengio's where splits overlap, which has a floor that no number of them removes."""
    return math.sqrt(1 / len(values) + test_to_train) * deviation(values)


def deviation(values):
    """The standard deviation of a sample, by a power of two of which no square overflows or underflows: R2 is not
    bounded below, and that of a fit which diverged can be any number."""
    values = np.asarray(values, np.float64)
    _, exponent = np.frexp(np.abs(values - values.mean()).max())
    return float(np.ldexp(np.ldexp(values - values.mean(), -exponent).std(ddof=1), exponent))


def paired_difference(values, baseline, test_to_train=0.0, level=LEVEL):
    """Mean of `values - baseline`, taken seed by seed, with the interval of `mean`."""
    values, baseline = np.asarray(values, np.float64), np.asarray(baseline, np.float64)
    if values.shape != baseline.shape:
        raise ValueError(f"pairs need equal lengths, not {len(values)} and {len(baseline)}")
    return mean(values - baseline, test_to_train, level)


@dataclass(frozen=True)
class Equivalence:
    """Whether paired scores are equal within a margin: "equal", "better", "worse" or "undecided"."""

    verdict: str
    difference: Interval     # at 95 %; NaN where every pair differs by the same and no labels bound what was missed
    narrow: Interval         # at 90 %: equal where it lies within the margin
    margin: float
    p: float                 # of the two one-sided tests, the larger; NaN where there is no interval
    needed: float | None     # seeds that would decide; inf where no number would; None where one cannot say
    floor: float             # half the width of the 90 % interval that any number of seeds would leave

    @property
    def worse_within_margin(self):
        """Whether a loss is seen that is smaller than the margin and not shown to stay so."""
        return self.verdict == "undecided" and self.difference.high < 0


def equivalence(values, baseline, margin, test_to_train=0.0, labels=None):
    """Two one-sided tests of `values - baseline`, taken seed by seed, against -margin and +margin. Better: the 95 %
    interval of the mean lies above 0. Worse: it lies below 0, and the mean beyond the margin.

    Where every pair differs by the same, t has no spread to work with, and an interval of width 0 would be too good to
    be true. `labels`, (how many predictions differ, out of how many), then bounds what may have been missed: accuracies
    cannot differ by more than the share of predictions that do. Without them nothing is equal, and a difference beyond
    the margin shows in its sign alone.
    """
    from scipy.stats import t
    difference = paired_difference(values, baseline, test_to_train)
    narrow = paired_difference(values, baseline, test_to_train, 1 - 2 * ALPHA)
    pairs = np.asarray(values, np.float64) - np.asarray(baseline, np.float64)
    n, centre, floor, p, needed = len(pairs), difference.value, 0.0, np.nan, None
    constant = n > 1 and np.ptp(pairs) < 1e-12
    if constant:
        bounds = _by_labels if labels and labels[1] else _unbounded
        difference, narrow = (bounds(centre, n, margin, test_to_train, labels, level)
                              for level in (LEVEL, 1 - 2 * ALPHA))
        if labels and labels[1] and labels[0] == 0:
            needed = _seeds_of_labels(labels[1] / n, margin, test_to_train)
            floor = most(0, labels[1] / n / test_to_train) if test_to_train else 0.0
    elif n > 1:
        error = standard_error(pairs, test_to_train)
        p = float(t.sf((margin - abs(centre)) / error, n - 1))
        floor = float(t.ppf(1 - ALPHA, np.inf)) * deviation(pairs) * math.sqrt(test_to_train)
        needed = seeds_needed(centre, deviation(pairs), margin, test_to_train)
    if narrow.within(-margin, margin):
        verdict = "equal"
    elif difference.low > 0:
        verdict = "better"
    elif difference.high < 0 and centre < -margin:
        verdict = "worse"
    elif constant and np.isnan(difference.low) and abs(centre) > margin and 0.5 ** n < ALPHA:
        verdict = "better" if centre > 0 else "worse"    # the sign test: from 5 seeds
    else:
        verdict = "undecided"
    return Equivalence(verdict, difference, narrow, margin, p, needed if verdict == "undecided" else None, floor)


def effective(count, n, test_to_train):
    """How many independent predictions `count` are worth that come from the test sets of n overlapping splits: as many
    fewer as Nadeau and Bengio's variance of the mean is larger. A sample is in several test sets, and is no more than
    one sample; at most count / n / test_to_train, however many splits there are."""
    return count * (1 / n) / (1 / n + test_to_train)


def _by_labels(centre, n, margin, test_to_train, labels, level):
    """What a difference that is the same on every seed may really be. Within the margin: up to the share of predictions
    that differ, either way. Beyond it: the share that became right less that which became wrong, each bounded; at
    least `centre` of all predictions went the one way, and what remains of those that differ may have gone either."""
    differ, of = (effective(count, n, test_to_train) for count in labels)
    method = f"{labels[0]} of {labels[1]} predictions differ"
    if abs(centre) <= margin:
        share = most(differ, of, (1 - level) / 2)
        return Interval(centre, -share, share, n, method)
    net, alpha = min(abs(centre) * of, of), (1 - level) / 4    # both shares are bounded, on both sides
    differ = max(differ, net)
    far = most((differ + net) / 2, of, alpha)
    near = (1 - most(of - net, of, alpha)) - most((differ - net) / 2, of, alpha)
    return Interval(centre, near, far, n, method) if centre > 0 else Interval(centre, -far, -near, n, method)


def _unbounded(centre, n, margin, test_to_train, labels, level):
    return Interval(centre, np.nan, np.nan, n, "no spread")


def _seeds_of_labels(per_seed, margin, test_to_train):
    """How many seeds show equality if no prediction ever differs; inf where the test sets of overlapping splits are too
    small for any number."""
    enough = math.log(ALPHA) / math.log1p(-margin)    # independent predictions: (1 - margin)**enough = ALPHA
    left = per_seed - enough * test_to_train
    return max(2, math.ceil(enough / left)) if left > 0 else math.inf


def most(count, of, alpha=ALPHA):
    """The largest share that `count` out of `of` is consistent with, at level `alpha` (Clopper and Pearson); for none
    at all about 3 / of, the rule of three. Neither has to be whole."""
    from scipy.stats import beta
    return 1.0 if count >= of else float(beta.ppf(1 - alpha, count + 1, of - count))


def seeds_needed(centre, deviation, margin, test_to_train=0.0):
    """The least number of seeds at which `equivalence` would be decided either way, were mean and standard deviation
    of the differences as observed: so many at least, since they will not be. inf where no number would do, because
    splits that overlap leave a variance of test_to_train * deviation**2 however many there are. A loss within the
    margin can only turn out equal."""
    equal = _seeds(margin - abs(centre), deviation, 1 - ALPHA, test_to_train)
    if -margin <= centre < 0:
        return equal
    return min(equal, _seeds(abs(centre), deviation, (1 + LEVEL) / 2, test_to_train))


def _seeds(room, deviation, quantile, test_to_train):
    """The least n with t_quantile(n - 1) * deviation * sqrt(1 / n + test_to_train) < room; inf beyond MOST_SEEDS."""
    from scipy.stats import norm, t
    if not room > 0:
        return math.inf
    spread = float(norm.ppf(quantile)) * deviation
    if spread == 0:
        return 2
    left = min(float(room) / spread, MOST_SEEDS) ** 2 - test_to_train    # 1 / n by the normal distribution
    if not left * MOST_SEEDS > 1:
        return math.inf
    n = max(2, math.ceil(1 / left))
    for _ in range(1000):
        if float(t.ppf(quantile, n - 1)) * deviation * math.sqrt(1 / n + test_to_train) < room:
            return n
        n += max(1, n // 100)    # where left is close to 0 a little more t asks for many more seeds
    return math.inf
