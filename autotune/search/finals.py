"""The finals: the leaders and the baseline measured again, in turn.

The best of many noisy measurements is partly the luckiest; what is reported comes from these,
which were not selected. In turn, so that a host that speeds up or slows down does so for all
of them; each round in an order drawn at random, so that no drift can favour one. Each visit is
a trial on disk, and everything here is computed from those: a search killed in its finals goes
on there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autotune.search.objective import Objective, workload_s
from autotune.search.ranking import FINAL, SEARCHED, complexity, leaders, measured
from autotune.shared.records import SHARE_TOLERANCE, Config, Measurement, StoppingRule, Trial
from autotune.shared.stats import CONFIDENCE, Interval, gain_interval, shuffled

FINALISTS, MOST_FINALISTS, CLOSE = 2, 3, 0.05
"""The leaders that go to the finals; more where they are this near the first."""
ALIKE = 0.02
"""Finalists no further apart than this, and not significantly, are alike: the simplest wins."""
VISIT_RULE = StoppingRule(
    min_passes=1, max_passes=40, half_width=0.0, budget_s=1.5, patience_s=1.5, part_s=2.0
)
"""One visit: passes for a second or two, at least one; of the baseline's long passes a part.
Short, since it is rounds that make an interval: six are the fewest that can give one of 95%, and
in the same time twice as many of half the length tell apart what is nearer."""
VISITS_A_PROCESS = 4
"""Then a finalist goes on in a fresh process: one may be a few percent slower than most of those
that run the same, for as long as it lives."""
MIN_ROUNDS, MAX_ROUNDS = 3, 24
ROUNDS_S, ROUNDS_SHARE = 60.0, 0.25
"""No new round begins after so many seconds of passes, or such a share of the time budget."""
HALF_WIDTH = 0.025
"""Nor once the gain of every finalist is known this well."""
REOPENED_S = 4.0
"""What preparing an engine takes at most when its exported or compiled form is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the finals say. `gain` is how many times better than the baseline `best` was, the
    median over rounds; the trials hold the passes of all their visits."""

    baseline: Trial
    best: Trial
    gain: Interval


def visits(trials: Sequence[Trial]) -> dict[Config, list[Trial]]:
    """The trials of the finals that succeeded, by configuration."""
    found: dict[Config, list[Trial]] = {}
    for trial in trials:
        if trial.origin == FINAL and trial.succeeded:
            found.setdefault(trial.config, []).append(trial)
    return found


def merged(trials: Sequence[Trial]) -> Trial:
    """Visits of one configuration as one trial: the last one, with what all measured."""
    last = trials[-1]
    passes = tuple(p for trial in trials for p in measured(trial).passes)
    answered = tuple(a for trial in trials for a in measured(trial).answered)
    return replace(last, measurement=replace(measured(last), passes=passes, answered=answered))


def finals(trials: Sequence[Trial]) -> list[Trial]:
    """What the finals measured, one trial a configuration."""
    return [merged(found) for found in visits(trials).values()]


@dataclass(frozen=True, slots=True)
class Finals:
    """The plan of the finals over a journal's trials, whose first is the baseline's."""

    objective: Objective
    time_budget_s: float | None

    def finalists(self, trials: Sequence[Trial]) -> list[Config]:
        """The baseline, then the leaders, best first; one that fails in the finals is out."""
        ranked = [
            trial
            for trial in leaders(trials, self.objective, SEARCHED)
            if not _failures(trials, trial.config)
        ]
        near = [
            trial
            for trial in ranked[:MOST_FINALISTS]
            if self.objective.ratio(measured(ranked[0]), measured(trial)) <= 1 + CLOSE
        ]
        best = [trial.config for trial in max(near, ranked[:FINALISTS], key=len)]
        return list(dict.fromkeys([trials[0].config, *best]))

    def next_round(self, trials: Sequence[Trial], elapsed_s: float) -> list[Config] | None:
        """Whom to visit next, None when the finals are over.

        A finalist that took the place of a failed one catches up before the next round.
        """
        if _failures(trials, trials[0].config) >= MIN_ROUNDS:
            return None
        finalists, visited = self.finalists(trials), visits(trials)
        counts = {config: len(visited.get(config, [])) for config in finalists}
        done = min(counts.values())
        behind = [config for config in finalists if counts[config] == done]
        if done < MIN_ROUNDS or len(set(counts.values())) > 1:
            return shuffled(behind)
        spent = sum(t.duration_s for config in finalists for t in visited[config])
        preparing = sum(_preparing_s(measured(visited[config][0])) for config in finalists)
        passes_s = spent - preparing * processes(done)
        due_s = preparing if self.fresh(trials, finalists) else 0.0
        until_s = elapsed_s + due_s + passes_s / done
        late = self.time_budget_s is not None and until_s > self.time_budget_s
        if late or done >= MAX_ROUNDS or passes_s + due_s >= self._rounds_s:
            return None  # fresh processes are worth opening only if time is left for passes
        gains = [self._gain(trials, config, finalists[0]) for config in finalists[1:]]
        narrow = all(g.half_width <= HALF_WIDTH and g.coverage >= CONFIDENCE for g in gains)
        return None if narrow else shuffled(behind)

    def fresh(self, trials: Sequence[Trial], round_: Sequence[Config]) -> bool:
        """Whether those of `round_` are to be visited in fresh processes."""
        visited = visits(trials)
        return any(len(visited.get(config, [])) % VISITS_A_PROCESS == 0 for config in round_)

    def expected_s(self, trials: Sequence[Trial]) -> float:
        """About how many seconds the finals will take."""
        known = {t.config: t.measurement for t in trials if t.measurement}
        finalists = [known[config] for config in self.finalists(trials) if config in known]
        if not finalists:
            return 0.0
        one = sum(_visit_s(m) + self.objective.serving_s for m in finalists)
        rounds = max(MIN_ROUNDS, min(self._rounds_s / one + 0.5, MAX_ROUNDS))
        return sum(map(_preparing_s, finalists)) * processes(rounds) + rounds * one

    def verdict(self, trials: Sequence[Trial]) -> Verdict | None:
        """None where some finalist was never visited."""
        again = {trial.config: trial for trial in finals(trials)}
        finalists = self.finalists(trials)
        if any(config not in again for config in finalists):
            return None
        first = leaders([again[config] for config in finalists], self.objective, (FINAL,))[0]
        alike = [config for config in finalists if self._alike(trials, first.config, config)]
        best = min(alike, key=lambda config: complexity(config, trials[0].config))
        gain = self._gain(trials, best, trials[0].config)
        return Verdict(baseline=again[trials[0].config], best=again[best], gain=gain)

    def _alike(self, trials: Sequence[Trial], first: Config, other: Config) -> bool:
        """Whether nothing says that `first` is really better than `other`."""
        if first == other:
            return True
        ahead = self._gain(trials, first, other)
        return ahead.low <= 1 and ahead.median <= 1 + ALIKE

    @property
    def _rounds_s(self) -> float:
        if self.time_budget_s is None:
            return ROUNDS_S
        return min(ROUNDS_S, ROUNDS_SHARE * self.time_budget_s)

    def _gain(self, trials: Sequence[Trial], config: Config, other: Config) -> Interval:
        """How many times better `config` is than `other`, round by round."""
        visited = visits(trials)
        pairs = zip(visited[config], visited[other], strict=False)
        ratios = [self.objective.ratio(measured(one), measured(two)) for one, two in pairs]
        return gain_interval(ratios, processes(len(ratios)))


def processes(rounds: float) -> int:
    """In how many processes a finalist is visited so often."""
    return math.ceil(rounds / VISITS_A_PROCESS)


def _failures(trials: Sequence[Trial], config: Config) -> int:
    """How often `config` failed in the finals."""
    return sum(t.origin == FINAL and t.config == config and not t.succeeded for t in trials)


def _visit_s(measurement: Measurement) -> float:
    """About how long one visit takes, the process being there."""
    instances = len({p.instance for p in measurement.passes})
    one = workload_s(measurement)
    if sum({p.instance: p.share for p in measurement.passes}.values()) > 1 + SHARE_TOLERANCE:
        one *= instances  # too few batches to share
    if VISIT_RULE.part_s is not None:
        one = min(one, VISIT_RULE.part_s)
    return VISIT_RULE.budget_s + one / 2


def _preparing_s(measurement: Measurement) -> float:
    """About how long its session takes to open again: what it exported or compiled is kept."""
    phases = measurement.phases_s
    prepare = min(phases.get("prepare", 0.0), REOPENED_S)
    return phases.get("import", 0.0) + prepare + phases.get("warm_up", 0.0)
