"""A promise, kept and broken, on a made-up machine and on the real one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import MODES, FakeRunner, host, measurement
from run_folder import BEST, leave_run

from autotune import demo
from autotune.commands.promise import verify
from autotune.commands.promise.reopen import reopen
from autotune.commands.promise.verify import ROUNDS, lines, measure_again
from autotune.driver.runner import Outcome
from autotune.search.finals import VISITS_PER_PROCESS, processes
from autotune.shared.records import OUTSIDE, PROVEN, Accuracy, Failure, StackFacts
from autotune.shared.stats import gain_interval, process_spread
from autotune.shared.stopping import ONE_PASS

ZEROS = np.zeros(10, np.float32)


def between(times):
    """The ends of the interval of `times` as fast, six rounds that agree, as people read it."""
    spread = process_spread([[times] * 6, [1.0] * 6], VISITS_PER_PROCESS)
    found = gain_interval([times] * 6, processes(6), spread)
    return f"{found.low:.2f} to {found.high:.2f}"


class Machine(FakeRunner):
    """The best takes a quarter of the baseline's time, and answers as it does."""

    def __init__(self, best=2.5, baseline=10.0, wrong=False, failure=None):
        super().__init__()
        self.best, self.base, self.wrong, self.failing = best, baseline, wrong, failure

    def run(self, config, rule):
        chosen = config == BEST
        if chosen and self.failing:
            return Outcome(failure=self.failing)
        logits = np.tile(np.float32([0, 1]), 5) if chosen and self.wrong else ZEROS
        return Outcome(
            measurement=measurement(self.best if chosen else self.base),
            outputs={"start_logits": ZEROS, "end_logits": logits},
        )


@pytest.fixture
def run(tmp_path):
    return reopen(leave_run(tmp_path / "run"))


def again(run, machine, minimum=3.2):
    return measure_again(run, machine, [], minimum=minimum, rounds=6)


def test_a_promise_that_holds(run):
    found = again(run, Machine())
    assert found.holds
    assert found.speedup.median == pytest.approx(4.0)
    assert found.metrics == {"f1": 100.0, "exact_match": 100.0}
    told = between(4.0)
    assert lines(found)[0].startswith(f"4.00x as fast as the baseline ({told}), promised")
    assert lines(found)[-1] == "the promise holds"
    rate = replace(found, objective="server-50ms")
    assert lines(rate)[0].startswith("4.00x the rate of the baseline")
    assert json.loads(json.dumps(found.as_json()))["holds"] is True


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (
            Machine(best=5.0),
            f"2.00x as fast as the baseline ({between(2.0)}), at least 3.20x",
        ),
        (Machine(best=10.0, baseline=40.0), "the baseline reads 0.2/s, it was 1.0/s"),
        (Machine(failure=Failure(kind="crash", detail="gone")), "crash: gone"),
    ],
)
def test_a_promise_that_is_broken_names_the_cause(run, machine, words):
    found = again(run, machine)
    assert not found.holds
    assert words in found.causes[0]
    assert lines(found)[-1] == "the promise does not hold"


def judged_as(run, monkeypatch, **judgement):
    """Measure `run` again with a gate that finds `judgement`."""
    gate = run.gate()
    values = {"metrics": {"f1": 90.0}, "agreement": 1.0, "max_abs_logit_difference": 0.0}
    accuracy = Accuracy(**values, **judgement)
    monkeypatch.setattr(type(run), "gate", lambda self: gate)
    monkeypatch.setattr(gate, "judge", lambda *_: accuracy)
    monkeypatch.setattr(type(run), "reference", lambda self: SimpleNamespace(**REFERENCE))
    return again(run, Machine())


REFERENCE = {"metrics": {"f1": 100.0}, "by_agreement": False}


def test_a_best_that_is_no_longer_right_is_a_cause(run, monkeypatch):
    found = judged_as(run, monkeypatch, relative_drop=0.1, allowed=False, certainty=OUTSIDE, rows=9)
    cause = "no longer right: f1 90.00 against 100.00: a loss of 10.0%, allowed 1.0%"
    assert cause in found.causes[0]
    assert "f1 loses 10.00% of the baseline's on 9 rows: outside the limit of 1.0%" in told(found)


def test_a_gain_in_accuracy_is_called_a_gain(run, monkeypatch):
    found = judged_as(
        run,
        monkeypatch,
        relative_drop=-0.0208,
        loss=(-0.0479, 0.0063),
        allowed=True,
        certainty=PROVEN,
        rows=194,
    )
    assert (
        "f1 gains 2.08% (from a loss of 0.63% to a gain of 4.79%) of the baseline's on 194 rows: "
        "proven within the limit of 1.0%"
    ) in told(found)
    assert found.as_json()["accuracy"]["loss"] == -0.0208


def told(found):
    return "\n".join(lines(found))


def test_it_says_what_the_accuracy_loses_and_how_sure_that_is(run):
    found = again(run, Machine())
    judged = found.as_json()["accuracy"]
    assert (judged["metric"], judged["rows"], judged["loss"]) == ("f1", 10, 0.0)
    assert judged["certainty"] == "not proven"  # ten rows prove little
    assert f"not proven on 10 rows (about {judged['rows_to_prove']} would" in told(found)


