from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from against_libraries import SCHEMES, taggings

from autotune.driver.arrays import EncodedFeatures
from autotune.shared.errors import DatasetError
from autotune.tasks import task_named
from autotune.tasks.base import Columns
from autotune.tasks.token_classification import Scheme, scheme_of, spans

LABELS = ("B-loc", "B-per", "I-loc", "I-per", "O")
TASK = task_named("token-classification").for_model(LABELS)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O B-per I-per O", {("per", 1, 3)}),
        ("B-per B-per", {("per", 0, 1), ("per", 1, 2)}),
        ("I-loc I-loc O I-per", {("loc", 0, 2), ("per", 3, 4)}),
        ("B-per I-loc I-loc", {("per", 0, 1), ("loc", 1, 3)}),
        ("O O", set()),
        ("B-a-b I-a-b", {("a-b", 0, 2)}),
        ("", set()),
    ],
)
def test_spans_follow_the_conll_rules(tags, expected):
    assert set(spans(tags.split())) == expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("U-per U-per", {("per", 0, 1), ("per", 1, 2)}),
        ("B-per I-per L-per O", {("per", 0, 3)}),
        ("B-per L-per B-loc L-loc", {("per", 0, 2), ("loc", 2, 4)}),
        ("B-per I-per O", set()),  # it never ends
        ("I-per L-per", set()),  # it never begins
        ("B-per I-loc L-per", set()),
        ("B-per U-loc L-per", {("loc", 1, 2)}),
    ],
)
def test_bilou_spans_are_those_that_begin_and_end(tags, expected):
    assert set(spans(tags.split(), Scheme.BILOU)) == expected


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scores_are_those_of_seqeval(scheme):
    """A few hundred random taggings; `make test-full` compares ten thousand."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqeval's: a tagging without a span
        assert taggings(scheme, 300) == 0


@pytest.mark.parametrize(
    "row",
    [
        {"tokens": ["a", "b"], "ner_tags": ["O", "B-per"]},
        {"tokens": ["a", "b"], "ner_tags": [4, 1]},
        {"words": ["a", "b"], "tags": ["O", "b-PER"]},
    ],
)
def test_layouts(tmp_path, row):
    rows = TASK.with_model_labels(TASK.load(write_lines(tmp_path / "d.jsonl", [row]), None).rows)
    assert rows == [{"tokens": ["a", "b"], "tags": ["O", "B-per"]}]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"tokens": "a b", "ner_tags": ["O"]}, "row 1: tokens and ner_tags must be lists"),
        ({"tokens": ["a", 2], "ner_tags": ["O", "O"]}, "row 1: tokens must be texts"),
        ({"tokens": ["a", "b"], "ner_tags": ["O"]}, "row 1: 2 tokens and 1 ner_tags"),
        ({"tokens": ["a"], "ner_tags": [["O"]]}, "row 1: ner_tags must be one list of names"),
        ({"tokens": ["a"], "ner_tags": [1.5]}, "row 1: ner_tags must be one list of names"),
        ({"tokens": [], "ner_tags": []}, "holds no words"),
        ({"text": ["a"], "ner_tags": ["O"]}, "none of the columns tokens, words"),
    ],
)
def test_an_unusable_dataset_is_refused(tmp_path, row, words):
    with pytest.raises(DatasetError, match=words):
        TASK.load(write_lines(tmp_path / "d.jsonl", [row]), None)


def test_columns_that_do_not_apply_are_refused(tmp_path):
    path = write_lines(tmp_path / "d.jsonl", [{"tokens": ["a"], "ner_tags": ["O"]}])
    with pytest.raises(DatasetError, match="--text-pair-column does not apply"):
        TASK.load(path, None, Columns(text_pair="x"))


def test_written_rows_are_read_back(tmp_path):
    rows = [{"tokens": ["ünï", '"'], "tags": ["B-loc", "O"]}]
    TASK.write(rows, tmp_path / "validation.json")
    assert TASK.with_model_labels(TASK.load(str(tmp_path / "validation.json"), None).rows) == rows


def test_a_word_has_the_tag_of_its_first_token_and_a_truncated_word_is_not_scored():
    """Three words a, c and d. The five tokens are [CLS], two of a, one of c, and [SEP]."""
    features = EncodedFeatures(
        lengths=np.array([5], np.int32),
        example=np.array([0], np.int32),
        offsets=None,
        words=np.array([-1, 0, 0, 1, -1], np.int32),
    )
    logits = np.zeros((5, len(LABELS)), np.float32)
    for token, label in enumerate(("O", "B-per", "I-per", "I-per", "B-loc")):
        logits[token, LABELS.index(label)] = 1.0
    rows = [{"tokens": ["a", "c", "d"], "tags": ["B-per", "I-per", "B-loc"]}]
    found = TASK.decode(rows, features, {"logits": logits})
    assert found == [["B-per", "I-per", None]]
    assert TASK.score(rows, found) == {
        "f1": 100.0,
        "precision": 100.0,
        "recall": 100.0,
        "accuracy": 100.0,
    }


def test_scores_by_hand():
    rows = [
        {"tokens": ["a"] * 4, "tags": ["B-per", "I-per", "O", "B-loc"]},
        {"tokens": ["a"] * 2, "tags": ["O", "O"]},
    ]
    found = [["B-per", "O", "O", "B-loc"], ["O", "B-loc"]]
    scores = TASK.score(rows, found)  # one span is right; three found, two expected
    assert scores == pytest.approx(
        {"f1": 100 * 2 / 5, "precision": 100 / 3, "recall": 50.0, "accuracy": 100 * 4 / 6}
    )
    assert {type(value) for value in scores.values()} == {float}
    nothing = TASK.score([rows[1]], [["O", "O"]])
    assert nothing == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": 100.0}


@pytest.mark.parametrize(
    ("labels", "scheme"),
    [
        (("O", "B-per", "I-per"), Scheme.CONLL),
        (("O", "S-per", "B-per", "E-per", "I-per"), Scheme.CONLL),
        (("O", "U-per", "B-per", "L-per", "I-per"), Scheme.BILOU),
        (("NOUN", "VERB", "I", "IN"), Scheme.WORDS),
        (("O", "PER", "LOC"), Scheme.WORDS),
        ((), Scheme.WORDS),
    ],
)
def test_the_labels_decide_the_scheme(labels, scheme):
    assert scheme_of(labels) is scheme


def test_tags_without_a_prefix_are_scored_by_words():
    task = task_named("token-classification").for_model(("NOUN", "VERB", "ADP"))
    rows = [{"tokens": ["a"] * 4, "tags": ["NOUN", "VERB", "VERB", "NOUN"]}]
    scores = task.score(rows, [["NOUN", "VERB", "NOUN", None]])
    # NOUN: 2 * 1 / (2 + 1), VERB: 2 * 1 / (1 + 2), ADP: 0; the last word is not scored
    assert list(scores) == ["accuracy", "macro_f1"]
    assert scores == pytest.approx({"accuracy": 200 / 3, "macro_f1": 100 * (4 / 3) / 3})
    outside = task_named("token-classification").for_model(("O", "PER"))
    assert outside.metrics[0] == "macro_f1"  # the accuracy of many O says little
    assert outside.score([{"tokens": ["a"] * 2, "tags": ["O", "PER"]}], [["O", "O"]]) == {
        "macro_f1": 0.0,
        "accuracy": 50.0,
    }
