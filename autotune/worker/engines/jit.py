"""TorchScript: the model traced once with dict inputs, then frozen.

Source: https://docs.pytorch.org/docs/2.8/generated/torch.jit.trace.html and the Hugging Face
guide on CPU inference. Deprecated from torch 2.11, still present in 2.13.
Precisions: as eager. Limits: a trace is a recording; it is compared with the module it was
made from on shorter, longer and odd batches, and refused where it differs. A tracing error
is a `fallback` failure with the tracer's words, never a silent return to eager.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch

from autotune.shared.errors import TrialFailure
from autotune.worker.batches import Batch
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
from autotune.worker.engines.torch_model import Runnable, tensors

PLAIN = ("fp32", "bf16")
DIFFERENCE = "difference"


def trace(runnable: Runnable, samples: Sequence[Batch], tolerance: float) -> tuple[Runnable, float]:
    """The traced and frozen callable, and its largest difference from `runnable`.

    Raises TrialFailure `fallback` when tracing or freezing fails, `inaccurate` when the
    trace is not valid for the shapes of `samples`.
    """
    # Without this, a texpr fusion group is compiled anew for every shape (IPEX's own advice
    # for dynamic shapes).
    torch._C._jit_set_texpr_fuser_enabled(False)
    example = tensors(samples[0])
    with torch.no_grad(), runnable.context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TracerWarnings: judged by comparing, below
        try:
            traced = torch.jit.trace(
                runnable.model,
                example_kwarg_inputs=example,
                check_trace=False,  # compared below, on other shapes than the example's
                strict=False,  # lets the model return its outputs by name
            )
            traced = torch.jit.freeze(traced)
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).strip()}"
            raise TrialFailure("fallback", f"torch.jit.trace failed: {reason}") from error
    # Autocast's conversions are part of the trace: it needs no context of its own.
    call = settled(traced, runnable.outputs, samples[0])
    return call, torch_model.compare(runnable, call, samples, tolerance)


def settled(traced: torch.jit.ScriptModule, outputs: tuple[str, ...], sample: Batch) -> Runnable:
    """A traced module that has been optimised: the profiling executor records a call, then
    optimises in the next."""
    call = Runnable(traced, outputs)
    call(sample)
    call(sample)
    return call


class JitEngine(Engine):
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "bf16_matmul", "int8_dynamic")

    @classmethod
    def unsupported(cls, precision: str, environment: Environment) -> str | None:
        return unsupported_precision(precision, environment)

    def prepare(self, material: Material) -> Prepared:
        attention, precision = str(self.options["attention"]), str(self.options["precision"])
        method = self.options.get("bf16_method", "")
        path = material.cached(f"jit-{attention}-{precision}{method}.pt")
        names = tuple(material.source.outputs)
        if self.options.get("linear", "torch") == "torch" and path.exists():
            return restored(path, names, material.samples[0])
        model, _ = torch_model.load(material.source, attention)
        runnable = torch_model.at_precision(model, material, self.options)
        call, difference = trace(runnable, material.samples, TOLERANCE[precision])
        # Weights packed for oneDNN or int8 cannot be written.
        if material.for_production and precision in PLAIN and self.options.get("linear") == "torch":
            save(call, path, difference)
            return restored(path, names, material.samples[0])
        return Prepared(call=call, effective={"trace_difference": difference})


def save(call: Runnable, path: Path, difference: float) -> None:
    """Write the traced module, with how far it was from what it was traced from."""
    with in_one_step(path) as partial:
        torch.jit.save(call.model, str(partial), _extra_files={DIFFERENCE: str(difference)})


def restored(path: Path, outputs: tuple[str, ...], sample: Batch) -> Prepared:
    """What `save` wrote, ready to run; it was compared before it was written."""
    torch._C._jit_set_texpr_fuser_enabled(False)
    extra = {DIFFERENCE: ""}
    with torch.no_grad():
        call = settled(torch.jit.load(str(path), _extra_files=extra), outputs, sample)
    return Prepared(call=call, effective={"trace_difference": float(extra[DIFFERENCE])})
