"""All knobs: what each one means, when it is fixed, and which values it may have.

A search space chooses among these knobs. To add a knob, start here. The knobs of single engines
come from the engines' descriptors, those of other packages too: importing this module reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from autotune.shared import engines
from autotune.shared.axes import WIDTH
from autotune.shared.engine import EngineDescriptor
from autotune.shared.errors import SpaceError
from autotune.shared.objectives import OBJECTIVES
from autotune.shared.options import Option
from autotune.shared.padding import PADDINGS
from autotune.shared.plugins import warn
from autotune.shared.precisions import BASELINE as BASELINE_PRECISION
from autotune.shared.precisions import known_precisions
from autotune.shared.records import DEFAULT_STACK, Config
from autotune.space.surroundings import OBJECTIVE, VNNI, Surroundings, Value

Kind = Literal["process", "engine", "point"]

Limit = Callable[[list[Value], Surroundings, bool], list[Value]]
"""(choices, surroundings, asked) -> the choices that are available.

`asked` says that the command line named the choices. An unavailable value then raises SpaceError
instead of being dropped.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """One parameter that a search may change.

    A worker fixes the `process` knobs when it starts, and the `engine` knobs when it prepares the
    model. Each pass may have other `point` knobs.
    """

    name: str
    kind: Kind
    type: type[bool] | type[int] | type[str]
    about: str
    allowed: tuple[str, ...] | None = None  # values of a str knob; None: `limit` checks them
    minimum: int = 1  # smallest value of an int knob
    default: bool | int | str | None = None  # None: `default_here` computes it
    default_here: Callable[[Surroundings], Value] | None = None
    """Computes the baseline's value if that depends on the surroundings. Overrides `default`."""
    auto_here: Callable[[Surroundings], Sequence[Value]] | None = None
    """Computes the choices of `auto`. None: every allowed value that is not missing."""
    limit: Limit | None = None
    """Drops or refuses choices by a rule of this knob. None: only missing values are dropped."""
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other knob -> values. This knob is active only if each other knob has one of its values."""
    axis: str | None = None
    """The knob exists only if the model's inputs have this axis. None: it always exists."""
    minor: bool = False
    """The search assumes that the knob changes speed by a few percent, until trials show more."""
    holds_precision: bool = False
    """Its values are precisions, which the engine must be able to run too."""
    variable: str | None = None
    """The environment variable of a worker that has the knob's value, unless that is "default"."""
    set_by_worker: bool = False
    """The worker sets it by a call of torch (`set_torch_knobs`), before it prepares the engine."""
    script: str | None = None
    """What Hugging Face's script does instead, or how to do it there, for a value other than the
    default. None: a flag or a variable stands for the knob, or there is nothing to say."""

    def default_for(self, surroundings: Surroundings) -> Value:
        """The value of this knob in the baseline, the setup that the user has today."""
        if self.default_here is not None:
            return self.default_here(surroundings)
        assert self.default is not None
        return self.default

    @property
    def has_auto(self) -> bool:
        """Whether the knob has choices that `auto` stands for."""
        return self.auto_here is not None or self.allowed is not None or self.type is bool

    def auto(self, surroundings: Surroundings) -> list[Value]:
        """The choices that `auto` stands for. Raises SpaceError if the knob has no `auto`."""
        if self.auto_here is not None:
            return list(self.auto_here(surroundings))
        if self.allowed is not None:
            missing = surroundings.missing.get(self.name, {})
            return [value for value in self.allowed if value not in missing]
        if self.type is bool:
            return [False, True]
        raise SpaceError(f"{self.name} has no auto choices; list them")

    def possible(
        self, choices: list[Value], surroundings: Surroundings, *, asked: bool
    ) -> list[Value]:
        """The `choices` that this host, its stacks and the model allow.

        Missing values are dropped. A missing value raises SpaceError if the command line `asked`
        for the choices, or if no other choice remains.
        """
        missing = surroundings.missing.get(self.name, {})
        refused = [value for value in choices if value in missing]
        if refused:
            kept = [value for value in choices if value not in missing]
            if asked or not kept:
                value = refused[0]
                raise SpaceError(f"{self.name}={value} is not available here: {missing[value]}")
            choices = kept
        return choices if self.limit is None else self.limit(choices, surroundings, asked)


