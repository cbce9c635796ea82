from __future__ import annotations

import json

import numpy as np
import pytest

from autotune.shared.errors import DatasetError
from autotune.tasks import task_named
from autotune.tasks.base import Columns
from autotune.tasks.text_classification import f1

TASK = task_named("text-classification").for_model(("negative", "positive"))


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({"sentence": "fine", "label": 1}, {}, ("fine", None, 1)),
        ({"text": "fine", "labels": "positive"}, {}, ("fine", None, "positive")),
        ({"sentence1": "a", "sentence2": "b", "label": 0}, {}, ("a", "b", 0)),
        ({"question": "a", "sentence": "b", "label": 0}, {}, ("a", "b", 0)),
        ({"sentence": "a", "question": "b", "label": 0}, {}, ("b", "a", 0)),
        ({"sentence": "a", "sentence2": "b", "label": 0}, {}, ("a", None, 0)),
        ({"premise": "a", "hypothesis": "b", "label": 0}, {}, ("a", "b", 0)),
        ({"x": "a", "y": "b", "z": 0}, {"text": "x", "label": "z"}, ("a", None, 0)),
        (
            {"x": "a", "y": "b", "z": 0},
            {"text": "x", "text_pair": "y", "label": "z"},
            ("a", "b", 0),
        ),
    ],
)
def test_layouts(tmp_path, row, columns, expected):
    (found,) = TASK.load(write_lines(tmp_path / "d.jsonl", [row]), None, Columns(**columns)).rows
    assert (found["text"], found["text_pair"], found["label"]) == expected


def test_csv_with_a_header_and_quotes(tmp_path):
    (tmp_path / "d.csv").write_text('text,label\n"a, ""b""\nc",positive\nplain,negative\n')
    rows = TASK.with_model_labels(TASK.load(str(tmp_path / "d.csv"), None).rows)
    assert [(row["text"], row["label"]) for row in rows] == [('a, "b"\nc', 1), ("plain", 0)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"sentence": 3, "label": 1}', "row 1: sentence must be text"),
        ('{"sentence": "a", "label": {"a": 1}}', "row 1: label must be a name, a number or a list"),
        ('{"sentence": "a", "label": null}', "row 1: label must be"),
        ('{"words": "a", "label": 1}', "none of the columns sentence, text"),
        ("[1, 2]", "expected rows of named columns"),
        ("[]", "holds no rows"),
    ],
)
def test_an_unusable_dataset_is_refused(tmp_path, text, words):
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(DatasetError, match=words):
        TASK.load(str(tmp_path / "d.json"), None)


def test_written_rows_are_read_back(tmp_path):
    raw = [
        {"sentence1": 'quo"te', "sentence2": "ünï", "label": "negative"},
        {"sentence1": "b", "sentence2": "c", "label": "positive"},
    ]
    rows = TASK.with_model_labels(TASK.load(write_lines(tmp_path / "d.jsonl", raw), None).rows)
    TASK.write(rows, tmp_path / "validation.json")
    assert TASK.with_model_labels(TASK.load(str(tmp_path / "validation.json"), None).rows) == rows
    first = json.loads((tmp_path / "validation.json").read_text().splitlines()[0])
    assert first == {"sentence1": 'quo"te', "sentence2": "ünï", "label": "negative"}


def test_pairs_go_to_the_tokenizer_as_pairs():
    pair = TASK.texts([{"text": "a", "text_pair": "b"}])
    single = TASK.texts([{"text": "a", "text_pair": None}])
    assert (pair.text, pair.text_pair, single.text_pair) == (["a"], ["b"], None)
    assert not pair.windowed


def test_accuracy_and_f1_by_hand():
    rows = [{"label": label} for label in (1, 1, 1, 0, 0)]
    logits = np.array([[0, 1], [0, 1], [1, 0], [1, 0], [0, 1]], np.float32)
    found = TASK.decode(rows, None, {"logits": logits})
    assert found == [1, 1, 0, 0, 1]
    scores = TASK.score(rows, found)
    assert scores == pytest.approx({"accuracy": 60.0, "f1": 100 * 2 * 2 / (3 + 3)})


