"""The benchmark's statistics against SciPy, and against what is known in closed form."""
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from numprec.harness.judge import statistics
from numprec.harness.measure import timing

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def samples():
    return np.random.default_rng(3).gamma(4, size=40)


def test_quartiles_of_known_samples():
    assert statistics.quartiles([5, 1, 3, 2, 4]) == (2, 3, 4)


def resampled(samples, rng):
    """Medians of resampled samples, written out."""
    return np.median(samples[rng.integers(0, len(samples), (20000, len(samples)))], axis=1)


def agree(ours, drawn):
    low, high = np.quantile(drawn, [0.025, 0.975])
    return abs(ours.low - low) < 0.05 * (high - low) and abs(ours.high - high) < 0.05 * (high - low)


def test_the_bootstrap_resamples_the_median(samples):
    assert agree(statistics.bootstrap(samples, resamples=20000), resampled(samples, np.random.default_rng(1)))


def test_bootstrap_repeats(samples):
    assert statistics.bootstrap(samples) == statistics.bootstrap(samples)


def test_mean_is_the_t_interval(samples):
    ours = statistics.mean(samples)
    theirs = stats.ttest_1samp(samples, 0).confidence_interval(0.95)
    np.testing.assert_allclose((ours.low, ours.high), (theirs.low, theirs.high), rtol=1e-12)


def test_paired_difference_is_the_paired_t_interval(samples):
    baseline = samples + np.random.default_rng(4).normal(0.1, 0.01, len(samples))
    ours = statistics.paired_difference(samples, baseline)
    theirs = stats.ttest_rel(samples, baseline).confidence_interval(0.95)
    np.testing.assert_allclose((ours.low, ours.high), (theirs.low, theirs.high), rtol=1e-12)
    assert ours.high < 0    # the pairing sees what the spread of either sample would hide
    assert stats.ttest_ind(samples, baseline).pvalue > 0.05


def test_overlapping_splits_widen_the_interval():
    values = np.arange(10.0)
    plain, corrected = statistics.mean(values), statistics.mean(values, test_to_train=0.25)
    np.testing.assert_allclose(corrected.half_width / plain.half_width, np.sqrt((0.1 + 0.25) / 0.1))
    assert "corrected" in corrected.method and "corrected" not in plain.method


@pytest.mark.parametrize("interval", (statistics.mean, statistics.bootstrap))
def test_one_sample_has_no_interval(interval):
    found = interval([2.0])
    assert found.value == 2 and np.isnan(found.low) and np.isnan(found.high)


def test_equal_pairs_differ_by_nothing():
    found = statistics.paired_difference([0.5, 0.25], [0.5, 0.25])
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_unequal_pairs_are_refused():
    with pytest.raises(ValueError, match="equal lengths"):
        statistics.paired_difference([1, 2], [1])


def test_percentiles_of_known_samples():
    assert statistics.spread(range(11)) == (1, 5, 9)


# ---- times of two runs

def test_the_ratio_of_medians_resamples_both(samples):
    other, rng = 1.3 * np.random.default_rng(8).gamma(4, size=30), np.random.default_rng(1)
    ours = statistics.ratio(other, samples, resamples=20000)
    assert ours.value == np.median(other) / np.median(samples)
    assert agree(ours, resampled(other, rng) / resampled(samples, rng))


def test_pairs_are_compared_by_their_ratios():
    """Seeds that take very different times, each twice as long in one precision as in the other."""
    below = np.array([1.0, 10.0, 100.0, 3.0, 30.0])
    paired, unpaired = (statistics.ratio(2 * below, below, paired=paired) for paired in (True, False))
    assert (paired.low, paired.value, paired.high) == pytest.approx((2, 2, 2))
    assert unpaired.low < 1 < 4 < unpaired.high
    one = statistics.ratio([2.0], [1.0], paired=True)
    assert one.value == 2 and math.isnan(one.low) and math.isnan(one.high)


@pytest.mark.parametrize("n", (2, 3, 5))
def test_the_interval_of_few_pairs_covers_the_truth(n):
    """In 95 % of 400 trials, with a tolerance of three standard errors."""
    rng = np.random.default_rng(11)
    found = [statistics.ratio(*rng.lognormal(0, 0.1, (2, n)), paired=True) for _ in range(400)]
    covered = sum(interval.low < 1 < interval.high for interval in found)
    assert abs(covered - 400 * 0.95) <= 3 * math.sqrt(400 * 0.95 * 0.05)


