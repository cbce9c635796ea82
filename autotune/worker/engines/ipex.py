"""ipex and ipex_jit: Intel Extension for PyTorch, without and with graph (jit) mode.

`ipex.optimize` replaces modules of the model by its own. Graph mode then traces and freezes the
model, and IPEX fuses operators in the graph.

Source: https://intel.github.io/intel-extension-for-pytorch/cpu/2.8.0+cpu/ and the Hugging Face
guide on CPU inference (`--use_ipex`, `--jit_mode_eval`).
Precisions:
- fp32. With `auto_kernel_selection`, Linear layers may run on oneDNN instead of MKL.
- bf16: the packed weights are converted, autocast does the rest.
- int8_dynamic and int8_static (calibrated), in graph mode only. The operators without int8
  kernels run in the precision of `int8_rest`.
Versions: IPEX 2.8 with torch 2.8.
Limits: IPEX needs AVX2, and bf16 needs AVX-512. IPEX also runs on AMD CPUs. Packed weights depend
on the number of OpenMP threads, so a process never changes its number of threads. The processes
of a run share the result of calibration through the cache.
"""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import torch

from autotune.shared.errors import TrialFailure, describe
from autotune.shared.precisions import precision_named
from autotune.shared.records import Config, Scalar
from autotune.worker.batches import Batch
from autotune.worker.engines import linear, torch_model
from autotune.worker.engines.base import (
    Engine,
    Environment,
    Material,
    Prepared,
    unsupported_precision,
    write_atomically,
)
from autotune.worker.engines.jit import trace
from autotune.worker.engines.share import check_share, check_torch_share
from autotune.worker.engines.torch_model import Positional, Runnable, as_tensors, bf16_autocast
from autotune.worker.flops import count_work

ENDS_THE_PROCESS = frozenset({"deberta-v2"})
"""Model types whose int8 graph ends the process with SIGSEGV in IPEX 2.8: its oneDNN fusion asks
the first input of a partition for its device, and that input is no tensor."""
AVX512_FOR_BF16 = frozenset({"avx512bw", "avx512vl", "avx512dq"})


def import_ipex() -> Any:
    """The module of IPEX. Raises TrialFailure `unsupported` if it cannot be imported.

    With another series of torch or without AVX2, the import raises SystemExit or AttributeError.
    Therefore every exception is caught.
    """
    try:
        import intel_extension_for_pytorch as ipex
    except (Exception, SystemExit) as error:
        reason = describe(error)
        raise TrialFailure(
            "unsupported", f"intel_extension_for_pytorch does not load: {reason}"
        ) from error
    return ipex


def optimise_model(material: Material, options: Config) -> tuple[Runnable, dict[str, Scalar]]:
    """The model after `ipex.optimize`, and the number of modules that IPEX replaced.

    IPEX runs a sample by position to see the shapes, so it gets the model as a `Positional`.

    Raises TrialFailure `fallback` if modules should have been replaced and none was: eager would
    be measured.
    """
    ipex = import_ipex()
    model = torch_model.load_for(material, str(options["attention"]))
    linear.unify_linears(model)
    module: Any = Positional(model, material.inputs, material.outputs)
    bf16 = options["precision"] == "bf16"
    context = bf16_autocast if bf16 else contextlib.nullcontext
    with torch.no_grad(), context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = ipex.optimize(
            module,
            dtype=torch.bfloat16 if bf16 else torch.float32,
            inplace=True,
            auto_kernel_selection=bool(options.get("auto_kernel_selection", False)),
            sample_input=as_tensors(material.samples[0], material.inputs),
        )
    packed = sum(
        type(part).__module__.startswith("intel_extension_for_pytorch") for part in module.modules()
    )
    wanted = bf16 or bool(options.get("auto_kernel_selection", False))
    if wanted and not packed:
        raise TrialFailure("fallback", "ipex.optimize replaced no module of this model")
    return Runnable(module, material.inputs, context), {"ipex_modules": packed}


def quantize_model(material: Material, options: Config) -> tuple[Runnable, dict[str, Scalar]]:
    """The model quantised by `ipex.quantization`, not yet traced, and no facts."""
    ipex = import_ipex()
    model = torch_model.load_for(material, str(options["attention"]))
    if model.config.model_type in ENDS_THE_PROCESS:
        raise TrialFailure(
            "unsupported",
            f"IPEX's int8 graphs of {model.config.model_type} end the process with SIGSEGV",
        )
    linear.unify_linears(model)
    static = precision_named(options["precision"]).calibrated
    mapping = ipex.quantization.default_static_qconfig_mapping
    if not static:
        mapping = ipex.quantization.default_dynamic_qconfig_mapping
    elif not material.vnni:  # sums with 8-bit activations would saturate: use 7 bits
        observer = torch.ao.quantization.HistogramObserver.with_args(reduce_range=True)
        weights = torch.ao.quantization.default_per_channel_weight_observer
        qconfig = torch.ao.quantization.QConfig(activation=observer, weight=weights)
        mapping = torch.ao.quantization.QConfigMapping().set_global(qconfig)
    context = bf16_autocast if options["int8_rest"] == "bf16" else contextlib.nullcontext
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            prepared = ipex.quantization.prepare(
                model,
                mapping,
                example_kwarg_inputs=_named(material.samples[0], material),
                inplace=True,
            )
            if static:
                calibrate(prepared, material, str(options["attention"]))
            converted = ipex.quantization.convert(prepared, inplace=True)
        except Exception as error:  # IPEX asserts that every call runs the same operators
            reason = describe(error)
            raise TrialFailure("fallback", f"ipex.quantization failed: {reason}") from error
    module = Positional(converted, material.inputs, material.outputs)
    return Runnable(module, material.inputs, context), {}


