"""The descriptor of `inductor`: torch.compile."""

from __future__ import annotations

from autotune.shared.engine import EngineDescriptor
from autotune.shared.flags import ScriptFlag
from autotune.shared.options import BF16_METHOD, DYNAMIC_SHAPES, MAX_AUTOTUNE
from autotune.shared.precisions import BF16, BF16_MATMUL, FP32, INT8_STATIC

ENGINE = EngineDescriptor(
    name="inductor",
    implementation="autotune.worker.engines.inductor:InductorEngine",
    precisions=(FP32, BF16, BF16_MATMUL, INT8_STATIC),
    options=(BF16_METHOD, DYNAMIC_SHAPES, MAX_AUTOTUNE),
    colour="#9467bd",
    distributions=("torchao",),
    preparing_s=60.0,
    script_flags=(ScriptFlag(name="torch_compile"),),
)
