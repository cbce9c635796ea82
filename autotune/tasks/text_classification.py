"""Text classification: one label for a text, or for a pair of texts.

Encoding follows Hugging Face's run_glue.py: truncated to `max_seq_length`, the longer of a pair
first. Accuracy, and F1: of the second label where there are two (GLUE), else the unweighted mean
over labels (macro).
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
from autotune.tasks.labels import column, cross_entropy, numbering

TEXTS = ("sentence", "text", "sentence1", "question1", "premise", "question", "content", "review")
PAIRS = {
    "sentence1": "sentence2",
    "question1": "question2",
    "premise": "hypothesis",
    "question": "sentence",
}
LABELS = ("label", "labels")


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
        """Rows of {"text", "text_pair" (or None), "label"} from JSON, JSON lines, CSV or a
        dataset id."""
        raw = read_rows(dataset, split or self.default_split)
        first = raw[0]
        text = column(first, columns.text, TEXTS, "--text-column", dataset)
        label = column(first, columns.label, LABELS, "--label-column", dataset)
        pair = columns.text_pair
        if pair is not None:
            column(first, pair, (), "--text-pair-column", dataset)
        elif columns.text is None and PAIRS.get(text) in first:
            pair = PAIRS[text]
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

    def labelled(self, rows: Sequence[Row]) -> list[Row]:
        numbers = numbering((row["label"] for row in rows), self.labels)
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
        accuracy = float(self.main_metric(self.tallies(rows, predictions).sum(axis=0)))
        return {"accuracy": accuracy, "f1": 100 * f1([r["label"] for r in rows], predictions)}

    def tallies(self, rows: Sequence[Row], predictions: Sequence[Any]) -> npt.NDArray[np.float64]:
        """Whether each row is right, and one for counting it."""
        right = [row["label"] == found for row, found in zip(rows, predictions, strict=True)]
        return np.array([right, [1.0] * len(right)], float).T

    def loss(
        self,
        rows: Sequence[Row],
        outputs: Mapping[str, npt.NDArray[np.float32]],
        features: EncodedFeatures,
        batch_size: int,
    ) -> float:
        """Mean cross-entropy; batches make no difference."""
        return float(cross_entropy(outputs["logits"], [row["label"] for row in rows]).mean())

    def write(self, rows: Sequence[Row], path: Path) -> None:
        """JSON lines of sentence1, sentence2 and the label's name, as run_glue.py reads them."""
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                pair = {} if row["text_pair"] is None else {"sentence2": row["text_pair"]}
                line = {"sentence1": row["text"], **pair, "label": self.labels[row["label"]]}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def f1(expected: Sequence[int], found: Sequence[int]) -> float:
    """Of label 1 where only 0 and 1 occur, else the mean over the labels that occur."""
    occurring = sorted({*expected, *found})
    counted = [1] if occurring in ([0, 1], [1]) else occurring
    scores = []
    for label in counted:
        both = sum(e == f == label for e, f in zip(expected, found, strict=True))
        either = sum(e == label for e in expected) + sum(f == label for f in found)
        scores.append(2 * both / either if either else 0.0)
    return float(np.mean(scores))
