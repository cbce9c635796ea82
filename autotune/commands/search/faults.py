"""Turns what a host or a storage does to a search into one line that says how to go on."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from autotune.shared.errors import InputError, OutputError, shorten
from autotune.shared.paths import shell_word
from autotune.shared.urls import without_password
from autotune.store.folder import RunFolder

FULL = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE = (
    *(errno.EROFS, errno.EIO, errno.ESTALE),
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR),
)
"""errno values that mean a file's place is full, or that it is read-only, broken or gone."""


@contextlib.contextmanager
def explained(folder: RunFolder) -> Iterator[None]:
    """Turn an OSError, or an error of the study's storage, into an InputError.

    Its message says what failed, and how to go on.
    """
    go_on = f"continue with --resume --output {shell_word(folder.path)}"
    try:
        yield
    except OSError as error:
        raise _of_host(error, folder, go_on) from error
    except Exception as error:
        lock = error.__context__
        if type(error) is RuntimeError and isinstance(lock, OSError) and _is_inside(lock, folder):
            raise _of_host(lock, folder, go_on) from error  # Optuna's lock file is gone
        if not _is_of_storage(error):
            raise
        words = shorten(without_password(f"{type(error).__name__}: {error}"))
        raise InputError(f"--storage failed: {words}; {go_on}") from error


def _of_host(error: OSError, folder: RunFolder, go_on: str) -> InputError:
    """What to raise in place of `error`. `go_on` is the end of its message."""
    if error.errno in FULL:
        return OutputError(f"{folder.path}: {error}; free some space, then {go_on}")
    if error.errno in UNWRITABLE and _is_inside(error, folder):
        words = f"{folder.path} cannot be written: {error}; make it writable, then {go_on}"
        return OutputError(words)
    return InputError(f"the search was stopped by this host: {error}; {go_on}")


def _is_of_storage(error: Exception) -> bool:
    """Whether `error` is one of Optuna's own, or one of the library that it opens databases with.

    Neither library is imported here: an error of theirs means that it was.
    """
    kinds = (("optuna.exceptions", "OptunaError"), ("sqlalchemy.exc", "SQLAlchemyError"))
    return any(
        module in sys.modules and isinstance(error, getattr(sys.modules[module], name))
        for module, name in kinds
    )


def _is_inside(error: OSError, folder: RunFolder) -> bool:
    """Whether `error` is about a file in `folder`, as far as it says."""
    if error.filename is None:
        return True
    place = Path(os.fsdecode(error.filename)).absolute()
    return place.is_relative_to(folder.path.absolute())
