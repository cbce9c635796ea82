"""The runner's sessions, and its checks of replies that are well-formed JSON but wrong."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace

import numpy as np
import pytest
from fakes import host, measurement

from autotune.driver.channel import Channel, WorkerFailed
from autotune.driver.replies import Expected, read_outputs
from autotune.driver.runner import Inputs, ProcessRunner
from autotune.search.objective import Latency, Throughput
from autotune.shared.records import (
    Config,
    Failure,
    ModelSource,
    Pass,
    ServedRequests,
    StackFacts,
    to_jsonable,
)
from autotune.shared.stopping import StoppingRule, rule_per_instance
from autotune.store.wire import WireError

OUTPUTS = {"start": "batch width", "label": "batch"}
EXPECTED = Expected(examples=10, features=10, tokens=10)


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


GOOD = {"start": np.zeros(10, np.float32), "label": np.zeros((10, 2), np.float32)}


def test_outputs_that_fit_are_read(tmp_path):
    found = read_outputs([write(tmp_path / "o.npz", **GOOD)], OUTPUTS, EXPECTED)
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
        read_outputs([path], OUTPUTS, EXPECTED)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 garbage", b"\x93NUMPY"])
def test_output_files_that_are_not_archives_are_refused(tmp_path, content):
    path = tmp_path / "o.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WireError, match="cannot be read"):
        read_outputs([path], OUTPUTS, EXPECTED)


ANSWER_S = 0.02
"""Seconds until a worker answers; the runner looks at its memory meanwhile."""
SOURCE = ModelSource(path="m", head="H", outputs=OUTPUTS)
STACKS = {"default": StackFacts(python="python", python_version="3.11", versions={}, ipex=None)}
GIVEN = {"stack": "default", "interop_threads": 1, "flush_denormals": False}


def session_config(mode: str = "eager", **knobs) -> Config:
    values = {"mode": mode, "threads": 2, "instances": 1, "batch_size": 1, "padding": "longest"}
    return Config.of({**GIVEN, **values, **knobs})


class Worker:
    """A stand-in for WorkerProcess that answers `measure` with `reply`."""

    def __init__(self, workdir, reply):
        workdir.mkdir(parents=True)
        write(workdir / "outputs.npz", **GOOD)
        self.workdir, self.reply, self.log, self.closed = workdir, reply, "the log", 0
        self.asked = []
        self.resident_bytes = self.proportional_bytes = 2**30
        replies, self._answer_to = os.pipe()
        self.channel = Channel(
            os.open(os.devnull, os.O_WRONLY), replies, explain_exit=None, end_worker=self.close
        )

    def send(self, op, arguments):
        self.asked.append((op, arguments))
        self.channel.send(op, arguments)
        content = {"ok": self.reply}
        if isinstance(self.reply, Failure):
            content = {"failure": to_jsonable(self.reply)}
        elif op == "open":
            content = {"ok": {"phases_s": {"import": 1.0, "prepare": 2.0}, "files": []}}
        reply = json.dumps({"id": len(self.asked), **content})
        threading.Timer(ANSWER_S, os.write, (self._answer_to, f"{reply}\n".encode())).start()

    def close(self):
        self.closed += 1


@pytest.fixture
def make_runner(tmp_path, monkeypatch):
    """A function that returns a runner, the workers it has started, and a list of replies.

    The host has 16 GiB. Each new worker takes the first of the replies.
    """
    started, replies = [], []

    def start(command, *, workdir, meeting_folder):
        reply = replies.pop(0) if replies else to_jsonable(measurement(2.0))
        started.append(Worker(workdir, reply))
        return started[-1]

    monkeypatch.setattr("autotune.driver.runner.WorkerProcess", start)

    def make(max_memory_bytes=None):
        runner = ProcessRunner(
            host=host(),
            stacks=STACKS,
            inputs=Inputs(source=SOURCE, features="f", calibration=None, instruction_sets=()),
            expected=EXPECTED,
            workdir=tmp_path / "work",
            timeout_s=1,
            max_memory_bytes=max_memory_bytes,
        )
        return runner, started, replies

    return make


@pytest.fixture
def sessions(make_runner):
    """`make_runner` without a memory limit."""
    return make_runner()


@pytest.fixture
def run(sessions):
    runner, started, replies = sessions

    def go(reply, **knobs):
        replies.append(reply)
        return runner.run(session_config(**knobs), StoppingRule()), started[-1]

    return go


def test_a_valid_reply_leaves_the_session_open(run):
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
        ({"passes": ()}, "has no passes"),
        ({"peak_rss_bytes": "much"}, "peak_rss_bytes"),
    ],
)
def test_a_reply_that_contradicts_the_workload_is_a_protocol_failure(run, change, words):
    outcome, worker = run(to_jsonable(replace(measurement(2.0), **change)))
    assert outcome.measurement is None
    assert outcome.failure.kind == "protocol"
    assert words in outcome.failure.detail
    assert worker.closed


@pytest.mark.parametrize(
    ("effective", "knobs", "words"),
    [
        ({"threads": 1}, {}, "asked for threads 2, in effect is 1"),
        ({"allocator": "jemalloc"}, {}, "asked for allocator default, in effect is jemalloc"),
        ({"cpus": "0"}, {}, "asked for 2 threads, on 1 CPUs"),
        ({"cpus": "0,3"}, {"pinning": "compact"}, "asked for cpus 0,1, in effect is 0,3"),
    ],
)
def test_a_setting_that_is_not_in_effect_is_a_fallback(run, effective, knobs, words):
    lie = measurement(2.0)
    lie = replace(lie, effective={**lie.effective, **effective})
    outcome, worker = run(to_jsonable(lie), **knobs)
    assert outcome.failure == Failure(kind="fallback", detail=words)
    assert worker.closed


def test_a_library_the_stack_lacks_is_unsupported(sessions):
    outcome = sessions[0].run(session_config(openmp="intel"), StoppingRule())
    assert outcome.failure.kind == "unsupported"


def test_a_failure_comes_with_the_workers_log(run):
    outcome, worker = run(Failure(kind="fallback", detail="tracing failed"))
    assert outcome.failure == Failure(kind="fallback", detail="tracing failed", preparing=True)
    assert outcome.log == "the log"
    assert worker.closed


def test_points_share_a_session_and_another_engine_ends_it(sessions):
    runner, started, _ = sessions
    for config in (session_config(), session_config(batch_size=2), session_config("jit")):
        runner.run(config, StoppingRule())
    assert [worker.closed for worker in started] == [1, 0]
    assert [session.workers for session in runner.open_sessions] == [[started[1]]]
    assert not started[0].workdir.exists()


def test_sessions_to_keep_stay_open_side_by_side_until_close(sessions):
    runner, started, _ = sessions
    eager, jit = session_config(), session_config("jit")
    runner.keep_open([eager, jit])
    for config in (eager, jit, jit, eager):
        runner.run(config, StoppingRule())
    assert [worker.closed for worker in started] == [0, 0]
    runner.close()
    assert [worker.closed for worker in started] == [1, 1]


def test_sessions_too_large_for_memory_together_are_not_kept_open(sessions):
    runner, started, _ = sessions
    configs = [session_config(), session_config("jit")]
    for config in configs:
        runner.run(config, StoppingRule())
        started[-1].reply["peak_rss_bytes"] = 2**33
        runner.run(config, StoppingRule())
    runner.close()
    runner.keep_open(configs)
    for config in (*configs, *configs):
        runner.run(config, StoppingRule())
    assert [worker.closed for worker in started[2:]] == [1, 1, 1, 0]


def instance(index, pass_s, *, released_s, digest="0" * 64, passes=3):
    one = measurement(pass_s, passes=passes)
    return replace(
        one,
        passes=tuple(replace(p, instance=index) for p in one.passes),
        effective={**one.effective, "released_s": released_s},
        outputs_digest=digest,
    )


def test_instances_add_their_throughput_and_the_slowest_gives_the_latency(sessions):
    runner, started, replies = sessions
    replies += [to_jsonable(instance(0, 2.0, released_s=10.0))]
    replies += [to_jsonable(instance(1, 4.0, released_s=10.02, passes=5))]
    outcome = runner.run(session_config(instances=2), StoppingRule(leader_s=1.0))
    found = outcome.measurement
    assert Throughput().value(found) == pytest.approx(10 / 2.0 + 10 / 4.0)
    assert Latency().value(found) == pytest.approx(0.4)
    assert found.effective["release_spread_s"] == pytest.approx(0.02)
    assert found.peak_rss_bytes == 2**31
    assert found.outputs_repeatable
    rules = [worker.asked[1][1]["rule"]["leader_s"] for worker in started]
    assert rules == [2.0, 2.0]  # twice the time: each instance has half of the machine


def test_instances_that_answer_differently_are_not_repeatable(sessions):
    runner, _, replies = sessions
    replies += [to_jsonable(instance(0, 2.0, released_s=1.0))]
    replies += [to_jsonable(instance(1, 2.0, released_s=1.0, digest="1" * 64))]
    outcome = runner.run(session_config(instances=2), StoppingRule())
    assert not outcome.measurement.outputs_repeatable


def test_a_failing_instance_ends_all_instances(sessions):
    runner, started, replies = sessions
    replies += [to_jsonable(measurement(2.0)), Failure(kind="crash", detail="boom")]
    outcome = runner.run(session_config(instances=2), StoppingRule())
    assert outcome.failure.kind == "crash"
    assert [worker.closed for worker in started] == [1, 1]


def test_outputs_of_instances_that_share_the_rows_are_merged(sessions):
    runner, started, replies = sessions
    whole = measurement(2.0)
    for index in range(2):
        own = tuple(replace(p, instance=index, share=0.5, batch_s=(0.2,) * 5) for p in whole.passes)
        part = replace(
            instance(index, 2.0, released_s=1.0, digest=str(index) * 64),
            passes=own,
            batch_features=(1,) * 5,
        )
        replies.append(to_jsonable(part))
    config = session_config(instances=2)
    outcome = runner.run(config, StoppingRule())
    assert outcome.failure is None
    for worker, mine in zip(started, (slice(0, None, 2), slice(1, None, 2)), strict=True):
        parts = {name: np.full_like(array, np.nan) for name, array in GOOD.items()}
        for name, array in GOOD.items():
            parts[name][mine] = array[mine]
        write(worker.workdir / "outputs.npz", **parts)
    outcome = runner.run(config, StoppingRule())
    found = outcome.measurement
    assert found.whole
    assert found.outputs_repeatable
    assert found.batch_features == (1,) * 10
    assert Throughput().value(found) == pytest.approx(2 * 10 / 2.0)
    for name, array in GOOD.items():
        assert np.array_equal(outcome.outputs[name], array)
    write(
        started[1].workdir / "outputs.npz", **{n: np.full_like(a, np.nan) for n, a in GOOD.items()}
    )
    assert "holds NaN" in runner.run(config, StoppingRule()).failure.detail


def test_the_leaders_time_is_scaled_by_the_number_of_instances():
    rule = StoppingRule(min_passes=3, leader_s=1.5)
    assert rule_per_instance(rule, 1) == rule
    assert rule_per_instance(rule, 2) == replace(rule, leader_s=3.0)
    assert rule_per_instance(StoppingRule(min_passes=2), 4) == StoppingRule(min_passes=2)


@pytest.mark.parametrize(("max_gib", "kind"), [(None, None), (3, None), (1.9, "out-of-memory")])
def test_workers_that_use_more_memory_than_allowed_are_ended(make_runner, max_gib, kind):
    runner, started, replies = make_runner(None if max_gib is None else int(max_gib * 2**30))
    replies += [to_jsonable(instance(index, 2.0, released_s=1.0)) for index in range(2)]
    outcome = runner.run(session_config(instances=2), StoppingRule())
    assert (outcome.failure.kind if outcome.failure else None) == kind
    assert [worker.closed for worker in started] == [int(kind is not None)] * 2
    if outcome.failure:
        assert outcome.failure.detail == "2.0 GiB in use, --max-memory is 1.9 GiB"


def test_a_peak_between_two_memory_checks_counts_too(make_runner):
    runner, _, replies = make_runner(2**31)
    replies.append(to_jsonable(replace(measurement(2.0), peak_rss_bytes=2**32)))
    assert runner.run(session_config(), StoppingRule()).failure.detail.startswith("4.0 GiB in use")


def served_reply(count):
    return {"latency_s": [0.1] * count, "batches": [1] * count}


def test_instances_take_requests_in_turn_and_latencies_keep_the_order_of_requests(sessions):
    runner, started, replies = sessions
    replies += [to_jsonable(instance(i, 2.0, released_s=1.0)) for i in (0, 1)]
    config = session_config(instances=2)
    runner.run(config, StoppingRule())
    started[0].reply = {"latency_s": [0.1, 0.3], "batches": [2], "unmet": 1}
    started[1].reply = {"latency_s": [0.2], "batches": [1], "unmet": 1}
    served = runner.serve(config, [7, 8, 9], [0.0, 1.0, 2.0])
    assert served == ServedRequests(latency_s=(0.1, 0.2, 0.3), batches=(2, 1), unmet=2)
    assert [worker.asked[-1][1]["rows"] for worker in started] == [[7, 9], [8]]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (served_reply(2), "protocol"),
        (served_reply(3) | {"batches": [2]}, "protocol"),
        ({}, "protocol"),
        (Failure(kind="timeout", detail="slow"), "timeout"),
    ],
)
def test_a_worker_that_does_not_answer_every_request_ends_the_session(sessions, reply, kind):
    runner, started, _ = sessions
    config = session_config()
    runner.run(config, StoppingRule())
    started[0].reply = reply
    with pytest.raises(WorkerFailed) as failed:
        runner.serve(config, [1, 2, 3], [0.0, 1.0, 2.0])
    assert failed.value.failure.kind == kind
    assert failed.value.log == started[0].log
    assert started[0].closed
