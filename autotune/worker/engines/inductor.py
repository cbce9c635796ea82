"""torch.compile with the inductor backend: the model as generated C++ kernels.

Source: https://docs.pytorch.org/docs/2.8/torch.compiler.html. Weights are frozen into the
graph (`torch._inductor.config.freezing`), which packs them for oneDNN in bfloat16.
Precisions: as eager, and int8_static (see `pt2e`) for int8_dynamic. Versions: torch 2.8 to
2.13; needs a C++ compiler.
Limits: preparing takes 15 to 60 s. With `dynamic_shapes` one graph serves every shape,
without it each shape is compiled; more shapes than RECOMPILES is a failure, where torch would
return to eager. Compiled code is cached in a folder of the run.

What production starts from is a package compiled ahead of time, which needs neither compiler nor
model (https://docs.pytorch.org/docs/2.8/torch.compiler_aot_inductor.html): the same kernels, so
the same answers. Where the model cannot be exported, it is the cache of compiled code.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch._dynamo
import torch._inductor
import torch._inductor.config

from autotune.shared.errors import TrialFailure
from autotune.worker.batches import Batch
from autotune.worker.engines import pt2e, torch_model
from autotune.worker.engines.base import (
    TOLERANCE,
    Engine,
    Environment,
    Material,
    Prepared,
    in_one_step,
    unsupported_precision,
)
from autotune.worker.engines.torch_model import SIMULATED, Positional, Runnable, tensors

RECOMPILES = 64
COMPILERS = ("g++", "clang++", "c++")
CACHE = "TORCHINDUCTOR_CACHE_DIR"
PACKAGED = ("fp32", "bf16")
"""What a package can hold: bf16_matmul is a setting of the process, and int8's quantised graph
is not exported again."""


def compiled(runnable: Runnable, *, backend: str, dynamic: bool) -> Runnable:
    """`runnable` with its model compiled as one graph, at the first call."""
    torch._dynamo.config.recompile_limit = RECOMPILES
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    model: Any = torch.compile(runnable.model, backend=backend, dynamic=dynamic, fullgraph=True)
    return Runnable(model, runnable.outputs, runnable.context)


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model compiled ahead of time."""

    package: Callable[..., Any]
    inputs: tuple[str, ...]

    @classmethod
    def load(cls, path: Path, inputs: tuple[str, ...]) -> Packaged:
        return cls(torch._inductor.aoti_load_package(str(path)), inputs)

    def __call__(self, batch: Batch) -> list[npt.NDArray[np.float32]]:
        given = tensors(batch)
        with torch.no_grad():
            return [t.float().numpy() for t in self.package(*(given[n] for n in self.inputs))]


def package(runnable: Runnable, material: Material, path: Path) -> Packaged:
    """`runnable` compiled ahead of time into `path`. Raises whatever torch does."""
    inputs = tuple(material.samples[0])
    example = tuple(tensors(material.samples[0]).values())
    before = os.environ[CACHE]
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad(), runnable.context():
        os.environ[CACHE] = scratch
        try:
            exported = torch.export.export(
                Positional(runnable.model, inputs, runnable.outputs),
                example,
                dynamic_shapes=torch_model.dynamic(material.samples),
                strict=False,
            )
            with in_one_step(path) as partial:
                torch._inductor.aoti_compile_and_package(exported, package_path=str(partial))
        finally:
            os.environ[CACHE] = before
    return Packaged.load(path, inputs)


class InductorEngine(Engine):
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "bf16_matmul", "int8_static")
    backend: ClassVar[str] = "inductor"

    @classmethod
    def unsupported(cls, precision: str, environment: Environment) -> str | None:
        if not any(map(shutil.which, COMPILERS)):
            return f"inductor needs a C++ compiler on PATH ({', '.join(COMPILERS)}); install g++"
        if precision == "int8_static":
            reason = pt2e.missing_quantizer(environment.versions)
            if reason is not None:
                return reason
        return unsupported_precision(precision, environment)

    @property
    def specialises_by_shape(self) -> bool:
        return not self.options.get("dynamic_shapes", True)

    def prepare(self, material: Material) -> Prepared:
        # inductor has no other way to be told, and reads it when it first compiles. Its default
        # is a folder that all users of the machine share.
        os.environ[CACHE] = str(material.cached("inductor"))
        options, precision = self.options, str(self.options["precision"])
        torch._inductor.config.freezing = True
        if options.get("max_autotune", False):
            torch._inductor.config.max_autotune = True
        dynamic = bool(options.get("dynamic_shapes", True))
        kept = material.cached(f"{'-'.join(str(value) for value in options.values())}.pt2")
        if kept.exists():
            call = Packaged.load(kept, tuple(material.samples[0]))
            return Prepared(call=call, effective={"ahead_of_time": True})
        if precision == "int8_static":
            runnable = pt2e.quantize_model(material, str(options["attention"]))
        else:
            model, _ = torch_model.load(material.source, str(options["attention"]))
            runnable = torch_model.at_precision(model, material, options)
        tolerance = SIMULATED if precision == "int8_static" else TOLERANCE[precision]
        if (
            material.for_production
            and dynamic
            and precision in PACKAGED
            and self.backend == "inductor"
        ):
            try:
                call = package(runnable, material, kept)
                difference = torch_model.compare(runnable, call, material.samples, tolerance)
                effective = {"ahead_of_time": True, "compile_difference": difference}
                return Prepared(call=call, effective=effective)
            except Exception as error:
                kept.unlink(missing_ok=True)
                print(f"no package, the compiled code is kept: {error}", file=sys.stderr)
        runs = compiled(runnable, backend=self.backend, dynamic=dynamic)
        samples = material.samples if dynamic else material.samples[:1]
        try:
            difference = torch_model.compare(runnable, runs, samples, tolerance)
        except torch._dynamo.exc.TorchDynamoException as error:
            words = str(error).strip().splitlines()
            raise TrialFailure(
                "fallback", f"torch.compile failed: {words[0] if words else type(error).__name__}"
            ) from error
        return Prepared(call=runs, effective={"compile_difference": difference})
