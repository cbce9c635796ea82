"""openvino: the model is converted from torch, and OpenVINO compiles and runs it on the CPU.

Source: https://docs.openvino.ai (convert_model; INFERENCE_PRECISION_HINT and
INFERENCE_NUM_THREADS of the CPU device; NNCF's post-training quantisation).
Precisions: fp32, bf16 (by the inference hint), and int8_static (NNCF's preset for transformers,
calibrated). With int8_static, the operators without int8 kernels run in `int8_rest`.
Versions: openvino 2025.1 to 2026.x, nncf 2.16 to 3.x.
Limits: each model and attention is converted once. All processes of the run then read the file
from the cache. OpenVINO has its own thread pool. The process is bound to its CPUs, OpenVINO does
not pin the threads.
"""

from __future__ import annotations

import collections
import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.shared.errors import TrialFailure
from autotune.shared.precisions import FP32, precision_named
from autotune.shared.records import Scalar
from autotune.worker.batches import Batch
from autotune.worker.engines.base import (
    Engine,
    Environment,
    Material,
    Prepared,
    unsupported_precision,
    write_atomically,
)
from autotune.worker.engines.share import check_share


class CompiledModel:
    """A compiled OpenVINO model as a callable from batches to the named outputs, in order."""

    def __init__(self, model: Any, outputs: Sequence[str]) -> None:
        self._request = model.create_infer_request()
        self._ports = [model.output(name) for name in outputs]
        self._inputs = {name for port in model.inputs for name in port.names}

    def __call__(self, batch: Batch) -> list[npt.NDArray[np.float32]]:
        found = self._request.infer(
            {name: array for name, array in batch.items() if name in self._inputs},
            share_inputs=True,
        )
        return [np.array(found[port], np.float32) for port in self._ports]


class OpenVinoEngine(Engine):
    @property
    def specialises_by_shape(self) -> bool:
        return True  # OpenVINO builds kernels when it first meets a shape

    @classmethod
    def unsupported(cls, precision: str, environment: Environment) -> str | None:
        needed = ["openvino"] + (["nncf"] if precision_named(precision).calibrated else [])
        for name in needed:
            if name not in environment.versions:
                return f"{name} is not installed in this stack: pip install openvino nncf"
        return unsupported_precision(precision, environment)

    def write_artefacts(self, material: Material) -> None:
        # OpenVINO's converter and NNCF report their use over the network, unless this module is
        # missing.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        self._ensure_converted(material, int8=self._is_int8)

    def prepare(self, material: Material) -> Prepared:
        self.write_artefacts(material)
        import openvino

        precision = str(self.options["precision"])
        hint = str(self.options.get("int8_rest", "fp32")) if self._is_int8 else precision
        core = openvino.Core()
        path = self._path(material, self._is_int8)
        properties = {
            "INFERENCE_PRECISION_HINT": "bf16" if hint == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": str(material.threads),
            "NUM_STREAMS": "1",
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": "NO",
        }
        compiled = core.compile_model(core.read_model(path), "CPU", properties)
        actual = str(compiled.get_property("INFERENCE_PRECISION_HINT"))
        if ("bf16" in actual or "bfloat16" in actual) != (hint == "bf16"):
            raise TrialFailure("fallback", f"OpenVINO was asked for {hint}, but runs in {actual}")
        threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))
        call = CompiledModel(compiled, material.outputs)
        effective: dict[str, Scalar] = {"threads": threads, "openvino_precision": actual}
        kind = precision_named(precision).product_type
        if kind is not None:
            call(material.samples[0])  # gives the graph the shapes of this batch
            counted = count_products(compiled.get_runtime_model())
            asked = f"precision={precision}"
            whole = sum(counted.values())
            effective |= check_share(asked, kind, counted[kind], whole, material)
        return Prepared(
            call=call,
            effective=effective,
            properties=properties,
            files=(path.name, path.with_suffix(".bin").name),
        )

    @property
    def _is_int8(self) -> bool:
        return precision_named(self.options["precision"]).calibrated

    def _path(self, material: Material, int8: bool) -> Path:
        """The path of the graph. The weights are in the .bin file of the same name."""
        attention = self.options["attention"]
        return material.cached(f"openvino-{attention}{'-int8' if int8 else ''}.xml")

    def _ensure_converted(self, material: Material, *, int8: bool) -> Path:
        """The path of the converted model's graph. Writes the model unless it exists."""
        path = self._path(material, int8)
        if path.exists():
            return path
        if int8:
            import openvino

            fp32_path = self._ensure_converted(material, int8=False)
            model = quantize(openvino.Core().read_model(fp32_path), material)
        else:
            model = convert(material, str(self.options["attention"]))
        save_model(model, path)
        return path


