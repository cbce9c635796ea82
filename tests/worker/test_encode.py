"""Questions that leave no room for their context. The tokenizer is made up: a word is a token."""

from __future__ import annotations

import pytest

from autotune.shared.errors import TrialFailure

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]


class Words:
    def num_special_tokens_to_add(self, *, pair):
        return 3

    def __call__(self, texts, *, add_special_tokens):
        return {"input_ids": [text.split() for text in texts]}


def check(questions, max_seq_length, doc_stride):
    from autotune.worker.encode import _check_room

    _check_room(Words(), questions, max_seq_length=max_seq_length, doc_stride=doc_stride)


SHORT = "who was it"


@pytest.mark.parametrize(
    ("words", "length", "stride", "left"),
    [
        (60, 64, 0, 1),  # 60 and 3 special tokens leave 1: just enough
        (44, 64, 16, 17),
    ],
)
def test_a_window_that_is_longer_than_its_overlap_is_enough(words, length, stride, left):
    assert length - 3 - words == left > stride
    check([SHORT, "a " * words], length, stride)


@pytest.mark.parametrize(
    ("words", "length", "stride", "left", "enough"),
    [
        (61, 64, 0, 0, 64),  # no room at all
        (500, 64, 0, 0, 503),  # longer than the window itself
        (45, 64, 16, 16, 64),  # the stride is as long as the room left
        (3, 64, 58, 58, 64),
    ],
)
def test_a_question_without_room_names_its_row_and_the_remedy(words, length, stride, left, enough):
    with pytest.raises(TrialFailure) as caught:
        check(["b", "a " * words], length, stride)
    detail = caught.value.detail
    assert "row 2 of those to run: the question 'a a" in detail
    assert f"{words} tokens, which leaves {left} of {length} for the context" in detail
    assert f"--max-seq-length above {enough}" in detail
    assert "--doc-stride below" in detail
    assert "\n" not in detail
    check(["b", "a " * words], enough + 1, stride)  # the remedy works
