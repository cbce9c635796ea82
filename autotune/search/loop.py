"""The search: the baseline, priors, the tuner's proposals, then the finals.

Every trial is in the journal before anything else happens, and the search reads only the
journal's trials. So a resumed search takes the same path as one that never stopped.
"""

from __future__ import annotations

import collections
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from autotune.driver.runner import SESSION_KNOBS, Outcome, Runner
from autotune.search.again import select_retries
from autotune.search.bounds import PEAK_MARGIN, Bounds
from autotune.search.finals import MIN_FINALISTS, Finals
from autotune.search.limits import Limits
from autotune.search.objective import Objective
from autotune.search.observe import observed, phases
from autotune.search.ranking import (
    AGAIN,
    BASELINE,
    BESIDE,
    DYNAMIC,
    FINAL,
    JUDGED,
    OTHERS,
    PRIOR,
    SEARCH,
    SEARCHED,
    STEP,
    leaders,
    measured,
)
from autotune.search.result import Result, conclude
from autotune.search.split import MIN_ROUNDS, is_over, step_trials, steps
from autotune.search.study import Study
from autotune.search.tuner import Observation, Tuner, expect_opening_s
from autotune.shared.errors import ResumeError, SearchError
from autotune.shared.records import Accuracy, Config, Failure, StoppingRule, Trial
from autotune.shared.stats import Interval, shuffled
from autotune.shared.stopping import continued, remaining_rule
from autotune.space import Space
from autotune.store.journal import Journal
from autotune.tasks.gate import Gate, Reference

PRIORS_FIRST, OTHER_PRIORS_AFTER = 4, 0.6
"""The number of priors tried before the tuner chooses, and the share of the budget after which the
others are tried.

The first ones give the tuner engines of several kinds to learn from. With six of them a BERT-base
took 5.5% of the exhaustive seconds to come within 3% of the best, with four 3.4%. The others
are for a report of every engine, which is worth less than finding the best one."""
LATE_OPENING_SHARE = 0.05
"""The largest share of the time budget that preparing one of those other priors may take, or
preparing a configuration that is tried again."""
SEARCH_RULE = StoppingRule(min_passes=2, budget_s=2.0, patience_s=5.0)
"""Passes of a trial before the finals. Exploring needs a ranking only; the finals measure longer
what is reported."""
RANDOM_DRAWS = 10_000
"""Random draws from the space before its configurations are enumerated in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """What one search is to do.

    `max_drop` is the largest relative loss of accuracy that is allowed, `spent_s` the seconds of
    the time budget that were used before the search. `bounds` rules out configurations that
    cannot be as good as the leader; None rules out nothing. `dynamic` is the baseline with dynamic
    padding, which every search measures beside it.
    """

    run_name: str
    space: Space
    baseline: Config
    dynamic: Config
    limits: Limits
    max_drop: float
    seed: int
    bounds: Bounds | None = None
    spent_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a search stands, for whoever shows it."""

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


