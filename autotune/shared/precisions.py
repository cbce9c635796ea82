"""Precisions: the data types of a model's matrix products. One object says all about one of them.

Both programs use this module. A precision that several engines offer is defined here. An engine
may bring a precision of its own, in the file of its descriptor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from autotune.shared.declared import check_tuple
from autotune.shared.errors import InputError
from autotune.shared.flags import ScriptFlag
from autotune.shared.instructions import BF16_SETS
from autotune.shared.words import suggestion

SIMULATED_INT8_TOLERANCE = 0.5
"""The tolerance of int8 kernels, compared with a model that simulates int8 in float32. The limit
only detects a graph that is wrong for other shapes. The gate judges the accuracy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """A value of the knob `precision`, and all that other modules need to know about it.

    `tolerance` is the largest difference allowed between a prepared engine and the model it was
    made from, relative to the largest output of the model. `simulated_tolerance` is the same limit
    where that model only simulates the precision.
    """

    name: str
    speed: int
    """Its rank: more is faster on a CPU that has the instructions for all precisions."""
    tolerance: float
    simulated_tolerance: float | None = None  # None: as `tolerance`
    dtype: str = "float32"  # torch's type of the model's weights
    product_type: str | None = None
    """The type in which matrix products must run: "bf16" or "int8". None: it cannot be counted."""
    instruction_sets: frozenset[str] = frozenset()
    """The CPU needs one of them (names of `autotune.host.isa`). Empty: every CPU will do."""
    without_instructions: str = ""  # the reason for people, on a CPU with none of them
    peak: str | None = None
    """The precision whose fastest matrix product limits this one. None: nothing limits it that can
    be measured."""
    calibrated: bool = False  # needs rows to calibrate on
    script_flags: tuple[ScriptFlag, ...] = ()
    """The flags of Hugging Face's scripts that ask for it. A configuration gets the first one that
    agrees with its knobs."""
    is_script_default: bool = False  # the scripts run it without a flag

    def __post_init__(self) -> None:
        """Raises ValueError, with the rule, for a value that cannot be used."""
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"a precision's name must be text, got {self.name!r}")
        if type(self.speed) is not int:
            raise ValueError(
                f"precision {self.name}: the speed must be a whole number, got {self.speed!r}"
            )
        if type(self.tolerance) not in (int, float):
            raise ValueError(
                f"precision {self.name}: the tolerance must be a number, got {self.tolerance!r}"
            )
        check_tuple(f"precision {self.name}", "script_flags", self.script_flags, ScriptFlag)

    @property
    def limit_when_simulated(self) -> float:
        """`simulated_tolerance`, or `tolerance` if that is not given."""
        return self.tolerance if self.simulated_tolerance is None else self.simulated_tolerance

    def refusal(self, sets: Iterable[str]) -> str | None:
        """Why a CPU with the instruction sets `sets` cannot run it. None if the CPU can."""
        if self.instruction_sets and self.instruction_sets.isdisjoint(sets):
            return self.without_instructions
        return None


_NO_BF16 = "bf16 needs AVX512-BF16 or AMX-BF16; this CPU would emulate bf16, slower than fp32"
_NO_INT8 = "int8 kernels (FBGEMM) need AVX2, which this CPU lacks"

FP32 = Precision(name="fp32", speed=0, tolerance=1e-3, peak="fp32", is_script_default=True)
BF16_MATMUL = Precision(
    name="bf16_matmul",
    speed=1,
    tolerance=5e-2,
    product_type="bf16",
    instruction_sets=frozenset({"amx_bf16"}),
    without_instructions="bf16_matmul needs AMX-BF16; this CPU would compute these products in "
    "float32",
    peak="bf16",
)
BF16 = Precision(
    name="bf16",
    speed=2,
    tolerance=5e-2,
    dtype="bfloat16",
    product_type="bf16",
    instruction_sets=BF16_SETS,
    without_instructions=_NO_BF16,
    peak="bf16",
    script_flags=(
        ScriptFlag(name="bf16", knobs=(("bf16_method", "autocast"),)),
        ScriptFlag(name="bf16_full_eval", knobs=(("bf16_method", "full"),)),
    ),
)
INT8_DYNAMIC = Precision(
    name="int8_dynamic",
    speed=3,
    tolerance=5e-2,
    simulated_tolerance=SIMULATED_INT8_TOLERANCE,
    product_type="int8",
    instruction_sets=frozenset({"avx2"}),
    without_instructions=_NO_INT8,
)
INT8_STATIC = Precision(
    name="int8_static",
    speed=4,
    tolerance=SIMULATED_INT8_TOLERANCE,
    product_type="int8",
    instruction_sets=frozenset({"avx2"}),
    without_instructions=_NO_INT8,
    calibrated=True,
)
BASELINE = FP32
"""The precision of the baseline, and of the outputs that the gate compares with."""

_known = {one.name: one for one in (FP32, BF16_MATMUL, BF16, INT8_DYNAMIC, INT8_STATIC)}


def add(precisions: Iterable[Precision]) -> None:
    """Make the precisions known that an engine of another package brings: all of them, or none.

    Raises ValueError if another precision has the name of one.
    """
    found = {one.name: one for one in precisions}
    for name, precision in found.items():
        if _known.get(name, precision) != precision:
            raise ValueError(f"another precision is called {name}; choose another name")
    _known.update(found)


def known_precisions() -> Mapping[str, Precision]:
    """All precisions by name, the slowest first."""
    return {one.name: one for one in sorted(_known.values(), key=lambda one: (one.speed, one.name))}


def precision_named(name: object) -> Precision:
    """The precision called `name`. Raises InputError for an unknown name."""
    if name not in _known:
        known = known_precisions()
        raise InputError(
            f"precision must be one of {', '.join(known)}; got {name}{suggestion(str(name), known)}"
        )
    return _known[str(name)]
