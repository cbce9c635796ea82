"""Turn a space file into the search space of this host, stack, model and command line.

This module expands `auto` and leaves out values that cannot run here. It raises an error if the
command line asks for such a value.
"""

from __future__ import annotations

import collections
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from autotune.shared.errors import SpaceError
from autotune.shared.records import Config
from autotune.shared.words import suggestion
from autotune.space.file import CONTEXT_VALUES, Bound, KnobSpec, SpaceFile
from autotune.space.knobs import ALL_KNOBS, KNOBS, Knob, available, is_active, runs_one_by_one
from autotune.space.space import Dimension, Space
from autotune.space.surroundings import OBJECTIVE, VNNI, Surroundings, Value

MAX_TRIED = 20_000
"""How many combinations, in order and then again at random, are tried to find an allowed one."""


def default_values(surroundings: Surroundings) -> dict[str, Value]:
    """The default of every knob. Knobs that the baseline has default to its values."""
    knobs = available(surroundings)
    return {name: knob.default_for(surroundings) for name, knob in knobs.items()}


def baseline(surroundings: Surroundings) -> Config:
    """The user's present setup: eager, float32, all cores, the Trainer's batch and padding."""
    return complete(surroundings, {})


def dynamic_baseline(surroundings: Surroundings) -> Config:
    """The baseline with dynamic padding: each batch is as wide as its longest row, rows in the
    dataset's order. `pipeline()` and DataCollatorWithPadding do this. Without a width, it is the
    baseline."""
    return complete(surroundings, {"padding": "longest"})


def by_length(baseline: Config) -> Config:
    """The baseline with rows of like length together: the same answers in less time, if the model
    answers a padded row as it answers the row alone."""
    padding = {"padding": "length_sorted"} if "padding" in baseline else {}
    return Config.of({**baseline, **padding})


def complete(surroundings: Surroundings, wanted: Mapping[str, Value]) -> Config:
    """The configuration with the `wanted` values and defaults for the other active knobs.

    A wanted knob that is inactive with these values is left out.
    """
    chosen = {**default_values(surroundings), **wanted}
    values: dict[str, Value] = {}
    for name, knob in available(surroundings).items():
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
    """The search space on this host and stack, narrowed by the command line.

    `overrides` are the choices of `--set`, `dropped` the knobs of `--drop`. The configurations
    `first` are tried before the priors of the file. Each becomes the nearest configuration of
    this space.

    Raises SpaceError if this host rules out a value, if the command line asks for a mode that
    cannot run here, if a condition names a later knob, or if no configuration is allowed.
    """
    overrides = overrides or {}
    _check_dropped(dropped, overrides)
    knobs = available(surroundings)
    _check_available(knobs, {"--set": overrides, "--drop": dropped, "the space's": space.knobs})
    defaults = default_values(surroundings)
    dimensions: list[Dimension] = []
    # In the order of KNOBS, so that every condition names earlier knobs.
    for name, knob in knobs.items():
        spec, asked = space.knobs.get(name), name in overrides
        if asked:
            choices = overrides[name]
        elif spec is None or name in dropped:
            choices = [defaults[name]]
        else:
            choices = _listed_values(spec, knob, surroundings)
        choices = knob.possible(choices, surroundings, asked=asked)
        when = _condition(spec, knob, decided={d.name for d in dimensions})
        dimensions.append(Dimension(name=name, choices=tuple(choices), when=when))
    _check_latency_batch(surroundings, overrides)
    compiled = Space(
        dimensions=tuple(dimensions),
        constraints=tuple(space.constraints),
        modes=surroundings.modes,
        cores=surroundings.cores,
        context={OBJECTIVE: surroundings.objective, VNNI: surroundings.vnni},
        defaults=defaults,
        unavailable=_unavailable_values(space, dimensions, surroundings),
    )
    _check_satisfiable(compiled)
    priors = dict.fromkeys([*_fitted_configs(compiled, first), *_fitted_priors(compiled, space)])
    return replace(compiled, priors=tuple(priors))


def _check_dropped(dropped: Sequence[str], overrides: Mapping[str, list[Value]]) -> None:
    """Raises SpaceError if `--drop` names an unknown knob, or one that `--set` also names."""
    for name in dropped:
        if name not in KNOBS:
            near = suggestion(name, KNOBS) or ALL_KNOBS
            raise SpaceError(f"--drop {name}: unknown knob{near}")
        if name in overrides:
            raise SpaceError(f"--drop {name} and --set {name} contradict each other")


def _check_available(knobs: Mapping[str, Knob], named: Mapping[str, Iterable[str]]) -> None:
    """Raises SpaceError if a knob is named that the model's inputs give no meaning."""
    for where, names in named.items():
        for name in names:
            if name not in knobs:
                raise SpaceError(
                    f"{where} {name}: the inputs of this task have no {KNOBS[name].axis}; leave "
                    f"{name} out"
                )


