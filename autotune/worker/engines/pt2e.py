"""PT2E: static int8 by PyTorch 2 export quantisation. `inductor` compiles the result.

The model is exported as one graph and gets observers, which see the calibration batches. Then
its matrix products become int8. inductor's freezing turns them into oneDNN's int8 kernels.

Source: https://docs.pytorch.org/tutorials/prototype/pt2e_quant_x86_inductor.html.
Precisions: int8_static.
Versions: torch 2.8 contains the quantiser. torch 2.9 and later need the package torchao.
Limits: the model must be exportable as one graph with a dynamic batch size and width.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from autotune.shared.errors import TrialFailure
from autotune.worker.engines import torch_model
from autotune.worker.engines.base import Material
from autotune.worker.engines.torch_model import Positional, Runnable
from autotune.worker.versions import series

LAST_SERIES_WITH_QUANTIZER = series("2.8")
"""The last series of torch that contains the quantiser. torchao contains it from then on."""


def missing_quantizer(versions: Mapping[str, str]) -> str | None:
    """Why a stack with these versions has no quantiser, and the remedy. None if it has one."""
    if series(versions["torch"]) > LAST_SERIES_WITH_QUANTIZER and "torchao" not in versions:
        return f"static int8 with torch {versions['torch']} needs torchao: pip install torchao"
    return None


def import_quantizer() -> tuple[Any, Any]:
    """Two modules: the one with prepare_pt2e and convert_pt2e, and the x86 quantiser's.

    Raises TrialFailure `unsupported` if they cannot be imported.
    """
    try:
        if series(torch.__version__) <= LAST_SERIES_WITH_QUANTIZER:
            from torch.ao.quantization import quantize_pt2e
            from torch.ao.quantization.quantizer import x86_inductor_quantizer
        else:
            from torchao.quantization.pt2e import quantize_pt2e
            from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer
    except ImportError as error:
        raise TrialFailure("unsupported", f"the PT2E quantiser does not load: {error}") from error
    return quantize_pt2e, x86_inductor_quantizer


class NamedTensors(torch.nn.Module):
    """An exported graph with positional tensors, called like the model: with names."""

    def __init__(self, graph: Any, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.graph, self.inputs, self.outputs = graph, inputs, outputs

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.graph(*(batch[name] for name in self.inputs))
        return dict(zip(self.outputs, found, strict=True))


def quantize_model(material: Material, attention: str) -> Runnable:
    """The model with calibrated int8 matrix products, not yet compiled.

    Raises TrialFailure `fallback` with the exporter's message if exporting or quantising fails.
    """
    quantize_pt2e, x86 = import_quantizer()
    model, _ = torch_model.load(material.source, attention)
    inputs, outputs = tuple(material.samples[0]), tuple(material.source.outputs)
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(
        x86.get_default_x86_inductor_quantization_config(reduce_range=not material.vnni)
    )
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(
                Positional(model, inputs, outputs),
                tuple(torch.from_numpy(array) for array in material.samples[0].values()),
                dynamic_shapes=torch_model.dynamic_shapes(material.samples),
                strict=True,  # only a strict export records the node origins the quantiser reads
            )
            prepared = quantize_pt2e.prepare_pt2e(exported.module(), quantizer)
            for rows in material.calibration:
                prepared(*(torch.from_numpy(rows[name]) for name in inputs))
            converted = quantize_pt2e.convert_pt2e(prepared)
    except TrialFailure:
        raise
    except Exception as error:
        message = " ".join(str(error).split())[:500]
        raise TrialFailure("fallback", f"torch.export failed: {message}") from error
    quantizers = [n for n in converted.graph.nodes if "quantize_per" in str(n.target)]
    if not quantizers:
        raise TrialFailure(
            "fallback", "the quantiser turned no matrix product of the model into int8"
        )
    return Runnable(NamedTensors(converted, inputs, outputs), outputs)
