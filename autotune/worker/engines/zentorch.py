"""zentorch: AMD's backend of torch.compile, from its ZenDNN library.

Source: https://github.com/amd/ZenDNN-pytorch-plugin. Precisions: fp32, bf16.
Versions: zentorch's major.minor must be torch's. Limits: as inductor; its bfloat16 has given
wrong answers without a warning, which is what the comparison here and the gate are for.
"""

from __future__ import annotations

from typing import ClassVar

from autotune.shared.errors import TrialFailure
from autotune.worker.engines.base import Environment, Material, Prepared
from autotune.worker.engines.inductor import InductorEngine


class ZentorchEngine(InductorEngine):
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16")
    backend: ClassVar[str] = "zentorch"

    @classmethod
    def unsupported(cls, precision: str, environment: Environment) -> str | None:
        versions = environment.versions
        found, torch = versions.get("zentorch"), versions["torch"]
        if found is None:
            return "zentorch is not installed in this stack: pip install 'autotune-cpu[zentorch]'"
        if found.split(".")[:2] != torch.split(".")[:2]:
            series = ".".join(found.split(".")[:2])
            return f"zentorch {found} needs torch {series}.x, this stack has {torch}"
        return super().unsupported(precision, environment)

    def prepare(self, material: Material) -> Prepared:
        try:
            import zentorch  # noqa: F401  # registers the backend
        except (Exception, SystemExit) as error:
            raise TrialFailure(
                "unsupported", f"zentorch does not load: {type(error).__name__}: {error}"
            ) from error
        return super().prepare(material)
