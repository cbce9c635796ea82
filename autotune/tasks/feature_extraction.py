"""Feature extraction: one vector for each text.

The worker makes the vectors (`worker/work/embedding.py`). It follows modules.json of a folder of
sentence-transformers (Reimers and Gurevych, 2019), and takes the mean over the tokens of a text if
the folder has none.

The dataset decides how the vectors are judged:

- pairs with scores: the Spearman correlation of the scores with the cosine similarities, as in
  STS (Cer et al., 2017);
- queries with relevant passages: nDCG@10 (linear gain), MRR@10 and recall@10, of each query among
  all passages of the dataset;
- texts alone have no right answers. The vectors are compared with those of eager float32.

Two metrics are always reported: `cosine`, the mean cosine similarity to the vectors of eager
float32, and `neighbours`, the share of texts whose nearest neighbour among the texts is unchanged.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from autotune.driver.arrays import EncodedFeatures
from autotune.shared.errors import DatasetError
from autotune.shared.folders import SENTENCE_SETTINGS, read_json
from autotune.tasks.base import ANY_COLUMNS, Columns, Dataset, Row, Texts, TextTask
from autotune.tasks.correlation import correlation, ranks, weighted_rank_correlation
from autotune.tasks.files import lines_of, read_rows, read_text, read_tsv
from autotune.tasks.labels import choose_column
from autotune.tasks.text_classification import PAIR_COLUMNS

TEXT_COLUMNS = ("text", "sentence", "content", "sentence1", "question", "context", "document")
SCORE_COLUMNS = ("score", "similarity_score", "similarity", "label", "labels")
QUERY_COLUMNS = ("query", "anchor", "question")
POSITIVE_COLUMNS = ("positive", "positives", "pos", "passage", "answer")
NEGATIVE_COLUMNS = ("negative", "negatives", "neg")
GRADES_COLUMN = "grades"
UNLIMITED_TOKENS = 1_000_000
"""Limits from here on mean no limit: some tokenizers state a huge `model_max_length`."""
BEST = 10
"""Passages of a query that nDCG, MRR and recall look at."""
TEXTS, PAIRS, QUERIES = "texts", "pairs", "queries"
FIDELITY_NOTE = "no labels to judge by, so vectors are compared with those of eager float32"
METRICS = {
    TEXTS: ("cosine", "neighbours"),
    PAIRS: ("spearman", "pearson", "cosine", "neighbours"),
    QUERIES: ("ndcg_at_10", "mrr_at_10", "recall_at_10", "cosine", "neighbours"),
}


class FeatureExtraction(TextTask):
    """A row has `texts`. Of a pair it also has the `score`, of a query the `grades` of all other
    texts: 0 for a passage that is not relevant."""

    name: ClassVar[str] = "feature-extraction"
    head: ClassVar[str] = "AutoModel"
    work: ClassVar[str] = "embedding"
    outputs: ClassVar[Mapping[str, str]] = {"sentence_embedding": "batch"}
    default_dataset: ClassVar[str] = "stanfordnlp/sst2"
    default_split: ClassVar[str] = "validation"
    default_max_seq_length: ClassVar[int] = 128
    layout = TEXTS

    @property
    def metrics(self) -> tuple[str, ...]:  # type: ignore[override]
        return METRICS[self.layout]

    def with_layout(self, layout: str) -> Self:
        """Return the task for rows of this layout: TEXTS, PAIRS or QUERIES."""
        task = copy.copy(self)
        task.layout = layout
        return task

    def max_seq_length_of(self, folder: Path | None) -> int:
        """Return what sentence-transformers cuts texts to, for a folder that it has saved.

        That is max_seq_length of sentence_bert_config.json, which may have another of its names, or
        else the smaller of the limits that the model and its tokenizer state.
        """
        if folder is None or not (folder / "modules.json").is_file():
            return self.default_max_seq_length
        found = (read_json(folder / name) for name in SENTENCE_SETTINGS)
        own = _limit(next((texts for texts in found if texts), {}), "max_seq_length")
        limits = [
            _limit(read_json(folder / "config.json"), "max_position_embeddings"),
            _limit(read_json(folder / "tokenizer_config.json"), "model_max_length"),
        ]
        known = [limit for limit in limits if limit is not None]
        return own or (min(known) if known else self.default_max_seq_length)

    def load(self, dataset: str, split: str | None, columns: Columns = ANY_COLUMNS) -> Dataset:
        """Return rows of {"texts"} with "score" or "grades" from JSON, CSV, TSV or a dataset id.

        A folder with queries.jsonl, corpus.jsonl and qrels/ is read as well, as BEIR lays it out
        (Thakur et al., 2021). Its passages are those that are judged for some query.
        """
        folder = Path(dataset)
        if (folder / "queries.jsonl").is_file() and (folder / "corpus.jsonl").is_file():
            if columns.given_options:
                raise DatasetError(f"{columns.given_options[0]} does not apply to {dataset}")
            return Dataset(
                task=self.with_layout(QUERIES),
                rows=_qrels_rows(folder, split or "test"),
                columns={"query": "queries.jsonl", "passages": "corpus.jsonl"},
            )
        raw = read_rows(dataset, split or self.default_split)
        layout, used = _layout(raw, columns, dataset)
        make = {TEXTS: _text_row, PAIRS: _pair_row, QUERIES: _query_row}[layout]
        rows: list[Row] = []
        for number, row in enumerate(raw, start=1):
            try:
                rows.append(make(row, used))
            except ValueError as error:
                raise DatasetError(f"{dataset}, row {number}: {error}") from None
        unused = tuple(str(column) for column in raw[0] if column not in used.values())
        return Dataset(
            task=self.with_layout(layout),
            rows=rows,
            columns=used,
            unused=unused,
            note=FIDELITY_NOTE if layout == TEXTS else "",
        )

    def texts(self, rows: Sequence[Row]) -> Texts:
        return Texts(
            text=[text for row in rows for text in row["texts"]],
            counts=[len(row["texts"]) for row in rows],
        )

    def decode(
        self,
        rows: Sequence[Row],
        features: EncodedFeatures,
        outputs: Mapping[str, npt.NDArray[np.float32]],
    ) -> list[npt.NDArray[np.float64]]:
        """Return the vectors of each row's texts, scaled to length 1: shape (texts, size)."""
        found = outputs["sentence_embedding"].astype(np.float64)
        vectors = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-30)
        ends = np.cumsum([len(row["texts"]) for row in rows])
        return np.split(vectors, ends[:-1])

    def score(
        self,
        rows: Sequence[Row],
        predictions: Sequence[Any],
        reference: Sequence[Any] | None = None,
    ) -> dict[str, float]:
        wanted = predictions if reference is None else reference
        found, compared = np.concatenate(list(predictions)), np.concatenate(list(wanted))
        fidelity = {
            "cosine": 100 * float((found * compared).sum(axis=1).mean()),
            "neighbours": 100 * self.agreement(predictions, wanted),
        }
        if self.layout == PAIRS:
            expected, similar = _scores(rows), similarities(predictions)
            by_rank = correlation(ranks(expected), ranks(similar))
            by_value = correlation(expected, similar)
            return {"spearman": 100 * by_rank, "pearson": 100 * by_value, **fidelity}
        if self.layout == QUERIES:
            means = 100 * retrieval(rows, predictions).mean(axis=0)
            return {**dict(zip(METRICS[QUERIES], means.tolist(), strict=False)), **fidelity}
        return fidelity

    def metric_counts(
        self, rows: Sequence[Row], predictions: Sequence[Any]
    ) -> npt.NDArray[np.float64] | None:
        """Return each query's nDCG@10 and 1: shape (rows, 2). None for other layouts."""
        if self.layout != QUERIES:
            return None
        gains = retrieval(rows, predictions)[:, 0]
        return np.array([gains, np.ones(len(gains))]).T

    def resampled(
        self,
        rows: Sequence[Row],
        predictions: Sequence[Any],
        weights: npt.NDArray[np.int64],
        reference: Sequence[Any] | None = None,
    ) -> npt.NDArray[np.float64] | None:
        if self.layout == PAIRS:
            return 100 * weighted_rank_correlation(
                _scores(rows), similarities(predictions), weights
            )
        if self.layout == QUERIES or reference is None:
            return super().resampled(rows, predictions, weights)
        near = [(p * r).sum() for p, r in zip(predictions, reference, strict=True)]
        return np.asarray(100 * (weights @ np.array(near)) / weights.sum(axis=1))

    def uninformed(
        self, rows: Sequence[Row], predictions: Sequence[Any], rng: np.random.Generator
    ) -> Iterator[tuple[str, list[Any]]]:
        """Yield the vectors given to other texts. Nothing for texts alone: they have no labels."""
        if self.layout != TEXTS:
            vectors = rng.permutation(np.concatenate(list(predictions)))
            ends = np.cumsum([len(row["texts"]) for row in rows])
            yield "its own vectors given to other texts", np.split(vectors, ends[:-1])

    def same(self, predictions: Sequence[Any], reference: Sequence[Any]) -> npt.NDArray[np.float64]:
        """Return the share of each row's texts whose nearest neighbour is unchanged."""
        found, wanted = np.concatenate(list(predictions)), np.concatenate(list(reference))
        ends = np.cumsum([len(vectors) for vectors in predictions])
        unchanged = (neighbours(found) == neighbours(wanted)).astype(float)
        return np.array([part.mean() for part in np.split(unchanged, ends[:-1])])

    def write(self, rows: Sequence[Row], path: Path) -> None:
        """Write JSON lines that `load` reads."""
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                first, *others = row["texts"]
                line: dict[str, Any] = {"text": first}
                if self.layout == PAIRS:
                    line = {"sentence1": first, "sentence2": others[0], "score": row["score"]}
                if self.layout == QUERIES:
                    line = {"query": first, "positive": others, GRADES_COLUMN: row["grades"]}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _limit(settings: Mapping[str, Any], name: str) -> int | None:
    """Return a limit of tokens that the settings state. None if they state none."""
    value = settings.get(name)
    return value if isinstance(value, int) and 0 < value < UNLIMITED_TOKENS else None


