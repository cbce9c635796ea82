"""Search spaces: a YAML file -> the configurations a study may try.

The format is described in docs/search-spaces.md. A file names choices; what depends on the
machine (`auto`) and what this stack cannot run is settled by `compile_space`.
"""

from __future__ import annotations

import collections
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from autotune.errors import SpaceError
from autotune.knobs import KNOBS
from autotune.records import Config, Scalar

MAX_CHOICES = 1000
MAX_FILE_BYTES = 1 << 20
FORMAT_VERSION = 1
OBJECTIVE = "objective"  # may stand in conditions beside the knobs

Value = bool | int | str


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What `auto` and availability depend on."""

    cores: int
    attentions: tuple[str, ...]
    modes: Mapping[str, Mapping[str, str | None]]  # as records.StackFacts.modes
    objective: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One searched knob. Active where every condition of `when` holds."""

    name: str
    choices: tuple[Value, ...]
    when: Mapping[str, list[Value] | Bound]


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The configurations of one study. Dimensions are ordered: conditions look back only."""

    dimensions: tuple[Dimension, ...]
    constraints: tuple[Constraint, ...]
    modes: Mapping[str, Mapping[str, str | None]]
    objective: str
    defaults: Mapping[str, Value]
    priors: tuple[Config, ...] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)  # "mode precision" -> why

    def build(self, choose: Callable[[Dimension], Value]) -> Config:
        """The configuration that picks `choose(dimension)` for each active dimension."""
        values: dict[str, Value] = {}
        for dimension in self.dimensions:
            if self._holds(dimension.when, values):
                values[dimension.name] = choose(dimension)
        return Config.of(values)

    def _holds(self, condition: Condition | Mapping[str, Any], values: Mapping[str, Value]) -> bool:
        for knob, allowed in condition.items():
            value = self.objective if knob == OBJECTIVE else values.get(knob)
            if value is None:
                return False
            if not (allowed.holds(value) if isinstance(allowed, Bound) else value in allowed):
                return False
        return True

    def violation(self, config: Config) -> str | None:
        """Why `config` may not run: the first constraint it violates. None where it may."""
        values = config.as_dict()
        mode, precision = str(values["mode"]), str(values["precision"])
        offered = self.modes.get(mode, {})
        if precision not in offered:
            return f"{mode} does not offer {precision}"
        if offered[precision] is not None:
            return str(offered[precision])
        for constraint in self.constraints:
            if self._holds(constraint.forbid, values):  # type: ignore[arg-type]
                return f"{constraint.name}: {constraint.because}".rstrip(": ")
        return None

    def fit(self, wanted: Mapping[str, Value]) -> Config | None:
        """The nearest configuration to `wanted`; None where constraints rule it out.

        A knob it does not name has its default; a value the space does not hold (narrowed on
        the command line, say) becomes the knob's first choice.
        """
        values = {**self.defaults, **wanted}
        config = self.build(lambda dimension: _nearest(dimension, values))
        return config if self.violation(config) is None else None

    def contains(self, config: Config) -> bool:
        """Whether the study could have asked for `config`."""
        values = config.as_dict()
        try:
            built = self.build(lambda dimension: _member(dimension, values))
        except KeyError:
            return False
        return built == config and self.violation(config) is None

    def neighbours(self, config: Config, knobs: frozenset[str]) -> list[Config]:
        """Combinations that differ from `config` in one of `knobs` (and what depends on it).

        Numbers move to the next choice up or down, other values to any choice.
        """
        values = {**self.defaults, **config.as_dict()}
        found: list[Config] = []
        for dimension in self.dimensions:
            if dimension.name not in knobs or dimension.name not in config:
                continue
            here = dimension.choices.index(_member(dimension, config.as_dict()))
            for index, choice in enumerate(dimension.choices):
                numeric = type(choice) is int
                if index == here or (numeric and abs(index - here) > 1):
                    continue
                changed = {**values, dimension.name: choice}
                found.append(self.build(lambda d, c=changed: _nearest(d, c)))  # type: ignore[misc]
        return found

    def sample(self, rng: random.Random) -> Config:
        """One configuration, each active dimension uniform; constraints not applied."""
        return self.build(lambda dimension: rng.choice(dimension.choices))

    def combinations(self) -> Iterator[Config]:
        """Every combination of choices, in the order of the file; constraints not applied."""

        def expand(index: int, values: dict[str, Value]) -> Iterator[Config]:
            if index == len(self.dimensions):
                yield Config.of(values)
                return
            dimension = self.dimensions[index]
            if not self._holds(dimension.when, values):
                yield from expand(index + 1, values)
                return
            for choice in dimension.choices:
                yield from expand(index + 1, {**values, dimension.name: choice})

        return expand(0, {})

    def configs(self) -> Iterator[Config]:
        """Every allowed configuration."""
        return (config for config in self.combinations() if self.violation(config) is None)

    def count(self, most: int) -> int:
        """How many configurations are allowed, counting among the first `most` combinations."""
        looked_at = itertools.islice(self.combinations(), most)
        return sum(self.violation(config) is None for config in looked_at)


def _nearest(dimension: Dimension, values: Mapping[str, Any]) -> Value:
    value: Value = values[dimension.name]
    return value if value in dimension.choices else dimension.choices[0]


def _member(dimension: Dimension, values: Mapping[str, Scalar]) -> Value:
    value = values[dimension.name]
    if value not in dimension.choices:
        raise KeyError(dimension.name)
    assert isinstance(value, bool | int | str)
    return value


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
            if name not in KNOBS and name != OBJECTIVE:
                raise SpaceError(f"{path}: {where}: unknown knob {name!r}; known knobs: {known}")
    for prior in space.priors:
        for name, value in prior.items():
            if name == OBJECTIVE:
                continue
            if name not in KNOBS:
                raise SpaceError(f"{path}: priors: unknown knob {name!r}; known knobs: {known}")
            check_value(name, value, where=f"{path}: priors")


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


def auto_choices(name: str, surroundings: Surroundings) -> list[Value]:
    """What `auto` means here. Raises SpaceError for a knob that does not know it."""
    if name == "threads":
        cores = surroundings.cores
        powers = [1 << i for i in range(cores.bit_length()) if 1 << i <= cores]
        return [*dict.fromkeys([*powers, cores])]
    if name == "attention":
        return list(surroundings.attentions)
    if name == "batch_size":
        return [1] if surroundings.objective == "latency" else [1, 2, 4, 8, 16, 32]
    knob = KNOBS[name]
    if knob.allowed is not None:
        return list(knob.allowed)
    if knob.type is bool:
        return [False, True]
    raise SpaceError(f"{name} has no auto choices; list them")


def baseline(surroundings: Surroundings) -> Config:
    """What the user has today: eager, float32, the Trainer's batch and padding, all cores."""
    return Config.of(
        {
            "mode": "eager",
            "precision": "fp32",
            "attention": surroundings.attentions[0],
            "threads": surroundings.cores,
            "pinning": "none",
            "batch_size": 1 if surroundings.objective == "latency" else 8,
            "padding": "max_length",
        }
    )