@pytest.mark.parametrize("shift, spread, n, verdict", [
    (1.00, 0.001, 20, "same"),
    (1.01, 0.001, 20, "same"),           # the rank test sees it, but it is less than the least effect
    (1.10, 0.001, 20, "slower"),
    (0.90, 0.001, 20, "faster"),
    (1.10, 0.001, 4, "ambiguous"),       # four samples on either side cannot reach the level of the rank test
    (1.00, 0.5, 20, "ambiguous"),        # nothing is seen, but a change could hide in the noise
])
def test_two_sets_of_times(shift, spread, n, verdict):
    first, second = np.random.default_rng(5).normal(1, spread, (2, n)).clip(0.1)
    change = statistics.compare_times(first, shift * second)
    assert change.verdict == verdict
    assert change.p == stats.mannwhitneyu(first, shift * second).pvalue


def test_equal_times_are_rarely_called_different():
    rng = np.random.default_rng(6)
    found = [statistics.compare_times(*rng.gamma(50, size=(2, 8))).verdict for _ in range(400)]
    assert sum(verdict in ("slower", "faster") for verdict in found) <= 400 * 0.01 + 3 * math.sqrt(400 * 0.01)


@pytest.mark.parametrize("spread, shift, n, verdict", [
    (0.002, 1.0, 5, "same"), (0.002, 1.1, 5, "slower"), (0.002, 0.9, 5, "faster"),
    (0.002, 1.1, 4, "ambiguous"), (0.2, 1.0, 5, "ambiguous"), (0.0, 1.1, 5, "slower"), (0.0, 1.0, 2, "same"),
    (0.0, 1.1, 1, "ambiguous"),
])
def test_times_of_pairs(spread, shift, n, verdict):
    first = 10.0 ** np.arange(n)
    second = shift * first * np.random.default_rng(12).lognormal(0, spread, n)
    change = statistics.compare_pairs(first, second)
    assert change.verdict == verdict and math.isnan(change.p) == (n < 5)
    if spread and n >= 5:
        assert change.p == pytest.approx(stats.ttest_rel(np.log(first), np.log(second)).pvalue)


def test_pairs_without_a_difference_are_rarely_called_different():
    rng = np.random.default_rng(13)
    found = [statistics.compare_pairs(*rng.gamma(50, size=(2, 5))).verdict for _ in range(400)]
    assert sum(verdict in ("slower", "faster") for verdict in found) <= 400 * 0.01 + 3 * math.sqrt(400 * 0.01)


# ---- equivalence

def tost_by_hand(pairs, margin):
    """The two tests, one after the other."""
    return max(stats.ttest_1samp(pairs, -margin, alternative="greater").pvalue,
               stats.ttest_1samp(pairs, margin, alternative="less").pvalue)


@pytest.mark.parametrize("centre", (0.0, 0.004, -0.008, 0.03))
def test_equivalence_is_two_one_sided_tests(centre):
    pairs = np.random.default_rng(7).normal(centre, 0.01, 12)
    found = statistics.equivalence(pairs, np.zeros(12), 0.01)
    assert found.p == pytest.approx(tost_by_hand(pairs, 0.01), rel=1e-9)
    assert (found.verdict == "equal") == (found.p < 0.05)
    interval = stats.ttest_1samp(pairs, 0).confidence_interval(0.90)
    np.testing.assert_allclose((found.narrow.low, found.narrow.high), (interval.low, interval.high), rtol=1e-12)


def test_overlapping_splits_make_equality_harder():
    pairs = np.tile([0.004, -0.004], 5)
    plain, corrected = (statistics.equivalence(pairs, 0 * pairs, 0.01, ratio) for ratio in (0, 0.25))
    np.testing.assert_allclose(corrected.narrow.half_width / plain.narrow.half_width, np.sqrt((0.1 + 0.25) / 0.1))
    np.testing.assert_allclose(corrected.floor, 1.6449 * pairs.std(ddof=1) * 0.5, rtol=1e-4)
    assert plain.p < corrected.p and plain.floor == 0


