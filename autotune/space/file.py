"""The YAML format of a search space file, and its checks.

The format is described in docs/search-spaces.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from autotune.shared.errors import SpaceError
from autotune.shared.objectives import OBJECTIVES
from autotune.shared.records import Scalar
from autotune.shared.words import as_read, suggestion
from autotune.space.knobs import ALL_KNOBS, KNOBS
from autotune.space.surroundings import OBJECTIVE, VNNI, Value

MAX_CHOICES = 1000
"""The most values that one knob may list."""
MAX_NUMBER = 2**31 - 1
"""The largest value of a knob that is a number."""
MAX_FILE_BYTES = 1 << 20
PLAIN_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)")
"""A whole number as people read it. YAML reads 010 as 8, 1:30 as 90 and 1_6 as 16."""
CONTEXT_VALUES: dict[str, tuple[bool | str, ...]] = {
    OBJECTIVE: tuple(OBJECTIVES),
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


_BOUND, _VALUES = "bound", "values"

Allowed = Annotated[
    Annotated[list[Any], Tag(_VALUES)] | Annotated[Bound, Tag(_BOUND)],
    Discriminator(lambda value: _BOUND if isinstance(value, dict | Bound) else _VALUES),
    BeforeValidator(_as_list),
]
"""The values of one knob in a condition. `_check_names` checks them."""

Condition = dict[str, Allowed]
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
            list[Any] | Literal["auto"],
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
        if self.choices is None and self.range is None:
            raise ValueError("no value is given; give choices or range")
        if self.choices is not None and self.range is not None:
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
    priors: list[dict[str, Any]] = Field(default_factory=list)


def _refused(node: Any, problem: str) -> yaml.MarkedYAMLError:
    """The error for `node`, which YAML allows and a search space does not."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses what is easily misread: numbers that are not plain, and keys given
    twice. It refuses aliases too, which can expand without bound."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed in a search space")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise _refused(node, f"{key!r} is given twice")
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> int:
        number = int(super().construct_yaml_int(node))
        if not PLAIN_NUMBER.fullmatch(node.value):
            raise _refused(
                node, f"{node.value} is read as {number}; write {number} if that is what you mean"
            )
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


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
        raise SpaceError(f"{path} is not valid YAML: {_yaml_problem(error)}") from error
    if not isinstance(raw, dict):
        raise SpaceError(
            f"{path}: expected {', '.join(SpaceFile.model_fields)}; got {as_read(raw)}"
        )
    try:
        space = SpaceFile.model_validate(raw)
    except RecursionError:
        raise SpaceError(f"{path}: nested too deeply") from None
    except ValidationError as error:
        raise SpaceError(f"{path}: {_first_error(error)}") from error
    _check_names(path, space)
    return space


def _yaml_problem(error: Exception) -> str:
    """What is wrong with the text of the file, and in which line if that is known."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())


RULES = {
    "int_type": "must be a whole number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of names",
}
"""Type of pydantic's error -> the rule in words. Others keep pydantic's words."""


def _first_error(error: ValidationError) -> str:
    """The first of pydantic's errors: the place in the file, the rule, and what was read there."""
    first = error.errors(include_url=False)[0]
    parts = [str(part) for part in first["loc"] if part not in (_BOUND, _VALUES)]
    if parts[-1] == "[key]":
        return f"{'.'.join(parts[:-2])}: a name must be text, got {as_read(first['input'])}"
    where = ".".join(parts)
    if first["type"] == "extra_forbidden":
        known = _keys_of(parts)
        return f"{where}: unknown key{suggestion(parts[-1], known)}; known keys: {', '.join(known)}"
    rule = RULES.get(first["type"], first["msg"].removeprefix("Value error, "))
    if first["type"] in ("missing", "value_error"):
        return f"{where}: {rule}"
    return f"{where}: {rule}, got {as_read(first['input'])}"


def _keys_of(parts: Sequence[str]) -> tuple[str, ...]:
    """The keys that may stand at the place `parts` of the file, the last of which is none."""
    sections: dict[str, type[BaseModel]] = {"knobs": KnobSpec, "constraints": Constraint}
    inner: dict[str, type[BaseModel]] = {"range": Range, "when": Bound, "forbid": Bound}
    around = sections.get(parts[0], SpaceFile)
    for part in parts[1:-1]:
        around = inner.get(part, around)
    return tuple(around.model_fields)