def compile_space(
    space: SpaceFile,
    surroundings: Surroundings,
    *,
    overrides: Mapping[str, list[Value]] | None = None,
    dropped: Sequence[str] = (),
) -> Space:
    """The space as it is on this host and stack, narrowed by the command line.

    Raises SpaceError: a value this host rules out, a mode asked for on the command line that
    cannot run here, a condition that looks ahead, or nothing left to try.
    """
    overrides = overrides or {}
    defaults: dict[str, Value] = {
        **{k: v for k, v in baseline(surroundings).values if isinstance(v, bool | int | str)},
        "bf16_method": "autocast",
        "auto_kernel_selection": False,
        "bucket_step": 64,
    }
    for name in dropped:
        if name not in KNOBS:
            raise SpaceError(f"--drop {name}: unknown knob; known knobs: {', '.join(KNOBS)}")
        if name in overrides:
            raise SpaceError(f"--drop {name} and --set {name} contradict each other")
    dimensions: list[Dimension] = []
    # Knobs come in the registry's order, so that every condition looks back.
    for name, knob in KNOBS.items():
        spec = space.knobs.get(name)
        if name in overrides:
            choices = overrides[name]
        elif spec is None or name in dropped:
            choices = [defaults[name]]
        elif spec.range is not None:
            choices = spec.range.values()
        elif spec.choices == "auto":
            choices = auto_choices(name, surroundings)
        else:
            assert isinstance(spec.choices, list)
            choices = [*dict.fromkeys(spec.choices)]
        choices = _possible(name, choices, surroundings, asked=name in overrides)
        when: dict[str, list[Value] | Bound] = dict(spec.when) if spec else {}
        if knob.needs is not None:
            when.setdefault(knob.needs[0], list(knob.needs[1]))
        for parent in when:
            if parent != OBJECTIVE and parent not in {d.name for d in dimensions}:
                raise SpaceError(
                    f"knobs.{name}.when: {parent} is decided after {name}; turn the condition "
                    "around or use a constraint"
                )
        dimensions.append(Dimension(name=name, choices=tuple(choices), when=when))
    if surroundings.objective == "latency" and overrides.get("batch_size", [1]) != [1]:
        raise SpaceError("--objective latency runs one example at a time; drop --set batch_size")
    compiled = Space(
        dimensions=tuple(dimensions),
        constraints=tuple(space.constraints),
        modes=surroundings.modes,
        objective=surroundings.objective,
        defaults=defaults,
        unavailable=_unavailable(surroundings.modes),
    )
    _check_satisfiable(compiled)
    fitted = (
        compiled.fit({name: value for name, value in prior.items() if name != OBJECTIVE})
        for prior in space.priors
        if prior.get(OBJECTIVE, surroundings.objective) == surroundings.objective
    )
    priors = tuple(dict.fromkeys(config for config in fitted if config is not None))
    return Space(**{**_fields(compiled), "priors": priors})


