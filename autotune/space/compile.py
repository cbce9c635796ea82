"""From a space file to the space of this host, stack, model and command line.

Here `auto` is expanded, what cannot run is left out, and what was asked for but cannot be
honoured is refused.
"""

from __future__ import annotations

import collections
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from autotune.shared.errors import SpaceError
from autotune.shared.records import Config
from autotune.space.file import BESIDE, OBJECTIVE, VNNI, Bound, SpaceFile, Value
from autotune.space.knobs import KNOBS, active
from autotune.space.space import Dimension, Space

Modes = Mapping[str, Mapping[str, Mapping[str, str | None]]]
"""stack -> mode -> precision -> None (it runs) or why not: `StackFacts.modes` of each stack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What `auto` and availability depend on."""

    cores: int
    attentions: tuple[str, ...]
    modes: Modes
    objective: str
    nodes: int = 1  # NUMA nodes
    vnni: bool = True  # whether the CPU sums int8 products without saturating
    # knob -> value -> why it cannot be had here
    missing: Mapping[str, Mapping[Value, str]] = field(default_factory=dict)


def _counts(cores: int) -> list[Value]:
    powers = [1 << i for i in range(cores.bit_length()) if 1 << i <= cores]
    return [*dict.fromkeys([*powers, cores])]


def auto_choices(name: str, surroundings: Surroundings) -> list[Value]:
    """What `auto` means here. Raises SpaceError for a knob that does not know it."""
    if name == "stack":
        return list(surroundings.modes)
    if name in ("threads", "instances"):
        return _counts(surroundings.cores)
    if name == "pinning":
        return ["none", "compact", *(["spread"] if surroundings.nodes > 1 else [])]
    if name == "attention":
        return list(surroundings.attentions)
    if name == "batch_size":
        return [1] if surroundings.objective == "latency" else [1, 2, 4, 8, 16, 32]
    knob = KNOBS[name]
    if knob.allowed is not None:
        return [v for v in knob.allowed if v not in surroundings.missing.get(name, {})]
    if knob.type is bool:
        return [False, True]
    raise SpaceError(f"{name} has no auto choices; list them")


def default_values(surroundings: Surroundings) -> dict[str, Value]:
    """Every knob's value where nothing is said: what the user has today."""
    return {
        **{name: knob.default for name, knob in KNOBS.items() if knob.default is not None},
        "mode": "eager",
        "precision": "fp32",
        "attention": surroundings.attentions[0],
        "threads": surroundings.cores,
        "batch_size": 1 if surroundings.objective == "latency" else 8,
        "padding": "max_length",
    }


def baseline(surroundings: Surroundings) -> Config:
    """What the user has today: eager, float32, the Trainer's batch and padding, all cores."""
    return complete(surroundings, {})


def complete(surroundings: Surroundings, wanted: Mapping[str, Value]) -> Config:
    """The configuration with `wanted`, and the defaults of the knobs that these make active.

    A wanted knob that they leave inactive is not in it.
    """
    chosen = {**default_values(surroundings), **wanted}
    values: dict[str, Value] = {}
    for name, knob in KNOBS.items():
        if active(knob, values):
            values[name] = chosen[name]
    return Config.of(values)


def compile_space(
    space: SpaceFile,
    surroundings: Surroundings,
    *,
    overrides: Mapping[str, list[Value]] | None = None,
    dropped: Sequence[str] = (),
    first: Sequence[Config] = (),
) -> Space:
    """The space as it is on this host and stack, narrowed by the command line.

    `first` are configurations to try before the priors of the file, as near as this space
    has them.

    Raises SpaceError: a value this host rules out, a mode asked for on the command line that
    cannot run here, a condition that looks ahead, or nothing left to try.
    """
    overrides = overrides or {}
    defaults = default_values(surroundings)
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
        for parent, allowed in knob.needs.items():
            when.setdefault(parent, list(allowed))
        for parent in when:
            if parent not in BESIDE and parent not in {d.name for d in dimensions}:
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
        cores=surroundings.cores,
        beside={OBJECTIVE: surroundings.objective, VNNI: surroundings.vnni},
        defaults=defaults,
        unavailable=_unavailable(space, dimensions, surroundings),
    )
    _check_satisfiable(compiled)
    fitted = (
        compiled.fit({name: value for name, value in prior.items() if name not in BESIDE})
        for prior in space.priors
        if all(prior.get(name, here) == here for name, here in compiled.beside.items())
    )
    seeded = (
        compiled.fit({k: v for k, v in config.values if not isinstance(v, float)})
        for config in first
    )
    priors = dict.fromkeys(c for c in (*seeded, *fitted) if c is not None)
    return replace(compiled, priors=tuple(priors))


