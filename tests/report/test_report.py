from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from bench_search import Bench, Ones
from emit_line import LINE
from fakes import FakeRunner, measurement, pass_seconds, surroundings

from autotune.driver.runner import Outcome
from autotune.report.analysis import progress
from autotune.report.build import Context, build
from autotune.report.text import accuracy_sentence, escape, markdown, table
from autotune.search.finals import VISIT_RULE
from autotune.search.objective import objective_named
from autotune.shared.records import Config, Failure, Screen, Trial
from autotune.space import baseline
from autotune.tasks.gate import Gate, GateRule


def manifest(name):
    return {
        "autotune": "0",
        "created": "now",
        "space": {"unavailable": {"ipex fp32": "not <installed>"}},
        "model": {"name": name},
        "workload": {
            "task": "qa",
            "examples": 10,
            "features": 10,
            "tokens": 100,
            "max_seq_length": 384,
        },
        "max_accuracy_drop": 0.01,
        "host": {"model_name": "CPU", "cores": 4, "memory_gib": 16, "kernel": "6"},
        "stacks": {"default": {"python_version": "3.11", "versions": {"torch": "2"}}},
    }


@pytest.fixture
def reported(tmp_path):
    def run(runner, name="model", **options):
        result = Bench(tmp_path).search(runner, **{"trials": 25, **options})
        context = Context(
            manifest=manifest(name),
            metrics=("f1",),
            objective=objective_named("throughput"),
            line=LINE,
            elapsed_s=1.0,
        )
        return build(result, context)

    return run


def test_the_report_is_json_with_every_part(reported):
    report = reported(FakeRunner())
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["best"]["speedup"]["median"] > 2
    assert report["baseline"]["speedup"]["median"] == 1
    assert report["trials"]["measured"] == 26  # and the baseline with dynamic padding
    assert report["failures"]["inaccurate"]


def test_the_table_has_baseline_each_mode_and_best(reported):
    report = reported(FakeRunner())
    _, rows = table(report)
    labels = [row[0] for row in rows]
    assert labels[0] == "best"
    best_engine = f"{report['best']['config']['mode']} {report['best']['config']['precision']}"
    assert {"baseline", "baseline, dynamic padding"} <= set(labels)
    assert {f"{m} {p}" for m in ("eager", "jit", "ipex", "ipex_jit") for p in ("fp32", "bf16")} <= {
        *labels,
        best_engine,
    }  # the best is not in the table twice
    rejected = [row for row in rows if row[0].endswith("int8_dynamic")]
    assert rejected
    assert all(row[-1] == "inaccurate" for row in rejected)


def test_what_was_measured_again_comes_before_what_was_lucky_once(reported):
    class Lucky(FakeRunner):
        """Every first measurement is up to twice too fast, each configuration by its own luck."""

        def run(self, config, rule):
            outcome = super().run(config, rule)
            if rule == VISIT_RULE:
                return outcome
            luck = 1 + int(config.id, 16) % 100 / 100
            lucky = measurement(pass_seconds(config) / luck)
            return Outcome(measurement=lucky, outputs=outcome.outputs)

    report = reported(Lucky())
    best = report["best"]
    kind = f"{best['config']['mode']} {best['config']['precision']}"
    row = next(
        e
        for e in report["best_by_mode"]
        if f"{e['config']['mode']} {e['config']['precision']}" == kind
    )
    assert row == best
    assert best["origin"] == "final"


def test_an_engine_that_was_only_screened_is_shown_with_its_estimate(reported):
    class Screening(FakeRunner):
        def run(self, config, rule):
            if config["mode"] != "ipex":
                return super().run(config, rule)
            settled = config["precision"] != "bf16"
            screen = Screen(
                batches=(0, 1), batch_s=(1.0, 1.0), pass_s=5.0, phases_s={}, settled=settled
            )
            return Outcome(failure=Failure(kind="slow", detail="screened out"), screen=screen)

    report = reported(Screening())
    found = {one["name"]: one for one in report["screened"]}
    assert set(found) <= {"ipex fp32", "ipex bf16", "ipex int8_dynamic"}
    assert found
    base = report["baseline"]["objective"]["median"]
    for one in found.values():
        assert one["speedup"] == pytest.approx(one["value"] / base)
        assert one["batches"] == 2
    _, rows = table(report)
    shown = {row[0]: row[2][0] for row in rows if row[-1] == "slow"}
    assert shown == {name: "≥" if name == "ipex bf16" else "~" for name in found}


JUDGED = {
    "metric": "macro_f1",
    "rows": 256,
    "loss": 0.004,
    "low": -0.01,
    "high": 0.02,
    "certainty": "not proven",
    "rows_to_prove": 900,
    "score_drift": {"largest": 0.25, "p99": 0.125},
}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {},
            "Its macro f1 loses 0.40% (from a gain of 1.00% to a loss of 2.00%) of the baseline's "
            "on 256 rows: within the limit of 1.0%, not proven on 256 rows (about 900 would prove "
            "it). Scores differ by at most 0.250, and 99% of them by at most 0.125.",
        ),
        (
            {"certainty": "proven", "high": 0.009, "rows_to_prove": None, "score_drift": None},
            "Its macro f1 loses 0.40% (from a gain of 1.00% to a loss of 0.90%) of the baseline's "
            "on 256 rows: proven within the limit of 1.0%.",
        ),
        (
            {"certainty": "outside", "loss": 0.5, "rows_to_prove": None, "score_drift": None},
            "Its macro f1 loses 50.00% (from a gain of 1.00% to a loss of 2.00%) of the "
            "baseline's on 256 rows: outside the limit of 1.0%.",
        ),
        (
            {"rows": 0, "low": None, "high": None, "rows_to_prove": None, "score_drift": None},
            "Its macro f1 loses 0.40% of the baseline's: within the limit of 1.0%, not proven.",
        ),
        (
            {"metric": "cosine", "low": None, "high": None, "score_drift": None},
            "Its cosine loses 0.40% of the baseline's on 256 rows: within the limit of 1.0%, not "
            "proven on 256 rows (about 900 would prove it). The rows have no labels, so vectors "
            "are compared with those of eager float32.",
        ),
    ],
)
def test_the_loss_is_told_with_its_interval_and_how_sure_it_is(changed, sentence):
    report = {"accuracy": {**JUDGED, **changed}, "max_accuracy_drop": 0.01}
    assert accuracy_sentence(report) == sentence


