from __future__ import annotations

import math
import random
import statistics

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from autotune.shared.stats import (
    UNKNOWN_HOST,
    gain_interval,
    median_interval,
    percentile,
    percentile_interval,
    process_spread,
    ratio_interval,
    samples_needed,
    shuffled,
    student_quantile,
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


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 10, 31])
def test_quantiles_are_those_of_students_t(degrees):
    assert student_quantile(degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), rel=1e-8)


def test_the_difference_between_processes_widens_a_gain():
    same = gain_interval([2.0] * 8)
    assert same.median == pytest.approx(2.0)
    half_width = scipy.stats.t.ppf(0.975, 2) * math.sqrt(2) * 0.02  # of an unknown host
    assert math.log(same.high / 2) == pytest.approx(half_width)
    assert same.high * same.low == pytest.approx(4.0)
    wide = [2.0, 2.4, 1.6, 2.2, 1.9, 2.1]
    own, whole = ratio_interval(wide), gain_interval(wide)
    assert whole.low < own.low < own.high < whole.high
    assert whole.coverage == own.coverage
    several = gain_interval(wide, 3)
    assert whole.low < several.low < own.low


def test_few_rounds_get_students_interval():
    """Of three ratios e^0, e^.1 and e^.2 the mean is e^.1, the standard error .1 / sqrt(3)."""
    found = gain_interval([1.0, math.exp(0.1), math.exp(0.2)])
    quantile = scipy.stats.t.ppf(0.975, 2)
    distance = math.hypot(quantile * 0.1 / math.sqrt(3), quantile * 0.02 * math.sqrt(2))
    assert found.low == pytest.approx(math.exp(0.1 - distance))
    assert (found.coverage, found.samples) == (0.95, 3)
    assert gain_interval([1.1]).coverage == 0.0


def test_the_difference_between_processes_is_estimated_from_visits_in_turn():
    """The difference of two sides changes by .02 when both get fresh processes. Its variance is
    four times that of a process: .0001, with one degree of freedom."""
    level = math.exp(0.02)
    found = process_spread([[level, level, 1.0, 1.0], [1.0] * 4], 2)
    assert found.degrees == 3
    assert found.log_deviation == pytest.approx(math.sqrt((2 * 0.02**2 + 0.0001) / 3))
    assert process_spread([[1.0, 1.1], [1.0, 1.2]], 3) == UNKNOWN_HOST


def visited(rng, rounds, sides, process, visit):
    """The speeds of equal sides: each changes to a fresh process after three visits."""
    blocks = range(0, rounds, 3)
    return [
        [
            math.exp(level + rng.gauss(0.0, visit))
            for start in blocks
            for level in [rng.gauss(0.0, process)]
            for _ in range(start, min(start + 3, rounds))
        ]
        for _ in range(sides)
    ]


@pytest.mark.parametrize("process", [0.012, 0.03])
@pytest.mark.parametrize("rounds", [3, 4, 6, 12])
def test_the_best_of_equal_configurations_seldom_wins(process, rounds):
    """Three leaders as fast as the baseline; the best of them is judged by the same visits."""
    rng = random.Random(f"{process} {rounds}")
    wins = covered = 0
    for _ in range(500):
        sides = visited(rng, rounds, 4, process, visit=0.02)
        spread = process_spread(sides, 3)
        gains = [
            gain_interval(
                [one / base for one, base in zip(side, sides[0], strict=True)],
                math.ceil(rounds / 3),
                spread,
            )
            for side in sides[1:]
        ]
        wins += max(gains, key=lambda gain: gain.median).low > 1
        covered += gains[0].low <= 1 <= gains[0].high
    assert wins / 500 <= 0.07
    assert covered / 500 >= 0.93


@pytest.mark.parametrize("count", [60, 101, 368, 1000, 2000])
def test_a_percentile_has_the_interval_of_its_order_statistics(count):
    found = percentile_interval([float(n) for n in range(1, count + 1)], 99)
    at_most = scipy.stats.binom(count, 0.99).cdf
    low, high = int(found.low), int(found.high)
    assert found.median == math.ceil(0.99 * count)
    assert found.coverage == pytest.approx(at_most(high - 1) - at_most(low - 1))
    assert at_most(low - 1) <= 0.025 or low == 1
    assert (found.coverage >= 0.95) == (count >= 368)


def test_the_samples_that_a_percentile_needs():
    """Of fewer than 368 samples the largest is below the p99 in over 2.5% of cases."""
    assert samples_needed(99) == 368
    assert 0.99**368 <= 0.025 < 0.99**367


def test_intervals_of_randomly_ordered_rounds_cover_even_on_an_uneven_host():
    """The host is slow for visits 2 and 3 of every 4. If every second round ran backwards, the
    second of two equal sides would always meet the slow visits."""
    order, rng = random.Random(0), random.Random(1)
    different = 0
    for _ in range(1000):
        visits = iter([(1.0, 1.1, 1.1, 1.0)[i % 4] * rng.uniform(0.99, 1.01) for i in range(48)])
        rounds = [{side: next(visits) for side in shuffled("ab", order)} for _ in range(24)]
        found = ratio_interval([one["a"] / one["b"] for one in rounds])
        different += found.low > 1 or found.high < 1
    assert 30 <= different <= 70
