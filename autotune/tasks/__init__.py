"""Tasks: load rows, decode outputs, score. One file a task, none imports torch.

To add one, see docs/extending.md.
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
    """The task registered as `name`. Raises InputError for an unknown one."""
    if name not in TASKS:
        raise InputError(f"--task must be one of {', '.join(TASKS)}; got {name!r}")
    module, _, found = TASKS[name].partition(":")
    task: Task = getattr(importlib.import_module(module), found)()
    return task
