"""The descriptor of `openvino`: OpenVINO."""

from __future__ import annotations

from autotune.shared.engine import EngineDescriptor
from autotune.shared.options import INT8_REST
from autotune.shared.precisions import BF16, FP32, INT8_STATIC

ENGINE = EngineDescriptor(
    name="openvino",
    implementation="autotune.worker.engines.openvino:OpenVinoEngine",
    precisions=(FP32, BF16, INT8_STATIC),
    options=(INT8_REST,),
    colour="#d62728",
    distributions=("openvino", "nncf"),
    extra="openvino",
    own_threads=True,
    exports=True,
    optimum_backend="openvino",
    optimum_package="openvino",
)
