"""Read datasets: local JSON and CSV files, and dataset ids on the hub."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.shared.errors import DatasetError

SUFFIXES = (".json", ".jsonl", ".csv")
ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""Matches a JSON escape for half of a surrogate pair, such as \\ud83d.

JSON escapes a character beyond U+FFFF as two of these. A single one is not valid text.
"""
MAX_CELL_CHARACTERS = 1 << 26
"""Most characters in one CSV cell. The csv module's default, 131,072, is too few for long texts."""


def read_rows(dataset: str, split: str) -> list[Mapping[str, Any]]:
    """Return the rows of a local file or of a dataset id.

    A file is JSON lines, a JSON list, {"data": [...]}, or CSV with a header. Raises DatasetError.
    """
    if Path(dataset).suffix == ".csv":
        rows: Any = read_csv(dataset)
    else:
        rows = read_json(dataset)
        if rows is None:
            rows = hub_rows(dataset, split)
        elif isinstance(rows, dict):
            rows = rows.get("data", [rows])
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise DatasetError(
            f"{dataset}: expected rows of named columns: JSON lines, a JSON list of objects, or "
            "CSV with a header"
        )
    if not rows:
        raise DatasetError(f"{dataset} holds no rows; pass a file with at least one")
    return rows


def read_csv(dataset: str) -> list[dict[str, str]]:
    """Return the rows of a local CSV file with a header. Raises DatasetError."""
    before = csv.field_size_limit(MAX_CELL_CHARACTERS)
    try:
        reader = csv.DictReader(io.StringIO(read_text(dataset), newline=""), strict=True)
        rows = list(reader)
    except csv.Error as error:
        raise DatasetError(f"dataset {dataset} is not CSV: {error}") from error
    finally:
        csv.field_size_limit(before)
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise DatasetError(
                f"dataset {dataset}, row {number}: the number of cells differs from the header"
            )
    return rows


def read_json(dataset: str) -> Any | None:
    """Return the content of a local JSON or JSON-lines file. None if `dataset` is a hub id.

    Raises DatasetError for a file that is missing, is not JSON, or is not UTF-8.
    """
    path = Path(dataset).expanduser()
    looks_local = path.suffix in SUFFIXES or dataset.startswith((".", "/", "~"))
    if not path.exists() and not looks_local:
        return None
    text = read_text(dataset)
    if not text.strip():
        raise DatasetError(f"dataset {dataset} is empty")
    try:
        found = _parse_json_or_lines(text)
        if ESCAPED_SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise DatasetError(f"dataset {dataset}: JSON nested too deeply") from None
    except UnicodeEncodeError as error:
        lone = ascii(error.object[error.start])
        raise DatasetError(f"dataset {dataset}: {lone} is only half of a character") from None
    except ValueError as error:
        raise DatasetError(f"dataset {dataset} is neither JSON nor JSON lines: {error}") from None
    return found


def _parse_json_or_lines(text: str) -> Any:
    """Parse JSON or JSON lines.

    If neither fits, raises the ValueError from parsing the text as JSON.
    """
    try:
        return json.loads(text)
    except ValueError:
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            return [json.loads(line) for line in lines]
        except ValueError:
            pass
        raise


def read_text(dataset: str) -> str:
    """Return a local file's text. Raises DatasetError if the file is missing or is not UTF-8."""
    try:
        return Path(dataset).expanduser().read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DatasetError(f"dataset {dataset}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"dataset {dataset} cannot be read: {error}") from error


def hub_rows(dataset: str, split: str) -> list[Any]:
    """Return the rows of a dataset id, from the hub or its local cache. Raises DatasetError."""
    try:
        import datasets  # slow to import, and optional
    except ImportError:
        raise DatasetError(
            f"{dataset} is a dataset id and needs the `datasets` library: "
            "pip install 'autotune-cpu[datasets]', or pass a file"
        ) from None
    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(dataset, split=split)
        return [_with_class_names(row, loaded.features) for row in loaded]
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise DatasetError(
            f"dataset {dataset!r}, split {split!r} cannot be loaded ({type(error).__name__}: "
            f"{words}); download it where the hub is reachable and pass --dataset FILE"
        ) from error


def _with_class_names(row: Mapping[str, Any], features: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row with class names in place of the dataset's class numbers."""

    def name(feature: Any, value: Any) -> Any:
        inner = getattr(feature, "feature", None)
        if inner is not None and isinstance(value, list):
            return [name(inner, one) for one in value]
        convert = getattr(feature, "int2str", None)
        return convert(value) if convert and isinstance(value, int) and value >= 0 else value

    return {column: name(features.get(column), value) for column, value in row.items()}
