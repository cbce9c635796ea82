"""The worker's half of a task: how rows become inputs, and what is run on them.

The orchestrator's half is in `autotune/tasks`. It names its `work` in the model source, and the
worker finds the class here. The class is named as a string, so that nothing is imported before it
is asked for.
"""

from __future__ import annotations

import importlib

from autotune.shared.errors import TrialFailure
from autotune.worker.work.base import Work

WORKS = {
    "text": "autotune.worker.work.text:TextWork",
    "embedding": "autotune.worker.work.embedding:EmbeddingWork",
    "image": "autotune.worker.work.image:ImageWork",
}


def work_named(name: str) -> Work:
    """The work registered as `name`. Raises TrialFailure `unsupported` for an unknown one."""
    if name not in WORKS:
        raise TrialFailure("unsupported", f"work must be one of {sorted(WORKS)}, got {name!r}")
    module, _, class_name = WORKS[name].partition(":")
    found = getattr(importlib.import_module(module), class_name)()
    assert isinstance(found, Work)
    return found
