"""Extractive question answering: the answer is a span of the context.

Encoding and decoding follow Hugging Face's run_qa.py. A long context is cut into windows that
overlap by `doc_stride` tokens. Each window contributes its 20 best starts and its 20 best ends,
and a span has at most 30 tokens. Scoring follows the official evaluation script of SQuAD v1.1
(Rajpurkar et al. 2016).

A dataset with unanswerable questions is decoded as by run_qa.py --version_2_with_negative: the
answer is empty if the score of the first token, the least over windows, is above the best span's.
It is scored by the official script of SQuAD v2.0 (Rajpurkar et al. 2018).
"""

from __future__ import annotations

import collections
import copy
import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from autotune.driver.arrays import EncodedFeatures
from autotune.shared.errors import DatasetError
from autotune.tasks.base import ANY_COLUMNS, Columns, Dataset, Row, Script, Texts, TextTask
from autotune.tasks.files import hub_rows, read_json

N_BEST = 20
MAX_ANSWER_TOKENS = 30
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")
FIELDS = ("id", "question", "context", "answers")
VERSION_2 = "v2.0"
"""The `version` of a file that may hold unanswerable questions."""


class QuestionAnswering(TextTask):
    name: ClassVar[str] = "qa"
    optimum_name: ClassVar[str | None] = "question-answering"
    head: ClassVar[str] = "AutoModelForQuestionAnswering"
    outputs: ClassVar[Mapping[str, str]] = {
        "start_logits": "batch width",
        "end_logits": "batch width",
    }
    metrics = ("f1", "exact_match")
    answerable = True  # whether every question of the dataset has an answer
    default_dataset: ClassVar[str] = "rajpurkar/squad"
    default_split: ClassVar[str] = "validation"
    default_max_seq_length: ClassVar[int] = 384
    default_doc_stride: ClassVar[int | None] = 128
    script: ClassVar[Script] = Script(
        name="run_qa.py",
        folder="question-answering",
        takes_doc_stride=True,
        metrics_in_percent=True,
    )

    @property
    def script_flags(self) -> tuple[str, ...]:
        return () if self.answerable else ("--version_2_with_negative",)

    def with_unanswerable(self) -> Self:
        """Return the task for a dataset with unanswerable questions."""
        task = copy.copy(self)
        task.answerable = False
        return task

    def load(self, dataset: str, split: str | None, columns: Columns = ANY_COLUMNS) -> Dataset:
        """Return flattened rows from JSON, JSON lines or a dataset id, in SQuAD layout.

        The input may be nested or flattened. A flattened row is `{"id", "title", "context",
        "question", "answers": {"text": [...], "answer_start": [...]}}`. The dataset may have
        unanswerable questions if it says that it is SQuAD v2, or if a question has no answer.
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
        _check_ids(checked, dataset)
        version = str(raw.get("version", "")) if isinstance(raw, Mapping) else ""
        unanswerable = version.startswith("v2") or not all(r["answers"]["text"] for r in checked)
        return Dataset(
            task=self.with_unanswerable() if unanswerable else self,
            rows=checked,
            columns={name: name for name in FIELDS[1:]},
        )

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
        null = [np.inf] * len(rows)
        starts = features.starts
        for feature, example in enumerate(features.example):
            where = slice(starts[feature], starts[feature + 1])
            start_logits, end_logits = outputs["start_logits"][where], outputs["end_logits"][where]
            null[example] = min(null[example], _no_answer(start_logits, end_logits).score)
            span = best_span(start_logits, end_logits, features.offsets[where])
            if span is not None and span[0] > best[example][0]:
                score, low, high = span
                best[example] = (score, rows[example]["context"][low:high])
        if self.answerable:
            return [text for _, text in best]
        return [
            text if score >= least else "" for (score, text), least in zip(best, null, strict=True)
        ]

    def score(
        self,
        rows: Sequence[Row],
        predictions: Sequence[Any],
        reference: Sequence[Any] | None = None,
    ) -> dict[str, float]:
        exact = [
            max(normalize(prediction) == normalize(answer) for answer in self._right_answers(row))
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
            max(
                token_f1(prediction, answer, no_words_agree=not self.answerable)
                for answer in self._right_answers(row)
            )
            for row, prediction in zip(rows, predictions, strict=True)
        ]
        return np.array([f1, [1.0] * len(f1)]).T

    def _right_answers(self, row: Row) -> Sequence[str]:
        """Return the answers to compare with. That of an unanswerable question is empty."""
        answers: Sequence[str] = row["answers"]["text"]
        if self.answerable:
            return answers
        return [answer for answer in answers if normalize(answer)] or [""]

    def uninformed(
        self, rows: Sequence[Row], predictions: Sequence[Any], rng: np.random.Generator
    ) -> Iterator[tuple[str, list[Any]]]:
        """Yield spans of random words of each context, as long as the model's answers."""
        yield (
            "random words of the context",
            [
                _random_words(row["context"], len(answer.split()), rng)
                for row, answer in zip(rows, predictions, strict=True)
            ],
        )
        if not self.answerable:
            yield "never answering", [""] * len(rows)

    def script_metrics(
        self, rows: Sequence[Row], predictions: Sequence[Any]
    ) -> dict[str, float] | None:
        if self.answerable:
            return None
        exact = [
            float(max(normalize(prediction) == normalize(one) for one in self._right_answers(row)))
            for row, prediction in zip(rows, predictions, strict=True)
        ]
        f1 = self.metric_counts(rows, predictions)[:, 0].tolist()
        answered = [bool(row["answers"]["text"]) for row in rows]
        return squad_v2_metrics(exact, f1, answered, predictions)

    def script_files(
        self,
        rows: Sequence[Row],
        features: EncodedFeatures,
        outputs: Mapping[str, npt.NDArray[np.float32]],
    ) -> dict[str, Any]:
        """Return the best answers, and the N_BEST best answers, by question id.

        With unanswerable questions, a third file has the difference of the scores of no answer
        and of the best span.
        """
        assert features.offsets is not None
        found: list[list[Span]] = [[] for _ in rows]
        null: list[Span | None] = [None] * len(rows)
        starts = features.starts
        for feature, example in enumerate(features.example):
            where = slice(starts[feature], starts[feature + 1])
            start_logits, end_logits = outputs["start_logits"][where], outputs["end_logits"][where]
            found[example] += spans(start_logits, end_logits, features.offsets[where])
            empty, least = _no_answer(start_logits, end_logits), null[example]
            if least is None or empty.score < least.score:
                null[example] = empty
        ranked, best, differences = {}, {}, {}
        for row, some, least in zip(rows, found, null, strict=True):
            one = n_best(some, row["context"], None if self.answerable else least)
            ranked[row["id"]], best[row["id"]] = one, one[0]["text"]
            if not self.answerable and least is not None:
                span = next((answer for answer in one if answer["text"]), one[0])
                start, end = np.float32(span["start_logit"]), np.float32(span["end_logit"])
                difference = float(np.float32(least.score) - start - end)
                differences[row["id"]] = difference
                best[row["id"]] = "" if difference > 0 else span["text"]
        files: dict[str, Any] = {
            "eval_predictions.json": best,
            "eval_nbest_predictions.json": ranked,
        }
        return files if self.answerable else {**files, "eval_null_odds.json": differences}

    def write(self, rows: Sequence[Row], path: Path) -> None:
        version = {} if self.answerable else {"version": VERSION_2}
        text = json.dumps({**version, "data": list(rows)}, ensure_ascii=False)
        path.write_text(text, encoding="utf-8")


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


