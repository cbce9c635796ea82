"""onnxruntime: the model is exported to ONNX, and ONNX Runtime's CPU provider runs it.

Source: https://onnxruntime.ai/docs (session options, dynamic quantisation).
Precisions: fp32, and int8_dynamic (int8 weights per tensor or per channel, activations quantised
batch by batch).
Versions: onnxruntime 1.20 to 1.31, with the package onnx.
Limits: torch exports each model and attention once. All processes of the run then read the file
from the cache. ONNX Runtime has its own thread pool, which keeps spinning while a session is open.
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
    unsupported_precision,
    write_atomically,
)

OPSET = 17
"""The version of ONNX's operator set that the model is exported to."""
OPTIMIZATION_LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "none": "ORT_DISABLE_ALL",
}


class OnnxModel:
    """An ONNX Runtime session as a callable from batches to the named outputs, in order."""

    def __init__(self, path: Path, outputs: Sequence[str], *, threads: int, level: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = getattr(
            onnxruntime.GraphOptimizationLevel, OPTIMIZATION_LEVELS[level]
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
        self._ensure_exported(material)

    def prepare(self, material: Material) -> Prepared:
        path = self._ensure_exported(material)
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

    def _ensure_exported(self, material: Material) -> Path:
        """The path of the ONNX file at this precision. Writes the file unless it exists."""
        options = self.options
        attention = str(options["attention"])
        fp32_path = material.cached(f"onnx-{attention}.onnx")
        if not fp32_path.exists():
            export_onnx(material, attention, fp32_path)
        if options["precision"] == "fp32":
            return fp32_path
        per_channel = options.get("int8_weights") == "per_channel"
        int8_path = material.cached(f"onnx-{attention}-int8-{options.get('int8_weights')}.onnx")
        if not int8_path.exists():
            quantize(fp32_path, int8_path, per_channel=per_channel, reduce_range=not material.vnni)
        return int8_path


def export_onnx(material: Material, attention: str, path: Path) -> None:
    """Write the model in float32 to `path`, and compare its outputs with torch's on all samples.

    Raises TrialFailure `fallback` with the exporter's message, and `inaccurate` if outputs differ.
    """
    import torch

    from autotune.worker.engines import torch_model

    model, _ = torch_model.load(material.source, attention)
    names = tuple(material.source.outputs)
    inputs = tuple(material.samples[0])
    wrapped = torch_model.Positional(model, inputs, names)
    axes = {"token": {0: "batch", 1: "width"}, "feature": {0: "batch"}}  # by kind of output
    with write_atomically(path) as partial:
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
                        **{name: axes[kind] for name, kind in material.source.outputs.items()},
                    },
                    opset_version=OPSET,
                    dynamo=False,
                )
        except Exception as error:
            message = " ".join(str(error).split())[:500]
            raise TrialFailure("fallback", f"torch.onnx.export failed: {message}") from error
        call = OnnxModel(partial, names, threads=material.threads, level="all")
        torch_model.compare(
            torch_model.Runnable(model, names), call, material.samples, TOLERANCE["fp32"]
        )


def quantize(source: Path, path: Path, *, per_channel: bool, reduce_range: bool) -> None:
    """Write the ONNX file `source` with int8 weights to `path`.

    With `reduce_range` weights get seven bits, so that sums cannot saturate without VNNI.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with write_atomically(path) as partial:
        quantize_dynamic(
            # Not the path: the quantiser would write a file beside it, under a fixed name that
            # another instance removes.
            onnx.load(source),
            partial,
            per_channel=per_channel,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
        )
