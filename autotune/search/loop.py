"""The search: the baseline, priors, the sampler's suggestions, then the finals.

Every configuration that is measured before the finals is a suggestion of the Optuna study. Every
trial is in the journal before anything else happens, and the search reads only the journal's
trials. So a resumed search knows all that one that never stopped would know. It may still go
another way: its sampler draws from another seed, and no session of its workers is open yet.
"""

from __future__ import annotations

import collections
import contextlib
import statistics
import time
from collections.abc import Callable, Sequence

from autotune.driver.runner import Runner
from autotune.search.again import select_retries
from autotune.search.candidates import Candidates
from autotune.search.ending import Ending
from autotune.search.finals import MIN_FINALISTS
from autotune.search.measuring import Measuring
from autotune.search.objective import Objective
from autotune.search.outlook import outlook
from autotune.search.plan import MoreRows, References, SearchPlan
from autotune.search.progress import Listener, progress
from autotune.search.ranking import AGAIN, BESIDE, DYNAMIC, OTHERS, PRIOR, SEARCH
from autotune.search.result import Result, conclude
from autotune.search.state import State
from autotune.search.study import Proposal, Study
from autotune.search.told import Told, told
from autotune.search.tuner import expect_opening_s
from autotune.shared.records import Config, Trial
from autotune.store.journal import Journal
from autotune.tasks.gate import Gate

