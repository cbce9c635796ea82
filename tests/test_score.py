from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from fakes import measurement
from qa_rows import ROWS

from autotune.errors import ResumeError, SearchError
from autotune.folder import RunFolder
from autotune.records import dumps
from autotune.score import score
from autotune.tasks import task_named

TASK = task_named("qa")


@pytest.fixture
def run(tmp_path):
    """A run of ten one-token questions, each answered by its whole context."""
    folder = RunFolder(tmp_path / "run")
    folder.workload.mkdir(parents=True)
    folder.write_manifest({"workload": {"task": "qa"}})
    TASK.write(ROWS, folder.data)
    np.savez(
        folder.workload / "features.npz",
        lengths=np.ones(10, np.int32),
        example=np.arange(10, dtype=np.int32),
        offsets=np.tile(np.array([[0, 3]], np.int32), (10, 1)),
    )
    promise = {
        "objective": "throughput",
        "median": 4.0,
        "low": 3.0,
        "high": 4.5,
        "coverage": 0.75,
        "samples": 3,
        "metrics": {"f1": 100.0, "exact_match": 100.0},
    }
    folder.best.write_text(yaml.safe_dump({"promise": promise}))
    work = tmp_path / "work"
    (work / "0").mkdir(parents=True)
    zeros = np.zeros(10, np.float32)
    np.savez(work / "0" / "outputs.npz", start_logits=zeros, end_logits=zeros)
    replies = [{"id": 1, "ok": {}}, {"id": 2, "ok": json.loads(dumps(measurement(2.0)))}]
    (work / "0" / "replies.jsonl").write_text("".join(json.dumps(r) + "\n" for r in replies))
    return folder, work


def test_speed_and_metrics_stand_beside_the_promise(run):
    found = score(*run)
    assert found.measured.median == pytest.approx(5.0)
    assert found.ratio == pytest.approx(1.25)
    assert not found.consistent  # 5.0 three times, against 3.0 to 4.5
    assert found.metrics == {"f1": 100.0, "exact_match": 100.0}
    assert found.same_metrics


def test_another_answer_is_noticed(run):
    folder, work = run
    rows = [{**row, "answers": {"text": ["no"], "answer_start": [0]}} for row in ROWS]
    TASK.write(rows, folder.data)
    assert not score(folder, work).same_metrics


def test_a_worker_that_failed_is_reported_with_its_words(run):
    folder, work = run
    failure = {"id": 1, "failure": {"kind": "fallback", "detail": "tracing failed"}}
    (work / "0" / "replies.jsonl").write_text(json.dumps(failure) + "\n")
    with pytest.raises(SearchError, match="fallback: tracing failed"):
        score(folder, work)


def test_replies_that_are_missing_are_an_error(run):
    folder, work = run
    (work / "0" / "replies.jsonl").unlink()
    with pytest.raises(SearchError, match="no usable measurement"):
        score(folder, work)


def test_a_damaged_run_is_an_error(run):
    folder, work = run
    folder.best.write_text("promise: [")
    with pytest.raises(ResumeError, match="is damaged"):
        score(folder, work)
