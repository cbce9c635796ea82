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
from autotune.search.objective import Objective, workload_s
from autotune.search.study import Study
from autotune.space import Space
from autotune.stats import CONFIDENCE, Interval, median_interval

FINALISTS = 2
PATIENCE = 15
"""Proposals in a row that are forbidden or known, before one is drawn at random instead."""
ALL_KNOBS = POINT_KNOBS | SESSION_KNOBS
"""Every second proposal differs from the leader in one of these, the others are the study's:
of many knobs most do nothing, and a sampler alone finds that out slowly."""
RIDERS = 4
"""Neighbours of each new leader, differing in one point knob: a warm session measures them for
the price of their passes."""

SEARCH_RULE = Measure(min_passes=2, budget_s=5.0, patience_s=10.0)
"""Exploring needs a ranking; what is reported is measured longer, in the finals."""
VISIT_RULE = Measure(min_passes=1, max_passes=40, half_width=0.0, budget_s=4.0, patience_s=4.0)
"""One visit of the finals, which go round the finalists and the baseline."""
MIN_ROUNDS, MAX_ROUNDS = 3, 12
FINALS_S, FINALS_SHARE = 60.0, 0.25
"""No new round begins after so many seconds of passes, or such a share of the time budget."""
FINALS_HALF_WIDTH = 0.02

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
    """What a search found. `best` is `baseline` where nothing is significantly better.

    Where the finals were held, both hold the passes of all their visits, and `gain` is the
    median over rounds of how many times better `best` was than the baseline in that round.
    """

    baseline: Trial
    best: Trial
    gain: Interval
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


def merged(trials: Sequence[Trial]) -> Trial:
    """Visits of one configuration as one trial: the last one, with the passes of all."""
    passes = tuple(p for trial in trials for p in _measured(trial).passes)
    last = trials[-1]
    return replace(
        last,
        duration_s=sum(trial.duration_s for trial in trials),
        measurement=replace(_measured(last), passes=passes),
    )


def visits(trials: Sequence[Trial]) -> dict[Config, list[Trial]]:
    """The trials of the finals that succeeded, by configuration."""
    found: dict[Config, list[Trial]] = {}
    for trial in trials:
        if trial.origin == FINAL and trial.succeeded:
            found.setdefault(trial.config, []).append(trial)
    return found


def finals(trials: Sequence[Trial]) -> list[Trial]:
    """What the finals measured, one trial a configuration."""
    return [merged(found) for found in visits(trials).values()]


def _visit_s(measurement: Measurement) -> float:
    """About how long one visit of the finals takes, the process being there."""
    instances = len({p.instance for p in measurement.passes})
    one = workload_s(measurement) * instances
    return max(one, VISIT_RULE.budget_s + one / 2)


