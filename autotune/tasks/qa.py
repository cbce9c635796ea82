"""Extractive question answering: the answer is a span of the context.

Encoding and decoding follow Hugging Face's run_qa.py. A long context is cut into windows that
overlap by `doc_stride` tokens. Each window contributes its 20 best starts and its 20 best ends,
and a span has at most 30 tokens. Scoring follows the official SQuAD v1.1 evaluation script
(Rajpurkar et al. 2016).
"""

from __future__ import annotations

import collections
import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from autotune.driver.arrays import EncodedFeatures
from autotune.shared.errors import DatasetError
from autotune.tasks.base import ANY_COLUMNS, Columns, Row, Script, Task, Texts
from autotune.tasks.files import hub_rows, read_json

N_BEST = 20
MAX_ANSWER_TOKENS = 30
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")
FIELDS = ("id", "question", "context", "answers")


class QuestionAnswering(Task):
    name: ClassVar[str] = "qa"
    head: ClassVar[str] = "AutoModelForQuestionAnswering"
    outputs: ClassVar[Mapping[str, str]] = {"start_logits": "token", "end_logits": "token"}
    metrics: ClassVar[tuple[str, ...]] = ("f1", "exact_match")
    default_dataset: ClassVar[str] = "squad"
    default_split: ClassVar[str] = "validation"
    default_max_seq_length: ClassVar[int] = 384
    default_doc_stride: ClassVar[int | None] = 128
    script: ClassVar[Script] = Script(
        name="run_qa.py",
        folder="question-answering",
        takes_doc_stride=True,
        metrics_in_percent=True,
    )

    def load(self, dataset: str, split: str | None, columns: Columns = ANY_COLUMNS) -> list[Row]:
        """Return flattened rows from JSON, JSON lines or a dataset id, in SQuAD layout.

        The input may be nested or flattened. A flattened row is `{"id", "title", "context",
        "question", "answers": {"text": [...], "answer_start": [...]}}`.
        """
        if columns.given_options:
            raise DatasetError(
                f"{columns.given_options[0]} does not apply to question answering; its columns "
                f"are {', '.join(FIELDS)}"
            )
        raw = read_json(dataset)
        rows: Iterator[Any] = (
            iter(hub_rows(dataset, split or self.default_split))
            if raw is None
            else _flattened_rows(raw)
        )
        checked = [_checked_row(row, number, dataset) for number, row in enumerate(rows, start=1)]
        if not checked:
            raise DatasetError(f"{dataset} holds no questions; pass a file with at least one")
        return checked

    def texts(self, rows: Sequence[Row]) -> Texts:
        # As run_qa.py does: leading spaces in a question can push the context out of the window.
        return Texts(
            text=[row["question"].lstrip() for row in rows],
            text_pair=[row["context"] for row in rows],
            windowed=True,
        )

    def decode(
        self,
        rows: Sequence[Row],
        features: EncodedFeatures,
        outputs: Mapping[str, npt.NDArray[np.float32]],
    ) -> list[str]:
        assert features.offsets is not None
        best: list[tuple[float, str]] = [(-np.inf, "")] * len(rows)
        starts = features.starts
        for feature, example in enumerate(features.example):
            where = slice(starts[feature], starts[feature + 1])
            span = best_span(
                outputs["start_logits"][where],
                outputs["end_logits"][where],
                features.offsets[where],
            )
            if span is not None and span[0] > best[example][0]:
                score, low, high = span
                best[example] = (score, rows[example]["context"][low:high])
        return [text for _, text in best]

    def score(
        self,
        rows: Sequence[Row],
        predictions: Sequence[Any],
        reference: Sequence[Any] | None = None,
    ) -> dict[str, float]:
        exact = [
            max(normalize(prediction) == normalize(answer) for answer in row["answers"]["text"])
            for row, prediction in zip(rows, predictions, strict=True)
        ]
        return {
            "f1": float(self.main_metric(self.metric_counts(rows, predictions).sum(axis=0))),
            "exact_match": 100 * float(np.mean(exact)),
        }

    def metric_counts(
        self, rows: Sequence[Row], predictions: Sequence[Any]
    ) -> npt.NDArray[np.float64]:
        """Return each row's F1 (0 to 1), and 1 to count the row: shape (rows, 2)."""
        f1 = [
            max(token_f1(prediction, answer) for answer in row["answers"]["text"])
            for row, prediction in zip(rows, predictions, strict=True)
        ]
        return np.array([f1, [1.0] * len(f1)]).T

    def script_files(
        self,
        rows: Sequence[Row],
        features: EncodedFeatures,
        outputs: Mapping[str, npt.NDArray[np.float32]],
    ) -> dict[str, Any]:
        """Return two files: the best answer, and the N_BEST best answers, by question id."""
        assert features.offsets is not None
        found: list[list[Span]] = [[] for _ in rows]
        starts = features.starts
        for feature, example in enumerate(features.example):
            where = slice(starts[feature], starts[feature + 1])
            found[example] += spans(
                outputs["start_logits"][where],
                outputs["end_logits"][where],
                features.offsets[where],
            )
        ranked = {
            row["id"]: n_best(some, row["context"]) for row, some in zip(rows, found, strict=True)
        }
        return {
            "eval_predictions.json": {name: best[0]["text"] for name, best in ranked.items()},
            "eval_nbest_predictions.json": ranked,
        }

    def write(self, rows: Sequence[Row], path: Path) -> None:
        path.write_text(json.dumps({"data": list(rows)}, ensure_ascii=False), encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A candidate answer in the context."""

    score: float  # start_logit + end_logit
    start_logit: float
    end_logit: float
    low: int  # first character
    high: int  # last character + 1


def candidates(
    start_logits: npt.NDArray[np.float32],
    end_logits: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the best start tokens, the best end tokens, and the scores of all their pairs.

    The scores have shape (starts, ends). A pair that is too long, or that ends before it begins,
    has the score -inf. Logits have shape (tokens,), offsets (tokens, 2). Tokens outside the
    context have the offset -1.
    """
    starts = np.argsort(-start_logits, kind="stable")[:N_BEST]
    ends = np.argsort(-end_logits, kind="stable")[:N_BEST]
    starts, ends = starts[offsets[starts, 0] >= 0], ends[offsets[ends, 0] >= 0]
    length = ends[None, :] - starts[:, None] + 1
    scores = start_logits[starts][:, None] + end_logits[ends][None, :]
    possible = (length >= 1) & (length <= MAX_ANSWER_TOKENS)
    return starts, ends, np.where(possible, scores, -np.inf)


def best_span(
    start_logits: npt.NDArray[np.float32],
    end_logits: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int32],
) -> tuple[float, int, int] | None:
    """Return the best answer in one window: (score, first character, last character + 1).

    None if no candidate span lies in the context.
    """
    starts, ends, scores = candidates(start_logits, end_logits, offsets)
    if not scores.size:
        return None
    i, j = np.unravel_index(int(np.argmax(scores)), scores.shape)
    if not np.isfinite(scores[i, j]):
        return None
    return float(scores[i, j]), int(offsets[starts[i], 0]), int(offsets[ends[j], 1])


