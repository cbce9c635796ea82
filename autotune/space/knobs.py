"""The knobs there are: what each means, when it is fixed, and what it may be.

A search space (`autotune.space`) chooses among these; adding a knob starts here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from autotune.shared.padding import PADDINGS
from autotune.shared.records import DEFAULT_STACK, Config

Kind = Literal["process", "engine", "point"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """`process` knobs are fixed when a worker starts, `engine` knobs when it prepares the
    model, `point` knobs at each pass."""

    name: str
    kind: Kind
    type: type[bool] | type[int] | type[str]
    about: str
    allowed: tuple[str, ...] | None = None  # of a str knob; None: checked elsewhere
    minimum: int = 1  # of an int knob
    default: bool | int | str | None = None  # None: the baseline's value
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The knob is active only where each of these has one of these values."""
    minor: bool = False
    """Taken to be worth a few percent of speed, until a search's trials say more."""


TORCH_MODES = ("eager", "jit", "inductor", "zentorch")
IPEX_MODES = ("ipex", "ipex_jit")
EXPORTING_MODES = ("onnxruntime", "openvino")
"""Those that run a file of their own, and need no torch once it has been written."""
COUNTED = tuple(padding for padding in PADDINGS if padding != "token_budget")

KNOBS: dict[str, Knob] = {
    knob.name: knob
    for knob in (
        Knob(
            name="stack",
            kind="process",
            type=str,
            default=DEFAULT_STACK,
            about="the interpreter that runs the model, by the name --stack gave it",
        ),
        Knob(
            name="threads",
            kind="process",
            type=int,
            about="intra-op threads of a worker (OMP_NUM_THREADS)",
        ),
        Knob(
            name="instances",
            kind="process",
            type=int,
            default=1,
            about="workers side by side, which share the batches of a pass; throughputs are added",
        ),
        Knob(
            name="pinning",
            kind="process",
            type=str,
            allowed=("none", "compact", "spread"),
            default="none",
            minor=True,
            about="none: all allowed CPUs; else a physical core a thread, on neighbouring cores "
            "(compact) or on NUMA nodes in turn (spread), threads bound to them",
        ),
        Knob(
            name="openmp",
            kind="process",
            type=str,
            allowed=("default", "gnu", "intel"),
            default="default",
            minor=True,
            about="OpenMP runtime: that of torch's wheel, the system's libgomp, Intel's libiomp5",
        ),
        Knob(
            name="omp_wait",
            kind="process",
            type=str,
            allowed=("default", "passive", "active"),
            default="default",
            minor=True,
            about="what idle OpenMP threads do: OMP_WAIT_POLICY, for Intel's KMP_BLOCKTIME too",
        ),
        Knob(
            name="allocator",
            kind="process",
            type=str,
            allowed=("default", "jemalloc", "tcmalloc"),
            default="default",
            minor=True,
            about="malloc: the C library's, or one preloaded with its known good settings",
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
            about="the engine that runs the model",
        ),
        Knob(
            name="precision",
            kind="engine",
            type=str,
            allowed=("fp32", "bf16_matmul", "bf16", "int8_dynamic", "int8_static"),
            about="what the matrix products are computed in",
        ),
        Knob(
            name="attention",
            kind="engine",
            type=str,
            allowed=("sdpa", "eager"),
            default="sdpa",
            about="transformers' attn_implementation",
        ),
        Knob(
            name="bf16_method",
            kind="engine",
            type=str,
            allowed=("autocast", "full"),
            default="autocast",
            needs={"mode": TORCH_MODES, "precision": ("bf16",)},
            about="autocast: --bf16 of the Trainer; full: --bf16_full_eval, the whole model",
        ),
        Knob(
            name="linear",
            kind="engine",
            type=str,
            allowed=("torch", "onednn", "onednn_fused"),
            default="torch",
            needs={"mode": ("eager", "jit"), "precision": ("fp32", "bf16")},
            about="Linear as torch runs it, or through oneDNN, weights packed once (GELU fused)",
        ),
        Knob(
            name="auto_kernel_selection",
            kind="engine",
            type=bool,
            default=False,
            needs={"mode": IPEX_MODES, "precision": ("fp32",)},
            about="IPEX: oneDNN instead of MKL for float32 Linear where it judges it faster",
        ),
        Knob(
            name="int8_weights",
            kind="engine",
            type=str,
            allowed=("per_tensor", "per_channel"),
            default="per_channel",
            needs={"mode": ("eager", "jit", "onnxruntime"), "precision": ("int8_dynamic",)},
            about="one scale for all of a layer's weights, or one an output channel",
        ),
        Knob(
            name="int8_rest",
            kind="engine",
            type=str,
            allowed=("fp32", "bf16"),
            default="fp32",
            needs={"mode": ("ipex_jit", "openvino"), "precision": ("int8_static", "int8_dynamic")},
            about="what the operators that are not int8 are computed in",
        ),
        Knob(
            name="dynamic_shapes",
            kind="engine",
            type=bool,
            default=True,
            needs={"mode": ("inductor", "zentorch")},
            about="one compiled graph for every shape, or one a shape",
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
            allowed=PADDINGS,
            about="how rows are grouped and padded, see autotune.shared.padding.plan",
        ),
        Knob(
            name="batch_size",
            kind="point",
            type=int,
            needs={"padding": COUNTED},
            about="model inputs in a batch",
        ),
        Knob(
            name="bucket_step",
            kind="point",
            type=int,
            minimum=8,
            default=64,
            needs={"padding": ("buckets",)},
            about="widths are rounded up to a multiple of this",
        ),
        Knob(
            name="batch_tokens",
            kind="point",
            type=int,
            minimum=16,
            default=1024,
            needs={"padding": ("token_budget",)},
            about="padded tokens a batch may have",
        ),
    )
}


def names(kind: Kind) -> frozenset[str]:
    return frozenset(knob.name for knob in KNOBS.values() if knob.kind == kind)


def active(knob: Knob, values: Mapping[str, object]) -> bool:
    """Whether a configuration with these values has `knob`."""
    return all(values.get(name) in allowed for name, allowed in knob.needs.items())


def describe(config: Config) -> str:
    """A configuration in one line for people: `ipex_jit bf16, 2 threads, batch 8 …`.

    What has its default is left out.
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
            parts.append(name if value is True else f"{name}={_plain(value)}")
    return ", ".join(parts)


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
