"""The YAML format of a search space file, and its checks.

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
"""The most values that one knob may list."""
MAX_FILE_BYTES = 1 << 20
OBJECTIVE, VNNI = "objective", "vnni"
CONTEXT_VALUES: dict[str, tuple[bool | str, ...]] = {
    OBJECTIVE: ("throughput", "latency", "server"),
    VNNI: (True, False),
}
"""Names that conditions and priors may use besides the knobs, and the values of each."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _as_list(value: Any) -> Any:
    """A single value as a list. Lists and bounds stay as they are."""
    return value if isinstance(value, list | dict) else [value]


class Bound(_Strict):
    """A range of numbers in a condition. Both ends are included."""

    min: int | None = None
    max: int | None = None

    def holds(self, value: Scalar) -> bool:
        """Whether `value` is a whole number in the range."""
        return (
            isinstance(value, int)
            and (self.min is None or value >= self.min)
            and (self.max is None or value <= self.max)
        )


Condition = dict[str, Annotated[list[Value] | Bound, BeforeValidator(_as_list)]]
"""knob -> values. The condition holds if every knob is active with one of its values."""


class Range(_Strict):
    """Whole numbers from `low` to `high`: in steps of `step`, or doubled each time with `log`."""

    low: int
    high: int
    step: int = Field(default=1, ge=1)
    log: bool = False

    @model_validator(mode="after")
    def _check_range(self) -> Range:
        if not 1 <= self.low <= self.high:
            raise ValueError(f"1 <= low <= high must hold, got low={self.low}, high={self.high}")
        if self.log and self.step != 1:
            raise ValueError("a range has step or log, not both")
        count = self._count()
        if count > MAX_CHOICES:
            raise ValueError(
                f"a range may have {MAX_CHOICES} values, got {count}; use a larger step"
            )
        return self

    def _count(self) -> int:
        if self.log:
            return int(math.log2(self.high / self.low)) + 1
        return (self.high - self.low) // self.step + 1

    def values(self) -> list[Value]:
        """The numbers of the range, in ascending order."""
        if self.log:
            return [self.low << doublings for doublings in range(self._count())]
        return list(range(self.low, self.high + 1, self.step))


def _as_spec(value: Any) -> Any:
    """`knob: value` and `knob: [values]` as `knob: {choices: ...}`."""
    return value if isinstance(value, dict) else {"choices": value}


class KnobSpec(_Strict):
    """The values of one knob, and the condition under which the knob is searched."""

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
    def _check_choices(self) -> KnobSpec:
        if (self.choices is None) == (self.range is None):
            raise ValueError("give either choices or range")
        if isinstance(self.choices, list) and not 1 <= len(self.choices) <= MAX_CHOICES:
            raise ValueError(f"choices must have 1 to {MAX_CHOICES} values")
        return self


class Constraint(_Strict):
    """Configurations that meet every condition of `forbid` are left out."""

    name: str = Field(min_length=1)
    forbid: Condition = Field(min_length=1)
    because: str = ""


class SpaceFile(_Strict):
    """The content of a search space file."""

    version: Literal[1]
    task: str
    description: str = ""
    knobs: dict[str, Annotated[KnobSpec, BeforeValidator(_as_spec)]]
    constraints: list[Constraint] = Field(default_factory=list)
    priors: list[dict[str, Value]] = Field(default_factory=list)


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses aliases, which can expand without bound, and duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed in a search space")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"{key!r} is given twice{node.start_mark}")
        return super().construct_mapping(node, deep)


def load_space(path: Path) -> SpaceFile:
    """Read and check a space file. Raises SpaceError, which names the place and the rule."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SpaceError(f"{path}: the file is larger than {MAX_FILE_BYTES} bytes")
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
    """Raises SpaceError if the file names an unknown knob, or a value that a knob cannot have."""
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
            if name not in (*KNOBS, *CONTEXT_VALUES):
                raise SpaceError(f"{path}: {where}: unknown knob {name!r}; known knobs: {known}")
            if name in CONTEXT_VALUES:
                _check_context_value(name, _as_list(condition[name]), where=f"{path}: {where}")
    for prior in space.priors:
        for name, value in prior.items():
            if name in CONTEXT_VALUES:
                _check_context_value(name, [value], where=f"{path}: priors")
                continue
            if name not in KNOBS:
                raise SpaceError(f"{path}: priors: unknown knob {name!r}; known knobs: {known}")
            check_value(name, value, where=f"{path}: priors")


def _check_context_value(name: str, values: Sequence[object], *, where: str) -> None:
    """Raises SpaceError if `objective` or `vnni` cannot have one of `values`."""
    for value in values:
        if not any(type(value) is type(one) and value == one for one in CONTEXT_VALUES[name]):
            known = ", ".join(str(one).lower() for one in CONTEXT_VALUES[name])
            raise SpaceError(f"{where}: {name} must be one of {known}; got {value!r}")


def check_value(name: str, value: Value, *, where: str) -> None:
    """Raises SpaceError if the knob `name` cannot have `value`. `where` begins the message."""
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
    """Parse `--set KNOB=VALUE[,VALUE...]` into knob -> values. Raises SpaceError."""
    parsed: dict[str, list[Value]] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not text:
            raise SpaceError(f"--set takes KNOB=VALUE[,VALUE...], got {setting!r}")
        if name not in KNOBS:
            raise SpaceError(f"--set {setting}: unknown knob; known knobs: {', '.join(KNOBS)}")
        if name in parsed:
            raise SpaceError(f"--set {name} is given twice; join the values: {name}=A,B")
        values = [_value_of(name, part.strip()) for part in text.split(",")]
        for value in values:
            check_value(name, value, where=f"--set {setting}")
        parsed[name] = list(dict.fromkeys(values))
    return parsed


def _value_of(name: str, text: str) -> Value:
    """`text` as a value of the knob `name`, or `text` itself if it is no such value."""
    kind = KNOBS[name].type
    if kind is bool and text in ("true", "false"):
        return text == "true"
    if kind is int and text.isascii() and text.isdigit() and len(text) < 12:
        return int(text)
    return text
