"""What a search optimises, read from the raw samples of a measurement."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from autotune.shared.errors import InputError
from autotune.shared.records import Measurement, Pass, Trial
from autotune.shared.stats import Interval, median_interval, percentile

PERCENTILES = (50, 90, 99)
SERVING_S = 20.0
"""About what finding a rate again takes."""


class Objective(ABC):
    """A number to make better, with its interval over the passes of a measurement."""

    kind: ClassVar[str]  # what search spaces call it
    maximize: ClassVar[bool]
    unit: str  # for people
    verb, compared = "is", "as fast as"  # as in: is 2.0x as fast as the baseline
    limit_s: float | None = None  # of the p99 of requests, where there are any
    serving_s: float = 0.0  # what a visit of the finals takes besides its passes

    @property
    def name(self) -> str:
        """What `objective_named` makes the same objective of."""
        return self.kind

    @abstractmethod
    def interval(self, measurement: Measurement) -> Interval:
        """The objective's median over passes and its interval, in seconds or examples/s."""

    @abstractmethod
    def of_batches(self, batch_s: Sequence[float], like: Measurement, instances: int) -> float:
        """The objective, at best, where every pass over the workload of `like` had these
        batches, on each of `instances`."""

    @abstractmethod
    def shown(self, value: float) -> str:
        """A value with its unit, for people."""

    def value(self, measurement: Measurement) -> float:
        return self.interval(measurement).median

    def estimate(self, pass_s: float, like: Measurement, instances: int) -> float:
        """The objective of a configuration whose pass would take each of its `instances`
        `pass_s`, were its batches spread as those of `like`, one instance's."""
        times = pass_s / workload_s(like) / (instances if self.maximize else 1)
        return self.value(like) / times if self.maximize else self.value(like) * times

    def of_screen(self, trial: Trial, like: Measurement) -> float:
        """`estimate` for a trial that was screened out."""
        assert trial.screen is not None
        return self.estimate(trial.screen.pass_s, like, int(trial.config["instances"]))

    def pace_s(self, measurement: Measurement) -> float:
        """The time in which the instances together must do the workload once to be as good as
        `measurement`, in seconds."""
        return workload_s(measurement)

    def caveat(self, measurement: Measurement) -> str | None:
        """Why its value is not what it seems, for people."""
        return None

    def better(self, one: float, other: float) -> bool:
        return one > other if self.maximize else one < other

    def ratio(self, one: Measurement, other: Measurement) -> float:
        """How many times better the one median is than the other."""
        return self.speedup(self.interval(one), self.interval(other)).median

    def speedup(self, one: Interval, other: Interval) -> Interval:
        """How many times better `one` is than `other`; the interval takes both ends apart."""
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
    """Examples a second over the whole workload, any batch; instances are added."""

    kind: ClassVar[str] = "throughput"
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

    def of_batches(self, batch_s: Sequence[float], like: Measurement, instances: int) -> float:
        return instances * like.examples / sum(batch_s)

    def shown(self, value: float) -> str:
        return f"{value:.1f}/s"


class Latency(Objective):
    """The 90th percentile of the time of one example, MLPerf's single-stream measure.

    Of several instances, the slowest's.
    """

    kind: ClassVar[str] = "latency"
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

    def of_batches(self, batch_s: Sequence[float], like: Measurement, instances: int) -> float:
        return percentile(batch_s, 90)

    def shown(self, value: float) -> str:
        return f"{value * 1000:.2f} ms"


class ServerObjective(Objective):
    """The highest rate of requests whose p99 stays under a limit, MLPerf's server scenario.

    Where none does, the lowest rate tried counts in proportion to how far its p99 is over the
    limit: it serves less than that in time.
    """

    kind: ClassVar[str] = "server"
    maximize: ClassVar[bool] = True
    verb, compared = "serves", "the rate of"
    serving_s = SERVING_S

    def __init__(self, limit_s: float) -> None:
        self.limit_s: float = limit_s
        self.unit = f"requests/s with p99 under {_milliseconds(limit_s)}"

    @property
    def name(self) -> str:
        return f"{self.kind}-{_milliseconds(self.limit_s).replace(' ', '')}"

    def interval(self, measurement: Measurement) -> Interval:
        return median_interval(
            [one.per_s * min(1.0, self.limit_s / one.p99_s) for one in measurement.answered]
        )

    def of_batches(self, batch_s: Sequence[float], like: Measurement, instances: int) -> float:
        return instances * like.features / sum(batch_s)

    def estimate(self, pass_s: float, like: Measurement, instances: int) -> float:
        """What it would serve did it never have to wait: more than it does."""
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


OBJECTIVES: dict[str, type[Objective]] = {"throughput": Throughput, "latency": Latency}
SERVER = re.compile(r"server-(\d+(?:\.\d+)?(?:e[+-]\d+)?)ms")


def objective_named(name: str) -> Objective:
    """The objective with this `name`. Raises InputError for an unknown one."""
    served = SERVER.fullmatch(name)
    if served:
        return ServerObjective(float(served[1]) / 1000)
    if name == ServerObjective.kind:
        raise InputError("--objective server needs the limit of its p99: pass --max-latency-ms")
    if name not in OBJECTIVES:
        known = ", ".join([*OBJECTIVES, ServerObjective.kind])
        raise InputError(f"--objective must be one of {known}; got {name!r}")
    return OBJECTIVES[name]()


def by_instance(measurement: Measurement) -> list[list[Pass]]:
    """The passes of each instance that count."""
    found: dict[int, list[Pass]] = {}
    for one in measurement.counted:
        found.setdefault(one.instance, []).append(one)
    return list(found.values())


def throughput(measurement: Measurement) -> Interval:
    """Examples a second, whatever the objective of the search."""
    return Throughput().interval(measurement)


def workload_s(measurement: Measurement) -> float:
    """The median time in which the instances together do the workload once, in seconds."""
    return measurement.examples / throughput(measurement).median


def features_per_s(measurement: Measurement) -> float:
    """Model inputs a second, of all instances together; a row may be several."""
    return throughput(measurement).median * measurement.features / measurement.examples


def batch_percentiles(measurement: Measurement) -> dict[str, float]:
    """p50, p90 and p99 of the time of a batch over all passes, in seconds."""
    samples = [s for p in measurement.counted for s in p.warm_batch_s]
    return {f"p{q}": percentile(samples, q) for q in PERCENTILES}
