"""onnxruntime: the model is exported to ONNX, and ONNX Runtime's CPU provider runs it.

Source: https://onnxruntime.ai/docs (session options, dynamic quantisation).
Precisions: fp32, and int8_dynamic (int8 weights per tensor or per channel, activations quantised
batch by batch).
Versions: onnxruntime 1.20 to 1.31, with the package onnx.
Limits: torch exports each model and attention once. All processes of the run then read the file
from the cache. ONNX Runtime has its own thread pool, which keeps spinning while a session is open.
"""

from __future__ import annotations

import collections
import json
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

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

PRODUCTS = {
    "MatMul": "fp32",
    "FusedMatMul": "fp32",
    "Gemm": "fp32",
    "MatMulInteger": "int8",
    "DynamicQuantizeMatMul": "int8",
    "MatMulIntegerToFloat": "int8",
}
"""Operators of an optimised graph that are products, and the type in which they compute."""
SHARE = "int8_share"
"""The name under which an int8 file holds its share of int8 work."""
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

    def __init__(
        self,
        path: Path,
        outputs: Sequence[str],
        *,
        threads: int,
        level: str,
        profile: str | None = None,
    ) -> None:
        """`profile` is a folder for a profile of the calls, which `end_profile` finishes."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = getattr(
            onnxruntime.GraphOptimizationLevel, OPTIMIZATION_LEVELS[level]
        )
        options.log_severity_level = 3
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = os.path.join(profile, "profile")
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {i.name for i in self._session.get_inputs()}
        self._outputs = list(outputs)
        self.notes: dict[str, str] = self._session.get_modelmeta().custom_metadata_map

    def end_profile(self) -> str:
        """Finish the profile. Returns its path."""
        return str(self._session.end_profiling())

    def __call__(self, batch: Batch) -> list[npt.NDArray[np.float32]]:
        feed = {name: array for name, array in batch.items() if name in self._inputs}
        found: list[npt.NDArray[np.float32]] = self._session.run(self._outputs, feed)
        return found


class OnnxRuntimeEngine(Engine):
    @classmethod
    def unsupported(cls, precision: str, environment: Environment) -> str | None:
        for name in ("onnxruntime", "onnx"):
            if name not in environment.versions:
                remedy = "pip install onnxruntime onnx"
                return f"{name} is not installed in this stack: {remedy}"
        return unsupported_precision(precision, environment)

    def write_artefacts(self, material: Material) -> None:
        self._ensure_exported(material)

    def prepare(self, material: Material) -> Prepared:
        path = self._ensure_exported(material)
        level = str(self.options.get("graph_optimization", "all"))
        call = OnnxModel(path, material.outputs, threads=material.threads, level=level)
        effective: dict[str, Scalar] = {"threads": material.threads}
        if SHARE in call.notes:
            effective[SHARE] = float(call.notes[SHARE])
        properties = {
            "intra_op_num_threads": str(material.threads),
            "inter_op_num_threads": "1",
            "graph_optimization_level": OPTIMIZATION_LEVELS[level],
            "providers": "CPUExecutionProvider",
        }
        return Prepared(call=call, effective=effective, properties=properties, files=(path.name,))

    def _ensure_exported(self, material: Material) -> Path:
        """The path of the ONNX file at this precision. Writes the file unless it exists."""
        options = self.options
        attention = str(options["attention"])
        int8_path = material.cached(f"onnx-{attention}-int8-{options.get('int8_weights')}.onnx")
        int8 = precision_named(options["precision"]).product_type == "int8"
        if int8 and int8_path.exists():  # a run keeps this file alone, without that in float32
            return int8_path
        fp32_path = material.cached(f"onnx-{attention}.onnx")
        if not fp32_path.exists():
            export_onnx(material, attention, fp32_path)
        if not int8:
            return fp32_path
        per_channel = options.get("int8_weights") == "per_channel"
        with write_atomically(int8_path) as partial:
            reduce_range = not material.vnni
            quantize(fp32_path, partial, per_channel=per_channel, reduce_range=reduce_range)
            note_share(partial, material)
        return int8_path


def export_onnx(material: Material, attention: str, path: Path) -> None:
    """Write the model in float32 to `path`, and compare its outputs with torch's on all samples.

    Raises TrialFailure `fallback` with the exporter's message, and `inaccurate` if outputs differ.
    """
    import torch

    from autotune.worker.engines import torch_model

    model = torch_model.load_for(material, attention)
    names, inputs = material.outputs, material.inputs
    wrapped = torch_model.Positional(model, inputs, names)
    with write_atomically(path) as partial:
        try:
            with torch.no_grad():
                torch.onnx.export(
                    wrapped,
                    torch_model.as_tensors(material.samples[0], inputs),
                    str(partial),
                    input_names=list(inputs),
                    output_names=list(names),
                    dynamic_axes={
                        **{array.name: array.variable for array in material.arrays},
                        **{
                            name: dict(enumerate(axes))
                            for name, axes in material.output_axes.items()
                        },
                    },
                    opset_version=OPSET,
                    dynamo=False,
                )
        except Exception as error:
            raise TrialFailure("fallback", f"torch.onnx.export failed: {error}") from error
        call = OnnxModel(partial, names, threads=material.threads, level="all")
        torch_model.compare(torch_model.Runnable(wrapped, inputs), call, material, FP32.tolerance)


def quantize(source: Path, path: Path, *, per_channel: bool, reduce_range: bool) -> None:
    """Write the ONNX file `source` with int8 weights to `path`.

    With `reduce_range` weights get seven bits, so that sums cannot saturate without VNNI.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        # Not the path: the quantiser would write a file beside it, under a fixed name that
        # another instance removes.
        onnx.load(source),
        path,
        per_channel=per_channel,
        reduce_range=reduce_range,
        weight_type=QuantType.QInt8,
    )


def note_share(path: Path, material: Material) -> None:
    """Note in the file's own metadata which share of the work runs in int8 (see `check_share`)."""
    import onnx

    counted = count_products(path, material)
    whole = sum(counted.values())
    shares = check_share("precision=int8_dynamic", "int8", counted["int8"], whole, material)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {SHARE: str(shares[SHARE])})
    onnx.save(model, path)


def count_products(path: Path, material: Material) -> collections.Counter[str]:
    """Type -> operations of the products of the optimised graph, as ONNX Runtime profiles them.

    The batch is `material.samples[0]`. Products of activations in an Einsum are left out.
    """
    counted: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        call = OnnxModel(
            path, material.outputs, threads=material.threads, level="all", profile=folder
        )
        call(material.samples[0])
        events = json.loads(Path(call.end_profile()).read_text())
    for event in events:
        facts = event.get("args", {})
        kind = PRODUCTS.get(facts.get("op_name", ""))
        if kind is not None and event["name"].endswith("_kernel_time"):
            (_, read), (_, written) = (
                next(iter(facts[side][0].items()))
                for side in ("input_type_shape", "output_type_shape")
            )
            counted[kind] += 2 * math.prod(written) * read[-1]
    return counted
