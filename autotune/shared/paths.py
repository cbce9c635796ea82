"""Paths as people write them: what is at a path, and one line where that cannot be known."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import Literal

from autotune.shared.errors import InputError

DOWNLOAD_VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")
"""Environment variables that say where downloads of the hub are kept, besides HOME."""


def home_folder() -> Path | None:
    """The user's home folder; None for a user id without an entry, where HOME is not set."""
    home = os.path.expanduser("~")
    return Path(home) if os.path.isabs(home) else None


def check_downloads(what: str, error: type[InputError]) -> None:
    """Raises `error`, whose message begins with `what`, if downloads could be kept nowhere."""
    if home_folder() is None and not any(map(os.environ.get, DOWNLOAD_VARIABLES)):
        raise error(
            f"{what} is a name on the hub, and there is no home folder to keep it in: set HOME or "
            "HF_HOME, or pass a local path"
        )


def written(text: str, what: str, error: type[InputError] = InputError) -> Path:
    """The path that a person wrote as `text`; `~` and `~user` stand for home folders.

    Raises `error`, whose message begins with `what`, if there is no such home folder, or if the
    name is no text in this locale: the files of a run could not hold it.
    """
    try:
        path = Path(text).expanduser()
        str(path).encode()
    except RuntimeError:
        raise error(f"{what} {text}: there is no such home folder; write the whole path") from None
    except UnicodeEncodeError:
        raise error(
            f"{what} {text!a}: the name is no text in this locale; rename it, or set LC_ALL=C.UTF-8"
        ) from None
    return path


def kind_of(
    path: Path, what: str, error: type[InputError] = InputError
) -> Literal["file", "folder"] | None:
    """What is at `path`; None if nothing is. Everything that is no folder is a file.

    Raises `error`, whose message begins with `what`, if that cannot be known: a folder on the way
    may not be entered, or a name is too long.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as refused:
        raise error(f"{what} {path} cannot be read: {refused.strerror}") from refused
    except ValueError as refused:  # a null character
        raise error(f"{what} {str(path)!a} cannot be read: {refused}") from refused
    return "folder" if stat.S_ISDIR(mode) else "file"


def shell_word(path: str | Path, encoding: str = "utf-8") -> str:
    """`path` as one word of a bash command that can be printed in `encoding` and pasted.

    Characters that cannot be printed, or not with the bytes of the name, are written as bytes:
    `$'caf\\xc3\\xa9'`.
    """
    text, name = str(path), os.fsencode(path)
    try:
        if text.isprintable() and text.encode(encoding) == name:
            return shlex.quote(text)
    except UnicodeEncodeError:
        pass
    shown = (
        chr(byte) if 32 <= byte < 127 and chr(byte) not in "\\'" else f"\\x{byte:02x}"
        for byte in name
    )
    return f"$'{''.join(shown)}'"