def _preparing_s(measurement: Measurement) -> float:
    phases = measurement.phases_s
    return sum(phases.get(name, 0.0) for name in ("import", "prepare", "warm_up"))


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
            if not queue and len(self._searched) % 2:
                queue.extend(self._near(ALL_KNOBS, seen, 1))
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
        """Unseen neighbours of the leader in its point knobs, once for each leader."""
        best = self._leader.config
        if best.id in ridden:
            return []
        ridden.add(best.id)
        return self._near(POINT_KNOBS, seen, RIDERS)

    @property
    def _leader(self) -> Trial:
        return leaders(self._searched, self._objective, SEARCHED)[0]

    def _near(self, knobs: frozenset[str], seen: set[str], most: int) -> list[Config]:
        """Unseen neighbours of the leader that differ in one of `knobs`, at random."""
        best = self._leader.config
        if not self._space.contains(best):
            return []
        near = [
            config
            for config in self._space.neighbours(best, knobs)
            if config.id not in seen and self._usable(config)
        ]
        return self._rng.sample(near, min(most, len(near)))

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
        known = {t.config: t.measurement for t in self._searched if t.measurement}
        finalists = [known[config] for config in self._finalists() if config in known]
        one = sum(map(_visit_s, finalists))
        rounds = max(MIN_ROUNDS * one, min(self._rounds_s + one / 2, MAX_ROUNDS * one))
        typical = statistics.median(t.duration_s for t in self._searched)
        return sum(map(_preparing_s, finalists)) + rounds + typical / 2

    @property
    def _rounds_s(self) -> float:
        budget = self._limits.time_budget_s
        return FINALS_S if budget is None else min(FINALS_S, FINALS_SHARE * budget)

    def _finals(self) -> None:
        """Measure the leaders and the baseline again, in turn, in processes kept side by side.

        The best of many noisy measurements is partly the luckiest; what is reported comes
        from these, which were not selected. In turn, so that a host that speeds up or slows
        down does so for all of them; every second round backwards, so that a steady drift
        cancels. Each visit is a trial on disk: a search killed here goes on here.
        """
        self._runner.close()
        while (round_ := self._next_round()) is not None:
            self._runner.keep(self._finalists())
            for config in round_:
                if not self._try(config, FINAL).succeeded:
                    break  # another leader takes its place
        self._runner.close()

    def _next_round(self) -> list[Config] | None:
        """Whom to visit next, None when the finals are over.

        A finalist that took the place of a failed one catches up before the next round.
        """
        if self._final_failures(self._baseline.config) >= MIN_ROUNDS:
            return None
        finalists, visited = self._finalists(), visits(self._journal.trials)
        counts = {config: len(visited.get(config, [])) for config in finalists}
        done = min(counts.values())
        behind = [config for config in finalists if counts[config] == done]
        order = behind if done % 2 == 0 else behind[::-1]
        if done < MIN_ROUNDS or len(set(counts.values())) > 1:
            return order
        spent = sum(t.duration_s for config in finalists for t in visited[config])
        preparing = sum(_preparing_s(_measured(visited[config][0])) for config in finalists)
        budget = self._limits.time_budget_s
        late = budget is not None and self.elapsed_s + spent / done > budget
        if late or done >= MAX_ROUNDS or spent - preparing >= self._rounds_s:
            return None
        gains = [self._gain(config) for config in finalists[1:]]
        narrow = all(g.half_width <= FINALS_HALF_WIDTH and g.coverage >= CONFIDENCE for g in gains)
        return None if narrow else order

    def _final_failures(self, config: Config) -> int:
        finals = (t for t in self._journal.trials if t.origin == FINAL and t.config == config)
        return sum(not trial.succeeded for trial in finals)

    def _gain(self, config: Config) -> Interval:
        """How many times better than the baseline, round by round."""
        visited = visits(self._journal.trials)
        pairs = zip(visited[config], visited[self._baseline.config], strict=False)
        return median_interval(
            [self._objective.ratio(_measured(own), _measured(baseline)) for own, baseline in pairs]
        )

    def _finalists(self) -> list[Config]:
        """The baseline, then the leaders, best first; one that fails in the finals is out."""
        ranked = leaders(self._searched, self._objective, SEARCHED)
        best = [trial.config for trial in ranked if not self._final_failures(trial.config)]
        return list(dict.fromkeys([self._baseline.config, *best[:FINALISTS]]))

    def _try(self, config: Config, origin: str) -> Trial:
        """Run, judge, write down."""
        number = len(self._journal.trials)
        self._listener.started(config, origin, number)
        start, started = self._clock(), datetime.now(UTC).isoformat(timespec="seconds")
        rule = VISIT_RULE
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
        return workload_s(_measured(best[0])) if best else None

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
        measured_again = {t.config: t for t in finals(self._journal.trials)}
        finalists = self._finalists()
        if all(config in measured_again for config in finalists):
            again = [measured_again[config] for config in finalists]
            ranked = leaders(again, self._objective, (FINAL,))
        else:
            ranked = leaders(self._searched, self._objective, SEARCHED)
        baseline = next(t for t in ranked if t.config == self._baseline_config)
        best = ranked[0]
        if best.origin == FINAL:
            gain = self._gain(best.config)
        else:
            gain = self._objective.speedup(
                self._objective.interval(_measured(best)),
                self._objective.interval(_measured(baseline)),
            )
        significant = best.config != baseline.config and gain.low > 1
        if not significant:
            best, gain = baseline, median_interval([1.0])
        return Result(
            baseline=baseline,
            best=best,
            gain=gain,
            significant=significant,
            trials=tuple(self._journal.trials),
            interrupted=interrupted,
        )


def _session(config: Config) -> Config:
    return config.only(SESSION_KNOBS)