def test_winners_that_are_not_proven_leave_the_baseline_and_are_named(reported):
    """Without an interval nothing is proven, however right it is."""
    rule = GateRule(max_drop=0.01, proven=True)
    gate = Gate(task=Ones(), rows=[None] * 10, features=None, rule=rule)
    report = reported(FakeRunner(), gate=gate, trials=3)
    assert not report["significant"]
    assert report["best"]["id"] == report["baseline"]["id"]
    unproven = [f for f in report["failures"]["inaccurate"] if "does not prove" in f["detail"]]
    assert len({one["description"] for one in unproven}) == len(unproven) >= 2
    assert unproven[0]["detail"] == (
        "a loss of 0.0% on 10 rows does not prove that the loss is within 1.0%"
    )


def test_without_a_gain_the_report_says_so(reported):
    report = reported(FakeRunner(seconds=lambda config: 2.0))
    assert report["verdict"].startswith("No significant gain")
    assert report["best"]["id"] == report["baseline"]["id"]


def test_hostile_names_and_words_cannot_act_as_markup(reported):
    evil = "<script>alert(1)</script>|`x`\n# title"

    def fail(config):
        return Failure(kind="crash", detail=evil) if config["mode"] == "jit" else None

    text = markdown(reported(FakeRunner(fail=fail), name=evil))
    assert "<script>" not in text
    assert "\n# title" not in text
    assert escape("a|b") == "a\\|b"


def test_a_host_that_something_else_uses_is_said_to(reported):
    """From the twelfth run on, a load takes half of the CPUs: every pass waits and is slower."""

    class Loaded(FakeRunner):
        def run(self, config, rule):
            outcome = super().run(config, rule)
            if len(self.ran) < 12 or outcome.measurement is None:
                return outcome
            passes = tuple(
                replace(
                    p,
                    batch_s=tuple(2 * s for s in p.batch_s),
                    held_up_s=p.total_s,
                    reference_s=2e-3,
                )
                for p in outcome.measurement.passes
            )
            return replace(outcome, measurement=replace(outcome.measurement, passes=passes))

    runner = Loaded()
    report = reported(runner)
    assert not report["noise"]["quiet"]
    assert report["noise"]["disturbed"] > 0.1 * report["noise"]["passes"]
    text = markdown(report)
    assert "**The host was not quiet**" in text
    assert "search again" in text
    best, base = (report[side]["config"] for side in ("best", "baseline"))
    true = pass_seconds(Config.of(base)) / pass_seconds(Config.of(best))
    assert report["best"]["speedup"]["median"] == pytest.approx(true)


def test_a_quiet_host_is_not_complained_of(reported):
    report = reported(FakeRunner())
    assert report["noise"]["quiet"]
    assert "not quiet" not in markdown(report)


def test_a_fast_engine_with_disturbed_logits_is_rejected_and_shown(reported):
    """int8 of the made-up machine is three times as fast, and wrong."""
    report = reported(FakeRunner())
    assert report["best"]["config"]["precision"] != "int8_dynamic"
    rejected = [e for e in report["best_by_mode"] if e["failure"]]
    assert {e["failure"]["kind"] for e in rejected} == {"inaccurate"}
    assert "a loss of 100.0%, allowed 1.0%" in markdown(report)


def test_a_host_where_nothing_helps_is_told_to_keep_the_baseline(reported):
    """Only what the user has today is right: everything else disturbs the logits."""

    class OnlyEager(FakeRunner):
        def run(self, config, rule):
            outcome = super().run(config, rule)
            plain = config["mode"] == "eager" and config["precision"] == "fp32"
            if plain:
                return replace(outcome, measurement=measurement(10.0))
            wrong = {"logits": np.full((10,), 1.0, np.float32)}
            return replace(outcome, outputs=wrong)

    report = reported(OnlyEager())
    assert report["verdict"].startswith("No significant gain")
    assert report["best"]["id"] == report["baseline"]["id"]
    assert not report["significant"]
    assert len(report["failures"]["inaccurate"]) >= 5


def test_progress_goes_on_where_the_clock_was_set_back():
    def trial(number, started):
        return Trial(
            number=number,
            origin="search",
            config=baseline(surroundings()),
            started=f"2026-01-01T{started}+00:00",
            duration_s=5.0,
            failure=Failure(kind="crash", detail="gone"),
        )

    trials = [trial(0, "12:00:00"), trial(1, "12:00:05"), trial(2, "11:00:00")]
    found = progress(trials, objective_named("throughput"))
    assert [one["elapsed_s"] for one in found] == [5.0, 10.0, 15.0]
