"""Medians, and intervals that assume no distribution.

Shared by both programs (the worker's stopping rule and the report must be one rule), so:
standard library only.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

Item = TypeVar("Item")

CONFIDENCE = 0.95
NORMAL_QUANTILE = 1.96
"""Of the normal distribution, for CONFIDENCE on both sides."""
PROCESS_LOG_DEVIATION = 0.012
"""Standard deviation of the logarithm of how fast a process is that runs a configuration, over
processes that run the same: memory lies elsewhere. Measured by `bench/comparisons.py`: most
agree within half a percent, one in six was 3% slower as long as it lived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A median with the order statistics that bracket it.

    `coverage` is the probability that the interval holds the true median, for independent
    samples of any continuous distribution. With fewer than six samples even the full range
    covers less than 95%, and `coverage` says how much.
    """

    median: float
    low: float
    high: float
    coverage: float
    samples: int

    @property
    def half_width(self) -> float:
        """Half the interval relative to the median."""
        return (self.high - self.low) / 2 / self.median if self.median else math.inf

    def scaled(self, factor: float) -> Interval:
        """The interval in another unit (times `factor` > 0)."""
        return Interval(
            median=self.median * factor,
            low=self.low * factor,
            high=self.high * factor,
            coverage=self.coverage,
            samples=self.samples,
        )

    def inverse(self, numerator: float = 1.0) -> Interval:
        """The interval of `numerator / value`: a rate from a time."""
        return Interval(
            median=numerator / self.median,
            low=numerator / self.high,
            high=numerator / self.low,
            coverage=self.coverage,
            samples=self.samples,
        )


def median_interval(samples: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The narrowest symmetric order-statistic interval of the median that covers `confidence`.

    Source: Conover, Practical Nonparametric Statistics, 3rd ed., 3.2: the interval between
    the k-th smallest and k-th largest of n samples covers the median with probability
    1 - 2 P(Binomial(n, 1/2) < k). Raises ValueError on no samples.
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
    """The Hodges-Lehmann estimate of paired ratios, and its signed-rank interval.

    The median of the geometric means of all pairs of ratios (each with itself too), between
    the order statistics that Wilcoxon's signed-rank distribution gives: exact for a symmetric
    distribution of the logarithms, far narrower than an interval of the median, and not led
    astray by one outlier as one of the mean is. A bootstrap of so few pairs covers less than
    it says. Source: Hollander, Wolfe and Chicken, Nonparametric Statistical Methods, 3rd ed.,
    3.3. Raises ValueError on no samples.
    """
    if not ratios:
        raise ValueError("ratio_interval needs at least one ratio, got none")
    logs = [math.log(ratio) for ratio in ratios]
    n = len(logs)
    means = sorted((logs[i] + logs[j]) / 2 for i in range(n) for j in range(i, n))
    ways = [1]  # ways[w]: subsets of the ranks 1..n whose sum is w
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
    """How many times better one configuration is than another, by the ratios of rounds in which a
    process of each was visited, of so many one after the other: `ratio_interval`, and what the
    processes may differ by.

    That is a deviation of its own, which no number of rounds in the same two processes can tell:
    both are added as independent ones are. Raises ValueError on no samples.
    """
    within = ratio_interval(ratios)
    apart = NORMAL_QUANTILE * math.sqrt(2 / processes) * PROCESS_LOG_DEVIATION

    def beside(end: float) -> float:
        return math.hypot(math.log(end / within.median), apart)

    return replace(
        within,
        low=within.median * math.exp(-beside(within.low)),
        high=within.median * math.exp(beside(within.high)),
    )


def shuffled(items: Sequence[Item]) -> list[Item]:
    """An order in which to visit `items` in a round, drawn anew for each.

    Two configurations that are the same are then as likely to stand in one order as in the
    other, so the sign of each round's logarithm is a fair coin, whatever the host does in the
    meantime: all that `ratio_interval` asks for. No fixed pattern has that. Every second round
    backwards, the last of a round is the first of the next, and a few slow seconds fall on both
    its visits. Source: Montgomery, Design and Analysis of Experiments, 8th ed., 4.1 (randomised
    complete blocks).
    """
    return random.sample(items, len(items))


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile, as MLPerf uses it: always one of the samples."""
    if not samples:
        raise ValueError("percentile needs at least one sample, got none")
    rank = max(1, math.ceil(percent / 100 * len(samples)))
    return sorted(samples)[rank - 1]