def _possible(
    name: str, choices: list[Value], surroundings: Surroundings, *, asked: bool
) -> list[Value]:
    """The choices this host, model and stacks allow. Raises SpaceError."""
    cores = surroundings.cores
    if name in ("threads", "instances"):
        over = [value for value in choices if int(value) > cores]
        if over:
            raise SpaceError(
                f"{name} must be at most the {cores} cores this process may use, "
                f"got {over[0]}; lower it, or use {name}: auto"
            )
    missing = surroundings.missing.get(name, {})
    if any(value in missing for value in choices):
        kept = [value for value in choices if value not in missing]
        if asked or not kept:
            value = next(value for value in choices if value in missing)
            raise SpaceError(f"{name}={value} cannot be had here: {missing[value]}")
        return kept
    if name == "stack":
        unknown = [value for value in choices if value not in surroundings.modes]
        if unknown:
            raise SpaceError(
                f"stack must be one of {', '.join(surroundings.modes)}, got {unknown[0]}; "
                "name others with --stack NAME=PYTHON"
            )
    if name == "attention":
        fitting: list[Value] = [value for value in choices if value in surroundings.attentions]
        if asked and len(fitting) < len(choices):
            raise SpaceError(
                f"attention must be one of {', '.join(surroundings.attentions)} for this model"
            )
        return fitting or list(surroundings.attentions[:1])
    if name == "mode":
        return _possible_modes(choices, surroundings, asked=asked)
    if name == "batch_size" and surroundings.objective == "latency" and not asked:
        return [1]
    return choices


def _possible_modes(
    choices: list[Value], surroundings: Surroundings, *, asked: bool
) -> list[Value]:
    """The modes that run at some precision on some stack."""
    kept: list[Value] = []
    for mode in choices:
        reasons = [
            reason
            for modes in surroundings.modes.values()
            for reason in modes.get(str(mode), {}).values()
        ]
        if any(reason is None for reason in reasons):
            kept.append(mode)
        elif asked or len(choices) == 1:
            raise SpaceError(
                f"mode {mode} cannot run here: {next(iter(reasons), 'unknown to this stack')}"
            )
    return kept


def _unavailable(
    space: SpaceFile, dimensions: Sequence[Dimension], surroundings: Surroundings
) -> dict[str, str]:
    """What the space asks for and no stack here can run, and process settings not to be had."""
    values = {dimension.name: dimension.choices for dimension in dimensions}
    spec = space.knobs.get("mode")
    wanted = spec.choices if spec is not None and isinstance(spec.choices, list) else values["mode"]
    found: dict[str, str] = {}
    for mode in wanted:
        per_precision: dict[str, list[str | None]] = collections.defaultdict(list)
        for modes in surroundings.modes.values():
            for precision, reason in modes.get(str(mode), {}).items():
                per_precision[precision].append(reason)
        for precision, reasons in per_precision.items():
            if precision in values["precision"] and None not in reasons:
                found[f"{mode} {precision}"] = str(reasons[0])
    for name, missing in surroundings.missing.items():
        named = space.knobs.get(name)
        if named is not None:
            asked = named.choices if isinstance(named.choices, list) else list(missing)
            found.update({f"{name}={v}": why for v, why in missing.items() if v in asked})
    return found


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
