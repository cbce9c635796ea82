"""What earlier searches on this host found, as the first configurations of the next.

One file a host fingerprint in the user's cache folder, a line a search. It changes how soon a
good configuration is tried, and nothing else: each is measured and judged as any other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from autotune.host import Host
from autotune.shared.records import STRICT, Config, ModelFacts, dumps
from autotune.store import cache
from autotune.store.wire import WireError, loads, parse

SEARCHES = 50
"""How many are remembered of a host."""
CONFIGS = 4
"""How many leaders are remembered of a search, each of another mode and precision."""
SEEDS = 6
"""How many configurations a new search begins with."""
NEAR = 0.8
"""None that was further behind its search's best: what is slower is screened out, which costs a
compiler's minute to see again, and the space's own priors try every engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The leaders of one search, best first."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    created: str  # ISO 8601, UTC
    model: str  # as the user named it
    model_type: str
    parameters: int
    task: str
    objective: str
    configs: tuple[Config, ...]
    speedups: tuple[float, ...]  # of each, over the baseline


def place(host: Host) -> Path:
    """The file of this host."""
    return cache.folder() / "learned" / f"{host.id}.jsonl"


def recall(host: Host) -> list[Finding]:
    """What is remembered, oldest first; a damaged line is nothing."""
    try:
        lines = place(host).read_bytes().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            value = loads(line)
            value["configs"] = [Config.of(one) for one in value["configs"]]
            found.append(parse(Finding, value))
        except (WireError, TypeError, KeyError, AttributeError):
            continue
    return found


def remember(host: Host, finding: Finding) -> None:
    """Add `finding`. Where the cache cannot be written, nothing is kept."""
    kept = [*recall(host), finding][-SEARCHES:]
    cache.write(place(host), "".join(dumps(one) + "\n" for one in kept))


def forget(host: Host) -> None:
    place(host).unlink(missing_ok=True)


def leading(configs: Sequence[Config]) -> list[Config]:
    """The first CONFIGS of `configs` (best first) that differ in mode or precision."""
    found: dict[tuple[object, object], Config] = {}
    for config in configs:
        found.setdefault((config["mode"], config["precision"]), config)
    return list(found.values())[:CONFIGS]


def seeds(
    findings: Sequence[Finding], facts: ModelFacts, *, task: str, objective: str
) -> list[Config]:
    """What to try first: the best of the searches most like this one, then their seconds, as far
    as those were NEAR.

    Alike are the same objective, which must be; then the task, the architecture, the size.
    """
    alike = sorted(
        (f for f in reversed(findings) if f.objective == objective),
        key=lambda f: (
            f.task != task,
            f.model_type != facts.model_type,
            abs(math.log2(max(f.parameters, 1) / max(facts.parameters, 1))) > 1,
        ),
    )
    ranked = [
        finding.configs[rank]
        for rank in range(CONFIGS)
        for finding in alike[:CONFIGS]
        if rank < len(finding.configs) and finding.speedups[rank] >= NEAR * max(finding.speedups)
    ]
    return list(dict.fromkeys(ranked))[:SEEDS]
