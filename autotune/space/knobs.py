"""All knobs: what each one means, when it is fixed, and which values it may have.

A search space chooses among these knobs. To add a knob, start here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from autotune.shared.axes import WIDTH
from autotune.shared.errors import SpaceError
from autotune.shared.padding import PADDINGS
from autotune.shared.records import DEFAULT_STACK, Config
from autotune.space.surroundings import Surroundings, Value

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
    return [1] if surroundings.objective == "latency" and not asked else choices


TORCH_MODES = ("eager", "jit", "inductor", "zentorch")
IPEX_MODES = ("ipex", "ipex_jit")
EXPORTING_MODES = ("onnxruntime", "openvino")
"""Modes that export the model to a file. Afterwards they need no torch."""
PADDINGS_WITH_BATCH_SIZE = tuple(padding for padding in PADDINGS if padding != "token_budget")
"""Paddings whose batches have a fixed number of inputs."""

KNOBS: dict[str, Knob] = {
    knob.name: knob
    for knob in (
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
            about="intra-op threads of each worker (OMP_NUM_THREADS)",
        ),
        Knob(
            name="instances",
            kind="process",
            type=int,
            default=1,
            auto_here=_instances_here,
            limit=_at_most_cores("instances"),
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
            about="torch's inter-op threads",
        ),
        Knob(
            name="flush_denormals",
            kind="process",
            type=bool,
            default=False,
            minor=True,
            about="treat denormal numbers as zero",
        ),
        Knob(
            name="mode",
            kind="engine",
            type=str,
            allowed=(*TORCH_MODES, *IPEX_MODES, *EXPORTING_MODES),
            default_here=lambda here: "eager",
            limit=_modes_that_run,
            about="the engine that runs the model",
        ),
        Knob(
            name="precision",
            kind="engine",
            type=str,
            allowed=("fp32", "bf16_matmul", "bf16", "int8_dynamic", "int8_static"),
            default_here=lambda here: "fp32",
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
            about="transformers' attn_implementation",
        ),
        Knob(
            name="bf16_method",
            kind="engine",
            type=str,
            allowed=("autocast", "full"),
            default="autocast",
            needs={"mode": TORCH_MODES, "precision": ("bf16",)},
            about="autocast: the Trainer's --bf16; full (the whole model): its --bf16_full_eval",
        ),
        Knob(
            name="linear",
            kind="engine",
            type=str,
            allowed=("torch", "onednn", "onednn_fused"),
            default="torch",
            needs={"mode": ("eager", "jit"), "precision": ("fp32", "bf16")},
            about="Linear as in torch, or in oneDNN with weights packed once (fused: with GELU)",
        ),
        Knob(
            name="auto_kernel_selection",
            kind="engine",
            type=bool,
            default=False,
            needs={"mode": IPEX_MODES, "precision": ("fp32",)},
            about="IPEX may run float32 Linear in oneDNN instead of MKL if it expects more speed",
        ),
        Knob(
            name="int8_weights",
            kind="engine",
            type=str,
            allowed=("per_tensor", "per_channel"),
            default="per_channel",
            needs={"mode": ("eager", "jit", "onnxruntime"), "precision": ("int8_dynamic",)},
            about="one scale for all weights of a layer, or one scale for each output channel",
        ),
        Knob(
            name="int8_rest",
            kind="engine",
            type=str,
            allowed=("fp32", "bf16"),
            default="fp32",
            needs={"mode": ("ipex_jit", "openvino"), "precision": ("int8_static", "int8_dynamic")},
            about="data type of the operators that are not int8",
        ),
        Knob(
            name="dynamic_shapes",
            kind="engine",
            type=bool,
            default=True,
            needs={"mode": ("inductor", "zentorch")},
            about="one compiled graph for all shapes, or one graph for each shape",
        ),
        Knob(
            name="max_autotune",
            kind="engine",
            type=bool,
            default=False,
            needs={"mode": ("inductor",)},
            about="inductor times its own kernels against the library's for each matrix product",
        ),
        Knob(
            name="graph_optimization",
            kind="engine",
            type=str,
            allowed=("all", "extended", "basic", "none"),
            default="all",
            needs={"mode": ("onnxruntime",)},
            minor=True,
            about="ONNX Runtime's graph optimisation level",
        ),
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
            default_here=lambda here: 1 if here.objective == "latency" else 8,
            auto_here=lambda here: [1] if here.objective == "latency" else [1, 2, 4, 8, 16, 32],
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
}


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
    values = config.as_dict()
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
