from __future__ import annotations

import json

import numpy as np
import pytest

from autotune.driver.arrays import EncodedFeatures
from autotune.shared.errors import DatasetError
from autotune.tasks import task_named
from autotune.tasks.base import Columns
from autotune.tasks.feature_extraction import neighbours
from autotune.tasks.gate import Gate, GateRule

TASK = task_named("feature-extraction")
FEATURES = EncodedFeatures(
    lengths=np.array([2, 1, 3], np.int32), example=np.arange(3, dtype=np.int32), offsets=None
)
ROWS = [{"texts": ["a"]}, {"texts": ["b"]}, {"texts": ["c"]}]
VECTORS = np.array([[2, 2], [3, 4], [0, 0.5]], np.float32)


def test_a_vector_is_scaled_to_length_one():
    found = TASK.decode(ROWS, FEATURES, {"sentence_embedding": VECTORS})
    for one, other in zip(found, [[1, 1], [3, 4], [0, 1]], strict=True):
        assert one[0] == pytest.approx(np.array(other) / np.linalg.norm(other))


def test_a_reference_agrees_with_itself():
    rng = np.random.default_rng(0)
    found = TASK.decode(ROWS, FEATURES, {"sentence_embedding": rng.normal(size=(3, 5))})
    assert TASK.score(ROWS, found) == {"cosine": pytest.approx(100), "neighbours": 100.0}
    assert TASK.agreement(found, found) == 1.0


def test_rotated_vectors_lose_cosine_and_neighbours():
    angles = np.radians([0, 10, 90, 100])
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert neighbours(circle).tolist() == [1, 0, 3, 2]
    reference = list(circle[:, None])
    rotated = np.radians([0, 60, 90, 100])
    found = list(np.stack([np.cos(rotated), np.sin(rotated)], axis=1)[:, None])
    scores = TASK.score([{"texts": [""]}] * 4, found, reference)
    assert scores["cosine"] == pytest.approx(100 * (3 + np.cos(np.radians(50))) / 4)
    assert scores["neighbours"] == pytest.approx(
        75.0
    )  # the second vector is now nearest to the third


def test_rows_are_loaded_and_written(tmp_path):
    file = tmp_path / "d.jsonl"
    file.write_text(json.dumps({"sentence": "one", "label": 1}) + "\n")
    found = TASK.load(str(file), None)
    assert found.rows == [{"texts": ["one"]}]
    assert found.reading == (
        "text from sentence; not used: label; no labels to judge by, so vectors are compared with "
        "those of eager float32"
    )
    assert TASK.load(str(file), None, Columns(text="sentence")).rows == [{"texts": ["one"]}]
    with pytest.raises(DatasetError, match="--label-column needs --text-pair-column"):
        TASK.load(str(file), None, Columns(label="label"))
    with pytest.raises(DatasetError, match="must be text"):
        TASK.load(str(file), None, Columns(text="label"))


LAYOUTS = {
    "texts": ({"text": "a"}, {"texts": ["a"]}),
    "pairs": (
        {"sentence1": "a", "sentence2": "b", "score": 4.5},
        {"texts": ["a", "b"], "score": 4.5},
    ),
    "queries": (
        {"query": "a", "positive": "b", "negatives": ["c", "d"]},
        {"texts": ["a", "b", "c", "d"], "grades": [1.0, 0.0, 0.0]},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_columns_decide_the_layout_which_is_written_and_read_back(tmp_path, layout):
    raw, row = LAYOUTS[layout]
    (tmp_path / "d.json").write_text(json.dumps([raw]))
    found = TASK.load(str(tmp_path / "d.json"), None)
    assert (found.task.layout, found.rows) == (layout, [row])
    found.task.write(found.rows, tmp_path / "out.json")
    again = TASK.load(str(tmp_path / "out.json"), None)
    assert (again.task.layout, again.rows) == (layout, [row])


def test_a_folder_of_queries_passages_and_judgements_is_read(tmp_path):
    (tmp_path / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "who"}\n{"_id": "q2", "text": "not judged"}\n'
    )
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "d1", "title": "T", "text": "x"}\n{"_id": "d2", "text": "y"}\n'
    )
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n"
    )
    found = TASK.load(str(tmp_path), None)
    assert found.task.metrics[0] == "ndcg_at_10"
    assert found.rows == [{"texts": ["who", "T x", "y"], "grades": [2.0, 0.0]}]
    with pytest.raises(DatasetError, match=r"dev.tsv: no such file"):
        TASK.load(str(tmp_path), "dev")


