"""Configurations worth another try: something else on the host had made them slow.

A pass knows how long its threads were ready to run and had no CPU (`worker.disturbance`). Had
nobody taken one, it would have been done by so much sooner at most. A configuration that might
lead then is measured once more when the host has come to rest: what the search gave up because
of a neighbour is not lost to it.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence

from autotune.search.objective import Objective
from autotune.search.ranking import BASELINE
from autotune.shared.records import Config, Trial

LEAST = 0.25
"""Of the seconds that it took, what a configuration needs at least: waiting is added over
threads, of which one may hold up the others."""


def disturbed(trial: Trial) -> bool:
    """Whether others took CPUs from what is known of `trial`."""
    if trial.measurement is not None:
        return any(p.disturbed for p in trial.measurement.counted)
    return trial.screen is not None and trial.screen.disturbed


def worth_another_try(
    trials: Sequence[Trial],
    objective: Objective,
    value: Callable[[Trial], float | None],
    leading: float,
) -> list[Config]:
    """Those of `trials` that might be better than `leading`, the likeliest first; none while the
    host is still disturbed, and no configuration a third time. The finals measure the baseline
    again anyway. `value` is a trial's objective, as far as it is known."""
    if disturbed(trials[-1]):
        return []
    times = collections.Counter(trial.config for trial in trials)
    found: list[tuple[float, Config]] = []
    for trial in trials:
        only_slow = trial.failure is None or trial.failure.kind == "slow"
        once = times[trial.config] == 1 and trial.origin != BASELINE
        if not once or not only_slow or not disturbed(trial):
            continue
        known = value(trial)
        if known is None:
            continue
        needed = max(LEAST, 1 - taken_share(trial))
        at_best = known / needed if objective.maximize else known * needed
        if objective.better(at_best, leading):
            found.append((at_best, trial.config))
    found.sort(key=lambda pair: pair[0], reverse=objective.maximize)
    return [config for _, config in found]


def taken_share(trial: Trial) -> float:
    """Of the seconds of `trial`'s passes, or of its screen, the share for which others had CPUs
    that it was ready to use."""
    if trial.measurement is not None:
        passes = trial.measurement.counted
        return sum(p.taken_s for p in passes) / sum(p.total_s for p in passes)
    assert trial.screen is not None
    return trial.screen.taken_s / sum(trial.screen.batch_s)
