"""The facts about host, stacks, model and objective that a search space depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from autotune.shared.axes import BATCH, WIDTH

Value = bool | int | str
OBJECTIVE, VNNI = "objective", "vnni"
"""Names that conditions may use besides the knobs."""

Modes = Mapping[str, Mapping[str, Mapping[str, str | None]]]
"""stack -> mode -> precision -> None if it runs, else the reason why not.

The inner mappings are the `StackFacts.modes` of each stack.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The facts that decide the choices of `auto`, the defaults, and which values are available."""

    cores: int  # physical cores that the process may use
    attentions: tuple[str, ...]  # that the model loads with, its default first
    modes: Modes
    objective: str
    sockets: int = 1
    nodes: int = 1  # NUMA nodes
    axes: tuple[str, ...] = (BATCH, WIDTH)  # of the model's inputs (autotune.shared.axes)
    vnni: bool = True  # whether the CPU sums int8 products without saturating
    missing: Mapping[str, Mapping[Value, str]] = field(default_factory=dict)
    """knob -> value -> why this host and its stacks cannot offer the value."""
