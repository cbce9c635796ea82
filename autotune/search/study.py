"""The Optuna study behind a search: the only module that imports Optuna.

The journal of trials decides; on resume, the study is rebuilt from it. So a process that is killed
between two writes cannot leave a study that contradicts the journal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from autotune.shared.errors import InputError
from autotune.shared.records import Config, Trial
from autotune.space import Dimension, Space, Value

CONFIG_ID = "config_id"
RUN = "run"
ACCURACY = "accuracy"


@dataclass(frozen=True, slots=True)
class Proposal:
    """A configuration that Optuna asked for and whose outcome it must be told."""

    trial: optuna.Trial
    config: Config


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTrial:
    """A configuration that another process measured.

    `value` is the objective, `excess` the loss of accuracy beyond the limit.
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
        words = " ".join(str(error).split())[:200]
        raise InputError(
            f"--storage {url.partition('@')[2] or url} cannot be opened ({type(error).__name__}: "
            f"{words}); pass an RDB URL such as sqlite:///study.db or postgresql://..."
        ) from error


def _choices_digest(space: Space) -> str:
    """Eight hexadecimal digits that tell spaces with different choices apart."""
    choices = [(dimension.name, dimension.choices) for dimension in space.dimensions]
    return hashlib.sha256(json.dumps(choices).encode()).hexdigest()[:8]


class Study:
    """An Optuna study over a `Space`, with Optuna's ask and tell.

    The search enqueues each configuration before it asks for one. Optuna's sampler is needed only
    for configurations that another process enqueued without some of the knobs.

    A study of Optuna's has one set of choices for each knob. Searches of one `group` that differ
    in their choices have studies of their own in the storage, and see each other's trials.
    """

    def __init__(
        self, space: Space, *, storage: BaseStorage, group: str, seed: int, maximize: bool
    ) -> None:
        self._space = space
        self._storage = storage
        self._group = group
        self._study = optuna.create_study(
            storage=storage,
            study_name=f"{group}-{_choices_digest(space)}",
            sampler=optuna.samplers.RandomSampler(seed=seed),
            direction="maximize" if maximize else "minimize",
            load_if_exists=True,
        )

    def _distributions(self, config: Config) -> dict[str, CategoricalDistribution]:
        return {
            d.name: CategoricalDistribution(d.choices)
            for d in self._space.dimensions
            if d.name in config
        }

    def known(self) -> set[str]:
        """Ids of the configurations whose outcome the study has."""
        return {
            trial.user_attrs[CONFIG_ID]
            for trial in self._study.get_trials(deepcopy=False)
            if CONFIG_ID in trial.user_attrs and trial.state.is_finished()
        }

    def others(self, run: str) -> list[SharedTrial]:
        """The trials that other runs sharing the storage have measured."""
        return [
            SharedTrial(
                config=Config.of(trial.params),
                value=float(trial.value),
                excess=float(trial.constraints.get(ACCURACY, 0.0)),
            )
            for study in self._studies()
            for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if trial.user_attrs.get(RUN) != run and trial.value is not None
        ]

    def _studies(self) -> list[optuna.Study]:
        """The studies of the group, this one among them."""
        return [
            optuna.load_study(study_name=name, storage=self._storage)
            for name in optuna.get_all_study_names(self._storage)
            if name.startswith(f"{self._group}-")
        ]

    def fail_stale(self, run: str) -> None:
        """Fail the trials that a killed process of `run` left running in a shared storage."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get(RUN) == run:
                self._study.tell(trial.number, state=TrialState.FAIL)

    def enqueue(self, config: Config) -> None:
        """Make `config` the next to be asked for."""
        self._study.enqueue_trial(dict(config.values), skip_if_exists=False)

    def ask(self, run: str) -> Proposal:
        """The next configuration to measure, marked as one of `run`."""
        trial = self._study.ask()
        trial.set_user_attr(RUN, run)

        def choose(dimension: Dimension) -> Value:
            trial.suggest_categorical(dimension.name, dimension.choices)
            value: Value = trial.params[dimension.name]
            return value

        config = self._space.build(choose)
        trial.set_user_attr(CONFIG_ID, config.id)
        return Proposal(trial, config)

    def tell(self, proposal: Proposal, outcome: Trial, value: float | None, excess: float) -> None:
        """Record a measured or failed configuration.

        `value` is the objective, None for a failure. `excess` is the loss of accuracy beyond the
        limit; it is at most 0 within the limit.
        """
        if value is None:
            assert outcome.failure is not None
            proposal.trial.set_user_attr("failure", outcome.failure.kind)
            self._study.tell(proposal.trial, state=TrialState.FAIL)
            return
        proposal.trial.set_constraint(ACCURACY, excess)
        self._study.tell(proposal.trial, value)

    def forbid(self, proposal: Proposal, reason: str) -> None:
        """Refuse a proposal that need not be measured: Optuna records it as pruned."""
        proposal.trial.set_user_attr("forbidden", reason)
        self._study.tell(proposal.trial, state=TrialState.PRUNED)

    def repeat(self, proposal: Proposal) -> None:
        """Refuse a proposal whose outcome is known already: Optuna records it as failed."""
        self._study.tell(proposal.trial, state=TrialState.FAIL)

    def add(self, run: str, outcome: Trial, value: float | None, excess: float) -> None:
        """Record a trial that nobody asked for: the baseline, or one of a resumed journal."""
        if not self._space.contains(outcome.config):
            return
        attributes: Mapping[str, Any] = {CONFIG_ID: outcome.config.id, RUN: run}
        self._study.add_trial(
            create_trial(
                state=TrialState.FAIL if value is None else TrialState.COMPLETE,
                value=value,
                params=dict(outcome.config.values),
                distributions=dict(self._distributions(outcome.config)),
                user_attrs=dict(attributes),
                constraints=None if value is None else {ACCURACY: excess},
            )
        )
