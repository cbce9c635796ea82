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

MAX_QUANTILE = 1e3
"""An upper bound on every quantile of Student's t that is asked for; the largest is 12.7."""


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


def student_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """Standard errors either side of the mean that hold `confidence` of Student's t distribution.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    low, high = 0.0, MAX_QUANTILE
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < confidence else (low, middle)
    return high


def _within(distance: float, degrees: int) -> float:
    """The probability that Student's t is at most `distance` from 0."""
    angle = math.atan(distance / math.sqrt(degrees))
    odd, total = degrees % 2, 0.0
    term = math.cos(angle) if odd else 1.0
    for factor in range(1 + odd, degrees, 2):
        total += term
        term *= math.cos(angle) ** 2 * factor / (factor + 1)
    share = math.sin(angle) * total
    return 2 / math.pi * (angle + share) if odd else share


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpread:
    """How much processes that run the same configuration differ in speed on a host.

    `log_deviation` is the standard deviation of the logarithm. `degrees` is the number of
    independent differences from which it was estimated.
    """

    log_deviation: float
    degrees: int


UNKNOWN_HOST = ProcessSpread(log_deviation=0.02, degrees=2)
"""What is assumed of a host before its processes are compared. It weighs as much as two differences
that were measured. On two hosts the deviation was 0.7% and 1.1% (`bench/comparisons.py`); 2%
leaves room for hosts whose processes differ by 3%."""


def process_spread(
    values: Sequence[Sequence[float]], per_process: int, known: ProcessSpread = UNKNOWN_HOST
) -> ProcessSpread:
    """How much processes differ, from `values[side][round]` of several sides, and from `known`.

    The sides were visited in turn. Each changed to a fresh process after `per_process` rounds. The
    differences of a side from the mean of its round are free of the host's drift. Their analysis
    of variance tells the variance between processes from that between visits (Montgomery, Design
    and Analysis of Experiments, 8th ed., 13). `known` is returned if there were no two processes.
    """
    rounds, sides = min(map(len, values), default=0), len(values)
    blocks = [range(n, min(n + per_process, rounds)) for n in range(0, rounds, per_process)]
    degrees, degrees_within = (sides - 1) * (len(blocks) - 1), (sides - 1) * (rounds - len(blocks))
    if degrees <= 0 or degrees_within <= 0:
        return known
    logs = [[math.log(value) for value in side[:rounds]] for side in values]
    centres = [statistics.fmean(side[n] for side in logs) for n in range(rounds)]
    between = within = 0.0
    for side in logs:
        apart = [own - centre for own, centre in zip(side, centres, strict=True)]
        mean = statistics.fmean(apart)
        for block in blocks:
            level = statistics.fmean(apart[n] for n in block)
            between += len(block) * (level - mean) ** 2
            within += sum((apart[n] - level) ** 2 for n in block)
    visits = (rounds - sum(len(block) ** 2 for block in blocks) / rounds) / (len(blocks) - 1)
    found = max(0.0, between - degrees * within / degrees_within) / visits
    total = known.degrees + degrees
    squares = known.degrees * known.log_deviation**2 + found
    return ProcessSpread(log_deviation=math.sqrt(squares / total), degrees=total)


def _rounds_interval(ratios: Sequence[float]) -> Interval:
    """`ratio_interval`; of two to five ratios as wide as Student's interval, if that is wider.

    The whole range of five ratios covers less than CONFIDENCE. Student's interval covers it if
    the logarithms are normal. One ratio has no interval, and its coverage is 0.
    """
    ranks, count = ratio_interval(ratios), len(ratios)
    if ranks.coverage >= CONFIDENCE or count < 2:
        return ranks
    logs = [math.log(ratio) for ratio in ratios]
    half_width = student_quantile(count - 1) * statistics.stdev(logs) / math.sqrt(count)
    mean = statistics.fmean(logs)
    return replace(
        ranks,
        low=min(ranks.low, math.exp(mean - half_width)),
        high=max(ranks.high, math.exp(mean + half_width)),
        coverage=CONFIDENCE,
    )


