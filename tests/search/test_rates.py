"""The rate that is served in time, on a made-up machine."""

from __future__ import annotations

import json

import numpy as np
import pytest
from events import reported
from fakes import measurement

from autotune.driver.channel import WorkerFailed
from autotune.driver.runner import Outcome
from autotune.emit.launch_script import LAUNCH_SERVING_S
from autotune.search.objective import objective_named
from autotune.search.rates import (
    OBJECTIVE_SEARCH,
    REPEATED_RATE_FACTOR,
    ServingRunner,
    for_objective,
    highest_rate,
    rate_again,
)
from autotune.search.serving import requests_at
from autotune.shared.records import Config, Failure, LoadResult, ServedRequests
from autotune.shared.stopping import StoppingRule

CONFIG = Config.of({"mode": "jit"})
LIMIT_S = 0.2


class Machine:
    """Answers `capacity` requests a second; p99 grows without bound towards that."""

    def __init__(self, capacity=100.0, alone_s=0.1):
        self.capacity, self.alone_s = capacity, alone_s
        self.rates = []

    @property
    def highest(self):
        return self.capacity * (1 - self.alone_s / LIMIT_S)

    def __call__(self, rate):
        self.rates.append(rate)
        p99 = self.alone_s / max(1 - rate / self.capacity, 1e-3)
        return LoadResult(
            per_s=rate, requests=100, p50_s=p99 / 2, p90_s=p99, p99_s=p99, mean_batch=1.0
        )

    def find(self, **known):
        return highest_rate(
            self, capacity=self.capacity, limit_s=LIMIT_S, search=OBJECTIVE_SEARCH, **known
        )


def test_the_highest_rate_in_time_is_found_in_few_steps():
    machine = Machine()
    found = machine.find()
    assert machine.highest * (1 - 2 * OBJECTIVE_SEARCH.tolerance) <= found.per_s <= machine.highest
    assert found.p99_s <= LIMIT_S
    assert len(machine.rates) <= OBJECTIVE_SEARCH.max_rates


def test_a_rate_that_is_known_is_confirmed_or_a_lower_one_found():
    machine = Machine()
    known = machine.find()
    slower = Machine(capacity=0.8 * machine.capacity)
    kept = rate_again(slower, known, limit_s=LIMIT_S)
    assert slower.rates[0] == REPEATED_RATE_FACTOR * known.per_s
    assert len(slower.rates) <= OBJECTIVE_SEARCH.confirm_tries
    assert kept.p99_s <= LIMIT_S
    assert kept.per_s >= 0.6 * slower.highest


def test_a_rate_that_was_too_low_rises_from_time_to_time():
    machine = Machine()
    found = machine(0.8 * machine.highest)
    for _ in range(5):
        found = rate_again(machine, found, limit_s=LIMIT_S)
    assert found.per_s == pytest.approx(machine.highest, rel=REPEATED_RATE_FACTOR - 1)


def test_what_is_behind_the_leader_is_known_less_well_and_sooner():
    behind, alone = Machine(capacity=50), Machine(capacity=50)
    found = behind.find(leader=45.0)
    assert found.per_s >= (1 - 2 * OBJECTIVE_SEARCH.tolerance_behind) * behind.highest
    alone.find()
    assert len(behind.rates) < len(alone.rates)
    assert behind.rates[0] == 45.0


def test_what_keeps_no_rate_is_given_up_and_its_lowest_returned():
    machine = Machine(alone_s=1.0)
    found = machine.find()
    assert found.p99_s > LIMIT_S
    assert found.per_s == min(machine.rates)
    machine.rates.clear()
    assert rate_again(machine, found, limit_s=LIMIT_S).per_s == found.per_s
    assert len(machine.rates) == 1
    machine.rates.clear()
    machine.find(leader=90.0)
    assert len(machine.rates) < OBJECTIVE_SEARCH.max_rates


class Runner:
    """Serves as `Machine` does, after a pass."""

    def __init__(self, failing=False):
        self.machine, self.failing = Machine(capacity=5.0), failing
        self.rules, self.kept, self.closed, self.first = [], [], 0, []

    def run(self, config, rule):
        self.rules.append(rule)
        return Outcome(measurement=measurement(2.0, passes=1))

    def serve(self, config, rows, arrivals):
        if self.failing:
            raise WorkerFailed(Failure(kind="timeout", detail="no answer"), log="Traceback")
        self.first.append(rows[:5])
        p99_s = self.machine(len(rows) / arrivals[-1]).p99_s
        return ServedRequests(latency_s=(p99_s,) * len(rows), batches=(1,) * len(rows))

    def keep_open(self, configs):
        self.kept.append(configs)

    def close(self):
        self.closed += 1


