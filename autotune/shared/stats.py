"""Medians, ratios and their confidence intervals, without assuming a normal distribution."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

Item = TypeVar("Item")

CONFIDENCE = 0.95
"""Probability that an interval should hold the true value."""

NORMAL_QUANTILE = 1.96
"""Standard deviations either side of the mean that hold CONFIDENCE of a normal distribution."""

PROCESS_LOG_DEVIATION = 0.012
"""How much processes that run the same configuration differ in speed: the standard deviation of the
logarithm. The cause is where their memory lies. Measured by `bench/comparisons.py`: most processes
agree within 0.5%, but one in six was 3% slower throughout its life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A median (or another estimate of the centre) and its confidence interval.

    `coverage` is the probability that the interval holds the true value. It may be below
    CONFIDENCE: with fewer than six samples even their full range covers less than 95%.
    """

    median: float
    low: float
    high: float
    coverage: float
    samples: int

    @property
    def half_width(self) -> float:
        """Half the width of the interval, relative to the median: 0.03 means plus or minus 3%."""
        return (self.high - self.low) / 2 / self.median if self.median else math.inf

    def scaled(self, factor: float) -> Interval:
        """The interval in another unit: every value times `factor`, which is above 0."""
        return Interval(
            median=self.median * factor,
            low=self.low * factor,
            high=self.high * factor,
            coverage=self.coverage,
            samples=self.samples,
        )

    def inverse(self, numerator: float = 1.0) -> Interval:
        """The interval of `numerator / value`. Example: a rate from a time."""
        return Interval(
            median=numerator / self.median,
            low=numerator / self.high,
            high=numerator / self.low,
            coverage=self.coverage,
            samples=self.samples,
        )


def median_interval(samples: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The median of independent samples and its order-statistic interval, of at least `confidence`.

    The interval from the k-th smallest to the k-th largest of n samples covers the median with
    probability 1 - 2 P(Binomial(n, 1/2) < k), for any continuous distribution. The largest k
    that covers `confidence` is used; k is 1 if none does. Source: Conover, Practical
    Nonparametric Statistics, 3rd ed., 3.2. Raises ValueError on no samples.
    """
    if not samples:
        raise ValueError("median_interval needs at least one sample, got none")
    ordered = sorted(samples)
    n = len(ordered)
    tail = 0.5**n  # P(Binomial(n, 1/2) < 1)
    k = 1
    while k + 1 <= n // 2:
        wider_tail = tail + math.comb(n, k) * 0.5**n
        if 1 - 2 * wider_tail < confidence:
            break
        tail = wider_tail
        k += 1
    return Interval(
        median=statistics.median(ordered),
        low=ordered[k - 1],
        high=ordered[n - k],
        coverage=max(0.0, 1 - 2 * tail),
        samples=n,
    )


def ratio_interval(ratios: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The Hodges-Lehmann estimate of a ratio, and its Wilcoxon signed-rank interval.

    The estimate is the median of the geometric means of all pairs of ratios, each ratio also
    paired with itself. The interval's ends are order statistics of these means; the signed-rank
    distribution says which. The coverage is exact if the logarithms are distributed symmetrically.

    The interval is far narrower than that of the median, and one outlier moves it less than an
    interval of the mean. A bootstrap of so few ratios would cover less than it states. Source:
    Hollander, Wolfe and Chicken, Nonparametric Statistical Methods, 3rd ed., 3.3. Raises
    ValueError on no samples.
    """
    if not ratios:
        raise ValueError("ratio_interval needs at least one ratio, got none")
    logs = [math.log(ratio) for ratio in ratios]
    n = len(logs)
    means = sorted((logs[i] + logs[j]) / 2 for i in range(n) for j in range(i, n))
    ways = [1]  # ways[w]: the number of subsets of the ranks 1..n whose sum is w
    for rank in range(1, n + 1):
        longer = ways + [0] * rank
        ways = [a + b for a, b in zip(longer, [0] * rank + ways, strict=True)]
    k, tail = 1, ways[0]
    while k + 1 <= len(means) // 2 and 1 - 2 * (tail + ways[k]) / 2**n >= confidence:
        tail += ways[k]
        k += 1
    return Interval(
        median=math.exp(statistics.median(means)),
        low=math.exp(means[k - 1]),
        high=math.exp(means[len(means) - k]),
        coverage=max(0.0, 1 - 2 * tail / 2**n),
        samples=n,
    )


def gain_interval(ratios: Sequence[float], processes: int = 1) -> Interval:
    """How many times better one configuration is than another, from one ratio a round.

    Each side ran in `processes` processes, one after the other. The interval is that of
    `ratio_interval`, widened by the difference between processes (PROCESS_LOG_DEVIATION). More
    rounds in the same two processes cannot show this difference. The two deviations are
    independent, so their squares are added. Raises ValueError on no samples.
    """
    rounds = ratio_interval(ratios)
    process_half_width = NORMAL_QUANTILE * math.sqrt(2 / processes) * PROCESS_LOG_DEVIATION

    def log_distance(end: float) -> float:
        return math.hypot(math.log(end / rounds.median), process_half_width)

    return replace(
        rounds,
        low=rounds.median * math.exp(-log_distance(rounds.low)),
        high=rounds.median * math.exp(log_distance(rounds.high)),
    )


def shuffled(items: Sequence[Item]) -> list[Item]:
    """`items` in a random order: the order in which to visit them in one round.

    Two equally fast configurations are then as likely to come in one order as in the other. The
    sign of a round's log ratio is a fair coin, even if the host slows down during the round.
    `ratio_interval` needs no more than this.

    No fixed pattern has this property. Example: if every second round runs backwards, the last
    visit of a round and the first of the next go to the same item. A few slow seconds then hit
    both. Source: Montgomery, Design and Analysis of Experiments, 8th ed., 4.1 (randomised
    complete blocks).
    """
    return random.sample(items, len(items))


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile, as in MLPerf; always one of the samples.

    Raises ValueError on no samples.
    """
    if not samples:
        raise ValueError("percentile needs at least one sample, got none")
    rank = max(1, math.ceil(percent / 100 * len(samples)))
    return sorted(samples)[rank - 1]
