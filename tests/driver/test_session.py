"""Several workers that get one request together, and of which some misbehave."""

from __future__ import annotations

import fcntl
import itertools
import os
import sys
import textwrap
import time

import pytest
from test_process import PRELUDE

from autotune.driver.channel import Channel, WorkerFailed, receive_all
from autotune.driver.command import Command
from autotune.driver.process import WorkerProcess
from autotune.driver.session import Session

WAITING = "time.sleep(600)"  # for the other one, as instances of a group do


@pytest.fixture
def session(tmp_path, monkeypatch):
    monkeypatch.setattr("autotune.driver.process.EXIT_GRACE_S", 0.2)
    opened = []

    def start(*bodies, timeout_s=60.0, max_memory_bytes=None):
        workers = []
        for number, body in enumerate(bodies):
            script = tmp_path / f"worker-{number}.py"
            script.write_text(PRELUDE + textwrap.dedent(body))
            command = Command(argv=(sys.executable, str(script)), variables={})
            workers.append(WorkerProcess(command, workdir=tmp_path / str(number), caller={}))
        opened.append(Session((), workers, tmp_path / "session", timeout_s, max_memory_bytes))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_replies_are_in_the_order_of_the_workers(session):
    assert session("time.sleep(0.3); reply(ok=0)", "reply(ok=1)").ask("x", {}) == [0, 1]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("sys.exit(3)", "crash"),
        ("reply(failure={'kind': 'inaccurate', 'detail': ''}); time.sleep(600)", "inaccurate"),
        ("replies.close(); requests.close(); time.sleep(600)", "crash"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "out-of-memory"),
        ("replies.write('garbage\\n'); time.sleep(600)", "protocol"),
    ],
)
def test_the_first_that_fails_ends_the_wait_for_all(session, body, kind, first):
    bodies = (body, WAITING) if first else (WAITING, body)
    start = time.monotonic()
    with pytest.raises(WorkerFailed) as caught:
        session(*bodies).ask("x", {})
    assert caught.value.failure.kind == kind
    assert time.monotonic() - start < 20  # the timeout is 60 s


def test_one_that_never_answers_is_a_timeout(session):
    with pytest.raises(WorkerFailed) as caught:
        session("reply(ok=1)", WAITING, timeout_s=0.5).ask("x", {})
    assert caught.value.failure.kind == "timeout"


def test_descriptors_of_many_pipes_are_waited_for():
    """`select` would refuse descriptors from 1024 on."""
    ends = [*os.pipe(), *os.pipe()]
    high = [fcntl.fcntl(end, fcntl.F_DUPFD, 1500) for end in ends]
    channel = Channel(high[1], high[2], explain_exit=None, end_worker=None)
    channel.send("x", {})
    os.write(ends[3], b'{"id": 1, "ok": 5}\n')
    assert receive_all([channel], timeout_s=5.0) == [5]
    channel.close()
    for end in itertools.chain(ends, (high[0], high[3])):
        os.close(end)


SHARED_PAGES = """
data = bytearray(os.urandom(1 << 20) * 64)
others = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    others.append(pid)
reply(ok=others)
time.sleep(600)
"""


def proportional(pid):
    with open(f"/proc/{pid}/smaps") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Pss:")) * 1024


def test_a_page_that_processes_share_counts_once(session):
    """64 MiB that four processes share count 16 MiB for each of them."""
    worker = session(SHARED_PAGES).workers[0]
    worker.request("x", {}, timeout_s=20)
    assert worker.resident_bytes > 64 * 2**20
    assert worker.proportional_bytes == pytest.approx(proportional(worker.pid), abs=2**20)
    assert worker.proportional_bytes < 0.6 * worker.resident_bytes


@pytest.mark.parametrize(("own_gib", "kind"), [(2.0, "timeout"), (2.5, "out-of-memory")])
def test_a_memory_limit_counts_shared_pages_once(session, own_gib, kind):
    """Two workers hold 3 GiB each, and the limit is 4 GiB; of shared pages each holds its part."""
    waiting = session(WAITING, WAITING, timeout_s=1.0, max_memory_bytes=4 * 2**30)

    class Worker:
        def __init__(self, worker):
            self.channel, self.send, self.close = worker.channel, worker.send, worker.close
            self.resident_bytes, self.proportional_bytes = 3 * 2**30, int(own_gib * 2**30)

    waiting.workers[:] = map(Worker, waiting.workers)
    with pytest.raises(WorkerFailed) as caught:
        waiting.ask("x", {})
    assert caught.value.failure.kind == kind
