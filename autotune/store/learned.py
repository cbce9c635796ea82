"""The best configurations of earlier searches on this host, which the next search tries first.

The user's cache folder has one file for each host fingerprint, with one line for each search.
These configurations only decide how early a good configuration is tried. Each is measured and
judged as any other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from autotune.host import Host
from autotune.shared.errors import OutputError
from autotune.shared.records import STRICT, Config, ModelFacts, dumps
from autotune.store import cache
from autotune.store.wire import WireError, loads, parse

MAX_SEARCHES = 50
"""How many searches are remembered of a host. The oldest are dropped first."""
MAX_LEADERS = 4
"""How many leaders are remembered of a search. No two have the same mode and precision."""
MAX_SIMILAR_SEARCHES = 4
"""How many similar searches the seeds of a new search come from."""
MAX_SEEDS = 6
"""How many remembered configurations a new search tries first."""
MIN_SEED_SHARE = 0.8
"""A seed reached at least this share of the speedup of its search's best configuration.

A slower configuration would be screened out again, after about a minute of compilation. The
priors of the search space try every engine anyway.
"""


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
    speedups: tuple[float, ...]  # of each configuration, over the baseline


def locate(host: Host) -> Path:
    """The path of this host's file, which may not exist yet."""
    return cache.folder() / "learned" / f"{host.id}.jsonl"


def recall(host: Host) -> list[Finding]:
    """The remembered searches of this host, oldest first. Damaged lines are skipped."""
    try:
        lines = locate(host).read_bytes().splitlines()
    except OSError:
        return []
    findings = []
    for line in lines:
        try:
            value = loads(line)
            value["configs"] = [Config.of(config) for config in value["configs"]]
            findings.append(parse(Finding, value))
        except (WireError, TypeError, KeyError, AttributeError):
            continue
    return findings


def remember(host: Host, finding: Finding) -> None:
    """Add `finding` to this host's file. Does nothing if the cache cannot be written."""
    kept = [*recall(host), finding][-MAX_SEARCHES:]
    cache.write(locate(host), "".join(dumps(each) + "\n" for each in kept))


def forget(host: Host) -> None:
    """Delete this host's file. Raises OutputError if that is refused."""
    place = locate(host)
    try:
        place.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise OutputError(f"{place} cannot be removed: {error.strerror}") from error


def pick_leaders(configs: Sequence[Config]) -> list[Config]:
    """The best of each mode and precision, at most MAX_LEADERS. `configs` are best first."""
    best: dict[tuple[object, object], Config] = {}
    for config in configs:
        best.setdefault((config["mode"], config["precision"]), config)
    return list(best.values())[:MAX_LEADERS]


def choose_seeds(
    findings: Sequence[Finding], facts: ModelFacts, *, task: str, objective: str
) -> list[Config]:
    """At most MAX_SEEDS configurations that a new search tries first.

    They come from the MAX_SIMILAR_SEARCHES searches most similar to the new one. First comes the
    best configuration of each such search, then the second of each, and so on. Configurations
    below MIN_SEED_SHARE are left out.

    A similar search has the same objective. It ranks higher with the same task, then with the
    same architecture, then with a size within a factor of two, then if it is more recent.
    """
    similar = sorted(
        (f for f in reversed(findings) if f.objective == objective),
        key=lambda f: (
            f.task != task,
            f.model_type != facts.model_type,
            abs(math.log2(max(f.parameters, 1) / max(facts.parameters, 1))) > 1,
        ),
    )
    ranked = [
        finding.configs[rank]
        for rank in range(MAX_LEADERS)
        for finding in similar[:MAX_SIMILAR_SEARCHES]
        if rank < len(finding.configs)
        and finding.speedups[rank] >= MIN_SEED_SHARE * max(finding.speedups)
    ]
    return list(dict.fromkeys(ranked))[:MAX_SEEDS]
