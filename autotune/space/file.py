"""A search space as a person writes it: the YAML format and its checks.

The format is described in docs/search-spaces.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from autotune.shared.errors import SpaceError
from autotune.shared.records import Scalar
from autotune.space.knobs import KNOBS
from autotune.space.surroundings import Value

MAX_CHOICES = 1000
MAX_FILE_BYTES = 1 << 20
OBJECTIVE, VNNI = "objective", "vnni"
BESIDE: dict[str, tuple[bool | str, ...]] = {
    OBJECTIVE: ("throughput", "latency", "server"),
    VNNI: (True, False),
}
"""What may stand in conditions and priors beside the knobs, and its values."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | dict) else [value]


class Bound(_Strict):
    """A numeric range inside a condition; both ends included."""

    min: int | None = None
    max: int | None = None

    def holds(self, value: Scalar) -> bool:
        return (
            isinstance(value, int)
            and (self.min is None or value >= self.min)
            and (self.max is None or value <= self.max)
        )


Condition = dict[str, Annotated[list[Value] | Bound, BeforeValidator(_as_list)]]
"""knob -> values it may have; holds where every knob is active with one of its values."""


class Range(_Strict):
    """Whole numbers from `low` to `high`: every `step`, or doubling with `log`."""

    low: int
    high: int
    step: int = Field(default=1, ge=1)
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not 1 <= self.low <= self.high:
            raise ValueError(f"1 <= low <= high must hold, got low={self.low}, high={self.high}")
        if self.log and self.step != 1:
            raise ValueError("a range has step or log, not both")
        count = int(math.log2(self.high / self.low)) + 1 if self.log else self.span
        if count > MAX_CHOICES:
            raise ValueError(f"a range may have {MAX_CHOICES} values, got {count}; raise step")
        return self

    @property
    def span(self) -> int:
        return (self.high - self.low) // self.step + 1

    def values(self) -> list[Value]:
        if not self.log:
            return list(range(self.low, self.high + 1, self.step))
        doublings = int(math.log2(self.high / self.low)) + 1
        return [self.low << i for i in range(doublings)]


def _shorthand(value: Any) -> Any:
    return value if isinstance(value, dict) else {"choices": value}


class KnobSpec(_Strict):
    """The values of one knob, and when it is searched at all."""

    choices: (
        Annotated[
            list[Value] | Literal["auto"],
            BeforeValidator(
                lambda value: value if value == "auto" or isinstance(value, list) else [value]
            ),
        ]
        | None
    ) = None
    range: Range | None = None
    when: Condition = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_of(self) -> KnobSpec:
        if (self.choices is None) == (self.range is None):
            raise ValueError("give either choices or range")
        if isinstance(self.choices, list) and not 1 <= len(self.choices) <= MAX_CHOICES:
            raise ValueError(f"choices must have 1 to {MAX_CHOICES} values")
        return self


class Constraint(_Strict):
    """Configurations that meet all of `forbid` are left out."""

    name: str = Field(min_length=1)
    forbid: Condition = Field(min_length=1)
    because: str = ""


class SpaceFile(_Strict):
    """A search space as a person writes it."""

    version: Literal[1]
    task: str
    description: str = ""
    knobs: dict[str, Annotated[KnobSpec, BeforeValidator(_shorthand)]]
    constraints: list[Constraint] = Field(default_factory=list)
    priors: list[dict[str, Value]] = Field(default_factory=list)


