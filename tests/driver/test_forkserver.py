"""Forked workers behave as fresh ones, and end with their fork server."""

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
def fork_servers(tmp_path, monkeypatch):
    monkeypatch.setattr("autotune.driver.forkserver.IMPORTS_WITH_TORCH", MODULES)
    with ForkServers(tmp_path / "servers", memory_bytes=2**40) as servers:
        yield servers


def failure(worker):
    """The failure of a request that comes before `open`."""
    with pytest.raises(WorkerFailed) as caught:
        worker.request("measure", {"point": {}, "rule": {}}, timeout_s=60)
    return caught.value.failure


def alive(pid):
    """Whether the process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_ended(pid):
    deadline = time.monotonic() + 20
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_workers_of_one_command_share_a_fork_server(fork_servers, tmp_path):
    workers = [fork_servers.start(COMMAND, workdir=tmp_path / str(n)) for n in range(3)]
    assert {failure(worker).kind for worker in workers} == {"protocol"}
    (server,) = fork_servers.running
    assert len({worker.pid for worker in workers}) == 3
    assert server.workers == {worker.pid for worker in workers}
    for worker in workers:
        worker.close()
    assert not server.workers
    assert not any(alive(worker.pid) for worker in workers)


def test_a_forked_worker_has_its_commands_environment_and_its_own_log(fork_servers, tmp_path):
    with fork_servers.start(COMMAND, workdir=tmp_path / "w") as worker:
        failure(worker)
        with open(f"/proc/{worker.pid}/environ") as file:
            environ = dict(v.split("=", 1) for v in file.read().split("\0") if v)
        assert environ["OMP_NUM_THREADS"] == "1"
        assert os.getpgid(worker.pid) == worker.pid
        assert "measure was asked before" in worker.log  # its traceback


@pytest.mark.parametrize(
    ("number", "words"),
    [(signal.SIGSEGV, "killed by SIGSEGV"), (signal.SIGILL, "SIGILL"), (signal.SIGKILL, "memory")],
)
def test_a_signal_is_reported_as_for_a_fresh_worker(fork_servers, tmp_path, number, words):
    with fork_servers.start(COMMAND, workdir=tmp_path / "w") as worker:
        failure(worker)
        os.kill(worker.pid, number)
        assert words in failure(worker).detail


def test_workers_die_with_their_fork_server_and_the_next_worker_is_fresh(fork_servers, tmp_path):
    worker = fork_servers.start(COMMAND, workdir=tmp_path / "w")
    failure(worker)
    (server,) = fork_servers.running
    os.kill(server.pid, signal.SIGKILL)
    wait_until_ended(worker.pid)
    assert failure(worker).kind == "out-of-memory"
    worker.close()
    with fork_servers.start(COMMAND, workdir=tmp_path / "next") as other:
        assert failure(other).kind == "protocol"


def test_closing_leaves_no_process(fork_servers, tmp_path):
    worker = fork_servers.start(COMMAND, workdir=tmp_path / "w")
    failure(worker)
    fork_servers.close()
    wait_until_ended(worker.pid)


def test_torch_free_workers_have_a_fork_server_without_torch(fork_servers, tmp_path, monkeypatch):
    imports = (*MODULES, "json.tool")
    monkeypatch.setattr("autotune.driver.forkserver.IMPORTS_WITH_TORCH", imports)
    plain = fork_servers.start(COMMAND, workdir=tmp_path / "plain")
    torch_free = fork_servers.start(COMMAND, workdir=tmp_path / "torch-free", torch_free=True)
    assert [server.torch_free for server in fork_servers.running] == [False, True]
    fork_servers.preload(["json.encoder"])  # sent to the fork server with torch only
    for worker in (plain, torch_free):
        assert failure(worker).kind == "protocol"
        worker.close()


def test_a_preloaded_library_needs_a_fresh_process(fork_servers, tmp_path):
    command = Command(argv=COMMAND.argv, variables={"LD_PRELOAD": ""})
    with fork_servers.start(command, workdir=tmp_path / "w") as worker:
        assert failure(worker).kind == "protocol"
    assert not fork_servers.running


def test_the_least_recently_used_idle_fork_server_makes_room(tmp_path, monkeypatch):
    monkeypatch.setattr("autotune.driver.forkserver.IMPORTS_WITH_TORCH", MODULES)
    commands = [
        Command(argv=COMMAND.argv, variables={"OMP_NUM_THREADS": str(n)}) for n in (1, 2, 3)
    ]
    with ForkServers(tmp_path / "servers", memory_bytes=2**33) as fork_servers:  # room for two
        kept = fork_servers.start(commands[0], workdir=tmp_path / "0")
        fork_servers.start(commands[1], workdir=tmp_path / "1").close()
        with fork_servers.start(commands[2], workdir=tmp_path / "2") as last:
            assert failure(last).kind == "protocol"
            assert failure(kept).kind == "protocol"  # its fork server was older, but busy
            assert len(fork_servers.running) == 2
            with fork_servers.start(commands[1], workdir=tmp_path / "3") as fresh:
                assert failure(fresh).kind == "protocol"  # no room: both fork servers are busy
                assert len(fork_servers.running) == 2
        kept.close()


def test_modules_can_be_added_and_a_missing_module_is_ignored(fork_servers, tmp_path):
    with fork_servers.start(COMMAND, workdir=tmp_path / "w") as worker:
        fork_servers.preload(["json.tool", "transformers.models.none.modeling_none"])
        assert failure(worker).kind == "protocol"
    assert len(fork_servers.running) == 1
