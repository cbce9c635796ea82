"""When the passes of a point are enough, by a `StoppingRule`.

The worker asks after each pass. The search asks between the two rungs of a point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from autotune.shared.records import STRICT, Measurement, Pass
from autotune.shared.stats import median_interval

ONE_PASS_RATIO = 1.05
"""If the first warm pass takes over this many times the leader's, measuring stops there. The
configuration then has a speed, but no interval of it."""

SCREEN_RATIO = 1.15
"""Screening: a configuration is dropped as `slow` if its first batches estimate that a pass takes
over this many times the leader's."""

Rung = Literal["both", "first", "rest", "answers"]
"""`first`: one pass, by which the point is judged; new shapes run within it. `rest`: more passes,
without warming up again. `both`: one measurement that is not split. `answers`: one pass for its
outputs alone; nothing is warmed up, so its seconds say little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingRule:
    """When a worker stops to measure a point."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    min_passes: int = 3
    max_passes: int = 20
    half_width: float = 0.03  # stop once the median is known to plus or minus this (relative)
    budget_s: float = 10.0  # stop once passes took this long, if there are min_passes
    patience_s: float = 40.0  # stop once passes took this long, even if below min_passes
    # Seconds of the leader's pass. Stop after a warm pass of over ONE_PASS_RATIO times this. Drop
    # the point before any pass if the first batches estimate over SCREEN_RATIO times this.
    leader_s: float | None = None
    part_s: float | None = None  # run only a part of longer passes, about as long as this
    rung: Rung = "both"


ONE_PASS = StoppingRule(min_passes=1, max_passes=1)
"""One pass that counts. A second pass follows if the first was disturbed or cold."""
ANSWERS = StoppingRule(min_passes=1, max_passes=1, rung="answers")
"""One pass for its outputs."""


EXTENSION_FACTOR = 2
"""How many times the limits of a rule a measurement may take, to replace passes that were disturbed
or cold. Example: a rule of 20 passes and 10 seconds ends after 40 passes or 20 seconds."""


def enough(passes: Sequence[Pass], rule: StoppingRule) -> bool:
    """Whether `rule` asks for no more passes after these of one instance.

    True in any of three cases:

    - the first warm pass took over ONE_PASS_RATIO times the leader's;
    - the warm, undisturbed passes satisfy the rule;
    - all passes together satisfy EXTENSION_FACTOR times the limits of the rule.
    """
    warm = [p for p in passes if not p.cold]
    if warm and rule.leader_s is not None and warm[0].whole_s > ONE_PASS_RATIO * rule.leader_s:
        return True
    quiet = [p.total_s for p in warm if not p.disturbed]
    every = [p.total_s for p in passes]
    return _satisfies(quiet, rule) or _reaches_limits(every, rule, EXTENSION_FACTOR)


def _satisfies(totals_s: Sequence[float], rule: StoppingRule) -> bool:
    """Whether passes of these seconds reach a limit of `rule`, or its precision."""
    if _reaches_limits(totals_s, rule):
        return True
    if len(totals_s) < max(2, rule.min_passes):
        return False
    return median_interval(totals_s).half_width <= rule.half_width


def _reaches_limits(totals_s: Sequence[float], rule: StoppingRule, factor: int = 1) -> bool:
    """Whether passes of these seconds reach a limit of `rule`, each limit times `factor`."""
    spent_s = sum(totals_s)
    if spent_s >= factor * rule.patience_s:
        return True
    if len(totals_s) < factor * rule.min_passes:
        return False
    return spent_s >= factor * rule.budget_s or len(totals_s) >= factor * rule.max_passes


def rule_per_instance(rule: StoppingRule, instances: int) -> StoppingRule:
    """`rule` for each of several instances: the leader's time is multiplied by their number.

    One of four instances alone would need four times as long for the whole workload.
    """
    return replace(rule, leader_s=None if rule.leader_s is None else rule.leader_s * instances)


def remaining_rule(measurement: Measurement, rule: StoppingRule) -> StoppingRule | None:
    """The rule for the rung `rest`: `rule` less the passes that count. None if nothing is missing.

    Passes that were disturbed or cold do not count. The instance that has the fewest passes, and
    the one that spent the fewest seconds, decide for all.
    """
    by_instance: dict[int, list[Pass]] = {}
    for timed in measurement.passes:
        by_instance.setdefault(timed.instance, []).append(timed)
    instance_rule = rule_per_instance(rule, len(by_instance))
    unfinished = [passes for passes in by_instance.values() if not enough(passes, instance_rule)]
    if not unfinished:
        return None
    quiet = [[p for p in passes if not p.cold and not p.disturbed] for passes in unfinished]
    fewest = min(map(len, quiet))
    spent_s = min(sum(p.total_s for p in passes) for passes in quiet)
    return replace(
        rule,
        rung="rest",
        leader_s=rule.leader_s if fewest == 0 else None,
        min_passes=max(1, rule.min_passes - fewest),
        max_passes=max(1, rule.max_passes - fewest),
        budget_s=rule.budget_s - spent_s,
        patience_s=rule.patience_s - spent_s,
    )


def continued(first: Measurement, more: Measurement) -> Measurement:
    """The measurements of the rungs `first` and `rest` as one measurement, with the outputs of
    `first`."""
    phases = dict(first.phases_s)
    for name in ("warm_up", "measure"):
        phases[name] = first.phases_s.get(name, 0.0) + more.phases_s.get(name, 0.0)
    return replace(
        first,
        passes=first.passes + more.passes,
        phases_s=phases,
        peak_rss_bytes=max(first.peak_rss_bytes, more.peak_rss_bytes),
        outputs_repeatable=first.outputs_repeatable
        and more.outputs_repeatable
        and first.outputs_digest == more.outputs_digest,
    )