def unit(angle):
    return np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])


def test_pairs_are_scored_by_the_correlation_of_ranks():
    task = TASK.with_layout("pairs")
    rows = [{"texts": ["a", "b"], "score": score} for score in (1, 2, 3, 4)]
    found = [np.stack([unit(0), unit(angle)]) for angle in (80, 60, 10, 30)]
    scores = task.score(rows, found)
    # ranks 1 2 3 4 against 1 2 4 3: 1 - 6 * 2 / (4 * 15)
    assert scores["spearman"] == pytest.approx(80.0)
    assert scores["cosine"] == pytest.approx(100.0)


def test_queries_are_scored_among_the_passages_of_all_rows():
    task = TASK.with_layout("queries")
    rows = [
        {"texts": ["q", "near", "far"], "grades": [1.0, 0.0]},
        {"texts": ["r", "far"], "grades": [1.0]},
    ]
    found = [np.stack([unit(0), unit(10), unit(90)]), np.stack([unit(20), unit(90)])]
    scores = task.score(rows, found)
    # the second query is nearer to `near`, so its own passage comes second
    assert scores["ndcg_at_10"] == pytest.approx(100 * (1 + 1 / np.log2(3)) / 2)
    assert scores["mrr_at_10"] == pytest.approx(75.0)
    assert scores["recall_at_10"] == pytest.approx(100.0)


def test_the_gate_rejects_vectors_that_are_near_and_rank_pairs_in_another_order():
    """40 pairs at angles of 0.02 to 0.8 degrees, in the order of their scores.

    The candidate has them in the opposite order: its Spearman correlation is -1. Each vector moved
    by less than 0.8 degrees, a cosine above 0.9999, which fidelity to eager would allow.
    """
    count = 40
    angles = np.radians(0.02 * np.arange(1, count + 1))

    def hidden(of_pairs):
        second = np.stack([np.cos(of_pairs), np.sin(of_pairs)], axis=1)
        first = np.tile([1.0, 0.0], (count, 1))
        return {"sentence_embedding": np.stack([first, second], axis=1).reshape(-1, 2)}

    features = EncodedFeatures(
        lengths=np.ones(2 * count, np.int32),
        example=np.repeat(np.arange(count, dtype=np.int32), 2),
        offsets=None,
    )
    rows = [{"texts": [f"a{n}", f"b{n}"], "score": float(count - n)} for n in range(count)]
    task = TASK.with_layout("pairs")
    gate = Gate(task=task, rows=rows, features=features, rule=GateRule(max_drop=0.01))
    reference = gate.reference(hidden(angles))
    assert reference.metrics["spearman"] == pytest.approx(100)
    found = gate.judge(hidden(angles[::-1]), reference)
    assert found.metrics["cosine"] > 99.99
    assert found.metrics["spearman"] == pytest.approx(-100)
    assert not found.allowed
    assert gate.judge(hidden(angles), reference).allowed


def test_only_the_ten_nearest_passages_count():
    """Of twelve passages in order of nearness, the 4th, the 10th and the 11th are relevant."""
    task = TASK.with_layout("queries")
    grades = [float(place in (4, 10, 11)) for place in range(1, 13)]
    rows = [{"texts": ["q", *(f"p{n}" for n in range(12))], "grades": grades}]
    found = [np.stack([unit(0), *(unit(5 * place) for place in range(1, 13))])]
    scores = task.score(rows, found)
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    assert scores["ndcg_at_10"] == pytest.approx(100 * (1 / np.log2(5) + 1 / np.log2(11)) / ideal)
    assert scores["mrr_at_10"] == pytest.approx(25.0)
    assert scores["recall_at_10"] == pytest.approx(100 * 2 / 3)


def test_rows_with_labels_are_not_said_to_be_without(tmp_path):
    for raw, _ in (LAYOUTS["pairs"], LAYOUTS["queries"]):
        (tmp_path / "d.json").write_text(json.dumps([raw]))
        assert "no labels" not in TASK.load(str(tmp_path / "d.json"), None).reading
