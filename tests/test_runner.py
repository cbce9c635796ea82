"""Replies that are well-formed JSON and still wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fakes import host, measurement

from autotune.process import WorkerFailed
from autotune.records import Config, Failure, Measure, ModelSource, Pass, to_jsonable
from autotune.runner import Expected, ProcessRunner, read_outputs
from autotune.wire import WireError

KINDS = {"start": "token", "label": "feature"}
EXPECTED = Expected(examples=10, features=10, tokens=10)


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


GOOD = {"start": np.zeros(10, np.float32), "label": np.zeros((10, 2), np.float32)}


def test_outputs_that_fit_are_read(tmp_path):
    found = read_outputs(write(tmp_path / "o.npz", **GOOD), KINDS, EXPECTED)
    assert {name: array.shape for name, array in found.items()} == {
        "start": (10,),
        "label": (10, 2),
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"start": np.zeros(9, np.float32)}, "start must be float32 of 10 rows"),
        ({"start": np.zeros(10, np.float64)}, "start must be float32"),
        ({"label": np.full((10, 2), np.nan, np.float32)}, "label holds NaN"),
        ({"label": np.array([object()] * 10)}, "cannot be read"),
        ({"label": np.float32(1)}, "label must be float32"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(tmp_path, change, words):
    path = write(tmp_path / "o.npz", **{**GOOD, **change})
    with pytest.raises(WireError, match=words):
        read_outputs(path, KINDS, EXPECTED)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 garbage", b"\x93NUMPY"])
def test_outputs_that_are_no_archive_are_refused(tmp_path, content):
    path = tmp_path / "o.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WireError, match="cannot be read"):
        read_outputs(path, KINDS, EXPECTED)


class Worker:
    """In the place of a process: answers `measure` with what it was given."""

    def __init__(self, workdir, reply):
        self.workdir, self.reply, self.log, self.closed = workdir, reply, "the log", 0

    def request(self, op, arguments, *, timeout_s):
        if isinstance(self.reply, Failure):
            raise WorkerFailed(self.reply)
        return self.reply

    def close(self):
        self.closed += 1


@pytest.fixture
def run(tmp_path, monkeypatch):
    def go(reply):
        (tmp_path / "session").mkdir()
        write(tmp_path / "session" / "outputs.npz", **GOOD)
        worker = Worker(tmp_path / "session", reply)
        monkeypatch.setattr("autotune.runner.WorkerProcess", lambda *a, **k: worker)
        runner = ProcessRunner(
            host=host(),
            python="python",
            source=ModelSource(path="m", head="H", outputs=KINDS),
            features=tmp_path,
            expected=EXPECTED,
            workdir=tmp_path,
            timeout_s=1,
        )
        config = Config.of({"mode": "eager", "threads": 1, "batch_size": 1, "padding": "longest"})
        return runner.run(config, Measure()), worker

    return go


def test_a_good_reply_keeps_its_session(run):
    outcome, worker = run(to_jsonable(measurement(2.0)))
    assert outcome.measurement == measurement(2.0)
    assert worker.closed == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"examples": 9}, "expected Expected"),
        ({"batch_features": (2,) * 5}, "passes of"),
        ({"batch_features": (1,) * 9}, "do not hold every feature"),
        ({"passes": (Pass(batch_s=(0.1,) * 9),)}, "passes of"),
        ({"passes": (Pass(batch_s=(0.0,) * 10),)}, "took no time"),
        ({"passes": (Pass(batch_s=(-1.0,) * 10),)}, "took no time"),
        ({"passes": ()}, "of no passes"),
        ({"peak_rss_bytes": "much"}, "peak_rss_bytes"),
    ],
)
def test_a_reply_that_contradicts_the_workload_is_a_protocol_failure(run, change, words):
    outcome, worker = run(to_jsonable(replace(measurement(2.0), **change)))
    assert outcome.measurement is None
    assert outcome.failure.kind == "protocol"
    assert words in outcome.failure.detail
    assert worker.closed


def test_a_failure_brings_the_workers_log(run):
    outcome, worker = run(Failure(kind="fallback", detail="tracing failed"))
    assert outcome.failure == Failure(kind="fallback", detail="tracing failed")
    assert outcome.log == "the log"
    assert worker.closed


@pytest.fixture
def sessions(tmp_path, monkeypatch):
    """A runner on a host of 16 GiB, and the workers it starts, in order."""
    started = []

    def start(command, *, workdir):
        workdir.mkdir(parents=True)
        write(workdir / "outputs.npz", **GOOD)
        started.append(Worker(workdir, to_jsonable(measurement(2.0))))
        return started[-1]

    monkeypatch.setattr("autotune.runner.WorkerProcess", start)
    runner = ProcessRunner(
        host=host(),
        python="python",
        source=ModelSource(path="m", head="H", outputs=KINDS),
        features=tmp_path,
        expected=EXPECTED,
        workdir=tmp_path / "work",
        timeout_s=1,
    )
    return runner, started


def session_config(mode: str, batch_size: int = 1) -> Config:
    values = {"mode": mode, "threads": 1, "batch_size": batch_size, "padding": "longest"}
    return Config.of(values)


def test_points_share_a_session_and_another_engine_ends_it(sessions):
    runner, started = sessions
    for config in (session_config("eager"), session_config("eager", 2), session_config("jit")):
        runner.run(config, Measure())
    assert [worker.closed for worker in started] == [1, 0]
    assert not started[0].workdir.exists()


def test_sessions_to_keep_stay_open_side_by_side_until_close(sessions):
    runner, started = sessions
    eager, jit = session_config("eager"), session_config("jit")
    runner.keep([eager, jit])
    for config in (eager, jit, jit, eager):
        runner.run(config, Measure())
    assert [worker.closed for worker in started] == [0, 0]
    runner.close()
    assert [worker.closed for worker in started] == [1, 1]


def test_sessions_that_do_not_fit_in_memory_together_take_turns(sessions):
    runner, started = sessions
    configs = [session_config("eager"), session_config("jit")]
    for config in configs:
        runner.run(config, Measure())
        started[-1].reply["peak_rss_bytes"] = 2**33
        runner.run(config, Measure())
    runner.close()
    runner.keep(configs)
    for config in (*configs, *configs):
        runner.run(config, Measure())
    assert [worker.closed for worker in started[2:]] == [1, 1, 1, 0]
