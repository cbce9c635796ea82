"""Tasks. A task loads rows, decodes the model's outputs and scores the predictions.

Each task has its own file. No file here imports torch. docs/extending.md shows how to add a task.
"""

from __future__ import annotations

import importlib

from autotune.shared.errors import InputError
from autotune.tasks.base import Task

TASKS = {
    "qa": "autotune.tasks.qa:QuestionAnswering",
    "text-classification": "autotune.tasks.text_classification:TextClassification",
    "token-classification": "autotune.tasks.token_classification:TokenClassification",
    "feature-extraction": "autotune.tasks.feature_extraction:FeatureExtraction",
}


def task_named(name: str) -> Task:
    """Return the task registered as `name`. Raises InputError for an unknown name."""
    if name not in TASKS:
        raise InputError(f"--task must be one of {', '.join(TASKS)}; got {name!r}")
    module, _, class_name = TASKS[name].partition(":")
    task: Task = getattr(importlib.import_module(module), class_name)()
    return task
