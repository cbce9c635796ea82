"""`import autotune`: the Python interface, on the stub worker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import autotune
from autotune import api
from autotune.api import _overrides
from autotune.commands.search.options import settings_from
from autotune.shared.errors import ResumeError

STUB = Path(__file__).parent / "stub"
SEARCH = """
import json, sys
sys.path.insert(0, sys.argv[1])
import command_line
command_line.use_stub()
command_line.shorten_searches()
import autotune
seen, lines = [], []
run = autotune.tune(
    "demo",
    dataset=sys.argv[1] + "/questions.json",
    max_samples=4,
    trials=2,
    knobs={"mode": "jit", "threads": 1, "linear": ["torch", "onednn"]},
    output=sys.argv[2],
    announce=lines.append,
    progress=seen.append,
)
again = autotune.load_run(sys.argv[2] + "/best.yaml")
print(json.dumps({
    "config": run.config, "same": again.config == run.config and again.report == run.report,
    "speedup": [run.speedup.low, run.speedup.median, run.speedup.high],
    "significant": run.significant, "trials": len(seen), "lines": lines,
}))
"""


def python(*arguments):
    return subprocess.run(
        [sys.executable, "-c", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


def test_a_search_leaves_a_run_that_can_be_loaded_again(tmp_path):
    done = python(SEARCH, STUB, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["same"]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert found["config"] == report["best"]["config"]
    assert found["significant"] == report["significant"]
    low, median, high = found["speedup"]
    assert low <= median <= high
    trials = (tmp_path / "run" / "trials.jsonl").read_text().splitlines()
    assert found["trials"] == len(trials)
    modes = {t["config"]["mode"] for t in map(json.loads, trials) if t["origin"] == "prior"}
    assert modes <= {"jit"}
    assert any("reading 4 rows" in line or "reading" in line for line in found["lines"])


def test_importing_autotune_imports_nothing_else():
    done = python("import autotune, sys; print([m for m in sys.modules if 'autotune.' in m])")
    assert done.stdout.strip() == "[]"


def test_only_what_is_offered_is_an_attribute():
    assert autotune.__all__ == api.__all__
    assert set(autotune.__all__) <= {name for name in autotune.__all__ if getattr(autotune, name)}
    with pytest.raises(AttributeError, match="no attribute 'tnue'"):
        _ = autotune.tnue


@pytest.mark.parametrize("path", ["nothing", "."])
def test_what_is_no_finished_run_is_refused(path, tmp_path):
    with pytest.raises(autotune.InputError) as caught:
        autotune.load_run(tmp_path / path)
    assert len(str(caught.value).splitlines()) == 1


def test_an_unknown_option_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(autotune.InputError, match="did you mean time_budget_s"):
        autotune.tune("demo", time_budgt=3, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("knobs", "written"),
    [
        ({"mode": "jit"}, ("mode=jit",)),
        ({"threads": [1, 2], "max_autotune": True}, ("threads=1,2", "max_autotune=true")),
        ({"flush_denormals": (False, True)}, ("flush_denormals=false,true",)),
    ],
)
def test_knobs_are_written_as_on_the_command_line(knobs, written):
    assert _overrides(knobs) == written


def test_what_the_user_leaves_open_is_decided_and_said():
    settings, decided = settings_from({"model": "demo"})
    assert (settings.task, settings.max_seq_length, settings.doc_stride) == ("qa", 384, 128)
    assert decided == ["task: qa, by the model's BertForQuestionAnswering"]
    settings, decided = settings_from({"model": "demo", "task": "sentiment-analysis"})
    assert (settings.task, settings.max_seq_length, settings.doc_stride) == (
        *("text-classification", 128),
        0,
    )
    assert decided == []


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"trials": 0}, "trials must be a whole number of at least 1, got 0"),
        ({"trials": 2.0}, "trials must be a whole number of at least 1, got 2.0"),
        ({"trials": True}, "trials must be a whole number"),
        ({"max_samples": -1}, "max_samples must be a whole number of at least 0, got -1"),
        ({"max_accuracy_drop": 1}, "must be a number of at least 0 and below 1, got 1"),
        ({"max_accuracy_drop": "1%"}, "got '1%'"),
        ({"max_seq_length": 15}, "max_seq_length must be a whole number of at least 16, got 15"),
        ({"time_budget_s": 0}, "time_budget_s must be a number above 0, got 0"),
        ({"time_budget_s": float("nan")}, "got nan"),
        ({"time_budget_s": 10**400}, "time_budget_s must be a number above 0, got 1000"),
        ({"time_budget_s": "10m"}, "got '10m'"),
        ({"max_latency_ms": -1, "objective": "server"}, "max_latency_ms must be a number above 0"),
        ({"seed": "1"}, "seed must be a whole number"),
        ({"seed": 2**31}, "seed must be a whole number of at least 0 and below 2"),
        ({"dataset": 3}, "dataset must be text, got 3"),
        ({"stacks": [1]}, r"stacks must be text, or a list of texts, got \[1\]"),
        ({"drop": 3}, "dropped must be text, or a list of texts, got 3"),
        ({"learned": "no"}, "learned must be True or False, got 'no'"),
        ({"gate": "prove"}, "gate must be point or proven, got 'prove'"),
        ({"output": 3}, "output must be a path, got 3"),
        ({"model": 3}, "model must be text, got 3"),
        ({"model": None}, "--model is needed"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(option, words, tmp_path):
    given = {"model": "demo", "output": tmp_path / "run", **option}
    with pytest.raises(autotune.InputError, match=words) as caught:
        autotune.tune(given.pop("model"), **given)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_none_stands_for_an_option_that_is_not_passed():
    nothing = dict.fromkeys(["trials", "max_samples", "seed", "stacks", "learned", "gate", "task"])
    assert settings_from({"model": "demo", **nothing}) == settings_from({"model": "demo"})


def test_one_text_is_one_name_and_a_path_its_text(tmp_path):
    given = {"model": "demo", "dropped": "mode", "stacks": ["a", "b"], "dataset": tmp_path}
    settings, _ = settings_from(given)
    assert (settings.dropped, settings.stacks) == (("mode",), ("a", "b"))
    assert settings.dataset == str(tmp_path)


def test_the_length_for_a_model_that_is_not_here_yet_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    away = {"model": "owner/name", "task": "embeddings"}
    settings, decided = settings_from(away)
    assert settings.max_seq_length == 128
    assert decided == [
        "max_seq_length: 128, as the model is not on this machine yet; pass --max-seq-length"
    ]
    assert settings_from({**away, "max_seq_length": 64})[1] == []
    assert settings_from({**away, "task": "text-classification"})[1] == []


@pytest.mark.parametrize("asked", [autotune.load_run, autotune.verify])
def test_a_run_is_found_in_the_home_folder(asked, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    with pytest.raises(autotune.InputError, match=str(tmp_path / "run")):
        asked("~/run")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, {"trials": None, "time_budget_s": 60.0, "seed": 3}),
        ({"trials": 9}, {"trials": 9, "time_budget_s": None, "seed": 3}),
        ({"time_budget_s": 5.0, "seed": 4}, {"trials": None, "time_budget_s": 5.0, "seed": 4}),
    ],
)
def test_a_resumed_search_keeps_the_options_that_are_not_named(tmp_path, given, kept):
    stored = {"model": "demo", "task": "qa", "time_budget_s": 60.0, "seed": 3, "output": "x"}
    stored |= {"stacks": ["a=python"], "unknown": 1}
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "settings": stored}))
    settings, _ = settings_from(given, resumed=tmp_path)
    assert {name: getattr(settings, name) for name in kept} == kept
    assert settings.stacks == ("a=python",)


def test_a_manifest_without_settings_cannot_be_resumed(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(ResumeError, match="has no settings"):
        settings_from({"model": "demo"}, resumed=tmp_path)
