"""A session: the open workers of one configuration, which get every request together."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autotune.driver.channel import WorkerFailed, receive_all
from autotune.driver.command import Command
from autotune.driver.process import WorkerProcess
from autotune.shared.records import Failure


def check_memory(used_bytes: int, max_bytes: int | None) -> None:
    """Raise WorkerFailed `out-of-memory` if workers use more than `max_bytes`."""
    if max_bytes is not None and used_bytes > max_bytes:
        detail = f"{used_bytes / 2**30:.1f} GiB in use, --max-memory is {max_bytes / 2**30:.1f} GiB"
        raise WorkerFailed(Failure(kind="out-of-memory", detail=detail))


@dataclass(frozen=True, slots=True)
class Session:
    """The workers of one configuration's process and engine knobs, one for each instance."""

    commands: tuple[Command, ...]
    workers: list[WorkerProcess]
    folder: Path
    timeout_s: float  # for one reply
    max_memory_bytes: int | None  # of all workers together; None: no limit

    @property
    def log(self) -> str:
        """The logs of all workers, the first worker's last."""
        return "".join(worker.log for worker in reversed(self.workers))

    def ask(self, op: str, arguments: Mapping[str, object]) -> list[object]:
        """Send one request to every worker, and return their replies.

        Raises WorkerFailed for the first worker that fails, while the others still wait, or if
        the workers together use more than `max_memory_bytes`.
        """
        return self.ask_each(op, [arguments] * len(self.workers))

    def ask_each(
        self, op: str, arguments: Sequence[Mapping[str, object]], extra_timeout_s: float = 0.0
    ) -> list[object]:
        """`ask` with separate arguments for each worker, and more time for the replies."""
        for worker, own in zip(self.workers, arguments, strict=True):
            worker.send(op, own)
        watch = None if self.max_memory_bytes is None else self._check_memory
        timeout_s = self.timeout_s + extra_timeout_s
        channels = [worker.channel for worker in self.workers]
        return receive_all(channels, timeout_s=timeout_s, watch=watch)

    def _check_memory(self) -> None:
        """Raise WorkerFailed if the workers use too much. A page that they share counts once.

        The quick sum counts such a page for each worker, so it is never the smaller one.
        """
        most = self.max_memory_bytes
        if most is not None and sum(worker.resident_bytes for worker in self.workers) > most:
            check_memory(sum(worker.proportional_bytes for worker in self.workers), most)

    def close(self) -> None:
        """End the workers and remove their folder."""
        for worker in self.workers:
            worker.close()
        shutil.rmtree(self.folder, ignore_errors=True)
