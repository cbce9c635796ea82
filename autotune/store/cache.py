"""The user's cache: what later searches on this machine may use again.

Every file in it can be removed at any time; it is then made again.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def folder() -> Path:
    """`$XDG_CACHE_HOME/autotune`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autotune"


def write(place: Path, text: str) -> None:
    """Replace the file `place` of the cache in one step. A cache that cannot be written is left
    as it is: nothing depends on it."""
    partial = place.with_name(f"{os.getpid()}-{place.name}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(place)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