def test_a_runner_adds_the_rate_to_one_pass():
    inner = Runner()
    runner = ServingRunner(inner, limit_s=LIMIT_S, features=10)
    outcome = runner.run(CONFIG, StoppingRule(min_passes=3, budget_s=4.0))
    assert inner.rules[0].max_passes == 1
    (found,) = outcome.measurement.answered
    assert found.per_s == pytest.approx(2.5, rel=0.25)  # few requests: chance has a part
    runner.keep_open([CONFIG])
    runner.close()
    assert inner.kept == [[CONFIG]]
    assert inner.closed == 1


@pytest.mark.parametrize(("per_s", "fewest"), [(100.0, 200), (20.0, 101), (9.0, 101), (4.0, 24)])
def test_a_p99_comes_from_more_than_a_hundred_requests_or_its_interval_says_so(per_s, fewest):
    """Of 100 or fewer the nearest rank of 99% may be the largest, one late answer.

    A rate is tried for at most 12 s, so slow configurations have fewer.
    """
    inner = Runner()
    inner.machine = Machine(capacity=per_s, alone_s=0.01)
    inner.run = lambda config, rule: Outcome(measurement=measurement(10 / per_s, passes=1))
    (found,) = (
        ServingRunner(inner, limit_s=LIMIT_S, features=10)
        .run(CONFIG, StoppingRule())
        .measurement.answered
    )
    assert found.requests >= fewest
    exact = 1 - 0.99**found.requests  # that the largest is no less than the p99
    assert found.p99_coverage <= exact
    assert (found.p99_coverage >= 0.95) == (found.requests >= 368)


def test_requests_are_those_of_the_run_whatever_the_configuration():
    inner = Runner()
    runner = ServingRunner(inner, limit_s=LIMIT_S, features=10)
    drawn = []
    for config in (CONFIG, Config.of({"mode": "ipex"})):
        for _ in range(2):
            inner.first.clear()
            runner.run(config, StoppingRule())
            (rows,) = set(map(tuple, inner.first))  # whatever the rate
            drawn.append(rows)
    assert drawn[:2] == drawn[2:]
    assert drawn[0] != drawn[1]


def test_a_worker_that_fails_while_serving_fails_the_trial():
    runner = ServingRunner(Runner(failing=True), limit_s=LIMIT_S, features=10)
    outcome = runner.run(CONFIG, StoppingRule())
    assert (outcome.failure.kind, outcome.log) == ("timeout", "Traceback")


def test_only_an_objective_with_a_limit_serves():
    inner = Runner()
    assert for_objective(objective_named("throughput"), inner, 10) is inner
    assert isinstance(for_objective(objective_named("server-50ms"), inner, 10), ServingRunner)


@pytest.mark.model
@pytest.mark.full
def test_a_search_for_a_rate_ends_with_a_script_that_serves_it(autotune, tmp_path):
    (tmp_path / "space.yaml").write_text(
        "version: 1\ntask: qa\nknobs: {mode: eager, padding: longest, batch_size: 2}\n"
    )
    done = autotune(
        *("search", "--model", "demo", "--max-samples", "4", "--max-seq-length", "64"),
        *("--doc-stride", "16", "--space", "space.yaml", "--trials", "2", "--output", "run"),
        *("--objective", "server", "--max-latency-ms", "300", "--time-budget", "40s", "--json"),
    )
    assert done.returncode == 0, done.stderr
    report = reported(done)
    assert report["objective"]["name"] == "server-300ms"
    assert all(one["requests"] for one in report["best"]["answered"])
    promised = report["best"]["objective"]["median"]
    *_, serve = map(json.loads, (tmp_path / "run" / "launch.jsonl").read_text().splitlines())
    _, arrivals = requests_at(promised, LAUNCH_SERVING_S, 1, np.random.default_rng(0))
    assert serve["op"] == "serve"
    assert serve["args"]["arrivals_s"] == arrivals
    check = report["launch_check"]
    assert check["same_metrics"]
    assert check["measured"]["median"] <= check["promised"]["median"]
