"""The gain of the best configuration in parts: padding, engine, precision and process settings.

A chain of configurations leads from the baseline to the best one. Each changes one group of knobs.
After the finals they are visited in turn, so the ratio of two neighbours is what the group gives,
on top of the groups before it. In each round the parts multiply to the gain of that round.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from autotune.driver.runner import ENGINE_KNOBS, POINT_KNOBS, PROCESS_KNOBS, SESSION_KNOBS
from autotune.search.objective import Objective
from autotune.search.ranking import FINAL, STEP, measured
from autotune.shared.precisions import BASELINE
from autotune.shared.records import Config, Scalar, Trial
from autotune.shared.stats import Interval, gain_interval, ratio_interval
from autotune.shared.stopping import StoppingRule
from autotune.space.knobs import KNOBS, is_active

STEP_RULE = StoppingRule(
    min_passes=1, max_passes=40, half_width=0.0, budget_s=0.5, patience_s=0.5, part_s=1.0
)
"""One visit of a step. It is short: there are up to five steps, and six rounds make an interval."""
MIN_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitLimits:
    """How long the gain may be split into its parts."""

    visit: StoppingRule = STEP_RULE
    max_rounds: int = 6
    time_s: float = 30.0
    time_share: float = 0.1
    """Of the time budget, openings of sessions included."""

    def seconds(self, time_budget_s: float | None) -> float:
        """The most seconds that it may take."""
        if time_budget_s is None:
            return self.time_s
        return min(self.time_s, self.time_share * time_budget_s)


SPLIT_LIMITS = SplitLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One configuration of the chain, and the groups of knobs that differ from the one before."""

    groups: tuple[str, ...]
    config: Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """One part of the gain: how many times better `config` is than the configuration before it."""

    name: str
    config: Config
    gain: Interval


def steps(baseline: Config, best: Config) -> list[Step]:
    """The chain from `baseline` to `best`, without the baseline. Empty if they are the same.

    A group that changes nothing is left out. The stack goes with the engine.
    """
    process = baseline.only(PROCESS_KNOBS - {"stack"})
    engine = best.only(ENGINE_KNOBS | {"stack"})
    point = best.only(POINT_KNOBS)
    chain = [
        ("padding", Config.of({**baseline.only(SESSION_KNOBS), **point})),
        ("engine", Config.of({**process, **_in_float32(engine), **point})),
        ("precision", Config.of({**process, **engine, **point})),
        ("process", best),
    ]
    found: list[Step] = []
    before = baseline
    for group, config in chain:
        if config != before:
            found.append(Step(groups=(group,), config=config))
        before = config
    return found


def _in_float32(engine: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The engine's knobs at fp32: those of `engine` where they apply, defaults for the others."""
    values: dict[str, Scalar] = {**engine, "precision": BASELINE.name}
    found: dict[str, Scalar] = {}
    for name in KNOBS:
        if name not in ENGINE_KNOBS | {"stack"} or not is_active(KNOBS[name], values):
            continue
        value = values.get(name, KNOBS[name].default)
        if value is not None:
            found[name] = value
    return found


def joined(chain: Sequence[Step], kept: Collection[Config]) -> list[Step]:
    """The steps of `chain` whose configuration is in `kept`; the groups of others join the next."""
    found: list[Step] = []
    groups: tuple[str, ...] = ()
    for step in chain:
        groups += step.groups
        if step.config in kept:
            found.append(Step(groups=groups, config=step.config))
            groups = ()
    return found


def step_trials(trials: Sequence[Trial]) -> list[Trial]:
    """The visits of steps after the last final: with more finals, another one may be the best."""
    last = max((n for n, trial in enumerate(trials) if trial.origin == FINAL), default=-1)
    return [trial for trial in trials[last + 1 :] if trial.origin == STEP]


def step_visits(trials: Sequence[Trial]) -> dict[Config, list[Trial]]:
    """The visits of steps that succeeded, by configuration."""
    found: dict[Config, list[Trial]] = {}
    for trial in step_trials(trials):
        if trial.succeeded:
            found.setdefault(trial.config, []).append(trial)
    return found


def is_over(trials: Sequence[Trial], limits: SplitLimits, time_budget_s: float | None) -> bool:
    """Whether no further round of steps is held."""
    rounds = len(step_visits(trials).get(trials[0].config, ()))
    spent_s = sum(trial.duration_s for trial in step_trials(trials))
    late = spent_s >= limits.seconds(time_budget_s)
    return rounds >= limits.max_rounds or (rounds >= MIN_ROUNDS and late)


def split(trials: Sequence[Trial], objective: Objective, best: Config) -> tuple[Factor, ...]:
    """The parts of the gain of `best` over the baseline; empty if too few rounds were held.

    The parts before a configuration that has fewer visits than the others are joined.
    """
    visited, baseline = step_visits(trials), trials[0].config
    rounds = min(len(visited.get(config, ())) for config in (baseline, best))
    if rounds < MIN_ROUNDS:
        return ()
    whole = [config for config, visits in visited.items() if len(visits) >= rounds]
    found: list[Factor] = []
    before = baseline
    for step in joined(steps(baseline, best), whole):
        ratios = [
            objective.ratio(measured(one), measured(other))
            for one, other in zip(visited[step.config], visited[before], strict=False)
        ]
        # Points of one session ran in the same process, so no difference of processes is added.
        one_process = step.config.only(SESSION_KNOBS) == before.only(SESSION_KNOBS)
        interval = ratio_interval(ratios) if one_process else gain_interval(ratios)
        found.append(Factor(name=" and ".join(step.groups), config=step.config, gain=interval))
        before = step.config
    return tuple(found)
