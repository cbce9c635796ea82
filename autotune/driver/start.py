"""Start a worker for requests that measure nothing: probing, encoding and digests."""

from __future__ import annotations

from pathlib import Path

from autotune.driver.channel import WorkerFailed
from autotune.driver.command import worker_commands
from autotune.driver.forkserver import ForkServers
from autotune.driver.process import WorkerProcess
from autotune.host import Host
from autotune.shared.engines import engine_files
from autotune.shared.errors import StackError
from autotune.shared.records import Config, StackFacts, to_jsonable
from autotune.store.wire import WireError, parse

PROBE_TIMEOUT_S = 300.0
"""Seconds that an interpreter may take to import its packages and answer."""


def start_worker(
    host: Host, python: str, workdir: Path, fork_servers: ForkServers | None = None
) -> WorkerProcess:
    """Start a worker with a thread for every core, forked if `fork_servers` are given.

    Raises StackError.
    """
    (command,) = worker_commands(Config.of({"threads": host.cores}), host, python)
    start = WorkerProcess if fork_servers is None else fork_servers.start
    try:
        return start(command, workdir=workdir)
    except OSError as error:
        raise StackError(f"{python} cannot be started: {error.strerror}") from error


def ask_for_probe(worker: WorkerProcess, host: Host) -> None:
    """Ask what the worker's interpreter can run on `host`, without waiting. Raises StackError."""
    arguments = {
        "instruction_sets": list(host.instruction_sets),
        "engine_files": [to_jsonable(file) for file in engine_files()],
    }
    try:
        worker.send("probe", arguments)
    except WorkerFailed as failed:
        raise StackError(failed.failure.detail) from failed


def probed(worker: WorkerProcess) -> StackFacts:
    """Wait for the reply to `ask_for_probe`, and return it. Raises StackError."""
    try:
        return parse(StackFacts, worker.receive(timeout_s=PROBE_TIMEOUT_S))
    except WorkerFailed as failed:
        reason = _last_line(worker.log) if failed.failure.kind == "crash" else ""
        raise StackError(f"{failed.failure.detail} {reason}".strip()) from failed
    except WireError as error:
        raise StackError(f"the worker's reply is not valid: {error}") from error


def _last_line(log: str) -> str:
    """The last line of `log` in brackets, or "" if the log is empty."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return f"({lines[-1]})" if lines else ""
