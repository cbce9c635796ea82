"""A winner of the finals that is wrong on more rows, and what takes its place."""

from __future__ import annotations

import math

import pytest
from bench_search import Bench
from fakes import FakeRunner, pass_seconds

from autotune.driver.runner import Outcome
from autotune.report.build import Context, judgement, verdict
from autotune.search.finals import MIN_ROUNDS
from autotune.search.objective import objective_named
from autotune.search.ranking import FINAL, JUDGED, SEARCHED, leaders
from autotune.shared.records import Failure


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


class FirstWrong:
    """On more rows, the first `count` winners turn out to be wrong."""

    def __init__(self, count):
        self.count = count
        self.judged = []

    def expected_s(self, baseline, winner):
        return 0.01

    def judge(self, baseline, winner):
        self.judged.append(winner.config)
        if len(self.judged) <= self.count:
            return Outcome(), None, Failure(kind="inaccurate", detail="wrong on more rows")
        return Outcome(), winner.accuracy, None


def origins(result):
    """The origins of the trials after the search, without the steps and without repeats."""
    found = [t.origin for t in result.trials if t.origin in (FINAL, JUDGED)]
    return [one for one, before in zip(found, [None, *found], strict=False) if one != before]


def words(result):
    context = Context(
        manifest={}, metrics=["f1"], objective=objective_named("throughput"), line=None, elapsed_s=1
    )
    return verdict(result, context)


def test_the_next_best_of_the_finals_takes_its_place_without_new_rounds(bench):
    rows = FirstWrong(1)
    result = bench.search(FakeRunner(), trials=14, more_rows=rows)
    assert origins(result) == [FINAL, JUDGED]
    assert rows.judged[1] == result.best.config != rows.judged[0]
    assert result.significant
    assert result.gain.samples == result.rounds >= MIN_ROUNDS
    assert "rounds of the finals" not in words(result)


def test_other_leaders_come_to_the_finals_if_none_is_left_and_there_is_time(bench):
    rows = FirstWrong(3)
    result = bench.search(FakeRunner(), trials=14, more_rows=rows)
    assert origins(result) == [FINAL, JUDGED, FINAL, JUDGED]
    assert result.significant
    assert result.best.config not in rows.judged[:3]
    assert MIN_ROUNDS <= result.gain.samples < result.rounds
    said = f"in {result.gain.samples} of the {result.rounds} rounds of the finals"
    assert said in words(result)


class Impossible(FirstWrong):
    """More rows turn out not to be encodable."""

    def expected_s(self, baseline, winner):
        return 0.0 if self.judged else 0.01


def test_a_winner_that_cannot_be_judged_on_more_rows_stays_the_winner(bench):
    rows = Impossible(0)
    result = bench.search(FakeRunner(), trials=14, more_rows=rows)
    assert origins(result) == [FINAL, JUDGED]
    assert rows.judged == [result.best.config]
    assert result.significant
    (judged,) = (t for t in result.trials if t.origin == JUDGED)
    assert (judged.measurement, judged.accuracy) == (None, result.best.accuracy)
    assert judgement(result, "f1")["certainty"] == result.best.accuracy.certainty


class Timed(FakeRunner):
    """Each run takes the seconds that it asks for."""

    def __init__(self):
        super().__init__()
        self.now = 0.0

    def run(self, config, rule):
        self.now += max(min(pass_seconds(config), rule.part_s or math.inf), rule.budget_s)
        return super().run(config, rule)


class Long(FirstWrong):
    """Judging takes the time that is left."""

    def __init__(self, runner):
        super().__init__(100)
        self.runner = runner

    def judge(self, baseline, winner):
        self.runner.now += 20.0
        return super().judge(baseline, winner)


def test_no_new_finals_are_held_when_the_time_is_up(bench):
    runner = Timed()
    rows = Long(runner)
    result = bench.search(
        runner, trials=None, budget=200.0, clock=lambda: runner.now, more_rows=rows
    )
    assert origins(result) == [FINAL, JUDGED]
    visited = {t.config for t in result.trials if t.origin == FINAL}
    assert 1 < len(rows.judged) <= len(visited) - 1  # all of them but the baseline
    assert set(rows.judged) < visited
    assert not result.significant
    left = leaders(result.trials, objective_named("throughput"), SEARCHED)
    assert {t.config for t in left} - visited  # they would have been next
    assert "failed the accuracy test on more rows" in words(result)


def test_the_budget_holds_with_new_finals_too(bench):
    runner = Timed()
    result = bench.search(
        runner, trials=None, budget=200.0, clock=lambda: runner.now, more_rows=FirstWrong(100)
    )
    assert not result.significant
    assert runner.now <= 200.0


def test_with_more_time_a_resumed_run_holds_the_finals_of_the_next_leaders(bench):
    runner, rows = Timed(), FirstWrong(100)
    first = bench.search(
        runner, trials=None, budget=200.0, clock=lambda: runner.now, more_rows=rows
    )
    later, spent = Timed(), sum(t.duration_s for t in first.trials)
    result = bench.search(
        later, trials=None, budget=spent + 150.0, clock=lambda: later.now, more_rows=FirstWrong(0)
    )
    assert result.significant
    assert result.best.config not in rows.judged


@pytest.mark.parametrize("wrong", [1, 3, 100])
def test_a_finished_search_runs_nothing_when_resumed(bench, wrong):
    runner = Timed()
    first = bench.search(
        runner, trials=14, budget=1e4, clock=lambda: runner.now, more_rows=FirstWrong(wrong)
    )
    again = FakeRunner()
    assert bench.search(again, trials=14, budget=200.0, more_rows=FirstWrong(0)) == first
    assert again.ran == []
