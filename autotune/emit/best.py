"""best.yaml: the best configuration, with everything that is needed to run the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from autotune.shared.records import Config, ModelSource, to_jsonable


def best_yaml(
    config: Config,
    *,
    source: ModelSource,
    task: str,
    max_seq_length: int,
    doc_stride: int,
    stack: dict[str, str],
    host: dict[str, Any],
    promise: dict[str, Any],
    engine: Mapping[str, Any],
    environment: Mapping[str, str],
    cpus: Sequence[str],
) -> str:
    """Return the text of the file.

    `promise` holds the measured speed and accuracy: objective, speedup and metrics. `engine` says
    how to build the engine by hand: its files, and what its library was told. `environment` and
    `cpus` (one entry an instance) are those of the workers. Paths of the run's own files are
    relative to its folder.
    """
    content = {
        "format": 1,
        "id": config.id,
        "config": dict(config),
        "task": task,
        "model": to_jsonable(source),
        "max_seq_length": max_seq_length,
        "doc_stride": doc_stride,
        "promise": promise,
        "engine": dict(engine),
        "environment": dict(environment),
        "cpus": list(cpus),
        "stack": stack,
        "host": host,
    }
    return "# Written by autotune search; run it with the launch.sh beside it.\n" + str(
        yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    )