@pytest.mark.parametrize("pairs, verdict", [
    ([0.001, -0.001, 0.002, 0.0, -0.002], "equal"),
    ([-0.002, -0.0021, -0.0019, -0.002, -0.002], "equal"),        # a difference is seen, but it is within the margin
    ([-0.05, -0.04, -0.06, -0.05, -0.05], "worse"),
    ([0.05, 0.04, 0.06, 0.05, 0.05], "better"),
    ([-0.05, 0.04, -0.03, 0.05, 0.0], "undecided"),
    ([0.0], "undecided"),                                         # one seed shows nothing
])
def test_every_verdict(pairs, verdict):
    found = statistics.equivalence(pairs, np.zeros(len(pairs)), 0.01)
    assert found.verdict == verdict
    assert verdict == "undecided" or found.needed is None


def test_equality_is_rarely_found_where_there_is_none():
    """With a true difference of exactly the margin the tests may call 5 % equal; here with a tolerance of three
    standard errors of 1,000 trials, for either end of the margin."""
    for true in (0.01, -0.01):
        pairs = np.random.default_rng(9).normal(true, 0.01, (1000, 8))
        equal = sum(statistics.equivalence(each, np.zeros(8), 0.01).verdict == "equal" for each in pairs)
        assert equal <= 1000 * 0.05 + 3 * math.sqrt(1000 * 0.05 * 0.95)


def test_overlap_is_paid_for():
    """Differences of resampled splits share a part that more splits do not average out. Without the correction equality
    is found too often at the margin; with it, it is not."""
    rng, found = np.random.default_rng(10), {0.0: 0, 0.25: 0}
    for _ in range(1000):
        pairs = 0.01 + rng.normal(0, 0.002) + rng.normal(0, 0.004, 10)    # correlation 0.2 = 0.25 / (1 + 0.25)
        for overlap in found:
            found[overlap] += statistics.equivalence(pairs, np.zeros(10), 0.01, overlap).verdict == "equal"
    limit = 1000 * 0.05 + 3 * math.sqrt(1000 * 0.05 * 0.95)
    assert found[0.25] <= limit < found[0.0]


def test_identical_scores_are_bounded_by_their_labels():
    """No label of 150 on a fixed test set differs: by the rule of three up to 2 % still could, so 5 seeds of 30 labels
    do not show that accuracies agree to 1 %; 10 do."""
    few = statistics.equivalence([0.9] * 5, [0.9] * 5, 0.01, labels=(0, 150))
    assert few.verdict == "undecided" and few.needed == 10
    assert few.narrow.high == pytest.approx(1 - 0.05 ** (1 / 150)) and few.narrow.low == -few.narrow.high
    assert statistics.equivalence([0.9] * 10, [0.9] * 10, 0.01, labels=(0, 300)).verdict == "equal"


def test_predictions_of_overlapping_splits_are_not_independent():
    """Ten test sets of 30 hold far fewer than 300 samples, and any number of them no more than there are."""
    assert statistics.effective(300, 10, 0.25) == pytest.approx(85.7, abs=0.1)
    assert statistics.effective(30 * 10 ** 6, 10 ** 6, 0.25) == pytest.approx(120, rel=1e-4)
    assert statistics.effective(300, 10, 0.0) == 300
    iris = statistics.equivalence([0.9] * 10, [0.9] * 10, 0.01, 0.25, labels=(0, 300))
    assert iris.verdict == "undecided" and iris.needed == math.inf
    assert iris.narrow.high == pytest.approx(0.0343, abs=1e-4) and iris.floor == pytest.approx(0.0247, abs=1e-4)


def test_the_seeds_needed_are_the_first_that_decide_by_labels():
    def found(n):
        return statistics.equivalence([0.9] * n, [0.9] * n, 0.01, 0.25, labels=(0, 100 * n))
    needed = found(2).needed
    assert found(needed).verdict == "equal" and found(needed - 1).verdict == "undecided"


@pytest.mark.parametrize("centre, n, verdict", [
    (0.0, 10, "undecided"), (0.005, 10, "undecided"), (-0.63, 4, "undecided"), (-0.63, 5, "worse"), (0.63, 5, "better"),
])
def test_no_spread_and_no_labels_never_show_equality(centre, n, verdict):
    found = statistics.equivalence([0.8 + centre] * n, [0.8] * n, 0.01, 0.25)
    assert found.verdict == verdict and math.isnan(found.difference.low) and found.needed is None


