"""Names of tasks: Hugging Face's are accepted, near misses are suggested."""

from __future__ import annotations

import pytest

from autotune.shared.errors import InputError
from autotune.tasks import task_named, task_of_architectures


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("question-answering", "qa"),
        ("ner", "token-classification"),
        ("sentiment-analysis", "text-classification"),
        ("sentence-similarity", "feature-extraction"),
        ("QA", "qa"),
        ("feature-extraction", "feature-extraction"),
    ],
)
def test_the_names_of_hugging_face_are_accepted(name, task):
    assert task_named(name).name == task


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("sentimental-analysis", "text-classification"),
        ("question-answer", "qa"),
        ("token-clasification", "token-classification"),
        ("embedding", "feature-extraction"),
    ],
)
def test_a_near_miss_is_suggested_by_the_name_used_here(name, near):
    with pytest.raises(InputError, match=f"got '{name}'; did you mean {near}\\?$"):
        task_named(name)


def test_a_name_that_is_like_none_lists_the_tasks_alone():
    with pytest.raises(InputError, match=r"--task must be one of qa, .*; got 'poetry'$"):
        task_named("poetry")


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertForQuestionAnswering", "qa"),
        ("GPT2ForSequenceClassification", "text-classification"),
        ("DebertaV2ForTokenClassification", "token-classification"),
        ("MPNetModel", "feature-extraction"),
        ("BertForMaskedLM", None),
    ],
)
def test_an_architecture_says_the_task(architecture, task):
    assert task_of_architectures([architecture]) == task
