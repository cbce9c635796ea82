"""What a search is given: its plan, and what it needs from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from autotune.driver.runner import Outcome
from autotune.search.bounds import Bounds
from autotune.search.limits import Limits
from autotune.shared.records import Accuracy, Config, Failure, Trial
from autotune.space import Space
from autotune.tasks.gate import Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """What one search is to do.

    `reference` gives the answers with which all others are compared: the baseline with rows sorted
    by length, which has the same answers in less time. The baseline and `dynamic` are then timed on
    parts of the workload. If it is the baseline, that runs the whole workload.

    `max_drop` is the largest relative loss of accuracy that is allowed, `spent_s` the seconds of
    the time budget that were used before the search. `bounds` rules out configurations that
    cannot be as good as the leader; None rules out nothing. `dynamic` is the baseline with dynamic
    padding, which every search measures beside it.
    """

    space: Space
    baseline: Config
    dynamic: Config
    reference: Config
    limits: Limits
    max_drop: float
    seed: int
    bounds: Bounds | None = None
    spent_s: float = 0.0


class References(Protocol):
    """Keeps the baseline's outputs, which every judgement of accuracy compares with."""

    def save(self, outcome: Outcome) -> None:
        """Keep the outputs of `outcome`, the baseline's."""

    def load(self) -> Reference | None:
        """What was kept, None where nothing was."""


class MoreRows(Protocol):
    """Judges the winner on more rows than every configuration runs."""

    def expected_s(self, baseline: Trial, winner: Trial) -> float:
        """About how many seconds that takes, 0 where it is not worth its time."""

    def judge(
        self, baseline: Trial, winner: Trial
    ) -> tuple[Outcome, Accuracy | None, Failure | None]:
        """Run the configuration of `winner` on these rows and compare it with eager float32."""
