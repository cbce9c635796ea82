"""best.yaml: the best configuration, with everything that is needed to run the model."""

from __future__ import annotations

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
) -> str:
    """Return the text of the file.

    `promise` holds the measured speed and accuracy: objective, speedup and metrics.
    """
    content = {
        "format": 1,
        "id": config.id,
        "config": config.as_dict(),
        "task": task,
        "model": to_jsonable(source),
        "max_seq_length": max_seq_length,
        "doc_stride": doc_stride,
        "promise": promise,
        "stack": stack,
        "host": host,
    }
    return "# Written by autotune search; run it with the launch.sh beside it.\n" + str(
        yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    )
