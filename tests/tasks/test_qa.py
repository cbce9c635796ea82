from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.driver.arrays import EncodedFeatures
from autotune.shared.errors import DatasetError
from autotune.tasks import task_named
from autotune.tasks.qa import best_span, normalize, token_f1

TASK = task_named("qa")
ROW = {
    "id": "1",
    "title": "t",
    "context": "Ada Lovelace wrote notes.",
    "question": "Who wrote?",
    "answers": {"text": ["Ada Lovelace"], "answer_start": [0]},
}
NESTED = {
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": ROW["context"],
                    "qas": [
                        {
                            "id": "1",
                            "question": "Who wrote?",
                            "answers": [{"text": "Ada Lovelace", "answer_start": 0}],
                        }
                    ],
                }
            ],
        }
    ]
}


@pytest.fixture
def dataset(tmp_path):
    def write(content, name="data.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def test_every_layout_gives_the_same_rows(dataset):
    for content, name in (
        (NESTED, "a.json"),
        ({"data": [ROW]}, "b.json"),
        ([ROW], "c.json"),
        (json.dumps(ROW) + "\n\n", "d.jsonl"),
    ):
        assert TASK.load(dataset(content, name), None).rows == [ROW]


def test_written_rows_are_read_back(tmp_path):
    TASK.write([ROW], tmp_path / "out.json")
    assert TASK.load(str(tmp_path / "out.json"), None).rows == [ROW]


def dataset_without(field):
    return {"data": [{k: v for k, v in ROW.items() if k != field}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("not json", "neither JSON nor JSON lines"),
        ("[" * 100_000, "nested too deeply|neither JSON"),
        ({"data": []}, "holds no questions"),
        ({"rows": [ROW]}, "expected SQuAD layout"),
        (dataset_without("context"), "row 1 lacks context"),
        (dataset_without("answers"), "row 1 lacks answers"),
        ({"data": [{"sentence": "a", "label": 1}]}, "the row has label, sentence"),
        ({"data": ["text"]}, "expected an object, got str"),
        ({"data": [{**ROW, "answers": "Ada"}]}, "row 1: answers must be"),
        ({"data": [{**ROW, "answers": {"text": "Ada"}}]}, "row 1: answers must be"),
        ({"data": [{**ROW, "answers": ["Ada"]}]}, "row 1: answers must be"),
        (
            {"data": [{**ROW, "answers": {"text": ["Ada"], "answer_start": 0}}]},
            "row 1: answers must be",
        ),
        ({"data": [ROW, {**ROW, "question": "q"}]}, "rows 1 and 2 both have the id '1'"),
        ({"data": [{**ROW, "question": 5}]}, "question and context must be text"),
        ({"data": [{"title": "t", "paragraphs": ["x"]}]}, "expected an object, got str"),
    ],
)
def test_unusable_datasets_are_refused_with_the_row(dataset, content, message):
    with pytest.raises(DatasetError, match=message):
        TASK.load(dataset(content), None)


def test_missing_and_undecodable_files(tmp_path):
    with pytest.raises(DatasetError, match="no such file"):
        TASK.load(str(tmp_path / "none.json"), None)
    (tmp_path / "latin.json").write_bytes(b'{"data": "\xff\xfe"}')
    with pytest.raises(DatasetError, match="is not UTF-8"):
        TASK.load(str(tmp_path / "latin.json"), None)


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The  Cat!", "cat"),
        ("a man, an apple", "man apple"),
        ("U.S.A.", "usa"),
        ("theory", "theory"),
        ("", ""),
    ],
)
def test_normalization_follows_squad(answer, normal):
    assert normalize(answer) == normal


@pytest.mark.parametrize(
    ("prediction", "answer", "f1"),
    [
        ("the cat sat", "cat sat down", 0.8),
        ("cat cat", "cat", 2 / 3),
        ("dog", "cat", 0.0),
        ("The Cat", "cat", 1.0),
        ("", "cat", 0.0),
    ],
)
def test_f1_counts_shared_words(prediction, answer, f1):
    assert token_f1(prediction, answer) == pytest.approx(f1)


def test_the_best_matching_of_several_answers_counts():
    rows = [{**ROW, "answers": {"text": ["Bob", "Ada Lovelace"], "answer_start": [0, 0]}}]
    assert TASK.score(rows, ["ada lovelace"]) == {"f1": 100.0, "exact_match": 100.0}
    assert TASK.score(rows, ["Ada"]) == {"f1": pytest.approx(200 / 3), "exact_match": 0.0}


def exhaustive_span(start, end, offsets):
    """The rule of run_qa.py, applied to one pair of tokens after the other."""
    best = None
    for i in sorted(range(len(start)), key=lambda i: -start[i])[:20]:
        for j in sorted(range(len(end)), key=lambda j: -end[j])[:20]:
            if offsets[i][0] < 0 or offsets[j][0] < 0 or j < i or j - i + 1 > 30:
                continue
            score = float(start[i]) + float(end[j])
            if best is None or score > best[0]:
                best = (score, int(offsets[i][0]), int(offsets[j][1]))
    return best


