"""The highest rate of requests whose p99 keeps a limit.

`highest_rate` and `confirmed_rate` are the search for it. Its parameters are a `RateSearch`: the
objective `server` has its own here, and `autotune serve-test` its own in its command.
`ServingRunner` measures configurations for the objective `server`.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from autotune.driver.channel import WorkerFailed
from autotune.driver.runner import Outcome, ProcessRunner, Runner
from autotune.search.objective import Objective, features_per_s
from autotune.search.serving import LoadTest
from autotune.shared.records import Config, LoadResult, Trial
from autotune.shared.stopping import StoppingRule


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSearch:
    """When the search for a rate stops.

    Bisection: it starts at `start_share` of the capacity, or at the leader's rate where that is
    known, and tries at most `max_rates` rates. It stops once the highest rate that kept the limit
    is within `tolerance` (a share) of the lowest that missed it. A configuration that is behind
    the leader needs only `tolerance_behind`. It is given up where it keeps no rate and the leader
    serves `give_up_factor` times the lowest rate tried.

    Confirmation: at most `confirm_tries` rates are tried. Each is the one before times
    `confirm_step` and the root of how far p99 was over the limit, but at least times
    `confirm_min_step`. The root, because most of p99 at a moderate rate is not waiting.
    """

    start_share: float
    max_rates: int
    tolerance: float
    tolerance_behind: float
    give_up_factor: float
    confirm_tries: int
    confirm_step: float
    confirm_min_step: float


OBJECTIVE_SEARCH = RateSearch(
    start_share=0.7,
    max_rates=6,
    tolerance=0.05,
    tolerance_behind=0.2,
    give_up_factor=4.0,
    confirm_tries=3,
    confirm_step=0.95,
    confirm_min_step=0.5,
)
"""For the objective `server`, which ranks many configurations: few rates, coarsely."""
MIN_RATE_S, MAX_RATE_S, MIN_REQUESTS = 4.0, 12.0, 101
"""Seconds for which a rate is tried: the first number, or as long as MIN_REQUESTS take, but never
longer than the second number. Of 101 requests the p99 is the second largest latency; of 100 or
fewer a single late answer can decide."""
CONFIRMING_S = 12.0
"""Seconds for which a rate is tried that was found before. A few seconds hold few bursts, so a
rate that keeps p99 in them looks higher than it is."""
REPEATED_RATE_FACTOR = 1.1
"""A configuration measured again starts at its last rate times this, so that a rate that was
found too low can rise."""


def highest_rate(
    serve: Callable[[float], LoadResult],
    *,
    capacity: float,
    limit_s: float,
    search: RateSearch,
    leader: float | None = None,
) -> LoadResult:
    """What `serve` measured at the highest rate whose p99 stayed within `limit_s` seconds; at the
    lowest rate tried where none did.

    Bisects between 0 and `capacity`, the rows a second when nothing waits for arrivals. `leader`
    is the rate to beat.
    """
    low, high = 0.0, capacity
    kept: LoadResult | None = None
    rate = min(leader or search.start_share * capacity, capacity)
    for _ in range(search.max_rates):
        result = serve(rate)
        if result.p99_s <= limit_s:
            low, kept = rate, result
        else:
            high, missed = rate, result
        behind = leader is not None and high <= leader
        if high - low <= (search.tolerance_behind if behind else search.tolerance) * high:
            break
        if kept is None and leader is not None and search.give_up_factor * high <= leader:
            break
        rate = (low + high) / 2
    return missed if kept is None else kept


def confirmed_rate(
    serve: Callable[[float], LoadResult], rate: float, *, limit_s: float, search: RateSearch
) -> LoadResult:
    """What `serve` measured at `rate` or at the first lower rate whose p99 stayed within `limit_s`
    seconds; at the last rate tried where none did."""
    for _ in range(search.confirm_tries):
        result = serve(rate)
        if result.p99_s <= limit_s:
            break
        step = search.confirm_step * math.sqrt(limit_s / result.p99_s)
        rate *= max(step, search.confirm_min_step)
    return result


def rate_again(
    serve: Callable[[float], LoadResult], known: LoadResult, *, limit_s: float
) -> LoadResult:
    """The rate of a configuration whose rate is `known` from before, measured again.

    Begins a little above the known rate. A configuration that kept the limit at no rate is only
    measured at its known rate again.
    """
    if known.p99_s > limit_s:
        return serve(known.per_s)
    rate = REPEATED_RATE_FACTOR * known.per_s
    return confirmed_rate(serve, rate, limit_s=limit_s, search=OBJECTIVE_SEARCH)


class ServingRunner:
    """Runs one pass as `runner` does, then finds the rate of requests that keeps the limit.

    Configurations must differ by what they are and not by the luck of one draw. So the first run
    of every configuration has the same arrivals, scaled to each rate that is tried; every second
    run has the same others, and so on.
    """

    def __init__(
        self,
        runner: ProcessRunner,
        *,
        limit_s: float,
        features: int,
        seed: int = 0,
        trials: Sequence[Trial] = (),
    ) -> None:
        """`trials` are those of a resumed run, so that it goes on where it was."""
        self._runner = runner
        self._limit_s = limit_s
        self._features = features
        self._seed = seed
        self._known: dict[Config, LoadResult] = {}
        self._runs: collections.Counter[Config] = collections.Counter()
        for trial in trials:
            if trial.measurement is not None and trial.measurement.answered:
                self._known[trial.config] = trial.measurement.answered[-1]
                self._runs[trial.config] += 1

    def run(self, config: Config, rule: StoppingRule) -> Outcome:
        outcome = self._runner.run(config, replace(rule, min_passes=1, max_passes=1))
        measurement = outcome.measurement
        if measurement is None:
            return outcome

        def serve(rate: float, seconds: float | None = None) -> LoadResult:
            seconds = seconds or min(max(MIN_RATE_S, MIN_REQUESTS / rate), MAX_RATE_S)
            seed = self._seed + self._runs[config]
            return LoadTest(self._runner, config, self._features, seed=seed).serve(rate, seconds)

        known = self._known.get(config)
        try:
            if known is None:
                found = highest_rate(
                    serve,
                    capacity=features_per_s(measurement),
                    limit_s=self._limit_s,
                    search=OBJECTIVE_SEARCH,
                    leader=None if rule.leader_s is None else measurement.features / rule.leader_s,
                )
            else:
                found = rate_again(
                    lambda rate: serve(rate, CONFIRMING_S), known, limit_s=self._limit_s
                )
        except WorkerFailed as failed:
            return Outcome(failure=failed.failure, log=failed.log)
        self._known[config] = found
        self._runs[config] += 1
        return replace(outcome, measurement=replace(measurement, answered=(found,)))

    def keep_open(self, configs: Sequence[Config]) -> None:
        self._runner.keep_open(configs)

    def close(self) -> None:
        self._runner.close()


def for_objective(
    objective: Objective,
    runner: ProcessRunner,
    features: int,
    *,
    seed: int = 0,
    trials: Sequence[Trial] = (),
) -> Runner:
    """`runner`, which also serves requests where `objective` is a rate of requests.

    `features` is the number of rows of the workload. `seed` and `trials` are as in ServingRunner.
    """
    if not objective.by_requests:
        return runner
    assert objective.limit_s is not None
    return ServingRunner(
        runner, limit_s=objective.limit_s, features=features, seed=seed, trials=trials
    )
