"""A worker for requests that measure nothing: probing an interpreter, encoding, digests."""

from __future__ import annotations

from pathlib import Path

from autotune.driver.channel import WorkerFailed
from autotune.driver.command import worker_commands
from autotune.driver.forkserver import ForkServers
from autotune.driver.process import WorkerProcess
from autotune.host import Host
from autotune.shared.errors import StackError
from autotune.shared.records import Config, StackFacts
from autotune.store.wire import WireError, parse

PROBE_TIMEOUT_S = 300.0


def start_worker(
    host: Host, python: str, workdir: Path, parents: ForkServers | None = None
) -> WorkerProcess:
    """A worker for requests that measure nothing, on all cores. Raises StackError."""
    (command,) = worker_commands(Config.of({"threads": host.cores}), host, python)
    start = WorkerProcess if parents is None else parents.worker
    try:
        return start(command, workdir=workdir)
    except OSError as error:
        raise StackError(f"{python} cannot be started: {error.strerror}") from error


def ask_for_probe(worker: WorkerProcess, host: Host) -> None:
    """Begin finding out what the worker's interpreter can run on `host`. Raises StackError."""
    try:
        worker.send("probe", {"instruction_sets": list(host.instruction_sets)})
    except WorkerFailed as failed:
        raise StackError(failed.failure.detail) from failed


def probed(worker: WorkerProcess) -> StackFacts:
    """The answer to `ask_for_probe`. Raises StackError."""
    try:
        return parse(StackFacts, worker.receive(timeout_s=PROBE_TIMEOUT_S))
    except WorkerFailed as failed:
        words = _last_line(worker.log) if failed.failure.kind == "crash" else ""
        raise StackError(f"{failed.failure.detail} {words}".strip()) from failed
    except WireError as error:
        raise StackError(f"the worker's answer makes no sense: {error}") from error


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return f"({lines[-1]})" if lines else ""