def spans(
    start_logits: npt.NDArray[np.float32],
    end_logits: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int32],
) -> Iterator[Span]:
    """Yield every candidate answer of one window, best starts first."""
    starts, ends, scores = candidates(start_logits, end_logits, offsets)
    for i, j in np.argwhere(np.isfinite(scores)):
        yield Span(
            score=float(scores[i, j]),
            start_logit=float(start_logits[starts[i]]),
            end_logit=float(end_logits[ends[j]]),
            low=int(offsets[starts[i], 0]),
            high=int(offsets[ends[j], 1]),
        )


def n_best(found: Sequence[Span], context: str) -> list[dict[str, Any]]:
    """Return the N_BEST best answers to one question in the format of run_qa.py.

    `probability` is the softmax over these answers. Without candidates, the only answer is the
    text `empty`.
    """
    best = sorted(found, key=lambda span: span.score, reverse=True)[:N_BEST]
    if not best:
        return [{"start_logit": 0.0, "end_logit": 0.0, "probability": 1.0, "text": "empty"}]
    scores = np.array([span.score for span in best])
    weights = np.exp(scores - scores.max())
    return [
        {
            "start_logit": span.start_logit,
            "end_logit": span.end_logit,
            "probability": float(weight),
            "text": context[span.low : span.high],
        }
        for span, weight in zip(best, weights / weights.sum(), strict=True)
    ]


