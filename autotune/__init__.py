"""autotune: the fastest correct way to run one Hugging Face model on one CPU host.

`autotune.tune`, `autotune.load_run` and `autotune.verify` are the Python interface, which is in
`autotune.api`.

This package is two programs. The orchestrator is everything outside `autotune.worker` and never
imports torch. The worker is `autotune.worker`; it is started as a process, on any interpreter that
has torch. Both use `autotune.shared`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.api import (
        AutotuneError,
        InputError,
        SearchError,
        TunedRun,
        load_run,
        tune,
        verify,
    )

__version__ = "0.1.0"
__all__ = [
    "AutotuneError",
    "InputError",
    "SearchError",
    "TunedRun",
    "load_run",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import the interface when it is first asked for: the worker imports this package too."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("autotune.api"), name)
