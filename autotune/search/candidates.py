"""Which configurations need not be run, and which are left."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator

from autotune.search.bounds import PEAK_MARGIN
from autotune.search.ranking import measured
from autotune.search.state import State
from autotune.shared.records import Config

RANDOM_DRAWS = 10_000
"""Random draws from the space before its configurations are enumerated in order."""


class Candidates:
    """The configurations of a search's space that may still win."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._order = self._draw()
        self._spare: Config | None = None
        self._violations: dict[Config, str | None] = {}  # asked for before each suggestion

    def usable(self, config: Config) -> bool:
        return self.refusal(config) is None

    def refusal(self, config: Config) -> str | None:
        """Why `config` need not be run; None where it may win."""
        if config not in self._violations:
            self._violations[config] = self._state.plan.space.violation(config)
        return self._violations[config] or self._state.unusable(config) or self._beaten(config)

    def _beaten(self, config: Config) -> str | None:
        """Why `config` cannot be as good as the leader, None where it may be."""
        state = self._state
        batch_s = state.plan.bounds.batch_s(config) if state.plan.bounds else None
        if batch_s is None:
            return None
        limit = state.objective.best_case(
            [seconds / PEAK_MARGIN for seconds in batch_s],
            measured(state.baseline),
            int(config["instances"]),
        )
        if not state.objective.better(state.leading_value, limit):
            return None
        return f"at this host's peak it could reach {state.objective.shown(limit)}"

    def spare(self, seen: Collection[Config]) -> Config | None:
        """A usable configuration that is not in `seen`; None if all have been tried.

        It is a random one, or the first in the space's order once few are left.
        """
        while self._spare is None or self._spare in seen or not self.usable(self._spare):
            self._spare = next(self._order, None)
            if self._spare is None:
                return None
        return self._spare

    def _draw(self) -> Iterator[Config]:
        space, rng = self._state.plan.space, random.Random(self._state.plan.seed)
        for _ in range(RANDOM_DRAWS):
            yield space.sample(rng)
        yield from space.configs()
