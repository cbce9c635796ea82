from __future__ import annotations

import json

import numpy as np
import pytest

from autotune.shared.errors import DatasetError
from autotune.tasks import task_named
from autotune.tasks.base import Columns
from autotune.tasks.text_classification import f1

TASK = task_named("text-classification").with_labels(("negative", "positive"))


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({"sentence": "fine", "label": 1}, {}, ("fine", None, 1)),
        ({"text": "fine", "labels": "positive"}, {}, ("fine", None, "positive")),
        ({"sentence1": "a", "sentence2": "b", "label": 0}, {}, ("a", "b", 0)),
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
    (found,) = TASK.load(write_lines(tmp_path / "d.jsonl", [row]), None, Columns(**columns))
    assert (found["text"], found["text_pair"], found["label"]) == expected


def test_csv_with_a_header_and_quotes(tmp_path):
    (tmp_path / "d.csv").write_text('text,label\n"a, ""b""\nc",1\nplain,negative\n')
    rows = TASK.with_model_labels(TASK.load(str(tmp_path / "d.csv"), None))
    assert [(row["text"], row["label"]) for row in rows] == [('a, "b"\nc', 1), ("plain", 0)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"sentence": 3, "label": 1}', "row 1: sentence must be text"),
        ('{"sentence": "a", "label": 1.5}', "row 1: label must be a name or a whole number"),
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
        {"sentence1": 'quo"te', "sentence2": "ünï", "label": 0},
        {"sentence1": "b", "sentence2": "c", "label": "positive"},
    ]
    rows = TASK.with_model_labels(TASK.load(write_lines(tmp_path / "d.jsonl", raw), None))
    TASK.write(rows, tmp_path / "validation.json")
    assert TASK.with_model_labels(TASK.load(str(tmp_path / "validation.json"), None)) == rows
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


def test_f1_of_more_than_two_labels_is_the_mean_over_labels():
    assert f1([0, 1, 2, 2], [0, 1, 2, 1]) == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert f1([1, 1], [1, 1]) == 1.0
    assert f1([0, 0], [0, 0]) == 1.0
