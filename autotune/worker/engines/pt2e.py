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
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx

from autotune.shared.errors import TrialFailure
from autotune.worker.engines import linear, torch_model
from autotune.worker.engines.base import Material
from autotune.worker.engines.torch_model import Positional, Runnable, as_tensors
from autotune.worker.flops import WorkCounter
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


@dataclass(frozen=True, slots=True)
class QuantizedGraph:
    """A model with calibrated int8 matrix products, not yet compiled."""

    runnable: Runnable
    products: int  # that read int8
    int8_operations: int  # of one call of the first sample
    operations: int  # of the same call, all products


def quantize_model(material: Material, attention: str) -> QuantizedGraph:
    """The model as one graph with calibrated int8 matrix products.

    Raises TrialFailure `fallback` with the exporter's message if exporting or quantising fails.
    """
    quantize_pt2e, x86 = import_quantizer()
    model = torch_model.load_for(material, attention)
    linear.unify_linears(model)
    inputs = material.inputs
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(
        x86.get_default_x86_inductor_quantization_config(reduce_range=not material.vnni)
    )
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(
                Positional(model, inputs, material.outputs),
                as_tensors(material.samples[0], inputs),
                dynamic_shapes=torch_model.dynamic_shapes(material.arrays, material.samples),
                strict=True,  # only a strict export records the node origins the quantiser reads
            )
            graph = exported.module()
            # The quantiser fails on layers whose result nobody reads, such as an unused pooler.
            graph.graph.eliminate_dead_code()
            graph.recompile()
            prepared = quantize_pt2e.prepare_pt2e(graph, quantizer)
            for rows in material.calibration_rows():
                prepared(*as_tensors(rows, inputs))
            converted = quantize_pt2e.convert_pt2e(prepared)
    except TrialFailure:
        raise
    except Exception as error:
        raise TrialFailure("fallback", f"torch.export failed: {error}") from error
    counter = _CountProducts(converted)
    with torch.no_grad():
        counter.run(*as_tensors(material.samples[0], inputs))
    return QuantizedGraph(
        runnable=Runnable(converted, inputs),
        products=counter.products,
        int8_operations=counter.int8_operations,
        operations=counter.operations,
    )


class _CountProducts(torch.fx.Interpreter):
    """Runs a quantised graph, and counts the operations of its products, and those with int8."""

    def __init__(self, graph: torch.fx.GraphModule) -> None:
        super().__init__(graph)
        self.products = self.int8_operations = self.operations = 0

    def run_node(self, n: torch.fx.Node) -> Any:
        with WorkCounter() as counter:
            result = super().run_node(n)
        self.operations += counter.total
        factors = [arg for arg in n.args[:2] if isinstance(arg, torch.fx.Node)]
        if counter.total and all("dequantize" in str(factor.target) for factor in factors):
            self.products += 1
            self.int8_operations += counter.total
        return result
