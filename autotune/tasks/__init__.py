"""Tasks. A task loads rows, decodes the model's outputs and scores the predictions.

Each task has its own file. No file here imports torch. Other packages register their tasks under
the entry point group GROUP. docs/extending.md shows how to add a task.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping, Sequence

from autotune.shared.errors import InputError
from autotune.shared.plugins import load_plugins, warn
from autotune.shared.words import nearest
from autotune.tasks.base import Task

GROUP = "autotune.tasks"
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


@functools.cache
def tasks_of_others() -> Mapping[str, type[Task]]:
    """The tasks of other packages by name. One that cannot be used is left out, with a warning."""
    found: dict[str, type[Task]] = {}
    for plugin in load_plugins(GROUP):
        task, reason = plugin.value, None
        if not (isinstance(task, type) and issubclass(task, Task)):
            reason = "it must be a class derived from Task"
        elif getattr(task, "name", None) != plugin.name:
            reason = "the entry point must have the task's name"
        elif plugin.name in TASKS or plugin.name in ALIASES:
            reason = "a task of autotune has this name; choose another"
        if reason is None:
            found[plugin.name] = task
        else:
            warn(GROUP, plugin.name, plugin.distribution, reason)
    return found


def task_names() -> tuple[str, ...]:
    """The names of all tasks, those of other packages last."""
    return (*TASKS, *tasks_of_others())


def task_named(name: str) -> Task:
    """Return the task registered as `name`, or under that alias. Raises InputError for others."""
    own = ALIASES.get(name.lower(), name.lower())
    if own in TASKS:
        module, _, class_name = TASKS[own].partition(":")
        task: Task = getattr(importlib.import_module(module), class_name)()
        return task
    if name in tasks_of_others():
        return tasks_of_others()[name]()
    close = nearest(name, [*task_names(), *ALIASES])
    hint = f"; did you mean {ALIASES.get(close, close)}?" if close is not None else ""
    raise InputError(f"--task must be one of {', '.join(task_names())}; got {name!r}{hint}")


def task_of_architectures(architectures: Sequence[str]) -> str | None:
    """Return the task that a model's `architectures` are for. None if they are for no task here."""
    for architecture in architectures:
        for end, task in HEADS.items():
            if architecture.endswith(end):
                return task
    return None