class _Loader(yaml.SafeLoader):
    """safe_load without aliases (which expand without bound) and with duplicate keys refused."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed in a search space")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"{key!r} stands twice{node.start_mark}")
        return super().construct_mapping(node, deep)


def load_space(path: Path) -> SpaceFile:
    """Read and check a space file. Raises SpaceError with the place and the rule."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SpaceError(f"{path}: a search space may have {MAX_FILE_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
        raw = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader, see above
    except FileNotFoundError:
        raise SpaceError(f"--space {path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(f"--space {path} cannot be read: {error}") from error
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        words = " ".join(str(error).split())
        raise SpaceError(f"{path} is not valid YAML: {words}") from error
    try:
        space = SpaceFile.model_validate(raw)
    except (ValidationError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise SpaceError(f"{path}: nested too deeply") from None
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        allowed = ", ".join(SpaceFile.model_fields)
        hint = f"; known keys: {allowed}" if first["type"] == "extra_forbidden" else ""
        raise SpaceError(f"{path}: {where}: {first['msg']}{hint}") from error
    _check_names(path, space)
    return space


def _check_names(path: Path, space: SpaceFile) -> None:
    known = ", ".join(KNOBS)
    for name, spec in space.knobs.items():
        if name not in KNOBS:
            raise SpaceError(f"{path}: unknown knob {name!r}; known knobs: {known}")
        if isinstance(spec.choices, list):
            for value in spec.choices:
                check_value(name, value, where=str(path))
    conditions = [
        *((f"knobs.{name}.when", spec.when) for name, spec in space.knobs.items()),
        *((f"constraint {c.name!r}", c.forbid) for c in space.constraints),
    ]
    for where, condition in conditions:
        for name in condition:
            if name not in (*KNOBS, *BESIDE):
                raise SpaceError(f"{path}: {where}: unknown knob {name!r}; known knobs: {known}")
            if name in BESIDE:
                _check_beside(name, _as_list(condition[name]), where=f"{path}: {where}")
    for prior in space.priors:
        for name, value in prior.items():
            if name in BESIDE:
                _check_beside(name, [value], where=f"{path}: priors")
                continue
            if name not in KNOBS:
                raise SpaceError(f"{path}: priors: unknown knob {name!r}; known knobs: {known}")
            check_value(name, value, where=f"{path}: priors")


def _check_beside(name: str, values: Sequence[object], *, where: str) -> None:
    for value in values:
        if not any(type(value) is type(one) and value == one for one in BESIDE[name]):
            known = ", ".join(str(one).lower() for one in BESIDE[name])
            raise SpaceError(f"{where}: {name} must be one of {known}; got {value!r}")


def check_value(name: str, value: Value, *, where: str) -> None:
    """Whether `value` is one the knob may have. Raises SpaceError."""
    knob = KNOBS[name]
    if type(value) is not knob.type:
        raise SpaceError(f"{where}: {name} must be {_type_name(knob.type)}, got {value!r}")
    if knob.allowed is not None and value not in knob.allowed:
        raise SpaceError(f"{where}: {name} must be one of {', '.join(knob.allowed)}; got {value!r}")
    if knob.type is int and not knob.minimum <= int(value) <= 2**31 - 1:
        raise SpaceError(f"{where}: {name} must be at least {knob.minimum}, got {value}")


def _type_name(kind: type) -> str:
    return {bool: "true or false", int: "a whole number", str: "text"}[kind]


def parse_overrides(settings: Sequence[str]) -> dict[str, list[Value]]:
    """`--set KNOB=VALUE[,VALUE...]` as knob -> values. Raises SpaceError."""
    parsed: dict[str, list[Value]] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not text:
            raise SpaceError(f"--set takes KNOB=VALUE[,VALUE...], got {setting!r}")
        if name not in KNOBS:
            raise SpaceError(f"--set {setting}: unknown knob; known knobs: {', '.join(KNOBS)}")
        if name in parsed:
            raise SpaceError(f"--set {name} is given twice; join the values: {name}=A,B")
        values = [_scalar(name, part.strip()) for part in text.split(",")]
        for value in values:
            check_value(name, value, where=f"--set {setting}")
        parsed[name] = list(dict.fromkeys(values))
    return parsed


def _scalar(name: str, text: str) -> Value:
    kind = KNOBS[name].type
    if kind is bool and text in ("true", "false"):
        return text == "true"
    if kind is int and text.isascii() and text.isdigit() and len(text) < 12:
        return int(text)
    return text
