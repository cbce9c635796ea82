"""Token classification: a tag for each word, such as named entities in BIO.

Encoding follows Hugging Face's run_ner.py. Sentences are lists of words, and the tag of a word is
the tag of its first token. Words beyond `max_seq_length` get the tag O.

Scoring follows seqeval's default, the CoNLL-2000 rules. A span is right if its type and both ends
are right. An I- tag without a span to continue begins a new span.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from autotune.driver.arrays import EncodedFeatures
from autotune.shared.errors import DatasetError
from autotune.tasks.base import ANY_COLUMNS, Columns, Row, Script, Task, Texts
from autotune.tasks.files import read_rows
from autotune.tasks.labels import choose_column, cross_entropy, label_numbers

WORD_COLUMNS = ("tokens", "words")
TAG_COLUMNS = ("ner_tags", "tags", "labels", "pos_tags", "chunk_tags")
OUTSIDE = "O"

Span = tuple[str, int, int]


class TokenClassification(Task):
    name: ClassVar[str] = "token-classification"
    head: ClassVar[str] = "AutoModelForTokenClassification"
    outputs: ClassVar[Mapping[str, str]] = {"logits": "token"}
    metrics: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "accuracy")
    default_dataset: ClassVar[str] = "eriktks/conll2003"
    default_split: ClassVar[str] = "validation"
    default_max_seq_length: ClassVar[int] = 128
    script: ClassVar[Script] = Script(
        name="run_ner.py",
        folder="token-classification",
        labels_from_train=True,
        pads_by_default=False,
    )

    def load(self, dataset: str, split: str | None, columns: Columns = ANY_COLUMNS) -> list[Row]:
        """Return rows of {"tokens", "tags"} from JSON, JSON lines or a dataset id.

        Both fields are lists, of the same length.
        """
        if columns.text_pair is not None:
            raise DatasetError("--text-pair-column does not apply to token classification")
        raw = read_rows(dataset, split or self.default_split)
        words = choose_column(raw[0], columns.text, WORD_COLUMNS, "--text-column", dataset)
        tags = choose_column(raw[0], columns.label, TAG_COLUMNS, "--label-column", dataset)
        rows: list[Row] = []
        for number, row in enumerate(raw, start=1):
            found: dict[str, Any] = {"tokens": row.get(words), "tags": row.get(tags)}
            if not all(isinstance(value, list) for value in found.values()):
                raise DatasetError(f"{dataset}, row {number}: {words} and {tags} must be lists")
            if not all(isinstance(word, str) for word in found["tokens"]):
                raise DatasetError(f"{dataset}, row {number}: {words} must be texts")
            if len(found["tokens"]) != len(found["tags"]):
                raise DatasetError(
                    f"{dataset}, row {number}: {len(found['tokens'])} {words} and "
                    f"{len(found['tags'])} {tags}"
                )
            if found["tokens"]:  # a blank line of a CoNLL file gives a row without words
                rows.append(found)
        if not rows:
            raise DatasetError(f"{dataset} holds no words; pass a file with at least one")
        return rows

    def with_model_labels(self, rows: Sequence[Row]) -> list[Row]:
        names = self.labels
        numbers = label_numbers((tag for row in rows for tag in row["tags"]), names)
        return [{**row, "tags": [names[numbers[tag]] for tag in row["tags"]]} for row in rows]

    def texts(self, rows: Sequence[Row]) -> Texts:
        return Texts(text=[row["tokens"] for row in rows], words=True)

    def decode(
        self,
        rows: Sequence[Row],
        features: EncodedFeatures,
        outputs: Mapping[str, npt.NDArray[np.float32]],
    ) -> list[list[str]]:
        """Return the tag of each word. Words that were cut off get O."""
        found = outputs["logits"].argmax(axis=-1)
        tags = [[OUTSIDE] * len(row["tokens"]) for row in rows]
        for example, word, token in first_token_of_each_word(features):
            tags[example][word] = self.labels[int(found[token])]
        return tags

    def score(
        self,
        rows: Sequence[Row],
        predictions: Sequence[Any],
        reference: Sequence[Any] | None = None,
    ) -> dict[str, float]:
        right, found, expected, same, words = (
            self.metric_counts(rows, predictions).sum(axis=0).tolist()
        )
        return {
            "f1": float(self.main_metric(np.array([right, found, expected]))),
            "precision": 100 * right / found if found else 0.0,
            "recall": 100 * right / expected if expected else 0.0,
            "accuracy": 100 * same / words,
        }

    def metric_counts(
        self, rows: Sequence[Row], predictions: Sequence[Any]
    ) -> npt.NDArray[np.float64]:
        """Return five counts for each row: right, found and expected spans, right and all words."""
        counts = []
        for row, tags in zip(rows, predictions, strict=True):
            expected, found = set(spans(row["tags"])), set(spans(tags))
            same = sum(a == b for a, b in zip(row["tags"], tags, strict=True))
            counts.append([len(expected & found), len(found), len(expected), same, len(tags)])
        return np.array(counts, float)

    def main_metric(self, totals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        right, spans_in_all = totals[..., 0], totals[..., 1] + totals[..., 2]
        return np.asarray(200 * right / np.maximum(spans_in_all, 1))

    def loss(
        self,
        rows: Sequence[Row],
        outputs: Mapping[str, npt.NDArray[np.float32]],
        features: EncodedFeatures,
        batch_size: int,
    ) -> float:
        """Return the mean over batches, weighted by rows, of the mean cross-entropy over words."""
        numbers = {label: number for number, label in enumerate(self.labels)}
        examples, words, tokens = zip(*first_token_of_each_word(features), strict=True)
        expected = [numbers[rows[e]["tags"][w]] for e, w in zip(examples, words, strict=True)]
        losses = cross_entropy(outputs["logits"][list(tokens)], expected)
        batches = np.array(examples) // batch_size
        total = 0.0
        for batch in np.unique(batches):
            held = min(batch_size, len(rows) - int(batch) * batch_size)
            total += held * float(losses[batches == batch].mean())
        return total / len(rows)

    def write(self, rows: Sequence[Row], path: Path) -> None:
        """Write JSON lines of tokens and ner_tags, as run_ner.py reads them."""
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                line = {"tokens": row["tokens"], "ner_tags": row["tags"]}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def first_token_of_each_word(features: EncodedFeatures) -> Iterator[tuple[int, int, int]]:
    """Yield (row, word, first token) for every word that was not cut off."""
    assert features.words is not None
    starts = features.starts
    for feature, example in enumerate(features.example):
        before = -1
        for token in range(starts[feature], starts[feature + 1]):
            word = int(features.words[token])
            if word >= 0 and word != before:
                yield int(example), word, token
            before = word


def spans(tags: Sequence[str]) -> Iterator[Span]:
    """Yield (type, first word, last word + 1) for each span of BIO tags."""
    kind, start = "", 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, name = tag.partition("-")
        begins = prefix == "B" or (prefix == "I" and name != kind)
        if kind and (begins or prefix not in ("B", "I")):
            yield kind, start, place
            kind = ""
        if begins or (prefix == "I" and not kind):
            kind, start = name, place
