"""Objectives: the number that a search optimises, computed from a measurement's raw samples."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

from autotune.shared.errors import InputError
from autotune.shared.objectives import LATENCY, OBJECTIVES, SERVER, THROUGHPUT
from autotune.shared.records import LoadResult, Measurement, Pass, Trial
from autotune.shared.stats import Interval, median_interval, percentile

PERCENTILES = (50, 90, 99)
RATE_SEARCH_S = 20.0
"""About how many seconds it takes to find the highest rate again."""


class Objective(ABC):
    """A number to optimise, with its confidence interval over the passes of a measurement."""

    kind: ClassVar[str]  # its name in a search space, as in autotune.shared.objectives
    maximize: ClassVar[bool]
    unit: str  # for people
    verb, compared = "is", "as fast as"  # as in: is 2.0x as fast as the baseline
    by_requests: ClassVar[bool] = False  # the value is a rate of requests, which are answered too
    limit_s: float | None = None  # on the p99 of these requests
    serving_s: float = 0.0  # seconds of a visit of the finals besides its passes

    @property
    def name(self) -> str:
        """The name from which `objective_named` makes the same objective."""
        return self.kind

    @classmethod
    def named(cls, name: str) -> Self | None:
        """The objective of this class that has the `name`. None if it has none of that name.

        Raises InputError if the name lacks something that the objective needs.
        """
        return cls() if name == cls.kind else None

    @abstractmethod
    def interval(self, measurement: Measurement) -> Interval:
        """The objective's median over passes and its interval, in seconds or examples/s."""

    @abstractmethod
    def best_case(self, batch_s: Sequence[float], like: Measurement, instances: int) -> float:
        """The best value that the objective can have if every pass has these batch times.

        The pass is over the workload of `like`, on each of `instances`.
        """

    @abstractmethod
    def shown(self, value: float) -> str:
        """A value with its unit, for people."""

    def value(self, measurement: Measurement) -> float:
        return self.interval(measurement).median

    def estimate(self, pass_s: float, like: Measurement, instances: int) -> float:
        """The objective of a configuration whose pass takes `pass_s` on each of its `instances`.

        It assumes the batch-time distribution of `like` (one instance).
        """
        times = pass_s / workload_s(like) / (instances if self.maximize else 1)
        return self.value(like) / times if self.maximize else self.value(like) * times

    def estimate_screened(self, trial: Trial, like: Measurement) -> float:
        """The `estimate` of a trial that was screened."""
        assert trial.screen is not None
        return self.estimate(trial.screen.pass_s, like, int(trial.config["instances"]))

    def pace_s(self, measurement: Measurement) -> float:
        """Seconds for one workload, all instances together, that are as good as `measurement`."""
        return workload_s(measurement)

    def p99_s(self, share: float) -> float:
        """The p99 in seconds of a rate of requests that reached `share` of its limit."""
        assert self.limit_s is not None
        return self.limit_s / share

    def caveat(self, measurement: Measurement) -> str | None:
        """Why the value of `measurement` is not what it seems, for people; None if it is."""
        return None

    def better(self, one: float, other: float) -> bool:
        """Whether the value `one` is better than `other`."""
        return one > other if self.maximize else one < other

    def ratio(self, one: Measurement, other: Measurement) -> float:
        """How many times better the median of `one` is than that of `other`."""
        return self.speedup(self.interval(one), self.interval(other)).median

    def speedup(self, one: Interval, other: Interval) -> Interval:
        """How many times better `one` is than `other`, as an interval.

        Its ends combine the ends of `one` with the opposite ends of `other`.
        """
        if not self.maximize:
            one, other = other, one
        return Interval(
            median=one.median / other.median,
            low=one.low / other.high,
            high=one.high / other.low,
            coverage=min(one.coverage, other.coverage),
            samples=min(one.samples, other.samples),
        )


class Throughput(Objective):
    """Examples a second over the whole workload, at any batch size, summed over instances."""

    kind: ClassVar[str] = THROUGHPUT.name
    unit = "examples/s"
    maximize: ClassVar[bool] = True

    def interval(self, measurement: Measurement) -> Interval:
        rates = [
            median_interval([p.whole_s for p in passes]).inverse(measurement.examples)
            for passes in by_instance(measurement)
        ]
        return Interval(
            median=sum(rate.median for rate in rates),
            low=sum(rate.low for rate in rates),
            high=sum(rate.high for rate in rates),
            coverage=min(rate.coverage for rate in rates),
            samples=min(rate.samples for rate in rates),
        )

    def best_case(self, batch_s: Sequence[float], like: Measurement, instances: int) -> float:
        return instances * like.examples / sum(batch_s)

    def shown(self, value: float) -> str:
        return f"{value:.1f}/s"


