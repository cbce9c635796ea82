"""One worker process: start or fork it, send requests, and end it with all its children.

Requests and replies go over pipes (`driver.channel`). Standard output and error go to a log file.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from autotune.driver.channel import Channel
from autotune.driver.command import Command, environment
from autotune.shared.processes import kill_group
from autotune.shared.records import Failure

LOG_TAIL_BYTES = 4000
"""Bytes of a worker's log that are kept, from its end."""
EXIT_GRACE_S = 5.0
"""Seconds that a worker has to exit by itself after it closed its pipes."""
FORK_TIMEOUT_S = 180.0
"""Seconds to wait for a fork server's answer; the first answer comes after all imports."""


def exit_failure(code: int) -> Failure:
    """The failure of a worker that exited with `code` before it answered.

    `code` is negative for a signal, as in `subprocess`.
    """
    if code >= 0:
        return Failure(kind="crash", detail=f"the worker exited with code {code} and no answer")
    name = signal.Signals(-code).name
    if -code == signal.SIGILL:
        return Failure(
            kind="illegal-instruction",
            detail="SIGILL: a kernel was built for instructions this CPU lacks",
        )
    if -code == signal.SIGKILL:
        return Failure(
            kind="out-of-memory",
            detail="killed with SIGKILL from outside, as the kernel does when memory runs out",
        )
    return Failure(kind="crash", detail=f"the worker was killed by {name}")


def resident_bytes(pid: int) -> int:
    """Bytes that a process holds in RAM now, with shared pages; 0 if the process is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def proportional_bytes(pid: int) -> int:
    """Bytes that a process holds in RAM now; of a page that n processes share, one n-th (PSS).

    The kernel walks the whole page table for this. As `resident_bytes` if it keeps no such count.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resident_bytes(pid)


def _remove_openmp_entry(pid: int) -> None:
    """Remove the file in shared memory that Intel's OpenMP leaves when its process is killed."""
    with contextlib.suppress(OSError):
        Path(f"/dev/shm/__KMP_REGISTERED_LIB_{pid}_{os.getuid()}").unlink()  # noqa: S108


class Process(Protocol):
    """The process of a worker, either fresh or forked."""

    pid: int

    def end(self, grace_s: float) -> int | None:
        """Wait up to `grace_s` seconds for the process to exit, then kill and reap its group.

        Returns the exit code, negative for a signal, or None if the process had to be killed.
        Repeatable.
        """


