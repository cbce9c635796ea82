"""The configurations a study may try: conditions, constraints, neighbours, enumeration."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from autotune.shared.records import Config, Scalar
from autotune.space.file import Bound, Condition, Constraint
from autotune.space.surroundings import Modes, Value

INT8_REST = "int8_rest"
"""The knob whose values are precisions: of the operators that are not int8."""
FASTEST = ("int8_static", "int8_dynamic", "bf16", "bf16_matmul", "fp32")
"""Precisions, the fastest first where a CPU has the instructions."""


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
    modes: Modes
    cores: int
    context: Mapping[str, Value]  # objective and vnni, which conditions may name besides knobs
    defaults: Mapping[str, Value]
    priors: tuple[Config, ...] = ()
    unavailable: Mapping[str, str] = field(
        default_factory=dict
    )  # "mode precision" or "knob=value" -> why

    def build(self, choose: Callable[[Dimension], Value]) -> Config:
        """The configuration that picks `choose(dimension)` for each active dimension."""
        values: dict[str, Value] = {}
        for dimension in self.dimensions:
            if self._holds(dimension.when, values):
                values[dimension.name] = choose(dimension)
        return Config.of(values)

    def _holds(self, condition: Condition | Mapping[str, Any], values: Mapping[str, Value]) -> bool:
        for knob, allowed in condition.items():
            value = values[knob] if knob in values else self.context.get(knob)
            if value is None:
                return False
            if not (allowed.holds(value) if isinstance(allowed, Bound) else value in allowed):
                return False
        return True

    def violation(self, config: Config) -> str | None:
        """Why `config` may not run: the first constraint it violates. None where it may."""
        values = config.as_dict()
        stack, mode = str(values["stack"]), str(values["mode"])
        precision, offered = str(values["precision"]), self.modes[stack].get(mode, {})
        if precision not in offered:
            return f"{mode} does not offer {precision}"
        if offered[precision] is not None:
            return str(offered[precision])
        rest = values.get(INT8_REST)
        if rest is not None and offered.get(str(rest)) is not None:
            return f"{INT8_REST}={rest}: {offered[str(rest)]}"
        used = int(values["threads"]) * int(values["instances"])
        if used > self.cores:
            return f"instances x threads must fit {self.cores} cores"
        for constraint in self.constraints:
            if self._holds(constraint.forbid, values):  # type: ignore[arg-type]
                return f"{constraint.name}: {constraint.because}".rstrip(": ")
        return None

    def fit(self, wanted: Mapping[str, Value]) -> Config | None:
        """The nearest configuration to `wanted`; None where constraints rule it out.

        A knob it does not name has its default. A value the space does not hold (narrowed on
        the command line, say) becomes the nearest number, the fastest precision that its mode
        runs, or the knob's first choice; an `int8_rest` that its mode cannot run here the default.
        Instances whose threads it does not name share the cores.
        """
        values = {**self.defaults, **wanted}
        if "instances" in wanted and "threads" not in wanted:
            instances = _nearest(self._dimension("instances"), values)
            values["threads"] = self._most_threads(int(instances))
        precisions, held = [values["precision"]], self._dimension("precision").choices
        if precisions[0] not in held:
            precisions = [precision for precision in FASTEST if precision in held]
        rests = dict.fromkeys([values.get(INT8_REST), self.defaults.get(INT8_REST)])
        for precision, rest in itertools.product(precisions, rests):
            own = {**values, "precision": precision, INT8_REST: rest}
            config = self.build(lambda dimension, own=own: _nearest(dimension, own))  # type: ignore[misc]
            if self.violation(config) is None:
                return config
        return None

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

        Numbers move to the next choice up or down, other values to any choice. Instances share
        the cores: with their number goes that of their threads.
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
                if dimension.name == "instances":
                    changed["threads"] = self._most_threads(int(choice))
                found.append(self.build(lambda d, c=changed: _nearest(d, c)))  # type: ignore[misc]
        return found

    def _dimension(self, name: str) -> Dimension:
        return next(d for d in self.dimensions if d.name == name)

    def _most_threads(self, instances: int) -> int:
        """The largest choice of threads with which so many instances fit the cores."""
        threads = self._dimension("threads").choices
        fitting = [int(t) for t in threads if int(t) * instances <= self.cores]
        return max(fitting, default=1)

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

    def whole(self, most: int) -> list[Config] | None:
        """Every allowed configuration, None where there are over `most` combinations to see."""
        combinations = list(itertools.islice(self.combinations(), most + 1))
        if len(combinations) > most:
            return None
        return [config for config in combinations if self.violation(config) is None]

    def count(self, most: int) -> int:
        """How many configurations are allowed, counting among the first `most` combinations."""
        looked_at = itertools.islice(self.combinations(), most)
        return sum(self.violation(config) is None for config in looked_at)


def _nearest(dimension: Dimension, values: Mapping[str, Any]) -> Value:
    value: Value = values[dimension.name]
    if value in dimension.choices:
        return value
    if type(value) is int:
        return min(dimension.choices, key=lambda choice: abs(math.log(int(choice) / value)))
    return dimension.choices[0]


def _member(dimension: Dimension, values: Mapping[str, Scalar]) -> Value:
    value = values[dimension.name]
    if value not in dimension.choices:
        raise KeyError(dimension.name)
    assert isinstance(value, bool | int | str)
    return value