def _check_names(path: Path, space: SpaceFile) -> None:
    """Raises SpaceError if the file names an unknown knob, or a value that a knob cannot have."""
    for name, spec in space.knobs.items():
        _check_knob(name, where=str(path))
        if spec.choices == "auto" and not KNOBS[name].has_auto:
            raise SpaceError(f"{path}: {name} has no auto choices; list them")
        ends = [] if spec.range is None else [spec.range.low, spec.range.high]
        for value in spec.choices if isinstance(spec.choices, list) else ends:
            check_value(name, value, where=str(path))
        _check_condition(spec.when, where=f"{path}: knobs.{name}.when")
    for constraint in space.constraints:
        _check_condition(constraint.forbid, where=f"{path}: constraint {constraint.name!r}")
    for prior in space.priors:
        _check_condition({name: [value] for name, value in prior.items()}, where=f"{path}: priors")


def _check_knob(name: str, *, where: str, also: Sequence[str] = ()) -> None:
    """Raises SpaceError if `name` is no knob and not one of `also`."""
    known = [*KNOBS, *also]
    if name not in known:
        near = suggestion(name, known) or ALL_KNOBS
        raise SpaceError(f"{where}: unknown knob {name!r}{near}")


def _check_condition(condition: Condition, *, where: str) -> None:
    """Raises SpaceError if `condition` names an unknown knob, or can never hold."""
    for name, allowed in condition.items():
        _check_knob(name, where=where, also=tuple(CONTEXT_VALUES))
        if isinstance(allowed, Bound):
            _check_bound(name, allowed, where=where)
        elif not allowed:
            raise SpaceError(f"{where}: {name} has an empty list, so the condition never holds")
        else:
            for value in allowed:
                check_value(name, value, where=where)


def _check_bound(name: str, bound: Bound, *, where: str) -> None:
    """Raises SpaceError if no value of `name` can be within `bound`."""
    if name in CONTEXT_VALUES or KNOBS[name].type is not int:
        known = CONTEXT_VALUES[name] if name in CONTEXT_VALUES else KNOBS[name].allowed
        named = f"{name} must be one of {_listed(known)}" if known else f"{name} has no bounds"
        raise SpaceError(f"{where}: {named}; min and max are for whole numbers")
    low, high = bound.min, bound.max
    if low is None and high is None:
        raise SpaceError(f"{where}: {name}: give min, max or both")
    if high is not None and high < max(KNOBS[name].minimum, -MAX_NUMBER if low is None else low):
        least = f"min {low}" if low is not None and high < low else f"{KNOBS[name].minimum}"
        raise SpaceError(f"{where}: {name}: max {high} is below {least}; no value is within")


def check_value(name: str, value: object, *, where: str) -> None:
    """Raises SpaceError if the knob `name` (or `objective` or `vnni`) cannot have `value`.

    `where` begins the message.
    """
    got = f"got {as_read(value)}"
    known = CONTEXT_VALUES[name] if name in CONTEXT_VALUES else KNOBS[name].allowed
    if known is not None:
        if not any(type(value) is type(one) and value == one for one in known):
            near = suggestion(value, map(str, known)) if isinstance(value, str) else ""
            raise SpaceError(f"{where}: {name} must be one of {_listed(known)}; {got}{near}")
        return
    knob = KNOBS[name]
    if type(value) is not knob.type:
        raise SpaceError(f"{where}: {name} must be {_type_name(knob.type)}, {got}")
    if isinstance(value, int) and knob.type is int and not knob.minimum <= value <= MAX_NUMBER:
        bound = f"least {knob.minimum}" if value < knob.minimum else f"most {MAX_NUMBER}"
        raise SpaceError(f"{where}: {name} must be at {bound}, {got}")


def _listed(values: Sequence[object]) -> str:
    """The values of a knob as a file writes them."""
    return ", ".join(str(one).lower() if isinstance(one, bool) else str(one) for one in values)


def _type_name(kind: type) -> str:
    return {bool: "true or false", int: "a whole number", str: "text"}[kind]


def parse_overrides(settings: Sequence[str]) -> dict[str, list[Value]]:
    """Parse `--set KNOB=VALUE[,VALUE...]` into knob -> values. Raises SpaceError."""
    parsed: dict[str, list[Value]] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not text:
            raise SpaceError(f"--set takes KNOB=VALUE[,VALUE...], got {setting!r}")
        _check_knob(name, where=f"--set {setting}")
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
    if kind is int and PLAIN_NUMBER.fullmatch(text) and len(text) < 12:
        return int(text)
    return text
