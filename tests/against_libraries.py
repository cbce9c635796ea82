"""Compare the scores of tasks with the libraries and scripts that define them.

    python tests/against_libraries.py

prints one line a comparison, and exits 1 if any differs. `make test-full` runs the same.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from autotune import demo
from autotune.driver.arrays import EncodedFeatures
from autotune.tasks import task_named
from autotune.tasks.correlation import correlation, ranks
from autotune.tasks.feature_extraction import retrieval
from autotune.tasks.text_classification import f1
from autotune.tasks.token_classification import first_token_of_each_word

TAGGINGS, LABEL_SETS, ANSWERS, SENTENCES = 10_000, 10_000, 2_000, 1_000
SMALL = 1e-9
SCHEMES = {"IOB1": "BI", "IOB2": "BI", "IOBES": "BIES", "BILOU": "BILU"}


def random_tagging(rng, labels, most=12):
    return [str(tag) for tag in rng.choice(labels, rng.integers(1, most))]


def taggings(scheme, count=TAGGINGS):
    """Differences of span counts and of F1 from seqeval, over random taggings.

    BILOU is compared with seqeval's strict mode, the only one that knows it.
    """
    from seqeval.metrics import f1_score
    from seqeval.scheme import BILOU, Entities

    rng = np.random.default_rng(1)
    labels = ["O", *(f"{p}-{kind}" for p in SCHEMES[scheme] for kind in ("per", "a-b"))]
    task = task_named("token-classification").for_model(labels)
    strict = {"mode": "strict", "scheme": BILOU} if scheme == "BILOU" else {}
    different = 0
    for _ in range(count):
        expected, found = random_tagging(rng, labels), []
        found = [str(tag) for tag in rng.choice(labels, len(expected))]
        if rng.random() < 0.5:  # as a model does, mostly right
            keep = rng.random(len(expected)) < 0.8
            found = [e if k else f for e, f, k in zip(expected, found, keep, strict=True)]
        scores = task.score([{"tokens": expected, "tags": expected}], [found])
        own = 100 * f1_score([expected], [found], **strict)
        different += abs(scores["f1"] - own) > SMALL
        if strict:
            spans = {(e.tag, e.start, e.end) for s in Entities([found], BILOU).entities for e in s}
            counts = task.metric_counts([{"tags": expected}], [found])
            different += counts[0][1] != len(spans)
    return different


def words_without_spans():
    """Differences of accuracy and macro F1 from scikit-learn, for tags without a prefix."""
    from sklearn.metrics import accuracy_score, f1_score

    rng = np.random.default_rng(2)
    labels = ["NOUN", "VERB", "ADJ", "IN"]
    task = task_named("token-classification").for_model(labels)
    different = 0
    for _ in range(1000):
        expected = random_tagging(rng, labels)
        found = [str(tag) for tag in rng.choice(labels, len(expected))]
        scores = task.score([{"tokens": expected, "tags": expected}], [found])
        macro = f1_score(expected, found, labels=labels, average="macro", zero_division=0)
        different += abs(scores["accuracy"] - 100 * accuracy_score(expected, found)) > SMALL
        different += abs(scores["macro_f1"] - 100 * macro) > SMALL
    return different


def label_sets():
    """Differences of F1 and accuracy from scikit-learn, over random label sets of 2 to 5 labels."""
    from sklearn.metrics import accuracy_score, f1_score

    rng = np.random.default_rng(3)
    different = 0
    for _ in range(LABEL_SETS):
        count, rows = int(rng.integers(2, 6)), int(rng.integers(1, 12))
        expected, found = rng.integers(0, count, (2, rows)).tolist()
        labels = [1] if count == 2 else list(range(count))
        wanted = f1_score(expected, found, labels=labels, average="macro", zero_division=0)
        different += abs(f1(expected, found, count) - wanted) > SMALL
        task = task_named("text-classification").for_model([str(n) for n in range(count)])
        scores = task.score([{"label": label} for label in expected], found)
        different += abs(scores["accuracy"] - 100 * accuracy_score(expected, found)) > SMALL
    return different


def several_labels():
    """Differences of micro F1 from scikit-learn, over random rows with any number of labels."""
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(4)
    task = task_named("text-classification").for_model(("a", "b", "c", "d"), "multi_label")
    different = 0
    for _ in range(1000):
        expected, found = rng.random((2, int(rng.integers(1, 10)), 4)) < 0.4
        rows = [{"label": np.flatnonzero(row).tolist()} for row in expected]
        scores = task.score(rows, [np.flatnonzero(row).tolist() for row in found])
        wanted = f1_score(expected, found, average="micro", zero_division=0)
        different += abs(scores["f1"] - 100 * wanted) > SMALL
    return different


def numbers():
    """Differences of Pearson's and Spearman's correlation from scipy."""
    import scipy.stats

    rng = np.random.default_rng(5)
    different = 0
    for _ in range(2000):
        x = rng.integers(0, 6, 20) * rng.choice([1.0, 1e6])
        y = np.round(rng.normal(size=20), 1) + rng.choice([0.0, 1e4])
        if np.ptp(x) == 0:
            continue
        different += abs(correlation(x, y) - scipy.stats.pearsonr(x, y)[0]) > 1e-8
        different += abs(correlation(ranks(x), ranks(y)) - scipy.stats.spearmanr(x, y)[0]) > 1e-8
    return different


def rankings():
    """Differences of nDCG@10 from scikit-learn, over random vectors and grades."""
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(6)
    different = 0
    for _ in range(300):
        count = int(rng.integers(11, 30))
        passages = rng.normal(size=(count, 4))
        passages /= np.linalg.norm(passages, axis=1, keepdims=True)
        grades = rng.integers(0, 3, count).astype(float)
        grades[0] = 1.0
        names = [f"p{n}" for n in range(count)]
        query = rng.normal(size=4)
        query /= np.linalg.norm(query)
        rows = [{"texts": ["q", *names], "grades": grades.tolist()}]
        own = retrieval(rows, [np.vstack([query, passages])])[0][0]
        different += abs(own - ndcg_score([grades], [passages @ query], k=10)) > SMALL
    return different


WORDS = ("the", "cat", "A", "an", "U.S.", "1,000", "", " ", "café", "it's", "-", "Ada", "Lovelace")


def squad_v2():
    """Differences from the official scores of SQuAD 2.0, as transformers has them."""
    from types import SimpleNamespace

    from transformers.data.metrics.squad_metrics import squad_evaluate

    rng = np.random.default_rng(7)
    task = task_named("qa").with_unanswerable()

    def answer():
        return " ".join(str(word) for word in rng.choice(WORDS, rng.integers(1, 5)))

    rows, predictions = [], []
    for number in range(ANSWERS):
        texts = [answer() for _ in range(int(rng.integers(0, 3)))]
        texts = [text for text in texts if text.strip()]
        rows.append({"id": str(number), "answers": {"text": texts}, "context": ""})
        some = str(rng.choice(texts)) if texts and rng.random() < 0.5 else answer()
        predictions.append("" if rng.random() < 0.3 else some)
    examples = [
        SimpleNamespace(qas_id=row["id"], answers=[{"text": t} for t in row["answers"]["text"]])
        for row in rows
    ]
    by_id = {row["id"]: p for row, p in zip(rows, predictions, strict=True)}
    wanted = squad_evaluate(examples, by_id)
    found = task.script_metrics(rows, predictions)
    scores = task.score(rows, predictions)
    wanted |= {"exact_match": wanted["exact"], "total f1": wanted["f1"]}
    found |= {"exact_match": scores["exact_match"], "total f1": scores["f1"]}
    return sum(abs(found.get(name, -1.0) - value) > SMALL for name, value in wanted.items())


ODD = (
    *("\u200b", "\ufe0f", "\u00ad", "a\u0301", "\u3000"),
    *("don't", "…", "\U0001f600", "unbelievable", "x"),
)


def alignment():
    """Words that are scored otherwise than by run_ner.py, over sentences with odd words.

    The script's rule: a word counts by its first token; a word without a token does not count.
    """
    from transformers import AutoTokenizer

    from autotune.worker import encode

    rng = np.random.default_rng(8)
    sentences = [
        [str(word) for word in rng.choice([*ODD, "cat", "Lovelace"], rng.integers(1, 40))]
        for _ in range(SENTENCES)
    ]
    tokenizer = AutoTokenizer.from_pretrained(str(demo.MODEL))
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        rows_file = Path(folder) / "rows.json"
        rows_file.write_text(json.dumps({"text": sentences, "text_pair": None}))
        encode._encode_rows(
            tokenizer,
            ("input_ids", "attention_mask"),
            rewritten=lambda texts: texts,
            rows_file=str(rows_file),
            folder=folder,
            max_seq_length=32,
            doc_stride=None,
            words=True,
        )
        features = EncodedFeatures.load(Path(folder))
    own: dict[int, list[tuple[int, int]]] = {}
    starts = features.starts
    for example, word, token in first_token_of_each_word(features):
        own.setdefault(example, []).append((word, token - int(starts[example])))
    encoded = tokenizer(sentences, truncation=True, max_length=32, is_split_into_words=True)
    for number in range(len(sentences)):
        wanted, before = [], None
        for place, word in enumerate(encoded.word_ids(number)):
            if word is not None and word != before:
                wanted.append((word, place))
            before = word
        different += own.get(number, []) != wanted
    return different


def comparisons() -> Iterator[tuple[str, object]]:
    for scheme in SCHEMES:
        yield f"seqeval, {TAGGINGS} taggings in {scheme}", lambda scheme=scheme: taggings(scheme)
    yield "scikit-learn, 1000 taggings without spans", words_without_spans
    yield f"scikit-learn, {LABEL_SETS} label sets", label_sets
    yield "scikit-learn, 1000 sets of several labels", several_labels
    yield "scipy, 2000 correlations", numbers
    yield "scikit-learn, 300 rankings", rankings
    yield f"the rules of SQuAD 2.0, {ANSWERS} answers", squad_v2
    yield f"run_ner.py's alignment, {SENTENCES} sentences", alignment


def main() -> int:
    warnings.filterwarnings("ignore")
    total = 0
    for name, compare in comparisons():
        different = compare()
        total += different
        print(f"{name}: {different} differences", flush=True)
    return 1 if total else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.exit(main())