PRODUCTS = ("FullyConnected", "MatMul", "Convolution")
"""Layers of a compiled graph that are products. Attention, fused into one layer, is left out."""
TYPE_OF_RUNTIME = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}


def count_products(runtime_model: Any) -> collections.Counter[str]:
    """Type -> operations of the products in a compiled graph, for the batch that it ran last."""
    counted: collections.Counter[str] = collections.Counter()
    for layer in runtime_model.get_ordered_ops():
        facts = layer.get_rt_info()
        if "layerType" in facts and str(facts["layerType"].astype(str)) in PRODUCTS:
            precision = str(facts["runtimePrecision"].astype(str))
            inner = [int(n) for n in layer.input(1).get_shape()][1:]
            if str(facts["layerType"].astype(str)) == "MatMul":
                inner = [int(layer.input(0).get_shape()[-1])]
            outputs = math.prod(int(n) for n in layer.output(0).get_shape())
            kind = TYPE_OF_RUNTIME.get(precision, "other")
            counted[kind] += 2 * outputs * math.prod(inner)
    return counted


def save_model(model: Any, path: Path) -> None:
    """Write the graph to `path` and the weights beside it.

    The graph is renamed to `path` last, so whoever finds the graph finds complete weights.
    """
    import openvino

    with write_atomically(path) as partial:
        openvino.save_model(model, partial, compress_to_fp16=False)
        partial.with_suffix(".bin").replace(path.with_suffix(".bin"))


def convert(material: Material, attention: str) -> Any:
    """The torch model as an OpenVINO model, after comparing their outputs on all samples.

    Raises TrialFailure `fallback` with the converter's message, and `inaccurate` if outputs
    differ.
    """
    import openvino
    import torch

    from autotune.worker.engines import torch_model

    model = torch_model.load_for(material, attention)
    inputs, names = material.inputs, material.outputs
    wrapped = torch_model.Positional(model, inputs, names)
    example = torch_model.as_tensors(material.samples[0], inputs)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # OpenVINO's own trace is made twice, and refused if the model keeps a table (ESM)
            # or numbers its parts (BigBird). `compare` below finds what matters.
            traced = torch.jit.trace(wrapped, example, check_trace=False)
            converted = openvino.convert_model(traced, example_input=example)
    except Exception as error:
        raise TrialFailure("fallback", f"openvino.convert_model failed: {error}") from error
    for port, array in zip(converted.inputs, material.arrays, strict=True):
        sizes: list[int] = list(material.samples[0][array.name].shape)
        for place in array.variable:
            sizes[place] = -1
        port.get_tensor().set_names({array.name})
        port.get_node().set_partial_shape(openvino.PartialShape(sizes))
    for port, name in zip(converted.outputs, names, strict=True):
        port.get_tensor().set_names({name})
    converted.validate_nodes_and_infer_types()
    compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    torch_model.compare(
        torch_model.Runnable(wrapped, inputs),
        CompiledModel(compiled, names),
        material,
        FP32.tolerance,
    )
    return converted


def quantize(model: Any, material: Material) -> Any:
    """The model with int8 matrix products, whose ranges come from the calibration batches."""
    import nncf

    calibration = material.calibration_rows()
    return nncf.quantize(
        model,
        nncf.Dataset([{name: batch[name] for name in material.inputs} for batch in calibration]),
        subset_size=len(calibration),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
    )
