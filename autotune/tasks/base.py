"""The interface of a task, and the records that describe its input."""

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
"""One example of the dataset. `Task.load` decides which fields a row has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The tokenizer's input: one entry for each row, either a text or a list of words.

    `windowed`: a long `text_pair` is cut into overlapping windows.
    `words`: the encoder records which word each token belongs to.
    """

    text: Sequence[str] | Sequence[Sequence[str]]
    text_pair: Sequence[str] | None = None
    windowed: bool = False
    words: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """Hugging Face's example script for a task."""

    name: str
    folder: str  # below examples/pytorch
    takes_doc_stride: bool = False  # the script has the flag --doc_stride
    pads_by_default: bool = True  # the script's default for --pad_to_max_length
    metrics_in_percent: bool = False  # 0 to 100; otherwise the script's metrics are 0 to 1
    labels_from_train: bool = False  # the script reads the label names from --train_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The dataset's columns as the user named them.

    For None, the task looks for its usual column names.
    """

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None

    @property
    def given_options(self) -> tuple[str, ...]:
        """The command line options that the user gave, such as `--text-column`."""
        return tuple(
            f"--{name.replace('_', '-')}-column"
            for name in ("text", "text_pair", "label")
            if getattr(self, name) is not None
        )


ANY_COLUMNS = Columns()


class Task(ABC):
    """Everything that differs between tasks.

    `metrics`: the names of the scores, which are in percent. The gate judges the first one.
    `labels`: the model's class names. They stay empty until a worker has read the model.
    """

    name: ClassVar[str]
    head: ClassVar[str]  # the transformers class that loads the model
    outputs: ClassVar[Mapping[str, str]]  # output name -> one vector for each "token" or "feature"
    metrics: ClassVar[tuple[str, ...]]
    default_dataset: ClassVar[str]
    default_split: ClassVar[str]
    default_max_seq_length: ClassVar[int]  # the example script's default
    default_doc_stride: ClassVar[int | None] = None  # None: long texts are truncated
    script: ClassVar[Script | None] = None  # None: the task has no example script

    def __init__(self, labels: Sequence[str] = ()) -> None:
        self.labels = tuple(labels)

    def with_labels(self, labels: Sequence[str]) -> Self:
        """Return the same task for a model with these labels."""
        return type(self)(labels)

    def source(
        self,
        path: str,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
    ) -> ModelSource:
        """Return the source of the model at `path` (a folder or a hub id) with this task's head."""
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
        """Return the rows of a local file, or of a dataset id on the hub.

        Raises DatasetError if the dataset is missing, is empty, or has a layout that the task
        cannot read, and if `columns` names a column that the dataset or the task does not have.
        """

    def with_model_labels(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows with the dataset's labels replaced by the model's.

        `labels` must be known. Raises DatasetError for a label that the model does not have.
        """
        return list(rows)

    @abstractmethod
    def texts(self, rows: Sequence[Row]) -> Texts:
        """Return the tokenizer's input for these rows."""

    @abstractmethod
    def decode(
        self,
        rows: Sequence[Row],
        features: EncodedFeatures,
        outputs: Mapping[str, npt.NDArray[np.float32]],
    ) -> list[Any]:
        """Return one prediction for each row, from the outputs of one pass."""

    @abstractmethod
    def score(
        self,
        rows: Sequence[Row],
        predictions: Sequence[Any],
        reference: Sequence[Any] | None = None,
    ) -> dict[str, float]:
        """Return each of `metrics` in percent.

        `reference` holds the predictions of eager float32. Only tasks without labelled rows use
        it. For None, such a task compares `predictions` with themselves.
        """

    def agreement(self, predictions: Sequence[Any], reference: Sequence[Any]) -> float:
        """Return the share of rows (0 to 1) with the same prediction as in `reference`."""
        same = [a == b for a, b in zip(predictions, reference, strict=True)]
        return float(np.mean(same))

    def metric_counts(
        self, rows: Sequence[Row], predictions: Sequence[Any]
    ) -> npt.NDArray[np.float64] | None:
        """Return each row's counts for the main metric: shape (rows, counts).

        Example: accuracy counts 1 or 0 for a right or wrong row, and 1 for the row itself.
        None if the task has no such counts.
        """
        return None

    def main_metric(self, totals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the main metric in percent, from `metric_counts` summed over rows.

        Shape (..., counts) -> (...). The default is a mean over rows: the first count divided by
        the second.
        """
        return np.asarray(100 * totals[..., 0] / totals[..., 1])

    def loss(
        self,
        rows: Sequence[Row],
        outputs: Mapping[str, npt.NDArray[np.float32]],
        features: EncodedFeatures,
        batch_size: int,
    ) -> float | None:
        """Return the Trainer's `eval_loss` over batches of `batch_size` rows in dataset order.

        None if the example script reports no loss.
        """
        return None

    def script_files(
        self,
        rows: Sequence[Row],
        features: EncodedFeatures,
        outputs: Mapping[str, npt.NDArray[np.float32]],
    ) -> dict[str, Any]:
        """Return the files that the example script writes beside its metrics.

        Each file name is mapped to its JSON content.
        """
        return {}

    @abstractmethod
    def write(self, rows: Sequence[Row], path: Path) -> None:
        """Write the rows to `path` in a format that both `load` and the example script read."""
