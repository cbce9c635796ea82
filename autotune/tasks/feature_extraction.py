"""Feature extraction: one vector for each text, the mean of its tokens' last hidden states.

The dataset has no right answers, so the metrics compare with the vectors of eager float32:

- `cosine`: the mean cosine similarity to those vectors;
- `neighbours`: the share of texts whose nearest neighbour among the other texts is unchanged.

The mean leaves out padding. It is the default pooling of sentence-transformers (Reimers and
Gurevych, 2019).
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
from autotune.tasks.base import ANY_COLUMNS, Columns, Row, Task, Texts
from autotune.tasks.files import read_rows
from autotune.tasks.labels import choose_column

TEXT_COLUMNS = ("text", "sentence", "content", "sentence1", "question", "context", "document")


class FeatureExtraction(Task):
    name: ClassVar[str] = "feature-extraction"
    head: ClassVar[str] = "AutoModel"
    outputs: ClassVar[Mapping[str, str]] = {"last_hidden_state": "token"}
    metrics: ClassVar[tuple[str, ...]] = ("cosine", "neighbours")
    default_dataset: ClassVar[str] = "stanfordnlp/sst2"
    default_split: ClassVar[str] = "validation"
    default_max_seq_length: ClassVar[int] = 128

    def load(self, dataset: str, split: str | None, columns: Columns = ANY_COLUMNS) -> list[Row]:
        """Return rows of {"text"} from JSON, JSON lines, CSV or a dataset id."""
        for option in columns.given_options:
            if option != "--text-column":
                raise DatasetError(f"{option} does not apply to feature extraction")
        raw = read_rows(dataset, split or self.default_split)
        text = choose_column(raw[0], columns.text, TEXT_COLUMNS, "--text-column", dataset)
        rows: list[Row] = [{"text": row.get(text)} for row in raw]
        for number, row in enumerate(rows, start=1):
            if not isinstance(row["text"], str):
                raise DatasetError(f"{dataset}, row {number}: {text} must be text")
        return rows

    def texts(self, rows: Sequence[Row]) -> Texts:
        return Texts(text=[row["text"] for row in rows])

    def decode(
        self,
        rows: Sequence[Row],
        features: EncodedFeatures,
        outputs: Mapping[str, npt.NDArray[np.float32]],
    ) -> list[npt.NDArray[np.float64]]:
        """Return a vector for each row, scaled to length 1."""
        hidden = outputs["last_hidden_state"].astype(np.float64)
        sums = np.add.reduceat(hidden, features.starts[:-1], axis=0)
        return list(sums / np.linalg.norm(sums, axis=1, keepdims=True))

    def score(
        self,
        rows: Sequence[Row],
        predictions: Sequence[Any],
        reference: Sequence[Any] | None = None,
    ) -> dict[str, float]:
        wanted = predictions if reference is None else reference
        return {
            "cosine": 100 * float((np.array(predictions) * np.array(wanted)).sum(axis=1).mean()),
            "neighbours": 100 * self.agreement(predictions, wanted),
        }

    def agreement(self, predictions: Sequence[Any], reference: Sequence[Any]) -> float:
        """Return the share of rows (0 to 1) whose nearest neighbour is the same."""
        return float((neighbours(predictions) == neighbours(reference)).mean())

    def write(self, rows: Sequence[Row], path: Path) -> None:
        """Write JSON lines with the key `text`."""
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def neighbours(vectors: Sequence[Any]) -> npt.NDArray[np.int64]:
    """Return the index of each row's nearest other row, by cosine similarity: shape (rows,).

    The vectors must have length 1.
    """
    array = np.array(vectors)
    nearness = array @ array.T
    np.fill_diagonal(nearness, -np.inf)
    return np.asarray(nearness.argmax(axis=1))
