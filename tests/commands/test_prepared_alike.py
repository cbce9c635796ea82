"""Everything that prepares a run's engine does it from the same inputs: those that the run kept.

These are `run-qa`, `run-glue` and `run-ner` with --config, `run`, `verify`, `serve-test` and
launch.sh. A winner with static int8 that was quantised again had no rows to calibrate on, and
crashed.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from commands import STUB
from fakes import host, surroundings
from run_folder import leave_run
from small_model import make_small_model

import autotune as autotune_package
from autotune import demo
from autotune.cli import cli
from autotune.commands import evaluate
from autotune.commands.promise import reopen, score, verify
from autotune.commands.search import context, finish
from autotune.emit.launch_script import LAUNCH_RULE
from autotune.shared.axes import InputArray
from autotune.shared.errors import StackError
from autotune.shared.records import ModelFacts, ModelSource, StackFacts, to_jsonable
from autotune.space import complete
from autotune.store.folder import RunFolder
from autotune.tasks import task_named, workload

SOURCE = ModelSource(path="m", head="h", outputs={"logits": "feature"})
MODES = {"openvino": {"fp32": None, "bf16": None, "int8_static": None}}
FACTS = StackFacts(
    python="python", python_version="3", versions={"torch": "2.8.0"}, ipex=None, modes=MODES
)
INT8 = complete(
    surroundings(), {"mode": "openvino", "precision": "int8_static", "padding": "longest"}
)
MODEL = ModelFacts(
    model_type="bert",
    architecture="A",
    parameters=1,
    attention="sdpa",
    attentions=("sdpa",),
    max_positions=512,
    digest="d",
    labels=(),
)


class Seen(Exception):
    """The inputs with which an engine would be prepared."""

    def __init__(self, inputs):
        self.inputs = inputs


def see(*, inputs, **_):
    raise Seen(inputs)


@pytest.fixture
def run(tmp_path):
    """A run whose winner is OpenVINO's static int8, with its engine and its calibration rows."""
    folder = leave_run(tmp_path / "run")
    best = yaml.safe_load(folder.best.read_text())
    best |= {"config": dict(INT8), "max_seq_length": 64, "doc_stride": 16, "task": "qa"}
    best["stack"]["python"] = str(tmp_path / "python")
    (tmp_path / "python").write_text("")
    folder.best.write_text(yaml.safe_dump(best))
    manifest = json.loads(folder.manifest.read_text())
    manifest["stacks"] = {"default": to_jsonable(FACTS)}
    folder.manifest.write_text(json.dumps(manifest))
    (folder.engine / "default").mkdir(parents=True)
    (folder.engine / "default" / "openvino-sdpa-int8.xml").write_text("")
    folder.calibration.mkdir()
    return folder


def forget(run, *, engine=False, calibration=False):
    """Delete what the run kept."""
    for gone, folder in ((engine, run.engine), (calibration, run.calibration)):
        if gone:
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            folder.rmdir()


ROWS = {
    "qa": (STUB / "questions.json").read_text(),
    "text-classification": '{"sentence": "a plain start", "label": 0}\n',
    "token-classification": '{"tokens": ["plain"], "ner_tags": ["O"]}\n',
}


def evaluated(run, monkeypatch, task="qa", **changes):
    """The inputs of run-qa, run-glue or run-ner with --config on the run."""
    file = run.path.parent / "rows.json"
    file.write_text(ROWS[task])
    best = yaml.safe_load(run.best.read_text())
    run.best.write_text(yaml.safe_dump({**best, "task": task}))
    monkeypatch.setattr(evaluate, "resolve_model", lambda name: str(run.path))
    monkeypatch.setattr(evaluate, "detect", host)
    monkeypatch.setattr(evaluate.stacks, "examine", lambda *_: {"default": FACTS})
    monkeypatch.setattr(evaluate, "start_worker", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(evaluate, "ProcessRunner", see)
    encoded = SimpleNamespace(source=SOURCE, facts=MODEL, expected=None)

    def encode(worker, *, folder, calibration, **_):
        folder.workload.mkdir(parents=True)
        if calibration:
            folder.calibration.mkdir()
        return encoded

    monkeypatch.setattr(evaluate, "encode", encode)
    asked = evaluate.Evaluation(
        task=task,
        model="m",
        dataset=str(file),
        output=run.path.parent / "out",
        flags=evaluate.Flags(),
        config=run.best,
    )
    said = []
    with pytest.raises(Seen) as seen:
        evaluate.evaluate(replace(asked, **changes), said.append)
    return seen.value.inputs, said[-1]


def launched(run):
    """The inputs in launch.jsonl: paths in the run's folder."""
    stack = SimpleNamespace(python="python", versions={}, libiomp5=None)
    search = SimpleNamespace(
        folder=run,
        settings=SimpleNamespace(max_seq_length=64, doc_stride=16, model="m"),
        stacks={"default": stack},
        host=host(),
        workload=SimpleNamespace(
            source=SOURCE, task=task_named("qa"), expected=SimpleNamespace(features=10)
        ),
        objective=SimpleNamespace(by_requests=False),
        pace=SimpleNamespace(launch=LAUNCH_RULE),
    )
    result = SimpleNamespace(best=SimpleNamespace(config=INT8))
    promise = {"median": 1.0, "metrics": {}}
    finish._write_launch_files(search, result, None, promise, finish.engine_by_hand(run, None))
    (first, *_) = run.requests.read_text().splitlines()
    return json.loads(first)["args"]


def reopened(run, monkeypatch):
    """The inputs of `verify`, and those of `run` and `serve-test`."""
    monkeypatch.setattr(reopen, "ProcessRunner", see)
    monkeypatch.setattr(verify, "detect", host)
    monkeypatch.setattr(verify.stacks, "examine", lambda *_: {"default": FACTS})
    monkeypatch.setattr(verify, "model_changed", lambda *_: None)
    with pytest.raises(Seen) as verified:
        verify.verify(run.best, min_speedup=None)
    with pytest.raises(Seen) as ran:
        score.best_runner(reopen.reopen(run), host(), run.path.parent / "work")
    return verified.value.inputs, ran.value.inputs


def test_there_is_one_function_that_makes_the_inputs():
    users = (evaluate, reopen, finish, context)
    assert {user.inputs_of for user in users} == {workload.inputs_of}
    package = Path(autotune_package.__file__).parent
    makers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"(?<![\w.])Inputs\(\s", path.read_text()) and "worker" not in path.parts
    }
    assert makers == {"tasks/workload.py"}