@pytest.mark.parametrize("centre, labels, verdict", [
    (-0.63, (95, 150), "worse"), (0.63, (95, 150), "better"), (-0.63, (150, 150), "worse"),
    (-0.02, (3, 150), "undecided"), (0.0, (2, 150), "undecided"),
])
def test_a_constant_difference_is_bounded_by_labels(centre, labels, verdict):
    found = statistics.equivalence([0.3 + centre] * 5, [0.3] * 5, 0.01, 0.25, labels=labels)
    assert found.verdict == verdict and found.difference.low <= centre <= found.difference.high
    assert -1 <= found.difference.low and found.difference.high <= 1


def test_a_loss_within_the_margin_is_not_worse():
    """It is seen, for the interval leaves 0 out, but it may be small enough not to count."""
    pairs = np.array([-0.009, -0.012, -0.007, -0.011, -0.009])
    loss, gain = (statistics.equivalence(each, np.zeros(5), 0.01) for each in (pairs, -pairs))
    assert loss.verdict == "undecided" and loss.difference.high < 0 and loss.worse_within_margin
    assert gain.verdict == "better" and not gain.worse_within_margin
    assert decided(loss.needed, loss.difference.value, pairs.std(ddof=1), 0.01)
    assert not decided(loss.needed - 1, loss.difference.value, pairs.std(ddof=1), 0.01)


@pytest.mark.parametrize("count, of", [(0, 30), (1, 30), (7, 300), (30, 30)])
def test_the_largest_share_agrees_with_scipy(count, of):
    exact = stats.binomtest(count, of, alternative="less").proportion_ci(0.95, method="exact").high
    assert statistics.most(count, of) == pytest.approx(exact)


# ---- how many seeds

def decided(n, centre, deviation, margin, overlap=0.0):
    """Whether n differences of exactly this mean and standard deviation are decided."""
    pairs = np.resize([1.0, -1.0], n) if n % 2 == 0 else np.r_[0.0, np.resize([1.0, -1.0], n - 1)]
    pairs = centre + pairs * deviation / pairs.std(ddof=1)
    return statistics.equivalence(pairs, np.zeros(n), margin, overlap).verdict != "undecided"


@pytest.mark.parametrize("centre, deviation, overlap", [
    (0.0, 0.02, 0.0), (0.004, 0.02, 0.0), (0.02, 0.05, 0.0), (0.0, 0.011, 0.25), (0.002, 0.006, 0.25),
])
def test_the_seeds_needed_are_the_first_that_decide(centre, deviation, overlap):
    needed = statistics.seeds_needed(centre, deviation, 0.01, overlap)
    assert decided(needed, centre, deviation, 0.01, overlap)
    assert not decided(needed - 1, centre, deviation, 0.01, overlap)


def test_where_no_number_of_seeds_decides():
    """The overlap leaves a half width of 1.645 * 0.02 * 0.5, which is more than the margin."""
    assert statistics.seeds_needed(0.0, 0.02, 0.01, test_to_train=0.25) == math.inf
    assert statistics.seeds_needed(0.0, 0.02, 0.01) < 20
    found = statistics.equivalence([0.02, -0.02, 0.02, -0.02], np.zeros(4), 0.01, 0.25)
    assert found.needed == math.inf and found.floor > 0.01
    assert statistics.seeds_needed(0.01, 0.02, 0.01) == pytest.approx(18, abs=1)    # only "different" is left


# ---- whatever the numbers are

EVERY = settings(max_examples=50, deadline=None, derandomize=True, database=None)
OVERLAP = st.sampled_from((0.0, 0.25))
SCORE = st.one_of(st.floats(-1, 1), st.floats(-1e300, 1e300),
                  st.sampled_from((0.0, 0.5, 0.51, 1e-18, -3e-18, 5e-324, 1e-170, 1e300, -1e300)))
TIMES = st.lists(st.floats(1e-9, 1e6), min_size=1, max_size=7)


