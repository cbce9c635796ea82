"""The Optuna study behind a search: the only module that imports Optuna.

The journal of trials is the truth; the study is rebuilt from it on resume, so that a process
killed between two writes can leave nothing behind that disagrees.
"""

from __future__ import annotations

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
    """A configuration Optuna asked for, waiting to be told its outcome."""

    trial: optuna.Trial
    config: Config


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTrial:
    """A configuration that was measured elsewhere: objective, and accuracy beyond the limit."""

    config: Config
    value: float
    excess: float


def open_storage(url: str | None, journal: Path) -> BaseStorage:
    """An RDB storage for `url`, else a journal file, which is made anew.

    Raises InputError where the URL cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if url is None:
        for old in journal.parent.glob(journal.name + "*"):  # with the lock of a killed process
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


class Study:
    """Ask and tell over a `Space`.

    What is asked for was enqueued before, by the tuner: the sampler only serves configurations
    that somebody else enqueued and that lack a knob.
    """

    def __init__(
        self, space: Space, *, storage: BaseStorage, name: str, seed: int, maximize: bool
    ) -> None:
        self._space = space
        self._study = optuna.create_study(
            storage=storage,
            study_name=name,
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
        """Ids of the configurations that the study has an outcome for."""
        return {
            trial.user_attrs[CONFIG_ID]
            for trial in self._study.get_trials(deepcopy=False)
            if CONFIG_ID in trial.user_attrs and trial.state.is_finished()
        }

    def others(self, run: str) -> list[SharedTrial]:
        """What other processes that share the storage have measured."""
        return [
            SharedTrial(
                config=Config.of(trial.params),
                value=float(trial.value),
                excess=float(trial.constraints.get(ACCURACY, 0.0)),
            )
            for trial in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if trial.user_attrs.get(RUN) != run and trial.value is not None
        ]

    def fail_stale(self, run: str) -> None:
        """Fail the trials that a killed process of `run` left running (shared storages)."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get(RUN) == run:
                self._study.tell(trial.number, state=TrialState.FAIL)

    def enqueue(self, config: Config) -> None:
        """Make `config` the next to be asked for."""
        self._study.enqueue_trial(dict(config.values), skip_if_exists=False)

    def ask(self, run: str) -> Proposal:
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

        `value` is the objective, None for a failure; `excess` is how far its accuracy is
        beyond the limit, <= 0 within it.
        """
        if value is None:
            assert outcome.failure is not None
            proposal.trial.set_user_attr("failure", outcome.failure.kind)
            self._study.tell(proposal.trial, state=TrialState.FAIL)
            return
        proposal.trial.set_constraint(ACCURACY, excess)
        self._study.tell(proposal.trial, value)

    def forbid(self, proposal: Proposal, reason: str) -> None:
        """Refuse a proposal unmeasured; pruned, so that the sampler learns to stay away."""
        proposal.trial.set_user_attr("forbidden", reason)
        self._study.tell(proposal.trial, state=TrialState.PRUNED)

    def repeat(self, proposal: Proposal) -> None:
        """Refuse a proposal whose outcome is known already."""
        self._study.tell(proposal.trial, state=TrialState.FAIL)

    def add(self, run: str, outcome: Trial, value: float | None, excess: float) -> None:
        """Record a trial that was not asked for: the baseline, or one of a resumed journal."""
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
