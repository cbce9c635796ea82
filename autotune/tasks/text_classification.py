"""Text classification: one label for a text, or for a pair of texts.

Encoding follows Hugging Face's run_glue.py: texts are truncated to `max_seq_length`, and of a pair
the longer text is cut first.

The metrics are accuracy and F1. With two labels, F1 is that of the second label, as in GLUE. With
more, F1 is the unweighted mean over labels (macro F1).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from autotune.driver.arrays import EncodedFeatures
from autotune.shared.errors import DatasetError
from autotune.tasks.base import ANY_COLUMNS, Columns, Row, Script, Task, Texts
from autotune.tasks.files import read_rows
from autotune.tasks.labels import choose_column, cross_entropy, label_numbers

TEXT_COLUMNS = (
    "sentence",
    "text",
    "sentence1",
    "question1",
    "premise",
    "question",
    "content",
    "review",
)
PAIR_COLUMNS = {  # column of the first text -> column of the second
    "sentence1": "sentence2",
    "question1": "question2",
    "premise": "hypothesis",
    "question": "sentence",
}
LABEL_COLUMNS = ("label", "labels")


class TextClassification(Task):
    name: ClassVar[str] = "text-classification"
    head: ClassVar[str] = "AutoModelForSequenceClassification"
    outputs: ClassVar[Mapping[str, str]] = {"logits": "feature"}
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "f1")
    default_dataset: ClassVar[str] = "stanfordnlp/sst2"
    default_split: ClassVar[str] = "validation"
    default_max_seq_length: ClassVar[int] = 128
    script: ClassVar[Script] = Script(
        name="run_glue.py", folder="text-classification", labels_from_train=True
    )

    def load(self, dataset: str, split: str | None, columns: Columns = ANY_COLUMNS) -> list[Row]:
        """Return rows of {"text", "text_pair", "label"} from JSON, JSON lines, CSV or a dataset id.

        `text_pair` is None for single texts.
        """
        raw = read_rows(dataset, split or self.default_split)
        first = raw[0]
        text = choose_column(first, columns.text, TEXT_COLUMNS, "--text-column", dataset)
        label = choose_column(first, columns.label, LABEL_COLUMNS, "--label-column", dataset)
        pair = columns.text_pair
        if pair is not None:
            choose_column(first, pair, (), "--text-pair-column", dataset)
        elif columns.text is None and PAIR_COLUMNS.get(text) in first:
            pair = PAIR_COLUMNS[text]
        rows: list[Row] = []
        for number, row in enumerate(raw, start=1):
            found: dict[str, Any] = {
                "text": row.get(text),
                "text_pair": row.get(pair) if pair else None,
                "label": row.get(label),
            }
            if not isinstance(found["text"], str) or (
                pair and not isinstance(found["text_pair"], str)
            ):
                raise DatasetError(f"{dataset}, row {number}: {text} must be text")
            if not isinstance(found["label"], str | int) or isinstance(found["label"], bool):
                raise DatasetError(
                    f"{dataset}, row {number}: {label} must be a name or a whole number, "
                    f"got {str(found['label'])[:40]!r}"
                )
            rows.append(found)
        return rows

    def with_model_labels(self, rows: Sequence[Row]) -> list[Row]:
        numbers = label_numbers((row["label"] for row in rows), self.labels)
        return [{**row, "label": numbers[row["label"]]} for row in rows]

    def texts(self, rows: Sequence[Row]) -> Texts:
        pairs = [row["text_pair"] for row in rows]
        paired = any(pair is not None for pair in pairs)
        return Texts(text=[row["text"] for row in rows], text_pair=pairs if paired else None)

    def decode(
        self,
        rows: Sequence[Row],
        features: EncodedFeatures,
        outputs: Mapping[str, npt.NDArray[np.float32]],
    ) -> list[int]:
        return [int(index) for index in outputs["logits"].argmax(axis=-1)]

    def score(
        self,
        rows: Sequence[Row],
        predictions: Sequence[Any],
        reference: Sequence[Any] | None = None,
    ) -> dict[str, float]:
        accuracy = float(self.main_metric(self.metric_counts(rows, predictions).sum(axis=0)))
        return {"accuracy": accuracy, "f1": 100 * f1([r["label"] for r in rows], predictions)}

    def metric_counts(
        self, rows: Sequence[Row], predictions: Sequence[Any]
    ) -> npt.NDArray[np.float64]:
        """Return 1 for each right row (0 for a wrong one), and 1 to count it: shape (rows, 2)."""
        right = [row["label"] == found for row, found in zip(rows, predictions, strict=True)]
        return np.array([right, [1.0] * len(right)], float).T

    def loss(
        self,
        rows: Sequence[Row],
        outputs: Mapping[str, npt.NDArray[np.float32]],
        features: EncodedFeatures,
        batch_size: int,
    ) -> float:
        """Return the mean cross-entropy over rows, which does not depend on the batches."""
        return float(cross_entropy(outputs["logits"], [row["label"] for row in rows]).mean())

    def write(self, rows: Sequence[Row], path: Path) -> None:
        """Write JSON lines of sentence1, sentence2 and label (its name), for run_glue.py."""
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                pair = {} if row["text_pair"] is None else {"sentence2": row["text_pair"]}
                line = {"sentence1": row["text"], **pair, "label": self.labels[row["label"]]}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def f1(expected: Sequence[int], found: Sequence[int]) -> float:
    """Return the F1 score (0 to 1).

    If only the labels 0 and 1 occur, this is the F1 of label 1. Otherwise it is the mean over the
    labels that occur.
    """
    occurring = sorted({*expected, *found})
    counted = [1] if occurring in ([0, 1], [1]) else occurring
    scores = []
    for label in counted:
        both = sum(e == f == label for e, f in zip(expected, found, strict=True))
        either = sum(e == label for e in expected) + sum(f == label for f in found)
        scores.append(2 * both / either if either else 0.0)
    return float(np.mean(scores))
