"""What the objective `server` is measured with: a runner that looks, after a pass, for the
highest rate of requests that is served in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from autotune.process import WorkerFailed
from autotune.records import Answered, Config, Measure
from autotune.runner import Outcome, ProcessRunner, Runner
from autotune.search.objective import Objective, features_per_s
from autotune.serving import Server

START = 0.7
"""Of what it does without waiting, the rate to begin with where nothing better is known."""
STEPS = 6
"""Rates tried at most."""
APART, APART_BEHIND = 0.05, 0.2
"""How near the rate is known; of a configuration that does not keep up with the leader."""
LOST = 4.0
"""Nor is one looked at further that does not keep a rate so many times lower."""
NEAR = 1.1
"""Steps from a rate that was found before."""
LEAST_S, REQUESTS, MOST_S = 4.0, 60, 8.0
"""A rate is tried for the first of these, in seconds, for more where that is fewer requests, but
not for more than the last."""


class ServingRunner:
    """Runs as `runner` does, one pass, and then serves requests for rows of the workload.

    Each rate is tried with the same arrivals but for their scale, so that configurations differ
    by what they are and not by their luck.
    """

    def __init__(
        self, runner: ProcessRunner, *, limit_s: float, features: int, seed: int = 0
    ) -> None:
        self._runner = runner
        self._limit_s = limit_s
        self._features = features
        self._seed = seed
        self._known: dict[Config, Answered] = {}

    def run(self, config: Config, rule: Measure) -> Outcome:
        outcome = self._runner.run(config, replace(rule, min_passes=1, max_passes=1))
        measurement = outcome.measurement
        if measurement is None:
            return outcome

        def at(rate: float) -> Answered:
            seconds = min(max(LEAST_S, REQUESTS / rate), MOST_S)
            server = Server(self._runner, config, self._features, seed=self._seed)
            return server.serve(rate, seconds)

        leader = None if rule.leader_s is None else measurement.features / rule.leader_s
        try:
            found = highest(
                at,
                capacity=features_per_s(measurement),
                limit_s=self._limit_s,
                known=self._known.get(config),
                leader=leader,
            )
        except WorkerFailed as failed:
            return Outcome(failure=failed.failure, log=failed.log)
        self._known[config] = found
        return replace(outcome, measurement=replace(measurement, answered=(found,)))

    def keep(self, configs: Sequence[Config]) -> None:
        self._runner.keep(configs)

    def close(self) -> None:
        self._runner.close()


def highest(
    at: Callable[[float], Answered],
    *,
    capacity: float,
    limit_s: float,
    known: Answered | None = None,
    leader: float | None = None,
) -> Answered:
    """The highest of the rates tried whose p99 stayed under `limit_s`, else the lowest tried.

    `capacity` are the rows a second when nothing waits for arrivals, `known` what was found of
    the configuration before, `leader` the rate that it has to beat.
    """
    low, high = 0.0, capacity
    kept: Answered | None = None
    rate = min(known.per_s if known else leader or START * capacity, capacity)
    for _ in range(STEPS):
        one = at(rate)
        if one.p99_s <= limit_s:
            low, kept = rate, one
        else:
            high, late = rate, one
        behind = leader is not None and high <= leader
        if high - low <= (APART_BEHIND if behind else APART) * high:
            break
        if kept is None and (
            (known is not None and known.p99_s > limit_s)
            or (leader is not None and LOST * high <= leader)
        ):
            break
        rate = (low + high) / 2
        if known is not None:
            rate = min(max(rate, one.per_s / NEAR), one.per_s * NEAR)
    return late if kept is None else kept


def for_objective(objective: Objective, runner: ProcessRunner, features: int) -> Runner:
    """What measures for `objective` with `runner`; `features` are the rows of the workload."""
    if objective.limit_s is None:
        return runner
    return ServingRunner(runner, limit_s=objective.limit_s, features=features)