class Latency(Objective):
    """The 90th percentile of the time of one example, as in MLPerf's single-stream scenario.

    With several instances, it is that of the slowest instance.
    """

    kind: ClassVar[str] = LATENCY.name
    unit = "s (p90)"
    maximize: ClassVar[bool] = False

    def interval(self, measurement: Measurement) -> Interval:
        return max(
            (
                median_interval([percentile(p.warm_batch_s, 90) for p in passes])
                for passes in by_instance(measurement)
            ),
            key=lambda interval: interval.median,
        )

    def best_case(self, batch_s: Sequence[float], like: Measurement, instances: int) -> float:
        return percentile(batch_s, 90)

    def shown(self, value: float) -> str:
        return f"{value * 1000:.2f} ms"


class ServerObjective(Objective):
    """The highest rate of requests whose p99 stays under a limit, as in MLPerf's server scenario.

    If the p99 is over the limit at every rate, the value is the lowest rate tried times limit /
    p99. At 40 requests/s and twice the limit, for example, it is 20 requests/s.
    """

    kind: ClassVar[str] = SERVER.name
    maximize: ClassVar[bool] = True
    by_requests: ClassVar[bool] = True
    verb, compared = "serves", "the rate of"
    serving_s = RATE_SEARCH_S

    def __init__(self, limit_s: float) -> None:
        self.limit_s: float = limit_s
        self.unit = f"requests/s with p99 under {_milliseconds(limit_s)}"

    @property
    def name(self) -> str:
        return f"{self.kind}-{_milliseconds(self.limit_s).replace(' ', '')}"

    @classmethod
    def named(cls, name: str) -> Self | None:
        limited = LIMITED.fullmatch(name)
        if limited:
            return cls(float(limited[1]) / 1000)
        if name == cls.kind:
            raise InputError(
                f"--objective {name} needs the limit of its p99: pass --max-latency-ms"
            )
        return None

    def interval(self, measurement: Measurement) -> Interval:
        """Over the load tests; of a single one by the interval of its p99."""
        tests = measurement.answered
        values = [self._rate(one, one.p99_s) for one in tests]
        if len(tests) > 1 or not tests[0].p99_coverage:
            return median_interval(values)
        return Interval(
            median=values[0],
            low=self._rate(tests[0], tests[0].p99_high_s),
            high=self._rate(tests[0], tests[0].p99_low_s),
            coverage=tests[0].p99_coverage,
            samples=1,
        )

    def _rate(self, served: LoadResult, p99_s: float) -> float:
        return served.per_s * min(1.0, self.limit_s / p99_s)

    def best_case(self, batch_s: Sequence[float], like: Measurement, instances: int) -> float:
        return instances * like.features / sum(batch_s)

    def estimate(self, pass_s: float, like: Measurement, instances: int) -> float:
        """The rate without any waiting for requests: an upper bound on the rate it serves."""
        return instances * like.features / pass_s

    def pace_s(self, measurement: Measurement) -> float:
        return measurement.features / self.value(measurement)

    def shown(self, value: float) -> str:
        return f"{value:.1f} requests/s"

    def caveat(self, measurement: Measurement) -> str | None:
        late = [one for one in measurement.answered if one.p99_s > self.limit_s]
        if 2 * len(late) <= len(measurement.answered):
            return None
        one = min(late, key=lambda one: one.p99_s)
        return (
            f"does not keep p99 under {_milliseconds(self.limit_s)}: at {one.per_s:.1f} requests/s "
            f"it is {_milliseconds(one.p99_s)}"
        )


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.4g} ms"


IMPLEMENTATIONS: tuple[type[Objective], ...] = (Throughput, Latency, ServerObjective)
LIMITED = re.compile(rf"{ServerObjective.kind}-(\d+(?:\.\d+)?(?:e[+-]\d+)?)ms")
"""The name of a server objective, which holds its limit in milliseconds."""


def objective_named(name: str) -> Objective:
    """The objective with this `name`. Raises InputError for an unknown one."""
    for implementation in IMPLEMENTATIONS:
        found = implementation.named(name)
        if found is not None:
            return found
    raise InputError(f"--objective must be one of {', '.join(OBJECTIVES)}; got {name!r}")


def by_instance(measurement: Measurement) -> list[list[Pass]]:
    """The passes that count, one list for each instance."""
    found: dict[int, list[Pass]] = {}
    for one in measurement.counted:
        found.setdefault(one.instance, []).append(one)
    return list(found.values())


def throughput(measurement: Measurement) -> Interval:
    """Examples a second; any measurement has them, whatever the objective of its search."""
    return Throughput().interval(measurement)


def workload_s(measurement: Measurement) -> float:
    """Median seconds for one workload, all instances together."""
    return measurement.examples / throughput(measurement).median


def features_per_s(measurement: Measurement) -> float:
    """Model inputs a second, all instances together; a row may become several inputs."""
    return throughput(measurement).median * measurement.features / measurement.examples


def batch_percentiles(measurement: Measurement) -> dict[str, float]:
    """p50, p90 and p99 of the seconds of a batch, over all passes that count."""
    samples = [s for p in measurement.counted for s in p.warm_batch_s]
    return {f"p{q}": percentile(samples, q) for q in PERCENTILES}