def test_run_verify_and_serve_test_start_from_what_the_run_kept(run, monkeypatch):
    for inputs in reopened(run, monkeypatch):
        assert Path(inputs.cache) == run.engine.resolve()
        assert Path(inputs.calibration) == run.calibration.resolve()


def test_without_an_engine_they_calibrate_on_the_rows_of_the_run(run, monkeypatch):
    forget(run, engine=True)
    for inputs in reopened(run, monkeypatch):
        assert not Path(inputs.cache).is_relative_to(run.path)
        assert Path(inputs.calibration) == run.calibration.resolve()


def test_launch_sh_starts_from_what_the_run_kept(run):
    asked = launched(run)
    assert (asked["cache"], asked["calibration"]) == ("engine/default", "workload/calibration")
    forget(run, engine=True)
    asked = launched(run)
    assert (asked["cache"], asked["calibration"]) == (None, "workload/calibration")


@pytest.mark.parametrize("task", ROWS)
def test_the_example_scripts_start_from_what_the_run_kept(run, monkeypatch, task):
    inputs, said = evaluated(run, monkeypatch, task)
    assert Path(inputs.cache) == run.engine.resolve()
    assert Path(inputs.calibration) == run.calibration.resolve()
    assert said.endswith(f", from the engine in {run.engine}")
    forget(run, engine=True)
    inputs, said = evaluated(run, monkeypatch, task)
    assert not Path(inputs.cache).is_relative_to(run.path)
    assert Path(inputs.calibration) == run.calibration.resolve()
    assert said.endswith(f", calibrated on the rows of {run.calibration}")


@pytest.mark.parametrize("task", ROWS)
def test_where_neither_is_there_one_line_asks_for_calibration(run, monkeypatch, task):
    forget(run, engine=True, calibration=True)
    with pytest.raises(StackError, match=r"^no rows to calibrate on: pass --calibration DATASET"):
        evaluated(run, monkeypatch, task)
    file = run.path.parent / "calibration.json"
    file.write_text(ROWS[task].replace("plain", "other").replace('"id": "', '"id": "c'))
    if task == "qa":
        rows = json.loads(file.read_text())
        for row in rows["data"] if isinstance(rows, dict) else rows:
            row["question"] = "Another question?"
        file.write_text(json.dumps(rows))
    inputs, _ = evaluated(run, monkeypatch, task, calibration=str(file))
    assert inputs.calibration is not None
    assert not Path(inputs.calibration).is_relative_to(run.path)


def test_rows_that_are_given_win_over_the_engine_that_was_kept(run, monkeypatch):
    """The user asks to calibrate anew, so the engine of other rows is left alone."""
    file = run.path.parent / "calibration.json"
    rows = json.loads(ROWS["qa"])
    for row in rows["data"] if isinstance(rows, dict) else rows:
        row["question"] = "Another question?"
    file.write_text(json.dumps(rows))
    inputs, said = evaluated(run, monkeypatch, calibration=str(file))
    assert not Path(inputs.cache).is_relative_to(run.path)
    assert not Path(inputs.calibration).is_relative_to(run.path)
    assert "engine in" not in said


def test_another_model_never_gets_the_engine_of_the_run(run, monkeypatch):
    """It would answer as the model of the run."""
    manifest = json.loads(run.manifest.read_text())
    manifest["model"]["digest"] = "another"
    run.manifest.write_text(json.dumps(manifest))
    with pytest.raises(StackError, match="pass --calibration"):
        evaluated(run, monkeypatch)


