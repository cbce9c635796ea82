"""Loading a transformers model and giving it a precision: what all torch engines share."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from autotune.shared.errors import TrialFailure
from autotune.shared.records import ModelSource, Scalar
from autotune.worker.batches import Batch
from autotune.worker.engines import linear
from autotune.worker.engines.base import TOLERANCE, Material
from autotune.worker.slim import transformers


def load(source: ModelSource, attention: str | None = None) -> tuple[Any, list[str]]:
    """The model in float32 and evaluation mode, and the weights its checkpoint lacks.

    Raises TrialFailure `unsupported` where the model has no such attention implementation,
    and whatever transformers raises for a model it cannot find.
    """
    quiet()
    # transformers 5 calls the argument `dtype` and takes the checkpoint's by default.
    dtype_name = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    arguments: dict[str, Any] = {
        dtype_name: torch.float32,
        "revision": source.revision,
        "trust_remote_code": source.trust_remote_code,
        "output_loading_info": True,
    }
    if not source.allow_pickle:
        arguments["use_safetensors"] = True
    if attention is not None:
        arguments["attn_implementation"] = attention
    head = getattr(transformers, source.head)
    try:
        model, info = head.from_pretrained(source.path, **arguments)
    except ValueError as error:
        if attention is not None and "attention" in str(error).lower():
            raise TrialFailure("unsupported", f"attention={attention}: {error}") from error
        raise
    if attention is not None and model.config._attn_implementation != attention:
        raise TrialFailure(
            "fallback", f"asked for {attention} attention, got {model.config._attn_implementation}"
        )
    return model.eval(), sorted(info["missing_keys"])


SIMULATED = 0.5
"""The same for int8 kernels made from a module that simulates them in float32: enough to see a
graph that is wrong for other shapes; the gate judges the rest."""


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    """A batch as torch takes it, sharing its memory."""
    return {name: torch.from_numpy(array) for name, array in batch.items()}


@dataclass(frozen=True, slots=True)
class Runnable:
    """A model at its precision, and the context its forward pass needs."""

    model: Any  # called with tensors by name, returns outputs by name
    outputs: tuple[str, ...]
    context: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext

    def __call__(self, batch: Batch) -> list[npt.NDArray[np.float32]]:
        with torch.no_grad(), self.context():
            outputs = self.model(**tensors(batch))
            return [outputs[name].float().numpy() for name in self.outputs]


def autocast() -> AbstractContextManager[Any]:
    """bfloat16 autocast without its weight cache, which breaks tracing (torch 2.8 to 2.13)."""
    return torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False)


def dynamic(samples: Sequence[Batch]) -> dict[str, Any]:
    """What `torch.export` is told of the shapes of `Positional`'s tensors: any number of rows,
    any width up to that of the widest sample."""
    widest = max(rows["attention_mask"].shape[1] for rows in samples)
    shape = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("width", min=2, max=widest)}
    return {"tensors": tuple(shape for _ in samples[0])}


class Positional(torch.nn.Module):
    """A model with tensors in a fixed order in and a tuple out, for exporters."""

    def __init__(self, model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, tuple(inputs), tuple(outputs)
        self.eval()  # exporters put a model back into the mode of its outermost module

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.model(**dict(zip(self.inputs, tensors, strict=True)))
        return tuple(found[name] for name in self.outputs)


def at_precision(
    model: torch.nn.Module, material: Material, options: Mapping[str, Scalar]
) -> Runnable:
    """Apply the precision of `options` to a float32 model with torch's own means.

    bf16 with `bf16_method: autocast` keeps weights, normalisation and softmax in float32
    (Trainer's `--bf16`); `full` converts the whole model (`--bf16_full_eval`). bf16_matmul
    keeps float32 everywhere except inside matrix products. int8_dynamic replaces each Linear
    by one with int8 weights, activations quantised per batch. `linear: onednn` sends Linear
    through oneDNN, `onednn_fused` the GELU behind it too.
    """
    precision, outputs = options["precision"], tuple(material.source.outputs)
    context: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    if precision == "bf16_matmul":
        torch.set_float32_matmul_precision("medium")
    elif precision == "bf16":
        if options["bf16_method"] == "full":
            model = model.to(torch.bfloat16)
        else:
            context = autocast
    elif precision == "int8_dynamic":
        linear.quantize_linears(
            model,
            per_channel=options["int8_weights"] == "per_channel",
            reduce_range=not material.vnni,
        )
    elif precision != "fp32":
        raise TrialFailure("unsupported", f"precision {precision!r} is not one of torch's own")
    runnable = Runnable(model, outputs, context)
    kind = options.get("linear", "torch")
    if kind != "torch":
        linear.through_onednn(model, torch.bfloat16 if precision == "bf16" else torch.float32)
    if kind == "onednn_fused":
        before = {id(batch): runnable(batch) for batch in material.samples}
        with torch.no_grad(), context():
            fused = linear.fuse(model, tensors(material.samples[0]))
        if not fused:
            raise TrialFailure("fallback", "no GELU alone behind a Linear: nothing was fused")
        compare(
            lambda batch: before[id(batch)], runnable, material.samples, TOLERANCE[str(precision)]
        )
    return runnable


def compare(
    reference: Callable[[Batch], Sequence[npt.NDArray[np.float32]]],
    candidate: Callable[[Batch], Sequence[npt.NDArray[np.float32]]],
    samples: Sequence[Batch],
    tolerance: float,
) -> float:
    """Largest difference over all samples, relative to the reference's largest logit.

    Raises TrialFailure `inaccurate` with the shape where it exceeds `tolerance`.
    """
    worst = 0.0
    for batch in samples:
        shape = batch["attention_mask"].shape
        real = batch["attention_mask"].astype(bool)
        for expected, actual in zip(reference(batch), candidate(batch), strict=True):
            if actual.shape != expected.shape:
                raise TrialFailure(
                    "inaccurate",
                    f"output has shape {actual.shape}, eager {expected.shape}, on batch {shape}",
                )
            if expected.shape[:2] == real.shape:  # what padding tokens get is nobody's answer
                expected, actual = expected[real], actual[real]
            scale = max(float(np.abs(expected).max()), 1.0)
            difference = float(np.abs(actual - expected).max()) / scale
            worst = max(worst, difference)
            if not difference <= tolerance:
                raise TrialFailure(
                    "inaccurate",
                    f"differs from eager by {difference:.2g} (limit {tolerance:.2g}) on a batch "
                    f"of shape {shape}: the prepared graph is not valid for other shapes",
                )
    return worst


def quiet() -> None:
    """Keep the libraries' progress bars and repeated advice out of the worker's log."""
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
