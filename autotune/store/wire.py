"""Reading records back, checked field by field: replies of workers, lines of the journal."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from autotune.shared.records import Config, Trial

Record = TypeVar("Record")


class WireError(ValueError):
    """Text that is not the record it should be, with the first thing wrong."""


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def loads(text: str | bytes) -> Any:
    """JSON as Python values; NaN and infinity are errors. Raises WireError."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {error}") from error


def parse(kind: type[Record], value: Any) -> Record:
    """`value` (as JSON gives it) as a record of `kind`. Raises WireError."""
    adapter: TypeAdapter[Record] = _adapter(kind)  # type: ignore[arg-type]  # types hash
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
    """One line of trials.jsonl. Raises WireError."""
    value = loads(text)
    if isinstance(value, dict) and isinstance(value.get("config"), dict):
        value["config"] = Config.of(value["config"])
    return parse(Trial, value)
