"""One worker process: started or forked, asked, and ended with everything it started.

Requests and replies go over pipes (`driver.channel`), standard output and error to a log file.
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
from autotune.shared.records import Failure

LOG_TAIL_BYTES = 4000
EXIT_GRACE_S = 5.0
FORK_TIMEOUT_S = 180.0
"""How long imports may take before the first fork."""


def exit_failure(code: int) -> Failure:
    """What an exit status says of a worker that ended without an answer."""
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
    """Memory that a process has in RAM now, shared pages included; 0 where it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _clear(pid: int) -> None:
    """Remove the entry in shared memory that Intel's OpenMP leaves of a killed process."""
    with contextlib.suppress(OSError):
        Path(f"/dev/shm/__KMP_REGISTERED_LIB_{pid}_{os.getuid()}").unlink()  # noqa: S108


class Process(Protocol):
    """A worker's process, however it came to be."""

    pid: int

    def end(self, grace_s: float) -> int | None:
        """Wait for it to exit by itself, then kill its process group and reap it.

        Its exit code, negative for a signal; None where it had to be killed. Repeatable.
        """


class Spawned:
    """A worker that was started afresh."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    def end(self, grace_s: float) -> int | None:
        code: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(grace_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        _clear(self.pid)
        return code


class ForkServer:
    """A process that has imported `modules` and forks workers (`autotune.worker.parent`).

    It has the environment and the CPUs of `command`, whose workers it can fork. `workers` are
    the process ids of those that have not been ended. A `light` one has imported no torch.
    """

    def __init__(
        self,
        command: Command,
        *,
        modules: Sequence[str],
        log: Path,
        light: bool = False,
        caller: Mapping[str, str] | None = None,
    ) -> None:
        self.workers: set[int] = set()
        self.light = light
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(FORK_TIMEOUT_S)
        argv = [
            *command.argv,
            *("--forks", str(theirs.fileno())),
            *("--preload", ",".join(modules)),
            *("--parent", str(os.getpid())),
        ]
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("wb") as file:
                self._process = Spawned(
                    _start(argv, command, caller, log.parent, file, (theirs.fileno(),))
                )
        except OSError:
            self._channel.close()
            raise
        finally:
            theirs.close()

    def fork(self, arguments: Sequence[str], descriptors: Sequence[int]) -> int:
        """The process id of a new worker with `descriptors`: requests, replies, log.

        Raises OSError where the parent is gone.
        """
        message = json.dumps({"fork": list(arguments)}).encode()
        socket.send_fds(self._channel, [message], descriptors)
        pid = int(self._reply()["pid"])
        self.workers.add(pid)
        return pid

    def preload(self, modules: Sequence[str]) -> None:
        """Import more. Raises OSError where the parent is gone."""
        self._channel.send(json.dumps({"preload": list(modules)}).encode())
        self._reply()

    def end(self, pid: int, grace_s: float) -> int | None:
        """As `Process.end` of the worker `pid`. Raises OSError where the parent is gone."""
        self.workers.discard(pid)
        self._channel.send(json.dumps({"end": pid, "grace_s": grace_s}).encode())
        reply = self._reply()
        return None if reply["killed"] else int(reply["code"])

    def _reply(self) -> dict[str, Any]:
        message = self._channel.recv(1 << 16)
        if not message:
            raise ConnectionResetError("the process that forks workers has died")
        found: dict[str, Any] = json.loads(message)
        return found

    def close(self) -> None:
        """Kill it, and with it the workers it has forked."""
        self._channel.close()
        self._process.end(0.0)


class Forked:
    """A worker forked by `parent`."""

    def __init__(self, parent: ForkServer, pid: int) -> None:
        self._parent, self.pid = parent, pid
        self._code: int | None = None
        self._ended = False

    def end(self, grace_s: float) -> int | None:
        if not self._ended:
            self._ended = True
            try:
                self._code = self._parent.end(self.pid, grace_s)
            except OSError:  # it died, and its workers with it
                self._code = -signal.SIGKILL
            _clear(self.pid)
        return self._code


def _start(
    argv: Sequence[str],
    command: Command,
    caller: Mapping[str, str] | None,
    folder: Path,
    log: Any,
    descriptors: tuple[int, ...],
) -> subprocess.Popen[bytes]:
    """In a session of its own, so that all it starts can be killed with it, and with a place
    for temporary files in `folder`."""
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
    """A worker in a process group of its own. Use as a context manager, or call `close`."""

    def __init__(
        self,
        command: Command,
        *,
        workdir: Path,
        together: Path | None = None,
        caller: Mapping[str, str] | None = None,
        parent: ForkServer | None = None,
    ) -> None:
        """`together` is the folder where instances that measure side by side meet; `parent`
        one that was started with the settings and the CPUs of `command`."""
        self.workdir = workdir
        workdir.mkdir(parents=True, exist_ok=True)
        self._log_path = workdir / "worker.log"
        requests_read, requests_write = os.pipe()
        replies_read, replies_write = os.pipe()
        self._channel = Channel(requests_write, replies_read, gone=self._gone, end=self.close)
        options = ["--workdir", str(workdir.resolve())]
        if together is not None:
            options += ["--together", str(together.resolve())]
        try:
            with self._log_path.open("wb") as log:
                if parent is None:
                    channels = ["--requests", str(requests_read), "--replies", str(replies_write)]
                    argv = [*command.argv, *channels, "--parent", str(os.getpid()), *options]
                    self._process: Process = Spawned(
                        _start(argv, command, caller, workdir, log, (requests_read, replies_write))
                    )
                else:
                    descriptors = (requests_read, replies_write, log.fileno())
                    pid = parent.fork([*command.instance, *options], descriptors)
                    self._process = Forked(parent, pid)
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
        """As `Channel.request`; a worker that could not be believed has been killed."""
        return self._channel.request(op, arguments, timeout_s=timeout_s)

    def send(self, op: str, arguments: Mapping[str, Any]) -> None:
        """As `Channel.send`."""
        self._channel.send(op, arguments)

    def receive(self, *, timeout_s: float, watch: Callable[[], None] | None = None) -> Any:
        """As `Channel.receive`."""
        return self._channel.receive(timeout_s=timeout_s, watch=watch)

    def _gone(self) -> Failure:
        """Why the worker closed its end of the pipes."""
        code = self._process.end(EXIT_GRACE_S)
        self.close()
        if code is None:
            return Failure(kind="crash", detail="the worker closed its pipes but kept running")
        return exit_failure(code)

    @property
    def resident_bytes(self) -> int:
        return resident_bytes(self._process.pid)

    @property
    def log(self) -> str:
        """The end of what the worker wrote to standard output and error."""
        try:
            with self._log_path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - LOG_TAIL_BYTES))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def close(self) -> None:
        """Kill the whole process group, whatever state it is in, and reap it."""
        self._process.end(0.0)
        self._channel.close()
