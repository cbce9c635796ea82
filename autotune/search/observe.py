"""A search's trials as its tuner sees them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from autotune.driver.runner import SESSION_KNOBS
from autotune.search.study import SharedTrial
from autotune.search.tuner import Observation
from autotune.shared.records import Trial

MIN_DROP = 1e-3
"""The unit in which a loss of accuracy is told to the tuner where no loss at all is allowed."""


def observed(
    trials: Sequence[Trial],
    told: Sequence[SharedTrial],
    *,
    value: Callable[[Trial], float | None],
    maximize: bool,
    max_drop: float,
) -> list[Observation]:
    """What others measured (`told`), then the searched trials of this run, in their order.

    `value` is the objective of a trial as far as it is known; `max_drop` the accuracy limit.
    Of a configuration that was tried again the first trial tells only what it cost.
    """

    def speed(known: float) -> float:
        return math.log(known) if maximize else -math.log(known)

    limit = max(max_drop, MIN_DROP)
    found = [
        Observation(
            config=one.config,
            speed=speed(one.value),
            excess=one.excess / limit,
            preparing_s=None,
            measuring_s=0.0,
        )
        for one in told
    ]
    before: Trial | None = None
    latest = {trial.config: trial for trial in trials}
    for trial in trials:
        counts = trial is latest[trial.config]
        known = value(trial) if counts else None
        measuring, preparing, starting = trial.duration_s, None, 0.0
        if before is None or not phases(before) or not share_session(before, trial):
            own = phases(trial)
            measuring = own.get("warm_up", 0.0) + own.get("measure", 0.0)
            preparing = own.get("import", 0.0) + own.get("prepare", 0.0)
            starting = max(0.0, trial.duration_s - measuring - preparing)
            if not own:  # it failed on the way, nobody knows where
                preparing, starting = starting, 0.0
        excess = None
        if counts and trial.accuracy is not None:
            excess = (trial.accuracy.relative_drop - max_drop) / limit
        found.append(
            Observation(
                config=trial.config,
                speed=None if known is None else speed(known),
                excess=excess,
                preparing_s=preparing,
                measuring_s=measuring,
                starting_s=starting,
            )
        )
        before = trial
    return found


def phases(trial: Trial) -> Mapping[str, float]:
    """Seconds of the phases of a trial that left its session open; none of one that did not."""
    found = trial.measurement or trial.screen
    return found.phases_s if found else {}


def share_session(one: Trial, other: Trial) -> bool:
    """Whether two trials are points of one session."""
    return one.config.only(SESSION_KNOBS) == other.config.only(SESSION_KNOBS)
