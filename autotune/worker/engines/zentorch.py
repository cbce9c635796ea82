"""zentorch: torch.compile with AMD's backend, which uses the library ZenDNN.

Source: https://github.com/amd/ZenDNN-pytorch-plugin.
Precisions: fp32 and bf16.
Versions: zentorch and torch must have the same major and minor number.
Limits: those of inductor, except that nothing is compiled ahead of time. zentorch's bfloat16 has
given wrong answers without a warning. `prepare` therefore compares the outputs with torch's own
at the same precision, and the gate compares the accuracy.
"""

from __future__ import annotations

from typing import ClassVar

from autotune.shared.errors import TrialFailure, describe
from autotune.worker.engines.base import Environment, Material, Prepared
from autotune.worker.engines.inductor import InductorEngine
from autotune.worker.versions import series


class ZentorchEngine(InductorEngine):
    backend: ClassVar[str] = "zentorch"

    @classmethod
    def unsupported(cls, precision: str, environment: Environment) -> str | None:
        versions = environment.versions
        found, torch = versions.get("zentorch"), versions["torch"]
        if found is None:
            return "zentorch is not installed in this stack: pip install zentorch"
        if series(found) != series(torch):
            return f"zentorch {found} needs torch {series(found)}.x, this stack has {torch}"
        return super().unsupported(precision, environment)

    def prepare(self, material: Material) -> Prepared:
        try:
            import zentorch  # noqa: F401  # registers the backend
        except (Exception, SystemExit) as error:
            raise TrialFailure(
                "unsupported", f"zentorch does not load: {describe(error)}"
            ) from error
        return super().prepare(material)
