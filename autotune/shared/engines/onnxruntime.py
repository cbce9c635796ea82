"""The descriptor of `onnxruntime`: ONNX Runtime."""

from __future__ import annotations

from autotune.shared.engine import EngineDescriptor
from autotune.shared.options import GRAPH_OPTIMIZATION, INT8_WEIGHTS
from autotune.shared.precisions import FP32, INT8_DYNAMIC

ENGINE = EngineDescriptor(
    name="onnxruntime",
    implementation="autotune.worker.engines.onnxruntime:OnnxRuntimeEngine",
    precisions=(FP32, INT8_DYNAMIC),
    options=(INT8_WEIGHTS, GRAPH_OPTIMIZATION),
    colour="#ff7f0e",
    distributions=("onnxruntime", "onnx"),
    extra="onnxruntime",
    own_threads=True,
    exports=True,
    optimum_backend="onnxruntime",
    optimum_package="onnxruntime",
)
