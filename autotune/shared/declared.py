"""Checks of what a package declares in Python, where a mistake would only show much later."""

from __future__ import annotations

from collections.abc import Iterable


def check_tuple(owner: str, field: str, value: object, kind: type) -> None:
    """Raise ValueError, with the rule, unless `value` is a tuple whose items are all of `kind`."""
    if not isinstance(value, tuple):
        raise ValueError(
            f"{field} of {owner} must be a tuple, with a comma after a single item; got "
            f"{type(value).__name__}"
        )
    for item in value:
        if not isinstance(item, kind):
            raise ValueError(
                f"{field} of {owner} must hold objects of type {kind.__name__}; got {item!r}"
            )


def check_distinct(owner: str, field: str, names: Iterable[str]) -> None:
    """Raise ValueError if a name occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"two of the {field} of {owner} are called {name}; rename one")
        seen.add(name)
