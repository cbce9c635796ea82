"""transformers, imported without scikit-learn and scipy, which only other uses of it need.

Write `from autotune.worker.slim import transformers` instead of `import transformers`. Every new
process pays for its imports before it measures anything, also under launch.sh. Without
scikit-learn and scipy, importing torch, transformers and a model takes a quarter less time
(`python -X importtime`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

UNUSED_PACKAGES = ("sklearn", "scipy")
"""transformers imports these if they are installed, for assisted generation and for the losses of
object detection."""


@contextmanager
def hide_packages(*names: str) -> Iterator[None]:
    """Inside the block, importing these packages fails as if they were not installed.

    Packages that are imported already stay visible.
    """
    absent = [name for name in names if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def _import_transformers() -> ModuleType:
    with hide_packages(*UNUSED_PACKAGES):
        import transformers
        import transformers.utils

        for name in UNUSED_PACKAGES:  # these functions cache that the package is missing
            getattr(transformers.utils, f"is_{name}_available")()
    return transformers


transformers = _import_transformers()
