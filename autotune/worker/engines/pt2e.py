"""Static int8 by PyTorch 2 export quantisation, for inductor to compile.

Source: https://docs.pytorch.org/tutorials/prototype/pt2e_quant_x86_inductor.html. The exported
graph gets observers, sees the calibration batches, and is converted to int8 matrix products
that inductor's freezing turns into oneDNN's. In torch 2.8 itself; from 2.9 on in torchao.
Limits: the model must be exportable as one graph with dynamic batch and width.
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

OWN_SERIES = (2, 8)
"""The last series of torch that carries the quantiser itself."""


def series(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def unavailable(versions: Mapping[str, str]) -> str | None:
    """Why a stack with these distributions has no quantiser, and the remedy."""
    if series(versions["torch"]) > OWN_SERIES and "torchao" not in versions:
        return "static int8 of this torch needs torchao: pip install torchao"
    return None


def tools() -> tuple[Any, Any]:
    """The modules with prepare_pt2e and convert_pt2e, and with the x86 quantiser.

    Raises TrialFailure `unsupported` where they are not there.
    """
    try:
        if series(torch.__version__) <= OWN_SERIES:
            from torch.ao.quantization import quantize_pt2e
            from torch.ao.quantization.quantizer import x86_inductor_quantizer
        else:
            from torchao.quantization.pt2e import quantize_pt2e
            from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer
    except ImportError as error:
        raise TrialFailure("unsupported", f"no PT2E quantiser: {error}") from error
    return quantize_pt2e, x86_inductor_quantizer


class ByName(torch.nn.Module):
    """An exported positional graph, called by name again."""

    def __init__(self, graph: Any, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.graph, self.inputs, self.outputs = graph, inputs, outputs

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.graph(*(batch[name] for name in self.inputs))
        return dict(zip(self.outputs, found, strict=True))


def quantize_model(material: Material, attention: str) -> Runnable:
    """The model with calibrated int8 matrix products, not yet compiled.

    Raises TrialFailure `fallback` with the exporter's words.
    """
    quantize_pt2e, x86 = tools()
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
                dynamic_shapes=torch_model.dynamic(material.samples),
                strict=True,  # the quantiser reads where nodes come from, which only this notes
            )
            prepared = quantize_pt2e.prepare_pt2e(exported.module(), quantizer)
            for rows in material.calibration:
                prepared(*(torch.from_numpy(rows[name]) for name in inputs))
            converted = quantize_pt2e.convert_pt2e(prepared)
    except TrialFailure:
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:500]
        raise TrialFailure("fallback", f"torch.export failed: {words}") from error
    quantizers = [n for n in converted.graph.nodes if "quantize_per" in str(n.target)]
    if not quantizers:
        raise TrialFailure("fallback", "the quantiser found no matrix product to make int8")
    return Runnable(ByName(converted, inputs, outputs), outputs)
