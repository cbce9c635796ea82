"""Eager: the model as transformers runs it, the baseline and reference of everything.

Source: torch's own kernels, one operator at a time.
Precisions: fp32; bf16 (by autocast, or the whole model converted); bf16_matmul (float32 with
`set_float32_matmul_precision("medium")`); int8_dynamic (weights int8, activations quantised
per batch: answers change with batch and padding). fp32 and bf16 also with `linear: onednn`.
Versions: torch 2.8 to 2.13, transformers 4.49 to 5.x.
"""

from __future__ import annotations

from typing import ClassVar

from autotune.worker.engines import torch_model
from autotune.worker.engines.base import (
    Engine,
    Environment,
    Material,
    Prepared,
    unsupported_precision,
)


class EagerEngine(Engine):
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "bf16_matmul", "int8_dynamic")

    @classmethod
    def unsupported(cls, precision: str, environment: Environment) -> str | None:
        return unsupported_precision(precision, environment)

    def prepare(self, material: Material) -> Prepared:
        model, _ = torch_model.load(material.source, str(self.options["attention"]))
        return Prepared(call=torch_model.at_precision(model, material, self.options))
