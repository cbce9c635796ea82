"""The finals: the leaders and the baseline measured again, in turn.

The best of many noisy measurements is partly the luckiest. So the reported numbers come from the
finals, whose measurements did not select the finalists. The finalists are visited in turn: a host
that slows down does so for all of them. Each round has a random order, so that no drift favours
one of them. Each visit is a trial on disk, and everything here is computed from the trials: a
search that was killed in its finals goes on there.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from autotune.search.objective import Objective, workload_s
from autotune.search.ranking import (
    BESIDE,
    DYNAMIC,
    FINAL,
    JUDGED,
    SEARCHED,
    complexity,
    leaders,
    measured,
)
from autotune.shared.records import SHARE_TOLERANCE, Config, Measurement, Trial
from autotune.shared.stats import (
    CONFIDENCE,
    Interval,
    ProcessSpread,
    gain_interval,
    process_spread,
    shuffled,
)
from autotune.shared.stopping import StoppingRule

MIN_FINALISTS, MAX_FINALISTS = 2, 3
"""How many leaders go to the finals, besides the baseline."""
NEAR_LEADER_SHARE = 0.05
"""A third leader goes to the finals if it is at most this much slower than the first."""
ALIKE_SHARE = 0.02
"""Finalists are alike if they differ by at most this much, and not significantly. The simplest of
them wins."""
VISITS_PER_PROCESS = 3
"""After this many visits a finalist continues in a fresh process. Processes that run the same
configuration differ: a process may be a few percent slower than most for as long as it lives. The
fourth round is thus the first that tells how far the processes of this host differ."""
VISIT_RULE = StoppingRule(
    min_passes=1, max_passes=40, half_width=0.0, budget_s=1.5, patience_s=1.5, part_s=2.0
)
"""One visit: at least one pass, for a second or two; of a longer pass only a part. Visits are
short because the rounds make the interval. Six rounds are the fewest that can give 95%."""
MIN_ROUNDS, WANTED_ROUNDS = 3, 6
"""The fewest rounds, and the fewest whose ranks give an interval of 95%. Visits are shortened if
that many would not fit into the time for rounds."""
MAX_REOPENING_S = 4.0
"""Preparing an engine takes at most this many seconds if its exported or compiled form is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalsLimits:
    """How long a visit and the finals may take."""

    visit: StoppingRule = VISIT_RULE
    max_rounds: int = 24
    rounds_s: float = 60.0
    """No round begins after this many seconds of passes."""
    rounds_share: float = 0.25
    """No round begins after this share of the time budget was spent on passes."""
    half_width: float = 0.025
    """No round begins once the relative half interval of every finalist's gain is this narrow."""


FINALS_LIMITS = FinalsLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The outcome of the finals. `gain` is how many times better than the baseline `best` was, the
    median over rounds. The trials hold the passes of all their visits.

    `dynamic` is the baseline with dynamic padding, and the other gains are those over it: None if
    it was not measured, or is `best` itself. `rounds` were held in all; `best` may have taken part
    in fewer of them, those of `gain`.
    """

    baseline: Trial
    best: Trial
    gain: Interval
    dynamic: Trial | None = None
    dynamic_gain: Interval | None = None
    over_dynamic: Interval | None = None
    rounds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far the finals are, once every finalist had MIN_ROUNDS visits and as many as the others.

    `passes_s` are the seconds of all visits without opening sessions, `opening_s` those that
    opening the sessions of the next round takes (0 where they stay open).
    """

    rounds: int
    passes_s: float
    opening_s: float
    gains: Sequence[Interval]  # of each finalist over the baseline

    @property
    def next_round_s(self) -> float:
        return self.opening_s + self.passes_s / self.rounds


def visits(trials: Sequence[Trial]) -> dict[Config, list[Trial]]:
    """The trials of the finals that succeeded, by configuration."""
    found: dict[Config, list[Trial]] = {}
    for trial in trials:
        if trial.origin == FINAL and trial.succeeded:
            found.setdefault(trial.config, []).append(trial)
    return found