def _fields(space: Space) -> dict[str, Any]:
    return {name: getattr(space, name) for name in space.__slots__}


def _possible(
    name: str, choices: list[Value], surroundings: Surroundings, *, asked: bool
) -> list[Value]:
    """The choices this host, model and stack allow. Raises SpaceError."""
    if name == "threads":
        over = [value for value in choices if int(value) > surroundings.cores]
        if over:
            raise SpaceError(
                f"threads must be at most the {surroundings.cores} cores this process may use, "
                f"got {over[0]}; lower it, or use threads: auto"
            )
    if name == "attention":
        fitting: list[Value] = [value for value in choices if value in surroundings.attentions]
        if asked and len(fitting) < len(choices):
            raise SpaceError(
                f"attention must be one of {', '.join(surroundings.attentions)} for this model"
            )
        return fitting or list(surroundings.attentions[:1])
    if name == "mode":
        kept: list[Value] = []
        for mode in choices:
            reasons = surroundings.modes.get(str(mode), {})
            if any(reason is None for reason in reasons.values()):
                kept.append(mode)
            elif asked or len(choices) == 1:
                reason = next(iter(reasons.values()), "unknown to this stack")
                raise SpaceError(f"mode {mode} cannot run here: {reason}")
        return kept
    if name == "batch_size" and surroundings.objective == "latency" and not asked:
        return [1]
    return choices


def _unavailable(modes: Mapping[str, Mapping[str, str | None]]) -> dict[str, str]:
    return {
        f"{mode} {precision}": reason
        for mode, precisions in modes.items()
        for precision, reason in precisions.items()
        if reason is not None
    }


def _check_satisfiable(space: Space, tries: int = 20_000) -> None:
    """Raises SpaceError where no configuration is allowed, naming what is most in the way.

    The first combinations are tried in order, then random ones: in a space too large to go
    through, constraints that leave one in thousands count as leaving none.
    """
    rng = random.Random(0)
    sampled = (space.sample(rng) for _ in range(tries))
    reasons: collections.Counter[str] = collections.Counter()
    for config in itertools.chain(itertools.islice(space.combinations(), tries), sampled):
        reason = space.violation(config)
        if reason is None:
            return
        reasons[reason] += 1
    worst = reasons.most_common(1)[0][0] if reasons else "a knob without values"
    raise SpaceError(f"no configuration satisfies the search space; most often in the way: {worst}")
