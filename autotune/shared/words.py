"""Words of messages that several modules write."""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Iterable

MIN_LIKENESS = 0.6
"""A known name that is less like the unknown one than this (0 to 1) is not suggested."""
SHOWN_CHARACTERS = 60
"""Most characters of a value in a message."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """`, did you mean NAME?` with the nearest of the `known` names, or nothing if none is near."""
    names = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(word.casefold(), names, n=1, cutoff=MIN_LIKENESS)
    return f", did you mean {names[near[0]]}?" if near else ""


def as_read(value: object) -> str:
    """What was read from a YAML file, for a message: YAML reads some words as something else."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"{str(value).lower()} (YAML reads yes, no, on and off as that; quote a word)"
    if isinstance(value, datetime.date):
        return f"the date {value}"
    return repr(value)[:SHOWN_CHARACTERS]
