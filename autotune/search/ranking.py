"""The origins of trials, and the order of the best."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.search.objective import Objective
from autotune.shared.records import Config, Measurement, Trial

BASELINE, PRIOR, SEARCH, AGAIN, FINAL = "baseline", "prior", "search", "again", "final"
DYNAMIC, BESIDE, JUDGED, STEP = "dynamic", "beside", "judged", "step"
"""The origins of a trial. `dynamic` is the baseline with dynamic padding, or `beside` where the
search space leaves that out, so that it cannot win. `again` is a second try of a configuration that
was disturbed, `judged` the accuracy test of the winner of the finals on more rows, and `step` a
visit that splits the gain into its parts (`search.split`)."""
SEARCHED = (BASELINE, DYNAMIC, PRIOR, SEARCH, AGAIN)
"""The origins of the trials before the finals."""
OTHERS = (PRIOR, SEARCH, AGAIN)
"""The origins of configurations that are neither of the two baselines."""


def measured(trial: Trial) -> Measurement:
    """The measurement of `trial`, which must have one."""
    assert trial.measurement is not None
    return trial.measurement


def leaders(trials: Sequence[Trial], objective: Objective, origin: Sequence[str]) -> list[Trial]:
    """Successful trials of these origins, best first: the last one of each configuration."""
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
    """The number of knobs whose value differs from the baseline's."""
    return sum(baseline.get(knob) != value for knob, value in config.items())
