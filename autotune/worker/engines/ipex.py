"""Intel Extension for PyTorch: `ipex.optimize`, with or without the graph (jit) mode.

Source: https://intel.github.io/intel-extension-for-pytorch/cpu/2.8.0+cpu/ and the Hugging
Face guide on CPU inference (`--use_ipex`, `--jit_mode_eval`).
Precisions: fp32; bf16 (weights converted, the rest by autocast); with the graph also
int8_static (calibrated) and int8_dynamic, their other operators in `int8_rest`.
Versions: IPEX 2.8 needs torch 2.8 and AVX2; bf16 needs AVX-512. Runs on AMD too.
Limits: packed weights are tied to the number of OpenMP threads, so threads never change
inside a process. `auto_kernel_selection` (fp32) lets oneDNN instead of MKL run Linear. What
calibration saw is kept for the other processes of the run.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from autotune.shared.errors import TrialFailure
from autotune.shared.records import Scalar
from autotune.worker.engines import torch_model
from autotune.worker.engines.base import (
    TOLERANCE,
    Engine,
    Environment,
    Material,
    Prepared,
    in_one_step,
    unsupported_precision,
)
from autotune.worker.engines.jit import trace
from autotune.worker.engines.torch_model import SIMULATED, Runnable, autocast, tensors

AVX512_FOR_BF16 = frozenset({"avx512bw", "avx512vl", "avx512dq"})


def import_ipex() -> Any:
    """The extension's module. Raises TrialFailure `unsupported` where it cannot be used.

    On a torch it was not built for, or below AVX2, its import ends the interpreter or raises
    AttributeError, so everything is caught.
    """
    try:
        import intel_extension_for_pytorch as ipex
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise TrialFailure(
            "unsupported", f"intel_extension_for_pytorch does not load: {reason}"
        ) from error
    return ipex


def optimized(
    material: Material, options: Mapping[str, Scalar]
) -> tuple[Runnable, dict[str, Scalar]]:
    """The model through `ipex.optimize`, and how many modules it replaced.

    Raises TrialFailure `fallback` where it replaced none: eager would have been measured.
    """
    ipex = import_ipex()
    model, _ = torch_model.load(material.source, str(options["attention"]))
    bf16 = options["precision"] == "bf16"
    context = autocast if bf16 else contextlib.nullcontext
    example = tensors(material.samples[0])
    with torch.no_grad(), context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ipex.optimize(
            model,
            dtype=torch.bfloat16 if bf16 else torch.float32,
            inplace=True,
            auto_kernel_selection=bool(options.get("auto_kernel_selection", False)),
            sample_input=tuple(example.values()),
        )
    packed = sum(
        type(module).__module__.startswith("intel_extension_for_pytorch")
        for module in model.modules()
    )
    wanted = bf16 or bool(options.get("auto_kernel_selection", False))
    if wanted and not packed:
        raise TrialFailure("fallback", "ipex.optimize replaced no module of this model")
    return Runnable(model, tuple(material.source.outputs), context), {"ipex_modules": packed}


def quantize_model(
    material: Material, options: Mapping[str, Scalar]
) -> tuple[Runnable, dict[str, Scalar]]:
    """The model prepared and converted by `ipex.quantization`, to be traced."""
    ipex = import_ipex()
    model, _ = torch_model.load(material.source, str(options["attention"]))
    static = options["precision"] == "int8_static"
    mapping = ipex.quantization.default_static_qconfig_mapping
    if not static:
        mapping = ipex.quantization.default_dynamic_qconfig_mapping
    elif not material.vnni:  # eight bits of activations would saturate
        observer = torch.ao.quantization.HistogramObserver.with_args(reduce_range=True)
        weights = torch.ao.quantization.default_per_channel_weight_observer
        qconfig = torch.ao.quantization.QConfig(activation=observer, weight=weights)
        mapping = torch.ao.quantization.QConfigMapping().set_global(qconfig)
    context = autocast if options["int8_rest"] == "bf16" else contextlib.nullcontext
    example = tensors(material.samples[0])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = ipex.quantization.prepare(
            model, mapping, example_kwarg_inputs=example, inplace=True
        )
        if static:
            calibrate(prepared, material, str(options["attention"]))
        converted = ipex.quantization.convert(prepared, inplace=True)
    return Runnable(converted, tuple(material.source.outputs), context), {}


def calibrate(prepared: Any, material: Material, attention: str) -> None:
    """Let `prepared` see the rows kept for it, or read what an earlier process of the run saw:
    that is most of what preparing costs, and the same whatever the process's settings."""
    bits = "8" if material.vnni else "7"
    path = material.cached(f"ipex-{attention}-calibrated-{bits}.json")
    if not path.exists():
        for batch in material.calibration:
            prepared(**tensors(batch))
        with in_one_step(path) as partial:
            prepared.save_qconf_summary(str(partial))
    # Read by the one that wrote it too: all processes have the same.
    prepared.load_qconf_summary(str(path))


class IpexEngine(Engine):
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16")

    @classmethod
    def unsupported(cls, precision: str, environment: Environment) -> str | None:
        if environment.ipex is not None:
            return environment.ipex
        if precision == "bf16" and not environment.instruction_sets >= AVX512_FOR_BF16:
            return "IPEX packs bf16 weights with AVX-512 (BW, VL, DQ), which this CPU lacks"
        return unsupported_precision(precision, environment)

    def prepare(self, material: Material) -> Prepared:
        runnable, effective = optimized(material, self.options)
        return Prepared(call=runnable, effective=effective)


class IpexJitEngine(IpexEngine):
    """Graph mode: the optimised model traced and frozen, where IPEX fuses operators."""

    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "int8_dynamic", "int8_static")

    def prepare(self, material: Material) -> Prepared:
        precision = str(self.options["precision"])
        int8 = precision.startswith("int8")
        runnable, effective = (quantize_model if int8 else optimized)(material, self.options)
        tolerance = SIMULATED if int8 else TOLERANCE[precision]
        call, difference = trace(runnable, material.samples, tolerance)
        return Prepared(call=call, effective={**effective, "trace_difference": difference})
