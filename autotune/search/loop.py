"""The search: baseline, priors, what the study proposes, then the finals.

Everything measured goes to the journal before anything else happens, and the search reads
only the journal's trials: one that is resumed takes the same path as one that never stopped.
"""

from __future__ import annotations

import collections
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from autotune.accuracy import Gate, Reference
from autotune.errors import ResumeError, SearchError
from autotune.journal import Journal
from autotune.records import Accuracy, Config, Failure, Measure, Measurement, Trial
from autotune.runner import POINT_KNOBS, SESSION_KNOBS, Outcome, Runner
from autotune.search.objective import Objective, pass_interval
from autotune.search.study import Study
from autotune.space import Space

FINALISTS = 2
PATIENCE = 15
"""Proposals in a row that are forbidden or known, before one is drawn at random instead."""
RIDERS = 4
"""Neighbours of each new leader, differing in one point knob: a warm session measures them for
the price of their passes."""

SEARCH_RULE = Measure(min_passes=2, budget_s=5.0, patience_s=10.0)
FINAL_RULE = Measure(min_passes=3, max_passes=40, budget_s=15.0, patience_s=25.0)
"""Exploring needs a ranking; what is reported is measured longer, by the rule of launch.sh."""

DETERMINISTIC = ("unsupported", "fallback")
"""Failures of the preparation: they hold for every batch and padding."""