def neighbours(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the index of each text's nearest other text, by cosine similarity: shape (texts,).

    The vectors must have length 1.
    """
    nearness = vectors @ vectors.T
    np.fill_diagonal(nearness, -np.inf)
    return np.asarray(nearness.argmax(axis=1))


def similarities(predictions: Sequence[Any]) -> npt.NDArray[np.float64]:
    """Return the cosine similarity of each pair: shape (rows,)."""
    return np.array([float(pair[0] @ pair[1]) for pair in predictions])


def retrieval(rows: Sequence[Row], predictions: Sequence[Any]) -> npt.NDArray[np.float64]:
    """Return nDCG@10, MRR@10 and recall@10 of each query (0 to 1): shape (rows, 3).

    The passages are those of all rows; equal texts are one passage. The most similar passage comes
    first. The gain of a passage is its grade.
    """
    passages: dict[str, npt.NDArray[np.float64]] = {}
    for row, vectors in zip(rows, predictions, strict=True):
        for text, vector in zip(row["texts"][1:], vectors[1:], strict=True):
            passages.setdefault(text, vector)
    names = list(passages)
    place = {text: number for number, text in enumerate(names)}
    nearness = np.array([vectors[0] for vectors in predictions]) @ np.array([*passages.values()]).T
    discounts = 1 / np.log2(np.arange(2, BEST + 2))
    found = np.zeros((len(rows), 3))
    for query, row in enumerate(rows):
        grades = np.zeros(len(names))
        for text, grade in zip(row["texts"][1:], row["grades"], strict=True):
            grades[place[text]] = max(grade, grades[place[text]])
        gains = grades[np.argsort(-nearness[query], kind="stable")[:BEST]]
        ideal = np.sort(grades)[::-1][:BEST]
        relevant = np.flatnonzero(gains > 0)
        found[query] = (
            (gains @ discounts[: len(gains)]) / (ideal @ discounts[: len(ideal)]),
            1 / (1 + relevant[0]) if len(relevant) else 0.0,
            len(relevant) / np.count_nonzero(grades > 0),
        )
    return found


def _scores(rows: Sequence[Row]) -> list[float]:
    return [row["score"] for row in rows]


def _layout(
    raw: Sequence[Mapping[str, Any]], columns: Columns, dataset: str
) -> tuple[str, dict[str, str]]:
    """Return the layout of the rows, and the column of each field.

    Named columns come first. Without them: a pair of PAIR_COLUMNS with a column of scores, a query
    with a column of positives, the first of TEXT_COLUMNS.
    """
    row = raw[0]

    def first(known: Sequence[str]) -> str | None:
        return next((name for name in known if name in row), None)

    if columns.text_pair is not None:
        text = choose_column(row, columns.text, QUERY_COLUMNS, "--text-column", dataset)
        pair = choose_column(row, columns.text_pair, (), "--text-pair-column", dataset)
        if columns.label is None:
            return QUERIES, {"query": text, "positive": pair}
        label = choose_column(row, columns.label, (), "--label-column", dataset)
        return PAIRS, {"text": text, "text_pair": pair, "score": label}
    if columns.label is not None:
        raise DatasetError("--label-column needs --text-pair-column: the score of a pair of texts")
    if columns.text is None:
        score = first(SCORE_COLUMNS)
        for text, pair in PAIR_COLUMNS.items():
            if (
                score is not None
                and text in row
                and pair in row
                and _number(row[score]) is not None
            ):
                return PAIRS, {"text": text, "text_pair": pair, "score": score}
        query, positive = first(QUERY_COLUMNS), first(POSITIVE_COLUMNS)
        if query is not None and positive is not None:
            negative = first(NEGATIVE_COLUMNS)
            grades = first((GRADES_COLUMN,))
            found = {"query": query, "positive": positive, "negative": negative, "grades": grades}
            return QUERIES, {field: column for field, column in found.items() if column}
    return TEXTS, {"text": choose_column(row, columns.text, TEXT_COLUMNS, "--text-column", dataset)}


def _text(row: Mapping[str, Any], column: str) -> str:
    text = row.get(column)
    if not isinstance(text, str):
        raise ValueError(f"{column} must be text")
    return text


def _texts(row: Mapping[str, Any], column: str) -> list[str]:
    """Return one text or a list of them as a list."""
    value: Any = row.get(column)
    texts: list[str] = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{column} must be a text or a list of texts")
    return texts


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and not isinstance(value, bool) else None


def _text_row(row: Mapping[str, Any], used: Mapping[str, str]) -> Row:
    return {"texts": [_text(row, used["text"])]}


def _pair_row(row: Mapping[str, Any], used: Mapping[str, str]) -> Row:
    score = _number(row.get(used["score"]))
    if score is None:
        raise ValueError(f"{used['score']} must be a number")
    return {"texts": [_text(row, used["text"]), _text(row, used["text_pair"])], "score": score}


def _query_row(row: Mapping[str, Any], used: Mapping[str, str]) -> Row:
    positives = _texts(row, used["positive"])
    negatives = _texts(row, used["negative"]) if "negative" in used else []
    grades: Any = row.get(used["grades"]) if "grades" in used else [1.0] * len(positives)
    well_formed = isinstance(grades, list) and len(grades) == len(positives)
    if not well_formed or not all(_number(grade) is not None for grade in grades):
        raise ValueError(f"{GRADES_COLUMN} must be numbers, one for each positive")
    if not any(grade > 0 for grade in grades):
        raise ValueError("a query needs a relevant passage")
    return {
        "texts": [_text(row, used["query"]), *positives, *negatives],
        "grades": [*map(float, grades), *[0.0] * len(negatives)],
    }


def _qrels_rows(folder: Path, split: str) -> list[Row]:
    """Return a row for each judged query of a folder in the layout of BEIR. Raises DatasetError."""

    def by_id(name: str) -> dict[str, str]:
        found = {}
        for number, line in enumerate(lines_of(read_text(str(folder / name))), start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                title = entry.get("title") or ""
                found[str(entry["_id"])] = f"{title} {entry['text']}".strip()
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DatasetError(f"{folder / name}, line {number}: {error}") from None
        return found

    queries, passages = by_id("queries.jsonl"), by_id("corpus.jsonl")
    file = folder / "qrels" / f"{split}.tsv"
    judged: dict[str, dict[str, float]] = {}
    for number, row in enumerate(read_tsv(str(file)), start=1):
        try:
            query, passage, grade = row["query-id"], row["corpus-id"], float(row["score"])
        except (KeyError, ValueError) as error:
            raise DatasetError(f"{file}, row {number}: {error}") from None
        if query not in queries or passage not in passages:
            raise DatasetError(f"{file}, row {number}: no such query or passage")
        judged.setdefault(query, {})[passage] = grade
    rows: list[Row] = [
        {"texts": [queries[query], *(passages[p] for p in grades)], "grades": [*grades.values()]}
        for query, grades in judged.items()
        if any(grade > 0 for grade in grades.values())
    ]
    if not rows:
        raise DatasetError(f"{file} judges no passage as relevant")
    return rows
