"""inductor: torch.compile generates C++ kernels for the model and compiles them.

`prepare` freezes the weights into the graph (`torch._inductor.config.freezing`). In bfloat16,
freezing packs them for oneDNN.

Source: https://docs.pytorch.org/docs/2.8/torch.compiler.html and, for packages,
https://docs.pytorch.org/docs/2.8/torch.compiler_aot_inductor.html.
Precisions: fp32, bf16 and bf16_matmul as in eager, and int8_static (see `pt2e`).
Versions: torch 2.8 to 2.13.
Limits: inductor needs a C++ compiler. Preparing takes 15 to 60 s. With `dynamic_shapes` one graph
serves every shape; without it, every shape is compiled. After MAX_RECOMPILATIONS compilations the
configuration fails, where torch by default would return to eager. The compiled code is cached in
a folder of the run.

For production, the model is compiled ahead of time into a package of the same kernels, with the
same answers. A package needs neither the compiler nor the model. If no package can be made,
production uses the cache of compiled code instead.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch._dynamo
import torch._dynamo.utils
import torch._inductor
import torch._inductor.config

from autotune.shared.errors import TrialFailure
from autotune.shared.precisions import precision_named
from autotune.shared.records import Scalar
from autotune.worker.engines import pt2e, torch_model
from autotune.worker.engines.base import (
    Engine,
    Environment,
    Material,
    Prepared,
    unsupported_precision,
    write_atomically,
)
from autotune.worker.engines.share import check_share, check_torch_share
from autotune.worker.engines.torch_model import Runnable, as_tensors

MAX_RECOMPILATIONS = 64
"""How often one model may be compiled again for new shapes. torch's own default is 8."""
COMPILERS = ("g++", "clang++", "c++")
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""The environment variable that names inductor's folder of compiled code."""
PACKAGED_PRECISIONS = ("fp32", "bf16")
"""Precisions that a package can hold. bf16_matmul is a setting of the process, and the quantised
graph of int8_static cannot be exported again."""


def compile_model(runnable: Runnable, *, backend: str, dynamic: bool) -> Runnable:
    """`runnable` with its model as one graph, which is compiled at the first call."""
    torch._dynamo.config.recompile_limit = MAX_RECOMPILATIONS
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    model: Any = torch.compile(runnable.model, backend=backend, dynamic=dynamic, fullgraph=True)
    return Runnable(model, runnable.inputs, runnable.context)


def load_package(path: Path, inputs: tuple[str, ...]) -> Runnable:
    """A model that was compiled ahead of time."""
    return Runnable(torch._inductor.aoti_load_package(str(path)), inputs)


def int8_kernels_per_graph() -> float:
    """How many products the graphs compiled since `prepare` began run in int8, on average.

    inductor counts the quantised products that it turned into int8 kernels. It computes the
    others in float32.
    """
    counters = torch._dynamo.utils.counters
    kinds = ("qlinear_weight_prepack_matcher_count", "qconv_weight_prepack_matcher_count")
    found = sum(int(counters["inductor"][kind]) for kind in kinds)
    return found / max(int(counters["stats"]["unique_graphs"]), 1)


def compile_package(runnable: Runnable, material: Material, path: Path) -> Runnable:
    """`runnable` compiled ahead of time into the file `path`. Raises whatever torch raises."""
    inputs = material.inputs
    example = as_tensors(material.samples[0], inputs)
    cache_before = os.environ[CACHE_VARIABLE]
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad(), runnable.context():
        os.environ[CACHE_VARIABLE] = scratch
        try:
            exported = torch.export.export(
                runnable.model,
                example,
                dynamic_shapes=torch_model.dynamic_shapes(material.arrays, material.samples),
                strict=False,
            )
            with write_atomically(path) as partial:
                torch._inductor.aoti_compile_and_package(exported, package_path=str(partial))
        finally:
            os.environ[CACHE_VARIABLE] = cache_before
    return load_package(path, inputs)


class InductorEngine(Engine):
    backend: ClassVar[str] = "inductor"

    @classmethod
    def unsupported(cls, precision: str, environment: Environment) -> str | None:
        if not any(map(shutil.which, COMPILERS)):
            return f"inductor needs a C++ compiler on PATH ({', '.join(COMPILERS)}): install g++"
        if precision_named(precision).calibrated:
            reason = pt2e.missing_quantizer(environment.versions)
            if reason is not None:
                return reason
        return unsupported_precision(precision, environment)

    @property
    def specialises_by_shape(self) -> bool:
        return not self.options.get("dynamic_shapes", True)

    def prepare(self, material: Material) -> Prepared:
        # inductor's default folder is shared by all users of the machine. Only this variable
        # changes it, and inductor reads the variable when it first compiles.
        os.environ[CACHE_VARIABLE] = str(material.cached("inductor"))
        options, precision = self.options, str(self.options["precision"])
        torch._inductor.config.freezing = True
        torch._dynamo.utils.counters.clear()  # `int8_kernels_per_graph` counts this engine alone
        if options.get("max_autotune", False):
            torch._inductor.config.max_autotune = True
        dynamic = bool(options.get("dynamic_shapes", True))
        path = material.cached(f"{'-'.join(str(value) for value in options.values())}.pt2")
        if path.exists():
            packaged = load_package(path, material.inputs)
            return Prepared(call=packaged, effective={"ahead_of_time": True})
        quantized, tolerance = None, precision_named(precision).tolerance
        if precision_named(precision).calibrated:
            quantized = pt2e.quantize_model(material, str(options["attention"]))
            runnable = quantized.runnable
        else:
            model = torch_model.load_for(material, str(options["attention"]))
            runnable = torch_model.apply_precision(model, material, options)
        if material.for_production and dynamic and self._can_be_packaged:
            try:
                packaged = compile_package(runnable, material, path)
                difference = torch_model.compare(runnable, packaged, material, tolerance)
                effective = {"ahead_of_time": True, "compile_difference": difference}
                shares = self._shares(runnable, quantized, material)
                return Prepared(call=packaged, effective={**effective, **shares})
            except Exception as error:
                path.unlink(missing_ok=True)
                print(
                    f"no package was made, so production uses the cache of compiled code: {error}",
                    file=sys.stderr,
                )
        compiled = compile_model(runnable, backend=self.backend, dynamic=dynamic)
        compared = material if dynamic else replace(material, samples=material.samples[:1])
        try:
            difference = torch_model.compare(runnable, compiled, compared, tolerance)
        except torch._dynamo.exc.TorchDynamoException as error:
            # The first line names the backend, the second what it raised.
            lines = str(error).strip().splitlines()[:2] or [type(error).__name__]
            raise TrialFailure("fallback", f"torch.compile failed: {' '.join(lines)}") from error
        shares = self._shares(runnable, quantized, material)
        return Prepared(call=compiled, effective={"compile_difference": difference, **shares})

    def _shares(
        self, runnable: Runnable, quantized: pt2e.QuantizedGraph | None, material: Material
    ) -> dict[str, Scalar]:
        """`check_share` of what was compiled.

        inductor computes a product in the type that the model gives it, so bf16 is counted in
        the model itself. Quantised products may stay float32: inductor says how many did not.
        """
        if quantized is None:
            sample = material.samples[0]
            return check_torch_share(lambda: runnable(sample), self.options, material)
        compiled = min(int8_kernels_per_graph() / max(quantized.products, 1), 1.0)
        done = compiled * quantized.int8_operations
        return check_share("precision=int8_static", "int8", done, quantized.operations, material)

    @property
    def _can_be_packaged(self) -> bool:
        return self.backend == "inductor" and self.options["precision"] in PACKAGED_PRECISIONS
