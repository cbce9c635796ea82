"""`autotune serve-test` on a made-up machine."""

from __future__ import annotations

import pytest
from fakes import measurement

from autotune.commands.promise.serve_test import (
    MAX_WARM_UPS,
    ServeTest,
    check_serving,
    lines,
)
from autotune.driver.channel import WorkerFailed
from autotune.driver.runner import Outcome
from autotune.shared.errors import InputError, SearchError
from autotune.shared.records import Config, Failure, ServedRequests

CONFIG = Config.of({"mode": "jit"})


class Machine:
    """Answers 5 requests a second; the latency of each grows without bound towards that."""

    def __init__(self, failing=False):
        self.rates, self.failing = [], failing

    def run(self, config, rule):
        if self.failing:
            return Outcome(failure=Failure(kind="crash", detail="gone"))
        return Outcome(measurement=measurement(2.0))  # ten examples in two seconds

    def serve(self, config, rows, arrivals):
        rate = len(arrivals) / arrivals[-1]
        self.rates.append(rate)
        latency_s = 0.1 / max(1 - rate / 5, 0.001)
        return ServedRequests(latency_s=(latency_s,) * len(rows), batches=(1,) * len(rows))


def server(machine):
    return ServeTest(machine, CONFIG, 10, seed=0)


def test_the_highest_rate_under_the_limit_is_found_and_confirmed():
    machine = Machine()
    found = check_serving(server(machine), rate=None, limit_s=0.2, seconds=1000)
    assert found.holds
    assert found.features_per_s == pytest.approx(5.0)
    assert found.best.per_s == pytest.approx(2.5, rel=0.1)
    assert found.best.p99_s <= 0.2
    assert found.best.requests == pytest.approx(3000 * found.best.per_s, rel=0.01)
    assert "requests/s" in lines(found)[0]


def test_the_same_seed_asks_for_the_same_whatever_the_capacity():
    asked = []
    for examples_s in (2.0, 0.5):
        machine = Machine()
        machine.run = lambda config, rule, s=examples_s: Outcome(measurement=measurement(s))
        machine.serve = lambda config, rows, arrivals: (
            asked.append((rows, arrivals))
            or ServedRequests(latency_s=(0.1,) * len(rows), batches=(1,))
        )
        check_serving(server(machine), rate=3.0, limit_s=None, seconds=10)
    warming, first, _, second = asked
    assert first == second
    assert first[0][: len(warming[0])] != warming[0]


class Compiling(Machine):
    """Of a hundred batches `unmet` have shapes that are new, half as many each time."""

    unmet = 16

    def serve(self, config, rows, arrivals):
        super().serve(config, rows, arrivals)
        self.unmet //= 2
        return ServedRequests(latency_s=(0.1,) * len(rows), batches=(1,) * 100, unmet=self.unmet)


def test_it_warms_up_until_nearly_all_shapes_were_met():
    machine = Compiling()
    found = check_serving(server(machine), rate=3.0, limit_s=None, seconds=10)
    assert len(machine.rates) == 5  # 8%, 4%, 2% and 1%, then the rate that was asked for
    assert found.best.unmet == 0
    assert not any("had a shape" in line for line in lines(found))


def test_one_that_goes_on_meeting_shapes_says_so():
    machine = Compiling()
    machine.unmet = 2**20
    found = check_serving(server(machine), rate=3.0, limit_s=None, seconds=10)
    assert len(machine.rates) == MAX_WARM_UPS + 1
    assert any("had a shape that the engine had not met" in line for line in lines(found))


def test_a_limit_that_nothing_keeps():
    found = check_serving(server(Machine()), rate=None, limit_s=0.05, seconds=100)
    assert not found.holds
    assert "does not stay under 50.0 ms" in lines(found)[0]


def test_a_rate_that_is_given():
    found = check_serving(server(Machine()), rate=2.0, limit_s=None, seconds=100)
    assert found.holds
    assert found.best.per_s == 2.0
    assert not check_serving(server(Machine()), rate=4.9, limit_s=0.2, seconds=100).holds


def test_nothing_asked_and_nothing_running():
    with pytest.raises(InputError, match="--rate, --max-latency-ms"):
        check_serving(server(Machine()), rate=None, limit_s=None, seconds=1)
    with pytest.raises(SearchError, match="crash: gone"):
        check_serving(server(Machine(failing=True)), rate=1.0, limit_s=None, seconds=1)
    machine = Machine()

    def fail(*_):
        raise WorkerFailed(Failure(kind="timeout", detail="no answer"))

    machine.serve = fail
    with pytest.raises(SearchError, match="timeout: no answer"):
        check_serving(server(machine), rate=1.0, limit_s=None, seconds=1)