def _named(batch: Batch, material: Material) -> dict[str, torch.Tensor]:
    return dict(zip(material.inputs, as_tensors(batch, material.inputs), strict=True))


def calibrate(prepared: Any, material: Material, attention: str) -> None:
    """Calibrate `prepared` on the calibration batches, or load an earlier calibration of the run.

    Calibration takes most of the time of preparing. Its result does not depend on process knobs,
    so all processes of the run share one file.
    """
    bits = "8" if material.vnni else "7"
    path = material.cached(f"ipex-{attention}-calibrated-{bits}.json")
    if not path.exists():
        for batch in material.calibration_rows():
            prepared(**_named(batch, material))
        with write_atomically(path) as partial:
            prepared.save_qconf_summary(str(partial))
    # The process that wrote the file loads it, too, so that all processes quantise alike.
    prepared.load_qconf_summary(str(path))


class IpexEngine(Engine):
    @classmethod
    def unsupported(cls, precision: str, environment: Environment) -> str | None:
        if environment.ipex is not None:
            return environment.ipex
        if precision == "bf16" and not environment.instruction_sets >= AVX512_FOR_BF16:
            return "IPEX needs AVX-512 (BW, VL, DQ) for bf16, and this CPU lacks it"
        return unsupported_precision(precision, environment)

    def prepare(self, material: Material) -> Prepared:
        runnable, effective = optimise_model(material, self.options)
        sample = material.samples[0]
        shares = check_torch_share(lambda: runnable(sample), self.options, material)
        return Prepared(call=runnable, effective={**effective, **shares})


class IpexJitEngine(IpexEngine):
    """Graph mode: the optimised or quantised model, traced and frozen."""

    def prepare(self, material: Material) -> Prepared:
        precision = precision_named(self.options["precision"])
        make = quantize_model if precision.product_type == "int8" else optimise_model
        runnable, effective = make(material, self.options)
        call, difference = trace(runnable, material, precision.limit_when_simulated)
        shares = self._shares(runnable, call, material)
        return Prepared(
            call=call, effective={**effective, "trace_difference": difference, **shares}
        )

    def _shares(self, runnable: Runnable, call: Runnable, material: Material) -> dict[str, Scalar]:
        """`check_share` of the trace `call`, which was made from `runnable`.

        IPEX hides the Linear layers that it packed or fused from torch. So bf16 is counted before
        tracing, and static int8 is what the trace hides of the products before it: until it is
        traced, IPEX's static int8 is simulated in other types.
        """
        sample, precision = material.samples[0], precision_named(self.options["precision"])
        if not precision.calibrated:
            counted = call if precision.product_type == "int8" else runnable
            return check_torch_share(lambda: counted(sample), self.options, material)
        whole = count_work(lambda: runnable(sample)).total
        seen = count_work(lambda: call(sample)).total
        hidden = (whole - seen) * int8_share_of_partitions(
            torch.jit.last_executed_optimized_graph()
        )
        return check_share(f"precision={precision.name}", "int8", hidden, whole, material)


PRODUCTS = ("aten::linear", "aten::matmul", "aten::bmm", "aten::addmm", "aten::_convolution")


def int8_share_of_partitions(graph: Any) -> float:
    """The share of the products inside oneDNN's fused partitions of `graph` that read int8."""
    int8 = other = 0
    for group in graph.findAllNodes("ipex::LlgaFusionGroup"):
        for node in group.g("Subgraph").nodes():
            if node.kind() in PRODUCTS:
                factors = list(node.inputs())[-2:] if node.kind() == "aten::addmm" else None
                factors = factors or list(node.inputs())[:2]
                reads_int8 = all(_is_dequantised(value) for value in factors)
                int8, other = int8 + reads_int8, other + (not reads_int8)
    return int8 / (int8 + other) if int8 else 0.0


def _is_dequantised(value: Any) -> bool:
    """Whether `value` was int8, looking through conversions of its type."""
    node = value.node()
    while node.kind() == "aten::to":
        node = next(node.inputs()).node()
    return bool(node.kind() == "aten::dequantize")
