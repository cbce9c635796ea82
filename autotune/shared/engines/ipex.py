"""The descriptor of `ipex`: Intel Extension for PyTorch without graph mode."""

from __future__ import annotations

from autotune.shared.engine import EngineDescriptor
from autotune.shared.flags import ScriptFlag
from autotune.shared.options import AUTO_KERNEL_SELECTION
from autotune.shared.precisions import BF16, FP32

PACKAGE = "intel-extension-for-pytorch"
USE_IPEX = ScriptFlag(
    name="use_ipex",
    first=(4, 49),
    before=(4, 53),
    otherwise="--use_ipex does nothing in transformers {version}",
)
ENGINE = EngineDescriptor(
    name="ipex",
    implementation="autotune.worker.engines.ipex:IpexEngine",
    precisions=(FP32, BF16),
    options=(AUTO_KERNEL_SELECTION,),
    colour="#17becf",
    distributions=(PACKAGE,),
    extra="ipex",
    script_flags=(USE_IPEX,),
    optimum_backend="ipex",
    optimum_package=PACKAGE,
)
