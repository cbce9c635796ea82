"""Medians, and intervals that assume no distribution.

Shared by both programs (the worker's stopping rule and the report must be one rule), so:
standard library only.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


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


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile, as MLPerf uses it: always one of the samples."""
    if not samples:
        raise ValueError("percentile needs at least one sample, got none")
    rank = max(1, math.ceil(percent / 100 * len(samples)))
    return sorted(samples)[rank - 1]
