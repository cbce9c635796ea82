"""Text classification: labels, or a number, for a text or for a pair of texts.

Encoding follows Hugging Face's run_glue.py: texts are truncated to `max_seq_length`, and of a pair
the longer text is cut first.

The model's config decides what is predicted, and with it the metrics:

- one label of several: accuracy and F1. With two labels, F1 is that of the second label, as in
  GLUE. With more, it is the unweighted mean over all labels of the model (macro F1).
- any number of labels (`problem_type` is multi_label_classification): micro F1 and the share of
  rows whose labels are all right. A label is predicted if its score is above 0.5.
- a number (one label, or `problem_type` is regression): Pearson and Spearman correlation, as in
  GLUE's STS-B. Rerankers are of this kind.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from autotune.driver.arrays import EncodedFeatures
from autotune.shared.errors import DatasetError
from autotune.tasks.base import (
    ANY_COLUMNS,
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    Columns,
    Dataset,
    Row,
    Script,
    Task,
    Texts,
    TextTask,
)
from autotune.tasks.correlation import correlation, correlation_of_sums, correlation_sums, ranks
from autotune.tasks.files import read_rows
from autotune.tasks.labels import choose_column, cross_entropy, label_numbers, sigmoid, softmax

PAIR_COLUMNS = {  # column of the first text -> column of the second
    "sentence1": "sentence2",
    "question1": "question2",
    "premise": "hypothesis",
    "question": "sentence",
    "query": "passage",
    "text": "text_pair",
}
TEXT_COLUMNS = (
    "sentence",
    "text",
    "sentence1",
    "question1",
    "premise",
    "question",
    "content",
    "review",
    "query",
)
LABEL_COLUMNS = ("label", "labels", "score")
METRICS = {
    SINGLE_LABEL: ("accuracy", "f1"),
    MULTI_LABEL: ("f1", "exact_match"),
    REGRESSION: ("pearson", "spearman"),
}
ABOVE_HALF = 0.0
"""A logit above this gives a score above 0.5."""
NUMBERS_AGREE_SHARE = 0.01
"""Two predicted numbers agree if they differ by at most this share of the reference's range."""


