"""A load test: one configuration answers requests that arrive at random."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autotune.driver.channel import WorkerFailed
from autotune.driver.runner import ProcessRunner
from autotune.shared.errors import SearchError
from autotune.shared.records import Config, LoadResult, ServedRequests
from autotune.shared.stats import percentile, percentile_interval

Array = npt.NDArray[np.float64]


def poisson(rate: float, seconds: float, rng: np.random.Generator) -> Array:
    """Arrival times of a Poisson process, in seconds from the start; at least one arrival."""
    gaps = rng.exponential(1 / rate, size=max(1, round(rate * seconds)))
    return np.cumsum(gaps)


def requests_at(
    rate: float, seconds: float, features: int, rng: np.random.Generator
) -> tuple[list[int], list[float]]:
    """Random rows out of `features`, and the second at which each is requested.

    For the same state of `rng` a higher rate begins with the same rows. Only the times are
    scaled: at twice the rate every request arrives after half the time.
    """
    arrivals = poisson(rate, seconds, rng)
    rows = rng.spawn(1)[0].integers(features, size=len(arrivals))
    return [int(row) for row in rows], [round(float(arrival), 6) for arrival in arrivals]


def answered(rate: float, served: ServedRequests) -> LoadResult:
    """Percentiles of latency, mean batch and share of unmet shapes of requests at `rate`.

    The interval of the p99 takes latencies to be independent. Those of requests that queue
    together are not, so the true interval is wider.
    """
    p99 = percentile_interval(served.latency_s, 99)
    return LoadResult(
        per_s=float(rate),
        requests=len(served.latency_s),
        p50_s=percentile(served.latency_s, 50),
        p90_s=percentile(served.latency_s, 90),
        p99_s=p99.median,
        mean_batch=float(np.mean(served.batches)),
        unmet=served.unmet / len(served.batches),
        p99_low_s=p99.low,
        p99_high_s=p99.high,
        p99_coverage=p99.coverage,
    )


class LoadTest:
    """One configuration that answers requests for random rows of its workload.

    `seed` alone decides which rows are requested and when. Warm-up requests come from a random
    stream of their own, so the number of warm-ups does not change what is measured after them.
    """

    def __init__(self, runner: ProcessRunner, config: Config, features: int, *, seed: int) -> None:
        self._runner = runner
        self._config = config
        self._features = features
        self._rng = np.random.default_rng(seed)
        self._warm_up_rng = self._rng.spawn(1)[0]

    def serve(self, rate: float, seconds: float, *, warm_up: bool = False) -> LoadResult:
        """Serve Poisson arrivals at `rate` a second for about `seconds`. Raises WorkerFailed."""
        rng = self._warm_up_rng if warm_up else self._rng
        rows, arrivals_s = requests_at(rate, seconds, self._features, rng)
        return answered(rate, self._runner.serve(self._config, rows, arrivals_s))

    def serve_or_stop(self, rate: float, seconds: float, *, warm_up: bool = False) -> LoadResult:
        """As `serve`, for a command that cannot go on without the answer. Raises SearchError."""
        try:
            return self.serve(rate, seconds, warm_up=warm_up)
        except WorkerFailed as failed:
            raise SearchError(str(failed)) from failed