class FreshProcess:
    """A process started from its command line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid
        self._code: int | None = None

    def end(self, grace_s: float) -> int | None:
        if self._process.returncode is None:  # its id is still its own: it was not reaped
            exited = kill_group(self.pid, grace_s)
            code = self._process.wait()
            self._code = code if exited else None
            _remove_openmp_entry(self.pid)
        return self._code


class ForkServer:
    """A process that has imported `modules` and forks workers (`autotune.worker.parent`).

    The process runs with the environment and on the CPUs of `command`, as its workers will.
    `workers` holds the process ids of the workers that have not been ended. If `torch_free`,
    the process has not imported torch.
    """

    def __init__(
        self,
        command: Command,
        *,
        modules: Sequence[str],
        log: Path,
        torch_free: bool = False,
        caller: Mapping[str, str] | None = None,
    ) -> None:
        """`caller` is the environment to inherit from, by default that of this process. Raises
        OSError."""
        self.workers: set[int] = set()
        self.torch_free = torch_free
        self._channel, server_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(FORK_TIMEOUT_S)
        argv = [
            *command.argv,
            *("--forks", str(server_end.fileno())),
            *("--preload", ",".join(modules)),
            *("--parent", str(os.getpid())),
        ]
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("wb") as file:
                self._process = FreshProcess(
                    _popen(argv, command, caller, log.parent, file, (server_end.fileno(),))
                )
        except OSError:
            self._channel.close()
            raise
        finally:
            server_end.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def fork(self, arguments: Sequence[str], descriptors: Sequence[int]) -> int:
        """Fork a worker and return its process id.

        `descriptors` are the worker's three files: requests, replies and log. Raises OSError if
        the fork server is gone.
        """
        message = json.dumps({"fork": list(arguments)}).encode()
        socket.send_fds(self._channel, [message], descriptors)
        pid = int(self._reply()["pid"])
        self.workers.add(pid)
        return pid

    def preload(self, modules: Sequence[str]) -> None:
        """Import `modules` as well. Raises OSError if the fork server is gone."""
        self._channel.send(json.dumps({"preload": list(modules)}).encode())
        self._reply()

    def end(self, pid: int, grace_s: float) -> int | None:
        """`Process.end` for the worker `pid`. Raises OSError if the fork server is gone."""
        self.workers.discard(pid)
        self._channel.send(json.dumps({"end": pid, "grace_s": grace_s}).encode())
        reply = self._reply()
        return None if reply["killed"] else int(reply["code"])

    def _reply(self) -> dict[str, Any]:
        message = self._channel.recv(1 << 16)
        if not message:
            raise ConnectionResetError("the fork server has died")
        reply: dict[str, Any] = json.loads(message)
        return reply

    def close(self) -> None:
        """Kill the fork server; its workers die with it."""
        self._channel.close()
        self._process.end(0.0)


class ForkedProcess:
    """The process of a worker that `fork_server` forked."""

    def __init__(self, fork_server: ForkServer, pid: int) -> None:
        self._fork_server, self.pid = fork_server, pid
        self._code: int | None = None
        self._ended = False

    def end(self, grace_s: float) -> int | None:
        if not self._ended:
            self._ended = True
            try:
                self._code = self._fork_server.end(self.pid, grace_s)
            except OSError:  # the fork server died, and its workers died with it
                self._code = -signal.SIGKILL
            _remove_openmp_entry(self.pid)
        return self._code


def _popen(
    argv: Sequence[str],
    command: Command,
    caller: Mapping[str, str] | None,
    folder: Path,
    log: Any,
    descriptors: tuple[int, ...],
) -> subprocess.Popen[bytes]:
    """Start a process in a new process group, with its temporary files in `folder`/tmp.

    Killing the group ends the process and all its children.
    """
    temporary = folder.resolve() / "tmp"
    temporary.mkdir(exist_ok=True)
    return subprocess.Popen(
        argv,
        env=environment(command, os.environ if caller is None else caller, temporary),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=descriptors,
        start_new_session=True,
    )


class WorkerProcess:
    """A worker in its own process group. A context manager; otherwise call `close`."""

    def __init__(
        self,
        command: Command,
        *,
        workdir: Path,
        meeting_folder: Path | None = None,
        caller: Mapping[str, str] | None = None,
        fork_server: ForkServer | None = None,
    ) -> None:
        """Start a fresh process, or fork one from `fork_server` if that is given.

        Instances that measure side by side synchronise through `meeting_folder`. `fork_server`
        must have the environment and the CPUs of `command`. Raises OSError.
        """
        self.workdir = workdir
        workdir.mkdir(parents=True, exist_ok=True)
        self._log_path = workdir / "worker.log"
        requests_read, requests_write = os.pipe()
        replies_read, replies_write = os.pipe()
        self._channel = Channel(
            requests_write, replies_read, explain_exit=self._explain_exit, end_worker=self.close
        )
        options = ["--workdir", str(workdir.resolve())]
        if meeting_folder is not None:
            options += ["--together", str(meeting_folder.resolve())]
        try:
            with self._log_path.open("wb") as log:
                if fork_server is None:
                    channels = ["--requests", str(requests_read), "--replies", str(replies_write)]
                    argv = [*command.argv, *channels, "--parent", str(os.getpid()), *options]
                    self._process: Process = FreshProcess(
                        _popen(argv, command, caller, workdir, log, (requests_read, replies_write))
                    )
                else:
                    descriptors = (requests_read, replies_write, log.fileno())
                    pid = fork_server.fork([*command.instance, *options], descriptors)
                    self._process = ForkedProcess(fork_server, pid)
        except OSError:
            self._channel.close()
            raise
        finally:
            os.close(requests_read)
            os.close(replies_write)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(self, op: str, arguments: Mapping[str, Any], *, timeout_s: float) -> Any:
        """`Channel.request`; a worker that broke the protocol or timed out is killed."""
        return self._channel.request(op, arguments, timeout_s=timeout_s)

    def send(self, op: str, arguments: Mapping[str, Any]) -> None:
        """`Channel.send`."""
        self._channel.send(op, arguments)

    def receive(self, *, timeout_s: float, watch: Callable[[], None] | None = None) -> Any:
        """`Channel.receive`."""
        return self._channel.receive(timeout_s=timeout_s, watch=watch)

    @property
    def channel(self) -> Channel:
        """The pipes to the worker."""
        return self._channel

    def _explain_exit(self) -> Failure:
        """End a worker that closed its pipes, and say why it did so."""
        code = self._process.end(EXIT_GRACE_S)
        self.close()
        if code is None:
            return Failure(kind="crash", detail="the worker closed its pipes but kept running")
        return exit_failure(code)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def resident_bytes(self) -> int:
        """Bytes that the worker holds in RAM now, with pages that it shares with others."""
        return resident_bytes(self._process.pid)

    @property
    def proportional_bytes(self) -> int:
        """Bytes that the worker holds in RAM now, and its part of pages that it shares."""
        return proportional_bytes(self._process.pid)

    @property
    def log(self) -> str:
        """The last LOG_TAIL_BYTES of the worker's standard output and error."""
        try:
            with self._log_path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - LOG_TAIL_BYTES))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def close(self) -> None:
        """Kill the worker's process group in any state, and reap the worker. Repeatable."""
        self._process.end(0.0)
        self._channel.close()