def test_another_interpreter_calibrates_on_the_rows_of_the_run(run):
    """It may have another version of the library that wrote the engine."""
    best = run.best.read_text()
    chosen = evaluate.read_config(run.best, task_named("qa"))
    assert evaluate.kept_for(chosen, MODEL, "default", chosen.python).engine == run.engine
    kept = evaluate.kept_for(chosen, MODEL, "default", "another python")
    assert (kept.engine, kept.calibration) == (None, run.calibration)
    elsewhere = run.path.parent / "best.yaml"  # copied without its run
    elsewhere.write_text(best)
    chosen = evaluate.read_config(elsewhere, task_named("qa"))
    assert evaluate.kept_for(chosen, MODEL, "default", chosen.python) == workload.NOTHING_KEPT


@pytest.mark.parametrize(
    ("command", "task"),
    [
        ("run-qa", "qa"),
        ("run-glue", "text-classification"),
        ("run-ner", "token-classification"),
    ],
)
def test_the_three_commands_are_one_evaluation(command, task, monkeypatch, tmp_path):
    asked = []

    def stop(evaluation, announce):
        asked.append(evaluation)
        raise StackError(workload.UNCALIBRATED)

    monkeypatch.setattr(evaluate, "evaluate", stop)
    files = ("--validation_file", "d.json", "--config", "b.yaml", "--calibration", "c.json")
    words = (command, "--model_name_or_path", "m", "--do_eval", "--output_dir", "o", *files)
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2
    assert "pass --calibration DATASET" in done.output
    assert len(done.output.splitlines()) == 1
    (evaluation,) = asked
    assert (evaluation.task, evaluation.calibration) == (task, "c.json")
    assert evaluation.config == Path("b.yaml")


def test_only_static_int8_needs_rows():
    def reason(config, calibration=None, kept=workload.NOTHING_KEPT):
        return workload.uncalibrated(config, SimpleNamespace(calibration=calibration), kept)

    assert reason(INT8) == workload.UNCALIBRATED
    assert reason(INT8, calibration="rows") is None
    assert reason(INT8, kept=workload.Kept(engine=Path("engine"))) is None
    assert reason(complete(surroundings(), {"mode": "openvino", "precision": "fp32"})) is None


def test_an_engine_never_quantises_without_rows():
    """nncf says "Subset size must be positive" to no rows, and others quantise at random."""
    from autotune.shared.errors import TrialFailure
    from autotune.worker.engines.base import Material

    material = Material(
        source=SOURCE,
        arrays=(InputArray(name="input_ids"),),
        samples=(),
        calibration=(),
        threads=1,
        instruction_sets=frozenset(),
        cache=Path(),
    )
    with pytest.raises(TrialFailure, match=r"unsupported: static int8 has no rows .*--calibration"):
        material.calibration_rows()
    rows = [{"input_ids": np.ones((1, 3), np.int64)}]
    assert replace(material, calibration=rows).calibration_rows() == rows


@pytest.mark.full
@pytest.mark.model
def test_run_qa_runs_a_winner_with_static_int8(autotune, tmp_path):
    """nncf ended it with "Subset size must be positive"."""
    for package in ("openvino", "nncf"):
        pytest.importorskip(package)
    model = make_small_model(tmp_path / "model")
    searched = autotune(
        *("search", "--model", model, "--dataset", demo.DATASET, "--max-samples", "12"),
        *("--calibration", demo.CALIBRATION, "--accept-degenerate", "--max-accuracy-drop", "99%"),
        *("--set", "mode=openvino", "--set", "precision=int8_static"),
        *("--set", "padding=length_sorted", "--trials", "2"),
        *("--output", "run"),
    )
    assert searched.returncode == 0, searched.stderr
    kept = RunFolder(tmp_path / "run")
    best = yaml.safe_load(kept.best.read_text())
    assert best["config"]["precision"] == "int8_static"
    assert "INFERENCE_PRECISION_HINT" in best["engine"]["properties"]
    assert any(file.endswith(".xml") for file in best["engine"]["files"])
    assert all((kept.path / file).is_file() for file in best["engine"]["files"])
    command = (
        *("run-qa", "--model_name_or_path", model, "--validation_file", demo.DATASET),
        *("--do_eval", "--max_eval_samples", "4", "--config", "run", "--output_dir", "out"),
    )
    done = autotune(*command)
    assert done.returncode == 0, done.stderr
    assert f", from the engine in {kept.engine.relative_to(tmp_path)}" in done.stderr
    forget(kept, engine=True)
    done = autotune(*command)
    assert done.returncode == 0, done.stderr
    assert ", calibrated on the rows of run/workload/calibration" in done.stderr
    forget(kept, calibration=True)
    done = autotune(*command)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("autotune: ")]
    assert "pass --calibration DATASET" in line
