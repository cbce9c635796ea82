"""Instances side by side: released together, and none stops before all have measured.

They meet through files in one folder, which works the same under the search and under
launch.sh, and needs nobody to be awake while they measure. Standard library only.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

POLL_S = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One of `count` workers that measure the same configuration at the same time."""

    folder: str | None = None
    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if self.count > 1 and self.folder is None:
            raise ValueError("instances that measure together need a folder to meet in")

    def arrive(self, stage: str, words: str = "") -> None:
        """Say that this instance has reached `stage`, with `words` for the others."""
        if self.count > 1:
            path = self._path(stage, self.index)
            partial = f"{path}.partial"
            with open(partial, "w", encoding="utf-8") as file:
                file.write(words)
            os.replace(partial, path)  # who sees it can read it

    def all_at(self, stage: str) -> bool:
        """Whether every instance has reached `stage`."""
        if self.count == 1:
            return True
        return all(os.path.exists(self._path(stage, index)) for index in range(self.count))

    def wait(self, stage: str) -> float:
        """Arrive at `stage` and wait for the others; when all were there (CLOCK_MONOTONIC).

        Waits for ever: whoever started the instances ends them when one dies.
        """
        self.arrive(stage)
        self._wait_for_all(stage)
        return time.monotonic()

    def all_say(self, stage: str, yes: bool) -> bool:
        """Whether every instance says yes at `stage`; waits for them as `wait` does."""
        if self.count == 1:
            return yes
        self.arrive(stage, str(yes))
        self._wait_for_all(stage)
        said = []
        for index in range(self.count):
            with open(self._path(stage, index), encoding="utf-8") as file:
                said.append(file.read())
        return said == [str(True)] * self.count

    def _wait_for_all(self, stage: str) -> None:
        while not self.all_at(stage):
            time.sleep(POLL_S)

    def _path(self, stage: str, index: int) -> str:
        assert self.folder is not None
        return os.path.join(self.folder, f"{stage}-{index}")
