"""`autotune serve-test`: the rate of requests that a run's best configuration serves in time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autotune.driver.runner import ProcessRunner
from autotune.search.objective import features_per_s
from autotune.search.rates import RateSearch, confirmed_rate, highest_rate
from autotune.search.serving import LoadTest
from autotune.shared.errors import InputError, SearchError
from autotune.shared.records import Config, LoadResult, to_jsonable
from autotune.shared.stats import samples_needed
from autotune.shared.stopping import ONE_PASS

WARM_UP_S, WARM_UP_SHARE = 5.0, 0.5
"""One warm-up: requests for so many seconds, at this share of the capacity. They do not count."""
MAX_UNMET, MAX_WARM_UPS = 0.01, 12
"""Warm-up is repeated, at most so often, while more than this share of the batches has a shape
that the engine has to specialise for. A service that is some minutes old has met its shapes."""
SEARCH = RateSearch(
    start_share=0.5,
    max_rates=7,
    tolerance=0.0,
    tolerance_behind=0.0,
    give_up_factor=math.inf,
    confirm_tries=6,
    confirm_step=0.95,
    confirm_min_step=0.95,
)
"""Seven bisections find the rate within a hundredth of the capacity. Nothing stops them earlier:
there is one configuration and no leader."""
CONFIRMING_FACTOR = 3
"""The rate that was found is confirmed for so many times the seconds of a trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a configuration serves.

    `best` is the highest rate whose p99 stayed within `limit_s` seconds: None where no rate did.
    Without a limit it is the rate that was asked for. `features_per_s` are the rows a second when
    nothing waits for arrivals.
    """

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


class ServeTest:
    """A load test that announces every rate and keeps it in `tried`."""

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
        self._load = LoadTest(runner, config, features, seed=seed)
        self._announce = announce
        self.tried: list[LoadResult] = []

    def warm_up(self) -> float:
        """Run the workload once, then serve until nearly all batches have shapes met before.

        Returns the capacity, in rows a second. Raises SearchError.
        """
        outcome = self._runner.run(self._config, ONE_PASS)
        if outcome.measurement is None:
            assert outcome.failure is not None
            raise SearchError(f"{outcome.failure.kind}: {outcome.failure.detail}")
        capacity = features_per_s(outcome.measurement)
        for _ in range(MAX_WARM_UPS):
            rate = WARM_UP_SHARE * capacity
            unmet = self._load.serve_or_stop(rate, WARM_UP_S, warm_up=True).unmet
            if unmet <= MAX_UNMET:
                break
            self._announce(f"warming up: {unmet:.0%} of the batches had a shape not met before")
        return capacity

    def at(self, rate: float, seconds: float) -> LoadResult:
        """Serve Poisson arrivals at `rate` a second for about `seconds`. Raises SearchError."""
        served = self._load.serve_or_stop(rate, seconds)
        self.tried.append(served)
        self._announce(
            f"{served.per_s:.1f} requests/s: p50 {1000 * served.p50_s:.1f} ms, "
            f"p99 {1000 * served.p99_s:.1f} ms"
        )
        return served


def find_rate(
    server: ServeTest, capacity: float, limit_s: float, seconds: float
) -> LoadResult | None:
    """The highest rate whose p99 stays within `limit_s` seconds, tried for `seconds` each time and
    then confirmed for longer. None where no rate is confirmed."""
    found = highest_rate(
        lambda rate: server.at(rate, seconds), capacity=capacity, limit_s=limit_s, search=SEARCH
    )
    if found.p99_s > limit_s:
        return None
    confirmed = confirmed_rate(
        lambda rate: server.at(rate, CONFIRMING_FACTOR * seconds),
        found.per_s,
        limit_s=limit_s,
        search=SEARCH,
    )
    return confirmed if confirmed.p99_s <= limit_s else None


def check_serving(
    server: ServeTest, *, rate: float | None, limit_s: float | None, seconds: float
) -> Capacity:
    """Serve at `rate`, or find the highest rate that keeps `limit_s`.

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
    """The result in sentences, for people."""
    served = found.best
    if served is None:
        assert found.limit_s is not None
        nearest = min(found.tried, key=lambda result: result.p99_s)
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
    needed = samples_needed(99)
    if served.requests < needed:
        told.append(
            f"{served.requests} requests are few for a p99: with a probability of "
            f"{served.p99_coverage:.0%} it is {1000 * served.p99_low_s:.1f} to "
            f"{1000 * served.p99_high_s:.1f} ms. {needed} requests would bound it: pass --seconds "
            f"{math.ceil(needed / served.per_s)}"
        )
    if served.unmet > MAX_UNMET:
        told.append(
            f"{served.unmet:.0%} of the batches had a shape that the engine had not met and had to "
            "specialise for. The share falls the longer the engine serves; padding to buckets "
            "keeps it low"
        )
    return told
