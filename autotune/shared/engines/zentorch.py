"""The descriptor of `zentorch`: torch.compile with AMD's backend."""

from __future__ import annotations

from autotune.shared.engine import EngineDescriptor
from autotune.shared.options import BF16_METHOD, DYNAMIC_SHAPES
from autotune.shared.precisions import BF16, FP32

ENGINE = EngineDescriptor(
    name="zentorch",
    implementation="autotune.worker.engines.zentorch:ZentorchEngine",
    precisions=(FP32, BF16),
    options=(BF16_METHOD, DYNAMIC_SHAPES),
    colour="#e377c2",
    distributions=("zentorch",),
    extra="zentorch",
    preparing_s=30.0,
)