class Classification(Task):
    """Labels, or a number, for each row, whatever its inputs are."""

    outputs: ClassVar[Mapping[str, str]] = {"logits": "batch"}

    @property
    def metrics(self) -> tuple[str, ...]:  # type: ignore[override]
        return METRICS[self.problem]

    def with_model_labels(self, rows: Sequence[Row]) -> list[Row]:
        labels = [row["label"] for row in rows]
        if self.problem == REGRESSION:
            found: Sequence[Any] = [_number(label) for label in labels]
        elif self.problem == MULTI_LABEL:
            found = label_sets(labels, self.labels)
        else:
            numbers = label_numbers(labels, self.labels)
            found = [numbers[label] for label in labels]
        return [{**row, "label": label} for row, label in zip(rows, found, strict=True)]

    def decode(
        self,
        rows: Sequence[Row],
        features: EncodedFeatures,
        outputs: Mapping[str, npt.NDArray[np.float32]],
    ) -> list[Any]:
        """Return a label number, a sorted list of label numbers, or a number for each row."""
        logits = outputs["logits"]
        if self.problem == REGRESSION:
            return [float(value) for value in logits[:, 0]]
        if self.problem == MULTI_LABEL:
            return [np.flatnonzero(row > ABOVE_HALF).tolist() for row in logits]
        return [int(index) for index in logits.argmax(axis=-1)]

    def scores(self, outputs: Mapping[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.float64]:
        """Return the softmax of the logits, or the sigmoid unless exactly one label is right."""
        logits = outputs["logits"].astype(np.float64)
        return softmax(logits) if self.problem == SINGLE_LABEL else sigmoid(logits)

    def score(
        self,
        rows: Sequence[Row],
        predictions: Sequence[Any],
        reference: Sequence[Any] | None = None,
    ) -> dict[str, float]:
        expected = [row["label"] for row in rows]
        main = float(self.main_metric(self.metric_counts(rows, predictions).sum(axis=0)))
        if self.problem == REGRESSION:
            by_rank = correlation(ranks(expected), ranks(predictions))
            return {"pearson": main, "spearman": 100 * by_rank}
        if self.problem == MULTI_LABEL:
            exact = np.mean([set(e) == set(f) for e, f in zip(expected, predictions, strict=True)])
            return {"f1": main, "exact_match": 100 * float(exact)}
        return {"accuracy": main, "f1": 100 * f1(expected, predictions, len(self.labels))}

    def metric_counts(
        self, rows: Sequence[Row], predictions: Sequence[Any]
    ) -> npt.NDArray[np.float64]:
        """Return each row's counts: shape (rows, counts).

        - one label: 1 for a right row (0 for a wrong one), and 1 for the row;
        - several labels: right, predicted and expected labels;
        - a number: 1, and the sums of the correlation of expected and predicted numbers.
        """
        expected = [row["label"] for row in rows]
        if self.problem == REGRESSION:
            return correlation_sums(expected, predictions)
        if self.problem == MULTI_LABEL:
            pairs = list(zip(expected, predictions, strict=True))
            return np.array([[len({*e} & {*f}), len({*f}), len({*e})] for e, f in pairs], float)
        right = [e == found for e, found in zip(expected, predictions, strict=True)]
        return np.array([right, [1.0] * len(right)], float).T

    def main_metric(self, totals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if self.problem == REGRESSION:
            return 100 * correlation_of_sums(totals)
        if self.problem == MULTI_LABEL:
            counted = np.maximum(totals[..., 1] + totals[..., 2], 1)
            return np.asarray(200 * totals[..., 0] / counted)
        return super().main_metric(totals)

    def same(self, predictions: Sequence[Any], reference: Sequence[Any]) -> npt.NDArray[np.float64]:
        """Return 1 for a row with the same labels or nearly the same number, 0 for others.

        Two numbers are the same if they differ by at most 1% of the range of `reference`.
        """
        if self.problem != REGRESSION:
            return super().same(predictions, reference)
        wanted = np.asarray(reference)
        tolerance = NUMBERS_AGREE_SHARE * float(np.ptp(wanted))
        near = np.abs(np.asarray(predictions) - wanted) <= tolerance
        return np.asarray(near, float)

    def uninformed(
        self, rows: Sequence[Row], predictions: Sequence[Any], rng: np.random.Generator
    ) -> Iterator[tuple[str, list[Any]]]:
        for number, label in enumerate(self.labels if self.problem != REGRESSION else ()):
            always = [number] if self.problem == MULTI_LABEL else number
            yield f"always answering {label}", [always] * len(rows)
        yield from super().uninformed(rows, predictions, rng)

    def loss(
        self,
        rows: Sequence[Row],
        outputs: Mapping[str, npt.NDArray[np.float32]],
        features: EncodedFeatures,
        batch_size: int,
    ) -> float:
        """Return the model's loss over rows, which does not depend on the batches.

        One label: mean cross-entropy. Several: mean binary cross-entropy over rows and labels. A
        number: mean squared error.
        """
        logits, expected = outputs["logits"].astype(np.float64), [row["label"] for row in rows]
        if self.problem == REGRESSION:
            return float(np.mean((logits[:, 0] - np.asarray(expected)) ** 2))
        if self.problem == MULTI_LABEL:
            wanted = np.zeros(logits.shape)
            for row, labels in enumerate(expected):
                wanted[row, labels] = 1
            return float(np.mean(np.logaddexp(0, logits) - wanted * logits))
        return float(cross_entropy(outputs["logits"], expected).mean())

    def _written(self, label: Any) -> Any:
        """Return the label of a row as the dataset writes it: names, or a number."""
        if self.problem == REGRESSION:
            return label
        return [self.labels[n] for n in label] if isinstance(label, list) else self.labels[label]


class TextClassification(Classification, TextTask):
    name: ClassVar[str] = "text-classification"
    head: ClassVar[str] = "AutoModelForSequenceClassification"
    default_dataset: ClassVar[str] = "stanfordnlp/sst2"
    default_split: ClassVar[str] = "validation"
    default_max_seq_length: ClassVar[int] = 128
    script: ClassVar[Script] = Script(
        name="run_glue.py", folder="text-classification", labels_from_train=True
    )

    def load(self, dataset: str, split: str | None, columns: Columns = ANY_COLUMNS) -> Dataset:
        """Return rows of {"text", "text_pair", "label"} from JSON, CSV, TSV or a dataset id.

        `text_pair` is None for single texts. The columns are, in this order: those that the user
        names; the first pair of PAIR_COLUMNS of which the dataset has both; the first of
        TEXT_COLUMNS.
        """
        raw = read_rows(dataset, split or self.default_split)
        first = raw[0]
        text, pair = _text_columns(first, columns, dataset)
        label = choose_column(first, columns.label, LABEL_COLUMNS, "--label-column", dataset)
        rows: list[Row] = []
        for number, row in enumerate(raw, start=1):
            found: dict[str, Any] = {
                "text": row.get(text),
                "text_pair": row.get(pair) if pair else None,
                "label": row.get(label),
            }
            for column, value in ((text, found["text"]), (pair, found["text_pair"])):
                if column is not None and not isinstance(value, str):
                    raise DatasetError(f"{dataset}, row {number}: {column} must be text")
            if not _is_label(found["label"]):
                raise DatasetError(
                    f"{dataset}, row {number}: {label} must be a name, a number or a list of "
                    f"these, got {str(found['label'])[:40]!r}"
                )
            rows.append(found)
        used = {"text": text, **({"text_pair": pair} if pair else {}), "label": label}
        unused = tuple(str(column) for column in first if column not in used.values())
        return Dataset(task=self, rows=rows, columns=used, unused=unused)

    def texts(self, rows: Sequence[Row]) -> Texts:
        pairs = [row["text_pair"] for row in rows]
        paired = any(pair is not None for pair in pairs)
        return Texts(text=[row["text"] for row in rows], text_pair=pairs if paired else None)

    def write(self, rows: Sequence[Row], path: Path) -> None:
        """Write JSON lines of sentence1, sentence2 and label (its name), for run_glue.py."""
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                pair = {} if row["text_pair"] is None else {"sentence2": row["text_pair"]}
                line = {"sentence1": row["text"], **pair, "label": self._written(row["label"])}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def f1(expected: Sequence[int], found: Sequence[int], labels: int) -> float:
    """Return the F1 score (0 to 1) of a model with so many labels.

    With two labels, it is the F1 of label 1. With more, it is the mean over all labels; a label
    that neither occurs nor is predicted counts 0, as in scikit-learn.
    """
    scores = []
    for label in [1] if labels == 2 else range(labels):
        both = sum(e == f == label for e, f in zip(expected, found, strict=True))
        either = sum(e == label for e in expected) + sum(f == label for f in found)
        scores.append(2 * both / either if either else 0.0)
    return float(np.mean(scores))


def label_sets(found: Sequence[Any], labels: Sequence[str]) -> list[list[int]]:
    """Return the sorted label numbers of each row, for a model with several labels a row.

    A row is a list of labels, or one label. If every row is a list of as many numbers 0 and 1 as
    the model has labels, 1 marks the labels of the row. Raises DatasetError.
    """
    if all(isinstance(row, list) and len(row) == len(labels) for row in found):
        flags = [[_flag(value) for value in row] for row in found]
        if all(flag is not None for row in flags for flag in row):
            return [[number for number, flag in enumerate(row) if flag] for row in flags]
    lists = [row if isinstance(row, list) else [row] for row in found]
    numbers = label_numbers((label for row in lists for label in row), labels)
    return [sorted({numbers[label] for label in row}) for row in lists]


def _flag(value: Any) -> bool | None:
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else None


def _number(label: Any) -> float:
    """Return the number that a label states. Raises DatasetError."""
    try:
        number = float(label)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DatasetError(
            f"the model predicts a number, but the dataset has the label {str(label)[:40]!r}; "
            "pass rows whose labels are numbers"
        )
    return number


def _is_label(label: Any) -> bool:
    if isinstance(label, list):
        return all(_is_label(one) and not isinstance(one, list) for one in label)
    return isinstance(label, str | int | float) and label == label  # NaN is no label


def _text_columns(row: Mapping[str, Any], columns: Columns, dataset: str) -> tuple[str, str | None]:
    """Return the columns of the text and of the second text. See `TextClassification.load`."""
    pair = columns.text_pair
    if pair is not None:
        choose_column(row, pair, (), "--text-pair-column", dataset)
    if columns.text is None and pair is None:
        for first, second in PAIR_COLUMNS.items():
            if first in row and second in row:
                return first, second
    known = [name for name in TEXT_COLUMNS if name != pair]
    return choose_column(row, columns.text, known, "--text-column", dataset), pair
