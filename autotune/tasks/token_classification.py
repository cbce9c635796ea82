"""Token classification: a tag for each word, such as named entities or parts of speech.

Encoding follows Hugging Face's run_ner.py. Sentences are lists of words, and the tag of a word is
the tag of its first token. A word without a token is not scored, neither its right tag nor a
predicted one: it lies beyond `max_seq_length`, or the tokenizer drops all of its characters.

The model's labels decide how tags are scored, see `Scheme`.
"""

from __future__ import annotations

import enum
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from autotune.driver.arrays import EncodedFeatures
from autotune.shared.errors import DatasetError
from autotune.tasks.base import ANY_COLUMNS, Columns, Dataset, Row, Script, Texts, TextTask
from autotune.tasks.files import read_rows
from autotune.tasks.labels import choose_column, cross_entropy, label_numbers, softmax

WORD_COLUMNS = ("tokens", "words")
TAG_COLUMNS = ("ner_tags", "tags", "labels", "pos_tags", "chunk_tags")
OUTSIDE = "O"

Span = tuple[str, int, int]


class TokenClassification(TextTask):
    name: ClassVar[str] = "token-classification"
    head: ClassVar[str] = "AutoModelForTokenClassification"
    outputs: ClassVar[Mapping[str, str]] = {"logits": "batch width"}
    default_dataset: ClassVar[str] = "tomaarsen/conll2003"
    default_split: ClassVar[str] = "validation"
    default_max_seq_length: ClassVar[int] = 128
    script: ClassVar[Script] = Script(
        name="run_ner.py",
        folder="token-classification",
        labels_from_train=True,
        pads_by_default=False,
        cuts_by_default=False,
    )

    @property
    def metrics(self) -> tuple[str, ...]:  # type: ignore[override]
        if self.scheme is not Scheme.WORDS:
            return ("f1", "precision", "recall", "accuracy")
        return ("macro_f1", "accuracy") if OUTSIDE in self.labels else ("accuracy", "macro_f1")

    @property
    def scheme(self) -> Scheme:
        """How the model's labels mark spans."""
        return scheme_of(self.labels)

    def load(self, dataset: str, split: str | None, columns: Columns = ANY_COLUMNS) -> Dataset:
        """Return rows of {"tokens", "tags"} from JSON, JSON lines or a dataset id.

        Both fields are lists, of the same length.
        """
        if columns.text_pair is not None:
            raise DatasetError("--text-pair-column does not apply to token classification")
        raw = read_rows(dataset, split or self.default_split)
        first = raw[0]
        words = choose_column(first, columns.text, WORD_COLUMNS, "--text-column", dataset)
        tags = choose_column(first, columns.label, TAG_COLUMNS, "--label-column", dataset)
        rows: list[Row] = []
        for number, row in enumerate(raw, start=1):
            found: dict[str, Any] = {"tokens": row.get(words), "tags": row.get(tags)}
            if not all(isinstance(value, list) for value in found.values()):
                raise DatasetError(f"{dataset}, row {number}: {words} and {tags} must be lists")
            if not all(isinstance(word, str) for word in found["tokens"]):
                raise DatasetError(f"{dataset}, row {number}: {words} must be texts")
            if not all(isinstance(tag, str | int) for tag in found["tags"]):
                raise DatasetError(
                    f"{dataset}, row {number}: {tags} must be one list of names or numbers, a tag "
                    "for each word"
                )
            if len(found["tokens"]) != len(found["tags"]):
                raise DatasetError(
                    f"{dataset}, row {number}: {len(found['tokens'])} {words} and "
                    f"{len(found['tags'])} {tags}"
                )
            if found["tokens"]:  # a blank line of a CoNLL file gives a row without words
                rows.append(found)
        if not rows:
            raise DatasetError(f"{dataset} holds no words; pass a file with at least one")
        used = {"words": words, "tags": tags}
        unused = tuple(str(column) for column in first if column not in used.values())
        return Dataset(task=self, rows=rows, columns=used, unused=unused)

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
    ) -> list[list[str | None]]:
        """Return the tag of each word, None for a word without a token."""
        found = outputs["logits"].argmax(axis=-1)
        tags: list[list[str | None]] = [[None] * len(row["tokens"]) for row in rows]
        for example, word, token in first_token_of_each_word(features):
            tags[example][word] = self.labels[int(found[token])]
        return tags

    def scores(self, outputs: Mapping[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.float64]:
        """Return the softmax of the logits."""
        return softmax(outputs["logits"].astype(np.float64))

    def score(
        self,
        rows: Sequence[Row],
        predictions: Sequence[Any],
        reference: Sequence[Any] | None = None,
    ) -> dict[str, float]:
        totals = self.metric_counts(rows, predictions).sum(axis=0)
        same, words = float(totals[-2]), float(totals[-1])
        accuracy = 100 * same / words if words else 0.0
        if self.scheme is Scheme.WORDS:
            found = {"accuracy": accuracy, "macro_f1": float(self._macro_f1(totals))}
            return {name: found[name] for name in self.metrics}
        right, predicted, expected = totals[:3].tolist()
        return {
            "f1": float(self.main_metric(totals)),
            "precision": 100 * right / predicted if predicted else 0.0,
            "recall": 100 * right / expected if expected else 0.0,
            "accuracy": accuracy,
        }

    def metric_counts(
        self, rows: Sequence[Row], predictions: Sequence[Any]
    ) -> npt.NDArray[np.float64]:
        """Return each row's counts: shape (rows, counts).

        First the right, predicted and expected spans; without spans, the same of each label, all
        right ones first. Then the right words and all words.
        """
        counted = [self._count_spans, self._count_tags][self.scheme is Scheme.WORDS]
        counts = []
        for row, tags in zip(rows, predictions, strict=True):
            scored = [(e, f) for e, f in zip(row["tags"], tags, strict=True) if f is not None]
            same = sum(e == f for e, f in scored)
            expected, found = [e for e, _ in scored], [f for _, f in scored]
            counts.append([*counted(expected, found), same, len(scored)])
        return np.array(counts, float)

    def _count_spans(self, expected: Sequence[str], found: Sequence[str]) -> list[int]:
        wanted, got = ({*spans(tags, self.scheme)} for tags in (expected, found))
        return [len(wanted & got), len(got), len(wanted)]

    def _count_tags(self, expected: Sequence[str], found: Sequence[str]) -> list[int]:
        right = Counter(e for e, f in zip(expected, found, strict=True) if e == f)
        counters = (right, Counter(found), Counter(expected))
        return [counter[label] for counter in counters for label in self.labels]

    def main_metric(self, totals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if self.metrics[0] == "f1":
            right, spans_in_all = totals[..., 0], totals[..., 1] + totals[..., 2]
            return np.asarray(200 * right / np.maximum(spans_in_all, 1))
        if self.metrics[0] == "macro_f1":
            return self._macro_f1(totals)
        return np.asarray(100 * totals[..., -2] / np.maximum(totals[..., -1], 1))

    def _macro_f1(self, totals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the mean F1 of the labels in percent, without O, from summed counts."""
        labels = len(self.labels)
        right, predicted, expected = (totals[..., i * labels : (i + 1) * labels] for i in range(3))
        each = 200 * right / np.maximum(predicted + expected, 1)
        return np.asarray(each[..., [label != OUTSIDE for label in self.labels]].mean(axis=-1))

    def uninformed(
        self, rows: Sequence[Row], predictions: Sequence[Any], rng: np.random.Generator
    ) -> Iterator[tuple[str, list[Any]]]:
        """Yield the tag of every word shifted by some words, and each tag for all words."""
        flat = [tag for tags in predictions for tag in tags if tag is not None]
        shift = int(rng.integers(1, max(2, len(flat))))
        shifted = iter(flat[shift:] + flat[:shift])
        yield (
            "its own tags given to other words",
            [[None if tag is None else next(shifted) for tag in tags] for tags in predictions],
        )
        if self.scheme is Scheme.WORDS:
            for label in self.labels:
                same = [[None if t is None else label for t in tags] for tags in predictions]
                yield f"always answering {label}", same

    def loss(
        self,
        rows: Sequence[Row],
        outputs: Mapping[str, npt.NDArray[np.float32]],
        features: EncodedFeatures,
        batch_size: int,
    ) -> float:
        """Return the mean over batches, weighted by rows, of the mean cross-entropy over words."""
        numbers = {label: number for number, label in enumerate(self.labels)}
        scored = list(first_token_of_each_word(features))
        if not scored:
            return 0.0
        examples, words, tokens = zip(*scored, strict=True)
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


class Scheme(enum.Enum):
    """How labels mark spans, and so how they are scored."""

    CONLL = "IOB1, IOB2, IOBES"
    """Prefixes B, I, E and S. Scored by the rules of conlleval, as seqeval does by default: a tag
    that continues no span begins one."""
    BILOU = "BILOU"
    """Prefixes B, I, L and U. Only well-formed spans count, as in seqeval's strict mode."""
    WORDS = "no spans"
    """No prefixes, as for parts of speech. Words are scored, not spans."""


def scheme_of(labels: Sequence[str]) -> Scheme:
    """Return the scheme of a model's labels. See `Scheme`."""
    tags = [label for label in labels if label != OUTSIDE]
    prefixes = {label[:1] for label in tags if label[1:2] in ("", "-")}
    marked = prefixes and len(tags) == sum(label[1:2] in ("", "-") for label in tags)
    if not marked or not prefixes <= {*"BIESLU"}:
        return Scheme.WORDS
    return Scheme.BILOU if prefixes & {"L", "U"} else Scheme.CONLL


def spans(tags: Sequence[str], scheme: Scheme = Scheme.CONLL) -> Iterator[Span]:
    """Yield (type, first word, last word + 1) for each span."""
    return _bilou_spans(tags) if scheme is Scheme.BILOU else _conll_spans(tags)


def _conll_spans(tags: Sequence[str]) -> Iterator[Span]:
    kind, start, last = "", 0, OUTSIDE  # `last` is the prefix of the word before
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, name = tag[:1], tag[1:].split("-", maxsplit=1)[-1] or "_"
        inside = prefix != OUTSIDE
        begins = inside and (prefix in ("B", "S") or last in ("E", "S", OUTSIDE) or name != kind)
        if last != OUTSIDE and (begins or not inside):
            yield kind, start, place
        if begins:
            start = place
        kind, last = name, prefix


def _bilou_spans(tags: Sequence[str]) -> Iterator[Span]:
    kind, start = "", None
    for place, tag in enumerate(tags):
        prefix, _, name = tag.partition("-")
        continues = start is not None and name == kind and prefix in ("I", "L")
        if prefix == "U":
            yield name, place, place + 1
        elif prefix == "L" and continues and start is not None:
            yield kind, start, place + 1
        if prefix == "B":
            kind, start = name, place
        elif not (prefix == "I" and continues):
            start = None
