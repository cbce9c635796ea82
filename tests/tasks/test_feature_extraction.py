from __future__ import annotations

import json

import numpy as np
import pytest

from autotune.driver.arrays import EncodedFeatures
from autotune.shared.errors import DatasetError
from autotune.tasks import task_named
from autotune.tasks.base import Columns
from autotune.tasks.feature_extraction import neighbours

TASK = task_named("feature-extraction")
FEATURES = EncodedFeatures(
    lengths=np.array([2, 1, 3], np.int32), example=np.arange(3, dtype=np.int32), offsets=None
)
ROWS = [{"text": "a"}, {"text": "b"}, {"text": "c"}]
HIDDEN = np.array([[1, 0], [1, 2], [3, 4], [1, 0], [0, 1], [0, 0]], np.float32)


def test_a_vector_is_the_mean_over_tokens_scaled_to_length_one():
    found = TASK.decode(ROWS, FEATURES, {"last_hidden_state": HIDDEN})
    wanted = [[1, 1], [3, 4], [1 / 3, 1 / 3]]
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(np.array(other) / np.linalg.norm(other))


def test_a_reference_agrees_with_itself():
    rng = np.random.default_rng(0)
    found = TASK.decode(ROWS, FEATURES, {"last_hidden_state": rng.normal(size=(6, 5))})
    assert TASK.score(ROWS, found) == {"cosine": pytest.approx(100), "neighbours": 100.0}
    assert TASK.agreement(found, found) == 1.0


def test_rotated_vectors_lose_cosine_and_neighbours():
    angles = np.radians([0, 10, 90, 100])
    reference = list(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert neighbours(reference).tolist() == [1, 0, 3, 2]
    rotated = np.radians([0, 60, 90, 100])
    found = list(np.stack([np.cos(rotated), np.sin(rotated)], axis=1))
    scores = TASK.score([{"text": ""}] * 4, found, reference)
    assert scores["cosine"] == pytest.approx(100 * (3 + np.cos(np.radians(50))) / 4)
    assert scores["neighbours"] == pytest.approx(
        75.0
    )  # the second vector is now nearest to the third


def test_rows_are_loaded_and_written(tmp_path):
    file = tmp_path / "d.jsonl"
    file.write_text(json.dumps({"sentence": "one", "label": 1}) + "\n")
    assert TASK.load(str(file), None) == [{"text": "one"}]
    assert TASK.load(str(file), None, Columns(text="sentence")) == [{"text": "one"}]
    TASK.write([{"text": "one"}], tmp_path / "out.json")
    assert TASK.load(str(tmp_path / "out.json"), None) == [{"text": "one"}]
    with pytest.raises(DatasetError, match="--label-column does not apply"):
        TASK.load(str(file), None, Columns(label="label"))
    with pytest.raises(DatasetError, match="must be text"):
        TASK.load(str(file), None, Columns(text="label"))
