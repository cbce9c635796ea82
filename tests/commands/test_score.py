from __future__ import annotations

import json

import numpy as np
import pytest
from fakes import measurement
from qa_rows import ROWS
from run_folder import TASK, leave_run

from autotune.cli.run import _show_score
from autotune.commands.promise.score import score
from autotune.shared.errors import ResumeError, SearchError
from autotune.shared.records import dumps


@pytest.fixture
def run(tmp_path):
    folder = leave_run(tmp_path / "run")
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
    with pytest.raises(ResumeError, match="holds no finished run"):
        score(folder, work)


@pytest.mark.parametrize(("late_s", "ratio"), [(0.05, 1.0), (0.2, 0.5)])
def test_requests_at_the_promised_rate_are_judged_by_their_latency(tmp_path, run, late_s, ratio):
    _, work = run
    folder = leave_run(tmp_path / "served", objective="server-100ms", median=40.0)
    replies = work / "0" / "replies.jsonl"
    served = {"latency_s": [late_s] * 50, "batches": [1] * 50}
    replies.write_text(replies.read_text() + json.dumps({"id": 3, "ok": served}) + "\n")
    found = score(folder, work)
    assert found.objective == "server-100ms"
    assert found.measured.median == pytest.approx(40.0 * ratio)
    assert found.ratio == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("pass_s", "words"),
    [
        (1.0, "ratio 2.500: better than promised, the intervals do not overlap"),
        (10.0, "ratio 0.250: worse than promised, the intervals do not overlap"),
        (2.5, "ratio 1.000: as promised, the intervals overlap"),
    ],
)
def test_a_result_that_is_better_than_promised_is_called_better(run, capsys, pass_s, words):
    """The promise is 4.0 examples/s (3.0 to 4.5), and ten examples take `pass_s`."""
    folder, work = run
    replies = [{"id": 1, "ok": {}}, {"id": 2, "ok": json.loads(dumps(measurement(pass_s)))}]
    file = work / "0" / "replies.jsonl"
    file.write_text("".join(json.dumps(reply) + "\n" for reply in replies))
    _show_score(score(folder, work), as_json=False)
    assert words in capsys.readouterr().out
