"""What a task is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from autotune.worker_files import EncodedFeatures

Row = Mapping[str, Any]
"""One example, in the fields of the task's `Task.load`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What the tokenizer gets: one entry a row. `doc_stride` windows `text_pair`."""

    text: list[str]
    text_pair: list[str] | None
    windowed: bool


class Task(ABC):
    """Everything that differs between tasks. Stateless.

    `metrics` names the scores in percent, the main one first: the gate judges that one.
    """

    name: ClassVar[str]
    head: ClassVar[str]  # the transformers auto class
    outputs: ClassVar[Mapping[str, str]]  # model output -> a vector a "token" or a "feature"
    metrics: ClassVar[tuple[str, ...]]
    default_dataset: ClassVar[str]
    default_split: ClassVar[str]
    script: ClassVar[str]  # Hugging Face's example script

    @abstractmethod
    def load(self, dataset: str, split: str | None) -> list[Row]:
        """The rows of a file, or of a dataset id on the hub.

        Raises DatasetError: not found, not in a layout of the task, or empty.
        """

    @abstractmethod
    def texts(self, rows: Sequence[Row]) -> Texts:
        """What to encode."""

    @abstractmethod
    def decode(
        self,
        rows: Sequence[Row],
        features: EncodedFeatures,
        outputs: Mapping[str, npt.NDArray[np.float32]],
    ) -> list[Any]:
        """One prediction a row, from the outputs of one pass."""

    @abstractmethod
    def score(self, rows: Sequence[Row], predictions: Sequence[Any]) -> dict[str, float]:
        """Each of `metrics`, in percent."""

    def tallies(
        self, rows: Sequence[Row], predictions: Sequence[Any]
    ) -> npt.NDArray[np.float64] | None:
        """What each row adds to the main metric: shape (rows, counts). None: not known."""
        return None

    def main_metric(self, totals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The main metric in percent, from sums of `tallies`: shape (..., counts) -> (...)."""
        raise NotImplementedError

    @abstractmethod
    def write(self, rows: Sequence[Row], path: Path) -> None:
        """The rows as the file that both `load` and the example script read."""
