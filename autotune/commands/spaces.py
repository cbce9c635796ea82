"""`autotune spaces show`: a search space compiled for this host."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.driver import stacks
from autotune.host import detect
from autotune.shared.objectives import DEFAULT
from autotune.space import SpaceFile, compile_space, load_space, parse_overrides
from autotune.space.file import Bound
from autotune.tasks import task_named

COUNTED = 200_000
"""Most combinations that are enumerated to count the configurations."""
ATTENTIONS = ("sdpa", "eager")
"""Attention implementations that most models have; no model is loaded to ask."""


def compile_here(
    path: Path,
    *,
    named_stacks: Sequence[str] = (),
    objective: str = DEFAULT.name,
    overrides: Sequence[str] = (),
    dropped: Sequence[str] = (),
) -> dict[str, Any]:
    """The space of the file at `path` on this host and these stacks, as JSON.

    `configurations` is None where there are more combinations than can be counted. Raises
    SpaceError and StackError as a search would.
    """
    file, host = load_space(path), detect()
    with tempfile.TemporaryDirectory(prefix="autotune-") as workdir:
        found = stacks.examine(stacks.parse(named_stacks), host, Path(workdir))
    axes = task_named(file.task).input_axes
    where = stacks.surroundings(host, found, attentions=ATTENTIONS, objective=objective, axes=axes)
    space = compile_space(file, where, overrides=parse_overrides(overrides), dropped=dropped)
    everything = space.whole(COUNTED)
    return {
        "path": str(path),
        **_written(file),
        "knobs": {
            dimension.name: {
                "values": list(dimension.choices),
                "when": {knob: _allowed(values) for knob, values in dimension.when.items()},
            }
            for dimension in space.dimensions
        },
        "unavailable": dict(space.unavailable),
        "configurations": None if everything is None else len(everything),
    }


def _written(file: SpaceFile) -> dict[str, Any]:
    return {
        "task": file.task,
        "description": file.description,
        "constraints": {one.name: one.because for one in file.constraints},
        "priors": len(file.priors),
    }


def _allowed(values: Sequence[Any] | Bound) -> Any:
    return values.model_dump(exclude_none=True) if isinstance(values, Bound) else list(values)


def describe(shown: Mapping[str, Any]) -> list[str]:
    """The result of `compile_here` in lines of text."""
    text = [f"{shown['path']}: {shown['description']}", "", "knobs"]
    for name, knob in shown["knobs"].items():
        condition = " and ".join(
            f"{parent} is {_condition(values)}" for parent, values in knob["when"].items()
        )
        values = ", ".join(map(_knob_value, knob["values"]))
        text.append(f"    {name:22} {values}" + (f"   where {condition}" if condition else ""))
    text.append("constraints")
    text += [f"    {name}: {why}" for name, why in shown["constraints"].items()] or ["    none"]
    if shown["unavailable"]:
        text.append("not available here")
        text += [f"    {name}: {why}" for name, why in shown["unavailable"].items()]
    count = shown["configurations"]
    number = f"over {COUNTED:,} combinations" if count is None else f"{count:,} configurations"
    return [*text, f"{number}, {shown['priors']} priors to begin with"]


def _knob_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _condition(values: Any) -> str:
    if isinstance(values, Mapping):
        return f"{values.get('min', '')} to {values.get('max', '')}".strip()
    return " or ".join(map(_knob_value, values))
