"""OpenVINO: the model converted from torch, compiled for the CPU by its own runtime.

Source: https://docs.openvino.ai (convert_model; INFERENCE_PRECISION_HINT and
INFERENCE_NUM_THREADS of the CPU device; NNCF's post-training quantisation).
Precisions: fp32; bf16 (inference hint); int8_static (NNCF, transformer preset, calibrated),
its other operators in `int8_rest`. Versions: openvino 2025.1 to 2026.x, nncf 2.16 to 3.x.
Limits: converted once a model and attention, then read from the run's cache. The runtime has
its own thread pool; threads are pinned by the process's CPUs, not by OpenVINO.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

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


class Compiled:
    """A compiled OpenVINO model as a callable from batches to outputs by name."""

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
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "int8_static")
    own_threads: ClassVar[bool] = True

    @property
    def specialises_by_shape(self) -> bool:
        return True  # its kernels are made for a shape when they first meet it

    @classmethod
    def unsupported(cls, precision: str, environment: Environment) -> str | None:
        needed = ["openvino"] + (["nncf"] if precision == "int8_static" else [])
        for name in needed:
            if name not in environment.versions:
                return (
                    f"{name} is not installed in this stack: pip install 'autotune-cpu[openvino]'"
                )
        return unsupported_precision(precision, environment)

    def write_artefacts(self, material: Material) -> None:
        # Its converter and NNCF would report their use over the network; without the module
        # they do not.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        self._exported(material, int8=self._is_int8)

    def prepare(self, material: Material) -> Prepared:
        self.write_artefacts(material)
        import openvino

        precision = str(self.options["precision"])
        rest = str(self.options.get("int8_rest", "fp32")) if self._is_int8 else precision
        core = openvino.Core()
        path = self._path(material, self._is_int8)
        compiled = core.compile_model(
            core.read_model(path),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16" if rest == "bf16" else "f32",
                "INFERENCE_NUM_THREADS": str(material.threads),
                "NUM_STREAMS": "1",
                "PERFORMANCE_HINT": "LATENCY",
                "ENABLE_CPU_PINNING": "NO",
            },
        )
        ran = str(compiled.get_property("INFERENCE_PRECISION_HINT"))
        if ("bf16" in ran or "bfloat16" in ran) != (rest == "bf16"):
            raise TrialFailure("fallback", f"asked OpenVINO for {rest}, got {ran}")
        threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))
        return Prepared(
            call=Compiled(compiled, tuple(material.source.outputs)),
            effective={"threads": threads, "openvino_precision": ran},
            files=(path.name, path.with_suffix(".bin").name),
        )

    @property
    def _is_int8(self) -> bool:
        return self.options["precision"] == "int8_static"

    def _path(self, material: Material, int8: bool) -> Path:
        """Where the graph is kept; its weights lie beside it."""
        attention = self.options["attention"]
        return material.cached(f"openvino-{attention}{'-int8' if int8 else ''}.xml")

    def _exported(self, material: Material, *, int8: bool) -> Path:
        """The file of the converted model, written where it is not there."""
        path = self._path(material, int8)
        if path.exists():
            return path
        if int8:
            import openvino

            plain = self._exported(material, int8=False)
            model = quantize(openvino.Core().read_model(plain), material)
        else:
            model = convert(material, str(self.options["attention"]))
        save(model, path)
        return path


def save(model: Any, path: Path) -> None:
    """Write the weights, then, in one step, the graph that makes them count as written."""
    import openvino

    with in_one_step(path) as partial:
        openvino.save_model(model, partial, compress_to_fp16=False)
        partial.with_suffix(".bin").replace(path.with_suffix(".bin"))


def convert(material: Material, attention: str) -> Any:
    """The torch model as an OpenVINO graph, compared with it on shorter and longer batches.

    Raises TrialFailure `fallback` with the converter's words.
    """
    import openvino
    import torch

    from autotune.worker.engines import torch_model

    model, _ = torch_model.load(material.source, attention)
    names = tuple(material.source.outputs)
    wrapped = torch_model.Positional(model, tuple(material.samples[0]), names)
    example = tuple(torch.from_numpy(array) for array in material.samples[0].values())
    try:
        with torch.no_grad():
            converted = openvino.convert_model(wrapped, example_input=example)
    except Exception as error:
        words = " ".join(str(error).split())[:500]
        raise TrialFailure("fallback", f"openvino.convert_model failed: {words}") from error
    for port, name in zip(converted.inputs, material.samples[0], strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino.PartialShape([-1, -1]))
    for port, name in zip(converted.outputs, names, strict=True):
        port.get_tensor().set_names({name})
    converted.validate_nodes_and_infer_types()
    plain = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    torch_model.compare(
        torch_model.Runnable(model, names),
        Compiled(plain, names),
        material.samples,
        TOLERANCE["fp32"],
    )
    return converted


def quantize(model: Any, material: Material) -> Any:
    """The model with int8 matrix products, their ranges taken from the calibration batches."""
    import nncf

    return nncf.quantize(
        model,
        nncf.Dataset(list(material.calibration)),
        subset_size=len(material.calibration),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
    )
