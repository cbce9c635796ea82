"""The end of a search: the finals, the winner on more rows, and the gain in parts."""

from __future__ import annotations

import random

from autotune.driver.runner import Runner
from autotune.search.measuring import Measuring
from autotune.search.ranking import FINAL, JUDGED, STEP
from autotune.search.result import Result, conclude
from autotune.search.split import MIN_ROUNDS, is_over, steps
from autotune.search.state import State, session
from autotune.search.study import Study
from autotune.search.tuner import expect_opening_s
from autotune.shared.records import Config
from autotune.shared.stats import shuffled


class Ending:
    """What follows once no further configuration is tried."""

    def __init__(self, state: State, measuring: Measuring, runner: Runner, study: Study) -> None:
        self._state = state
        self._measuring = measuring
        self._runner = runner
        self._study = study

    def expected_s(self) -> float:
        """Seconds that the finals, judging the winner on more rows and the split will take."""
        limits, state = self._state.plan.limits, self._state
        seconds = state.finals_s
        seconds += limits.split.seconds(limits.time_budget_s)
        return seconds + (self._measuring.judging_s(state.leader) if state.leader else 0.0)

    def run(self) -> None:
        last = next(t.origin for t in reversed(self._state.trials) if t.origin != STEP)
        if last == JUDGED:  # the run was resumed here
            self._hold_further_finals()
        else:
            self._hold_finals()
        self._judge_winner()
        self._split_gain()

    def _hold_finals(self) -> None:
        """Visit the finalists round by round; their processes stay open side by side for some
        rounds, then fresh ones take over."""
        state = self._state
        while (round_ := state.finals.next_round(state.trials, state.elapsed_s)) is not None:
            if state.finals.fresh(state.trials, round_):
                self._runner.close()
            self._runner.keep_open(state.finals.finalists(state.trials))
            for config in round_:
                if not self._measuring.measure(config, FINAL).succeeded:
                    break  # another leader takes its place
        self._runner.close()

    def _judge_winner(self) -> None:
        """Judge the accuracy of the winner on all rows for which there is time.

        If it loses too much there, or is not proven to be within the limit where the gate demands
        that, the next best of the finals is judged.
        """
        while True:
            result = conclude(self._state.trials, self._state.finals)
            if not self._is_to_be_judged(result):
                return
            if not self._measuring.measure(result.best.config, JUDGED).succeeded:
                self._hold_further_finals()

    def _hold_further_finals(self) -> None:
        """Hold rounds with other leaders, after a winner was wrong on more rows.

        None are held if a finalist is left that is surely better than the baseline, nor if the time
        does not suffice for the fewest rounds.
        """
        state = self._state
        budget_s = state.plan.limits.time_budget_s
        if conclude(state.trials, state.finals).significant:
            return
        if budget_s is None or state.elapsed_s + state.finals.least_s(state.trials) <= budget_s:
            self._hold_finals()

    def _is_to_be_judged(self, result: Result) -> bool:
        winner = result.best
        judged = any(
            t.config == winner.config and t.origin == JUDGED and t.succeeded
            for t in self._state.trials
        )
        return result.significant and not judged and self._measuring.needs_judging(winner)

    def _split_gain(self) -> None:
        """Visit the configurations from the baseline to the best in turn, if there is time."""
        state, limits = self._state, self._state.plan.limits
        result = conclude(state.trials, state.finals)
        if not result.significant or result.best.origin != FINAL:
            return
        configs = self._affordable_steps(result.best.config)
        self._runner.keep_open(configs)
        while configs and not is_over(state.trials, limits.split, limits.time_budget_s):
            rng = random.Random(f"{state.plan.seed} {len(state.trials)}")
            for config in shuffled(configs, rng):
                if self._measuring.measure(config, STEP).succeeded:
                    continue
                if config in (configs[0], configs[-1]):
                    return  # without the baseline or the best there is nothing to split
                configs = [other for other in configs if other != config]

    def _affordable_steps(self, best: Config) -> list[Config]:
        """The baseline and the steps to `best` for which there is time; empty if there is none.

        The best engine in float32 may take long to prepare. It is the first to be left out.
        """
        state, limits = self._state, self._state.plan.limits
        time_s = limits.split.seconds(limits.time_budget_s)
        visit_s = limits.split.visit.budget_s + state.objective.serving_s
        opening_s = expect_opening_s(self._study.observations())
        chain = [
            step
            for step in steps(state.baseline.config, best)
            if step.config == best or self._runs(step.config)
        ]
        for left_out in ((), ("engine",)):
            kept = [s.config for s in chain if s.config == best or s.groups != left_out]
            configs = [state.baseline.config, *kept]
            openings_s = sum(opening_s(one) for one in {session(config) for config in configs})
            if openings_s + MIN_ROUNDS * visit_s * len(configs) <= time_s:
                return configs
        return []

    def _runs(self, config: Config) -> bool:
        """Whether nothing is known that keeps `config` from running."""
        space = self._state.plan.space
        return space.violation(config) is None and self._state.unusable(config) is None
