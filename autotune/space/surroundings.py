"""What the host, the stacks, the model and the objective allow a search space to hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Value = bool | int | str

Modes = Mapping[str, Mapping[str, Mapping[str, str | None]]]
"""stack -> mode -> precision -> None (it runs) or why not: `StackFacts.modes` of each stack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the choices of `auto`, the defaults and the availability of values depend on."""

    cores: int
    attentions: tuple[str, ...]
    modes: Modes
    objective: str
    nodes: int = 1  # NUMA nodes
    vnni: bool = True  # whether the CPU sums int8 products without saturating
    # knob -> value -> why this host or its stacks cannot offer the value
    missing: Mapping[str, Mapping[Value, str]] = field(default_factory=dict)
