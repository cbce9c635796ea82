"""ONNX Runtime: the model exported to ONNX, run by its CPU provider.

Source: https://onnxruntime.ai/docs (session options; dynamic quantisation).
Precisions: fp32; int8_dynamic (weights int8 per tensor or per channel, activations as they
come). Versions: onnxruntime 1.20 to 1.31 with onnx.
Limits: exported once a model and attention, then read from the run's cache. The runtime has
its own thread pool, which spins while the session runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from autotune.shared.errors import TrialFailure
from autotune.worker.batches import Batch
from autotune.worker.engines.base import (
    TOLERANCE,
    Engine,
    Environment,
    Material,
    Prepared,
    in_one_step,
    unsupported_precision,
)

OPSET = 17
LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "none": "ORT_DISABLE_ALL",
}


class OnnxModel:
    """An ONNX Runtime session as a callable from batches to outputs by name."""

    def __init__(self, path: Path, outputs: Sequence[str], *, threads: int, level: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = getattr(
            onnxruntime.GraphOptimizationLevel, LEVELS[level]
        )
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {i.name for i in self._session.get_inputs()}
        self._outputs = list(outputs)

    def __call__(self, batch: Batch) -> list[npt.NDArray[np.float32]]:
        feed = {name: array for name, array in batch.items() if name in self._inputs}
        found: list[npt.NDArray[np.float32]] = self._session.run(self._outputs, feed)
        return found


class OnnxRuntimeEngine(Engine):
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8_dynamic")
    own_threads: ClassVar[bool] = True

    @classmethod
    def unsupported(cls, precision: str, environment: Environment) -> str | None:
        for name in ("onnxruntime", "onnx"):
            if name not in environment.versions:
                remedy = "pip install 'autotune-cpu[onnxruntime]'"
                return f"{name} is not installed in this stack: {remedy}"
        return unsupported_precision(precision, environment)

    def write_artefacts(self, material: Material) -> None:
        self._exported(material)

    def prepare(self, material: Material) -> Prepared:
        path = self._exported(material)
        return Prepared(
            call=OnnxModel(
                path,
                tuple(material.source.outputs),
                threads=material.threads,
                level=str(self.options.get("graph_optimization", "all")),
            ),
            effective={"threads": material.threads},
            files=(path.name,),
        )

    def _exported(self, material: Material) -> Path:
        """The ONNX file at its precision, written where it is not there."""
        options = self.options
        attention = str(options["attention"])
        plain = material.cached(f"onnx-{attention}.onnx")
        if not plain.exists():
            export_onnx(material, attention, plain)
        if options["precision"] == "fp32":
            return plain
        per_channel = options.get("int8_weights") == "per_channel"
        path = material.cached(f"onnx-{attention}-int8-{options.get('int8_weights')}.onnx")
        if not path.exists():
            quantize(plain, path, per_channel=per_channel, reduce_range=not material.vnni)
        return path


def export_onnx(material: Material, attention: str, path: Path) -> None:
    """Write the model to `path`, compared with torch's on shorter and longer batches.

    Raises TrialFailure `fallback` with the exporter's words.
    """
    import torch

    from autotune.worker.engines import torch_model

    model, _ = torch_model.load(material.source, attention)
    names = tuple(material.source.outputs)
    inputs = tuple(material.samples[0])
    wrapped = torch_model.Positional(model, inputs, names)
    kinds = {"token": {0: "batch", 1: "width"}, "feature": {0: "batch"}}
    with in_one_step(path) as partial:
        try:
            with torch.no_grad():
                torch.onnx.export(
                    wrapped,
                    tuple(torch.from_numpy(array) for array in material.samples[0].values()),
                    str(partial),
                    input_names=list(inputs),
                    output_names=list(names),
                    dynamic_axes={
                        **{name: {0: "batch", 1: "width"} for name in inputs},
                        **{name: kinds[kind] for name, kind in material.source.outputs.items()},
                    },
                    opset_version=OPSET,
                    dynamo=False,
                )
        except Exception as error:
            words = " ".join(str(error).split())[:500]
            raise TrialFailure("fallback", f"torch.onnx.export failed: {words}") from error
        call = OnnxModel(partial, names, threads=material.threads, level="all")
        torch_model.compare(
            torch_model.Runnable(model, names), call, material.samples, TOLERANCE["fp32"]
        )


def quantize(source: Path, path: Path, *, per_channel: bool, reduce_range: bool) -> None:
    """Write `source` with int8 weights to `path`."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with in_one_step(path) as partial:
        quantize_dynamic(
            onnx.load(source),  # a path would get a file beside it, which another instance removes
            partial,
            per_channel=per_channel,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
        )