def _instances_here(surroundings: Surroundings) -> list[int]:
    """1, 2, 4, ... and the number of sockets, of NUMA nodes and of cores, in ascending order."""
    cores = surroundings.cores
    powers = (1 << i for i in range(cores.bit_length()))
    counts = {*powers, surroundings.sockets, surroundings.nodes, cores}
    return sorted(count for count in counts if count <= cores)


def _threads_here(surroundings: Surroundings) -> list[int]:
    """The same numbers, and for each number of instances the most threads that fit the cores."""
    cores, counts = surroundings.cores, _instances_here(surroundings)
    return sorted({*counts, *(cores // count for count in counts)})


def _at_most_cores(name: str) -> Limit:
    """A limit that refuses numbers of `name` (threads or instances) above the number of cores."""

    def limit(choices: list[Value], surroundings: Surroundings, asked: bool) -> list[Value]:
        cores = surroundings.cores
        over = [value for value in choices if int(value) > cores]
        if over:
            raise SpaceError(
                f"{name} must be at most the {cores} cores this process may use, "
                f"got {over[0]}; lower it, or use {name}: auto"
            )
        return choices

    return limit


def _known_stacks(choices: list[Value], surroundings: Surroundings, asked: bool) -> list[Value]:
    """All `choices`. Raises SpaceError if one of them names no stack."""
    unknown = [value for value in choices if value not in surroundings.modes]
    if unknown:
        raise SpaceError(
            f"stack must be one of {', '.join(surroundings.modes)}, got {unknown[0]}; "
            "add another with --stack NAME=PYTHON"
        )
    return choices


def _attentions_that_load(
    choices: list[Value], surroundings: Surroundings, asked: bool
) -> list[Value]:
    """The attentions that the model has; if it has none of the `choices`, its first one."""
    fitting: list[Value] = [v for v in choices if v in surroundings.attentions]
    if asked and len(fitting) < len(choices):
        raise SpaceError(
            f"attention must be one of {', '.join(surroundings.attentions)} for this model"
        )
    return fitting or list(surroundings.attentions[:1])


def _modes_that_run(choices: list[Value], surroundings: Surroundings, asked: bool) -> list[Value]:
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


def _one_by_one_for_latency(
    choices: list[Value], surroundings: Surroundings, asked: bool
) -> list[Value]:
    """Batch size 1 for latency, which is measured one example at a time.

    If the command line asks for another size, `compile_space` refuses it.
    """
    return [1] if runs_one_by_one(surroundings) and not asked else choices


def runs_one_by_one(surroundings: Surroundings) -> bool:
    """Whether the objective is measured one example at a time."""
    return OBJECTIVES[surroundings.objective].one_by_one


def _option_knob(option: Option, known: Mapping[str, EngineDescriptor]) -> Knob:
    """The knob of an engine option. It is active for the engines and precisions that take it."""
    needs = {"mode": tuple(name for name, one in known.items() if option in one.options)}
    if option.precisions:
        needs["precision"] = tuple(one.name for one in option.precisions)
    return Knob(
        name=option.name,
        kind="engine",
        type=type(option.default),
        allowed=option.allowed,
        default=option.default,
        needs=needs,
        minor=option.minor,
        about=option.about,
        script=option.script,
        holds_precision=option.holds_precision,
    )


def _option_knobs(known: Mapping[str, EngineDescriptor]) -> list[Knob]:
    """The knobs of all engine options.

    An option of another package is left out, with a warning, if a knob has its name, or if
    conditions mean something else by its name.
    """
    found = []
    for option in engines.options_of(known):
        if option.name in _OWN_KNOBS or option.name in (OBJECTIVE, VNNI):
            for name, one in known.items():
                if option in one.options and one.file is not None:
                    user = "a knob has" if option.name in _OWN_KNOBS else "conditions use"
                    reason = f"the option {option.name} is left out, since {user} this name"
                    warn(engines.GROUP, name, one.file.distribution, reason)
        else:
            found.append(_option_knob(option, known))
    return found


SCRIPT_BATCH_SIZE = 8
"""The batch size of Hugging Face's scripts and of the baseline, in rows."""
_ENGINES = engines.known_engines()
PADDINGS_WITH_BATCH_SIZE = tuple(padding for padding in PADDINGS if padding != "token_budget")
"""Paddings whose batches have a fixed number of inputs."""

_BEFORE_OPTIONS = (
    Knob(
        name="stack",
        kind="process",
        type=str,
        default=DEFAULT_STACK,
        auto_here=lambda here: list(here.modes),
        limit=_known_stacks,
        about="name of the Python interpreter that runs the model, as given to --stack",
    ),
    Knob(
        name="threads",
        kind="process",
        type=int,
        default_here=lambda here: here.cores,
        auto_here=_threads_here,
        limit=_at_most_cores("threads"),
        variable="OMP_NUM_THREADS",
        set_by_worker=True,
        about="intra-op threads of each worker (OMP_NUM_THREADS)",
    ),
    Knob(
        name="instances",
        kind="process",
        type=int,
        default=1,
        auto_here=_instances_here,
        limit=_at_most_cores("instances"),
        script="start one script for each part of the data",
        about="workers side by side. They share the batches of a pass; throughputs are added",
    ),
    Knob(
        name="pinning",
        kind="process",
        type=str,
        allowed=("none", "compact", "spread"),
        default="none",
        minor=True,
        auto_here=lambda here: ["none", "compact", *(["spread"] if here.nodes > 1 else [])],
        script="start the script under taskset",
        about="none: threads may use all allowed CPUs. Otherwise each thread is bound to its "
        "own physical core: on neighbouring cores (compact), or on NUMA nodes in turn (spread)",
    ),
    Knob(
        name="openmp",
        kind="process",
        type=str,
        allowed=("default", "gnu", "intel"),
        default="default",
        minor=True,
        about="OpenMP runtime: from torch's wheel, the system's libgomp, or Intel's libiomp5",
    ),
    Knob(
        name="omp_wait",
        kind="process",
        type=str,
        allowed=("default", "passive", "active"),
        default="default",
        minor=True,
        variable="OMP_WAIT_POLICY",
        about="how idle OpenMP threads wait: OMP_WAIT_POLICY, and KMP_BLOCKTIME for Intel's",
    ),
    Knob(
        name="allocator",
        kind="process",
        type=str,
        allowed=("default", "jemalloc", "tcmalloc"),
        default="default",
        minor=True,
        about="malloc: the C library's, or a preloaded allocator with its recommended settings",
    ),
    Knob(
        name="huge_pages",
        kind="process",
        type=bool,
        default=False,
        needs={"allocator": ("default", "jemalloc")},
        minor=True,
        about="ask for transparent huge pages through the allocator's own settings",
    ),
    Knob(
        name="interop_threads",
        kind="process",
        type=int,
        default=1,
        minor=True,
        set_by_worker=True,
        script="the script has no such flag",
        about="torch's inter-op threads",
    ),
    Knob(
        name="flush_denormals",
        kind="process",
        type=bool,
        default=False,
        minor=True,
        set_by_worker=True,
        script="the script has no such flag",
        about="treat denormal numbers as zero",
    ),
    Knob(
        name="mode",
        kind="engine",
        type=str,
        allowed=tuple(_ENGINES),
        default_here=lambda here: engines.BASELINE.name,
        limit=_modes_that_run,
        about="the engine that runs the model",
    ),
    Knob(
        name="precision",
        kind="engine",
        type=str,
        allowed=tuple(known_precisions()),
        default_here=lambda here: BASELINE_PRECISION.name,
        about="data type of the matrix products",
    ),
    Knob(
        name="attention",
        kind="engine",
        type=str,
        allowed=("sdpa", "eager"),
        default="sdpa",
        default_here=lambda here: here.attentions[0],
        auto_here=lambda here: here.attentions,
        limit=_attentions_that_load,
        script="the script uses the model's default",
        about="transformers' attn_implementation",
    ),
)
_AFTER_OPTIONS = (
    Knob(
        name="padding",
        kind="point",
        type=str,
        axis=WIDTH,
        allowed=PADDINGS,
        default_here=lambda here: "max_length",
        about="how rows are grouped and padded, see autotune.shared.padding.plan",
    ),
    Knob(
        name="batch_size",
        kind="point",
        type=int,
        needs={"padding": PADDINGS_WITH_BATCH_SIZE},
        default_here=lambda here: 1 if runs_one_by_one(here) else SCRIPT_BATCH_SIZE,
        auto_here=lambda here: [1] if runs_one_by_one(here) else [1, 2, 4, 8, 16, 32],
        limit=_one_by_one_for_latency,
        about="model inputs in a batch",
    ),
    Knob(
        name="bucket_step",
        kind="point",
        type=int,
        axis=WIDTH,
        minimum=8,
        default=64,
        needs={"padding": ("buckets",)},
        about="padded widths are rounded up to a multiple of this number of tokens",
    ),
    Knob(
        name="batch_tokens",
        kind="point",
        type=int,
        axis=WIDTH,
        minimum=16,
        default=1024,
        needs={"padding": ("token_budget",)},
        about="largest number of padded tokens in a batch",
    ),
)
_OWN_KNOBS = frozenset(knob.name for knob in (*_BEFORE_OPTIONS, *_AFTER_OPTIONS))
KNOBS: dict[str, Knob] = {
    knob.name: knob for knob in (*_BEFORE_OPTIONS, *_option_knobs(_ENGINES), *_AFTER_OPTIONS)
}
"""All knobs by name. A knob stands below the knobs that it needs."""
ALL_KNOBS = f"; autotune spaces show qa lists all {len(KNOBS)}"
"""The end of a message that refuses an unknown knob that is like no known one."""


def names(kind: Kind) -> frozenset[str]:
    """The names of all knobs of this kind."""
    return frozenset(knob.name for knob in KNOBS.values() if knob.kind == kind)


def available(surroundings: Surroundings) -> dict[str, Knob]:
    """The knobs that exist for the axes of the model's inputs, in the order of KNOBS.

    A knob needs nothing of a knob that does not exist.
    """
    found = {name: knob for name, knob in KNOBS.items() if knob.axis in (None, *surroundings.axes)}
    return {
        name: replace(knob, needs={n: v for n, v in knob.needs.items() if n in found})
        for name, knob in found.items()
    }


def is_active(knob: Knob, values: Mapping[str, object]) -> bool:
    """Whether `knob` is active in a configuration with these values."""
    return all(values.get(name) in allowed for name, allowed in knob.needs.items())


def describe(config: Config) -> str:
    """A configuration in one line for people: `ipex_jit bf16, 2 threads, batch 8 …`.

    Most knobs are left out if they have their default.
    """
    values = dict(config)
    words = [str(values.pop(k)) for k in ("mode", "precision") if k in values]
    threads, instances = values.pop("threads", None), values.pop("instances", 1)
    batch, tokens = values.pop("batch_size", None), values.pop("batch_tokens", None)
    padding, step = values.pop("padding", None), values.pop("bucket_step", None)
    parts = [" ".join(words)]
    if threads is not None:
        parts.append(f"{threads} thread{'s' if threads != 1 else ''}")
    if instances != 1:
        parts[-1] = f"{instances} instances of {parts[-1]}"
    if batch is not None:
        parts.append(f"batch {batch}")
    if padding is not None:
        extra = step if step is not None else tokens
        parts.append(f"{padding}" + (f" {extra}" if extra is not None else ""))
    for name, value in values.items():
        if name not in KNOBS or value != KNOBS[name].default:
            parts.append(name if value is True else f"{name}={_yaml_word(value)}")
    return ", ".join(parts)


def _yaml_word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
