"""The descriptor of `eager`, which is also the baseline."""

from __future__ import annotations

from autotune.shared.engine import EngineDescriptor
from autotune.shared.options import BF16_METHOD, INT8_WEIGHTS, LINEAR
from autotune.shared.precisions import BF16, BF16_MATMUL, FP32, INT8_DYNAMIC

ENGINE = EngineDescriptor(
    name="eager",
    implementation="autotune.worker.engines.eager:EagerEngine",
    precisions=(FP32, BF16, BF16_MATMUL, INT8_DYNAMIC),
    options=(BF16_METHOD, LINEAR, INT8_WEIGHTS),
    colour="#7f7f7f",
    script_flags=(),
)