@given(st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(0, 30))
def test_best_span_equals_an_exhaustive_search(seed, tokens, question):
    rng = np.random.default_rng(seed)
    start, end = rng.normal(size=(2, tokens)).astype(np.float32)
    offsets = np.stack([np.arange(tokens) * 2, np.arange(tokens) * 2 + 1], axis=1).astype(np.int32)
    offsets[: min(question, tokens)] = -1
    found, expected = best_span(start, end, offsets), exhaustive_span(start, end, offsets)
    if expected is None:
        assert found is None
    else:
        assert found[1:] == expected[1:]
        assert found[0] == pytest.approx(expected[0], rel=1e-6)


def test_the_best_window_of_a_long_context_wins():
    features = EncodedFeatures(
        lengths=np.array([3, 3], np.int32),
        example=np.array([0, 0], np.int32),
        offsets=np.array([[-1, -1], [0, 3], [4, 12], [-1, -1], [13, 18], [19, 24]], np.int32),
    )
    outputs = {
        "start_logits": np.array([9, 1, 0, 9, 5, 0], np.float32),
        "end_logits": np.array([9, 0, 1, 9, 5, 0], np.float32),
    }
    assert TASK.decode([ROW], features, outputs) == ["wrote"]


def test_a_feature_without_context_gives_an_empty_answer():
    features = EncodedFeatures(
        lengths=np.array([2], np.int32),
        example=np.array([0], np.int32),
        offsets=np.full((2, 2), -1, np.int32),
    )
    zeros = np.zeros(2, np.float32)
    assert TASK.decode([ROW], features, {"start_logits": zeros, "end_logits": zeros}) == [""]


V2 = TASK.with_unanswerable()
NO_ANSWER = {**ROW, "id": "2", "answers": {"text": [], "answer_start": []}}
UNANSWERABLE = {
    "no texts": {"text": [], "answer_start": []},
    "an empty text": {"text": [""], "answer_start": [-1]},
    "no answers": [],
}


@pytest.mark.parametrize("answers", UNANSWERABLE.values(), ids=UNANSWERABLE)
def test_a_question_without_an_answer_makes_it_squad_v2(dataset, tmp_path, answers):
    found = TASK.load(dataset({"data": [ROW, {**NO_ANSWER, "answers": answers}]}), None)
    assert not found.task.answerable
    assert found.rows == [ROW, NO_ANSWER]
    found.task.write([ROW], tmp_path / "out.json")  # the file keeps what the whole dataset was
    assert not TASK.load(str(tmp_path / "out.json"), None).task.answerable
    assert found.task.script_flags == ("--version_2_with_negative",)


def test_an_impossible_question_has_no_answer(dataset):
    nested = json.loads(json.dumps(NESTED))
    nested["data"][0]["paragraphs"][0]["qas"][0]["is_impossible"] = True
    found = TASK.load(dataset(nested), None)
    assert found.rows[0]["answers"] == {"text": [], "answer_start": []}


def window(start_logits, end_logits, offsets):
    tokens = len(offsets)
    features = EncodedFeatures(
        lengths=np.array([tokens], np.int32),
        example=np.array([0], np.int32),
        offsets=np.array(offsets, np.int32),
    )
    outputs = {"start_logits": start_logits, "end_logits": end_logits}
    return features, {name: np.array(logits, np.float32) for name, logits in outputs.items()}


def test_no_answer_is_predicted_where_it_scores_above_the_best_span():
    offsets = [[-1, -1], [0, 3], [4, 12]]
    for null, answer in ((1.0, "Ada Lovelace"), (2.5, "Ada Lovelace"), (2.6, "")):
        features, outputs = window([null, 2, 0], [null, 0, 3], offsets)
        assert V2.decode([ROW], features, outputs) == [answer]
        assert TASK.decode([ROW], features, outputs) == ["Ada Lovelace"]
        files = V2.script_files([ROW], features, outputs)
        assert files["eval_predictions.json"] == {"1": answer}
        assert files["eval_null_odds.json"] == pytest.approx({"1": 2 * null - 5}, abs=1e-6)
        assert {"", "Ada Lovelace"} <= {
            a["text"] for a in files["eval_nbest_predictions.json"]["1"]
        }


def test_an_empty_prediction_is_right_where_there_is_no_answer():
    assert V2.score([ROW, NO_ANSWER], ["", ""]) == {"f1": 50.0, "exact_match": 50.0}
    assert V2.score([ROW, NO_ANSWER], ["Ada Lovelace", "Ada"]) == {"f1": 50.0, "exact_match": 50.0}
