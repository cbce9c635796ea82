"""When a search stops. Apart from the loop, so that reading settings imports no Optuna."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.search.finals import FINALS_LIMITS, FinalsLimits
from autotune.search.split import SPLIT_LIMITS, SplitLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When to stop: after `trials` configurations, or `time_budget_s` seconds in all.

    Visits of the finals and second tries of a configuration do not count as trials.
    """

    trials: int | None
    time_budget_s: float | None
    finals: FinalsLimits = FINALS_LIMITS
    split: SplitLimits = SPLIT_LIMITS
    check_s: float = 0.0
    """Seconds after the search, outside the budget here, in which launch.sh is run."""
