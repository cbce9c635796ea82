"""Words of messages that several modules write."""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Iterable

MIN_LIKENESS = 0.6
"""A known name that is less like the unknown one than this (0 to 1) is not suggested."""
LISTED = 8
"""More names than this are not listed in a message."""
SHOWN_CHARACTERS = 60
"""Most characters of a value in a message."""


def nearest(name: object, known: Iterable[object]) -> str | None:
    """The name of `known` that is most like `name`, whatever their case; None if none is."""
    by_folded = {str(one).casefold(): str(one) for one in known}
    found = difflib.get_close_matches(str(name).casefold(), by_folded, 1, MIN_LIKENESS)
    return by_folded[found[0]] if found else None


def known_names(name: object, known: Iterable[object], where: str = "") -> str:
    """The end of a message that refuses `name`: `did you mean threads? ...`.

    A short list is given whole. `where` says where a longer one is found.
    """
    names = [str(one) for one in known]
    best = nearest(name, names)
    first = f"did you mean {best}? " if best is not None else ""
    if len(names) <= LISTED or not where:
        return f"{first}known: {', '.join(names)}"
    return f"{first}{where} lists all {len(names)}"


def suggestion(word: str, known: Iterable[str]) -> str:
    """`, did you mean NAME?` with the nearest of the `known` names, or nothing if none is near."""
    near = nearest(word, known)
    return "" if near is None else f", did you mean {near}?"


def as_read(value: object) -> str:
    """What was read from a YAML file, for a message: YAML reads some words as something else."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"{str(value).lower()} (YAML reads yes, no, on and off as that; quote a word)"
    if isinstance(value, datetime.date):
        return f"the date {value}"
    return repr(value)[:SHOWN_CHARACTERS]


def loss_or_gain(loss: float, digits: int = 1) -> str:
    """`a loss of 1.2%`, or `a gain of 1.2%` if the relative loss is negative."""
    shown = round(loss, digits + 2)
    return f"a {'gain' if shown < 0 else 'loss'} of {abs(shown):.{digits}%}"


def loses_or_gains(loss: float, low: float | None = None, high: float | None = None) -> str:
    """`loses 1.20% (0.30% to 2.10%)`, or `gains ...` if the relative loss is negative.

    `low` and `high` are the interval of the loss, if it has one. If the interval holds both a loss
    and a gain, each end says which it is: `(from a gain of 0.30% to a loss of 2.10%)`.
    """
    gains = round(loss, 4) < 0
    words = f"{'gains' if gains else 'loses'} {abs(loss):.2%}"
    if low is None or high is None:
        return words
    ends = (-high, -low) if gains else (low, high)
    if round(ends[0], 4) >= 0:
        return f"{words} ({abs(ends[0]):.2%} to {ends[1]:.2%})"
    first, last = (high, low) if gains else (low, high)
    return f"{words} (from {loss_or_gain(first, 2)} to {loss_or_gain(last, 2)})"
