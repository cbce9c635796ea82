"""What a task is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from autotune.driver.arrays import EncodedFeatures
from autotune.shared.records import ModelSource

Row = Mapping[str, Any]
"""One example, in the fields of the task's `Task.load`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What the tokenizer gets: one entry a row, which is a text, or its words.

    With `windowed`, `text_pair` is cut into windows; with `words`, the tokens of each word
    are remembered.
    """

    text: Sequence[str] | Sequence[Sequence[str]]
    text_pair: Sequence[str] | None = None
    windowed: bool = False
    words: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """Hugging Face's example script of a task."""

    name: str
    folder: str  # below examples/pytorch
    windows: bool = False  # it takes --doc_stride
    pads: bool = True  # its default of --pad_to_max_length
    percent: bool = False  # it writes metrics in percent, not as shares of 1
    labels_from_train: bool = False  # it reads the names of the labels from --train_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns of a dataset hold what; None: those the task knows by name."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None

    @property
    def named(self) -> tuple[str, ...]:
        """The options that were given."""
        return tuple(
            f"--{name.replace('_', '-')}-column"
            for name in ("text", "text_pair", "label")
            if getattr(self, name) is not None
        )


ANY_COLUMNS = Columns()


class Task(ABC):
    """Everything that differs between tasks.

    `metrics` names the scores in percent, the main one first: the gate judges that one.
    `labels` are the model's names for its classes, unknown until it has been looked at.
    """

    name: ClassVar[str]
    head: ClassVar[str]  # the transformers auto class
    outputs: ClassVar[Mapping[str, str]]  # model output -> a vector a "token" or a "feature"
    metrics: ClassVar[tuple[str, ...]]
    default_dataset: ClassVar[str]
    default_split: ClassVar[str]
    default_max_seq_length: ClassVar[int]  # the example script's
    default_doc_stride: ClassVar[int | None] = None  # None: long texts are cut off, not windowed
    script: ClassVar[Script | None] = None  # None: there is none for the task

    def __init__(self, labels: Sequence[str] = ()) -> None:
        self.labels = tuple(labels)

    def with_labels(self, labels: Sequence[str]) -> Self:
        """The same task for a model with these labels."""
        return type(self)(labels)

    def source(
        self,
        path: str,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
    ) -> ModelSource:
        """The model at `path` (a folder or a hub id) with the head of this task."""
        return ModelSource(
            path=path,
            head=self.head,
            outputs=dict(self.outputs),
            revision=revision,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
        )

    @abstractmethod
    def load(self, dataset: str, split: str | None, columns: Columns = ANY_COLUMNS) -> list[Row]:
        """The rows of a file, or of a dataset id on the hub.

        Raises DatasetError: not found, not in a layout of the task, or empty; columns that the
        dataset or the task does not have.
        """

    def labelled(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with their labels as the model has them; `labels` must be known.

        Raises DatasetError where a row has a label the model does not know.
        """
        return list(rows)

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
    def score(
        self,
        rows: Sequence[Row],
        predictions: Sequence[Any],
        reference: Sequence[Any] | None = None,
    ) -> dict[str, float]:
        """Each of `metrics`, in percent. `reference` are the predictions of eager float32, for
        tasks whose rows do not say what is right; None: these are."""

    def agreement(self, predictions: Sequence[Any], reference: Sequence[Any]) -> float:
        """The share of rows that are answered as in `reference`."""
        same = [a == b for a, b in zip(predictions, reference, strict=True)]
        return float(np.mean(same))

    def tallies(
        self, rows: Sequence[Row], predictions: Sequence[Any]
    ) -> npt.NDArray[np.float64] | None:
        """What each row adds to the main metric: shape (rows, counts). None: not known."""
        return None

    def main_metric(self, totals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The main metric in percent, from sums of `tallies`: shape (..., counts) -> (...).

        By default a mean over rows: the first count over the second.
        """
        return np.asarray(100 * totals[..., 0] / totals[..., 1])

    def loss(
        self,
        rows: Sequence[Row],
        outputs: Mapping[str, npt.NDArray[np.float32]],
        features: EncodedFeatures,
        batch_size: int,
    ) -> float | None:
        """The Trainer's `eval_loss` over batches of `batch_size` rows in dataset order; None
        where the example script has none."""
        return None

    def answers(
        self,
        rows: Sequence[Row],
        features: EncodedFeatures,
        outputs: Mapping[str, npt.NDArray[np.float32]],
    ) -> dict[str, Any]:
        """What the example script writes beside its metrics: file name -> JSON content."""
        return {}

    @abstractmethod
    def write(self, rows: Sequence[Row], path: Path) -> None:
        """The rows as the file that both `load` and the example script read."""
