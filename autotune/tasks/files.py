"""Reading datasets: local JSON files, and dataset ids through `datasets`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from autotune.errors import DatasetError

SUFFIXES = (".json", ".jsonl")


def read_json(dataset: str) -> Any | None:
    """The content of a local JSON or JSON-lines file; None where `dataset` is a hub id.

    Raises DatasetError for a file that is missing, is no JSON, or is not UTF-8.
    """
    path = Path(dataset).expanduser()
    looks_local = path.suffix in SUFFIXES or dataset.startswith((".", "/", "~"))
    if not path.exists() and not looks_local:
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DatasetError(f"--dataset {dataset}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"--dataset {dataset} cannot be read: {error}") from error
    try:
        return json.loads(text)
    except RecursionError:
        raise DatasetError(f"--dataset {dataset}: JSON nested too deeply") from None
    except json.JSONDecodeError as whole:
        lines = [line for line in text.splitlines() if line.strip()]
        if not lines:
            raise DatasetError(f"--dataset {dataset} is empty") from None
        try:
            return [json.loads(line) for line in lines]
        except json.JSONDecodeError:
            raise DatasetError(
                f"--dataset {dataset} is neither JSON nor JSON lines: {whole}"
            ) from None


def hub_rows(dataset: str, split: str) -> Iterable[Any]:
    """The rows of a dataset id, downloaded or from the local cache. Raises DatasetError."""
    try:
        import datasets  # slow to import, and optional
    except ImportError:
        raise DatasetError(
            f"--dataset {dataset} is a dataset id, which needs the `datasets` library: "
            "pip install 'autotune-cpu[datasets]', or pass a file"
        ) from None
    datasets.disable_progress_bars()
    try:
        return list(datasets.load_dataset(dataset, split=split))
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise DatasetError(
            f"dataset {dataset!r}, split {split!r} cannot be loaded ({type(error).__name__}: "
            f"{words}); download it where the hub is reachable and pass --dataset FILE"
        ) from error