class Search:
    """One run over one workload. `run` may be called once."""

    def __init__(
        self,
        plan: SearchPlan,
        *,
        study: Study,
        runner: Runner,
        gate: Gate,
        journal: Journal,
        objective: Objective,
        references: References,
        more_rows: MoreRows | None = None,
        listener: Listener,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._study = study
        self._runner = runner
        self._gate = gate
        self._journal = journal
        self._objective = objective
        self._references = references
        self._more_rows = more_rows
        self._listener = listener
        self._clock = clock
        limits = plan.limits
        self._finals = Finals(objective, limits.time_budget_s, limits.finals, plan.seed)
        self._tuner = Tuner(plan.space, seed=plan.seed)
        self._rng = random.Random(plan.seed)
        self._start = clock() - plan.spent_s - sum(trial.duration_s for trial in journal.trials)
        self._reference: Reference | None = None
        self._leading = (0, 0.0)  # number of trials, and the leader's objective then
        self._unusable: dict[Config, str] = {}  # process and engine knobs that cannot run

    def run(self) -> Result:
        """Raises SearchError where the baseline itself cannot be measured.

        KeyboardInterrupt ends the search with what it has, once there is a baseline.
        """
        self._measure_baseline()
        interrupted = False
        try:
            self._measure_dynamic()
            self._restore_study()
            self._explore()
            self._hold_finals()
            self._judge_winner()
            self._split_gain()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            self._runner.close()
        return conclude(self._journal.trials, self._finals, interrupted=interrupted)

    @property
    def _searched(self) -> list[Trial]:
        return [trial for trial in self._journal.trials if trial.origin in SEARCHED]

    @property
    def _configs_tried(self) -> int:
        """The number of configurations so far. A second try does not count, nor the baseline with
        dynamic padding, which is measured whatever the limits."""
        return sum(trial.origin not in (AGAIN, DYNAMIC) for trial in self._searched)

    @property
    def _baseline(self) -> Trial:
        return self._journal.trials[0]

    @property
    def elapsed_s(self) -> float:
        """Seconds spent so far, those of a resumed run included."""
        return self._clock() - self._start

    def _measure_baseline(self) -> None:
        if self._journal.trials:
            first = self._journal.trials[0]
            if first.origin != BASELINE or first.config != self._plan.baseline:
                raise ResumeError("the first trial of this run is not the baseline of this search")
            self._reference = self._references.load()
            if first.succeeded and self._reference is None:
                raise ResumeError("the reference outputs of this run are gone; start a new run")
        else:
            self._try(self._plan.baseline, BASELINE)
        failure = self._baseline.failure
        if failure is not None:
            raise SearchError(
                f"the baseline (eager float32) failed, {failure.kind}: {failure.detail}; "
                "nothing can be compared with it"
            )

    def _measure_dynamic(self) -> None:
        """Measure the baseline with dynamic padding too, unless the time is up already."""
        tried = any(trial.origin in (DYNAMIC, BESIDE) for trial in self._journal.trials)
        pads = self._plan.dynamic != self._plan.baseline  # not so for inputs without a width
        if pads and not tried and not self._out_of_time():
            origin = DYNAMIC if self._plan.space.contains(self._plan.dynamic) else BESIDE
            self._try(self._plan.dynamic, origin)

    def _restore_study(self) -> None:
        self._study.fail_stale(self._plan.run_name)
        self._unusable = {
            _session(t.config): f"{t.failure.kind}: {t.failure.detail}"
            for t in self._searched
            if t.failure is not None and t.failure.holds_for_session
        }
        known = self._study.known()
        for trial in self._searched:
            if trial.config.id not in known:
                self._study.add(self._plan.run_name, trial, self._value(trial), self._excess(trial))

    def _explore(self) -> None:
        """Measure one configuration after another until the limits or the space are used up."""
        seen = {trial.config for trial in self._searched}
        for config, again in self._next_configs(seen):
            self._study.enqueue(config)
            proposal = self._study.ask(self._plan.run_name)  # another one in a shared study
            again = again and proposal.config == config
            refusal = self._refusal(proposal.config)
            if refusal is not None:
                self._study.forbid(proposal, refusal)
            elif proposal.config in seen and not again:
                self._study.repeat(proposal)
            else:
                seen.add(proposal.config)
                trial = self._try(proposal.config, self._origin(proposal.config, again))
                self._study.tell(proposal, trial, self._value(trial), self._excess(trial))

    def _next_configs(self, seen: set[Config]) -> Iterator[tuple[Config, bool]]:
        """Configurations to measure, and whether each is a second try.

        In this order of preference: a second try of one that was disturbed, the queue of learned
        configurations and priors, the tuner's proposal, any untried one. Late in the search the
        other priors join the queue. `seen` must contain what was measured before the next is
        taken.
        """
        first_priors = self._plan.space.priors[:PRIORS_FIRST]
        other_priors = self._plan.space.priors[PRIORS_FIRST:]
        first = dict.fromkeys([*self._best_elsewhere(), *first_priors])
        queue = collections.deque(config for config in first if config not in seen)
        waiting = collections.deque(other_priors)
        untried = self._untried(seen)
        while not self._finished():
            if waiting and self._share_spent() >= OTHER_PRIORS_AFTER:
                queue.extend(waiting)
                waiting.clear()
            again = self._again()
            if again is not None:
                yield again, True
            elif queue:
                config = queue.popleft()
                if self._affordable(config, late=config in other_priors):
                    yield config, False
            else:
                proposed = self._proposed(seen) or next(
                    (config for config in untried if config not in seen), None
                )
                if proposed is None:
                    return  # everything allowed has been tried
                yield proposed, False

    def _origin(self, config: Config, again: bool) -> str:
        if again:
            return AGAIN
        return PRIOR if config in self._plan.space.priors else SEARCH

    def _again(self) -> Config | None:
        """A configuration whose trial was disturbed and that is worth a second try now."""
        found = select_retries(self._searched, self._objective, self._value, self._leading_value())
        return next(
            (
                config
                for config in found
                if self._plan.space.contains(config)
                and self._usable(config)
                and self._affordable(config, late=True)
            ),
            None,
        )

    def _best_elsewhere(self) -> list[Config]:
        """The leaders of other processes that share the study, best first.

        They are measured here again, since a report holds only what its own run measured.
        """
        allowed = [
            told
            for told in self._study.others(self._plan.run_name)
            if told.excess <= 0 and self._plan.space.contains(told.config)
        ]
        allowed.sort(key=lambda told: told.value, reverse=self._objective.maximize)
        return list(dict.fromkeys(told.config for told in allowed))[:MIN_FINALISTS]

    def _proposed(self, seen: set[Config]) -> Config | None:
        last = self._searched[-1]
        return self._tuner.propose(
            self._observations(),
            lambda config: config not in seen and self._usable(config),
            open_session=_session(last.config) if phases(last) else None,
            remaining_s=self._remaining_s(),
        )

    def _affordable(self, config: Config, late: bool) -> bool:
        """Whether opening `config` leaves at least as much time for other configurations.

        Where it is `late`, opening may also take at most LATE_OPENING_SHARE of the budget.
        """
        remaining_s, budget = self._remaining_s(), self._plan.limits.time_budget_s
        if remaining_s is None or budget is None:
            return True
        cost = expect_opening_s(self._observations())(config)
        return 2 * cost <= remaining_s and not (late and cost > LATE_OPENING_SHARE * budget)

    def _remaining_s(self) -> float | None:
        """Seconds until the finals must begin, None without a time budget."""
        budget = self._plan.limits.time_budget_s
        if budget is None:
            return None
        return budget - self.elapsed_s - self._ending_s()

    def _observations(self) -> list[Observation]:
        """The trials of others who share the study, then the own ones, as the tuner sees them."""
        known = {trial.config for trial in self._searched}
        told = [
            told
            for told in self._study.others(self._plan.run_name)
            if told.config not in known and self._plan.space.contains(told.config)
        ]
        return observed(
            self._searched,
            told,
            value=self._value,
            maximize=self._objective.maximize,
            max_drop=self._plan.max_drop,
        )

    def _leading_value(self) -> float:
        """The leader's objective; kept until the next trial, for every candidate needs it."""
        known, value = self._leading
        if known != len(self._journal.trials):
            value = self._objective.value(measured(self._leader))
            self._leading = (len(self._journal.trials), value)
        return value

    @property
    def _leader(self) -> Trial:
        return leaders(self._searched, self._objective, SEARCHED)[0]

    def _untried(self, seen: set[Config]) -> Iterator[Config]:
        """Usable configurations that are not in `seen`: random ones, then all in order."""
        for _ in range(RANDOM_DRAWS):
            config = self._plan.space.sample(self._rng)
            if config not in seen and self._usable(config):
                yield config
        yield from (c for c in self._plan.space.configs() if c not in seen and self._usable(c))

    def _usable(self, config: Config) -> bool:
        return self._refusal(config) is None

    def _refusal(self, config: Config) -> str | None:
        """Why `config` need not be run; None where it may win."""
        return (
            self._plan.space.violation(config)
            or self._unusable.get(_session(config))
            or self._beaten(config)
        )

    def _beaten(self, config: Config) -> str | None:
        """Why `config` cannot be as good as the leader, None where it may be."""
        batch_s = self._plan.bounds.batch_s(config) if self._plan.bounds else None
        if batch_s is None:
            return None
        limit = self._objective.best_case(
            [seconds / PEAK_MARGIN for seconds in batch_s],
            measured(self._baseline),
            int(config["instances"]),
        )
        if not self._objective.better(self._leading_value(), limit):
            return None
        return f"at this host's peak it could reach {self._objective.shown(limit)}"

    def _finished(self) -> bool:
        trials = self._plan.limits.trials
        return (trials is not None and self._configs_tried >= trials) or self._out_of_time()

    def _out_of_time(self) -> bool:
        budget = self._plan.limits.time_budget_s
        return budget is not None and self.elapsed_s + self._left_s() >= budget

    def _share_spent(self) -> float:
        """The share of the trials or of the time that is used up, whichever is larger."""
        trials, budget = self._plan.limits.trials, self._plan.limits.time_budget_s
        by_count = self._configs_tried / trials if trials is not None else 0.0
        by_time = self.elapsed_s / budget if budget is not None else 0.0
        return max(by_count, by_time)

    def _left_s(self) -> float:
        """Seconds that the finals will take, and half a typical trial that may run before them.

        The baselines are no measure of the others, which are faster. Until one of these was tried,
        only the finals are waited for.
        """
        others = [t.duration_s for t in self._searched if t.origin in OTHERS]
        return self._ending_s() + (statistics.median(others) / 2 if others else 0.0)

    def _ending_s(self) -> float:
        """Seconds that the finals, judging the winner on more rows and the split will take."""
        limits = self._plan.limits
        seconds = self._finals.expected_s(self._journal.trials)
        seconds += limits.split.seconds(limits.time_budget_s)
        best = leaders(self._searched, self._objective, SEARCHED)
        return seconds + (self._judging_s(best[0]) if best else 0.0)

    def _hold_finals(self) -> None:
        """Visit the finalists round by round; their processes stay open side by side for some
        rounds, then fresh ones take over."""
        trials = self._journal.trials
        while (round_ := self._finals.next_round(trials, self.elapsed_s)) is not None:
            if self._finals.fresh(trials, round_):
                self._runner.close()
            self._runner.keep_open(self._finals.finalists(trials))
            for config in round_:
                if not self._try(config, FINAL).succeeded:
                    break  # another leader takes its place
        self._runner.close()

    def _judge_winner(self) -> None:
        """Judge the accuracy of the winner on all rows for which there is time.

        If it loses too much there, or is not proven to be within the limit where the gate demands
        that, the next best configuration takes its place in the finals.
        """
        while True:
            result = conclude(self._journal.trials, self._finals)
            winner = result.best.config
            judged = any(
                t.config == winner and t.origin == JUDGED and t.succeeded
                for t in self._journal.trials
            )
            if not result.significant or judged or not self._needs_judging(result.best):
                return
            if not self._try(winner, JUDGED).succeeded:
                self._hold_finals()

    def _needs_judging(self, winner: Trial) -> bool:
        """Whether more rows are to be run, or a proof is missing."""
        assert winner.accuracy is not None
        return self._judging_s(winner) > 0 or self._gate.unproven(winner.accuracy) is not None

    def _judging_s(self, winner: Trial) -> float:
        """About how many seconds it will take to judge the winner on more rows."""
        if self._more_rows is None:
            return 0.0
        return self._more_rows.expected_s(self._baseline, winner)

    def _split_gain(self) -> None:
        """Visit the configurations from the baseline to the best in turn, if there is time."""
        limits, trials = self._plan.limits, self._journal.trials
        result = conclude(trials, self._finals)
        if not result.significant or result.best.origin != FINAL:
            return
        configs = self._affordable_steps(result.best.config)
        self._runner.keep_open(configs)
        while configs and not is_over(trials, limits.split, limits.time_budget_s):
            rng = random.Random(f"{self._plan.seed} {len(trials)}")
            for config in shuffled(configs, rng):
                if self._try(config, STEP).succeeded:
                    continue
                if config in (configs[0], configs[-1]):
                    return  # without the baseline or the best there is nothing to split
                configs = [other for other in configs if other != config]

    def _affordable_steps(self, best: Config) -> list[Config]:
        """The baseline and the steps to `best` for which there is time; empty if there is none.

        The best engine in float32 may take long to prepare. It is the first to be left out.
        """
        limits = self._plan.limits
        time_s = limits.split.seconds(limits.time_budget_s)
        visit_s = limits.split.visit.budget_s + self._objective.serving_s
        opening_s = expect_opening_s(self._observations())
        chain = [
            step
            for step in steps(self._baseline.config, best)
            if step.config == best or self._runs(step.config)
        ]
        for left_out in ((), ("engine",)):
            kept = [s.config for s in chain if s.config == best or s.groups != left_out]
            configs = [self._baseline.config, *kept]
            openings_s = sum(opening_s(one) for one in {_session(config) for config in configs})
            if openings_s + MIN_ROUNDS * visit_s * len(configs) <= time_s:
                return configs
        return []

    def _runs(self, config: Config) -> bool:
        """Whether nothing is known that keeps `config` from running."""
        return self._plan.space.violation(config) is None and _session(config) not in self._unusable

    def _try(self, config: Config, origin: str) -> Trial:
        """Measure and judge `config`, and write the trial to the journal."""
        number = len(self._journal.trials)
        self._listener.started(config, origin, number)
        start, started = self._clock(), datetime.now(UTC).isoformat(timespec="seconds")
        outcome, accuracy, failure = self._run(config, origin)
        trial = Trial(
            number=number,
            origin=origin,
            config=config,
            started=started,
            duration_s=self._clock() - start,
            measurement=outcome.measurement,
            accuracy=accuracy,
            failure=failure,
            screen=outcome.screen,
            log=outcome.log,
        )
        self._journal.append(trial)
        if failure is not None and failure.holds_for_session:
            self._unusable[_session(config)] = f"{failure.kind}: {failure.detail}"
        self._listener.finished(self._progress(trial))
        return trial

    def _run(self, config: Config, origin: str) -> tuple[Outcome, Accuracy | None, Failure | None]:
        """Run by the rule of `origin`. Before the finals the gate judges the first pass, and only
        what it allows is measured further."""
        if origin == JUDGED:
            return self._judge_on_more_rows(config)
        if origin == STEP:  # judged by nobody: a step only says where the gain comes from
            outcome = self._runner.run(config, self._plan.limits.split.visit)
            return outcome, None, outcome.failure
        if origin == FINAL:
            outcome = self._runner.run(config, self._finals.visit)
            return outcome, *self._judge(config, outcome, origin)
        rule = replace(SEARCH_RULE, leader_s=self._leader_s())
        by_rungs = self._objective.limit_s is None  # `server` measures one pass, then requests
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

    def _judge_on_more_rows(
        self, config: Config
    ) -> tuple[Outcome, Accuracy | None, Failure | None]:
        winner = next(
            t for t in reversed(self._journal.trials) if t.config == config and t.accuracy
        )
        outcome, accuracy, failure = Outcome(), winner.accuracy, None
        if self._more_rows is not None and self._judging_s(winner) > 0:
            outcome, accuracy, failure = self._more_rows.judge(self._baseline, winner)
        if failure is None and accuracy is not None:
            failure = self._gate.unproven(accuracy)
        return outcome, accuracy, failure

    def _judge(
        self, config: Config, outcome: Outcome, origin: str
    ) -> tuple[Accuracy | None, Failure | None]:
        if outcome.measurement is None:
            return None, outcome.failure
        if not outcome.measurement.whole:  # part of a pass, in the finals: judged before them
            known = next(t for t in self._journal.trials if t.config == config and t.succeeded)
            return known.accuracy, None
        if origin == BASELINE:
            self._references.save(outcome)
            self._reference = self._gate.reference(outcome.outputs)
        assert self._reference is not None
        accuracy = self._gate.judge(outcome.outputs, self._reference)
        return accuracy, self._gate.failure(accuracy, self._reference)

    def _leader_s(self) -> float | None:
        best = leaders(self._searched, self._objective, SEARCHED)
        return self._objective.pace_s(measured(best[0])) if best else None

    def _value(self, trial: Trial) -> float | None:
        """The objective of `trial`: an estimate where it was screened, None where it failed."""
        if trial.measurement is not None:
            return self._objective.value(trial.measurement)
        if trial.screen is not None:
            return self._objective.estimate_screened(trial, measured(self._baseline))
        return None

    def _excess(self, trial: Trial) -> float:
        return trial.accuracy.relative_drop - self._plan.max_drop if trial.accuracy else 0.0

    def _progress(self, trial: Trial) -> Progress:
        final = trial.origin in (FINAL, JUDGED, STEP)
        best, gain = self._best_so_far(final)
        return Progress(
            phase="finals" if final else "search",
            trial=trial,
            done=self._configs_tried,
            trials=self._plan.limits.trials,
            elapsed_s=self.elapsed_s,
            remaining_s=self._remaining_in_all_s(trial.origin),
            baseline=self._baseline,
            best=best,
            gain=gain,
        )

    def _best_so_far(self, final: bool) -> tuple[Trial, Interval | None]:
        """The best trial and its gain over the baseline: in the finals, by the finals alone."""
        if final:
            verdict = self._finals.verdict(self._journal.trials)
            if verdict is not None:
                return verdict.best, verdict.gain
        found = leaders(self._searched, self._objective, SEARCHED)
        best, base = (found[0] if found else self._baseline), self._baseline
        if best.measurement is None or base.measurement is None:
            return best, None
        own, other = (self._objective.interval(measured(t)) for t in (best, base))
        return best, self._objective.speedup(own, other)

    def _remaining_in_all_s(self, origin: str) -> float | None:
        """About how many seconds are left until the command ends, the run of launch.sh included."""
        limits, elapsed_s = self._plan.limits, self.elapsed_s
        split_s = limits.split.seconds(limits.time_budget_s)
        if origin == STEP:
            spent_s = sum(t.duration_s for t in step_trials(self._journal.trials))
            return max(0.0, split_s - spent_s) + limits.check_s
        if origin == FINAL:
            finals_s = self._finals.remaining_s(self._journal.trials, elapsed_s)
            return finals_s + split_s + limits.check_s
        if origin == JUDGED:
            return split_s + limits.check_s
        estimates = []
        if limits.trials is not None:
            typical = statistics.median(t.duration_s for t in self._searched)
            estimates.append((limits.trials - self._configs_tried) * typical + self._left_s())
        if limits.time_budget_s is not None:
            estimates.append(limits.time_budget_s - elapsed_s)
        return max(0.0, min(estimates)) + limits.check_s if estimates else None


def _session(config: Config) -> Config:
    return config.only(SESSION_KNOBS)
