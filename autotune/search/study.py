"""The Optuna study behind a search.

The journal of trials decides; on resume, the study is rebuilt from it. So a process that is killed
between two writes cannot leave a study that contradicts the journal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from autotune.search.sampler import AutotuneSampler, distributions, suggested
from autotune.search.told import (
    ACCURACY,
    ADOPTED,
    CONFIG_ID,
    HOST,
    NUMBER,
    OUTSIDE,
    REFUSED,
    RUN,
    Told,
    known,
    observations,
)
from autotune.search.tuner import Observation
from autotune.shared.errors import InputError
from autotune.shared.records import Config
from autotune.shared.urls import without_password
from autotune.space import Space


@dataclass(frozen=True, slots=True)
class Proposal:
    """A configuration that Optuna suggests and whose outcome it must be told."""

    trial: optuna.Trial
    config: Config


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTrial:
    """A configuration that another process measured.

    `value` is the objective, `excess` the loss of accuracy beyond the limit, in units of it.
    """

    config: Config
    value: float
    excess: float


def open_storage(url: str | None, journal: Path) -> BaseStorage:
    """An RDB storage for `url`; without a URL, a new journal file that replaces an old one.

    Raises InputError if the URL cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if url is None:
        for old in journal.parent.glob(journal.name + "*"):  # and the lock of a killed process
            old.unlink()
        return JournalStorage(JournalFileBackend(str(journal)))
    try:
        return RDBStorage(url)
    except Exception as error:
        words = " ".join(without_password(str(error)).split())[:200]
        raise InputError(
            f"--storage {without_password(url)} cannot be opened ({type(error).__name__}: "
            f"{words}); pass an RDB URL such as sqlite:///study.db or postgresql://..."
        ) from error


