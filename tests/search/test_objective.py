from __future__ import annotations

import pytest
from fakes import measurement

from autotune.search.objective import (
    Latency,
    ServerObjective,
    Throughput,
    features_per_s,
    objective_named,
    throughput,
)
from autotune.shared.errors import InputError
from autotune.shared.records import LoadResult, Pass
from autotune.shared.stats import median_interval


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


def test_the_interval_of_a_speedup_combines_opposite_ends():
    gain = Throughput().speedup(median_interval([3.0, 4.0, 5.0]), median_interval([1.0, 2.0, 2.5]))
    assert (gain.low, gain.median, gain.high) == (3 / 2.5, 2.0, 5.0)


def test_any_measurement_has_a_throughput():
    assert throughput(measurement(2.0)).median == pytest.approx(5.0)


def test_unknown_objectives_are_refused():
    with pytest.raises(InputError, match="throughput, latency, server"):
        objective_named("energy")
    with pytest.raises(InputError, match="--max-latency-ms"):
        objective_named("server")
    with pytest.raises(InputError, match="must be one of"):
        objective_named("server-nanms")


def served(*rates_and_p99):
    from dataclasses import replace

    answers = tuple(
        LoadResult(per_s=rate, requests=100, p50_s=p99 / 2, p90_s=p99, p99_s=p99, mean_batch=1.0)
        for rate, p99 in rates_and_p99
    )
    return replace(measurement(2.0), answered=answers)


@pytest.mark.parametrize("limit_s", [0.05, 0.0123, 2.5, 100.0])
def test_the_name_of_a_server_objective_holds_its_limit(limit_s):
    named = objective_named(ServerObjective(limit_s).name)
    assert named.name == ServerObjective(limit_s).name
    assert named.limit_s == pytest.approx(limit_s)
    assert named.kind == "server"


def test_a_rate_over_the_limit_counts_in_proportion():
    objective = ServerObjective(0.1)
    assert objective.value(served((40, 0.09), (50, 0.1), (60, 0.05))) == 50
    assert objective.value(served((40, 0.2))) == 20
    assert objective.caveat(served((40, 0.09), (50, 0.1), (60, 0.2))) is None
    assert "at 40.0 requests/s it is 200 ms" in objective.caveat(served((40, 0.2)))


def test_the_best_case_of_a_rate_is_without_waiting():
    one = measurement(2.0)  # ten rows in two seconds
    assert ServerObjective(0.1).best_case([0.5, 0.5], one, 2) == 20
    assert ServerObjective(0.1).estimate(0.5, one, 2) == 40
    assert ServerObjective(0.1).pace_s(served((40, 0.05))) == pytest.approx(10 / 40)


def test_part_of_a_pass_is_scaled_to_the_whole():
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
