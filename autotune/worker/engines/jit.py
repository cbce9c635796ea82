"""jit: TorchScript. The model is traced once, for its named outputs alone, and then frozen.

Source: https://docs.pytorch.org/docs/2.8/generated/torch.jit.trace.html and the Hugging Face
guide on CPU inference.
Precisions: fp32, bf16, bf16_matmul and int8_dynamic, as in eager.
Versions: torch 2.8 to 2.13. torch deprecates TorchScript from 2.11 on.
Limits: a trace records one run of the model, so it may be wrong for other shapes. `trace`
compares the trace with the model on shorter, longer and odd batches, and refuses it if they
differ. If tracing fails, the configuration fails as `fallback`: eager is never timed instead.
For production, traces of fp32 and bf16 are saved, so that the model is not loaded again.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from autotune.shared.errors import TrialFailure, describe
from autotune.shared.precisions import precision_named
from autotune.worker.batches import Batch
from autotune.worker.engines import torch_model
from autotune.worker.engines.base import (
    Engine,
    Environment,
    Material,
    Prepared,
    unsupported_precision,
    write_atomically,
)
from autotune.worker.engines.share import check_torch_share
from autotune.worker.engines.torch_model import Runnable, as_tensors

SAVED_PRECISIONS = ("fp32", "bf16")
"""Precisions whose traces can be saved. Weights packed for int8 or oneDNN cannot be written, and
bf16_matmul is a setting of the process."""
DIFFERENCE_FILE = "difference"
"""The file inside a saved trace that holds the trace's difference from the model."""


def trace(runnable: Runnable, material: Material, tolerance: float) -> tuple[Runnable, float]:
    """The traced and frozen callable, and its largest difference from `runnable`.

    The model must not have run yet: some keep tables for the width they ran last (ESM), which the
    trace would hold as constants.

    Raises TrialFailure `fallback` if tracing or freezing fails, and `inaccurate` if the trace
    differs from `runnable` by more than `tolerance` on a sample (see `torch_model.compare`).
    """
    # The texpr fuser compiles again for every shape. IPEX's guide advises to disable it for
    # dynamic shapes.
    torch._C._jit_set_texpr_fuser_enabled(False)
    example = as_tensors(material.samples[0], runnable.inputs)
    with torch.no_grad(), runnable.context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TracerWarnings: `compare` below finds what matters
        try:
            traced = torch.jit.trace(
                runnable.model,
                example,
                check_trace=False,  # `compare` below checks more shapes than the example's
            )
            traced = torch.jit.freeze(traced)
        except Exception as error:
            reason = describe(error)
            raise TrialFailure("fallback", f"torch.jit.trace failed: {reason}") from error
    # The trace contains the conversions of autocast, so it runs without the autocast context.
    call = optimise_trace(traced, runnable.inputs, material.samples[0])

    def run_trace(batch: Batch) -> Sequence[npt.NDArray[np.float32]]:
        try:
            return call(batch)
        except Exception as error:
            reason = f"the trace fails on a batch of shape {batch.shape}: {describe(error)}"
            raise TrialFailure("inaccurate", reason) from error

    return call, torch_model.compare(runnable, run_trace, material, tolerance)


def optimise_trace(
    traced: torch.jit.ScriptModule, inputs: tuple[str, ...], sample: Batch
) -> Runnable:
    """The traced module as a callable, after the two calls in which TorchScript optimises it.

    TorchScript's executor profiles the first call and optimises the module in the second one.
    """
    call = Runnable(traced, inputs)
    call(sample)
    call(sample)
    return call


class JitEngine(Engine):
    @classmethod
    def unsupported(cls, precision: str, environment: Environment) -> str | None:
        return unsupported_precision(precision, environment)

    def prepare(self, material: Material) -> Prepared:
        attention, precision = str(self.options["attention"]), str(self.options["precision"])
        method = self.options.get("bf16_method", "")
        # Earlier versions saved traces that take tensors by name, as jit-*.pt.
        path = material.cached(f"trace-{attention}-{precision}{method}.pt")
        sample = material.samples[0]
        if self.options.get("linear", "torch") == "torch" and path.exists():
            return load_trace(path, material.inputs, sample)
        model = torch_model.load_for(material, attention)
        runnable = torch_model.apply_precision(model, material, self.options)
        call, difference = trace(runnable, material, precision_named(precision).tolerance)
        shares = check_torch_share(lambda: call(sample), self.options, material)
        unpacked = self.options.get("linear") == "torch"
        if material.for_production and precision in SAVED_PRECISIONS and unpacked:
            save_trace(call, path, difference)
            return load_trace(path, material.inputs, sample)
        return Prepared(call=call, effective={"trace_difference": difference, **shares})


def save_trace(call: Runnable, path: Path, difference: float) -> None:
    """Write the traced module to `path`, with its difference from the model (see `trace`)."""
    with write_atomically(path) as partial:
        torch.jit.save(call.model, str(partial), _extra_files={DIFFERENCE_FILE: str(difference)})


def load_trace(path: Path, inputs: tuple[str, ...], sample: Batch) -> Prepared:
    """The traced module that `save_trace` wrote, ready to run.

    The module is not compared again: `trace` compared it before it was saved.
    """
    torch._C._jit_set_texpr_fuser_enabled(False)
    extra = {DIFFERENCE_FILE: ""}
    with torch.no_grad():
        traced = torch.jit.load(str(path), _extra_files=extra)
        call = optimise_trace(traced, inputs, sample)
    return Prepared(call=call, effective={"trace_difference": float(extra[DIFFERENCE_FILE])})