def configs_digest(space: Space) -> str:
    """Twelve hexadecimal digits that tell spaces with different configurations apart.

    They stand for all that decides which configurations there are: knobs, choices, conditions,
    constraints, what the stacks offer, and cores. Priors are left out: they are only hints, and
    differ from search to search on one host.
    """
    parts = [
        [(d.name, d.choices, {k: repr(v) for k, v in d.when.items()}) for d in space.dimensions],
        [repr(constraint) for constraint in space.constraints],
        [
            (stack, mode, precision)
            for stack, modes in space.modes.items()
            for mode, precisions in modes.items()
            for precision, missing in precisions.items()
            if missing is None
        ],
        space.cores,
        dict(space.context),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


class Study:
    """An Optuna study over a `Space`, with Optuna's ask and tell.

    A study of Optuna's has one set of choices for each knob. Searches of one `group` whose spaces
    differ have studies of their own in the storage. A study takes over the others' trials that
    are configurations of its space too.

    `run` names the search, `host` its host.
    """

    def __init__(
        self,
        space: Space,
        *,
        storage: BaseStorage,
        group: str,
        sampler: BaseSampler,
        maximize: bool,
        run: str,
        host: str = "",
    ) -> None:
        self._space = space
        self._storage = storage
        self._group = group
        self._sampler = sampler
        self._maximize = maximize
        self._run = run
        self._host = host
        self._study = optuna.create_study(
            storage=storage,
            study_name=f"{group}-{configs_digest(space)}",
            sampler=sampler,
            direction="maximize" if maximize else "minimize",
            load_if_exists=True,
        )

    @property
    def trials(self) -> list[FrozenTrial]:
        """Optuna's trials, which must not be changed."""
        return self._study.get_trials(deepcopy=False)

    def known(self) -> set[int]:
        """The numbers of this run's trials whose outcome the study has."""
        return {
            trial.user_attrs[NUMBER]
            for trial in self.trials
            if trial.user_attrs.get(RUN) == self._run
            and NUMBER in trial.user_attrs
            and REFUSED not in trial.user_attrs
        }

    def observations(self) -> list[Observation]:
        """The trials of others who share the study, then the own ones, as the tuner sees them."""
        found = known(self.trials, space=self._space, run=self._run, host=self._host)
        return observations(found, maximize=self._maximize)

    def others(self) -> list[SharedTrial]:
        """The configurations that other runs sharing the storage have measured."""
        self._adopt()
        return [
            SharedTrial(
                config=Config.of(trial.params),
                value=float(trial.value),
                excess=float(trial.constraints.get(ACCURACY, 0.0)),
            )
            for trial in self.trials
            if trial.state == TrialState.COMPLETE
            and trial.user_attrs.get(RUN) != self._run
            and trial.value is not None
        ]

    def _adopt(self) -> None:
        """Copy the trials that other studies of the group have measured, once each."""
        mine = self._study.study_name
        names = optuna.get_all_study_names(self._storage)
        siblings = [name for name in names if name.startswith(f"{self._group}-") and name != mine]
        if not siblings:
            return
        copied = {trial.user_attrs.get(ADOPTED) for trial in self.trials}
        for name in siblings:
            study = optuna.load_study(study_name=name, storage=self._storage)
            for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                origin, config = f"{name}#{trial.number}", Config.of(trial.params)
                if ADOPTED in trial.user_attrs or origin in copied:
                    continue
                if not self._space.contains(config):
                    continue
                self._study.add_trial(
                    create_trial(
                        value=trial.value,
                        params=trial.params,
                        distributions=self._distributions(config),
                        user_attrs={**trial.user_attrs, ADOPTED: origin},
                        constraints=trial.constraints,
                    )
                )

    def _distributions(self, config: Config) -> dict[str, Any]:
        return {name: d for name, d in distributions(self._space).items() if name in config}

    def fail_stale(self) -> None:
        """Fail the trials that a killed process of this run left running in a shared storage.

        They are refused too. The process may have been killed between an outcome's attributes and
        its state, so the journal's outcome has to be added again.
        """
        for trial in self.trials:
            if trial.state == TrialState.RUNNING and trial.user_attrs.get(RUN) == self._run:
                self._storage.set_trial_user_attr(trial._trial_id, REFUSED, "its process ended")
                self._study.tell(trial.number, state=TrialState.FAIL)

    def enqueue(self, config: Config) -> None:
        """Make `config` the next to be asked for."""
        self._study.enqueue_trial(dict(config), skip_if_exists=False)

    def ask(
        self,
        usable: Callable[[Config], bool] = lambda config: True,
        remaining_s: float | None = None,
        session_open: bool = True,
    ) -> Proposal:
        """What Optuna suggests to measure next: what is enqueued first, then what the sampler says.

        `usable`, `remaining_s` and `session_open` are for AutotuneSampler (`narrow`); Optuna's own
        samplers know nothing of them. Someone else may enqueue a value that no knob has: such a
        trial is failed.
        """
        self._adopt()
        if isinstance(self._sampler, AutotuneSampler):
            self._sampler.narrow(usable, remaining_s, session_open)
        while True:
            trial = self._study.ask()
            trial.set_user_attr(RUN, self._run)
            try:
                config = suggested(self._space, trial)
            except ValueError as error:
                self._refuse(trial, TrialState.FAIL, str(error))
                continue
            trial.set_user_attr(CONFIG_ID, config.id)
            return Proposal(trial, config)

    def tell(self, proposal: Proposal, outcome: Told) -> None:
        """Record a measured, screened or failed configuration."""
        trial = proposal.trial
        for name, value in self._attributes(outcome).items():
            trial.set_user_attr(name, value)
        if outcome.state == TrialState.COMPLETE:
            trial.set_constraint(ACCURACY, outcome.excess or 0.0)
            self._study.tell(trial, outcome.value)
            return
        if outcome.value is not None:
            trial.report(outcome.value, step=0)  # a pruned trial's value
        self._study.tell(trial, state=outcome.state)

    def _attributes(self, outcome: Told) -> dict[str, Any]:
        return {HOST: self._host, **outcome.attributes}

    def forbid(self, proposal: Proposal, reason: str) -> None:
        """Refuse a suggestion that need not be measured: Optuna records it as pruned."""
        self._refuse(proposal.trial, TrialState.PRUNED, reason)

    def repeat(self, proposal: Proposal) -> None:
        """Refuse a suggestion whose outcome is known already: Optuna records it as failed.

        A failed trial teaches a sampler nothing, so the first outcome stands alone.
        """
        self._refuse(proposal.trial, TrialState.FAIL, "it was measured before")

    def interrupt(self, proposal: Proposal) -> None:
        """Fail a suggestion that was being measured when the search was stopped."""
        self._refuse(proposal.trial, TrialState.FAIL, "interrupted")

    def _refuse(self, trial: optuna.Trial, state: TrialState, reason: str) -> None:
        trial.set_user_attr(REFUSED, reason)
        self._study.tell(trial, state=state)

    def add(self, outcomes: Sequence[Told]) -> None:
        """Record trials that nobody asked for: the baseline, and those of a resumed journal."""
        for outcome in outcomes:
            self._study.add_trial(self._frozen(outcome))

    def _frozen(self, outcome: Told) -> FrozenTrial:
        config, state = outcome.config, outcome.state
        attributes = {
            RUN: self._run,
            CONFIG_ID: config.id,
            **self._attributes(outcome),
        }
        if not self._space.contains(config):
            attributes[OUTSIDE] = {
                "config": dict(config),
                "value": outcome.value,
                "excess": outcome.excess,
            }
            return create_trial(state=TrialState.FAIL, user_attrs=attributes)
        complete, screened = state == TrialState.COMPLETE, state == TrialState.PRUNED
        value = outcome.value
        return create_trial(
            state=state,
            value=value,
            params=dict(config),
            distributions=self._distributions(config),
            user_attrs=attributes,
            intermediate_values={0: value} if screened and value is not None else None,
            constraints={ACCURACY: outcome.excess or 0.0} if complete else None,
        )
