from __future__ import annotations

import pytest
from fakes import measurement

from autotune.errors import InputError
from autotune.records import Pass
from autotune.search.objective import (
    Latency,
    Throughput,
    features_per_s,
    objective_named,
    throughput,
)
from autotune.stats import median_interval


def with_passes(*passes):
    from dataclasses import replace

    return replace(measurement(1.0), passes=tuple(Pass(batch_s=tuple(p)) for p in passes))


def test_throughput_is_examples_over_the_median_pass():
    found = Throughput().interval(with_passes([1, 1], [2, 2], [4, 4]))
    assert (found.low, found.median, found.high) == (10 / 8, 10 / 4, 10 / 2)


def test_latency_is_the_median_over_passes_of_their_p90():
    found = Latency().interval(with_passes(range(1, 11), range(2, 12), range(3, 13)))
    assert found.median == 10  # the 9th of 10 samples in the middle pass


def test_speedup_is_above_one_for_the_better_of_both_objectives():
    slow, fast = median_interval([2.0]), median_interval([1.0])
    assert Latency().speedup(fast, slow).median == 2
    assert Throughput().speedup(slow, fast).median == 2


def test_speedup_takes_the_ends_of_both_intervals_apart():
    gain = Throughput().speedup(median_interval([3.0, 4.0, 5.0]), median_interval([1.0, 2.0, 2.5]))
    assert (gain.low, gain.median, gain.high) == (3 / 2.5, 2.0, 5.0)


def test_throughput_can_be_read_under_any_objective():
    assert throughput(measurement(2.0)).median == pytest.approx(5.0)


def test_unknown_objectives_are_refused():
    with pytest.raises(InputError, match="throughput, latency"):
        objective_named("energy")


def test_parts_of_passes_count_as_the_whole_they_stand_for():
    """Two visits to a slow baseline may run different parts of its pass."""
    from dataclasses import replace

    parts = (
        Pass(batch_s=(1.0, 1.0), share=0.25),
        Pass(batch_s=(1.0, 1.0, 1.0), share=0.375),
        Pass(batch_s=(8.0,)),
    )
    found = Throughput().interval(replace(measurement(1.0), passes=parts))
    assert (found.low, found.median, found.high) == (10 / 8, 10 / 8, 10 / 8)


def test_a_pass_that_was_run_again_does_not_count_twice():
    assert features_per_s(measurement(2.0)) == pytest.approx(5.0)  # of several passes
