"""How far a search is, for whoever shows it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Protocol

from autotune.search.outlook import Outlook
from autotune.search.ranking import FINAL, JUDGED, STEP, measured
from autotune.search.split import step_trials
from autotune.search.state import State
from autotune.shared.records import Config, Trial
from autotune.shared.stats import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a search stands after one trial."""

    phase: str
    trial: Trial
    done: int
    trials: int | None
    elapsed_s: float
    remaining_s: float | None
    baseline: Trial
    best: Trial
    gain: Interval | None
    """Of `best` over the baseline."""


class Listener(Protocol):
    def started(self, config: Config, origin: str, number: int) -> None:
        """A configuration is about to be measured."""

    def finished(self, progress: Progress) -> None:
        """A trial is on disk."""

    def expects(self, outlook: Outlook) -> None:
        """The baselines are measured, so it is known about what the search will cost."""


def progress(state: State, trial: Trial, left_s: float) -> Progress:
    """The progress after `trial`. `left_s` are the seconds that the end of the search needs."""
    final = trial.origin in (FINAL, JUDGED, STEP)
    best, gain = _best_so_far(state, final)
    return Progress(
        phase="finals" if final else "search",
        trial=trial,
        done=state.configs_tried,
        trials=state.plan.limits.trials,
        elapsed_s=state.elapsed_s,
        remaining_s=_remaining_s(state, trial.origin, left_s),
        baseline=state.baseline,
        best=best,
        gain=gain,
    )


def _best_so_far(state: State, final: bool) -> tuple[Trial, Interval | None]:
    """The best trial and its gain over the baseline: in the finals, by the finals alone."""
    if final:
        verdict = state.finals.verdict(state.trials)
        if verdict is not None:
            return verdict.best, verdict.gain
    best, base = state.leader or state.baseline, state.baseline
    if best.measurement is None or base.measurement is None:
        return best, None
    own, other = (state.objective.interval(measured(t)) for t in (best, base))
    return best, state.objective.speedup(own, other)


def _remaining_s(state: State, origin: str, left_s: float) -> float | None:
    """About how many seconds are left until the command ends, the run of launch.sh included."""
    limits, elapsed_s = state.plan.limits, state.elapsed_s
    split_s = limits.split.seconds(limits.time_budget_s)
    if origin == STEP:
        spent_s = sum(t.duration_s for t in step_trials(state.trials))
        return max(0.0, split_s - spent_s) + limits.check_s
    if origin == FINAL:
        return state.finals.remaining_s(state.trials, elapsed_s) + split_s + limits.check_s
    if origin == JUDGED:
        return split_s + limits.check_s
    estimates = []
    if limits.trials is not None:
        typical = statistics.median(t.duration_s for t in state.searched)
        estimates.append((limits.trials - state.configs_tried) * typical + left_s)
    if limits.time_budget_s is not None:
        estimates.append(limits.time_budget_s - elapsed_s)
    return max(0.0, min(estimates)) + limits.check_s if estimates else None
