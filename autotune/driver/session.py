"""The open workers of one configuration, asked together."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autotune.driver.channel import WorkerFailed
from autotune.driver.command import Command
from autotune.driver.process import WorkerProcess
from autotune.shared.records import Failure


def check_memory(held_bytes: int, most_bytes: int | None) -> None:
    """Raises WorkerFailed `out-of-memory` where workers hold more than they may."""
    if most_bytes is not None and held_bytes > most_bytes:
        detail = (
            f"{held_bytes / 2**30:.1f} GiB in use, --max-memory is {most_bytes / 2**30:.1f} GiB"
        )
        raise WorkerFailed(Failure(kind="out-of-memory", detail=detail))


@dataclass(frozen=True, slots=True)
class Session:
    """The workers of one configuration's process and engine knobs, one an instance."""

    commands: tuple[Command, ...]
    workers: list[WorkerProcess]
    folder: Path
    timeout_s: float
    most_bytes: int | None

    @property
    def log(self) -> str:
        """What the workers wrote, a failing one's traceback last."""
        return "".join(worker.log for worker in reversed(self.workers))

    def ask(self, op: str, arguments: Mapping[str, object]) -> list[object]:
        """The answer of every worker. Raises the WorkerFailed of the first that fails, or of
        all where together they hold more than `most_bytes`."""
        return self.ask_each(op, [arguments] * len(self.workers))

    def ask_each(
        self, op: str, arguments: Sequence[Mapping[str, object]], more_s: float = 0.0
    ) -> list[object]:
        """As `ask`, each worker with arguments of its own, and with `more_s` to answer."""
        for worker, own in zip(self.workers, arguments, strict=True):
            worker.send(op, own)
        watch = None if self.most_bytes is None else self._check_memory
        timeout_s = self.timeout_s + more_s
        return [worker.receive(timeout_s=timeout_s, watch=watch) for worker in self.workers]

    def _check_memory(self) -> None:
        check_memory(sum(worker.resident_bytes for worker in self.workers), self.most_bytes)

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        shutil.rmtree(self.folder, ignore_errors=True)
