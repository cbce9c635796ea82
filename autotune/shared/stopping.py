"""When the passes of a point are enough, by a `StoppingRule`.

The worker asks after each pass. The search asks between the two rungs of a point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autotune.shared.records import ONE_PASS_RATIO, Measurement, Pass, StoppingRule
from autotune.shared.stats import median_interval

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
