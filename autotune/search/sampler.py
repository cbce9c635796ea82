"""The tuner as a sampler of Optuna's.

    study = optuna.create_study(sampler=AutotuneSampler(space, seed=0), direction="maximize")
    study.optimize(lambda trial: speed(suggested(space, trial)), n_trials=50)

The sampler needs nothing but the study. Costs and losses of accuracy that a search stores with its
trials (`search.told`) make its suggestions better, but they may be missing.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autotune.driver.runner import SESSION_KNOBS
from autotune.search.told import Known, knobs_of, known, observations
from autotune.search.tuner import Tuner
from autotune.shared.records import Config
from autotune.space import Dimension, Space, Value

RANDOM_TRIES = 1000
"""Random draws for a configuration that is not known yet, if the tuner proposes none."""


def distributions(space: Space) -> dict[str, CategoricalDistribution]:
    """Optuna's distribution of each knob. A knob that is not active is not suggested."""
    return {d.name: CategoricalDistribution(d.choices) for d in space.dimensions}


def suggested(space: Space, trial: optuna.Trial) -> Config:
    """The configuration of `space` that Optuna suggests for `trial`; constraints may forbid it."""

    def choose(dimension: Dimension) -> Value:
        trial.suggest_categorical(dimension.name, dimension.choices)
        value: Value = trial.params[dimension.name]
        return value

    return space.build(choose)


class AutotuneSampler(BaseSampler):
    """Suggests the configuration with the largest expected gain a second (`search.tuner`).

    All parameters of a trial are sampled together: a whole configuration of `space` that no trial
    of the study has, and that the constraints of the space allow. A configuration is suggested
    again only when all are known. Threads may share the sampler: a choice counts as running before
    its parameters are in the study. Parameters that are no knobs are ignored.

    `run` names the search whose trials are this sampler's own, `host` its host. Without them every
    trial of the study is its own.
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: int | None = None,
        run: str | None = None,
        host: str | None = None,
    ) -> None:
        self._space = space
        self._run = run
        self._host = host
        self._distributions = distributions(space)
        self._usable: Callable[[Config], bool] = lambda config: True
        self._remaining_s: float | None = None
        self._session_open = True
        self._lock = threading.Lock()
        self._chosen: dict[tuple[str, int], Config] = {}  # study and trial -> choice
        self._seed(random.randrange(2**31) if seed is None else seed)

    def _seed(self, seed: int) -> None:
        self._tuner = Tuner(self._space, seed=seed)
        self._rng = random.Random(seed)
        self._independent = RandomSampler(seed=seed)

    def reseed_rng(self) -> None:
        with self._lock:
            self._seed(random.randrange(2**31))

    def narrow(
        self,
        usable: Callable[[Config], bool],
        remaining_s: float | None,
        session_open: bool = True,
    ) -> None:
        """Suggest only `usable` configurations from now on, and those that `remaining_s` suffices
        for first: the seconds that are left for trials, None without a limit. `session_open` says
        whether the last own trial's session can still be open."""
        self._usable = usable
        self._remaining_s = remaining_s
        self._session_open = session_open

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return dict(self._distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The parameters of a whole configuration, those that are active in it."""
        if len(study.directions) > 1:
            raise ValueError("AutotuneSampler needs a study with one objective")
        with self._lock:
            config = self._choose(study)
            self._chosen[study.study_name, trial.number] = config
        return {name: value for name, value in config.items() if name in search_space}

    def _choose(self, study: optuna.Study) -> Config:
        trials = study.get_trials(deepcopy=False)
        found = known(trials, space=self._space, run=self._run, host=self._host)
        lasting = {one.config.only(SESSION_KNOBS) for one in found if one.lasting}
        running = {knobs_of(t, self._space) for t in trials if t.state == TrialState.RUNNING}
        seen = {one.config for one in found} | running | self._awaited(study.study_name, trials)

        def usable(config: Config) -> bool:
            return (
                config not in seen
                and config.only(SESSION_KNOBS) not in lasting
                and self._usable(config)
            )

        proposed = self._tuner.propose(
            observations(found, maximize=study.direction == StudyDirection.MAXIMIZE),
            usable,
            open_session=_open_session(found) if self._session_open else None,
            remaining_s=self._remaining_s,
        )
        return proposed or self._drawn(usable)

    def _awaited(self, name: str, trials: Sequence[FrozenTrial]) -> set[Config]:
        """The choices for the study `name` whose parameters its trials do not have yet.

        A choice is forgotten once its trial has all of its parameters, or another value.
        """
        numbered = {trial.number: trial for trial in trials}
        for key, config in list(self._chosen.items()):
            trial = numbered.get(key[1])
            if key[0] == name and trial is not None:
                here = knobs_of(trial, self._space)
                if not here.items() < config.items():
                    del self._chosen[key]
        return {config for key, config in self._chosen.items() if key[0] == name}

    def _drawn(self, usable: Callable[[Config], bool]) -> Config:
        """A random usable configuration; one that is not usable if no draw finds another."""
        for _ in range(RANDOM_TRIES):
            config = self._space.sample(self._rng)
            if self._space.violation(config) is None and usable(config):
                return config
        allowed = (self._space.sample(self._rng) for _ in range(RANDOM_TRIES))
        return next((one for one in allowed if self._space.violation(one) is None), config)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A random value: for a parameter that is no knob of the space."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)


def _open_session(found: list[Known]) -> Config | None:
    """The process and engine knobs of the session that the last own trial left open."""
    if not found or not found[-1].own:
        return None
    last = found[-1]
    if last.costs is None or not last.costs.left_open:
        return None
    return last.config.only(SESSION_KNOBS)