def _no_answer(start_logits: npt.NDArray[np.float32], end_logits: npt.NDArray[np.float32]) -> Span:
    """Return the empty answer of one window: the span of its first token."""
    start, end = start_logits[0], end_logits[0]
    return Span(
        score=float(start + end), start_logit=float(start), end_logit=float(end), low=0, high=0
    )


def n_best(
    found: Sequence[Span], context: str, no_answer: Span | None = None
) -> list[dict[str, Any]]:
    """Return the N_BEST best answers to one question in the format of run_qa.py.

    `probability` is the softmax over these answers. `no_answer` is among them, whatever its rank.
    Without another answer, the first is the text `empty`.
    """
    every = [*found, *([] if no_answer is None else [no_answer])]
    best = sorted(every, key=lambda span: span.score, reverse=True)[:N_BEST]
    if no_answer is not None and no_answer not in best:
        best.append(no_answer)
    texts = [context[span.low : span.high] for span in best]
    if not texts or texts == [""]:
        best = [Span(score=0.0, start_logit=0.0, end_logit=0.0, low=0, high=0), *best]
        texts = ["empty", *texts]
    scores = np.array([span.score for span in best])
    weights = np.exp(scores - scores.max())
    return [
        {
            "start_logit": span.start_logit,
            "end_logit": span.end_logit,
            "probability": float(weight),
            "text": text,
        }
        for span, text, weight in zip(best, texts, weights / weights.sum(), strict=True)
    ]


