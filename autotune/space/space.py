"""The configurations that a search may try: conditions, constraints, neighbours, enumeration."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from autotune.shared.precisions import known_precisions
from autotune.shared.records import Config, Scalar
from autotune.space.file import Bound, Condition, Constraint
from autotune.space.knobs import KNOBS
from autotune.space.surroundings import Modes, Value

PRECISION_KNOBS = tuple(name for name, knob in KNOBS.items() if knob.holds_precision)
"""Knobs whose values are precisions that the engine must be able to run too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One knob with its choices. The knob is active if every condition of `when` holds."""

    name: str
    choices: tuple[Value, ...]
    when: Mapping[str, list[Value] | Bound]


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The configurations of one search.

    Dimensions are ordered: the conditions of a dimension name earlier dimensions only.
    """

    dimensions: tuple[Dimension, ...]
    constraints: tuple[Constraint, ...]
    modes: Modes
    cores: int
    context: Mapping[str, Value]  # objective and vnni, which conditions may name besides knobs
    defaults: Mapping[str, Value]
    priors: tuple[Config, ...] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)
    """Pairs "mode precision" and values "knob=value" -> why they are not available here."""

    def build(self, choose: Callable[[Dimension], Value]) -> Config:
        """The configuration that picks `choose(dimension)` for each active dimension."""
        values: dict[str, Value] = {}
        for dimension in self.dimensions:
            if self._holds(dimension.when, values):
                values[dimension.name] = choose(dimension)
        return Config.of(values)

    def _holds(self, condition: Condition | Mapping[str, Any], values: Mapping[str, Value]) -> bool:
        """Whether each knob in `condition` is active in `values` with one of its values."""
        for knob, allowed in condition.items():
            value = values[knob] if knob in values else self.context.get(knob)
            if value is None:
                return False
            if not (allowed.holds(value) if isinstance(allowed, Bound) else value in allowed):
                return False
        return True

    def violation(self, config: Config) -> str | None:
        """The first reason why `config` may not run, or None if it may."""
        stack, mode = str(config["stack"]), str(config["mode"])
        precision, offered = str(config["precision"]), self.modes[stack].get(mode, {})
        if precision not in offered:
            return f"{mode} does not offer {precision}"
        if offered[precision] is not None:
            return str(offered[precision])
        for name in PRECISION_KNOBS:
            other = config.get(name)
            if other is not None and offered.get(str(other)) is not None:
                return f"{name}={other}: {offered[str(other)]}"
        used = int(config["threads"]) * int(config["instances"])
        if used > self.cores:
            return f"instances x threads must fit {self.cores} cores"
        for constraint in self.constraints:
            if self._holds(constraint.forbid, config):
                return f"{constraint.name}: {constraint.because}".rstrip(": ")
        return None

    def fit(self, wanted: Mapping[str, Value]) -> Config | None:
        """The nearest configuration to `wanted`, or None if constraints rule it out.

        A knob that `wanted` does not name has its default. If `wanted` names instances but no
        threads, the instances share the cores.

        The command line may have removed a wanted value from the space. A number then becomes
        the nearest choice, and a precision the fastest one that the mode runs. Any other value
        becomes the knob's first choice. A precision of a knob such as `int8_rest` that the mode
        cannot run becomes the default.
        """
        values = {**self.defaults, **wanted}
        if "instances" in wanted and "threads" not in wanted:
            instances = _nearest_choice(self._dimension("instances"), values)
            values["threads"] = self._most_threads(int(instances))
        precisions, choices = [values["precision"]], self._dimension("precision").choices
        if values["precision"] not in choices:
            by_speed = reversed(list(known_precisions()))
            precisions = [precision for precision in by_speed if precision in choices]
        tries: list[dict[str, Any]] = [{"precision": precision} for precision in precisions]
        for name in PRECISION_KNOBS:
            wished = dict.fromkeys([values.get(name), self.defaults.get(name)])
            tries = [{**tried, name: value} for tried in tries for value in wished]
        for tried in tries:
            config = self.build(partial(_nearest_choice, values={**values, **tried}))
            if self.violation(config) is None:
                return config
        return None

    def contains(self, config: Config) -> bool:
        """Whether `config` is an allowed configuration of the space."""
        try:
            built = self.build(partial(_exact_choice, values=config))
        except KeyError:
            return False
        return built == config and self.violation(config) is None

    def neighbours(self, config: Config, knobs: frozenset[str]) -> list[Config]:
        """Combinations that differ from `config` in one of `knobs` and the knobs that depend on it.

        A number moves to the next choice up or down, any other value to every other choice. A new
        number of instances also changes the threads of each, because instances share the cores.
        """
        values = {**self.defaults, **config}
        found: list[Config] = []
        for dimension in self.dimensions:
            if dimension.name not in knobs or dimension.name not in config:
                continue
            current = dimension.choices.index(_exact_choice(dimension, config))
            for index, choice in enumerate(dimension.choices):
                numeric = type(choice) is int
                if index == current or (numeric and abs(index - current) > 1):
                    continue
                changed = {**values, dimension.name: choice}
                if dimension.name == "instances":
                    changed["threads"] = self._most_threads(int(choice))
                found.append(self.build(partial(_nearest_choice, values=changed)))
        return found

    def _dimension(self, name: str) -> Dimension:
        """The dimension of the knob `name`."""
        return next(d for d in self.dimensions if d.name == name)

    def _most_threads(self, instances: int) -> int:
        """The largest choice of threads with which this number of instances fits the cores."""
        threads = self._dimension("threads").choices
        fitting = [int(t) for t in threads if int(t) * instances <= self.cores]
        return max(fitting, default=1)

    def sample(self, rng: random.Random) -> Config:
        """A random combination, uniform in each active dimension. Constraints are not applied."""
        return self.build(lambda dimension: rng.choice(dimension.choices))

    def combinations(self) -> Iterator[Config]:
        """Every combination of choices. Constraints are not applied.

        The last dimension changes fastest, and choices come in the order of the file.
        """

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
        """Every allowed configuration, or None if there are more than `most` combinations."""
        combinations = list(itertools.islice(self.combinations(), most + 1))
        if len(combinations) > most:
            return None
        return [config for config in combinations if self.violation(config) is None]

    def count(self, most: int) -> int:
        """How many of the first `most` combinations are allowed configurations."""
        combinations = itertools.islice(self.combinations(), most)
        return sum(self.violation(config) is None for config in combinations)


def _nearest_choice(dimension: Dimension, values: Mapping[str, Any]) -> Value:
    """The choice nearest to the dimension's value in `values`.

    For numbers, the nearest choice is the one with the nearest logarithm. Any other value that is
    no choice becomes the first choice.
    """
    value: Value = values[dimension.name]
    if value in dimension.choices:
        return value
    if type(value) is int:
        return min(dimension.choices, key=lambda choice: abs(math.log(int(choice) / value)))
    return dimension.choices[0]


def _exact_choice(dimension: Dimension, values: Mapping[str, Scalar]) -> Value:
    """The dimension's value in `values`. Raises KeyError if it is no choice."""
    value = values[dimension.name]
    if value not in dimension.choices or isinstance(value, float):
        raise KeyError(dimension.name)
    assert isinstance(value, bool | int | str)
    return value