def common_rounds(visited: Sequence[Sequence[Trial]]) -> list[Sequence[Trial]]:
    """The visits of each of these configurations in the rounds that all of them were in, the last.

    A leader that took the place of a failed one was not in the first rounds.
    """
    rounds = min(map(len, visited))
    return [visits[len(visits) - rounds :] for visits in visited]


def merged(trials: Sequence[Trial]) -> Trial:
    """The visits of one configuration as one trial: the last one, with the passes of all."""
    last = trials[-1]
    passes = tuple(p for trial in trials for p in measured(trial).passes)
    answered = tuple(a for trial in trials for a in measured(trial).answered)
    return replace(last, measurement=replace(measured(last), passes=passes, answered=answered))


def finals(trials: Sequence[Trial]) -> list[Trial]:
    """The results of the finals, one trial a configuration."""
    return [merged(found) for found in visits(trials).values()]


@dataclass(frozen=True, slots=True)
class Finals:
    """The plan of the finals over a journal's trials. The first trial is the baseline's."""

    objective: Objective
    time_budget_s: float | None
    limits: FinalsLimits = FINALS_LIMITS
    seed: int = 0

    def finalists(self, trials: Sequence[Trial]) -> list[Config]:
        """The two baselines, then the leaders, best first. One that fails in the finals is out.

        The second baseline, with dynamic padding, is left out if it was not measured.
        """
        ranked = self.ranked(trials, SEARCHED)
        near = [
            trial
            for trial in ranked[:MAX_FINALISTS]
            if self.objective.ratio(measured(ranked[0]), measured(trial)) <= 1 + NEAR_LEADER_SHARE
        ]
        best = [trial.config for trial in max(near, ranked[:MIN_FINALISTS], key=len)]
        dynamic = self.dynamic(trials)
        baselines = [trials[0].config] if dynamic is None else [trials[0].config, dynamic.config]
        return list(dict.fromkeys([*baselines, *best]))

    def ranked(self, trials: Sequence[Trial], origins: Sequence[str]) -> list[Trial]:
        """The leaders of these origins, best first, without those that failed later.

        A configuration may fail in the finals, or in the accuracy test on more rows.
        """
        failed = {t.config for t in trials if t.origin in (FINAL, JUDGED) and not t.succeeded}
        ranked = leaders(trials, self.objective, origins)
        return [trial for trial in ranked if trial.config not in failed]

    def dynamic(self, trials: Sequence[Trial]) -> Trial | None:
        """The baseline with dynamic padding; None if it was not measured, or failed."""
        return next(iter(self.ranked(trials, (DYNAMIC, BESIDE))), None)

    def next_round(self, trials: Sequence[Trial], elapsed_s: float) -> list[Config] | None:
        """The finalists to visit next; None when the finals are over.

        Their order is random, and the same for the same seed and trials. A round that was broken
        off is finished first. If a leader took the place of a failed one, all are visited again:
        only visits of the same rounds can be compared.
        """
        if _failures(trials, trials[0].config) >= MIN_ROUNDS:
            return None
        finalists, visited = self.finalists(trials), visits(trials)
        counts = {config: len(visited.get(config, [])) for config in finalists}
        fewest = min(counts.values())
        broken_off = max(counts.values()) - fewest == 1
        behind = [c for c in finalists if counts[c] == fewest or not broken_off]
        must_go_on = fewest < MIN_ROUNDS or broken_off
        if must_go_on or not self._is_over(self._standing(trials, finalists, visited), elapsed_s):
            return shuffled(behind, random.Random(f"{self.seed} {len(trials)}"))
        return None

    def _standing(
        self,
        trials: Sequence[Trial],
        finalists: Sequence[Config],
        visited: Mapping[Config, Sequence[Trial]],
    ) -> Standing:
        rounds = min(len(visited[config]) for config in finalists)
        spent_s = sum(t.duration_s for config in finalists for t in visited[config])
        opening_s = sum(_opening_s(measured(visited[config][0])) for config in finalists)
        return Standing(
            rounds=rounds,
            passes_s=spent_s - opening_s * processes(rounds),
            opening_s=opening_s if self.fresh(trials, finalists) else 0.0,
            gains=[self._gain(trials, config, finalists[0]) for config in finalists[1:]],
        )

    def _is_over(self, standing: Standing, elapsed_s: float) -> bool:
        """Whether no further round is held."""
        budget_s, limits = self.time_budget_s, self.limits
        past_budget = budget_s is not None and elapsed_s + standing.next_round_s > budget_s
        enough_rounds = standing.rounds >= limits.max_rounds
        # Fresh processes are worth opening only if time is left for passes in them.
        enough_seconds = standing.passes_s + standing.opening_s >= self._rounds_s
        gains_known = all(
            gain.half_width <= limits.half_width and gain.coverage >= CONFIDENCE
            for gain in standing.gains
        )
        return past_budget or enough_rounds or enough_seconds or gains_known

    @property
    def visit(self) -> StoppingRule:
        """The rule of a visit: that of `limits`, or shorter so that WANTED_ROUNDS fit."""
        rule, turns = self.limits.visit, WANTED_ROUNDS * (1 + MAX_FINALISTS)
        shorter = min(1.0, self._rounds_s / turns / rule.budget_s)
        return replace(
            rule,
            budget_s=shorter * rule.budget_s,
            patience_s=shorter * rule.patience_s,
            part_s=None if rule.part_s is None else shorter * rule.part_s,
        )

    def fresh(self, trials: Sequence[Trial], round_: Sequence[Config]) -> bool:
        """Whether the finalists of `round_` are to be visited in fresh processes."""
        visited = visits(trials)
        return any(len(visited.get(config, [])) % VISITS_PER_PROCESS == 0 for config in round_)

    def expected_s(self, trials: Sequence[Trial]) -> float:
        """About how many seconds the finals will take."""
        known = {t.config: t.measurement for t in trials if t.measurement}
        finalists = [known[config] for config in self.finalists(trials) if config in known]
        if not finalists:
            return 0.0
        round_s = sum(self._visit_s(m) + self.objective.serving_s for m in finalists)
        rounds = max(MIN_ROUNDS, min(self._rounds_s / round_s + 0.5, self.limits.max_rounds))
        return sum(map(_opening_s, finalists)) * processes(rounds) + rounds * round_s

    def remaining_s(self, trials: Sequence[Trial], elapsed_s: float) -> float:
        """About how many seconds the rest of the finals will take."""
        spent_s = sum(trial.duration_s for trial in trials if trial.origin == FINAL)
        left_s = max(0.0, self.expected_s(trials) - spent_s)
        if self.time_budget_s is None:
            return left_s
        return min(left_s, max(0.0, self.time_budget_s - elapsed_s))

    def least_s(self, trials: Sequence[Trial]) -> float:
        """About how many seconds the fewest rounds with the present finalists take."""
        known = {t.config: t.measurement for t in trials if t.measurement}
        finalists = [known[config] for config in self.finalists(trials) if config in known]
        round_s = sum(self._visit_s(m) + self.objective.serving_s for m in finalists)
        return sum(map(_opening_s, finalists)) * processes(MIN_ROUNDS) + MIN_ROUNDS * round_s

    def verdict(self, trials: Sequence[Trial]) -> Verdict | None:
        """None if some finalist was never visited.

        Once a winner was wrong on more rows, the verdict is about the finalists that were visited:
        for rounds with other leaders there may be no time.
        """
        results = {trial.config: trial for trial in finals(trials)}
        finalists = [config for config in self.finalists(trials) if config in results]
        base = trials[0].config
        if base not in finalists or (
            len(finalists) < len(self.finalists(trials)) and not overruled(trials)
        ):
            return None
        beside = {trial.config for trial in trials if trial.origin == BESIDE}
        able = [config for config in finalists if config not in beside]
        first = leaders([results[config] for config in able], self.objective, (FINAL,))[0]
        alike = [config for config in able if self._alike(trials, first.config, config)]
        best = min(alike, key=lambda config: complexity(config, base))
        dynamic = self.dynamic(trials)
        second = None if dynamic is None or dynamic.config not in results else dynamic.config
        both = second is not None and best not in (base, second)
        return Verdict(
            baseline=results[base],
            best=results[best],
            gain=self._gain(trials, best, base),
            dynamic=None if second is None else results[second],
            dynamic_gain=None if second is None else self._gain(trials, second, base),
            over_dynamic=self._gain(trials, best, second) if second and both else None,
            rounds=len(visits(trials)[base]),
        )

    def _alike(self, trials: Sequence[Trial], first: Config, other: Config) -> bool:
        """Whether `first` is not surely better than `other`, nor by more than ALIKE_SHARE."""
        if first == other:
            return True
        ahead = self._gain(trials, first, other)
        return ahead.low <= 1 and ahead.median <= 1 + ALIKE_SHARE

    @property
    def _rounds_s(self) -> float:
        """The seconds that the passes of all rounds may take."""
        if self.time_budget_s is None:
            return self.limits.rounds_s
        return min(self.limits.rounds_s, self.limits.rounds_share * self.time_budget_s)

    def _gain(self, trials: Sequence[Trial], config: Config, other: Config) -> Interval:
        """How many times better `config` is than `other`, round by round."""
        visited = visits(trials)
        pairs = zip(*common_rounds([visited[config], visited[other]]), strict=True)
        ratios = [self.objective.ratio(measured(one), measured(two)) for one, two in pairs]
        return gain_interval(ratios, processes(len(ratios)), self.spread(trials))

    def spread(self, trials: Sequence[Trial]) -> ProcessSpread:
        """How much processes of the same configuration differ on this host, by all finalists."""
        visited = visits(trials)
        known = [visited[config] for config in self.finalists(trials) if config in visited]
        values = [
            [self.objective.value(measured(visit)) for visit in found]
            for found in (common_rounds(known) if known else ())
        ]
        return process_spread(values, VISITS_PER_PROCESS)

    def _visit_s(self, measurement: Measurement) -> float:
        """About how long one visit takes in a session that is open."""
        rule = self.visit
        instances = len({p.instance for p in measurement.passes})
        pass_s = workload_s(measurement)
        if sum({p.instance: p.share for p in measurement.passes}.values()) > 1 + SHARE_TOLERANCE:
            pass_s *= instances  # too few batches to share: every instance runs all of them
        if rule.part_s is not None:
            pass_s = min(pass_s, rule.part_s)
        return rule.budget_s + pass_s / 2


def processes(rounds: float) -> int:
    """In how many processes, one after the other, a finalist is visited in so many rounds."""
    return math.ceil(rounds / VISITS_PER_PROCESS)


def overruled(trials: Sequence[Trial]) -> int:
    """How many winners of the finals were refused by the accuracy test on more rows."""
    return sum(trial.origin == JUDGED and not trial.succeeded for trial in trials)


def _failures(trials: Sequence[Trial], config: Config) -> int:
    """How often `config` failed in the finals, or in the accuracy test on more rows."""
    return sum(
        t.origin in (FINAL, JUDGED) and t.config == config and not t.succeeded for t in trials
    )


def _opening_s(measurement: Measurement) -> float:
    """About how long its session takes to open again, from its exported or compiled form."""
    phases = measurement.phases_s
    prepare = min(phases.get("prepare", 0.0), MAX_REOPENING_S)
    return phases.get("import", 0.0) + prepare + phases.get("warm_up", 0.0)
