"""Processes kept ready to fork workers: imports are paid once, not at every configuration.

A forked worker differs from a fresh one in nothing that is measured (`bench/forked.py`): its
parent was started with the same environment on the same CPUs, and has run no parallel region.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from autotune.driver.command import Command
from autotune.driver.process import ForkServer, WorkerProcess

MODULES = (
    "torch",
    "autotune.worker.slim",
    "transformers.models.auto.modeling_auto",
    "autotune.worker.operations",
    "autotune.worker.engines.torch_model",
)
LIGHT = ("autotune.worker.operations",)
"""What workers need that run an exported file: no torch, seconds less for each new setting."""
DIED = (ConnectionError, TimeoutError)
"""What talking to a parent that is gone, or stuck, raises."""
MOST = 3
PARENT_BYTES = 4 * 2**30
"""One parent for so much memory of the host; each holds about an eighth of it."""


Key = tuple[tuple[str, ...], tuple[tuple[str, str], ...], bool]


def modules_of(model_type: str) -> tuple[str, ...]:
    """Where transformers keeps the models of a type."""
    return (f"transformers.models.{model_type}.modeling_{model_type}",)


class ForkServers:
    """At most a few parents of either kind, the least recently used ended first.

    A context manager.
    """

    def __init__(self, folder: Path, *, memory_bytes: int) -> None:
        self._folder = folder
        self._most = max(1, min(MOST, memory_bytes // PARENT_BYTES))
        self._modules: list[str] = list(MODULES)
        self._parents: dict[Key, ForkServer] = {}  # in order of use
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def preload(self, modules: Sequence[str]) -> None:
        """Import `modules` too, in parents that are there and in new ones."""
        self._modules += modules
        for key, parent in list(self._parents.items()):
            if parent.light:
                continue
            try:
                parent.preload(modules)
            except DIED:
                self._parents.pop(key).close()

    def worker(
        self,
        command: Command,
        *,
        workdir: Path,
        together: Path | None = None,
        light: bool = False,
    ) -> WorkerProcess:
        """A worker for `command`, forked where that is safe; a `light` one will need no torch.

        Raises OSError.
        """
        parent = self._parent(command.ancestor, light)
        if parent is not None:
            try:
                return WorkerProcess(command, workdir=workdir, together=together, parent=parent)
            except DIED:  # of want of memory perhaps
                self._parents = {k: p for k, p in self._parents.items() if p is not parent}
                parent.close()
        return WorkerProcess(command, workdir=workdir, together=together)

    def _parent(self, ancestor: Command | None, light: bool) -> ForkServer | None:
        """One that can fork for `ancestor`; None where there is none and no room for it."""
        if ancestor is None:
            return None
        key = (ancestor.argv, tuple(sorted(ancestor.variables.items())), light)
        parent = self._parents.pop(key, None)
        if parent is None:
            alike = {k: p for k, p in self._parents.items() if p.light == light}
            idle = [k for k, p in alike.items() if not p.workers]
            if len(alike) >= (MOST if light else self._most):
                if not idle:
                    return None
                self._parents.pop(idle[0]).close()
            log = self._folder / f"{next(self._numbers)}.log"
            modules = LIGHT if light else self._modules
            parent = ForkServer(ancestor, modules=modules, light=light, log=log)
        self._parents[key] = parent
        return parent

    def close(self) -> None:
        while self._parents:
            self._parents.popitem()[1].close()
