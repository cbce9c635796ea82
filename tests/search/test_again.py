"""Disturbed configurations are measured again once the host is idle."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bench_search import SMALL, Bench
from fakes import FakeRunner, measurement, pass_seconds, surroundings
from optuna.storages import InMemoryStorage

from autotune.driver.runner import Outcome
from autotune.search.again import disturbed, select_retries
from autotune.search.objective import objective_named
from autotune.search.ranking import AGAIN
from autotune.search.samplers import make_sampler
from autotune.search.study import Study
from autotune.search.told import told
from autotune.shared.records import Config, Failure, Pass, Screen, Trial
from autotune.space import compile_space, load_space
from autotune.store.journal import read_trials

THROUGHPUT = objective_named("throughput")


def waiting(found, share):
    """`found`, with others taking a CPU for this `share` of the time of each pass."""
    passes = tuple(
        replace(p, waited_s=share * p.total_s, held_up_s=share * p.total_s) for p in found.passes
    )
    return replace(found, passes=passes)


def trial(number, batch_size, pass_s, share=0.0, **rest):
    found = waiting(measurement(pass_s), share)
    config = Config.of({"batch_size": batch_size, "instances": 1})
    given = {"origin": "search", "started": "", "duration_s": 1.0, "measurement": found, **rest}
    return Trial(number=number, config=config, **given)


def speed(one):
    return THROUGHPUT.value(one.measurement) if one.measurement else 1.0


def asked(*trials, leading):
    found = select_retries(list(trials), THROUGHPUT, speed, leading)
    return [config["batch_size"] for config in found]


def test_a_configuration_that_could_lead_on_an_idle_machine_is_tried_again():
    trials = [
        trial(0, 1, pass_s=1.0),
        trial(1, 2, pass_s=1.2, share=0.5),  # at best in 0.6 s
        trial(2, 4, pass_s=3.0, share=0.5),  # at best in 1.5 s
        trial(3, 8, pass_s=2.0, share=0.9),  # at best in 0.5 s: at least 0.25 of its time
        trial(4, 16, pass_s=1.2, share=0.05),
    ]
    assert asked(*trials, leading=10 / 1.0) == [8, 2]
    assert asked(*trials, leading=10 / 0.55) == [8]


def test_nothing_is_tried_again_while_the_host_is_disturbed():
    trials = [trial(0, 1, pass_s=1.0), trial(1, 2, pass_s=1.0, share=0.5)]
    assert asked(*trials, leading=5.0) == []
    assert asked(*trials, trial(2, 4, pass_s=1.0), leading=5.0) == [2]


def test_nothing_is_tried_a_third_time():
    trials = [
        trial(0, 2, pass_s=1.0, share=0.5),
        trial(1, 2, pass_s=1.0, share=0.5, origin=AGAIN),
        trial(2, 4, pass_s=1.0),
    ]
    assert asked(*trials, leading=5.0) == []


def test_a_configuration_that_failed_for_another_reason_is_not_tried_again():
    inaccurate = Failure(kind="inaccurate", detail="")
    last = trial(1, 4, pass_s=1.0)
    assert asked(trial(0, 2, pass_s=1.0, share=0.5, failure=inaccurate), last, leading=5.0) == []


@pytest.mark.parametrize(("taken_s", "expected"), [(0.0, []), (0.15, [2])])
def test_a_screened_configuration_is_judged_by_its_screened_batches(taken_s, expected):
    screen = Screen(
        batches=(0,), batch_s=(0.2,), pass_s=10.0, phases_s={}, taken_s=taken_s, held_up_s=taken_s
    )
    slow = Failure(kind="slow", detail="")
    screened = trial(0, 2, pass_s=1.0, measurement=None, screen=screen, failure=slow)
    assert disturbed(screened) is bool(expected)
    assert asked(screened, trial(1, 4, pass_s=1.0), leading=3.0) == expected


def test_disturbed_passes_do_not_count_if_half_are_undisturbed():
    some = trial(0, 2, pass_s=1.0)
    quiet: Pass = some.measurement.passes[0]
    busy = replace(quiet, waited_s=0.5, held_up_s=0.5)
    passes = {2: (quiet, busy), 1: (quiet, busy, busy)}
    found = {
        count: disturbed(replace(some, measurement=replace(some.measurement, passes=mixed)))
        for count, mixed in passes.items()
    }
    assert found == {2: False, 1: True}


def test_the_tuner_uses_the_second_result_and_the_costs_of_both_tries():
    space = compile_space(load_space(SMALL), surroundings())
    study = Study(
        space,
        storage=InMemoryStorage(),
        group="s",
        sampler=make_sampler("autotune", space, seed=0),
        maximize=True,
        run="mine",
    )
    first, second = (
        replace(trial(n, 2, pass_s=s), config=space.priors[0]) for n, s in ((0, 4.0), (1, 1.0))
    )
    study.add([told(one, None, value=speed, max_drop=0.01) for one in (first, second)])
    seen = study.observations()
    assert [o.speed for o in seen] == [None, pytest.approx(2.302585)]
    assert [o.excess for o in seen] == [None, 0.0]  # nobody judged it
    assert seen[0].preparing_s is not None


class Neighbour(FakeRunner):
    """While the first configurations run, a process beside them halves their speed."""

    def __init__(self, until: int, since: int = 1) -> None:
        super().__init__()
        self.since, self.until = since, until

    def run(self, config, rule):
        outcome = super().run(config, rule)
        if not self.since < len(self.ran) <= self.until:
            return outcome
        slower = measurement(2 * pass_seconds(config))
        return Outcome(measurement=waiting(slower, 0.5), outputs=outcome.outputs)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_a_search_finds_the_best_configuration_despite_a_busy_neighbour(bench):
    result = bench.search(Neighbour(until=16), trials=40)
    space = compile_space(load_space(SMALL), surroundings())
    allowed = [c for c in space.configs() if c["precision"] != "int8_dynamic"]
    assert pass_seconds(result.best.config) <= 1.05 * min(map(pass_seconds, allowed))
    again = [t for t in result.trials if t.origin == AGAIN]
    assert again
    assert all(t.number > 15 for t in again)
    first = [t for t in result.trials if t.origin in ("prior", "search")]
    assert {t.config for t in again} <= {t.config for t in first[:15]}
    assert len({t.config for t in again}) == len(again)
    assert all(t.accuracy for t in result.trials if t.succeeded and t.origin != "step")
    assert sum(t.origin in ("baseline", "prior", "search") for t in result.trials) == 40


def test_a_baseline_that_was_disturbed_is_left_to_the_finals(bench):
    result = bench.search(Neighbour(until=2, since=0), trials=12)
    baseline = result.trials[0].config
    assert [t.origin for t in result.trials if t.config == baseline][:2] == ["baseline", "final"]
    assert sum(t.origin in ("baseline", "prior", "search") for t in result.trials) == 12


def test_a_resumed_search_repeats_no_second_try(bench):
    bench.search(Neighbour(until=16), trials=25)
    bench.journal.close()
    result = bench.search(Neighbour(until=0), trials=40)
    kept = read_trials(bench.folder / "trials.jsonl")
    assert [t.number for t in kept] == list(range(len(kept)))
    again = [t.config for t in result.trials if t.origin == AGAIN]
    assert again
    assert len(set(again)) == len(again)
