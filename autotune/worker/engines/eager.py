"""Eager: the model as transformers runs it, the baseline and reference of everything.

Source: torch's own kernels, one operator at a time.
Precisions: fp32; bf16 (by autocast, or the whole model converted); int8_dynamic
(torch.ao.quantization, weights int8, activations quantised per batch: answers change with
batch and padding).
Versions: torch 2.8 to 2.13, transformers 4.49 to 5.x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from autotune.records import ModelSource, Scalar
from autotune.worker.batches import Batch
from autotune.worker.engines import torch_model
from autotune.worker.engines.base import Engine, Environment, Prepared


class EagerEngine(Engine):
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "int8_dynamic")

    @classmethod
    def unsupported(cls, precision: str, environment: Environment) -> str | None:
        return torch_model.unsupported_precision(precision, environment)

    def prepare(
        self, source: ModelSource, options: Mapping[str, Scalar], samples: Sequence[Batch]
    ) -> Prepared:
        model, _ = torch_model.load(source, str(options["attention"]))
        return Prepared(call=torch_model.at_precision(model, source, options))
