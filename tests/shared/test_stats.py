from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.shared.stats import (
    NORMAL_QUANTILE,
    PROCESS_LOG_DEVIATION,
    gain_interval,
    median_interval,
    percentile,
    ratio_interval,
    shuffled,
)

SAMPLES = st.lists(st.floats(min_value=1e-6, max_value=1e6), min_size=1, max_size=60)


@given(SAMPLES)
def test_interval_brackets_the_median_with_samples(samples):
    interval = median_interval(samples)
    assert interval.low <= interval.median <= interval.high
    assert {interval.low, interval.high} <= set(samples)
    assert interval.median == statistics.median(samples)


@given(st.integers(min_value=6, max_value=200))
def test_from_six_samples_on_the_coverage_is_at_least_95_percent(n):
    assert median_interval([float(i) for i in range(n)]).coverage >= 0.95


def test_coverage_is_the_binomial_probability():
    # n=10: ranks 2 and 9, 1 - 2 (1 + 10) / 1024 (Conover, table A3)
    interval = median_interval([float(i) for i in range(1, 11)])
    assert (interval.low, interval.high) == (2, 9)
    assert interval.coverage == pytest.approx(1 - 2 * 11 / 1024)


def test_few_samples_say_how_little_they_cover():
    assert median_interval([1.0]).coverage == 0
    assert median_interval([1.0, 2.0, 3.0]).coverage == pytest.approx(0.75)


def test_interval_covers_the_true_median_as_often_as_it_says():
    rng = random.Random(3)
    inside = 0
    for _ in range(2000):
        interval = median_interval([rng.lognormvariate(0, 1) for _ in range(9)])
        inside += interval.low <= 1.0 <= interval.high
    claimed = median_interval([float(i) for i in range(9)]).coverage
    assert inside / 2000 == pytest.approx(claimed, abs=0.02)


def test_inverse_turns_times_into_rates():
    rate = median_interval([1.0, 2.0, 4.0]).inverse(8)
    assert (rate.low, rate.median, rate.high) == (2, 4, 8)


@given(SAMPLES, st.floats(min_value=0.1, max_value=100))
def test_percentile_is_a_sample_with_that_share_at_or_below(samples, percent):
    value = percentile(samples, percent)
    at_or_below = sum(sample <= value for sample in samples)
    assert value in samples
    assert at_or_below >= math.ceil(percent / 100 * len(samples))


@pytest.mark.parametrize("function", [median_interval, lambda s: percentile(s, 50)])
def test_no_samples_are_refused(function):
    with pytest.raises(ValueError, match="at least one sample"):
        function([])


def test_a_ratio_and_its_inverse_have_inverse_intervals():
    ratios = [1.1, 1.2, 0.9, 1.3, 1.15, 1.05, 1.22]
    one, other = ratio_interval(ratios), ratio_interval([1 / r for r in ratios])
    assert one.median == pytest.approx(1 / other.median)
    assert (one.low, one.high) == pytest.approx((1 / other.high, 1 / other.low))
    assert min(ratios) <= one.low < one.median < one.high <= max(ratios)


def test_a_few_ratios_say_how_little_they_cover():
    assert ratio_interval([1.1]).coverage == 0.0
    three = ratio_interval([1.0, 1.2, 1.1])
    assert (three.low, three.high, three.coverage) == (1.0, pytest.approx(1.2), 0.75)
    assert ratio_interval([1.0 + i / 100 for i in range(6)]).coverage >= 0.95
    with pytest.raises(ValueError, match="at least one"):
        ratio_interval([])


def test_ratio_intervals_are_the_signed_rank_tables():
    """Ten ratios: the interval is from the ninth smallest to the ninth largest of 55 means."""
    found = ratio_interval([math.exp(i) for i in range(1, 11)])
    assert math.log(found.median) == pytest.approx(5.5)
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((3.0, 8.0))
    assert found.coverage == pytest.approx(0.951, abs=0.001)


def test_ratio_intervals_cover_what_they_say():
    rng = random.Random(0)
    inside = 0
    for _ in range(1000):
        found = ratio_interval([math.exp(rng.gauss(0.0, 0.1)) for _ in range(8)])
        inside += found.low <= 1 <= found.high
    assert 930 <= inside <= 985


def test_the_difference_between_processes_widens_a_gain():
    same = gain_interval([2.0] * 8)
    assert same.median == pytest.approx(2.0)
    half_width = NORMAL_QUANTILE * math.sqrt(2) * PROCESS_LOG_DEVIATION
    assert math.log(same.high / 2) == pytest.approx(half_width)
    assert same.high * same.low == pytest.approx(4.0)
    wide = [2.0, 2.4, 1.6, 2.2, 1.9, 2.1]
    own, whole = ratio_interval(wide), gain_interval(wide)
    assert whole.low < own.low < own.high < whole.high
    assert whole.coverage == own.coverage
    several = gain_interval(wide, 3)
    assert whole.low < several.low < own.low


def test_two_processes_of_one_configuration_are_not_called_different():
    """Rounds have almost no noise, but the two processes differ at random."""
    rng = random.Random(3)
    different = 0
    for _ in range(1000):
        one, other = (math.exp(rng.gauss(0.0, PROCESS_LOG_DEVIATION)) for _ in range(2))
        found = gain_interval([one / other * rng.uniform(0.999, 1.001) for _ in range(24)])
        different += found.low > 1 or found.high < 1
    assert 20 <= different <= 80


def test_intervals_of_randomly_ordered_rounds_cover_even_on_an_uneven_host():
    """The host is slow for visits 2 and 3 of every 4. If every second round ran backwards, the
    second of two equal sides would always meet the slow visits."""
    random.seed(0)
    rng = random.Random(1)
    different = 0
    for _ in range(1000):
        visits = iter([(1.0, 1.1, 1.1, 1.0)[i % 4] * rng.uniform(0.99, 1.01) for i in range(48)])
        rounds = [{side: next(visits) for side in shuffled("ab")} for _ in range(24)]
        found = ratio_interval([one["a"] / one["b"] for one in rounds])
        different += found.low > 1 or found.high < 1
    assert 30 <= different <= 70
