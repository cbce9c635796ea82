"""A recorded table, served: what is in it comes back, on a clock of its own."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from bench_search import SMALL, Bench
from fakes import FakeRunner, measurement, surroundings
from recorded import ReplayGate, ReplayRunner, Table

from autotune.driver.runner import SESSION_KNOBS
from autotune.shared.records import Accuracy, Failure, Pass, Trial
from autotune.shared.stopping import StoppingRule
from autotune.space import baseline, compile_space, load_space

SPACE = compile_space(load_space(SMALL), surroundings())
ANY = StoppingRule()


def recorded():
    """The whole small space on the made-up machine; ipex in bf16 does not run."""
    runner, trials = FakeRunner(), {}
    first = baseline(surroundings())
    for number, config in enumerate(dict.fromkeys([first, *SPACE.configs()])):
        wrong = config["precision"] == "int8_dynamic"
        failure = Failure(kind="inaccurate", detail="off") if wrong else None
        one = measurement(runner.seconds(config))
        accuracy = Accuracy(
            metrics={"f1": 0.0 if wrong else 100.0},
            relative_drop=1.0 if wrong else 0.0,
            agreement=1.0,
            max_abs_logit_difference=float(wrong),
            allowed=not wrong,
        )
        if config["mode"] == "ipex" and config["precision"] == "bf16":
            failure, one, accuracy = Failure(kind="unsupported", detail="no"), None, None
        trials[config] = Trial(
            number=number,
            origin="recorded",
            config=config,
            started="2026-01-01T00:00:00+00:00",
            duration_s=2.0,
            measurement=one,
            accuracy=accuracy,
            failure=failure,
            log="",
        )
    return Table(header={"space": "small.yaml"}, trials=trials)


@pytest.fixture(scope="module")
def table():
    return recorded()


def test_a_table_is_read_as_it_was_written(table, tmp_path):
    table.write(tmp_path / "t.jsonl.gz")
    read = Table.read(tmp_path / "t.jsonl.gz")
    assert read.header == table.header
    assert list(read.trials) == list(table.trials)
    one, other = (next(iter(t.trials.values())) for t in (read, table))
    assert replace(one, measurement=None) == replace(other, measurement=None)
    assert one.measurement.passes[0].total_s == pytest.approx(
        other.measurement.passes[0].total_s, abs=1e-5
    )
    read.write(tmp_path / "again.jsonl.gz")
    again = (tmp_path / "again.jsonl.gz").read_bytes()
    assert again == (tmp_path / "t.jsonl.gz").read_bytes()


def test_preparation_is_paid_once_a_session(table):
    runner = ReplayRunner(table)
    first = table.baseline
    same = next(
        c for c in table.trials if c != first and c.only(SESSION_KNOBS) == first.only(SESSION_KNOBS)
    )
    one = table.trials[first].measurement
    runner.run(first, ANY)
    opened = runner.clock()
    assert opened == pytest.approx(
        one.preparing_s + one.phases_s["warm_up"] + one.phases_s["measure"]
    )
    runner.run(same, ANY)
    phases = table.trials[same].measurement.phases_s
    assert runner.clock() - opened == pytest.approx(phases["warm_up"] + phases["measure"])
    assert runner.times == [opened, runner.clock()]


def test_a_first_pass_and_the_rest_cost_what_they_took(table):
    one = table.trials[table.baseline].measurement
    runner = ReplayRunner(table)
    first = runner.run(table.baseline, replace(ANY, rung="first")).measurement
    assert first.passes == one.passes[:1]
    paid = one.preparing_s + one.phases_s["warm_up"]
    part = one.phases_s["measure"] / len(one.passes)
    assert runner.clock() == pytest.approx(paid + part)
    more = runner.run(table.baseline, replace(ANY, rung="rest")).measurement
    assert more.passes == one.passes[1:]
    assert runner.clock() == pytest.approx(paid + one.phases_s["measure"])
    assert (runner.ran, runner.times) == ([table.baseline], [runner.clock()])


def test_where_one_pass_was_recorded_the_rest_is_that_one_again(table):
    one = replace(table.trials[table.baseline].measurement, passes=(Pass(batch_s=(0.5, 0.5)),))
    single = replace(table.trials[table.baseline], measurement=one)
    runner = ReplayRunner(Table(header=table.header, trials={table.baseline: single}))
    runner.run(table.baseline, replace(ANY, rung="first"))
    before = runner.clock()
    assert runner.run(table.baseline, replace(ANY, rung="rest")).measurement.passes == one.passes
    assert runner.clock() - before == pytest.approx(one.phases_s["measure"])


def test_a_failure_costs_what_it_cost(table):
    failed = next(c for c, t in table.trials.items() if t.measurement is None)
    runner = ReplayRunner(table)
    assert runner.run(failed, ANY).failure.kind == "unsupported"
    assert runner.clock() == 2.0


def test_the_gate_gives_the_recorded_judgement(table):
    wrong = next(c for c, t in table.trials.items() if t.accuracy and not t.accuracy.allowed)
    outputs = ReplayRunner(table).run(wrong, ANY).outputs
    gate = ReplayGate(table)
    reference = gate.reference(outputs)
    accuracy = gate.judge(outputs, reference)
    assert accuracy == table.trials[wrong].accuracy
    assert gate.failure(accuracy, reference).kind == "inaccurate"
    assert np.isfinite(outputs["place"]).all()


def test_the_search_finds_the_best_of_a_table(table, tmp_path):
    best = min(
        math.inf if t.failure else t.measurement.passes[0].total_s for t in table.trials.values()
    )
    runner = ReplayRunner(table)
    result = Bench(tmp_path).search(runner, trials=30, gate=ReplayGate(table), clock=runner.clock)
    assert result.best.measurement.passes[0].total_s <= 1.02 * best
    assert result.significant