def test_f1_follows_the_models_labels_not_those_that_occur():
    assert f1([0, 1, 2, 2], [0, 1, 2, 1], 3) == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert f1([0, 1], [0, 1], 3) == pytest.approx(2 / 3)
    assert f1([1, 1], [1, 1], 2) == 1.0
    assert f1([0, 0], [0, 0], 2) == 0.0  # no positive row


def test_f1_has_one_definition_on_both_sides_of_a_comparison():
    """The baseline never says 2 and the other does; both are means over the model's 3 labels."""
    task = task_named("text-classification").for_model(("a", "b", "c"))
    rows = [{"label": label} for label in (0, 0, 1, 1)]
    # label 0: 2 * 2 / (2 + 2), label 1: 2 * 2 / (2 + 2)
    assert task.score(rows, [0, 0, 1, 1])["f1"] == pytest.approx(100 * 2 / 3)
    # label 0: 2 * 2 / (2 + 2), label 1: 2 * 1 / (2 + 1), label 2: 0
    assert task.score(rows, [0, 0, 1, 2])["f1"] == pytest.approx(100 * (1 + 2 / 3) / 3)


def test_the_columns_that_are_read_are_said(tmp_path):
    row = {"idx": 1, "sentence": "b", "question": "a", "label": 0}
    found = TASK.load(write_lines(tmp_path / "d.jsonl", [row]), None)
    assert found.reading == (
        "text from question, text_pair from sentence, label from label; not used: idx"
    )


MULTI = task_named("text-classification").for_model(("a", "b", "c"), "multi_label")
NUMBER = task_named("text-classification").for_model(("LABEL_0",), "regression")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([["a", "c"], []], [[0, 2], []]),
        ([[2, 0], [1]], [[0, 2], [1]]),
        ([[1, 0, 1], [0.0, 0.0, 0.0]], [[0, 2], []]),
        (["b", "a"], [[1], [0]]),
    ],
)
def test_rows_may_have_any_number_of_labels(tmp_path, labels, expected):
    raw = [{"text": "t", "label": label} for label in labels]
    rows = MULTI.with_model_labels(MULTI.load(write_lines(tmp_path / "d.jsonl", raw), None).rows)
    assert [row["label"] for row in rows] == expected
    MULTI.write(rows, tmp_path / "out.json")
    assert MULTI.with_model_labels(MULTI.load(str(tmp_path / "out.json"), None).rows) == rows


def test_several_labels_are_predicted_above_one_half():
    logits = np.array([[0.1, -0.1, 3], [-1, -1, -1]], np.float32)
    found = MULTI.decode([{}, {}], None, {"logits": logits})
    assert found == [[0, 2], []]
    rows = [{"label": [0]}, {"label": [1]}]
    # one right label of two predicted and two expected: 2 * 1 / (2 + 2)
    assert MULTI.score(rows, found) == {"f1": pytest.approx(50.0), "exact_match": 0.0}


def test_a_number_is_scored_by_correlation():
    rows = [{"label": float(label)} for label in (1, 2, 3, 4)]
    found = NUMBER.decode(rows, None, {"logits": np.array([[1], [2], [4], [3]], np.float32)})
    assert NUMBER.score(rows, found) == pytest.approx({"pearson": 80.0, "spearman": 80.0})
    far = NUMBER.decode(rows, None, {"logits": np.array([[0], [1], [2], [100]], np.float32)})
    # Deviations from the means: products 150.5, squares 5 and 7352.75. The order is right.
    assert NUMBER.score(rows, far) == pytest.approx(
        {"pearson": 100 * 150.5 / (5 * 7352.75) ** 0.5, "spearman": 100.0}
    )
    assert NUMBER.with_model_labels([{"label": "2.5"}]) == [{"label": 2.5}]
    with pytest.raises(DatasetError, match="predicts a number, but the dataset has the label"):
        NUMBER.with_model_labels([{"label": "good"}])
