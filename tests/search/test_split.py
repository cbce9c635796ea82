"""The gain in parts: padding, engine, precision and process, each against times made up here."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from bench_search import Bench
from fakes import FakeRunner, measurement, surroundings
from fakes import trial as trial_of

from autotune.search.objective import objective_named
from autotune.search.split import MIN_ROUNDS, SplitLimits, is_over, joined, split, steps
from autotune.shared.records import Failure
from autotune.space import baseline, complete

BASE = baseline(surroundings())
BEST = complete(
    surroundings(),
    {
        "mode": "jit",
        "precision": "bf16",
        "padding": "length_sorted",
        "instances": 2,
        "threads": 1,
    },
)
TIMES = {"padding": 2.0, "engine": 1.5, "precision": 1.6, "process": 1.25}
"""How many times as fast each group of knobs makes this machine."""


def pass_seconds(config):
    """Ten examples take 12 s on the baseline, and less by each group that is not the baseline's."""
    seconds = 12.0
    seconds /= TIMES["padding"] if config["padding"] != "max_length" else 1
    seconds /= TIMES["engine"] if config["mode"] != "eager" else 1
    seconds /= TIMES["precision"] if config["precision"] != "fp32" else 1
    seconds /= TIMES["process"] if config["threads"] != BASE["threads"] else 1
    return seconds


THROUGHPUT = objective_named("throughput")


def trials(rounds, configs=None, *, host=lambda number: 1.0, origin="step"):
    """The baseline's trial, then `rounds` visits of each configuration, in turn.

    `host(n)` is how many times slower the host is in round n.
    """
    chain = [BASE, *(step.config for step in steps(BASE, BEST))]
    found = [trial_of(number=0, origin="baseline", config=BASE, measurement=measurement(12.0))]
    for number in range(rounds):
        for config in configs or chain:
            found.append(
                trial_of(
                    number=len(found),
                    origin=origin,
                    config=config,
                    measurement=measurement(pass_seconds(config) * host(number)),
                )
            )
    return found


def test_each_step_changes_one_group_of_knobs_and_the_last_is_the_best():
    chain = steps(BASE, BEST)
    assert [step.groups for step in chain] == [
        ("padding",),
        ("engine",),
        ("precision",),
        ("process",),
    ]
    wanted = [  # mode, precision, padding, threads
        ("eager", "fp32", "length_sorted", BASE["threads"]),
        ("jit", "fp32", "length_sorted", BASE["threads"]),
        ("jit", "bf16", "length_sorted", BASE["threads"]),
        ("jit", "bf16", "length_sorted", 1),
    ]
    names = ("mode", "precision", "padding", "threads")
    assert [tuple(step.config[name] for name in names) for step in chain] == wanted
    assert chain[-1].config == BEST


def test_a_group_that_changes_nothing_is_no_step():
    only = complete(surroundings(), {"mode": "jit"})
    assert [step.groups for step in steps(BASE, only)] == [("engine",)]
    assert steps(BASE, BASE) == []


def test_the_parts_are_the_ratios_of_neighbours_and_multiply_to_the_gain():
    found = split(trials(6), THROUGHPUT, BEST)
    assert {factor.name: factor.gain.median for factor in found} == pytest.approx(TIMES)
    # 2.0 x 1.5 x 1.6 x 1.25 = 6: the seconds of the baseline over those of the best
    product = math.prod(factor.gain.median for factor in found)
    assert product == pytest.approx(6.0)
    assert product == pytest.approx(pass_seconds(BASE) / pass_seconds(BEST))
    for factor in found:
        assert factor.gain.low <= factor.gain.median <= factor.gain.high
        assert factor.gain.coverage >= 0.95


def test_a_host_that_slows_down_changes_no_part():
    steady = split(trials(6), THROUGHPUT, BEST)
    slowing = split(trials(6, host=lambda number: 1 + number), THROUGHPUT, BEST)
    assert [factor.gain.median for factor in slowing] == pytest.approx(
        [factor.gain.median for factor in steady]
    )


