"""Words of messages: losses and gains by their names, and the nearest known name."""

from __future__ import annotations

import pytest

from autotune.shared.words import loses_or_gains, loss_or_gain, nearest


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (0.126, "a loss of 12.6%"),
        (-0.0208, "a gain of 2.1%"),
        (0.0, "a loss of 0.0%"),
        (-0.00001, "a loss of 0.0%"),
    ],
)
def test_a_negative_loss_is_a_gain(loss, words):
    assert loss_or_gain(loss) == words


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ((0.012, 0.003, 0.021), "loses 1.20% (0.30% to 2.10%)"),
        ((0.012, -0.003, 0.021), "loses 1.20% (from a gain of 0.30% to a loss of 2.10%)"),
        ((-0.0208, -0.0479, -0.0011), "gains 2.08% (0.11% to 4.79%)"),
        ((-0.0208, -0.0479, 0.0063), "gains 2.08% (from a loss of 0.63% to a gain of 4.79%)"),
        ((-0.0208, None, None), "gains 2.08%"),
        ((0.0, -0.01, 0.01), "loses 0.00% (from a gain of 1.00% to a loss of 1.00%)"),
        ((0.0, 0.0, 0.01), "loses 0.00% (0.00% to 1.00%)"),
        ((-1e-9, -1e-9, 1e-9), "loses 0.00% (0.00% to 0.00%)"),
    ],
)
def test_a_change_of_accuracy_has_no_sign_but_a_verb(loss, words):
    assert loses_or_gains(*loss) == words
    assert "-" not in words
    assert "+" not in words


@pytest.mark.parametrize(
    ("name", "near"), [("jitt", "jit"), ("JIT", "jit"), ("warp", None), ("opnvino", "openvino")]
)
def test_the_nearest_name_is_found_whatever_its_case(name, near):
    assert nearest(name, ["eager", "jit", "openvino"]) == near
