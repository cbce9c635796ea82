"""Keeps the answers of eager float32 in the folder of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autotune.driver.replies import read_outputs
from autotune.driver.runner import Outcome
from autotune.shared.errors import ResumeError
from autotune.store.wire import WireError
from autotune.tasks.gate import Gate, Reference
from autotune.tasks.workload import Workload


@dataclass(frozen=True, slots=True)
class StoredReferences:
    """The baseline's outputs in the run's folder."""

    file: Path
    workload: Workload
    gate: Gate

    def save(self, outcome: Outcome) -> None:
        """Write the whole file, or nothing where the process is killed."""
        partial = self.file.with_name("partial.npz")
        np.savez(partial, **dict(outcome.outputs))  # type: ignore[arg-type]
        partial.replace(self.file)

    def load(self) -> Reference | None:
        """Raises ResumeError where the file is damaged."""
        if not self.file.exists():
            return None
        workload = self.workload
        try:
            outputs = read_outputs([self.file], workload.task.outputs, workload.expected)
        except WireError as error:
            raise ResumeError(f"the reference of this run: {error}; start a new run") from error
        return self.gate.reference(outputs)
