"""Fork servers: processes that import once and fork every worker, so that a worker starts faster.

A forked worker measures the same as a fresh one (`bench/forked.py`). Its fork server was started
with the same environment on the same CPUs, and has run no parallel region.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from autotune.driver.command import Command
from autotune.driver.process import ForkServer, WorkerProcess

IMPORTS_WITH_TORCH = (
    "torch",
    "autotune.worker.slim",
    "transformers.models.auto.modeling_auto",
    "autotune.worker.operations",
    "autotune.worker.engines.torch_model",
)
"""Modules that a fork server imports for workers that load the model."""
IMPORTS_WITHOUT_TORCH = ("autotune.worker.operations",)
"""Modules for workers that run an exported file. A fork server without torch starts seconds
faster."""
FORK_SERVER_ERRORS = (ConnectionError, TimeoutError)
"""Raised by a request to a fork server that has died or does not answer."""
MAX_SERVERS_PER_KIND = 3
"""Fork servers with torch, and as many without, that run at the same time."""
HOST_BYTES_PER_SERVER = 4 * 2**30
"""Host memory for each fork server with torch, in bytes; the server itself takes about an eighth
of these 4 GiB."""


ServerKey = tuple[tuple[str, ...], tuple[tuple[str, str], ...], bool]
"""The command line, the environment variables, and whether the workers are torch-free."""


def modeling_modules(model_type: str) -> tuple[str, ...]:
    """The transformers modules that define the models of `model_type`."""
    return (f"transformers.models.{model_type}.modeling_{model_type}",)


class ForkServers:
    """A few fork servers of each kind, with torch and without. A context manager.

    A new fork server takes the place of the least recently used one that has no workers.
    """

    def __init__(self, folder: Path, *, memory_bytes: int) -> None:
        """Logs go to `folder`; `memory_bytes` is the memory of the host."""
        self._folder = folder
        self._max_with_torch = max(
            1, min(MAX_SERVERS_PER_KIND, memory_bytes // HOST_BYTES_PER_SERVER)
        )
        self._imports: list[str] = list(IMPORTS_WITH_TORCH)
        self._servers: dict[ServerKey, ForkServer] = {}  # least recently used first
        self._log_numbers = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> tuple[ForkServer, ...]:
        """The fork servers that are running, least recently used first."""
        return tuple(self._servers.values())

    def preload(self, modules: Sequence[str]) -> None:
        """Import `modules` in every fork server with torch, running and future."""
        self._imports += modules
        for key, server in list(self._servers.items()):
            if server.torch_free:
                continue
            try:
                server.preload(modules)
            except FORK_SERVER_ERRORS:
                self._servers.pop(key).close()

    def start(
        self,
        command: Command,
        *,
        workdir: Path,
        meeting_folder: Path | None = None,
        torch_free: bool = False,
    ) -> WorkerProcess:
        """Start a worker for `command`: forked if that is safe and possible, otherwise fresh.

        A `torch_free` worker runs an exported file and does not need torch. `meeting_folder` is
        as in `WorkerProcess`. Raises OSError.
        """
        server = self._server(command.fork_server_command, torch_free)
        if server is not None:
            try:
                return WorkerProcess(
                    command, workdir=workdir, meeting_folder=meeting_folder, fork_server=server
                )
            except FORK_SERVER_ERRORS:  # for example, memory ran out
                self._servers = {k: s for k, s in self._servers.items() if s is not server}
                server.close()
        return WorkerProcess(command, workdir=workdir, meeting_folder=meeting_folder)

    def _server(self, command: Command | None, torch_free: bool) -> ForkServer | None:
        """A running or new fork server for `command`, or None if there is no room.

        The result is also None if `command` is None: that worker must be a fresh process.
        """
        if command is None:
            return None
        key = (command.argv, tuple(sorted(command.variables.items())), torch_free)
        server = self._servers.pop(key, None)
        if server is None:
            same_kind = {k: s for k, s in self._servers.items() if s.torch_free == torch_free}
            idle = [k for k, s in same_kind.items() if not s.workers]
            if len(same_kind) >= (MAX_SERVERS_PER_KIND if torch_free else self._max_with_torch):
                if not idle:
                    return None
                self._servers.pop(idle[0]).close()
            log = self._folder / f"{next(self._log_numbers)}.log"
            modules = IMPORTS_WITHOUT_TORCH if torch_free else self._imports
            server = ForkServer(command, modules=modules, torch_free=torch_free, log=log)
        self._servers[key] = server
        return server

    def close(self) -> None:
        """End every fork server, and with them their workers."""
        while self._servers:
            self._servers.popitem()[1].close()
