"""Comparing an engine's outputs with those of the model it was made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autotune.shared.axes import InputArray
from autotune.shared.errors import TrialFailure
from autotune.shared.records import ModelSource
from autotune.worker.batches import Batch
from autotune.worker.engines.base import Material

pytestmark = pytest.mark.model

MASK = np.array([[1, 1, 1], [1, 1, 0]])
"""Two rows of three and two tokens."""


@pytest.fixture
def compare():
    pytest.importorskip("torch")
    from autotune.worker.engines import torch_model

    return torch_model.compare


def difference(compare, axes, expected, actual):
    material = Material(
        source=ModelSource(path="", head="", outputs={"logits": axes}),
        arrays=(InputArray(name="attention_mask", real=1),),
        samples=[Batch({"attention_mask": MASK}, MASK.astype(bool))],
        calibration=(),
        threads=1,
        instruction_sets=frozenset(),
        cache=Path(),
    )
    return compare(lambda _: [expected], lambda _: [actual], material, 1e-3)


def test_a_head_with_as_many_labels_as_tokens_is_compared_whole(compare):
    """Two rows of three labels look like two rows of three tokens, of which one is padding."""
    expected = np.zeros((2, 3), np.float32)
    actual = expected.copy()
    actual[1, 2] = 0.5
    with pytest.raises(TrialFailure, match=r"inaccurate: differs from eager by 0\.5"):
        difference(compare, "batch", expected, actual)


def test_outputs_of_padding_tokens_are_ignored(compare):
    expected = np.zeros((2, 3, 4), np.float32)
    actual = expected.copy()
    actual[1, 2] = 9.0
    assert difference(compare, "batch width", expected, actual) == 0.0
    actual[1, 1] = 9.0
    with pytest.raises(TrialFailure, match="inaccurate"):
        difference(compare, "batch width", expected, actual)
