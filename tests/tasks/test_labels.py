from __future__ import annotations

import pytest

from autotune.shared.errors import DatasetError
from autotune.tasks.labels import LABELS_SHOWN, choose_column, label_numbers

NAMES = ("negative", "positive")
GENERIC = ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize(
    ("found", "labels", "expected"),
    [
        ([1, 0, 1], NAMES, {1: 1, 0: 0}),
        (["1", "0"], NAMES, {"1": 1, "0": 0}),
        (["Positive", "NEGATIVE"], NAMES, {"Positive": 1, "NEGATIVE": 0}),
        (["label_1"], GENERIC, {"label_1": 1}),
        ([1], GENERIC, {1: 1}),
        (["LABEL_1", "LABEL_0"], NAMES, {"LABEL_1": 1, "LABEL_0": 0}),
        ([0, 1], ("1", "2"), {0: 0, 1: 1}),
        (["0", "1"], ("1", "2"), {"0": 0, "1": 1}),
        ([1, 2], ("1", "2"), {1: 0, 2: 1}),
        (["1", "2"], ("1", "2"), {"1": 0, "2": 1}),
        (["0", "1"], ("1", "0"), {"0": 1, "1": 0}),  # the model's names decide
        (["no", "NO"], ("no", "NO"), {"no": 0, "NO": 1}),
    ],
)
def test_labels_get_the_models_numbers(found, labels, expected):
    assert label_numbers(found, labels) == expected


@pytest.mark.parametrize("found", [["good"], [2], [-1], ["2"], [True], [None], ["positive", "ok"]])
def test_a_label_the_model_lacks_is_an_error_that_lists_both_sides(found):
    with pytest.raises(DatasetError) as caught:
        label_numbers(found, NAMES)
    assert str(found[-1]) in str(caught.value)
    assert "negative, positive" in str(caught.value)


@pytest.mark.parametrize(
    ("found", "labels", "words"),
    [
        ([1], ("1", "2"), "names .* or positions"),
        ([0, 1], ("1", "0"), "names .* or positions"),
        (["pos", "POS"], ("pos", "neg"), "'pos' and 'POS' of the dataset would both be"),
        (["1", "LABEL_1"], NAMES, "'1' and 'LABEL_1' of the dataset would both be"),
        (["No"], ("no", "NO"), "are not the model's"),
        (["positive", 1], NAMES, "are not the model's"),
        (["positive", "1"], NAMES, "are not the model's"),
        ([-1, 0], NAMES, "marks rows without a label"),
    ],
)
def test_labels_that_could_be_read_in_two_ways_are_refused(found, labels, words):
    with pytest.raises(DatasetError, match=words):
        label_numbers(found, labels)


def test_named_labels_for_a_model_without_names_suggest_id2label():
    with pytest.raises(DatasetError, match="set id2label"):
        label_numbers(["spam", "ham"], GENERIC)


def test_a_message_lists_only_some_of_many_labels():
    with pytest.raises(DatasetError) as caught:
        label_numbers([f"intent {n}" for n in range(500)], NAMES)
    assert "(500 in all)" in str(caught.value)
    assert f"intent {LABELS_SHOWN}" not in str(caught.value)


def test_a_column_is_found_or_named_by_the_user():
    row = {"sentence": "a", "my text": "b"}
    assert choose_column(row, None, ("text", "sentence"), "--text-column", "d") == "sentence"
    assert choose_column(row, "my text", ("text",), "--text-column", "d") == "my text"
    with pytest.raises(DatasetError, match="--text-column other: d has sentence, my text"):
        choose_column(row, "other", (), "--text-column", "d")
    with pytest.raises(DatasetError, match=r"none of the columns label, labels.*--label-column"):
        choose_column(row, None, ("label", "labels"), "--label-column", "d")
