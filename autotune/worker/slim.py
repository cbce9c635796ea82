"""transformers, imported without the libraries that only other uses of it need.

`from autotune.worker.slim import transformers`, instead of importing it: every new process pays
for its imports before it measures anything, launch.sh's too, and scikit-learn and scipy take a
quarter of the time of torch, transformers and a model together (`python -X importtime`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

UNUSED = ("sklearn", "scipy")
"""Imported by transformers wherever they are installed, for assisted generation and for the losses
of object detection."""


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """While it lasts, whoever asks whether they are installed is told that they are not."""
    absent = [name for name in names if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def _imported() -> ModuleType:
    with hidden(*UNUSED):
        import transformers
        import transformers.utils

        for name in UNUSED:  # which remembers the answer
            getattr(transformers.utils, f"is_{name}_available")()
    return transformers


transformers = _imported()