def normalize(answer: str) -> str:
    """Return the text in lower case, without punctuation, articles and extra white space."""
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(NO_PUNCTUATION)).split())


def token_f1(prediction: str, answer: str, *, no_words_agree: bool = False) -> float:
    """Return the harmonic mean of precision and recall over the shared words (0 to 1).

    `no_words_agree`: two answers without words agree, as in SQuAD v2. They do not in SQuAD v1.
    """
    predicted, expected = normalize(prediction).split(), normalize(answer).split()
    if no_words_agree and not predicted and not expected:
        return 1.0
    shared = sum((collections.Counter(predicted) & collections.Counter(expected)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(expected)
    return 2 * precision * recall / (precision + recall)


def squad_v2_metrics(
    exact: Sequence[float],
    f1: Sequence[float],
    answered: Sequence[bool],
    predictions: Sequence[str],
) -> dict[str, float]:
    """Return the metrics of the official script of SQuAD v2.0, in its order.

    `exact` and `f1` are the scores of each question, from 0 to 1. `answered` says which questions
    have an answer. No probability is given that a question has none, as in run_qa.py.
    """

    def mean(scores: Sequence[float], which: bool | None = None) -> float:
        chosen = [s for s, has in zip(scores, answered, strict=True) if which in (None, has)]
        return 100.0 * sum(chosen) / len(chosen)

    found: dict[str, float] = {"exact": mean(exact), "f1": mean(f1), "total": len(exact)}
    for name, which in (("HasAns", True), ("NoAns", False)):
        count = sum(has == which for has in answered)
        if count:
            found[f"{name}_exact"] = mean(exact, which)
            found[f"{name}_f1"] = mean(f1, which)
            found[f"{name}_total"] = count
    for name, scores in (("exact", exact), ("f1", f1)):
        found[f"best_{name}"] = _best_over_thresholds(scores, answered, predictions)
        found[f"best_{name}_thresh"] = 0.0
    return found


def _best_over_thresholds(
    scores: Sequence[float], answered: Sequence[bool], predictions: Sequence[str]
) -> float:
    """Return the best mean score, in percent, if only the first questions were answered."""
    current = best = float(sum(not has for has in answered))
    for score, has, prediction in zip(scores, answered, predictions, strict=True):
        current += score if has else -1.0 if prediction else 0.0
        best = max(best, current)
    return 100.0 * best / len(scores)


def _random_words(context: str, count: int, rng: np.random.Generator) -> str:
    words = context.split()
    start = int(rng.integers(max(1, len(words) - count + 1)))
    return " ".join(words[start : start + max(1, count)])


def _check_ids(rows: Sequence[Row], dataset: str) -> None:
    """Raise DatasetError if two rows have one id: predictions are kept by id."""
    first: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        before = first.setdefault(row["id"], number)
        if before != number:
            raise DatasetError(
                f"{dataset}: rows {before} and {number} both have the id {row['id'][:40]!r}; give "
                "each question its own id, or leave the ids out"
            )


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
                "is_impossible": question.get("is_impossible"),
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
    if not isinstance(row["question"], str) or not isinstance(row["context"], str):
        raise DatasetError(f"{dataset}, row {number}: question and context must be text")
    answers = row["answers"]
    texts: Any = answers.get("text") if isinstance(answers, Mapping) else None
    positions: Any = answers.get("answer_start") if isinstance(answers, Mapping) else None
    if isinstance(answers, list) and all(isinstance(one, Mapping) for one in answers):
        texts = [one.get("text") for one in answers]
        positions = [one["answer_start"] for one in answers if "answer_start" in one]
    positions = [] if positions is None else positions
    well_formed = (
        isinstance(texts, list)
        and isinstance(positions, list)
        and all(isinstance(text, str) for text in texts)
        and all(isinstance(place, int) and not isinstance(place, bool) for place in positions)
        and len(positions) in (0, len(texts))
    )
    if not well_formed:
        raise DatasetError(
            f'{dataset}, row {number}: answers must be {{"text": [texts], "answer_start": '
            "[whole numbers]}, both of one length"
        )
    if row.get("is_impossible") is True:
        texts, positions = [], []
    known = [(text, place) for text, place in zip_longest(texts, positions) if text.strip()]
    return {
        "id": str(row["id"]) if row.get("id") is not None else str(number),
        "title": str(row.get("title") or ""),
        "context": row["context"],
        "question": row["question"],
        "answers": {
            "text": [text for text, _ in known],
            "answer_start": [place for _, place in known if place is not None],
        },
    }
