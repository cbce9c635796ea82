"""torch.compile with the inductor backend: the model as generated C++ kernels.

Source: https://docs.pytorch.org/docs/2.8/torch.compiler.html. Weights are frozen into the
graph (`torch._inductor.config.freezing`), which packs them for oneDNN in bfloat16.
Precisions: as eager, and int8_static (see `pt2e`) for int8_dynamic. Versions: torch 2.8 to
2.13; needs a C++ compiler.
Limits: preparing takes 15 to 60 s. With `dynamic_shapes` one graph serves every shape,
without it each shape is compiled; more shapes than RECOMPILES is a failure, where torch would
return to eager. Compiled code is cached in a folder of the run.
"""

from __future__ import annotations

import os
import shutil
from typing import Any, ClassVar

import torch
import torch._dynamo
import torch._inductor.config

from autotune.errors import TrialFailure
from autotune.worker.engines import pt2e, torch_model
from autotune.worker.engines.base import (
    TOLERANCE,
    Engine,
    Environment,
    Material,
    Prepared,
    unsupported_precision,
)
from autotune.worker.engines.torch_model import SIMULATED, Runnable

RECOMPILES = 64
COMPILERS = ("g++", "clang++", "c++")


def compiled(runnable: Runnable, *, backend: str, dynamic: bool, max_autotune: bool) -> Runnable:
    """`runnable` with its model compiled as one graph, at the first call."""
    torch._inductor.config.freezing = True
    if max_autotune:
        torch._inductor.config.max_autotune = True
    torch._dynamo.config.recompile_limit = RECOMPILES
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    model: Any = torch.compile(runnable.model, backend=backend, dynamic=dynamic, fullgraph=True)
    return Runnable(model, runnable.outputs, runnable.context)


class InductorEngine(Engine):
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "bf16_matmul", "int8_static")
    backend: ClassVar[str] = "inductor"

    @classmethod
    def unsupported(cls, precision: str, environment: Environment) -> str | None:
        if not any(map(shutil.which, COMPILERS)):
            return f"inductor needs a C++ compiler on PATH ({', '.join(COMPILERS)}); install g++"
        if precision == "int8_static":
            reason = pt2e.unavailable(environment.versions)
            if reason is not None:
                return reason
        return unsupported_precision(precision, environment)

    @property
    def specialises_by_shape(self) -> bool:
        return not self.options.get("dynamic_shapes", True)

    def prepare(self, material: Material) -> Prepared:
        # inductor has no other way to be told, and reads it when it first compiles. Its default
        # is a folder that all users of the machine share.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(material.cached("inductor"))
        options, precision = self.options, str(self.options["precision"])
        if precision == "int8_static":
            runnable = pt2e.quantized(material, str(options["attention"]))
        else:
            model, _ = torch_model.load(material.source, str(options["attention"]))
            runnable = torch_model.at_precision(model, material, options)
        dynamic = bool(options.get("dynamic_shapes", True))
        call = compiled(
            runnable,
            backend=self.backend,
            dynamic=dynamic,
            max_autotune=bool(options.get("max_autotune", False)),
        )
        samples = material.samples if dynamic else material.samples[:1]
        try:
            tolerance = SIMULATED if precision == "int8_static" else TOLERANCE[precision]
            difference = torch_model.compare(runnable, call, samples, tolerance)
        except torch._dynamo.exc.TorchDynamoException as error:
            words = str(error).strip().splitlines()
            raise TrialFailure(
                "fallback", f"torch.compile failed: {words[0] if words else type(error).__name__}"
            ) from error
        return Prepared(call=call, effective={"compile_difference": difference})
