"""When passes are enough, and which rule remains after the rung `first`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import measurement

from autotune.shared.records import Pass
from autotune.shared.stopping import StoppingRule, continued, enough, remaining_rule

RULE = StoppingRule(min_passes=2, budget_s=4.0, patience_s=10.0, leader_s=1.0)


def one(seconds, **more):
    return Pass(batch_s=(seconds,), **more)


def after(*passes):
    return remaining_rule(replace(measurement(1.0), passes=passes), RULE)


def test_a_first_pass_that_is_no_slower_than_the_leader_is_repeated():
    missing = after(one(1.02))
    assert missing == StoppingRule(
        min_passes=1,
        max_passes=19,
        budget_s=pytest.approx(2.98),
        patience_s=pytest.approx(8.98),
        rung="rest",
    )


@pytest.mark.parametrize("first", [one(1.06), one(11.0), one(1.06, held_up_s=0.5)])
def test_a_first_pass_that_is_slower_or_very_long_is_enough(first):
    assert after(first) is None


@pytest.mark.parametrize("first", [one(2.0, cold=True), one(1.0, held_up_s=0.5)])
def test_a_first_pass_that_is_cold_or_disturbed_does_not_count(first):
    assert after(first) == replace(RULE, rung="rest")


def test_a_rule_that_is_satisfied_asks_for_nothing_more():
    assert after(*[one(1.0)] * 2) is None


def test_every_instance_needs_its_passes():
    """With two instances, each has twice the leader's time for the whole workload."""
    first, other = one(0.9, share=0.5), one(0.8, share=0.5, instance=1)
    missing = after(first, other)
    assert missing is not None
    assert missing.budget_s == pytest.approx(3.2)
    slow = one(1.1, share=0.5)
    assert after(slow, replace(slow, instance=1)) is None
    assert after(slow, other) is not None


def test_cold_passes_use_up_patience():
    rule = StoppingRule(min_passes=1, max_passes=9, budget_s=1.0, patience_s=3.0)
    assert not enough([one(5.0, cold=True)], rule)
    assert enough([one(7.0, cold=True)], rule)
    assert enough([one(5.0, cold=True), one(1.0)], rule)


def test_the_rungs_first_and_rest_become_one_measurement():
    first, more = measurement(1.0, passes=1), measurement(1.1, passes=2)
    more = replace(more, peak_rss_bytes=2**31, phases_s={**more.phases_s, "warm_up": 0.25})
    both = continued(first, more)
    assert both.passes == first.passes + more.passes
    assert both.phases_s == {
        "import": 1.0,
        "prepare": 1.0,
        "warm_up": 1.25,
        "measure": pytest.approx(3.2),
    }
    assert both.peak_rss_bytes == 2**31
    assert both.outputs_repeatable
    other = continued(first, replace(more, outputs_digest="1" * 64))
    assert not other.outputs_repeatable
