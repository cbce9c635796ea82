"""Misbehaving workers: small scripts that stand in for the real worker."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from pathlib import Path

import pytest

from autotune.driver.channel import WorkerFailed
from autotune.driver.command import Command
from autotune.driver.process import WorkerProcess

PRELUDE = """
import argparse, json, os, signal, sys, time
p = argparse.ArgumentParser()
for name in ("requests", "replies", "workdir", "parent"):
    p.add_argument("--" + name)
o = p.parse_args()
requests, replies = os.fdopen(int(o.requests)), os.fdopen(int(o.replies), "w", buffering=1)
request = json.loads(requests.readline())
def reply(**content):
    replies.write(json.dumps({"id": request["id"], **content}) + "\\n")
"""


@pytest.fixture
def worker(tmp_path):
    started = []

    def start(body):
        script = tmp_path / "worker.py"
        script.write_text(PRELUDE + textwrap.dedent(body))
        command = Command(argv=(sys.executable, str(script)), variables={"A": "1"})
        process = WorkerProcess(command, workdir=tmp_path / "work", caller={})
        started.append(process)
        return process

    yield start
    for process in started:
        process.close()


def failure(process, timeout_s=20.0):
    with pytest.raises(WorkerFailed) as caught:
        process.request("measure", {}, timeout_s=timeout_s)
    return caught.value.failure


def test_a_killed_worker_leaves_no_temporary_file(worker, tmp_path):
    """The temporary folder is known, and the shared memory entry of Intel's OpenMP is removed."""
    process = worker(
        """
        import tempfile
        tempfile.mkdtemp()
        name = f"/dev/shm/__KMP_REGISTERED_LIB_{os.getpid()}_{os.getuid()}"
        open(name, "w").close()
        reply(ok=[tempfile.gettempdir(), name])
        time.sleep(600)
        """
    )
    temporary, entry = process.request("x", {}, timeout_s=20)
    assert Path(temporary) == (tmp_path / "work" / "tmp").resolve()
    process.close()
    assert not Path(entry).exists()


def test_a_reply_is_returned(worker):
    assert worker("reply(ok={'speed': 3})").request("x", {}, timeout_s=20) == {"speed": 3}


def test_standard_output_is_not_a_reply(worker):
    process = worker('print(\'{"id": 1, "ok": 0}\', flush=True); reply(ok=1)')
    assert process.request("x", {}, timeout_s=20) == 1
    assert '"ok": 0' in process.log


def test_a_typed_failure_keeps_its_kind_and_detail(worker):
    found = failure(worker("reply(failure={'kind': 'fallback', 'detail': 'tracing failed'})"))
    assert (found.kind, found.detail) == ("fallback", "tracing failed")


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("sys.exit(3)", "crash", "code 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crash", "SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGABRT)", "crash", "SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGILL)", "illegal-instruction", "SIGILL"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "out-of-memory", "SIGKILL"),
        ("replies.write('garbage\\n')", "protocol", "not JSON"),
        ("replies.write('[1]\\n')", "protocol", "expected the reply"),
        ('replies.write(\'{"id": 7, "ok": 1}\\n\')', "protocol", "expected the reply to 1"),
        ("reply(ok=1, failure=2)", "protocol", "keys"),
        ("reply(failure={'kind': 'sulk', 'detail': ''})", "protocol", "keys"),
        ('replies.write(\'{"id": 1, "ok": NaN}\\n\')', "protocol", "NaN"),
        ("replies.write('{\"id\": 1'); replies.flush(); sys.exit(0)", "crash", "code 0"),
    ],
)
def test_misbehaviour_has_a_kind_and_a_detail(worker, body, kind, words):
    found = failure(worker(body))
    assert found.kind == kind
    assert words in found.detail


def test_a_missing_reply_is_a_timeout_and_ends_the_worker(worker):
    process = worker("time.sleep(600)")
    assert failure(process, timeout_s=0.5).kind == "timeout"
    assert not os.path.exists(f"/proc/{process.pid}")


def test_a_worker_that_closes_its_pipe_but_runs_on_is_ended(worker, monkeypatch):
    monkeypatch.setattr("autotune.driver.process.EXIT_GRACE_S", 0.2)
    process = worker("replies.close(); requests.close(); time.sleep(600)")
    assert "kept running" in failure(process).detail
    assert not os.path.exists(f"/proc/{process.pid}")


def test_a_flood_on_standard_error_does_not_block(worker):
    process = worker("sys.stderr.write('x' * 10_000_000); reply(ok=1)")
    assert process.request("x", {}, timeout_s=20) == 1
    assert len(process.log) <= 4000


def test_children_of_a_worker_end_with_it(worker, tmp_path):
    process = worker(
        """
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
        reply(ok=pid)
        """
    )
    child = process.request("x", {}, timeout_s=20)
    process.close()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        state = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if state == "Z":  # ended; whoever adopted it has not reaped it yet
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{child}").exists()


def test_a_worker_sees_only_the_environment_it_was_given(worker, monkeypatch):
    monkeypatch.setenv("SECRET", "1")
    seen = worker("reply(ok=dict(os.environ))").request("x", {}, timeout_s=20)
    assert seen["A"] == "1"
    assert "SECRET" not in seen


def test_a_python_that_does_not_exist_is_an_os_error_and_leaves_no_descriptors(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="nowhere"):
        WorkerProcess(Command(argv=("/nowhere/python",), variables={}), workdir=tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_closing_twice_is_allowed(worker):
    process = worker("reply(ok=1)")
    process.close()
    process.close()


def test_only_a_process_that_was_not_reaped_is_killed(worker, monkeypatch):
    """The kernel may have given the id of a reaped process to another one."""
    process = worker("sys.exit(3)")
    kill = os.killpg

    def checked(pid, signal):
        assert Path(f"/proc/{pid}").exists()
        kill(pid, signal)

    monkeypatch.setattr(os, "killpg", checked)
    assert failure(process).kind == "crash"
    process.close()
    process.close()
