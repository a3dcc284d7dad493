"""The benchmark's statistics against SciPy, and against what is known in closed form."""
import numpy as np
import pytest
from scipy import stats

from numprec.harness import statistics, timing


@pytest.fixture
def samples():
    return np.random.default_rng(3).gamma(4, size=40)


def test_quartiles_of_known_samples():
    assert statistics.quartiles([5, 1, 3, 2, 4]) == (2, 3, 4)


def test_bootstrap_agrees_with_scipy(samples):
    ours = statistics.bootstrap(samples, resamples=20000)
    theirs = stats.bootstrap((samples,), np.median, method="percentile", n_resamples=20000, rng=1).confidence_interval
    width = theirs.high - theirs.low
    assert ours.value == np.median(samples)
    assert abs(ours.low - theirs.low) < 0.05 * width and abs(ours.high - theirs.high) < 0.05 * width


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
