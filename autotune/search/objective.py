"""What a search optimises, read from the raw samples of a measurement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from autotune.errors import InputError
from autotune.records import Measurement, Pass, Trial
from autotune.stats import Interval, median_interval, percentile

PERCENTILES = (50, 90, 99)


class Objective(ABC):
    """A number to make better, with its interval over the passes of a measurement."""

    name: ClassVar[str]
    unit: ClassVar[str]  # for people
    maximize: ClassVar[bool]

    @abstractmethod
    def interval(self, measurement: Measurement) -> Interval:
        """The objective's median over passes and its interval, in seconds or examples/s."""

    @abstractmethod
    def of_batches(self, batch_s: Sequence[float], examples: int, instances: int) -> float:
        """The objective where every pass had these batches, on each of `instances`."""

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

    name: ClassVar[str] = "throughput"
    unit: ClassVar[str] = "examples/s"
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

    def of_batches(self, batch_s: Sequence[float], examples: int, instances: int) -> float:
        return instances * examples / sum(batch_s)

    def shown(self, value: float) -> str:
        return f"{value:.1f}/s"


class Latency(Objective):
    """The 90th percentile of the time of one example, MLPerf's single-stream measure.

    Of several instances, the slowest's.
    """

    name: ClassVar[str] = "latency"
    unit: ClassVar[str] = "s (p90)"
    maximize: ClassVar[bool] = False

    def interval(self, measurement: Measurement) -> Interval:
        return max(
            (
                median_interval([percentile(p.batch_s, 90) for p in passes])
                for passes in by_instance(measurement)
            ),
            key=lambda interval: interval.median,
        )

    def of_batches(self, batch_s: Sequence[float], examples: int, instances: int) -> float:
        return percentile(batch_s, 90)

    def shown(self, value: float) -> str:
        return f"{value * 1000:.2f} ms"


OBJECTIVES: dict[str, type[Objective]] = {"throughput": Throughput, "latency": Latency}


def objective_named(name: str) -> Objective:
    """The objective registered as `name`. Raises InputError for an unknown one."""
    if name not in OBJECTIVES:
        raise InputError(f"--objective must be one of {', '.join(OBJECTIVES)}; got {name!r}")
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
    samples = [s for p in measurement.counted for s in p.batch_s]
    return {f"p{q}": percentile(samples, q) for q in PERCENTILES}
