"""What the study is told of a trial, and what the tuner reads back from the study.

A study of Optuna's is all that a sampler sees. So whatever the tuner weighs is in the study's own
trials: the objective is the value, the loss of accuracy is a constraint, and the rest are user
attributes. Trials of other processes are read in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from autotune.driver.runner import SESSION_KNOBS
from autotune.search.again import disturbed
from autotune.search.tuner import Observation
from autotune.shared.records import Config, Trial
from autotune.space import Space

RUN, NUMBER, HOST, CONFIG_ID = "run", "trial", "host", "config_id"
"""User attributes: the run that measured, its trial's number, the host's id, the configuration."""
COSTS = "costs"
"""User attribute: the fields of `Costs`. Only a trial that was measured, or failed, has it."""
FAILURE, LASTING = "failure", "every_point_fails"
"""User attributes: the kind of failure, and whether every point of the session fails alike."""
UNSUPPORTED = "unsupported"
"""The kind of failure that does not depend on a run's limits of time and memory."""
REFUSED = "refused"
"""User attribute: why a suggestion was not measured."""
OUTSIDE = "outside_the_space"
"""User attribute: configuration, value and excess of a trial that is no point of the space.

Optuna's samplers must not see such a trial, so it is a failed one. An example is the baseline of a
search whose space leaves its padding out."""
ADOPTED = "adopted_from"
"""User attribute: the study and number of the trial that this one copies."""
ACCURACY = "accuracy"
"""The constraint: the loss of accuracy beyond the limit, in units of the limit."""
MIN_LIMIT = 1e-3
"""The least accuracy limit that losses are divided by; the limit itself may be 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds of one trial, and what they say about the next one.

    `preparing_s` is None if the session was already open. `left_open` says whether the session
    stayed open, `disturbed` whether other processes took CPUs from the trial.
    """

    starting_s: float
    preparing_s: float | None
    measuring_s: float
    left_open: bool
    disturbed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the study is told of one trial of a journal.

    `value` is the objective: an estimate if the trial was `screened`, None if it failed. `excess`
    is the loss of accuracy beyond the limit, in units of the limit: None if it was not judged.
    `lasting` says that every point of the session fails alike.
    """

    number: int
    config: Config
    value: float | None
    excess: float | None
    costs: Costs
    screened: bool = False
    failure: str | None = None
    lasting: bool = False

    @property
    def state(self) -> TrialState:
        """Optuna's state: a screened trial is a pruned one."""
        if self.value is None:
            return TrialState.FAIL
        return TrialState.PRUNED if self.screened else TrialState.COMPLETE

    @property
    def attributes(self) -> dict[str, Any]:
        """The user attributes, without those of the run and the host."""
        found: dict[str, Any] = {NUMBER: self.number, COSTS: asdict(self.costs)}
        if self.failure is not None:
            found[FAILURE] = self.failure
        if self.lasting:
            found[LASTING] = True
        return found


def told(
    trial: Trial,
    before: Trial | None,
    *,
    value: Callable[[Trial], float | None],
    max_drop: float,
) -> Told:
    """What the study is told of `trial`, which ran after `before`.

    `value` gives the objective of a trial, None if it is unknown. `max_drop` is the accuracy limit.
    """
    failure, excess = trial.failure, None
    if trial.accuracy is not None:
        excess = (trial.accuracy.relative_drop - max_drop) / max(max_drop, MIN_LIMIT)
    return Told(
        number=trial.number,
        config=trial.config,
        value=value(trial),
        excess=excess,
        costs=_costs(trial, before),
        screened=trial.measurement is None and trial.screen is not None,
        failure=None if failure is None else failure.kind,
        lasting=failure is not None and failure.holds_for_session,
    )


def _costs(trial: Trial, before: Trial | None) -> Costs:
    """The seconds of `trial`, which ran after `before`."""
    own, slowed = phases(trial), disturbed(trial)
    if before is not None and phases(before) and share_session(before, trial):
        return Costs(
            starting_s=0.0,
            preparing_s=None,
            measuring_s=trial.duration_s,
            left_open=bool(own),
            disturbed=slowed,
        )
    if not own:  # it failed, and nobody knows in which phase
        return Costs(starting_s=0.0, preparing_s=trial.duration_s, measuring_s=0.0, left_open=False)
    measuring_s = own.get("warm_up", 0.0) + own.get("measure", 0.0)
    preparing_s = own.get("import", 0.0) + own.get("prepare", 0.0)
    reference_s = own.get("reference", 0.0)
    return Costs(
        starting_s=max(0.0, trial.duration_s - measuring_s - preparing_s - reference_s),
        preparing_s=preparing_s,
        measuring_s=measuring_s,
        left_open=True,
        disturbed=slowed,
    )