@pytest.mark.parametrize("failing", [True, False])
def test_an_answer_that_cannot_be_had_is_a_cause(run, failing):
    """Visits run a part of the rows, so the answers need a whole pass of their own."""

    class Parts(Machine):
        def run(self, config, rule):
            outcome = super().run(config, rule)
            if rule != ONE_PASS:
                return replace(outcome, outputs={})
            return Outcome(failure=Failure(kind="timeout", detail="late")) if failing else outcome

    found = again(run, Parts())
    assert found.holds is not failing
    assert [cause.endswith("timeout: late") for cause in found.causes] == [True] * failing


def test_what_has_changed_is_listed(run):
    facts = SimpleNamespace(versions={"torch": "2.9.0"})
    apart = verify.changes_known(run, host(2), {"default": facts})
    assert "host cores: 4 then, 2 now" in apart
    assert "torch: 2.8.0 then, 2.9.0 now" in apart
    assert (
        verify.changes_known(
            run, host(4), {"default": SimpleNamespace(versions={"torch": "2.8.0"})}
        )
        == []
    )
    assert verify.changes_known(run, host(4), {}) == []


def test_a_host_without_bf16_is_told_why(run):
    reason = "bf16 needs AVX512-BF16 or AMX-BF16"
    modes = {**MODES, "jit": {**MODES["jit"], "bf16": reason}}
    facts = StackFacts(python="p", python_version="3", versions={}, ipex=None, modes=modes)
    assert facts.refusal(run.chosen) == f"jit bf16 cannot run here: {reason}"
    assert replace(facts, modes=MODES).refusal(run.chosen) is None
    assert "does not offer it" in replace(facts, modes={}).refusal(run.chosen)


@pytest.mark.model
def test_a_real_run_verifies(autotune, finished):
    folder = finished.run
    kept = autotune("verify", folder / "best.yaml", "--min-speedup", "0.1", "--json")
    found = json.loads(kept.stdout)
    assert not [cause for cause in found["causes"] if "baseline reads" not in cause], kept.stderr
    assert found["speedup"]["samples"] == ROUNDS

    written = json.loads((folder / "report.json").read_text())
    (folder / "report.html").unlink()
    again = autotune("report", folder, "--json")
    assert json.loads(again.stdout) == written, again.stderr
    assert (folder / "report.html").exists()

    ran = autotune("run", folder, "--json")
    assert json.loads(ran.stdout)["same_metrics"], ran.stderr
    assert ran.stderr == ""


@pytest.mark.parametrize(
    ("command", "run", "limit_ms"),
    [
        ("stubbed", "stub_run", 0.01),
        pytest.param(
            "autotune", "finished_run", 1, id="real", marks=(pytest.mark.model, pytest.mark.full)
        ),
    ],
)
def test_a_run_is_served_and_a_promise_too_large_is_refused(request, command, run, limit_ms):
    autotune, folder = request.getfixturevalue(command), request.getfixturevalue(run)
    served = autotune("serve-test", folder, "--rate", "3", "--seconds", "2", "--json")
    found = json.loads(served.stdout)
    assert found["best"]["requests"] == 6, served.stderr
    assert 0 < found["best"]["p50_s"] <= found["best"]["p99_s"]
    impossible = autotune(
        *("serve-test", folder, "--rate", "3", "--seconds", "1"),
        *("--max-latency-ms", str(limit_ms)),
    )
    assert impossible.returncode == 3

    too_much = autotune("verify", folder, "--min-speedup", "1000", "--rounds", "3")
    assert too_much.returncode == 3
    assert "at least 1000.00x is asked for" in too_much.stdout


@pytest.mark.model
def test_a_model_that_has_changed_does_not_verify(autotune, finished):
    config = finished.model / "config.json"
    before = config.read_text()
    try:
        config.write_text(json.dumps({**json.loads(before), "changed": 1}))
        changed = autotune("verify", finished.run)
    finally:
        config.write_text(before)
    assert changed.returncode == 3
    assert "have changed since the run was made" in changed.stdout


def test_a_folder_without_a_run_is_bad_input(autotune, tmp_path):
    done = autotune("verify", tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_a_model_that_has_moved_is_named_with_its_new_place(stubbed, stub_run, tmp_path):
    """best.yaml names the old place; the files are the same, so the promise is the same."""
    moved = tmp_path / "moved"
    shutil.copytree(demo.MODEL, moved)
    ran = stubbed("run", stub_run, "--model", moved, "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["same_metrics"]
    served = stubbed("serve-test", stub_run, "--model", moved, "--rate", "3", "--seconds", "1")
    assert served.returncode == 0, served.stderr
    verified = stubbed("verify", stub_run, "--model", moved, "--rounds", "3", "--json")
    assert json.loads(verified.stdout)["speedup"] is not None, verified.stderr


def test_another_model_in_that_place_is_refused(stubbed, stub_run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(demo.MODEL, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "changed": 1}))
    for command in (
        ("run", stub_run),
        ("serve-test", stub_run, "--rate", "1"),
        ("verify", stub_run),
    ):
        done = stubbed(*command, "--model", other)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert f"--model {other}: the files of the model" in line
        assert "have changed since the run was made" in line
    done = stubbed("run", stub_run, "--model", "./nowhere")
    assert done.returncode == 2
    assert "--model ./nowhere: neither a folder nor a model id" in done.stderr
