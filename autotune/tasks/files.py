"""Read datasets: local JSON, CSV and TSV files, and dataset ids on the hub."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.shared.errors import DatasetError
from autotune.shared.hub import hub_answers, use_cache_only
from autotune.shared.paths import check_downloads, kind_of, written

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv")
ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""Matches a JSON escape for half of a surrogate pair, such as \\ud83d.

JSON escapes a character beyond U+FFFF as two of these. A single one is not valid text.
"""
MAX_CELL_CHARACTERS = 1 << 26
"""Most characters in one CSV cell. The csv module's default, 131,072, is too few for long texts."""


def suffix_of(dataset: str) -> str:
    """Return the file's suffix in lower case, such as `.csv` for `A.CSV`."""
    return Path(dataset).suffix.lower()


def read_rows(dataset: str, split: str) -> list[Mapping[str, Any]]:
    """Return the rows of a local file or of a dataset id.

    A file is JSON lines, a JSON list, {"data": [...]}, or CSV or TSV with a header. Raises
    DatasetError.
    """
    if suffix_of(dataset) == ".csv":
        rows: Any = read_csv(dataset)
    elif suffix_of(dataset) == ".tsv":
        rows = read_tsv(dataset)
    else:
        rows = read_json(dataset)
        if rows is None:
            rows = hub_rows(dataset, split)
        elif isinstance(rows, dict):
            rows = rows.get("data", [rows])
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise DatasetError(
            f"{dataset}: expected rows of named columns: JSON lines, a JSON list of objects, or "
            "CSV or TSV with a header"
        )
    if not rows:
        raise DatasetError(f"{dataset} holds no rows; pass a file with at least one")
    return rows


def read_csv(dataset: str) -> list[dict[str, str]]:
    """Return the rows of a local CSV file with a header. Raises DatasetError."""
    before = csv.field_size_limit(MAX_CELL_CHARACTERS)
    try:
        reader = csv.reader(io.StringIO(read_text(dataset), newline=""), strict=True)
        return _rows_below_header(dataset, [row for row in reader if row])
    except csv.Error as error:
        raise DatasetError(f"dataset {dataset} is not CSV: {error}") from error
    finally:
        csv.field_size_limit(before)


def read_tsv(dataset: str) -> list[dict[str, str]]:
    """Return the rows of a local TSV file with a header. Raises DatasetError.

    A row is a line. The cells are quoted, as Excel and pandas write them, if every line then has as
    many cells as the header. Otherwise a quotation mark is a character like any other, as in the
    files of GLUE, and only a cell that begins and ends with one, and holds others in pairs alone,
    is a quoted cell.
    """
    lines = [line for line in lines_of(read_text(dataset)) if line]
    cells = _quoted_cells(lines) or [[*map(_unquoted, line.split("\t"))] for line in lines]
    return _rows_below_header(dataset, cells)


def _quoted_cells(lines: Sequence[str]) -> list[list[str]] | None:
    """Return the quoted cells of each line. None if the lines do not have equally many."""
    try:
        cells = [next(csv.reader([line], delimiter="\t", strict=True)) for line in lines]
    except csv.Error:
        return None
    return cells if len({len(row) for row in cells}) == 1 else None


def _unquoted(cell: str) -> str:
    inner = cell[1:-1]
    if len(cell) < 2 or cell[0] != '"' or cell[-1] != '"' or '"' in inner.replace('""', ""):
        return cell
    return inner.replace('""', '"')


def _rows_below_header(dataset: str, cells: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Return one object a row. Raises DatasetError for a header or a row that is ambiguous."""
    if not cells:
        return []
    header = [name.strip() for name in cells[0]]
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise DatasetError(f"dataset {dataset}: two columns are named {twice[0]!r}; rename one")
    for number, row in enumerate(cells[1:], start=1):
        if len(row) != len(header):
            raise DatasetError(
                f"dataset {dataset}, row {number}: {len(row)} cells, but the header has "
                f"{len(header)}"
            )
    return [dict(zip(header, row, strict=True)) for row in cells[1:]]


def lines_of(text: str) -> list[str]:
    """Return the lines of `text` without their ends. A line ends at \\n or \\r\\n only.

    `str.splitlines` also splits at U+2028, U+0085 and others, which are characters of a text.
    """
    return [line.removesuffix("\r") for line in text.split("\n")]


def read_json(dataset: str) -> Any | None:
    """Return the content of a local JSON or JSON-lines file. None if `dataset` is a hub id.

    Raises DatasetError for a file that is missing, is not JSON, or is not UTF-8.
    """
    if not is_local(dataset):
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


def is_local(dataset: str) -> bool:
    """Return whether `dataset` is meant as a file, not as a dataset id."""
    path = written(dataset, "dataset", DatasetError)
    looks_local = suffix_of(dataset) in SUFFIXES or dataset.startswith((".", "/", "~"))
    return looks_local or kind_of(path, "dataset", DatasetError) is not None


def _parse_json_or_lines(text: str) -> Any:
    """Parse JSON or JSON lines. Raises ValueError, which names the line of the file.

    A file whose first line is a JSON value of its own is JSON lines.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        whole = error
    found = []
    for number, line in enumerate(lines_of(text), start=1):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line))
        except ValueError as error:
            if not found:
                raise whole from None
            words = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            column = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            raise ValueError(f"line {number}{column}: {words}") from None
    return found


def read_text(dataset: str) -> str:
    """Return a local file's text, its line ends unchanged.

    Raises DatasetError if the file is missing, is a folder, or is not UTF-8.
    """
    try:
        return written(dataset, "dataset", DatasetError).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DatasetError(f"dataset {dataset}: no such file") from None
    except IsADirectoryError:
        raise DatasetError(
            f"dataset {dataset} is a folder; pass one file: {', '.join(SUFFIXES)}"
        ) from None
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"dataset {dataset} is not UTF-8 (byte {error.start}: {error.reason}); convert it, "
            "for example with iconv -t UTF-8"
        ) from None
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DatasetError(f"dataset {dataset[:200]} cannot be read: {reason}") from None


def hub_rows(dataset: str, split: str) -> list[Any]:
    """Return the rows of a dataset id, from the hub or its local cache. Raises DatasetError."""
    check_downloads(f"dataset {dataset}", DatasetError)
    try:
        import datasets  # slow to import, and optional
    except ImportError:
        raise DatasetError(
            f"{dataset} is a dataset id and needs the `datasets` library: "
            "pip install datasets, or pass a file"
        ) from None
    datasets.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries
    reached = hub_answers()
    if not reached:
        use_cache_only()
        datasets.config.HF_HUB_OFFLINE = True
    try:
        loaded = datasets.load_dataset(dataset, split=split)
        for column, feature in loaded.features.items():
            if isinstance(feature, datasets.Image):  # its bytes and path; the worker decodes it
                loaded = loaded.cast_column(column, datasets.Image(decode=False))
        return [_with_class_names(row, loaded.features) for row in loaded]
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        if not reached:
            raise DatasetError(
                f"dataset {dataset!r} is not in the local cache, and the hub does not answer; "
                "download it where the hub is reachable and pass --dataset FILE"
            ) from error
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
