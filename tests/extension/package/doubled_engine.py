"""doubled: eager under `torch.inference_mode`, as an engine of a package of its own.

It also remembers the answers to batches that it has seen. So it is by far the fastest in a search
of the tests, however busy the host is.

Precisions: fp32 and bf16, as in eager.
Versions: those of eager.
Limits: none.

The orchestrator imports this file for the descriptor, so torch is imported inside the methods.
"""

from __future__ import annotations

from typing import Any

from autotune.shared.engine import EngineDescriptor
from autotune.shared.options import BF16_METHOD
from autotune.shared.precisions import BF16, FP32
from autotune.worker.engines.base import (
    Engine,
    Environment,
    Material,
    Prepared,
    unsupported_precision,
)

ENGINE = EngineDescriptor(
    name="doubled",
    implementation="doubled_engine:DoubledEngine",
    precisions=(FP32, BF16),
    options=(BF16_METHOD,),
    extra="doubled",
    distributions=("sympy",),
)


class DoubledEngine(Engine):
    @classmethod
    def unsupported(cls, precision: str, environment: Environment) -> str | None:
        return unsupported_precision(precision, environment)

    def prepare(self, material: Material) -> Prepared:
        import torch

        from autotune.worker.engines import torch_model
        from autotune.worker.engines.share import check_torch_share

        model = torch_model.load_for(material, str(self.options["attention"]))
        runnable = torch_model.apply_precision(model, material, self.options)

        def run(batch):
            with torch.inference_mode():
                return runnable(batch)

        seen: dict[tuple[tuple[str, bytes], ...], list[Any]] = {}

        def call(batch):
            key = tuple((f"{name}{array.shape}", array.tobytes()) for name, array in batch.items())
            if key not in seen:
                seen[key] = run(batch)
            return seen[key]

        shares = check_torch_share(lambda: run(material.samples[0]), self.options, material)
        return Prepared(call=call, effective={**shares, "inference_mode": True})
