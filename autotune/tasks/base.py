"""The interface of a task, and the records that describe its input."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from autotune.driver.arrays import EncodedFeatures
from autotune.shared.axes import BATCH, WIDTH, Axes
from autotune.shared.records import ModelSource

SINGLE_LABEL, MULTI_LABEL, REGRESSION = "single_label", "multi_label", "regression"
PROBLEMS = (SINGLE_LABEL, MULTI_LABEL, REGRESSION)
"""What a model's labels are: one of them is right, any number of them is right, or each is a
number to predict."""

Row = Mapping[str, Any]
"""One example of the dataset. `Task.load` decides which fields a row has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The tokenizer's input: texts or lists of words, one for each row, or several.

    `counts`: the number of texts of each row. None: one text a row.
    `windowed`: a long `text_pair` is cut into overlapping windows.
    `words`: the encoder records which word each token belongs to.
    """

    text: Sequence[str] | Sequence[Sequence[str]]
    text_pair: Sequence[str] | None = None
    counts: Sequence[int] | None = None
    windowed: bool = False
    words: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """Hugging Face's example script for a task."""

    name: str
    folder: str  # below examples/pytorch
    takes_doc_stride: bool = False  # the script has the flag --doc_stride
    pads_by_default: bool = True  # the script's default for --pad_to_max_length
    cuts_by_default: bool = True  # rows are cut to a length; if not, to the model's longest input
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The rows of a dataset, and what was read from them."""

    task: Task  # the task as these rows ask for it
    rows: list[Row]
    columns: Mapping[str, str]  # what the task needs, such as "text" -> the column it was read from
    unused: tuple[str, ...] = ()  # the dataset's other columns
    note: str = ""  # what else to say of how the rows are judged

    @property
    def reading(self) -> str:
        """Which columns were read, and how the rows are judged, in one line for people."""
        used = ", ".join(f"{field} from {column}" for field, column in self.columns.items())
        rest = f"; not used: {', '.join(self.unused)}" if self.unused else ""
        return used + rest + (f"; {self.note}" if self.note else "")


class Task(ABC):
    """Everything that differs between tasks.

    `metrics`: the names of the scores, which are in percent. The gate judges the first one.
    `labels`: the model's class names. They stay empty until a worker has read the model.
    `problem`: what the labels are, one of PROBLEMS.
    """

    name: ClassVar[str]
    head: ClassVar[str]  # the transformers class that loads the model
    work: ClassVar[str]  # the worker's half of the task, one of autotune.worker.work
    input_axes: ClassVar[Axes] = (BATCH, WIDTH)  # along which its inputs vary
    outputs: ClassVar[Mapping[str, str]]  # output name -> its axes: "batch" or "batch width"
    default_dataset: ClassVar[str]  # empty: there is none
    default_split: ClassVar[str]
    default_max_seq_length: ClassVar[int]  # the example script's default
    default_doc_stride: ClassVar[int | None] = None  # None: long texts are truncated
    script: ClassVar[Script | None] = None  # None: the task has no example script
    space: ClassVar[str | None] = None  # path of its space; None: the shipped one of its name
    optimum_name: ClassVar[str | None] = None  # in optimum-benchmark; None: its name
    metrics: tuple[str, ...]

    def __init__(self, labels: Sequence[str] = (), problem: str = SINGLE_LABEL) -> None:
        self.labels = tuple(labels)
        self.problem = problem

    def for_model(self, labels: Sequence[str], problem: str = SINGLE_LABEL) -> Self:
        """Return the same task for a model with these labels.

        Raises DatasetError if the task cannot judge such a model.
        """
        task = copy.copy(self)
        task.labels, task.problem = tuple(labels), problem
        return task

    @property
    def script_flags(self) -> tuple[str, ...]:
        """Flags that the example script needs for these rows, besides those of every run."""
        return ()

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
            work=self.work,
            revision=revision,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
        )

    def max_seq_length_of(self, folder: Path | None) -> int:
        """Return the most tokens of a row if the user names none, for the model in `folder`.

        None stands for a model that is not on this machine yet.
        """
        return self.default_max_seq_length

    @abstractmethod
    def load(self, dataset: str, split: str | None, columns: Columns = ANY_COLUMNS) -> Dataset:
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
    def for_worker(self, rows: Sequence[Row]) -> Mapping[str, Any]:
        """Return the rows as JSON for the task's `work`, which makes the model's inputs of them."""

    def encoding(
        self, rows: Sequence[Row], *, max_seq_length: int, doc_stride: int
    ) -> Mapping[str, Any]:
        """Return the options with which the task's `work` encodes rows like these."""
        return {}

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

    def uninformed(
        self, rows: Sequence[Row], predictions: Sequence[Any], rng: np.random.Generator
    ) -> Iterator[tuple[str, list[Any]]]:
        """Yield predictions that anyone could make without reading the input, each with its name.

        A model whose main metric is not above theirs cannot serve as a reference. The default is
        the model's own predictions, dealt to other rows.
        """
        order = rng.permutation(len(rows))
        yield "its own predictions given to other rows", [predictions[i] for i in order]

    def scores(
        self, outputs: Mapping[str, npt.NDArray[np.float32]]
    ) -> npt.NDArray[np.float64] | None:
        """Return the scores, from 0 to 1, on which a user may set a threshold.

        They are the probabilities of the labels, shape (rows or tokens, labels). None for a task
        without labels.
        """
        return None

    def agreement(self, predictions: Sequence[Any], reference: Sequence[Any]) -> float:
        """Return the share of predictions (0 to 1) that are the same as in `reference`."""
        return float(np.mean(self.same(predictions, reference)))

    def same(self, predictions: Sequence[Any], reference: Sequence[Any]) -> npt.NDArray[np.float64]:
        """Return the share of each row's predictions that are the same: shape (rows,)."""
        return np.array([a == b for a, b in zip(predictions, reference, strict=True)], float)

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

    def resampled(
        self,
        rows: Sequence[Row],
        predictions: Sequence[Any],
        weights: npt.NDArray[np.int64],
        reference: Sequence[Any] | None = None,
    ) -> npt.NDArray[np.float64] | None:
        """Return the main metric of resamples in percent: shape (resamples,).

        `weights` says how often each row is in each resample: shape (resamples, rows). None if the
        metric is not computed row by row.
        """
        counts = self.metric_counts(rows, predictions)
        return None if counts is None else self.main_metric(weights @ counts)

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

    def script_metrics(
        self, rows: Sequence[Row], predictions: Sequence[Any]
    ) -> dict[str, float] | None:
        """Return the example script's metrics, if they are others than `score` returns."""
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


class TextTask(Task):
    """A task whose rows are texts, or lists of words: the model's tokenizer makes the inputs."""

    work: ClassVar[str] = "text"

    @abstractmethod
    def texts(self, rows: Sequence[Row]) -> Texts:
        """Return the tokenizer's input for these rows."""

    def for_worker(self, rows: Sequence[Row]) -> Mapping[str, Any]:
        texts = self.texts(rows)
        return {"text": texts.text, "text_pair": texts.text_pair, "counts": texts.counts}

    def encoding(
        self, rows: Sequence[Row], *, max_seq_length: int, doc_stride: int
    ) -> Mapping[str, Any]:
        kind = self.texts(rows[:1])
        return {
            "max_seq_length": max_seq_length,
            "doc_stride": doc_stride if kind.windowed else None,
            "words": kind.words,
        }
