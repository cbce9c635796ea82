"""The user's cache: results that later searches on this machine use again.

Every file in it may be deleted at any time. The next search that needs the file makes it again.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import platformdirs

NOWHERE = Path(os.devnull)
"""The cache of a user without a home folder: below a device nothing can be read or written."""


def folder() -> Path:
    """The path of the cache: `$XDG_CACHE_HOME/autotune`, by default `~/.cache/autotune`.

    A user id without an entry, as in some containers, may have neither. The path is then below
    NOWHERE.
    """
    try:
        found = platformdirs.user_cache_path("autotune")
    except RuntimeError:
        return NOWHERE / "autotune"
    return found if found.is_absolute() else NOWHERE / "autotune"


def write(path: Path, text: str) -> None:
    """Replace the cache file `path` by `text` in one step.

    If the cache cannot be written, the old file stays and no error is raised, because nothing
    depends on the cache.
    """
    with contextlib.suppress(OSError):
        replace(path, text.encode())


def replace(path: Path, content: bytes) -> None:
    """Replace the cache file `path` by `content` in one step. Raises OSError if that fails."""
    partial = path.with_name(f"{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
