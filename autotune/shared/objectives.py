"""The kinds of objective of a search. One object says what spaces and commands must know.

`autotune.search.objective` computes the values. A new objective is one object here and one class
there.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveKind:
    """A value of `--objective`."""

    name: str
    about: str  # as in: what to optimise: ...
    one_by_one: bool = False  # it runs one example at a time
    takes_limit: bool = False  # it needs a latency limit: --max-latency-ms


THROUGHPUT = ObjectiveKind(name="throughput", about="examples a second")
LATENCY = ObjectiveKind(
    name="latency",
    about="the p90 latency of one example",
    one_by_one=True,
)
SERVER = ObjectiveKind(
    name="server",
    about="the highest rate of requests that keeps a latency limit",
    takes_limit=True,
)
OBJECTIVES = {one.name: one for one in (THROUGHPUT, LATENCY, SERVER)}
DEFAULT = THROUGHPUT
