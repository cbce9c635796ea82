"""Eager: transformers runs the model, one torch operator at a time. Also the baseline.

Source: torch's own kernels; for `linear`, the module `linear` of this package.
Precisions:
- fp32.
- bf16: by autocast, or with the whole model converted (knob `bf16_method`).
- bf16_matmul: float32, with `torch.set_float32_matmul_precision("medium")`.
- int8_dynamic: int8 weights. Activations are quantised batch by batch, so the answers depend on
  the batch size and padding.
fp32 and bf16 can also run Linear layers through oneDNN (`linear: onednn` or `onednn_fused`).
Versions: torch 2.8 to 2.13, transformers 4.49 to 5.x.
Limits: none beyond the CPU's instruction sets.
"""

from __future__ import annotations

from autotune.worker.engines import torch_model
from autotune.worker.engines.base import (
    Engine,
    Environment,
    Material,
    Prepared,
    unsupported_precision,
)
from autotune.worker.engines.share import check_torch_share


class EagerEngine(Engine):
    @classmethod
    def unsupported(cls, precision: str, environment: Environment) -> str | None:
        return unsupported_precision(precision, environment)

    def prepare(self, material: Material) -> Prepared:
        model = torch_model.load_for(material, str(self.options["attention"]))
        runnable = torch_model.apply_precision(model, material, self.options)
        shares = check_torch_share(lambda: runnable(material.samples[0]), self.options, material)
        return Prepared(call=runnable, effective=shares)
