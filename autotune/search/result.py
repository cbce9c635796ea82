"""The result of a search, computed from its trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autotune.search.finals import Finals
from autotune.search.ranking import SEARCHED, leaders, measured
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
    """

    baseline: Trial
    best: Trial
    gain: Interval
    significant: bool
    trials: tuple[Trial, ...]
    interrupted: bool = False
    provisional: bool = False  # no finals were held, or too few rounds for an interval
    spread: ProcessSpread = UNKNOWN_HOST


def conclude(trials: Sequence[Trial], finals: Finals, *, interrupted: bool = False) -> Result:
    """The result of `trials`; the first must be a successful trial of the baseline."""
    objective = finals.objective
    verdict = finals.verdict(trials)
    if verdict is not None:
        baseline, best, gain = verdict.baseline, verdict.best, verdict.gain
    else:
        baseline, best = trials[0], leaders(trials, objective, SEARCHED)[0]
        gain = objective.speedup(
            objective.interval(measured(best)), objective.interval(measured(baseline))
        )
    provisional = gain.coverage < CONFIDENCE
    significant = best.config != baseline.config and (
        gain.low > (PROVISIONAL_GAIN if provisional else 1.0)
    )
    if not significant:
        best, gain = baseline, median_interval([1.0])
    return Result(
        baseline=baseline,
        best=best,
        gain=gain,
        significant=significant,
        trials=tuple(trials),
        interrupted=interrupted,
        provisional=provisional,
        spread=finals.spread(trials),
    )
