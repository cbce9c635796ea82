"""Measures and judges one configuration, by the rule of its origin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from autotune.driver.runner import Outcome, Runner
from autotune.search.plan import MoreRows, References
from autotune.search.ranking import BASELINE, BESIDE, DYNAMIC, FINAL, JUDGED, STEP, measured
from autotune.search.state import State
from autotune.shared.errors import ResumeError, SearchError
from autotune.shared.records import Accuracy, Config, Failure, Trial
from autotune.shared.stopping import ANSWERS, StoppingRule, continued, remaining_rule
from autotune.tasks.gate import Gate, Reference

BASELINE_RULE = StoppingRule(
    min_passes=3, max_passes=10, budget_s=3.0, patience_s=4.0, half_width=0.02, part_s=1.0
)
"""How the two baselines are timed before the finals, if the reference gives their answers: on parts
of the workload, spread evenly over its batches."""
SEARCH_RULE = StoppingRule(min_passes=2, budget_s=2.0, patience_s=3.0)
"""Passes of a trial before the finals. Exploring needs a ranking only, for which one pass of three
seconds will do. The finals measure longer what is reported."""


class Measuring:
    """Turns a configuration into a trial of the journal.

    `started` is called with the configuration, its origin and its number before it is measured,
    `finished` with its trial once that is on disk.
    """

    def __init__(
        self,
        state: State,
        *,
        runner: Runner,
        gate: Gate,
        references: References,
        more_rows: MoreRows | None,
        started: Callable[[Config, str, int], None],
        finished: Callable[[Trial], None],
    ) -> None:
        self._state = state
        self._runner = runner
        self._gate = gate
        self._references = references
        self._more_rows = more_rows
        self._started = started
        self._finished = finished
        self._reference: Reference | None = None

    def measure_baseline(self) -> None:
        """Measure the baseline, or load its outputs where the journal holds it.

        Raises SearchError if the baseline fails, ResumeError if the journal is of another search.
        """
        state = self._state
        if state.trials:
            first = state.trials[0]
            if first.origin != BASELINE or first.config != state.plan.baseline:
                raise ResumeError("the first trial of this run is not the baseline of this search")
            self._reference = self._references.load()
            if first.succeeded and self._reference is None:
                raise ResumeError("the reference outputs of this run are gone; start a new run")
        else:
            self.measure(state.plan.baseline, BASELINE)
        failure = state.baseline.failure
        if failure is not None:
            raise SearchError(
                f"the baseline (eager float32) failed, {failure.kind}: {failure.detail}; "
                "nothing can be compared with it"
            )

    def measure(self, config: Config, origin: str) -> Trial:
        """Measure and judge `config`, and write the trial to the journal."""
        state = self._state
        number = len(state.trials)
        self._started(config, origin, number)
        start, started = state.clock(), datetime.now(UTC).isoformat(timespec="seconds")
        outcome, accuracy, failure = self._run(config, origin)
        trial = Trial(
            number=number,
            origin=origin,
            config=config,
            started=started,
            duration_s=state.clock() - start,
            measurement=outcome.measurement,
            accuracy=accuracy,
            failure=failure,
            screen=outcome.screen,
            log=outcome.log,
        )
        state.append(trial)
        self._finished(trial)
        return trial

    def _run(self, config: Config, origin: str) -> tuple[Outcome, Accuracy | None, Failure | None]:
        """Run by the rule of `origin`. Before the finals the gate judges the first pass, and only
        what it allows is measured further."""
        plan, by_rungs = self._state.plan, not self._state.objective.by_requests
        if origin == JUDGED:
            return self._judge_on_more_rows(config)
        by_parts = by_rungs and plan.reference != plan.baseline
        if origin in (BASELINE, DYNAMIC, BESIDE) and by_parts:
            return self._time_baseline(config, origin)
        if origin == STEP:  # judged by nobody: a step only says where the gain comes from
            outcome = self._runner.run(config, plan.limits.split.visit)
            return outcome, None, outcome.failure
        if origin == FINAL:
            outcome = self._runner.run(config, self._state.finals.visit)
            return outcome, *self._judge(config, outcome, origin)
        rule = replace(SEARCH_RULE, leader_s=self._leader_s())
        outcome = self._runner.run(config, replace(rule, rung="first") if by_rungs else rule)
        accuracy, failure = self._judge(config, outcome, origin)
        if outcome.measurement is None or failure is not None or not by_rungs:
            return outcome, accuracy, failure
        remaining = remaining_rule(outcome.measurement, rule)
        if remaining is None:
            return outcome, accuracy, failure
        more = self._runner.run(config, remaining)
        if more.measurement is None:
            return more, None, more.failure
        both = continued(outcome.measurement, more.measurement)
        return replace(outcome, measurement=both), accuracy, failure

    def _time_baseline(
        self, config: Config, origin: str
    ) -> tuple[Outcome, Accuracy | None, Failure | None]:
        """Time a baseline on a part of the workload. Its answers are those of the reference, which
        runs the whole workload before the first one."""
        phases = {}
        if origin == BASELINE:
            start = self._state.clock()
            answers = self._runner.run(self._state.plan.reference, ANSWERS)
            if answers.measurement is None:
                return answers, None, answers.failure
            passed_s = self._state.clock() - start
            phases["reference"] = max(0.0, passed_s - answers.measurement.preparing_s)
            self._keep_reference(answers)
        outcome = self._runner.run(config, BASELINE_RULE)
        if outcome.measurement is None:
            return outcome, None, outcome.failure
        timed = replace(outcome.measurement, phases_s={**outcome.measurement.phases_s, **phases})
        assert self._reference is not None
        accuracy = self._gate.judge(self._reference.outputs, self._reference)
        return replace(outcome, measurement=timed), accuracy, None

    def _keep_reference(self, outcome: Outcome) -> None:
        self._references.save(outcome)
        self._reference = self._gate.reference(outcome.outputs)

    def _leader_s(self) -> float | None:
        """Seconds of a pass that are as good as the leader's objective; None without a leader."""
        leader = self._state.leader
        return None if leader is None else self._state.objective.pace_s(measured(leader))

    def _judge(
        self, config: Config, outcome: Outcome, origin: str
    ) -> tuple[Accuracy | None, Failure | None]:
        if outcome.measurement is None:
            return None, outcome.failure
        if not outcome.measurement.whole:  # part of a pass, in the finals: judged before them
            known = next(t for t in self._state.trials if t.config == config and t.succeeded)
            return known.accuracy, None
        if origin == BASELINE:
            self._keep_reference(outcome)
        assert self._reference is not None
        accuracy = self._gate.judge(outcome.outputs, self._reference)
        return accuracy, self._gate.failure(accuracy, self._reference)

    def judging_s(self, winner: Trial) -> float:
        """About how many seconds it will take to judge the winner on more rows."""
        if self._more_rows is None:
            return 0.0
        return self._more_rows.expected_s(self._state.baseline, winner)

    def needs_judging(self, winner: Trial) -> bool:
        """Whether more rows are to be run, or a proof is missing."""
        assert winner.accuracy is not None
        return self.judging_s(winner) > 0 or self._gate.unproven(winner.accuracy) is not None

    def _judge_on_more_rows(
        self, config: Config
    ) -> tuple[Outcome, Accuracy | None, Failure | None]:
        winner = next(t for t in reversed(self._state.trials) if t.config == config and t.accuracy)
        outcome, accuracy, failure = Outcome(), winner.accuracy, None
        if self._more_rows is not None and self.judging_s(winner) > 0:
            outcome, accuracy, failure = self._more_rows.judge(self._state.baseline, winner)
        if failure is None and accuracy is not None:
            failure = self._gate.unproven(accuracy)
        return outcome, accuracy, failure
