"""Forked workers: as good as fresh ones, and gone when they should be."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from autotune.driver.channel import WorkerFailed
from autotune.driver.command import WORKER, Command
from autotune.driver.forkserver import ForkServers

COMMAND = Command(argv=(sys.executable, "-P", str(WORKER)), variables={"OMP_NUM_THREADS": "1"})
MODULES = ("autotune.worker.operations",)


@pytest.fixture
def parents(tmp_path, monkeypatch):
    monkeypatch.setattr("autotune.driver.forkserver.MODULES", MODULES)
    with ForkServers(tmp_path / "parents", memory_bytes=2**40) as found:
        yield found


def failure(worker):
    """Of a request that no worker can serve yet."""
    with pytest.raises(WorkerFailed) as caught:
        worker.request("measure", {"point": {}, "rule": {}}, timeout_s=60)
    return caught.value.failure


def forked(worker):
    return worker._process.pid


def alive(pid):
    """Whether it runs; one that nobody has reaped yet does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_the_end_of(pid):
    deadline = time.monotonic() + 20
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_workers_of_one_command_have_one_parent(parents, tmp_path):
    workers = [parents.worker(COMMAND, workdir=tmp_path / str(n)) for n in range(3)]
    assert {failure(worker).kind for worker in workers} == {"protocol"}
    assert len(parents._parents) == 1
    assert len({forked(worker) for worker in workers}) == 3
    (parent,) = parents._parents.values()
    assert parent.workers == {forked(worker) for worker in workers}
    for worker in workers:
        worker.close()
    assert not parent.workers
    assert not any(alive(forked(worker)) for worker in workers)


def test_a_forked_worker_has_the_environment_and_the_log_of_its_own(parents, tmp_path):
    with parents.worker(COMMAND, workdir=tmp_path / "w") as worker:
        failure(worker)
        with open(f"/proc/{forked(worker)}/environ") as file:
            environ = dict(v.split("=", 1) for v in file.read().split("\0") if v)
        assert environ["OMP_NUM_THREADS"] == "1"
        assert os.getpgid(forked(worker)) == forked(worker)
        assert "measure was asked before" in worker.log  # its traceback


@pytest.mark.parametrize(
    ("number", "words"),
    [(signal.SIGSEGV, "killed by SIGSEGV"), (signal.SIGILL, "SIGILL"), (signal.SIGKILL, "memory")],
)
def test_a_signal_is_told_as_of_a_fresh_worker(parents, tmp_path, number, words):
    with parents.worker(COMMAND, workdir=tmp_path / "w") as worker:
        failure(worker)
        os.kill(forked(worker), number)
        assert words in failure(worker).detail


def test_when_the_parent_dies_its_workers_do_and_the_next_is_fresh(parents, tmp_path):
    worker = parents.worker(COMMAND, workdir=tmp_path / "w")
    failure(worker)
    (parent,) = parents._parents.values()
    os.kill(parent._process.pid, signal.SIGKILL)
    wait_for_the_end_of(forked(worker))
    assert failure(worker).kind == "out-of-memory"
    worker.close()
    with parents.worker(COMMAND, workdir=tmp_path / "next") as other:
        assert failure(other).kind == "protocol"


def test_closing_leaves_no_process(parents, tmp_path):
    worker = parents.worker(COMMAND, workdir=tmp_path / "w")
    failure(worker)
    parents.close()
    wait_for_the_end_of(forked(worker))


def test_light_workers_have_a_parent_of_their_own(parents, tmp_path, monkeypatch):
    monkeypatch.setattr("autotune.driver.forkserver.MODULES", (*MODULES, "json.tool"))
    plain = parents.worker(COMMAND, workdir=tmp_path / "plain")
    light = parents.worker(COMMAND, workdir=tmp_path / "light", light=True)
    assert [parent.light for parent in parents._parents.values()] == [False, True]
    parents.preload(["json.encoder"])  # asked of the one that preloads, not of the other
    for worker in (plain, light):
        assert failure(worker).kind == "protocol"
        worker.close()


def test_a_preloaded_library_needs_a_fresh_process(parents, tmp_path):
    command = Command(argv=COMMAND.argv, variables={"LD_PRELOAD": ""})
    with parents.worker(command, workdir=tmp_path / "w") as worker:
        assert failure(worker).kind == "protocol"
    assert not parents._parents


def test_the_oldest_idle_parent_makes_room(tmp_path, monkeypatch):
    monkeypatch.setattr("autotune.driver.forkserver.MODULES", MODULES)
    commands = [
        Command(argv=COMMAND.argv, variables={"OMP_NUM_THREADS": str(n)}) for n in (1, 2, 3)
    ]
    with ForkServers(tmp_path / "parents", memory_bytes=2**33) as parents:  # room for two
        kept = parents.worker(commands[0], workdir=tmp_path / "0")
        parents.worker(commands[1], workdir=tmp_path / "1").close()
        with parents.worker(commands[2], workdir=tmp_path / "2") as last:
            assert failure(last).kind == "protocol"
            assert failure(kept).kind == "protocol"  # its parent was older, and busy
            assert len(parents._parents) == 2
            with parents.worker(commands[1], workdir=tmp_path / "3") as fresh:
                assert failure(fresh).kind == "protocol"  # no room: both are busy
                assert len(parents._parents) == 2
        kept.close()


def test_modules_may_be_added_and_one_that_is_not_there_is_nothing(parents, tmp_path):
    with parents.worker(COMMAND, workdir=tmp_path / "w") as worker:
        parents.preload(["json.tool", "transformers.models.none.modeling_none"])
        assert failure(worker).kind == "protocol"
    assert len(parents._parents) == 1
