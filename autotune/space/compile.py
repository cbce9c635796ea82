"""From a space file to the space of this host, stack, model and command line.

Here `auto` is expanded, what cannot run is left out, and what was asked for but cannot be
honoured is refused.
"""

from __future__ import annotations

import collections
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from autotune.shared.errors import SpaceError
from autotune.shared.records import Config
from autotune.space.file import BESIDE, OBJECTIVE, VNNI, Bound, KnobSpec, SpaceFile
from autotune.space.knobs import KNOBS, Knob, is_active
from autotune.space.space import Dimension, Space
from autotune.space.surroundings import Surroundings, Value


def default_values(surroundings: Surroundings) -> dict[str, Value]:
    """Every knob's value where nothing is said: what the user has today."""
    return {name: knob.default_for(surroundings) for name, knob in KNOBS.items()}


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
        if is_active(knob, values):
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
        spec, asked = space.knobs.get(name), name in overrides
        if asked:
            choices = overrides[name]
        elif spec is None or name in dropped:
            choices = [defaults[name]]
        else:
            choices = _listed(spec, knob, surroundings)
        choices = knob.possible(choices, surroundings, asked=asked)
        when = _condition(spec, knob, decided={d.name for d in dimensions})
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


def _listed(spec: KnobSpec, knob: Knob, surroundings: Surroundings) -> list[Value]:
    """The values that the space file gives the knob, `auto` and ranges expanded."""
    if spec.range is not None:
        return spec.range.values()
    if spec.choices == "auto":
        return knob.auto(surroundings)
    assert isinstance(spec.choices, list)
    return [*dict.fromkeys(spec.choices)]


def _condition(
    spec: KnobSpec | None, knob: Knob, *, decided: set[str]
) -> dict[str, list[Value] | Bound]:
    """When the knob is active: the file's condition, and the knob's own needs.

    Raises SpaceError if the condition names a knob that is not `decided` yet.
    """
    when: dict[str, list[Value] | Bound] = dict(spec.when) if spec else {}
    for parent, allowed in knob.needs.items():
        when.setdefault(parent, list(allowed))
    for parent in when:
        if parent not in BESIDE and parent not in decided:
            raise SpaceError(
                f"knobs.{knob.name}.when: {parent} is decided after {knob.name}; turn the "
                "condition around or use a constraint"
            )
    return when


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