def test_padding_is_measured_within_one_process_and_has_the_narrower_interval():
    """The same process runs both paddings, so no difference of processes widens the interval."""
    padding, engine, *_ = split(trials(6), THROUGHPUT, BEST)
    assert padding.gain.half_width == pytest.approx(0.0)
    assert engine.gain.half_width > 0.0


def test_a_latency_is_split_too():
    found = split(trials(6), objective_named("latency"), BEST)
    assert {factor.name: factor.gain.median for factor in found} == pytest.approx(TIMES)


def test_too_few_rounds_have_no_parts():
    assert split(trials(MIN_ROUNDS - 1), THROUGHPUT, BEST) == ()
    assert len(split(trials(MIN_ROUNDS), THROUGHPUT, BEST)) == 4


def test_a_step_that_could_not_run_joins_the_next():
    chain = steps(BASE, BEST)
    kept = [step.config for step in chain if step.groups != ("engine",)]
    assert [step.groups for step in joined(chain, kept)] == [
        ("padding",),
        ("engine", "precision"),
        ("process",),
    ]
    found = split(trials(6, [BASE, *kept]), THROUGHPUT, BEST)
    assert {factor.name: factor.gain.median for factor in found} == pytest.approx(
        {"padding": 2.0, "engine and precision": 1.5 * 1.6, "process": 1.25}
    )


def test_visits_before_further_finals_do_not_count():
    """With more finals another configuration may be the best."""
    final = trial_of(number=99, origin="final", config=BEST)
    assert split([*trials(6), final], THROUGHPUT, BEST) == ()


def test_the_visits_end_with_their_rounds_or_their_time():
    limits = SplitLimits(max_rounds=5, time_s=30.0, time_share=0.1)
    assert is_over(trials(5), limits, None)
    slow = [replace(trial, duration_s=2.1) for trial in trials(MIN_ROUNDS)]
    assert is_over(slow, limits, None)  # 15 visits of 2.1 s are over 30 s
    quick = [replace(trial, duration_s=1.9) for trial in trials(MIN_ROUNDS)]
    assert not is_over(quick, limits, None)
    assert is_over(quick, limits, 200.0)  # a tenth of the budget is 20 s


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A whole search on a made-up machine, narrowed to one best configuration."""
    bench = Bench(tmp_path_factory.mktemp("split"))
    only = ["mode=jit", "precision=bf16,fp32", "padding=length_sorted", "threads=1,4"]
    runner = FakeRunner(seconds=pass_seconds)
    return bench.search(runner, trials=12, overrides=only), runner


def test_a_search_splits_its_gain(searched):
    result, _ = searched
    best = result.best.config
    assert (best["mode"], best["precision"], best["threads"]) == ("jit", "bf16", 1)
    found = {factor.name: factor.gain.median for factor in result.factors}
    assert found == pytest.approx(TIMES)
    assert result.gain.median == pytest.approx(6.0)
    assert result.dynamic_gain.median == pytest.approx(2.0)  # padding alone
    assert result.over_dynamic.median == pytest.approx(3.0)  # 1.5 x 1.6 x 1.25


def test_every_search_measures_the_baseline_with_dynamic_padding(searched):
    """It is eager float32 on the same process, padded to the longest of a batch."""
    result, runner = searched
    second = runner.ran[1]
    assert result.dynamic.config == second
    changed = {name for name in second if second[name] != BASE.get(name)}
    assert changed == {"padding"}
    assert second["padding"] == "longest"


def test_a_step_that_crashes_leaves_the_parts_of_the_others(tmp_path):
    def fail(config):
        """jit in float32 never runs; the best, in bfloat16, does."""
        broken = config["mode"] == "jit" and config["precision"] == "fp32"
        return Failure(kind="crash", detail="gone") if broken else None

    only = ["mode=jit", "precision=bf16", "padding=length_sorted", "threads=1"]
    runner = FakeRunner(seconds=pass_seconds, fail=fail)
    result = Bench(tmp_path).search(runner, trials=6, overrides=only)
    assert {factor.name: factor.gain.median for factor in result.factors} == pytest.approx(
        {"padding": 2.0, "engine and precision": 2.4, "process": 1.25}
    )
