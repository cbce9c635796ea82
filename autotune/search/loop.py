"""The search: baseline, priors, what the study proposes, then the finals.

Everything measured goes to the journal before anything else happens, and the search reads
only the journal's trials: one that is resumed takes the same path as one that never stopped.
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
from autotune.search.again import worth_another_try
from autotune.search.bounds import MARGIN, Bounds
from autotune.search.finals import FINALISTS, VISIT_RULE, Finals
from autotune.search.objective import Objective
from autotune.search.observe import observed, phases
from autotune.search.ranking import (
    AGAIN,
    BASELINE,
    FINAL,
    PRIOR,
    SEARCH,
    SEARCHED,
    leaders,
    measured,
)
from autotune.search.result import Result, conclude
from autotune.search.study import Study
from autotune.search.tuner import Observation, Tuner, opening
from autotune.shared.errors import ResumeError, SearchError
from autotune.shared.records import Accuracy, Config, Failure, StoppingRule, Trial
from autotune.shared.stopping import continued, remaining_rule
from autotune.space import Space
from autotune.store.journal import Journal
from autotune.tasks.gate import Gate, Reference

FIRST, REST_AFTER = 4, 0.6
"""So many priors are tried before the tuner chooses: engines of several kinds to learn from. The
others, which one of these may have shown to be slow, come after this share of the budget: a
report of every engine is worth some of it, finding the best is worth more."""
LATE_SHARE = 0.05
"""Of the budget, what preparing one of those others may take: they are for the report. Nor more
what is tried again."""
SEARCH_RULE = StoppingRule(min_passes=2, budget_s=2.0, patience_s=5.0)
"""Exploring needs a ranking; what is reported is measured longer, in the finals."""
DETERMINISTIC = ("unsupported", "fallback")
"""Failures of the preparation: they hold for every batch and padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When to stop: after `trials` configurations (finals not counted, nor what is tried again)
    or `time_budget_s` in all."""

    trials: int | None
    time_budget_s: float | None


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


class Listener(Protocol):
    def started(self, config: Config, origin: str, number: int) -> None:
        """A configuration is about to be measured."""

    def finished(self, progress: Progress) -> None:
        """A trial is on disk."""


class Search:
    """One run over one workload. `run` may be called once.

    `spent_s` is what of the time budget was used before.
    """

    def __init__(
        self,
        *,
        run_name: str,
        space: Space,
        baseline: Config,
        study: Study,
        runner: Runner,
        gate: Gate,
        journal: Journal,
        objective: Objective,
        max_drop: float,
        limits: Limits,
        save_reference: Callable[[Outcome], None],
        stored_reference: Callable[[], Reference | None],
        listener: Listener,
        seed: int,
        bounds: Bounds | None = None,
        spent_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_name = run_name
        self._space = space
        self._baseline_config = baseline
        self._study = study
        self._runner = runner
        self._gate = gate
        self._journal = journal
        self._objective = objective
        self._finals = Finals(objective, limits.time_budget_s)
        self._max_drop = max_drop
        self._limits = limits
        self._keep_reference = save_reference
        self._stored_reference = stored_reference
        self._listener = listener
        self._bounds = bounds
        self._rng = random.Random(seed)
        self._tuner = Tuner(space, seed=seed)
        self._clock = clock
        self._start = clock() - spent_s - sum(trial.duration_s for trial in journal.trials)
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
            self._restore_study()
            self._explore()
            self._hold_finals()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            self._runner.close()
        return conclude(self._journal.trials, self._finals, interrupted=interrupted)

    @property
    def _searched(self) -> list[Trial]:
        return [trial for trial in self._journal.trials if trial.origin != FINAL]

    @property
    def _tried(self) -> int:
        """Configurations so far: what is tried again is none more."""
        return sum(trial.origin != AGAIN for trial in self._searched)

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
            if first.origin != BASELINE or first.config != self._baseline_config:
                raise ResumeError("the first trial of this run is not the baseline of this search")
            self._reference = self._stored_reference()
            if first.succeeded and self._reference is None:
                raise ResumeError("the reference outputs of this run are gone; start a new run")
        else:
            self._try(self._baseline_config, BASELINE)
        failure = self._baseline.failure
        if failure is not None:
            raise SearchError(
                f"the baseline (eager float32) failed, {failure.kind}: {failure.detail}; "
                "nothing can be compared with it"
            )

    def _restore_study(self) -> None:
        self._study.fail_stale(self._run_name)
        self._unusable = {
            _session(t.config): f"{t.failure.kind}: {t.failure.detail}"
            for t in self._searched
            if t.failure is not None and t.failure.kind in DETERMINISTIC
        }
        known = self._study.known()
        for trial in self._searched:
            if trial.config.id not in known:
                self._study.add(self._run_name, trial, self._value(trial), self._excess(trial))

    def _explore(self) -> None:
        priors = set(self._space.priors)
        seen = {trial.config for trial in self._searched}
        first = [*self._best_elsewhere(), *self._space.priors[:FIRST]]
        queue = collections.deque(c for c in dict.fromkeys(first) if c not in seen)
        rest = collections.deque(self._space.priors[FIRST:])
        fallback = self._untried(seen)
        while not self._finished():
            if rest and self._share_spent() >= REST_AFTER:
                queue.extend(rest)
                rest.clear()
                continue
            again = self._again()
            if again is not None:
                config = again
            elif queue:
                config = queue.popleft()
                if not self._affordable(config, late=config in self._space.priors[FIRST:]):
                    continue
            else:
                proposed = self._proposed(seen) or next(
                    (config for config in fallback if config not in seen), None
                )
                if proposed is None:
                    return  # everything allowed has been tried
                config = proposed
            self._study.enqueue(config)
            proposal = self._study.ask(self._run_name)
            config = proposal.config
            refusal = self._refusal(config)
            if refusal is not None:
                self._study.forbid(proposal, refusal)
            elif config in seen and config != again:
                self._study.repeat(proposal)
            else:
                seen.add(config)
                origin = AGAIN if config == again else PRIOR if config in priors else SEARCH
                trial = self._try(config, origin)
                self._study.tell(proposal, trial, self._value(trial), self._excess(trial))

    def _again(self) -> Config | None:
        """One that was measured while others disturbed it, and is worth it now."""
        found = worth_another_try(
            self._searched, self._objective, self._value, self._leading_value()
        )
        return next(
            (
                config
                for config in found
                if self._space.contains(config)
                and self._usable(config)
                and self._affordable(config, late=True)
            ),
            None,
        )

    def _best_elsewhere(self) -> list[Config]:
        """The leaders of those who share the study: what is reported is measured here."""
        allowed = [
            told
            for told in self._study.others(self._run_name)
            if told.excess <= 0 and self._space.contains(told.config)
        ]
        allowed.sort(key=lambda told: told.value, reverse=self._objective.maximize)
        return list(dict.fromkeys(told.config for told in allowed))[:FINALISTS]

    def _proposed(self, seen: set[Config]) -> Config | None:
        last = self._searched[-1]
        return self._tuner.propose(
            self._observations(),
            lambda config: config not in seen and self._usable(config),
            open_session=_session(last.config) if phases(last) else None,
            remaining_s=self._remaining_s(),
        )

    def _affordable(self, config: Config, late: bool) -> bool:
        """Whether preparing `config` leaves at least as much time for others; of the late ones,
        whether it takes LATE_SHARE of the budget at most."""
        remaining_s, budget = self._remaining_s(), self._limits.time_budget_s
        if remaining_s is None or budget is None:
            return True
        cost = opening(self._observations())(config)
        return 2 * cost <= remaining_s and not (late and cost > LATE_SHARE * budget)

    def _remaining_s(self) -> float | None:
        """Seconds until the finals must begin, None without a time budget."""
        budget = self._limits.time_budget_s
        if budget is None:
            return None
        return budget - self.elapsed_s - self._finals.expected_s(self._journal.trials)

    def _observations(self) -> list[Observation]:
        """The searched trials as the tuner sees them, after those of others."""
        known = {trial.config for trial in self._searched}
        told = [
            told
            for told in self._study.others(self._run_name)
            if told.config not in known and self._space.contains(told.config)
        ]
        return observed(
            self._searched,
            told,
            value=self._value,
            maximize=self._objective.maximize,
            max_drop=self._max_drop,
        )

    def _leading_value(self) -> float:
        """The leader's objective; asked of every candidate, so remembered for each trial."""
        known, value = self._leading
        if known != len(self._journal.trials):
            value = self._objective.value(measured(self._leader))
            self._leading = (len(self._journal.trials), value)
        return value

    @property
    def _leader(self) -> Trial:
        return leaders(self._searched, self._objective, SEARCHED)[0]

    def _untried(self, seen: set[Config]) -> Iterator[Config]:
        """Allowed configurations not seen yet: random ones, then all in order."""
        for _ in range(10_000):
            config = self._space.sample(self._rng)
            if config not in seen and self._usable(config):
                yield config
        yield from (c for c in self._space.configs() if c not in seen and self._usable(c))

    def _usable(self, config: Config) -> bool:
        return self._refusal(config) is None

    def _refusal(self, config: Config) -> str | None:
        """Why `config` need not be run; None where it may be."""
        return (
            self._space.violation(config)
            or self._unusable.get(_session(config))
            or self._beaten(config)
        )

    def _beaten(self, config: Config) -> str | None:
        """What says that `config` cannot be as good as the leader."""
        batch_s = self._bounds.batch_s(config) if self._bounds else None
        if batch_s is None:
            return None
        limit = self._objective.of_batches(
            [seconds / MARGIN for seconds in batch_s],
            measured(self._baseline),
            int(config["instances"]),
        )
        if not self._objective.better(self._leading_value(), limit):
            return None
        return f"at this host's peak it could reach {self._objective.shown(limit)}"

    def _finished(self) -> bool:
        trials, budget = self._limits.trials, self._limits.time_budget_s
        if trials is not None and self._tried >= trials:
            return True
        return budget is not None and self.elapsed_s + self._left_s() >= budget

    def _share_spent(self) -> float:
        """How much of the trials or of the time is used up, whichever is more."""
        trials, budget = self._limits.trials, self._limits.time_budget_s
        by_count = self._tried / trials if trials is not None else 0.0
        by_time = self.elapsed_s / budget if budget is not None else 0.0
        return max(by_count, by_time)

    def _left_s(self) -> float:
        """Seconds the finals will take, and half of the trial that may be running before."""
        typical = statistics.median(t.duration_s for t in self._searched)
        return self._finals.expected_s(self._journal.trials) + typical / 2

    def _hold_finals(self) -> None:
        """Visit the finalists round by round, in fresh processes kept side by side for some."""
        trials = self._journal.trials
        while (round_ := self._finals.next_round(trials, self.elapsed_s)) is not None:
            if self._finals.fresh(trials, round_):
                self._runner.close()
            self._runner.keep_open(self._finals.finalists(trials))
            for config in round_:
                if not self._try(config, FINAL).succeeded:
                    break  # another leader takes its place
        self._runner.close()

    def _try(self, config: Config, origin: str) -> Trial:
        """Run, judge, write down."""
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
        if failure is not None and failure.kind in DETERMINISTIC:
            self._unusable[_session(config)] = f"{failure.kind}: {failure.detail}"
        self._listener.finished(self._progress(trial))
        return trial

    def _run(self, config: Config, origin: str) -> tuple[Outcome, Accuracy | None, Failure | None]:
        """Run by the rule of `origin`; in the search judge the first pass, and go on only with
        what passes."""
        if origin == FINAL:
            outcome = self._runner.run(config, VISIT_RULE)
            return outcome, *self._judge(config, outcome, origin)
        rule = replace(SEARCH_RULE, leader_s=self._leader_s())
        by_rungs = self._objective.limit_s is None  # else one pass, and requests
        outcome = self._runner.run(config, replace(rule, rung="first") if by_rungs else rule)
        accuracy, failure = self._judge(config, outcome, origin)
        if outcome.measurement is None or failure is not None or not by_rungs:
            return outcome, accuracy, failure
        missing = remaining_rule(outcome.measurement, rule)
        if missing is None:
            return outcome, accuracy, failure
        more = self._runner.run(config, missing)
        if more.measurement is None:
            return more, None, more.failure
        both = continued(outcome.measurement, more.measurement)
        return replace(outcome, measurement=both), accuracy, failure

    def _judge(
        self, config: Config, outcome: Outcome, origin: str
    ) -> tuple[Accuracy | None, Failure | None]:
        if outcome.measurement is None:
            return None, outcome.failure
        if not outcome.measurement.whole:  # a visit of the finals: it was judged in the search
            known = next(t for t in self._searched if t.config == config and t.succeeded)
            return known.accuracy, None
        if origin == BASELINE:
            self._keep_reference(outcome)
            self._reference = self._gate.reference(outcome.outputs)
        assert self._reference is not None
        accuracy = self._gate.judge(outcome.outputs, self._reference)
        return accuracy, self._gate.failure(accuracy, self._reference)

    def _leader_s(self) -> float | None:
        best = leaders(self._searched, self._objective, SEARCHED)
        return self._objective.pace_s(measured(best[0])) if best else None

    def _value(self, trial: Trial) -> float | None:
        """The objective, as far as it is known."""
        if trial.measurement is not None:
            return self._objective.value(trial.measurement)
        if trial.screen is not None:
            return self._objective.of_screen(trial, measured(self._baseline))
        return None

    def _excess(self, trial: Trial) -> float:
        return trial.accuracy.relative_drop - self._max_drop if trial.accuracy else 0.0

    def _progress(self, trial: Trial) -> Progress:
        searched = self._searched
        best = leaders(searched, self._objective, SEARCHED)
        elapsed, budget, trials = self.elapsed_s, self._limits.time_budget_s, self._limits.trials
        estimates = []
        final = trial.origin == FINAL
        if trials is not None and not final:
            typical = statistics.median(t.duration_s for t in searched)
            estimates.append((trials - self._tried) * typical + self._left_s())
        if budget is not None and not final:
            estimates.append(budget - elapsed)
        return Progress(
            phase="finals" if final else "search",
            trial=trial,
            done=self._tried,
            trials=trials,
            elapsed_s=elapsed,
            remaining_s=max(0.0, min(estimates)) if estimates else None,
            baseline=self._baseline,
            best=best[0] if best else self._baseline,
        )


def _session(config: Config) -> Config:
    return config.only(SESSION_KNOBS)
