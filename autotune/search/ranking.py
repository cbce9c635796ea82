"""Where trials come from, and which are best."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.search.objective import Objective
from autotune.shared.records import Config, Measurement, Trial

BASELINE, PRIOR, SEARCH, AGAIN, FINAL = "baseline", "prior", "search", "again", "final"
SEARCHED = (BASELINE, PRIOR, SEARCH, AGAIN)


def measured(trial: Trial) -> Measurement:
    """The measurement of a trial that has one."""
    assert trial.measurement is not None
    return trial.measurement


def leaders(trials: Sequence[Trial], objective: Objective, origin: Sequence[str]) -> list[Trial]:
    """Succeeded trials of these origins, best first, one a configuration."""
    chosen: dict[Config, Trial] = {}
    for trial in trials:
        if trial.succeeded and trial.origin in origin:
            chosen[trial.config] = trial
    return sorted(
        chosen.values(),
        key=lambda trial: objective.value(measured(trial)),
        reverse=objective.maximize,
    )


def complexity(config: Config, baseline: Config) -> int:
    """How many knobs are not as the baseline has them."""
    plain = baseline.as_dict()
    return sum(plain.get(knob) != value for knob, value in config.values)
