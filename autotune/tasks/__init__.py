"""Tasks. A task loads rows, decodes the model's outputs and scores the predictions.

Each task has its own file. No file here imports torch. docs/extending.md shows how to add a task.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from autotune.shared.errors import InputError
from autotune.shared.words import nearest
from autotune.tasks.base import Task

TASKS = {
    "qa": "autotune.tasks.qa:QuestionAnswering",
    "text-classification": "autotune.tasks.text_classification:TextClassification",
    "token-classification": "autotune.tasks.token_classification:TokenClassification",
    "feature-extraction": "autotune.tasks.feature_extraction:FeatureExtraction",
    "image-classification": "autotune.tasks.image_classification:ImageClassification",
}


ALIASES = {
    "question-answering": "qa",
    "extractive-question-answering": "qa",
    "sentiment-analysis": "text-classification",
    "sequence-classification": "text-classification",
    "ner": "token-classification",
    "pos": "token-classification",
    "embeddings": "feature-extraction",
    "sentence-similarity": "feature-extraction",
}
"""Other names of the tasks, those of Hugging Face's pipelines and model pages among them."""
HEADS = {
    "ForQuestionAnswering": "qa",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForImageClassification": "image-classification",
    "Model": "feature-extraction",
}
"""The end of an architecture's name in config.json -> the task of its models."""


def task_named(name: str) -> Task:
    """Return the task registered as `name`, or under that alias. Raises InputError for others."""
    own = ALIASES.get(name.lower(), name.lower())
    if own not in TASKS:
        close = nearest(name, [*TASKS, *ALIASES])
        hint = f"; did you mean {ALIASES.get(close, close)}?" if close is not None else ""
        raise InputError(f"--task must be one of {', '.join(TASKS)}; got {name!r}{hint}")
    module, _, class_name = TASKS[own].partition(":")
    task: Task = getattr(importlib.import_module(module), class_name)()
    return task


def task_of_architectures(architectures: Sequence[str]) -> str | None:
    """Return the task that a model's `architectures` are for. None if they are for no task here."""
    for architecture in architectures:
        for end, task in HEADS.items():
            if architecture.endswith(end):
                return task
    return None
