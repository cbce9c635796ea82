from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from autotune.tasks.base import Task
from autotune.tasks.gate import Gate


class Parity:
    """A minimal task: it predicts the sign of each logit."""

    agreement = Task.agreement
    metrics: ClassVar = ("accuracy",)

    def decode(self, rows, features, outputs):
        return [bool(x > 0) for x in outputs["logits"]]

    def score(self, rows, predictions, reference=None):
        return {
            "accuracy": 100
            * float(np.mean([a == b for a, b in zip(rows, predictions, strict=True)]))
        }

    def metric_counts(self, rows, predictions):
        return np.array([[a == b, 1.0] for a, b in zip(rows, predictions, strict=True)])

    def main_metric(self, totals):
        return 100 * totals[..., 0] / totals[..., 1]


LABELS = [True] * 90 + [False] * 10
GATE = Gate(task=Parity(), rows=LABELS, features=None, max_drop=0.01)


def outputs(right):
    values = np.array([1.0 if label else -1.0 for label in LABELS], np.float32)
    values[right:] *= -1
    return {"logits": values}


@pytest.mark.parametrize(("right", "allowed"), [(100, True), (99, True), (98, False), (0, False)])
def test_the_limit_is_relative_to_the_reference(right, allowed):
    reference = GATE.reference(outputs(100))
    accuracy = GATE.judge(outputs(right), reference)
    assert accuracy.allowed is allowed
    assert accuracy.relative_drop == pytest.approx((100 - right) / 100)
    assert accuracy.agreement == pytest.approx(right / 100)
    failure = GATE.failure(accuracy, reference)
    assert (failure is None) == allowed
    if failure:
        assert failure.kind == "inaccurate"
        assert "against 100.00" in failure.detail


def test_a_gain_is_allowed():
    accuracy = GATE.judge(outputs(100), GATE.reference(outputs(90)))
    assert accuracy.allowed
    assert accuracy.relative_drop < 0


def test_the_largest_logit_difference_is_kept():
    other = {"logits": outputs(100)["logits"] + np.float32(0.25)}
    accuracy = GATE.judge(other, GATE.reference(outputs(100)))
    assert accuracy.max_abs_logit_difference == pytest.approx(0.25)


def test_a_reference_of_zero_allows_everything():
    assert GATE.judge(outputs(0), GATE.reference(outputs(0))).relative_drop == 0.0


def test_the_difference_has_an_interval_over_rows():
    reference = GATE.reference(outputs(100))
    same = GATE.judge(outputs(100), reference)
    assert same.difference == (0.0, 0.0)
    low, high = GATE.judge(outputs(90), reference).difference
    assert (
        -18 < low < -14
    )  # 100 rows with 10% errors: the binomial's standard deviation is 3 points
    assert -6 < high < -2
