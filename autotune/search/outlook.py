"""What a search of this model will cost, as its baselines tell."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autotune.search.objective import workload_s
from autotune.search.ranking import measured
from autotune.search.state import State

CONFIGURATION_S, PASS_SHARE = 6.0, 0.5
"""A configuration takes about this many seconds (for its process, and an engine every few
configurations) and this share of an eager pass without padding."""
WANTED = 25
"""After this many configurations a search has seldom more to find."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """About how many seconds a configuration takes, how many fit into the time budget, and the
    budget in seconds that WANTED of them need. Without a budget the last two are None."""

    configuration_s: float
    configurations: int | None = None
    wanted_budget_s: float | None = None


def outlook(state: State, ending_s: float) -> Outlook:
    """The outlook once the baselines are measured. `ending_s` are the seconds of the finals."""
    base = measured(state.baseline)
    pass_s = workload_s(base) * base.tokens / base.padded_tokens
    configuration_s = CONFIGURATION_S + PASS_SHARE * pass_s
    budget_s = state.plan.limits.time_budget_s
    if budget_s is None:
        return Outlook(configuration_s=configuration_s)
    left_s = max(0.0, budget_s - state.elapsed_s - ending_s)
    return Outlook(
        configuration_s=configuration_s,
        configurations=math.floor(left_s / configuration_s),
        wanted_budget_s=state.elapsed_s + ending_s + WANTED * configuration_s,
    )