def _check_latency_batch(surroundings: Surroundings, overrides: Mapping[str, list[Value]]) -> None:
    """Raises SpaceError if `--set` asks for batches although the objective runs single rows."""
    if runs_one_by_one(surroundings) and overrides.get("batch_size", [1]) != [1]:
        raise SpaceError(
            f"--objective {surroundings.objective} runs one example at a time; "
            "drop --set batch_size"
        )


def _fitted_configs(compiled: Space, configs: Sequence[Config]) -> Iterator[Config]:
    """For each of `configs` the nearest allowed configuration of the space, if there is one."""
    for config in configs:
        # The values of knobs are never floats.
        wanted = {name: value for name, value in config.items() if not isinstance(value, float)}
        fitted = compiled.fit(wanted)
        if fitted is not None:
            yield fitted


def _fitted_priors(compiled: Space, file: SpaceFile) -> Iterator[Config]:
    """The nearest allowed configurations to the file's priors for this objective and CPU."""
    for prior in file.priors:
        if any(prior.get(name, here) != here for name, here in compiled.context.items()):
            continue
        knobs = {name: value for name, value in prior.items() if name not in CONTEXT_VALUES}
        fitted = compiled.fit(knobs)
        if fitted is not None:
            yield fitted


def _listed_values(spec: KnobSpec, knob: Knob, surroundings: Surroundings) -> list[Value]:
    """The values that the space file gives the knob, with `auto` and ranges expanded."""
    if spec.range is not None:
        return spec.range.values()
    if spec.choices == "auto":
        return knob.auto(surroundings)
    assert isinstance(spec.choices, list)
    return [*dict.fromkeys(spec.choices)]


def _condition(
    spec: KnobSpec | None, knob: Knob, *, decided: set[str]
) -> dict[str, list[Value] | Bound]:
    """The condition under which the knob is active: the file's `when` and the knob's own needs.

    Raises SpaceError if the condition names a knob that is not `decided` yet.
    """
    when: dict[str, list[Value] | Bound] = dict(spec.when) if spec else {}
    for parent, allowed in knob.needs.items():
        when.setdefault(parent, list(allowed))
    for parent in when:
        if parent not in CONTEXT_VALUES and parent not in decided:
            raise SpaceError(
                f"knobs.{knob.name}.when: {parent} is decided after {knob.name}; turn the "
                "condition around or use a constraint"
            )
    return when


def _unavailable_values(
    space: SpaceFile, dimensions: Sequence[Dimension], surroundings: Surroundings
) -> dict[str, str]:
    """Values that the space file asks for but that are not available here, with the reason.

    The keys are "mode precision" if no stack runs that pair, or "knob=value".
    """
    choices = {dimension.name: dimension.choices for dimension in dimensions}
    spec = space.knobs.get("mode")
    listed = spec.choices if spec is not None else None
    found: dict[str, str] = {}
    if listed == "auto":
        listed = list(KNOBS["mode"].allowed or ())
    for mode in listed if isinstance(listed, list) else choices["mode"]:
        reasons_by_precision: dict[str, list[str | None]] = collections.defaultdict(list)
        for modes in surroundings.modes.values():
            for precision, reason in modes.get(str(mode), {}).items():
                reasons_by_precision[precision].append(reason)
        for precision, reasons in reasons_by_precision.items():
            if precision in choices["precision"] and None not in reasons:
                found[f"{mode} {precision}"] = str(reasons[0])
    for name, missing in surroundings.missing.items():
        named = space.knobs.get(name)
        if named is not None:
            asked = named.choices if isinstance(named.choices, list) else list(missing)
            found.update({f"{name}={v}": why for v, why in missing.items() if v in asked})
    return found


def _check_satisfiable(space: Space) -> None:
    """Raises SpaceError if no configuration is allowed, and names the most frequent reason.

    The first MAX_TRIED combinations are tried in order, then MAX_TRIED random ones. A huge space
    whose constraints allow only one combination in many thousands may therefore be refused.
    """
    rng = random.Random(0)
    sampled = (space.sample(rng) for _ in range(MAX_TRIED))
    reasons: collections.Counter[str] = collections.Counter()
    for config in itertools.chain(itertools.islice(space.combinations(), MAX_TRIED), sampled):
        reason = space.violation(config)
        if reason is None:
            return
        reasons[reason] += 1
    commonest = reasons.most_common(1)[0][0] if reasons else "a knob has no values"
    raise SpaceError(
        f"no configuration satisfies the search space; the most frequent reason is: {commonest}"
    )