def phases(trial: Trial) -> Mapping[str, float]:
    """Seconds of the trial's phases, by name; empty if it did not leave its session open."""
    found = trial.measurement or trial.screen
    return found.phases_s if found else {}


def share_session(one: Trial, other: Trial) -> bool:
    """Whether two trials are points of the same session."""
    return one.config.only(SESSION_KNOBS) == other.config.only(SESSION_KNOBS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A finished trial of a study, as the tuner needs it. `value` is in the objective's unit."""

    config: Config
    value: float | None
    excess: float | None
    costs: Costs | None
    own: bool
    lasting: bool
    order: int


def known(
    trials: Sequence[FrozenTrial], *, space: Space, run: str | None, host: str | None
) -> list[Known]:
    """The finished trials of a study that say something about this host: others' first, then own.

    A trial is own if its run is `run`. All trials are own if `run` is None. Trials of no search
    have no attributes; they count if they hold a configuration of `space`. A suggestion that was
    refused says nothing, nor does a trial of another host; hosts are not told apart if `host` is
    None. Another run's limits of time and memory may differ, so its failures say nothing either,
    unless the configuration is `unsupported`.
    """
    found = []
    for trial in trials:
        attributes = trial.user_attrs
        own = run is None or attributes.get(RUN) == run
        if (
            not trial.state.is_finished()
            or REFUSED in attributes
            or not (host is None or attributes.get(HOST) in (None, host))
            or not (COSTS in attributes or _is_point(trial, space))
        ):
            continue
        one = _known(trial, space, own=own)
        if own or one.value is not None or attributes.get(FAILURE) == UNSUPPORTED:
            found.append(one)
    mine = {one.config for one in found if one.own}
    others = [one for one in found if not one.own and one.config not in mine]
    return [*others, *sorted((one for one in found if one.own), key=lambda one: one.order)]


def knobs_of(trial: FrozenTrial, space: Space) -> Config:
    """The trial's parameters that are knobs of `space`. The study may hold others."""
    names = {dimension.name for dimension in space.dimensions}
    return Config.of({name: value for name, value in trial.params.items() if name in names})


def _is_point(trial: FrozenTrial, space: Space) -> bool:
    """Whether a trial that no search told of holds a configuration of `space`."""
    return RUN not in trial.user_attrs and space.contains(knobs_of(trial, space))


def _known(trial: FrozenTrial, space: Space, *, own: bool) -> Known:
    attributes, outside = trial.user_attrs, trial.user_attrs.get(OUTSIDE)
    costs = Costs(**attributes[COSTS]) if COSTS in attributes else None
    lasting, order = LASTING in attributes, int(attributes.get(NUMBER, trial.number))
    if outside is not None:
        return Known(
            config=Config.of(outside["config"]),
            value=outside["value"],
            excess=outside["excess"],
            costs=costs,
            own=own,
            lasting=lasting,
            order=order,
        )
    value = trial.value if trial.state != TrialState.FAIL else None
    excess = max(trial.constraints.values(), default=None)
    if any(number is not None and not math.isfinite(number) for number in (value, excess)):
        value = excess = None  # infinite: it failed
    elif excess is None and costs is None and trial.state == TrialState.COMPLETE:
        excess = -1.0  # a study without constraints allows everything
    return Known(
        config=knobs_of(trial, space),
        value=value,
        excess=excess,
        costs=costs,
        own=own,
        lasting=lasting,
        order=order,
    )


def observations(found: Sequence[Known], *, maximize: bool) -> list[Observation]:
    """What the tuner observed, in the order of `found`.

    If a configuration was tried twice, its first trial counts only for its costs. Speeds are
    logarithms, unless some value is not above zero.
    """
    latest = {one.config: place for place, one in enumerate(found)}
    values = [one.value for one in found if one.value is not None]
    logarithmic = all(value > 0 for value in values)

    def speed(value: float) -> float:
        size = math.log(value) if logarithmic else value
        return size if maximize else -size

    seen: list[Observation] = []
    for place, one in enumerate(found):
        counts, costs = latest[one.config] == place, one.costs
        seen.append(
            Observation(
                config=one.config,
                speed=speed(one.value) if counts and one.value is not None else None,
                excess=one.excess if counts else None,
                preparing_s=None if costs is None else costs.preparing_s,
                measuring_s=0.0 if costs is None else costs.measuring_s,
                starting_s=0.0 if costs is None else costs.starting_s,
                own=one.own,
            )
        )
    return seen