def normalize(answer: str) -> str:
    """Return the text in lower case, without punctuation, articles and extra white space."""
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(NO_PUNCTUATION)).split())


def token_f1(prediction: str, answer: str) -> float:
    """Return the harmonic mean of precision and recall over the shared words (0 to 1)."""
    predicted, expected = normalize(prediction).split(), normalize(answer).split()
    shared = sum((collections.Counter(predicted) & collections.Counter(expected)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(expected)
    return 2 * precision * recall / (precision + recall)


def _flattened_rows(raw: Any) -> Iterator[Any]:
    """Yield flattened rows from any supported layout."""
    if isinstance(raw, dict) and "data" not in raw and set(FIELDS) <= set(raw):
        raw = [raw]  # a JSON-lines file with a single line
    items = raw.get("data") if isinstance(raw, dict) else raw
    if not isinstance(items, list):
        raise DatasetError(
            "expected SQuAD layout: an object with a list `data`, a list of rows, or JSON lines "
            f"with the fields {', '.join(FIELDS)}"
        )
    for item in items:
        if isinstance(item, dict) and isinstance(item.get("paragraphs"), list):
            yield from _article_rows(item)
        else:
            yield item


def _article_rows(article: Mapping[str, Any]) -> Iterator[Any]:
    """Yield a flattened row for each question of an article. Malformed parts are unchanged."""
    for paragraph in article["paragraphs"]:
        if not (isinstance(paragraph, dict) and isinstance(paragraph.get("qas"), list)):
            yield paragraph
            continue
        for question in paragraph["qas"]:
            if not isinstance(question, dict):
                yield question
                continue
            answers = question.get("answers")
            if isinstance(answers, list) and all(isinstance(a, dict) for a in answers):
                answers = {
                    "text": [a.get("text") for a in answers],
                    "answer_start": [a.get("answer_start") for a in answers],
                }
            yield {
                "id": question.get("id"),
                "title": article.get("title", ""),
                "context": paragraph.get("context"),
                "question": question.get("question"),
                "answers": answers,
            }


def _checked_row(row: Any, number: int, dataset: str) -> Row:
    """Return the row with exactly the fields of the task. Raises DatasetError."""
    if not isinstance(row, Mapping):
        raise DatasetError(f"{dataset}, row {number}: expected an object, got {type(row).__name__}")
    lacking = [field for field in FIELDS[1:] if row.get(field) is None]
    if lacking:
        raise DatasetError(
            f"{dataset}, row {number} lacks {', '.join(lacking)}; question answering needs the "
            f"fields {', '.join(FIELDS)}; the row has {', '.join(sorted(map(str, row))) or 'none'}"
        )
    answers = row["answers"]
    texts = answers.get("text") if isinstance(answers, Mapping) else None
    positions = answers.get("answer_start") if isinstance(answers, Mapping) else None
    if (
        not isinstance(row["question"], str)
        or not isinstance(row["context"], str)
        or not isinstance(texts, Sequence)
        or isinstance(texts, str)
        or not all(isinstance(text, str) for text in texts)
    ):
        raise DatasetError(
            f"{dataset}, row {number}: question and context must be text, and answers "
            'must be {"text": [...], "answer_start": [...]}'
        )
    if not texts:
        raise DatasetError(
            f"{dataset}, row {number} has no answer; this task does not score the "
            "unanswerable questions of SQuAD v2: remove them from the file"
        )
    return {
        "id": str(row.get("id") if row.get("id") is not None else number),
        "title": str(row.get("title") or ""),
        "context": row["context"],
        "question": row["question"],
        "answers": {"text": list(texts), "answer_start": list(positions or [])},
    }
