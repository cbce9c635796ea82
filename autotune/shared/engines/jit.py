"""The descriptor of `jit`: TorchScript."""

from __future__ import annotations

from autotune.shared.engine import EngineDescriptor
from autotune.shared.flags import ScriptFlag
from autotune.shared.options import BF16_METHOD, INT8_WEIGHTS, LINEAR
from autotune.shared.precisions import BF16, BF16_MATMUL, FP32, INT8_DYNAMIC

JIT_MODE_EVAL = ScriptFlag(
    name="jit_mode_eval",
    before=(5, 0),
    otherwise="transformers {version} has no --jit_mode_eval",
)
ENGINE = EngineDescriptor(
    name="jit",
    implementation="autotune.worker.engines.jit:JitEngine",
    precisions=(FP32, BF16, BF16_MATMUL, INT8_DYNAMIC),
    options=(BF16_METHOD, LINEAR, INT8_WEIGHTS),
    colour="#1f77b4",
    script_flags=(JIT_MODE_EVAL,),
)
