"""What the objective `server` is measured with: a runner that looks, after a pass, for the
highest rate of requests that is served in time."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from autotune.driver.channel import WorkerFailed
from autotune.driver.runner import Outcome, ProcessRunner, Runner
from autotune.search.objective import Objective, features_per_s
from autotune.search.serving import LoadTest
from autotune.shared.records import Config, LoadResult, StoppingRule

START = 0.7
"""Of what it does without waiting, the rate to begin with where nothing better is known."""
STEPS = 6
"""Rates tried at most."""
APART, APART_BEHIND = 0.05, 0.2
"""How near the rate is known; of a configuration that does not keep up with the leader."""
LOST = 4.0
"""Nor is one looked at further that does not keep a rate so many times lower."""
LEAST_S, REQUESTS, MOST_S = 4.0, 60, 8.0
"""A rate is tried for the first of these, in seconds, for more where that is fewer requests, but
not for more than the last."""
CONFIRMED_S, TRIES = 12.0, 3
"""One that was found before for so long, and a lower one where it is not kept: in a few seconds
there are few bursts, and the rate that keeps p99 through them looks higher than it is."""
MORE, LESS, LEAST = 1.1, 0.95, 0.5
"""How much more than was found before is tried first; after that how much less than would do, and
how much less at most."""


class ServingRunner:
    """Runs as `runner` does, one pass, and then serves requests for rows of the workload.

    In one run each rate is tried with the same arrivals but for their scale, and every
    configuration's first run with the same, its second with others, and so on: configurations
    differ by what they are, and what the finals find is not the luck of one draw.
    """

    def __init__(
        self, runner: ProcessRunner, *, limit_s: float, features: int, seed: int = 0
    ) -> None:
        self._runner = runner
        self._limit_s = limit_s
        self._features = features
        self._seed = seed
        self._known: dict[Config, LoadResult] = {}
        self._ran: collections.Counter[Config] = collections.Counter()

    def run(self, config: Config, rule: StoppingRule) -> Outcome:
        outcome = self._runner.run(config, replace(rule, min_passes=1, max_passes=1))
        measurement = outcome.measurement
        if measurement is None:
            return outcome

        def at(rate: float, seconds: float | None = None) -> LoadResult:
            seconds = seconds or min(max(LEAST_S, REQUESTS / rate), MOST_S)
            seed = self._seed + self._ran[config]
            return LoadTest(self._runner, config, self._features, seed=seed).serve(rate, seconds)

        known, capacity = self._known.get(config), features_per_s(measurement)
        leader = None if rule.leader_s is None else measurement.features / rule.leader_s
        try:
            if known is None:
                found = highest(at, capacity=capacity, limit_s=self._limit_s, leader=leader)
            else:
                found = confirmed(lambda rate: at(rate, CONFIRMED_S), known, limit_s=self._limit_s)
        except WorkerFailed as failed:
            return Outcome(failure=failed.failure, log=failed.log)
        self._known[config] = found
        self._ran[config] += 1
        return replace(outcome, measurement=replace(measurement, answered=(found,)))

    def keep_open(self, configs: Sequence[Config]) -> None:
        self._runner.keep_open(configs)

    def close(self) -> None:
        self._runner.close()


def highest(
    at: Callable[[float], LoadResult],
    *,
    capacity: float,
    limit_s: float,
    leader: float | None = None,
) -> LoadResult:
    """The highest of the rates tried whose p99 stayed under `limit_s`, else the lowest tried.

    `capacity` are the rows a second when nothing waits for arrivals, `leader` the rate to beat.
    """
    low, high = 0.0, capacity
    kept: LoadResult | None = None
    rate = min(leader or START * capacity, capacity)
    for _ in range(STEPS):
        one = at(rate)
        if one.p99_s <= limit_s:
            low, kept = rate, one
        else:
            high, late = rate, one
        behind = leader is not None and high <= leader
        if high - low <= (APART_BEHIND if behind else APART) * high:
            break
        if kept is None and leader is not None and LOST * high <= leader:
            break
        rate = (low + high) / 2
    return late if kept is None else kept


def confirmed(
    at: Callable[[float], LoadResult], known: LoadResult, *, limit_s: float
) -> LoadResult:
    """A rate near the `known` one of the configuration whose p99 stays under `limit_s`: a little
    more than it, else less, the more so the further p99 was over: by the root of it, since most
    of p99 at moderate rates is not waiting. The last tried where none is kept."""
    if known.p99_s > limit_s:
        return at(known.per_s)
    rate = MORE * known.per_s
    for _ in range(TRIES):
        one = at(rate)
        if one.p99_s <= limit_s:
            break
        rate *= max(LESS * math.sqrt(limit_s / one.p99_s), LEAST)
    return one


def for_objective(objective: Objective, runner: ProcessRunner, features: int) -> Runner:
    """What measures for `objective` with `runner`; `features` are the rows of the workload."""
    if objective.limit_s is None:
        return runner
    return ServingRunner(runner, limit_s=objective.limit_s, features=features)
