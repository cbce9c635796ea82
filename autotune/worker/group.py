"""Instances side by side: they start together, and none stops before all have measured.

Instances synchronise through files in one folder. The files work the same under the search and
under launch.sh, and need no coordinating process that would take CPU time during a measurement.
Standard library only.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

POLL_S = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Worker `index` of `count` workers that measure the same configuration at the same time.

    A stage is a step that all instances reach, such as `warm-1`. Each instance writes a file for
    each stage into `folder`. Raises ValueError if several instances have no folder.
    """

    folder: str | None = None
    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if self.count > 1 and self.folder is None:
            raise ValueError("several instances need a folder through which to synchronise")

    def arrive(self, stage: str, content: str = "") -> None:
        """Write the file that says this instance has reached `stage`."""
        if self.count > 1:
            path = self._path(stage, self.index)
            partial = f"{path}.partial"
            with open(partial, "w", encoding="utf-8") as file:
                file.write(content)
            os.replace(partial, path)  # another instance never reads a half-written file

    def all_arrived(self, stage: str) -> bool:
        """Whether every instance has reached `stage`."""
        if self.count == 1:
            return True
        return all(os.path.exists(self._path(stage, index)) for index in range(self.count))

    def wait(self, stage: str) -> float:
        """Arrive at `stage`, wait for the others, and return the time (CLOCK_MONOTONIC, seconds).

        There is no timeout: the process that started the instances ends all of them if one dies.
        """
        self.arrive(stage)
        self._wait_for_all(stage)
        return time.monotonic()

    def all_agree(self, stage: str, agrees: bool) -> bool:
        """Arrive at `stage` with a vote, wait for the others; whether every instance agrees."""
        if self.count == 1:
            return agrees
        self.arrive(stage, str(agrees))
        self._wait_for_all(stage)
        votes = []
        for index in range(self.count):
            with open(self._path(stage, index), encoding="utf-8") as file:
                votes.append(file.read())
        return votes == [str(True)] * self.count

    def _wait_for_all(self, stage: str) -> None:
        while not self.all_arrived(stage):
            time.sleep(POLL_S)

    def _path(self, stage: str, index: int) -> str:
        assert self.folder is not None
        return os.path.join(self.folder, f"{stage}-{index}")