def gain_interval(
    ratios: Sequence[float], processes: int = 1, spread: ProcessSpread = UNKNOWN_HOST
) -> Interval:
    """How many times better one configuration is than another, from one ratio a round.

    Each side ran in `processes` processes, one after the other. The interval of the rounds is
    widened by the difference between processes (`spread`), which more rounds in the same two
    processes cannot show. The two deviations are independent, so their squares are added. Raises
    ValueError on no samples.
    """
    rounds = _rounds_interval(ratios)
    deviation = math.sqrt(2 / processes) * spread.log_deviation
    process_half_width = student_quantile(spread.degrees) * deviation

    def log_distance(end: float) -> float:
        return math.hypot(math.log(end / rounds.median), process_half_width)

    return replace(
        rounds,
        low=rounds.median * math.exp(-log_distance(rounds.low)),
        high=rounds.median * math.exp(log_distance(rounds.high)),
    )


def shuffled(items: Sequence[Item], rng: random.Random) -> list[Item]:
    """`items` in a random order of `rng`: the order in which to visit them in one round.

    Two equally fast configurations are then as likely to come in one order as in the other. The
    sign of a round's log ratio is a fair coin, even if the host slows down during the round.
    `ratio_interval` needs no more than this.

    No fixed pattern has this property. Example: if every second round runs backwards, the last
    visit of a round and the first of the next go to the same item. A few slow seconds then hit
    both. Source: Montgomery, Design and Analysis of Experiments, 8th ed., 4.1 (randomised
    complete blocks).
    """
    return rng.sample(items, len(items))


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile, as in MLPerf; always one of the samples.

    Raises ValueError on no samples.
    """
    if not samples:
        raise ValueError("percentile needs at least one sample, got none")
    rank = max(1, math.ceil(percent * len(samples) / 100))
    return sorted(samples)[rank - 1]


def percentile_interval(
    samples: Sequence[float], percent: float, confidence: float = CONFIDENCE
) -> Interval:
    """The nearest-rank percentile of independent samples and its order-statistic interval.

    The interval from the l-th to the u-th smallest of n samples covers the percentile with
    probability P(l <= K < u), where K is binomial with n and `percent` / 100. The narrowest ends
    are used that each leave out half of what `confidence` leaves. If there is no such end, the
    smallest or the largest sample stands for it. `coverage` then says how little the interval
    covers: 43% of the p99 of 60 samples. Source: Conover, Practical Nonparametric Statistics, 3rd
    ed., 3.2. Raises ValueError on no samples.
    """
    middle, ordered, count = percentile(samples, percent), sorted(samples), len(samples)
    at_most = _binomial_at_most(count, percent / 100)
    tail = (1 - confidence) / 2
    low = max(1, sum(probability <= tail for probability in at_most))
    high = next((n for n in range(1, count + 1) if 1 - at_most[n - 1] <= tail), count)
    return Interval(
        median=middle,
        low=ordered[low - 1],
        high=ordered[high - 1],
        coverage=max(0.0, at_most[high - 1] - at_most[low - 1]),
        samples=count,
    )


def _binomial_at_most(count: int, probability: float) -> list[float]:
    """P(K <= k) for k = 0 to `count`, of a binomial K."""
    total, found = 0.0, []
    for k in range(count + 1):
        ways = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        rest = (count - k) * math.log1p(-probability)
        total += math.exp(ways + k * math.log(probability) + rest)
        found.append(min(1.0, total))
    return found


def samples_needed(percent: float, confidence: float = CONFIDENCE) -> int:
    """The fewest samples whose largest is an upper end for the percentile: 368 for the p99."""
    return math.ceil(math.log((1 - confidence) / 2) / math.log(percent / 100))
