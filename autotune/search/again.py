"""Chooses configurations to measure a second time, because other processes had slowed them down.

Each pass records how long its threads were ready to run but had no CPU (`worker.disturbance`). On
an idle machine the pass would have been shorter by at most that time. A configuration that could
lead on an idle machine is measured again once the host is idle, so that the search does not lose
it to a neighbour.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence

from autotune.search.objective import Objective
from autotune.search.ranking import BASELINE
from autotune.shared.records import Config, Trial

MIN_IDLE_SHARE = 0.25
"""The time on an idle machine is taken to be at least this share of the time that was measured.

Waiting is summed over threads, and one waiting thread may hold up the others. So the sum may be
longer than the pass itself."""


def disturbed(trial: Trial) -> bool:
    """Whether other processes took CPUs from the passes, or the screening, that `trial` keeps."""
    if trial.measurement is not None:
        return any(p.disturbed for p in trial.measurement.counted)
    return trial.screen is not None and trial.screen.disturbed


def select_retries(
    trials: Sequence[Trial],
    objective: Objective,
    value: Callable[[Trial], float | None],
    leading: float,
) -> list[Config]:
    """The configurations to measure again, the most promising first.

    Those are the disturbed ones of `trials` that could be better than `leading` on an idle machine.
    There are none if the last trial was disturbed too. No configuration is measured a third time.
    The baseline is left out, because the finals measure it again anyway. `value` gives a trial's
    objective, None if it is unknown.
    """
    if disturbed(trials[-1]):
        return []
    tries = collections.Counter(trial.config for trial in trials)
    found: list[tuple[float, Config]] = []
    for trial in trials:
        only_slow = trial.failure is None or trial.failure.kind == "slow"
        retriable = tries[trial.config] == 1 and trial.origin != BASELINE
        if not retriable or not only_slow or not disturbed(trial):
            continue
        known = value(trial)
        if known is None:
            continue
        idle_share = max(MIN_IDLE_SHARE, 1 - taken_cpu_share(trial))
        at_best = known / idle_share if objective.maximize else known * idle_share
        if objective.better(at_best, leading):
            found.append((at_best, trial.config))
    found.sort(key=lambda pair: pair[0], reverse=objective.maximize)
    return [config for _, config in found]


def taken_cpu_share(trial: Trial) -> float:
    """CPU seconds that others took, for each second of `trial`'s passes or of its screening.

    It is summed over threads, so it may be above 1.
    """
    if trial.measurement is not None:
        passes = trial.measurement.counted
        return sum(p.taken_s for p in passes) / sum(p.total_s for p in passes)
    assert trial.screen is not None
    return trial.screen.taken_s / sum(trial.screen.batch_s)
