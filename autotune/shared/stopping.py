"""When the passes of a point are enough: the rule `StoppingRule`, read by the worker that runs them
and by the search, which may stop after the first of them. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autotune.shared.records import HOPELESS, Measurement, Pass, StoppingRule
from autotune.shared.stats import median_interval

REPEATED = 2
"""How many times as much a measurement may take where passes were disturbed."""


def enough(passes: Sequence[Pass], rule: StoppingRule) -> bool:
    """Whether these passes of one instance are all that `rule` asks for.

    Passes that were disturbed, or cold, do not count, but no measurement takes over REPEATED
    times the passes and seconds that the rule asks for.
    """
    warm = [p for p in passes if not p.cold]
    if warm and rule.leader_s is not None and warm[0].whole_s > HOPELESS * rule.leader_s:
        return True
    quiet = [p.total_s for p in warm if not p.disturbed]
    return _satisfy(quiet, rule, 1) or _satisfy([p.total_s for p in passes], rule, REPEATED)


def _satisfy(totals: Sequence[float], rule: StoppingRule, times: int) -> bool:
    """Whether these seconds of passes satisfy `rule`, its budget taken so many times."""
    spent = sum(totals)
    if spent >= times * rule.patience_s:
        return True
    if len(totals) < times * rule.min_passes:
        return False
    if spent >= times * rule.budget_s or len(totals) >= times * rule.max_passes:
        return True
    return times == 1 and len(totals) > 1 and median_interval(totals).half_width <= rule.half_width


def of_each(rule: StoppingRule, instances: int) -> StoppingRule:
    """What each of several instances is asked: a pass over the whole workload takes one of them
    as many times longer as there are."""
    return replace(rule, leader_s=None if rule.leader_s is None else rule.leader_s * instances)


def rest(measurement: Measurement, rule: StoppingRule) -> StoppingRule | None:
    """What is missing of `rule` after the first passes of the instances; None where nothing is.

    Passes that do not count are as good as none.
    """
    by_instance: dict[int, list[Pass]] = {}
    for one in measurement.passes:
        by_instance.setdefault(one.instance, []).append(one)
    each = of_each(rule, len(by_instance))
    behind = [passes for passes in by_instance.values() if not enough(passes, each)]
    if not behind:
        return None
    quiet = [[p for p in passes if not p.cold and not p.disturbed] for passes in behind]
    fewest = min(map(len, quiet))
    spent = min(sum(p.total_s for p in passes) for passes in quiet)
    return replace(
        rule,
        rung="rest",
        leader_s=rule.leader_s if fewest == 0 else None,
        min_passes=max(1, rule.min_passes - fewest),
        max_passes=max(1, rule.max_passes - fewest),
        budget_s=rule.budget_s - spent,
        patience_s=rule.patience_s - spent,
    )


def continued(first: Measurement, more: Measurement) -> Measurement:
    """One measurement of a point's first pass and of the rest, with the outputs of the first."""
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