BASELINE, FINAL, PRIOR, SEARCH = "baseline", "final", "prior", "search"
SEARCHED = (BASELINE, PRIOR, SEARCH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When to stop: after `trials` (finals not counted) or `time_budget_s` in all."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a search found. `best` is `baseline` where nothing is significantly better."""

    baseline: Trial
    best: Trial
    significant: bool
    trials: tuple[Trial, ...]
    interrupted: bool = False


def leaders(trials: Sequence[Trial], objective: Objective, origin: Sequence[str]) -> list[Trial]:
    """Succeeded trials of these origins, best first, one a configuration."""
    chosen: dict[str, Trial] = {}
    for trial in trials:
        if trial.succeeded and trial.origin in origin:
            chosen[trial.config.id] = trial
    return sorted(
        chosen.values(),
        key=lambda trial: objective.value(_measured(trial)),
        reverse=objective.maximize,
    )


def _fresh_s(measurement: Measurement) -> float:
    """About how long a measurement by FINAL_RULE takes, in a process of its own."""
    phases, one = measurement.phases_s, pass_interval(measurement).median
    preparing = sum(phases.get(name, 0.0) for name in ("import", "prepare", "warm_up"))
    passes = max(FINAL_RULE.budget_s + one / 2, FINAL_RULE.min_passes * one)
    return preparing + min(passes, FINAL_RULE.patience_s + one / 2)


def _measured(trial: Trial) -> Measurement:
    assert trial.measurement is not None
    return trial.measurement


class Search:
    """One run over one workload. `run` may be called once."""

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
        keep_reference: Callable[[Outcome], None],
        stored_reference: Callable[[], Reference | None],
        listener: Listener,
        seed: int,
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
        self._max_drop = max_drop
        self._limits = limits
        self._keep_reference = keep_reference
        self._stored_reference = stored_reference
        self._listener = listener
        self._rng = random.Random(seed)
        self._clock = clock
        self._start = clock() - sum(trial.duration_s for trial in journal.trials)
        self._reference: Reference | None = None
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
            self._finals()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            self._runner.close()
        return self._result(interrupted)

    @property
    def _searched(self) -> list[Trial]:
        return [trial for trial in self._journal.trials if trial.origin != FINAL]

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
                self._study.add(trial, self._value(trial), self._excess(trial))

    def _explore(self) -> None:
        priors = {prior.id for prior in self._space.priors}
        seen = {trial.config.id for trial in self._searched}
        queue = collections.deque(c for c in self._space.priors if c.id not in seen)
        ridden: set[str] = set()
        fallback = self._untried(seen)
        refused = 0
        while not self._finished():
            if refused >= PATIENCE and not queue:
                unseen = next((config for config in fallback if config.id not in seen), None)
                if unseen is None:
                    return  # everything allowed has been tried
                queue.append(unseen)
            if not queue:  # priors come first: a short budget sees every engine
                queue.extend(self._riders(ridden, seen))
            if queue:
                self._study.enqueue(queue.popleft())
            proposal = self._study.ask(self._run_name)
            config = proposal.config
            refusal = self._space.violation(config) or self._unusable.get(_session(config))
            if refusal is not None:
                self._study.forbid(proposal, refusal)
                refused += 1
            elif config.id in seen:
                self._study.repeat(proposal)
                refused += 1
            else:
                refused = 0
                seen.add(config.id)
                trial = self._try(config, PRIOR if config.id in priors else SEARCH)
                self._study.tell(proposal, trial, self._value(trial), self._excess(trial))

    def _riders(self, ridden: set[str], seen: set[str]) -> list[Config]:
        """Unseen neighbours of the leader, once for each leader."""
        best = leaders(self._searched, self._objective, SEARCHED)[0].config
        if best.id in ridden or not self._space.contains(best):
            return []
        ridden.add(best.id)
        near = [
            config
            for config in self._space.neighbours(best, POINT_KNOBS)
            if config.id not in seen and self._usable(config)
        ]
        return self._rng.sample(near, min(RIDERS, len(near)))

    def _untried(self, seen: set[str]) -> Iterator[Config]:
        """Allowed configurations not seen yet: random ones, then all in order."""
        for _ in range(10_000):
            config = self._space.sample(self._rng)
            if config.id not in seen and self._usable(config):
                yield config
        yield from (c for c in self._space.configs() if c.id not in seen and self._usable(c))

    def _usable(self, config: Config) -> bool:
        return self._space.violation(config) is None and _session(config) not in self._unusable

    def _finished(self) -> bool:
        trials, budget = self._limits.trials, self._limits.time_budget_s
        if trials is not None and len(self._searched) >= trials:
            return True
        return budget is not None and self.elapsed_s + self._finals_s() >= budget

    def _finals_s(self) -> float:
        """Seconds the finals will take, and half of the trial that may be running before."""
        measured = {t.config: t.measurement for t in self._searched if t.measurement}
        finals = sum(_fresh_s(measured[c]) for c in self._finalists() if c in measured)
        return finals + statistics.median(t.duration_s for t in self._searched) / 2

    def _finals(self) -> None:
        """Measure the leaders and the baseline again, each in a fresh process.

        The best of many noisy measurements is partly the luckiest; what is reported comes
        from these, which were not selected.
        """
        done = {trial.config for trial in self._journal.trials if trial.origin == FINAL}
        for config in self._finalists():
            if config not in done:
                self._runner.close()
                self._try(config, FINAL)

    def _finalists(self) -> list[Config]:
        best = leaders(self._searched, self._objective, SEARCHED)[:FINALISTS]
        return list(dict.fromkeys([self._baseline.config, *(trial.config for trial in best)]))

    def _try(self, config: Config, origin: str) -> Trial:
        """Run, judge, write down."""
        number = len(self._journal.trials)
        self._listener.started(config, origin, number)
        start, started = self._clock(), datetime.now(UTC).isoformat(timespec="seconds")
        rule = FINAL_RULE
        if origin != FINAL:
            rule = replace(SEARCH_RULE, leader_s=self._leader_s())
        outcome = self._runner.run(config, rule)
        accuracy, failure = self._judge(outcome, origin)
        trial = Trial(
            number=number,
            origin=origin,
            config=config,
            started=started,
            duration_s=self._clock() - start,
            measurement=outcome.measurement,
            accuracy=accuracy,
            failure=failure,
            log=outcome.log,
        )
        self._journal.append(trial)
        if failure is not None and failure.kind in DETERMINISTIC:
            self._unusable[_session(config)] = f"{failure.kind}: {failure.detail}"
        self._listener.finished(self._progress(trial))
        return trial

    def _judge(self, outcome: Outcome, origin: str) -> tuple[Accuracy | None, Failure | None]:
        if outcome.measurement is None:
            return None, outcome.failure
        if origin == BASELINE:
            self._keep_reference(outcome)
            self._reference = self._gate.reference(outcome.outputs)
        assert self._reference is not None
        accuracy = self._gate.judge(outcome.outputs, self._reference)
        return accuracy, self._gate.failure(accuracy, self._reference)

    def _leader_s(self) -> float | None:
        best = leaders(self._searched, self._objective, SEARCHED)
        return pass_interval(_measured(best[0])).median if best else None

    def _value(self, trial: Trial) -> float | None:
        return None if trial.measurement is None else self._objective.value(trial.measurement)

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
            estimates.append((trials - len(searched)) * typical + self._finals_s())
        if budget is not None and not final:
            estimates.append(budget - elapsed)
        return Progress(
            phase="finals" if final else "search",
            trial=trial,
            done=len(searched),
            trials=trials,
            elapsed_s=elapsed,
            remaining_s=max(0.0, min(estimates)) if estimates else None,
            baseline=self._baseline,
            best=best[0] if best else self._baseline,
        )

    def _result(self, interrupted: bool) -> Result:
        trials = tuple(self._journal.trials)
        measured_again = {t.config for t in trials if t.origin == FINAL}
        complete = measured_again >= set(self._finalists())
        ranked = leaders(trials, self._objective, (FINAL,) if complete else SEARCHED)
        baseline = next((t for t in ranked if t.config == self._baseline_config), self._baseline)
        best = ranked[0] if ranked else baseline
        gain = self._objective.speedup(
            self._objective.interval(_measured(best)),
            self._objective.interval(_measured(baseline)),
        )
        significant = best.config != baseline.config and gain.low > 1
        return Result(
            baseline=baseline,
            best=best if significant else baseline,
            significant=significant,
            trials=trials,
            interrupted=interrupted,
        )


def _session(config: Config) -> Config:
    return config.only(SESSION_KNOBS)