PRIORS_FIRST, OTHER_PRIORS_AFTER = 4, 0.6
"""The number of priors tried before the sampler chooses, and the share of the budget after which
the others are tried.

The first ones give the tuner engines of several kinds to learn from. With six of them a BERT-base
took 5.5% of the exhaustive seconds to come within 3% of the best, with four 3.4%. The others
are for a report of every engine, which is worth less than finding the best one."""
LATE_OPENING_SHARE = 0.05
"""The largest share of the time budget that preparing one of those other priors may take, or
preparing a configuration that is tried again."""
MAX_REFUSED = 10
"""After this many suggestions in a row that need not be measured, an untried one is enqueued. A
sampler of Optuna's may suggest the same again and again, and combinations that cannot run."""


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
        self._listener = listener
        self._state = State(plan, journal, objective, clock)
        self._resumed = len(self._state.trials)  # measured by earlier processes of this run
        self._candidates = Candidates(self._state)
        self._measuring = Measuring(
            self._state,
            runner=runner,
            gate=gate,
            references=references,
            more_rows=more_rows,
            started=listener.started,
            finished=self._tell_listener,
        )
        self._ending = Ending(self._state, self._measuring, runner, study)

    def run(self) -> Result:
        """Raises SearchError where the baseline itself cannot be measured.

        KeyboardInterrupt ends the search with what it has, once there is a baseline.
        """
        self._measuring.measure_baseline()
        interrupted = False
        try:
            self._measure_dynamic()
            if not self._resumed:
                self._listener.expects(outlook(self._state, self._ending.expected_s()))
            self._restore_study()
            self._explore()
            self._ending.run()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            self._runner.close()
        return conclude(self._state.trials, self._state.finals, interrupted=interrupted)

    @property
    def elapsed_s(self) -> float:
        """Seconds spent so far, those of a resumed run included."""
        return self._state.elapsed_s

    def _tell_listener(self, trial: Trial) -> None:
        self._listener.finished(progress(self._state, trial, self._left_s()))

    def _measure_dynamic(self) -> None:
        """Measure the baseline with dynamic padding too, unless the time is up already."""
        tried = any(trial.origin in (DYNAMIC, BESIDE) for trial in self._state.trials)
        pads = self._plan.dynamic != self._plan.baseline  # not so for inputs without a width
        if pads and not tried and not self._out_of_time():
            origin = DYNAMIC if self._plan.space.contains(self._plan.dynamic) else BESIDE
            self._measuring.measure(self._plan.dynamic, origin)

    def _restore_study(self) -> None:
        """Make the study hold the journal's trials."""
        self._study.fail_stale()
        known, searched = self._study.known(), self._state.searched
        outcomes = [
            self._told(trial, before)
            for before, trial in zip([None, *searched], searched, strict=False)
        ]
        self._study.add([outcome for outcome in outcomes if outcome.number not in known])

    def _told(self, trial: Trial, before: Trial | None) -> Told:
        return told(trial, before, value=self._state.value, max_drop=self._plan.max_drop)

    def _explore(self) -> None:
        """Measure what the study suggests until the limits or the space are used up.

        Before it asks for a suggestion, the search may enqueue a configuration: a second try of one
        that was disturbed, a leader of another process, a prior, or an untried one if the sampler
        is stuck.
        """
        seen = {trial.config for trial in self._state.searched}
        queue = Queue(self._best_elsewhere(), self._plan.space.priors)
        refused = 0
        while not self._finished():
            again = self._again()
            chosen = again or queue.next(self._share_spent(), seen, self._affordable)
            if chosen is None:
                spare = self._candidates.spare(seen)
                if spare is None:
                    return  # everything allowed has been tried
                chosen = spare if refused >= MAX_REFUSED else None
            if chosen is not None:
                self._study.enqueue(chosen)
            proposal = self._study.ask(
                lambda config: config not in seen and self._candidates.usable(config),
                self._remaining_s(),
                session_open=len(self._state.trials) > self._resumed,
            )
            if self._try(proposal, seen, again):
                refused = 0
            else:
                refused += 1

    def _try(self, proposal: Proposal, seen: set[Config], again: Config | None) -> bool:
        """Measure what the study suggests, and tell the study. False if it is not measured.

        `again` is the configuration that may be measured a second time.
        """
        config = proposal.config  # another than was enqueued, if others enqueue in a shared study
        refusal = self._candidates.refusal(config)
        if refusal is not None:
            self._study.forbid(proposal, refusal)
            return False
        if config in seen and config != again:
            self._study.repeat(proposal)
            return False
        seen.add(config)
        before = self._state.searched[-1]
        try:
            trial = self._measuring.measure(config, self._origin(config, again))
        except BaseException:
            with contextlib.suppress(Exception):  # what stopped the search matters more
                self._study.interrupt(proposal)
            raise
        self._study.tell(proposal, self._told(trial, before))
        return True

    def _origin(self, config: Config, again: Config | None) -> str:
        if config == again:
            return AGAIN
        return PRIOR if config in self._plan.space.priors else SEARCH

    def _again(self) -> Config | None:
        """A configuration whose trial was disturbed and that is worth a second try now."""
        state = self._state
        found = select_retries(state.searched, state.objective, state.value, state.leading_value)
        return next(
            (
                config
                for config in found
                if self._plan.space.contains(config)
                and self._candidates.usable(config)
                and self._affordable(config, late=True)
            ),
            None,
        )

    def _best_elsewhere(self) -> list[Config]:
        """The leaders of other processes that share the study, best first.

        They are measured here again, since a report holds only what its own run measured.
        """
        allowed = [
            other
            for other in self._study.others()
            if other.excess <= 0 and self._plan.space.contains(other.config)
        ]
        allowed.sort(key=lambda other: other.value, reverse=self._state.objective.maximize)
        return list(dict.fromkeys(other.config for other in allowed))[:MIN_FINALISTS]

    def _affordable(self, config: Config, late: bool) -> bool:
        """Whether opening `config` leaves at least as much time for other configurations.

        Where it is `late`, opening may also take at most LATE_OPENING_SHARE of the budget.
        """
        remaining_s, budget = self._remaining_s(), self._plan.limits.time_budget_s
        if remaining_s is None or budget is None:
            return True
        cost = expect_opening_s(self._study.observations())(config)
        return 2 * cost <= remaining_s and not (late and cost > LATE_OPENING_SHARE * budget)

    def _remaining_s(self) -> float | None:
        """Seconds until the finals must begin, None without a time budget."""
        budget = self._plan.limits.time_budget_s
        if budget is None:
            return None
        return budget - self._state.elapsed_s - self._ending.expected_s()

    def _finished(self) -> bool:
        trials = self._plan.limits.trials
        return (trials is not None and self._state.configs_tried >= trials) or self._out_of_time()

    def _out_of_time(self) -> bool:
        budget = self._plan.limits.time_budget_s
        return budget is not None and self._state.elapsed_s + self._left_s() >= budget

    def _share_spent(self) -> float:
        """The share of the trials or of the time that is used up, whichever is larger."""
        trials, budget = self._plan.limits.trials, self._plan.limits.time_budget_s
        by_count = self._state.configs_tried / trials if trials is not None else 0.0
        by_time = self._state.elapsed_s / budget if budget is not None else 0.0
        return max(by_count, by_time)

    def _left_s(self) -> float:
        """Seconds that the finals will take, and half a typical trial that may run before them.

        The baselines are no measure of the others, which are faster. Until one of these was tried,
        only the finals are waited for.
        """
        others = [t.duration_s for t in self._state.searched if t.origin in OTHERS]
        return self._ending.expected_s() + (statistics.median(others) / 2 if others else 0.0)


class Queue:
    """The configurations that a search tries before the sampler is asked, in their order.

    First the leaders `elsewhere` and the first priors. The other priors wait until
    OTHER_PRIORS_AFTER of the limits are used up.
    """

    def __init__(self, elsewhere: Sequence[Config], priors: Sequence[Config]) -> None:
        self._queue = collections.deque(dict.fromkeys([*elsewhere, *priors[:PRIORS_FIRST]]))
        self._waiting = list(priors[PRIORS_FIRST:])
        self._others = frozenset(self._waiting)

    def next(
        self, share_spent: float, seen: set[Config], affordable: Callable[[Config, bool], bool]
    ) -> Config | None:
        """The next configuration that is not in `seen` and `affordable`; None if there is none.

        `share_spent` is the share of the limits that is used up. The second argument of
        `affordable` says whether the configuration is one of the other priors.
        """
        if share_spent >= OTHER_PRIORS_AFTER:
            self._queue.extend(self._waiting)
            self._waiting.clear()
        while self._queue:
            config = self._queue.popleft()
            if config not in seen and affordable(config, config in self._others):
                return config
        return None
