"""The whole search on a made-up machine: no worker, no noise."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace

import pytest
from bench_search import SMALL, Bench
from fakes import FakeRunner, measurement, pass_seconds, surroundings

from autotune.driver.runner import Outcome
from autotune.search.finals import (
    MIN_ROUNDS,
    VISIT_RULE,
    VISITS_PER_PROCESS,
    Finals,
    finals,
    processes,
)
from autotune.search.loop import PRIORS_FIRST
from autotune.search.objective import objective_named, workload_s
from autotune.search.ranking import SEARCHED
from autotune.search.split import STEP_RULE
from autotune.search.study import Study
from autotune.shared.errors import ResumeError, SearchError
from autotune.shared.records import Failure, Pass
from autotune.shared.stats import gain_interval
from autotune.space import baseline, by_length, compile_space, dynamic_baseline, load_space
from autotune.store.journal import read_trials


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_the_baseline_is_first_then_some_priors_and_late_the_others(bench):
    runner = FakeRunner()
    result = bench.search(runner, trials=30)
    assert runner.ran[0] == baseline(surroundings())
    priors = compile_space(load_space(SMALL), surroundings()).priors
    assert runner.ran[1] == dynamic_baseline(surroundings())
    assert runner.ran[2 : 2 + PRIORS_FIRST] == list(priors[:PRIORS_FIRST])
    assert len(priors) > PRIORS_FIRST
    assert set(priors) <= set(runner.ran[:30])
    assert set(priors[PRIORS_FIRST:]) - set(runner.ran[:15])
    assert {t.origin for t in result.trials if t.config in priors[:PRIORS_FIRST]} <= {
        "prior",
        "final",
        "step",
    }


class ByParts(FakeRunner):
    """Runs a quarter of the workload, without outputs, if the rule asks for a part."""

    def run(self, config, rule):
        outcome = super().run(config, rule)
        if outcome.measurement is None or rule.part_s is None:
            return outcome
        part = Pass(batch_s=(self.seconds(config) / 4,), share=0.25)
        return Outcome(measurement=replace(outcome.measurement, passes=(part,) * 3))


def test_the_reference_answers_for_the_baselines_which_are_timed_on_parts(bench):
    runner, base = ByParts(), baseline(surroundings())
    result = bench.search(runner, reference=by_length(base))
    second = dynamic_baseline(surroundings())
    assert runner.ran[:3] == [by_length(base), base, second]
    assert [rule.part_s is None for rule in runner.rules[:3]] == [True, False, False]
    assert (bench.stored["logits"] == 0).all()
    first, dynamic = result.trials[:2]
    assert first.config == base
    assert first.accuracy == dynamic.accuracy
    assert first.accuracy.allowed
    assert workload_s(first.measurement) == pytest.approx(pass_seconds(base))
    assert workload_s(dynamic.measurement) == pytest.approx(pass_seconds(second))
    assert result.significant


def test_a_search_whose_baselines_were_timed_on_parts_resumes(bench):
    base = baseline(surroundings())
    bench.search(ByParts(), trials=6, reference=by_length(base))
    runner = ByParts()
    bench.search(runner, trials=12, reference=by_length(base))
    assert not {by_length(base), base} & set(runner.ran[:3])


def test_the_baseline_runs_the_whole_workload_if_it_is_the_reference(bench):
    runner = ByParts()
    bench.search(runner)
    assert runner.ran[0] == baseline(surroundings())
    assert runner.rules[0].part_s is None


def test_a_reference_that_fails_ends_the_search(bench):
    base = baseline(surroundings())
    runner = ByParts(
        fail=lambda config: (
            Failure(kind="crash", detail="boom") if config == by_length(base) else None
        )
    )
    with pytest.raises(SearchError, match=r"the baseline .* failed, crash: boom"):
        bench.search(runner, reference=by_length(base))


def test_the_search_finds_a_configuration_near_the_optimum(bench):
    runner = FakeRunner()
    result = bench.search(runner, trials=40)
    space = compile_space(load_space(SMALL), surroundings())
    allowed = [c for c in space.configs() if c["precision"] != "int8_dynamic"]
    optimum = min(map(pass_seconds, allowed))
    found = pass_seconds(result.best.config)
    assert result.significant
    assert found <= 1.05 * optimum


def test_no_configuration_is_run_twice_before_the_finals(bench):
    result = bench.search(FakeRunner(), trials=60)
    searched = [t.config for t in result.trials if t.origin in SEARCHED]
    assert len(searched) == len(set(searched)) == 61  # and the baseline with dynamic padding


def of_finals(result):
    return [t for t in result.trials if t.origin == "final"]


def test_what_is_reported_was_measured_again_in_turn(bench):
    runner = FakeRunner()
    result = bench.search(runner, trials=12)
    again = of_finals(result)
    of_steps = [t for t in result.trials if t.origin == "step"]
    last = len(runner.rules) - len(of_steps)
    assert runner.rules[last - len(again) : last] == [VISIT_RULE] * len(again)
    assert runner.closed >= 2  # no process of the search serves the finals
    ran = [trial.config for trial in again]
    rounds = [ran[n : n + 4] for n in range(0, len(ran), 4)]
    assert all(set(one) == set(rounds[0]) for one in rounds)
    assert {baseline(surroundings()), dynamic_baseline(surroundings())} < set(rounds[0])
    assert result.best in finals(result.trials)
    assert result.baseline in finals(result.trials)
    assert len(result.best.measurement.passes) == 3 * len(again) // 4


def test_a_host_that_slows_down_during_the_finals_changes_no_gain(bench):
    class Drifting(FakeRunner):
        def run(self, config, rule):
            visits = sum(rule == VISIT_RULE for rule in self.rules)
            self.seconds = lambda c: pass_seconds(c) * (1 + visits // 4)
            return super().run(config, rule)

    result = bench.search(Drifting(), trials=12)
    true = pass_seconds(result.baseline.config) / pass_seconds(result.best.config)
    rounds = result.gain.samples
    assert result.gain == gain_interval([true] * rounds, processes(rounds), result.spread)


def test_the_finals_are_held_in_several_processes(bench):
    """One that is a little slower than others that run the same decides nothing then."""

    class Watched(FakeRunner):
        def run(self, config, rule):
            if rule == VISIT_RULE:
                visited.append((config, self.closed))
            return super().run(config, rule)

    visited = []
    result = bench.search(Watched(), trials=12)
    rounds = result.gain.samples
    assert rounds > VISITS_PER_PROCESS
    for config in {config for config, _ in visited}:
        opened = [process for other, process in visited if other == config]
        assert len(opened) == rounds
        assert len(set(opened)) == processes(rounds)
        assert max(opened.count(process) for process in opened) == VISITS_PER_PROCESS


def test_finals_by_parts_of_a_pass_are_judged_by_the_whole_pass_before_them(bench):
    """Also the baseline with dynamic padding, where the searched space has another padding."""

    class InParts(FakeRunner):
        def run(self, config, rule):
            outcome = super().run(config, rule)
            if rule != VISIT_RULE:
                return outcome
            passes = tuple(replace(p, share=0.25) for p in outcome.measurement.passes)
            return Outcome(measurement=replace(outcome.measurement, passes=passes))

    result = bench.search(InParts(), trials=12, overrides=["padding=buckets"])
    ran = of_finals(result)
    assert dynamic_baseline(surroundings()) in {t.config for t in ran}
    before = {t.config: t.accuracy for t in result.trials if t.origin not in ("final", "step")}
    assert all(t.accuracy == before[t.config] for t in ran)
    assert result.significant


def test_a_leader_that_fails_in_the_finals_is_replaced(bench):
    class Tired(FakeRunner):
        def run(self, config, rule):
            if rule == VISIT_RULE and config["mode"] == "ipex_jit":
                return Outcome(failure=Failure(kind="crash", detail="worn out"))
            return super().run(config, rule)

    result = bench.search(Tired(), trials=20)
    failed = {t.config for t in of_finals(result) if not t.succeeded}
    assert failed
    assert len(failed) == sum(not t.succeeded for t in of_finals(result))
    assert result.significant
    assert result.best.config not in failed
    assert result.best.origin == "final"


def test_a_second_baseline_beside_the_space_may_be_visited_in_part(bench):
    """On a slow host a visit of the finals runs a part of a pass, which is judged by its trial."""

    class Part(FakeRunner):
        def run(self, config, rule):
            outcome = super().run(config, rule)
            if rule != VISIT_RULE or outcome.measurement is None:
                return outcome
            halves = tuple(replace(p, share=0.5) for p in outcome.measurement.passes)
            return replace(outcome, measurement=replace(outcome.measurement, passes=halves))

    result = bench.search(Part(), trials=6, overrides=["mode=jit"])
    (beside,) = [t for t in result.trials if t.origin == "beside"]
    visits = [t for t in of_finals(result) if t.config == beside.config]
    assert visits
    assert all(t.accuracy == beside.accuracy for t in visits)


def test_a_baseline_that_fails_in_the_finals_ends_them(bench):
    result = bench.search(Worn(), trials=12)
    assert sum(not trial.succeeded for trial in of_finals(result)) == MIN_ROUNDS
    assert len(of_finals(result)) <= MIN_ROUNDS + 3  # one visit at most to each of the others
    assert result.best.origin != "final"


class Worn(FakeRunner):
    """The baseline crashes in the finals."""

    def run(self, config, rule):
        if rule == VISIT_RULE and config["padding"] == "max_length":
            return Outcome(failure=Failure(kind="crash", detail="worn out"))
        return super().run(config, rule)


class Wrong:
    """On more rows, every winner turns out to be wrong."""

    def __init__(self):
        self.judged = []

    def expected_s(self, baseline, winner):
        return 0.01

    def judge(self, baseline, winner):
        self.judged.append(winner.config)
        return Outcome(), None, Failure(kind="inaccurate", detail="wrong on more rows")


def test_a_winner_that_is_wrong_on_more_rows_is_replaced(bench):
    wrong = Wrong()
    result = bench.search(FakeRunner(), trials=12, more_rows=wrong)
    assert len(wrong.judged) == len(set(wrong.judged)) > 1
    assert result.best.config not in wrong.judged
    assert not result.significant


def test_without_finals_too_a_winner_that_is_wrong_on_more_rows_is_replaced(bench):
    wrong = Wrong()
    result = bench.search(Worn(), trials=12, more_rows=wrong)
    assert len(wrong.judged) == len(set(wrong.judged)) > 1
    assert result.best.config not in wrong.judged
    assert not result.significant


def test_an_interrupt_does_not_bring_back_what_was_wrong_on_more_rows(bench):
    class Stopped(FakeRunner):
        def run(self, config, rule):
            if wrong.judged:
                raise KeyboardInterrupt
            return super().run(config, rule)

    wrong = Wrong()
    result = bench.search(Stopped(), trials=12, more_rows=wrong)
    assert wrong.judged
    assert set(wrong.judged) <= {t.config for t in of_finals(result)}
    assert result.interrupted
    assert result.best.config not in wrong.judged


def test_inaccurate_configurations_are_measured_and_never_win(bench):
    result = bench.search(FakeRunner(), trials=40)
    wrong = [t for t in result.trials if t.config["precision"] == "int8_dynamic"]
    assert wrong
    assert all(t.measurement and t.failure.kind == "inaccurate" for t in wrong)
    assert result.best.config["precision"] != "int8_dynamic"


class Stepwise(FakeRunner):
    """Runs a single pass for a first rung, two for the rest."""

    def run(self, config, rule):
        outcome = super().run(config, rule)
        if outcome.measurement is None or rule in (VISIT_RULE, STEP_RULE):
            return outcome
        count = {"first": 1, "rest": 2}[rule.rung]
        passes = outcome.measurement.passes[:count]
        return replace(outcome, measurement=replace(outcome.measurement, passes=passes))


def test_only_what_passes_the_gate_is_measured_further(bench):
    runner = Stepwise()
    result = bench.search(runner, trials=40)
    searched = [t for t in result.trials if t.origin in SEARCHED]
    wrong = [t for t in searched if t.failure]
    good = [t for t in searched if len(t.measurement.passes) > 1]
    assert wrong
    assert good
    assert {len(t.measurement.passes) for t in wrong} == {1}
    assert {len(t.measurement.passes) for t in good} == {3}
    rungs = [rule.rung for rule in runner.rules if rule not in (VISIT_RULE, STEP_RULE)]
    assert rungs.count("first") == len(searched)
    assert rungs.count("rest") == len(good)


def test_a_crash_in_the_rest_is_the_configurations(bench):
    class Fragile(Stepwise):
        def run(self, config, rule):
            if rule.rung == "rest" and config["precision"] == "bf16":
                self.rules.append(rule)
                return Outcome(failure=Failure(kind="crash", detail="boom"), log="Traceback")
            return super().run(config, rule)

    result = bench.search(Fragile(), trials=40)
    failed = [t for t in result.trials if t.failure and t.failure.kind == "crash"]
    assert failed
    assert all(t.measurement is None and t.accuracy is None and t.log for t in failed)
    assert result.best.config["precision"] != "bf16"


def test_failures_are_recorded_and_the_search_goes_on(bench):
    def fail(config):
        if config["mode"] == "jit":
            return Failure(kind="crash", detail="boom")
        return None

    result = bench.search(FakeRunner(fail=fail), trials=20)
    failed = [t for t in result.trials if t.failure and t.failure.kind == "crash"]
    assert failed
    assert failed[0].log == "Traceback"
    assert result.best.config["mode"] != "jit"


LASTING = [
    Failure(kind="fallback", detail="torch.jit.trace failed"),
    Failure(kind="unsupported", detail="no tracer"),
    Failure(kind="crash", detail="killed by SIGSEGV", preparing=True),
    Failure(kind="inaccurate", detail="differs from eager", preparing=True),
]
"""Failures that every point of a session would repeat."""


@pytest.mark.parametrize("failure", LASTING, ids=lambda failure: failure.kind)
def test_a_preparation_that_cannot_work_is_not_tried_again(bench, failure):
    def fail(config):
        return failure if config["mode"] == "jit" else None

    runner = FakeRunner(fail=fail)
    bench.search(runner, trials=60)
    tried = [
        tuple((k, v) for k, v in c.items() if k not in ("batch_size", "padding", "bucket_step"))
        for c in runner.ran
        if c["mode"] == "jit"
    ]
    assert tried
    assert len(tried) == len(set(tried))


def test_a_crash_of_one_point_does_not_rule_out_the_others(bench):
    one_session = ["mode=jit", "precision=fp32", "threads=1", "attention=sdpa"]

    def fail(config):
        return Failure(kind="crash", detail="boom") if config["mode"] == "jit" else None

    runner = FakeRunner(fail=fail)
    bench.search(runner, trials=20, overrides=one_session)
    assert sum(config["mode"] == "jit" for config in runner.ran) > 1


@pytest.mark.parametrize("failure", LASTING, ids=lambda failure: failure.kind)
def test_a_resumed_search_remembers_preparations_that_cannot_work(bench, failure):
    one_session = ["mode=jit", "precision=fp32", "threads=1", "attention=sdpa"]

    def fail(config):
        return failure if config["mode"] == "jit" else None

    bench.search(FakeRunner(fail=fail), trials=2, overrides=one_session)
    resumed = FakeRunner(fail=fail)
    bench.search(resumed, trials=20, overrides=one_session)
    assert not [config for config in resumed.ran if config["mode"] == "jit"]


def test_a_baseline_that_fails_ends_the_search(bench):
    runner = FakeRunner(fail=lambda c: Failure(kind="crash", detail="no memory"))
    with pytest.raises(SearchError, match=r"baseline .* failed, crash: no memory"):
        bench.search(runner)


def test_nothing_better_than_the_baseline_is_no_significant_gain(bench):
    result = bench.search(FakeRunner(seconds=lambda config: 5.0), trials=12)
    assert not result.significant
    assert result.best.config == result.baseline.config


def test_a_space_is_searched_until_it_is_exhausted(bench):
    overrides = [
        "mode=jit",
        "precision=fp32",
        "attention=sdpa",
        "threads=4",
        "padding=longest,length_sorted",
    ]
    result = bench.search(FakeRunner(), trials=500, overrides=overrides)
    searched = [t for t in result.trials if t.origin in SEARCHED]
    assert len(searched) == 1 + 12  # both baselines are eager, outside the narrowed space


def test_a_time_budget_leaves_room_for_the_finals(bench):
    now = [0.0]

    class Slow(FakeRunner):
        def run(self, config, rule):
            now[0] += max(min(pass_seconds(config), rule.part_s or math.inf), rule.budget_s)
            return super().run(config, rule)

    result = bench.search(Slow(), trials=None, budget=200.0, clock=lambda: now[0])
    assert 150 <= now[0] <= 200
    assert len(of_finals(result)) >= 3 * MIN_ROUNDS


def test_latency_is_minimized(bench):
    result = bench.search(FakeRunner(), trials=25, where=surroundings("latency"))
    assert result.significant
    assert pass_seconds(result.best.config) < pass_seconds(result.baseline.config)
    assert all(t.config["batch_size"] == 1 for t in result.trials)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", [0, 1, 5, 9, 13, 14, 16, 20])
def test_a_search_killed_anywhere_goes_on_where_it_was(bench, moment):
    class Mortal(FakeRunner):
        def run(self, config, rule):
            if len(self.ran) == moment:
                raise Killed
            return super().run(config, rule)

    with pytest.raises(Killed):
        bench.search(Mortal(), trials=14)
    before = read_trials(bench.folder / "trials.jsonl")
    assert len(before) == moment

    second = FakeRunner()
    result = bench.search(second, trials=14)
    assert list(result.trials[:moment]) == before
    searched = [t.config for t in result.trials if t.origin in SEARCHED]
    assert len(searched) == len(set(searched)) == 15
    assert len(second.ran) == len(result.trials) - moment


def test_a_finished_search_runs_nothing_when_resumed(bench):
    first = bench.search(FakeRunner(), trials=12)
    again = FakeRunner()
    assert bench.search(again, trials=12) == first
    assert again.ran == []


def test_resuming_without_the_reference_is_refused(bench):
    bench.search(FakeRunner(), trials=3)
    bench.stored = None
    with pytest.raises(ResumeError, match="reference outputs"):
        bench.search(FakeRunner(), trials=5)


def test_an_interrupt_keeps_the_best_so_far(bench):
    class Interrupted(FakeRunner):
        def run(self, config, rule):
            if len(self.ran) == 6:
                raise KeyboardInterrupt
            return super().run(config, rule)

    runner = Interrupted()
    result = bench.search(runner, trials=20)
    assert result.interrupted
    assert result.significant
    assert len(result.trials) == 6
    assert runner.closed


def test_progress_has_an_estimate_and_the_best_so_far(bench):
    bench.search(FakeRunner(), trials=12)
    last = bench.listener.progress[11]
    assert last.done == 11
    assert last.trials == 12
    assert last.remaining_s is not None
    assert last.best.succeeded


def test_the_same_seed_proposes_the_same_configurations(tmp_path):
    ran = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        runner = FakeRunner()
        found = Bench(tmp_path / name).search(runner, trials=30, seed=7)
        ran.append([trial.config for trial in found.trials if trial.origin in SEARCHED])
    assert ran[0] == ran[1]


class Lucky(FakeRunner):
    """In the search everything but the baselines looks half as fast again as it is."""

    def run(self, config, rule):
        outcome = super().run(config, rule)
        if rule in (VISIT_RULE, STEP_RULE) or outcome.measurement is None:
            return outcome
        plain = config["mode"] == "eager" and config["precision"] == "fp32"
        luck = 1.0 if plain else 1.5
        return replace(outcome, measurement=measurement(pass_seconds(config) / luck))


def test_the_best_so_far_follows_the_finals(bench):
    """Luck leads the search; from the first whole round on, the finals decide."""
    result = bench.search(Lucky(), trials=25)
    found = bench.listener.progress
    last_of_search = [p for p in found if p.phase == "search"][-1]
    last = found[-1]
    assert last.phase == "finals"
    assert last.best.config == result.best.config
    assert last.gain == result.gain
    true = pass_seconds(result.baseline.config) / pass_seconds(result.best.config)
    assert last.gain.median == pytest.approx(true)
    assert last_of_search.gain.median == pytest.approx(1.5 * true)


def test_the_remaining_time_is_that_of_the_whole_search(bench):
    """Elapsed and remaining time add up to the budget and the run of launch.sh at every trial."""
    now = [0.0]

    class Slow(FakeRunner):
        def run(self, config, rule):
            now[0] += max(min(pass_seconds(config), rule.part_s or math.inf), rule.budget_s)
            return super().run(config, rule)

    bench.search(Slow(), trials=None, budget=200.0, clock=lambda: now[0], check_s=30.0)
    found = bench.listener.progress
    for progress in found:
        if progress.phase == "search":
            assert progress.elapsed_s + progress.remaining_s == pytest.approx(230.0)
    of_finals = [p.remaining_s for p in found if p.trial.origin == "final"]
    assert of_finals == sorted(of_finals, reverse=True)
    assert of_finals[-1] >= 20.0 + 30.0  # a tenth of the budget splits the gain, then launch.sh
    of_steps = [p.remaining_s for p in found if p.trial.origin == "step"]
    assert of_steps == sorted(of_steps, reverse=True)
    assert of_steps[-1] >= 30.0  # launch.sh is still to run
    assert found[-1].elapsed_s + 30.0 <= 230.0


def test_without_a_time_budget_the_remaining_time_holds_finals_and_launch_sh(bench):
    """Each of 12 trials takes 2 s: with 9 left, at least 18 s, and 30 s for launch.sh."""
    now = [0.0]

    class Steady(FakeRunner):
        def run(self, config, rule):
            now[0] += 1.0
            return super().run(config, rule)

    bench.search(Steady(), trials=12, clock=lambda: now[0], check_s=30.0)
    by_done = {p.done: p for p in bench.listener.progress if p.phase == "search"}
    typical = 1.0  # a first rung; a second one is not needed on this machine
    for done, progress in by_done.items():
        assert progress.remaining_s >= (12 - done) * typical + 30.0
    whole = bench.listener.progress[-1].elapsed_s
    third = by_done[3]
    assert third.elapsed_s + third.remaining_s >= 0.5 * (whole + 30.0)


def test_the_order_of_the_finals_is_that_of_the_seed(tmp_path):
    orders = []
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        (tmp_path / name).mkdir()
        found = Bench(tmp_path / name).search(FakeRunner(), trials=3, seed=seed)
        place = {
            config: n
            for n, config in enumerate(sorted({t.config for t in of_finals(found)}, key=str))
        }
        orders.append([place[trial.config] for trial in of_finals(found)])
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    rounds = {tuple(orders[0][n : n + 4]) for n in range(0, len(orders[0]), 4)}
    assert len(rounds) > 1  # no order of one round is that of all


@pytest.mark.parametrize("budget_s", [45.0, 90.0, 570.0, None])
def test_the_finals_have_time_for_as_many_rounds_as_an_interval_of_ranks_needs(budget_s):
    """A search of two minutes leaves 90 s to the search, of which a quarter is for passes."""
    plan = Finals(objective=objective_named("throughput"), time_budget_s=budget_s)
    passes_s = min(60.0, math.inf if budget_s is None else 0.25 * budget_s)
    assert 6 * 4 * plan.visit.budget_s <= passes_s + 1e-9
    assert plan.visit.budget_s == pytest.approx(min(1.5, passes_s / 24))


@pytest.mark.parametrize("stopped_by", [KeyboardInterrupt, MemoryError])
def test_a_search_that_is_stopped_leaves_no_trial_running(bench, stopped_by):
    class Stopped(FakeRunner):
        def run(self, config, rule):
            if len(self.ran) == 5:
                raise stopped_by
            return super().run(config, rule)

    with contextlib.suppress(MemoryError):
        assert bench.search(Stopped()).interrupted
    last = bench.study.trials[-1]
    assert last.state.name == "FAIL"
    assert last.user_attrs["refused"] == "interrupted"
    assert all(trial.state.is_finished() for trial in bench.study.trials)


def test_no_session_counts_as_open_until_this_process_has_measured(bench, monkeypatch):
    """A resumed search starts without workers, whatever the last trial left open."""
    asked = []

    def ask(study, usable, remaining_s, session_open):
        asked.append(session_open)
        return one(study, usable, remaining_s, session_open)

    one = Study.ask
    monkeypatch.setattr(Study, "ask", ask)
    bench.search(FakeRunner(), trials=6)
    assert asked == [True] * len(asked)
    (bench.folder / "trials.jsonl").write_text(
        "".join((bench.folder / "trials.jsonl").read_text().splitlines(keepends=True)[:5])
    )
    asked.clear()
    bench.search(FakeRunner(), trials=6)
    assert asked[0] is False
    assert asked[1:] == [True] * (len(asked) - 1)
    assert len(asked) > 1
