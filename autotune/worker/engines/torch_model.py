"""How all torch engines load a model, apply a precision and compare outputs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from autotune.shared.axes import BATCH, WIDTH, InputArray
from autotune.shared.errors import TrialFailure
from autotune.shared.precisions import precision_named
from autotune.shared.records import Config, ModelSource
from autotune.worker.batches import Batch
from autotune.worker.engines import linear
from autotune.worker.engines.base import Material
from autotune.worker.slim import transformers
from autotune.worker.work import work_named

CACHES = ("use_cache", "use_mems_eval")
"""Settings of a configuration that make a model keep keys and values for the next token. No task
reads a next token, and graphs cannot return such a cache."""


def load(
    source: ModelSource, attention: str | None = None, own_pad_token: int | None = None
) -> tuple[Any, list[str]]:
    """What is run, in float32 and evaluation mode, and the weights that its checkpoint lacks.

    That is the model of transformers, assembled by the work of `source`.

    `own_pad_token` replaces the padding token of the model's configuration (see `Features`).

    Raises TrialFailure `unsupported` if the model does not offer this attention implementation,
    and `fallback` if transformers chose another one. Raises whatever transformers raises for a
    model that it cannot load.
    """
    silence_transformers()
    # transformers 5 calls the argument `dtype`. Without it, the checkpoint's type would be used.
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
    config = transformers.AutoConfig.from_pretrained(
        source.path, revision=source.revision, trust_remote_code=source.trust_remote_code
    )
    for name in CACHES:
        if hasattr(config, name):
            setattr(config, name, False)
    if own_pad_token is not None:
        config.pad_token_id = own_pad_token
    try:
        model, info = _head(source, config).from_pretrained(source.path, config=config, **arguments)
    except ValueError as error:
        if attention is not None and "attention" in str(error).lower():
            raise TrialFailure("unsupported", f"attention={attention}: {error}") from error
        raise
    if attention is not None and model.config._attn_implementation != attention:
        raise TrialFailure(
            "fallback",
            f"transformers runs attention={model.config._attn_implementation}, "
            f"the configuration asks for attention={attention}",
        )
    keep_attention_type(model)
    assembled = work_named(source.work).assemble(model.eval(), source)
    return assembled, sorted(info["missing_keys"])


def keep_attention_type(model: torch.nn.Module) -> None:
    """Undo before each batch what the batch before changed in BigBird's attention.

    BigBird attends to blocks. At the first batch that is too short for blocks, it changes to full
    attention for ever, so the answers to long rows would depend on what ran before them.
    """
    changing: list[Any] = [m for m in model.modules() if hasattr(m, "set_attention_type")]
    parts = {id(part) for m in changing for part in m.modules() if part is not m}
    outermost = [(m, m.attention_type) for m in changing if id(m) not in parts]

    def restore(*_: object) -> None:
        for module, attention_type in outermost:
            module.set_attention_type(attention_type)

    if outermost:
        model.register_forward_pre_hook(restore)


def _head(source: ModelSource, config: Any) -> Any:
    """The transformers class that loads the model.

    For vectors of texts, an encoder-decoder is its encoder alone if transformers has such a class
    (T5): its decoder would need a text of its own.
    """
    if source.head == "AutoModel" and config.is_encoder_decoder:
        encoders = transformers.AutoModelForTextEncoding
        if type(config) in encoders._model_mapping:
            return encoders
    return getattr(transformers, source.head)


def load_for(material: Material, attention: str) -> Any:
    """The model of `material`, as `load` gives it."""
    return load(material.source, attention, material.own_pad_token)[0]


def as_tensors(batch: Batch, inputs: Sequence[str]) -> tuple[torch.Tensor, ...]:
    """The arrays `inputs` of `batch`, in that order, as tensors that share their memory."""
    return tuple(torch.from_numpy(batch[name]) for name in inputs)


@dataclass(frozen=True, slots=True)
class Runnable:
    """A model with a precision applied, and the context that its forward pass needs.

    `model` takes the tensors `inputs` by position and returns a tuple: a `Positional`, or a graph
    made from one.
    """

    model: Any
    inputs: tuple[str, ...]
    context: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext

    def __call__(self, batch: Batch) -> list[npt.NDArray[np.float32]]:
        with torch.no_grad(), self.context():
            found = self.model(*as_tensors(batch, self.inputs))
            return [output.float().numpy() for output in found]


def bf16_autocast() -> AbstractContextManager[Any]:
    """bfloat16 autocast without its weight cache, which breaks tracing in torch 2.8 to 2.13."""
    return torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False)


def dynamic_shapes(arrays: Sequence[InputArray], samples: Sequence[Batch]) -> dict[str, Any]:
    """The `dynamic_shapes` argument of `torch.export.export` for a `Positional` model.

    Allows any number of rows, and widths from 2 to that of the widest sample. All other axes are
    fixed.
    """
    sizes = {BATCH: torch.export.Dim("batch", min=1)}
    if any(WIDTH in array.axes for array in arrays):
        widest = max(batch.shape[1] for batch in samples)
        sizes[WIDTH] = torch.export.Dim("width", min=2, max=widest)
    return {
        "tensors": tuple(
            {place: sizes[axis] for place, axis in array.variable.items()} for array in arrays
        )
    }


class Positional(torch.nn.Module):
    """A model that takes tensors in a fixed order and returns a tuple of its named outputs.

    Exporters and tracers need that. What else the model returns, such as a cache, is left out.
    `floats` is the type to which inputs of floating-point numbers are converted: that of a model
    that was converted as a whole. None: they stay as they are.
    """

    def __init__(
        self,
        model: Any,
        inputs: Sequence[str],
        outputs: Sequence[str],
        floats: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.floats = floats
        self.model, self.inputs, self.outputs = model, tuple(inputs), tuple(outputs)
        self.eval()  # exporters restore the training mode of the outermost module

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.model(**self.named(tensors))
        return tuple(found[name] for name in self.outputs)

    def named(self, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """The inputs by name, as the model takes them."""
        found = dict(zip(self.inputs, tensors, strict=True))
        if self.floats is None:
            return found
        return {
            name: t.to(self.floats) if t.is_floating_point() else t for name, t in found.items()
        }


def apply_precision(model: torch.nn.Module, material: Material, options: Config) -> Runnable:
    """Apply the precision and the knob `linear` of `options` to a float32 model, in place.

    - bf16 with `bf16_method: autocast` keeps weights, normalisation and softmax in float32, as
      Trainer's `--bf16` does. `bf16_method: full` converts the whole model, as `--bf16_full_eval`
      does.
    - bf16_matmul keeps float32 everywhere except inside matrix products. This is a setting of the
      process.
    - int8_dynamic gives each Linear int8 weights. Activations are quantised batch by batch.
    - `linear: onednn` runs Linear layers through oneDNN. `onednn_fused` also fuses the GELUs that
      follow them.

    Raises TrialFailure `unsupported` for other precisions, `fallback` if there is nothing to
    replace or fuse, and `inaccurate` if fusing changes the outputs.
    """
    precision = options["precision"]
    context: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    floats = None
    if precision == "bf16_matmul":
        torch.set_float32_matmul_precision("medium")
    elif precision == "bf16":
        if options["bf16_method"] == "full":
            floats = torch.bfloat16
            model = model.to(floats)
        else:
            context = bf16_autocast
    elif precision == "int8_dynamic":
        linear.quantize_linears(
            model,
            per_channel=options["int8_weights"] == "per_channel",
            reduce_range=not material.vnni,
        )
    elif precision != "fp32":
        raise TrialFailure("unsupported", f"torch cannot apply precision {precision!r}")
    positional = Positional(model, material.inputs, material.outputs, floats)
    runnable = Runnable(positional, material.inputs, context)
    kind = options.get("linear", "torch")
    if kind != "torch":
        linear.pack_for_onednn(model, torch.bfloat16 if precision == "bf16" else torch.float32)
    if kind == "onednn_fused":
        before = {id(batch): runnable(batch) for batch in material.samples}
        with torch.no_grad(), context():
            tensors = as_tensors(material.samples[0], material.inputs)
            fused = linear.fuse_gelus(model, positional.named(tensors))
        if not fused:
            raise TrialFailure(
                "fallback", "linear=onednn_fused found no GELU to fuse into a Linear"
            )
        tolerance = precision_named(precision).tolerance
        compare(lambda batch: before[id(batch)], runnable, material, tolerance)
    return runnable


def compare(
    reference: Callable[[Batch], Sequence[npt.NDArray[np.float32]]],
    candidate: Callable[[Batch], Sequence[npt.NDArray[np.float32]]],
    material: Material,
    tolerance: float,
) -> float:
    """The largest difference of outputs over all samples, relative to the reference's outputs.

    The scale is the largest absolute output of the reference on that batch, at least 1. Outputs
    of padding are ignored. Raises TrialFailure `inaccurate`, with the shape of the batch,
    if outputs differ in shape or by more than `tolerance`.
    """
    worst = 0.0
    for batch in material.samples:
        shape, declared = batch.shape, material.output_axes.values()
        found = zip(declared, reference(batch), candidate(batch), strict=True)
        for axes, expected, actual in found:
            if actual.shape != expected.shape:
                raise TrialFailure(
                    "inaccurate",
                    f"on a batch of shape {shape}, an output has shape {actual.shape}, "
                    f"eager's has {expected.shape}",
                )
            expected, actual = (batch.without_padding(a, axes) for a in (expected, actual))
            scale = max(float(np.abs(expected).max()), 1.0)
            difference = float(np.abs(actual - expected).max()) / scale
            worst = max(worst, difference)
            if not difference <= tolerance:
                raise TrialFailure(
                    "inaccurate",
                    f"differs from eager by {difference:.2g} (limit {tolerance:.2g}) on a batch "
                    f"of shape {shape}: the prepared model is not valid for all shapes",
                )
    return worst


def silence_transformers() -> None:
    """Keep transformers' progress bars and warnings out of the worker's log."""
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
