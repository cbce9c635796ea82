"""`autotune serve-test`: what rate of requests a run's best configuration serves in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.driver.channel import WorkerFailed
from autotune.driver.runner import ProcessRunner
from autotune.search.objective import features_per_s
from autotune.shared.errors import InputError, SearchError
from autotune.shared.records import ONE_PASS, Config, LoadResult, ServedRequests, to_jsonable

WARM_UP_S, WARM_UP_SHARE = 5.0, 0.5
"""Requests for some seconds at this share of the capacity, not counted."""
UNMET, WARM_UPS = 0.01, 12
"""Again, up to so often, while more than this share of the batches has a shape that the engine
has to specialise for: a service of some minutes' age has met them."""
STEPS = 7
"""Of the search for the rate: to within a hundredth of the capacity."""
CONFIRMED = 3
"""How many times as long the rate that was found is run again."""
LESS, TRIES = 0.95, 6
"""Where that does not hold: how much less is tried next, and how often."""
Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """`best` is the highest rate whose p99 stayed under `limit_s` (None: no limit, or none did);
    `features_per_s` what the configuration does when nothing waits for arrivals."""

    limit_s: float | None
    features_per_s: float
    best: LoadResult | None
    tried: tuple[LoadResult, ...]

    @property
    def holds(self) -> bool:
        return self.limit_s is None or self.best is not None

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = to_jsonable(self)
        return {"holds": self.holds, **found}


def poisson(rate: float, seconds: float, rng: np.random.Generator) -> Array:
    """Times of arrival of a Poisson process, in seconds from the start; at least one."""
    gaps = rng.exponential(1 / rate, size=max(1, round(rate * seconds)))
    return np.cumsum(gaps)


def requests_at(
    rate: float, seconds: float, features: int, rng: np.random.Generator
) -> tuple[list[int], list[float]]:
    """Requests for random ones of `features` rows, and when they arrive: those of a higher rate
    begin with the same rows, at times as much shorter."""
    arrivals = poisson(rate, seconds, rng)
    rows = rng.spawn(1)[0].integers(features, size=len(arrivals))
    return [int(row) for row in rows], [round(float(one), 6) for one in arrivals]


def answered(rate: float, served: ServedRequests) -> LoadResult:
    """What requests at `rate` came to."""
    p50, p90, p99 = np.percentile(served.latency_s, [50, 90, 99])
    return LoadResult(
        per_s=float(rate),
        requests=len(served.latency_s),
        p50_s=float(p50),
        p90_s=float(p90),
        p99_s=float(p99),
        mean_batch=float(np.mean(served.batches)),
        unmet=served.unmet / len(served.batches),
    )


class LoadTest:
    """One configuration that answers requests for random rows of its workload.

    Which rows and when follows from `seed` alone, whatever the capacity is found to be.
    """

    def __init__(
        self,
        runner: ProcessRunner,
        config: Config,
        features: int,
        *,
        seed: int,
        announce: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._runner = runner
        self._config = config
        self._features = features
        self._rng = np.random.default_rng(seed)
        self._warming = self._rng.spawn(1)[0]
        self._announce = announce
        self.tried: list[LoadResult] = []

    def warm_up(self) -> float:
        """Prepare, run everything once, and answer requests until nearly all batches have shapes
        that were met before; rows a second. Raises SearchError."""
        outcome = self._runner.run(self._config, ONE_PASS)
        if outcome.measurement is None:
            assert outcome.failure is not None
            raise SearchError(f"{outcome.failure.kind}: {outcome.failure.detail}")
        capacity = features_per_s(outcome.measurement)
        for _ in range(WARM_UPS):
            unmet = self._checked(WARM_UP_SHARE * capacity, WARM_UP_S, self._warming).unmet
            if unmet <= UNMET:
                break
            self._announce(f"warming up: {unmet:.0%} of the batches had a shape not met before")
        return capacity

    def at(self, rate: float, seconds: float) -> LoadResult:
        """Serve Poisson arrivals at `rate` for about `seconds`. Raises SearchError."""
        served = self._checked(rate, seconds, self._rng)
        self.tried.append(served)
        self._announce(
            f"{served.per_s:.1f} requests/s: p50 {1000 * served.p50_s:.1f} ms, "
            f"p99 {1000 * served.p99_s:.1f} ms"
        )
        return served

    def _checked(self, rate: float, seconds: float, rng: np.random.Generator) -> LoadResult:
        try:
            return self.serve(rate, seconds, rng)
        except WorkerFailed as failed:
            raise SearchError(str(failed)) from failed

    def serve(
        self, rate: float, seconds: float, rng: np.random.Generator | None = None
    ) -> LoadResult:
        """As `at`, and nobody is told; `rng` draws the requests. Raises WorkerFailed."""
        rows, arrivals_s = requests_at(rate, seconds, self._features, rng or self._rng)
        return answered(rate, self._runner.serve(self._config, rows, arrivals_s))


def find_rate(
    server: LoadTest, capacity: float, limit_s: float, seconds: float
) -> LoadResult | None:
    """The highest rate whose p99 stays under `limit_s`: found by bisection, then confirmed for
    longer."""
    low, high = 0.0, capacity
    for _ in range(STEPS):
        middle = (low + high) / 2
        if server.at(middle, seconds).p99_s <= limit_s:
            low = middle
        else:
            high = middle
    rate = low
    for _ in range(TRIES):
        if rate <= 0:
            return None
        served = server.at(rate, CONFIRMED * seconds)
        if served.p99_s <= limit_s:
            return served
        rate *= LESS
    return None


def check_serving(
    server: LoadTest, *, rate: float | None, limit_s: float | None, seconds: float
) -> Capacity:
    """At `rate`, or at the highest rate that keeps `limit_s`.

    Raises InputError where neither is given, SearchError where the configuration fails.
    """
    if rate is None and limit_s is None:
        raise InputError("pass --rate, --max-latency-ms, or both")
    capacity = server.warm_up()
    best: LoadResult | None
    if rate is not None:
        best = server.at(rate, seconds)
        if limit_s is not None and best.p99_s > limit_s:
            best = None
    else:
        assert limit_s is not None
        best = find_rate(server, capacity, limit_s, seconds)
    return Capacity(limit_s=limit_s, features_per_s=capacity, best=best, tried=tuple(server.tried))


def lines(found: Capacity) -> list[str]:
    """For people."""
    served = found.best
    if served is None:
        assert found.limit_s is not None
        nearest = min(found.tried, key=lambda one: one.p99_s)
        return [
            f"p99 does not stay under {1000 * found.limit_s:.1f} ms: at {nearest.per_s:.1f} "
            f"requests/s it is {1000 * nearest.p99_s:.1f} ms"
        ]
    limit = "" if found.limit_s is None else f", under {1000 * found.limit_s:.1f} ms"
    told = [
        f"{served.per_s:.1f} requests/s ({served.per_s / found.features_per_s:.0%} of the "
        f"{found.features_per_s:.1f}/s without waiting): p50 {1000 * served.p50_s:.1f} ms, p90 "
        f"{1000 * served.p90_s:.1f} ms, p99 {1000 * served.p99_s:.1f} ms{limit}, over "
        f"{served.requests} requests; {served.mean_batch:.1f} rows a batch"
    ]
    if served.unmet > UNMET:
        told.append(
            f"{served.unmet:.0%} of the batches had a shape that the engine had not met and had to "
            "specialise for: the longer it serves, the fewer; with padding to buckets there are few"
        )
    return told
