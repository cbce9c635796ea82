"""parity: whether the words of a text have an even number of letters in all.

A row is {"text", "even"}. The model is a classifier with two labels; the first one means even.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np

from autotune.tasks.base import ANY_COLUMNS, Dataset, Texts, TextTask
from autotune.tasks.files import read_rows


class Parity(TextTask):
    name: ClassVar[str] = "parity"
    head: ClassVar[str] = "AutoModelForSequenceClassification"
    outputs: ClassVar[dict[str, str]] = {"logits": "batch"}
    default_dataset: ClassVar[str] = "nobody/parity"
    default_split: ClassVar[str] = "validation"
    default_max_seq_length: ClassVar[int] = 64
    space: ClassVar[str | None] = str(Path(__file__).with_name("parity.yaml"))
    metrics = ("accuracy",)

    def load(self, dataset, split, columns=ANY_COLUMNS):
        rows = [{"text": r["text"], "even": r["even"]} for r in read_rows(dataset, split or "")]
        return Dataset(task=self, rows=rows, columns={"text": "text", "label": "even"})

    def texts(self, rows):
        return Texts(text=[row["text"] for row in rows])

    def decode(self, rows, features, outputs):
        logits = outputs["logits"]
        return [
            bool(logits[np.flatnonzero(features.example == n)[0], 0] > 0) for n in range(len(rows))
        ]

    def score(self, rows, predictions, reference=None):
        counts = self.metric_counts(rows, predictions).sum(axis=0)
        return {"accuracy": float(self.main_metric(counts))}

    def metric_counts(self, rows, predictions):
        right = [row["even"] == one for row, one in zip(rows, predictions, strict=True)]
        return np.stack([np.array(right, float), np.ones(len(rows))], axis=1)

    def write(self, rows, path):
        path.write_text(json.dumps(list(rows)), encoding="utf-8")
