"""Where a search stands: its plan, its trials and its clock.

Everything here is computed from the trials of the journal. So a resumed search stands where it
stood before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from autotune.driver.runner import SESSION_KNOBS
from autotune.search.finals import Finals
from autotune.search.objective import Objective
from autotune.search.plan import SearchPlan
from autotune.search.ranking import AGAIN, DYNAMIC, SEARCHED, leaders, measured
from autotune.shared.records import Config, Trial
from autotune.store.journal import Journal


class State:
    """The trials of a search, and what follows from them."""

    def __init__(
        self, plan: SearchPlan, journal: Journal, objective: Objective, clock: Callable[[], float]
    ) -> None:
        limits = plan.limits
        self.plan = plan
        self.journal = journal
        self.objective = objective
        self.clock = clock
        self.finals = Finals(objective, limits.time_budget_s, limits.finals, plan.seed)
        self._start = clock() - plan.spent_s - sum(trial.duration_s for trial in journal.trials)
        self._unusable: dict[Config, str] = {}  # process and engine knobs that cannot run
        for trial in journal.trials:
            self._remember(trial)

    @property
    def trials(self) -> Sequence[Trial]:
        return self.journal.trials

    @property
    def searched(self) -> list[Trial]:
        """The trials before the finals."""
        return [trial for trial in self.journal.trials if trial.origin in SEARCHED]

    @property
    def configs_tried(self) -> int:
        """The number of configurations so far. A second try does not count, nor the baseline with
        dynamic padding, which is measured whatever the limits."""
        return sum(trial.origin not in (AGAIN, DYNAMIC) for trial in self.searched)

    @property
    def baseline(self) -> Trial:
        return self.journal.trials[0]

    @property
    def elapsed_s(self) -> float:
        """Seconds spent so far, those of a resumed run included."""
        return self.clock() - self._start

    def append(self, trial: Trial) -> None:
        """Write `trial` to the journal before anything else happens."""
        self.journal.append(trial)
        for name in ("leader", "leading_value", "finals_s"):
            self.__dict__.pop(name, None)
        self._remember(trial)

    def _remember(self, trial: Trial) -> None:
        if trial.failure is not None and trial.failure.holds_for_session:
            self._unusable[session(trial.config)] = f"{trial.failure.kind}: {trial.failure.detail}"

    def unusable(self, config: Config) -> str | None:
        """Why the session of `config` cannot run; None if nothing is known that keeps it."""
        return self._unusable.get(session(config))

    # Asked for again and again between two trials: these are computed once, until `append`.

    @functools.cached_property
    def leader(self) -> Trial | None:
        """The best trial so far that is allowed; None before there is one."""
        return next(iter(leaders(self.searched, self.objective, SEARCHED)), None)

    @functools.cached_property
    def leading_value(self) -> float:
        """The leader's objective. There must be a leader."""
        assert self.leader is not None
        return self.objective.value(measured(self.leader))

    @functools.cached_property
    def finals_s(self) -> float:
        """About how many seconds the finals will take."""
        return self.finals.expected_s(self.trials)

    def value(self, trial: Trial) -> float | None:
        """The objective of `trial`: an estimate where it was screened, None where it failed."""
        if trial.measurement is not None:
            return self.objective.value(trial.measurement)
        if trial.screen is not None:
            return self.objective.estimate_screened(trial, measured(self.baseline))
        return None


def session(config: Config) -> Config:
    """The process and engine knobs of `config`: points with the same ones share a session."""
    return config.only(SESSION_KNOBS)