@EVERY
@given(st.lists(st.tuples(SCORE, SCORE), min_size=1, max_size=6), OVERLAP,
       st.sampled_from((None, (0, 0), (0, 30), (3, 30), (30, 30))))
@example([(0.1, 0.0), (0.2, 0.3), (0.1, 0.1)], 0.25, None)
@example([(1e300, -1e300), (-1e300, 1e300)], 0.0, None)
def test_any_scores_are_judged(pairs, overlap, labels):
    ours, theirs = zip(*pairs)
    found = statistics.equivalence(ours, theirs, 0.01, overlap, labels)
    centre = found.difference.value
    assert {"equal": abs(centre) < 0.01, "better": centre > 0, "worse": centre < -0.01,
            "undecided": found.needed is None or found.needed >= 2}[found.verdict]
    assert len(pairs) > 1 or found.verdict == "undecided"


@EVERY
@given(SCORE, st.floats(0, 1e308), OVERLAP)
@example(3e-18, 0.1, 0.0)
@example(3e-18, 0.1, 0.25)
@example(0.0, 5e-324, 0.0)
@example(1e300, 1e308, 0.25)
def test_any_mean_and_deviation_need_some_number_of_seeds(centre, deviation, overlap):
    assert statistics.seeds_needed(centre, deviation, 0.01, overlap) >= 2


@pytest.mark.parametrize("centre, deviation", [(math.nan, 0.1), (0.0, math.nan), (math.nan, math.nan), (0.0, math.inf)])
def test_no_number_of_seeds_decides_what_is_no_number(centre, deviation):
    assert statistics.seeds_needed(centre, deviation, 0.01) == math.inf


@EVERY
@given(TIMES, TIMES)
@example([1.0] * 5, [1.0] * 5)
def test_any_times_are_compared(first, second):
    """And the other way round it is not the same verdict, unless it is neither of the two."""
    pairs = [list(each) for each in zip(*zip(first, second))]
    for compare, a, b in ((statistics.compare_times, first, second), (statistics.compare_pairs, *pairs)):
        found, back = compare(a, b).verdict, compare(b, a).verdict
        assert {found, back} <= {"same", "ambiguous"} or found != back


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_the_deviation_at_any_scale(samples, scale):
    assert statistics.deviation(samples * scale) == pytest.approx(samples.std(ddof=1) * scale)


# ---- timing

class Clock:
    """A contender whose calls take the times it is given; it remembers whose turn it was."""

    def __init__(self, name, seconds, turns):
        self.name, self.seconds, self.turns = name, seconds, turns

    def __call__(self, times):
        self.turns.append(self.name)
        return self.seconds * times


def test_contenders_take_turns():
    turns = []
    effort = timing.Effort(budget=0.05, warm_up=0.0, least=5)
    found = timing.measure({n: Clock(n, 0.01, turns) for n in "ab"}, effort)
    assert "".join(turns) == "ab" + "ab" * 5
    assert found["a"].seconds == (0.01,) * 5


def test_short_calls_are_timed_several_at_a_time():
    effort = timing.Effort(budget=0.01, warm_up=0.0)
    found = timing.measure({"a": Clock("a", 1e-6, [])}, effort)["a"]
    assert found.calls in (200, 201)    # 200 microseconds hold 200, but for rounding
    np.testing.assert_allclose(found.seconds, 1e-6)


def test_a_slow_call_is_not_repeated_past_patience():
    turns = []
    effort = timing.Effort(budget=1.0, warm_up=0.0, least=5)
    found = timing.measure({"a": Clock("a", 3.0, turns)}, effort)["a"]
    assert len(found.seconds) == 2    # 6 seconds of samples: more than four budgets


def test_steady_samples_end_before_the_budget():
    effort = timing.Effort(budget=1000.0, warm_up=0.0, least=5)
    assert len(timing.measure({"a": Clock("a", 0.01, [])}, effort)["a"].seconds) == 16


def test_warm_up_is_thrown_away():
    turns = []
    effort = timing.Effort(budget=0.05, warm_up=0.1, least=5)
    timing.measure({"a": Clock("a", 0.01, turns)}, effort)
    assert 10 + 5 <= len(turns) <= 11 + 5    # ten warm-up calls fill 0.1 s, an eleventh if 10 x 0.01 rounds down
