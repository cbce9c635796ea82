"""The descriptor of `ipex_jit`: Intel Extension for PyTorch with graph mode."""

from __future__ import annotations

from autotune.shared.engine import EngineDescriptor
from autotune.shared.engines.ipex import ENGINE as IPEX
from autotune.shared.engines.ipex import USE_IPEX
from autotune.shared.engines.jit import JIT_MODE_EVAL
from autotune.shared.options import AUTO_KERNEL_SELECTION, INT8_REST
from autotune.shared.precisions import BF16, FP32, INT8_DYNAMIC, INT8_STATIC

ENGINE = EngineDescriptor(
    name="ipex_jit",
    implementation="autotune.worker.engines.ipex:IpexJitEngine",
    precisions=(FP32, BF16, INT8_DYNAMIC, INT8_STATIC),
    options=(AUTO_KERNEL_SELECTION, INT8_REST),
    colour="#2ca02c",
    distributions=IPEX.distributions,
    extra=IPEX.extra,
    script_flags=(USE_IPEX, JIT_MODE_EVAL),
    optimum_backend=IPEX.optimum_backend,
    optimum_package=IPEX.optimum_package,
)
