"""From a space file to the space of this host, stack, model and command line.

Here `auto` is expanded, what cannot run is left out, and what was asked for but cannot be
honoured is refused.
"""

from __future__ import annotations

import collections
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from autotune.errors import SpaceError
from autotune.knobs import KNOBS
from autotune.records import Config
from autotune.space.file import OBJECTIVE, Bound, SpaceFile, Value
from autotune.space.space import Dimension, Space


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What `auto` and availability depend on."""

    cores: int
    attentions: tuple[str, ...]
    modes: Mapping[str, Mapping[str, str | None]]  # as records.StackFacts.modes
    objective: str


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
    return replace(compiled, priors=priors)


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
