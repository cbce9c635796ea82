"""The knobs there are: what each means, when it is fixed, and what it may be.

A search space (`autotune.space`) chooses among these; adding a knob starts here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from autotune.records import Config

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
    needs: tuple[str, tuple[str, ...]] | None = None  # active only where that knob has a value


KNOBS: dict[str, Knob] = {
    knob.name: knob
    for knob in (
        Knob(
            name="threads",
            kind="process",
            type=int,
            about="intra-op threads of the worker (OMP_NUM_THREADS)",
        ),
        Knob(
            name="pinning",
            kind="process",
            type=str,
            allowed=("none", "compact"),
            about="none: all allowed CPUs; compact: one CPU a thread, neighbouring cores",
        ),
        Knob(
            name="mode",
            kind="engine",
            type=str,
            allowed=("eager", "jit", "ipex", "ipex_jit"),
            about="the engine that runs the model",
        ),
        Knob(
            name="precision",
            kind="engine",
            type=str,
            allowed=("fp32", "bf16", "int8_dynamic"),
            about="what the matrix products are computed in",
        ),
        Knob(
            name="attention",
            kind="engine",
            type=str,
            allowed=("sdpa", "eager"),
            about="transformers' attn_implementation",
        ),
        Knob(
            name="bf16_method",
            kind="engine",
            type=str,
            allowed=("autocast", "full"),
            needs=("precision", ("bf16",)),
            about="autocast: --bf16 of the Trainer; full: --bf16_full_eval, the whole model",
        ),
        Knob(
            name="auto_kernel_selection",
            kind="engine",
            type=bool,
            needs=("mode", ("ipex", "ipex_jit")),
            about="IPEX: oneDNN instead of MKL for float32 Linear where it judges it faster",
        ),
        Knob(name="batch_size", kind="point", type=int, about="model inputs in a batch"),
        Knob(
            name="padding",
            kind="point",
            type=str,
            allowed=("max_length", "longest", "length_sorted", "buckets"),
            about="how rows are grouped and padded, see autotune.worker.batches.plan",
        ),
        Knob(
            name="bucket_step",
            kind="point",
            type=int,
            minimum=8,
            needs=("padding", ("buckets",)),
            about="widths are rounded up to a multiple of this",
        ),
    )
}


def names(kind: Kind) -> frozenset[str]:
    return frozenset(knob.name for knob in KNOBS.values() if knob.kind == kind)


def describe(config: Config) -> str:
    """A configuration in one line for people: `ipex_jit bf16 sdpa, 2 threads, batch 8 …`."""
    values = config.as_dict()
    words = [str(values.pop(k)) for k in ("mode", "precision") if k in values]
    threads = values.pop("threads", None)
    batch = values.pop("batch_size", None)
    padding = values.pop("padding", None)
    step = values.pop("bucket_step", None)
    extras = []
    for name, value in values.items():
        if isinstance(value, bool):
            extras.extend([name] if value else [])
        elif (name, value) != ("pinning", "none"):
            extras.append(f"{name}={value}")
    parts = [" ".join(words)]
    if threads is not None:
        parts.append(f"{threads} thread{'s' if threads != 1 else ''}")
    if batch is not None:
        parts.append(f"batch {batch}")
    if padding is not None:
        parts.append(f"{padding}" + (f" {step}" if step is not None else ""))
    return ", ".join(parts + extras)
