"""The result of a search, computed from its trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autotune.search.finals import Finals, Verdict
from autotune.search.ranking import OTHERS, SEARCHED, measured
from autotune.search.split import Factor, split
from autotune.shared.records import Trial
from autotune.shared.stats import (
    CONFIDENCE,
    UNKNOWN_HOST,
    Interval,
    ProcessSpread,
    median_interval,
)

PROVISIONAL_GAIN = 1.25
"""Without an interval that covers CONFIDENCE the best must be this many times better than the
baseline. Example: a search that was interrupted before its finals. The best of many single
measurements is partly the luckiest, and two processes may differ by 12%."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a search. `best` is `baseline` if no configuration is significantly better.

    If there were finals, `baseline` and `best` hold the passes of all their visits. `gain` is then
    the median over rounds of how many times better `best` was than the baseline in that round.

    `dynamic` is the baseline with dynamic padding, None if it was not measured. `dynamic_gain` is
    how many times better it is than the baseline, `over_dynamic` how many times better `best` is
    than it. `factors` are the parts of `gain`; there are none if `best` is the baseline, or if
    there was no time to measure them.

    `rounds` of the finals were held in all. `best` took part in fewer of them if it took the place
    of another leader.
    """

    baseline: Trial
    best: Trial
    gain: Interval
    significant: bool
    trials: tuple[Trial, ...]
    interrupted: bool = False
    spread: ProcessSpread = UNKNOWN_HOST
    dynamic: Trial | None = None
    dynamic_gain: Interval | None = None
    over_dynamic: Interval | None = None
    factors: tuple[Factor, ...] = ()
    rounds: int = 0

    @property
    def others(self) -> list[Trial]:
        """The trials of the search, other than those of the two baselines."""
        return [t for t in self.trials if t.origin in OTHERS]


def conclude(trials: Sequence[Trial], finals: Finals, *, interrupted: bool = False) -> Result:
    """The result of `trials`; the first must be a successful trial of the baseline."""
    objective = finals.objective
    verdict = finals.verdict(trials)
    if verdict is None:
        verdict = _without_finals(trials, finals)
    baseline, best, gain = verdict.baseline, verdict.best, verdict.gain
    provisional = gain.coverage < CONFIDENCE
    significant = best.config != baseline.config and (
        gain.low > (PROVISIONAL_GAIN if provisional else 1.0)
    )
    factors: tuple[Factor, ...] = ()
    if significant:
        factors = split(trials, objective, best.config) or _by_padding(verdict)
    else:
        best, gain = baseline, median_interval([1.0])
    return Result(
        baseline=baseline,
        best=best,
        gain=gain,
        significant=significant,
        trials=tuple(trials),
        interrupted=interrupted,
        spread=finals.spread(trials),
        dynamic=verdict.dynamic,
        dynamic_gain=verdict.dynamic_gain,
        over_dynamic=verdict.over_dynamic if significant else None,
        factors=factors,
        rounds=verdict.rounds,
    )


def _without_finals(trials: Sequence[Trial], finals: Finals) -> Verdict:
    """The verdict by the measurements of the search, of a search whose finals have none.

    They were not held, or broken off. What failed in them is not chosen.
    """
    objective, baseline = finals.objective, trials[0]
    best = next(iter(finals.ranked(trials, SEARCHED)), baseline)
    second = finals.dynamic(trials)

    def gain(one: Trial, other: Trial) -> Interval:
        return objective.speedup(
            objective.interval(measured(one)), objective.interval(measured(other))
        )

    beside = second is not None and best.config not in (baseline.config, second.config)
    return Verdict(
        baseline=baseline,
        best=best,
        gain=gain(best, baseline),
        dynamic=second,
        dynamic_gain=None if second is None else gain(second, baseline),
        over_dynamic=gain(best, second) if second and beside else None,
    )


def _by_padding(verdict: Verdict) -> tuple[Factor, ...]:
    """The gain in two parts, dynamic padding and all else, where its steps were not visited."""
    if verdict.dynamic is None or verdict.dynamic_gain is None or verdict.over_dynamic is None:
        return ()
    return (
        Factor(name="dynamic padding", config=verdict.dynamic.config, gain=verdict.dynamic_gain),
        Factor(name="all else", config=verdict.best.config, gain=verdict.over_dynamic),
    )
