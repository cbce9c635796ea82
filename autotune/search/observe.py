"""Turns the trials of a search into observations for the tuner."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autotune.driver.runner import SESSION_KNOBS
from autotune.search.study import SharedTrial
from autotune.search.tuner import Observation
from autotune.shared.records import Trial

MIN_LIMIT = 1e-3
"""The least accuracy limit that losses are divided by; the limit itself may be 0."""


def observed(
    trials: Sequence[Trial],
    told: Sequence[SharedTrial],
    *,
    value: Callable[[Trial], float | None],
    maximize: bool,
    max_drop: float,
) -> list[Observation]:
    """Observations of `told`, which other processes measured, then of `trials`, in their order.

    `value` gives the objective of a trial, None if it is unknown. `max_drop` is the accuracy limit.
    If a configuration was tried twice, its first trial counts only for its costs.
    """
    limit = max(max_drop, MIN_LIMIT)
    found = [
        Observation(
            config=one.config,
            speed=_log_speed(one.value, maximize),
            excess=one.excess / limit,
            preparing_s=None,
            measuring_s=0.0,
        )
        for one in told
    ]
    latest = {trial.config: trial for trial in trials}
    for before, trial in zip([None, *trials], trials, strict=False):
        counts = trial is latest[trial.config]
        known = value(trial) if counts else None
        excess = None
        if counts and trial.accuracy is not None:
            excess = (trial.accuracy.relative_drop - max_drop) / limit
        costs = _costs(trial, before)
        found.append(
            Observation(
                config=trial.config,
                speed=None if known is None else _log_speed(known, maximize),
                excess=excess,
                preparing_s=costs.preparing_s,
                measuring_s=costs.measuring_s,
                starting_s=costs.starting_s,
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class _Costs:
    """Seconds of one trial; `preparing_s` is None if its session was already open."""

    starting_s: float
    preparing_s: float | None
    measuring_s: float


def _costs(trial: Trial, before: Trial | None) -> _Costs:
    """The seconds of `trial`, which ran after `before`."""
    if before is not None and phases(before) and share_session(before, trial):
        return _Costs(0.0, None, trial.duration_s)
    own = phases(trial)
    if not own:  # it failed, and nobody knows in which phase
        return _Costs(0.0, trial.duration_s, 0.0)
    measuring_s = own.get("warm_up", 0.0) + own.get("measure", 0.0)
    preparing_s = own.get("import", 0.0) + own.get("prepare", 0.0)
    starting_s = max(0.0, trial.duration_s - measuring_s - preparing_s)
    return _Costs(starting_s, preparing_s, measuring_s)


def _log_speed(value: float, maximize: bool) -> float:
    return math.log(value) if maximize else -math.log(value)


def phases(trial: Trial) -> Mapping[str, float]:
    """Seconds of the trial's phases, by name; empty if it did not leave its session open."""
    found = trial.measurement or trial.screen
    return found.phases_s if found else {}


def share_session(one: Trial, other: Trial) -> bool:
    """Whether two trials are points of the same session."""
    return one.config.only(SESSION_KNOBS) == other.config.only(SESSION_KNOBS)
