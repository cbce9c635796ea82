"""Read records from JSON and check every field: replies of workers, lines of the journal."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from autotune.shared.records import Trial

Record = TypeVar("Record")


class WireError(ValueError):
    """The text is not the expected record. The message names the first error."""


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """The pydantic check of records of `kind`, built once for each kind."""
    return TypeAdapter(kind)


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def loads(text: str | bytes) -> Any:
    """The Python value of a JSON text. Raises WireError, for NaN and infinity too."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {error}") from error


def parse(kind: type[Record], value: Any) -> Record:
    """The record of `kind` with the content of `value`, a parsed JSON value. Raises WireError."""
    adapter: TypeAdapter[Record] = _adapter(kind)  # type: ignore[arg-type]  # types are hashable
    try:
        parsed = adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or kind.__name__
        raise WireError(f"{where}: {first['msg']}") from error
    except ValueError as error:
        raise WireError(str(error)) from error
    return parsed


def parse_trial(text: str | bytes) -> Trial:
    """The trial in one line of trials.jsonl. Raises WireError."""
    return parse(Trial, loads(text))
