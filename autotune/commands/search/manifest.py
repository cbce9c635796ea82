"""manifest.json: the settings of a run, its workload and its host. `--resume` compares them."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autotune import __version__
from autotune.commands.search.settings import Settings
from autotune.host import Host
from autotune.search.samplers import AUTOTUNE
from autotune.shared.errors import ResumeError
from autotune.shared.records import Config, StackFacts, to_jsonable
from autotune.shared.urls import without_password
from autotune.space import Space, SpaceFile
from autotune.tasks.workload import Workload


def describe_run(
    settings: Settings,
    *,
    run: str,
    output: Path,
    command_line: list[str],
    workload: Workload,
    objective: str,
    baseline: Config,
    dynamic: Config,
    reference: Config,
    space_name: str,
    space: Space,
    space_digest: str,
    host: Host,
    found: Mapping[str, StackFacts],
    seeds: Sequence[Config],
) -> dict[str, Any]:
    """Return the content of the manifest.

    `run` is the run's id, which it keeps when it is resumed. `found` maps each stack to its facts:
    interpreter, versions and modes. `seeds` are the configurations from earlier searches that this
    search tries first.
    """
    return {
        "autotune": __version__,
        "run": run,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command_line": [without_password(word) for word in command_line],
        "settings": {
            **asdict(settings),
            "output": str(output),
            "storage": settings.storage and without_password(settings.storage),
        },
        "model": {
            "name": settings.model,
            "path": workload.source.path,
            **{name: v for name, v in to_jsonable(workload.facts).items() if name != "note"},
            "padding": None if workload.padding is None else dict(workload.padding),
            "trust_remote_code": settings.trust_remote_code,
            "allow_pickle": settings.allow_pickle,
        },
        "workload": {
            "id": workload.id,
            **workload.identity,
            "examples": workload.expected.examples,
            "features": workload.expected.features,
            "tokens": workload.expected.tokens,
        },
        "objective": objective,
        "sampler": settings.sampler,
        "max_accuracy_drop": settings.max_accuracy_drop,
        "baseline": baseline,
        "dynamic_baseline": dynamic,
        "reference": reference,
        "seeds": list(seeds),
        "space": {
            "file": space_name,
            "dimensions": {d.name: list(d.choices) for d in space.dimensions},
            "digest": space_digest,
            "unavailable": dict(space.unavailable),
        },
        "host": {**host.fingerprint(), "kernel": host.kernel},
        "stacks": found,
    }


def run_id(stored: Mapping[str, Any] | None) -> str:
    """Return a new id for a run, or that of the run to resume, whose manifest is `stored`.

    A manifest from before runs had ids gives the time at which the run was created.
    """
    if stored is None:
        return uuid.uuid4().hex
    return str(stored.get("run") or stored.get("created"))


def space_digest(file: SpaceFile, space: Space) -> str:
    """Return a SHA-256 hash of the space file and of its dimensions on this host, in hex digits."""
    text = file.model_dump_json() + repr(space.dimensions)
    return hashlib.sha256(text.encode()).hexdigest()


def check_same(stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a run may be resumed.

    The workload, the objective, the accuracy limit, the baseline, the space, the sampler, the host
    and the stacks must be the same. Raises ResumeError, which names the first difference.
    """
    defaults = {"sampler": AUTOTUNE}  # the only one, before runs had the key
    stored = {**defaults, **stored}
    current = {**defaults, **json.loads(json.dumps(to_jsonable(now)))}
    named = dict.fromkeys([*stored.get("stacks", {}), *current["stacks"]])
    places = [
        *(("workload", key) for key in current["workload"] if key != "id"),
        ("objective",),
        ("max_accuracy_drop",),
        ("baseline",),
        ("space", "digest"),
        ("space", "unavailable"),
        ("sampler",),
        *(("host", key) for key in current["host"]),
        *(("stacks", name, key) for name in named for key in ("python", "versions")),
    ]
    for place in places:
        before: Any = stored
        after: Any = current
        for key in place:
            before = before.get(key) if isinstance(before, Mapping) else None
            after = after.get(key) if isinstance(after, Mapping) else None
        if before != after:
            raise ResumeError(
                f"--resume: {' '.join(place)} of this run is {_short(before)}, now it is "
                f"{_short(after)}; pass the same options, or start a new run"
            )


def _short(value: Any) -> str:
    """Return the value as JSON, cut to 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
