"""An error of the operating system, in the words of what it is about."""

from __future__ import annotations

import errno
import os

import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages.journal import JournalFileSymlinkLock
from sqlalchemy.exc import OperationalError

from autotune.commands.search.faults import explained
from autotune.shared.errors import InputError, OutputError
from autotune.store.folder import RunFolder


def failing(number, path=None):
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("number", "place", "kind", "words"),
    [
        (errno.ENOSPC, "run/trials.jsonl", OutputError, "No space left .* free some space"),
        (errno.EROFS, "run/best.yaml", OutputError, "run cannot be written: .*Read-only"),
        (errno.ENOENT, "run/best.yaml", OutputError, "run cannot be written: .*No such file"),
        (errno.EACCES, None, OutputError, "run cannot be written: .*Permission denied"),
        (errno.EAGAIN, None, InputError, "stopped by this host: .*temporarily unavailable"),
        (errno.EMFILE, None, InputError, "stopped by this host: .*Too many open files"),
        (errno.ENOMEM, None, InputError, "stopped by this host: .*Cannot allocate memory"),
        (errno.ENOENT, "elsewhere/python", InputError, "stopped by this host: .*elsewhere"),
        (errno.EACCES, "run-other/file", InputError, "stopped by this host: .*run-other"),
    ],
)
def test_only_errors_of_the_runs_folder_say_that_it_cannot_be_written(
    tmp_path, number, place, kind, words
):
    folder = RunFolder(tmp_path / "run")
    path = None if place is None else str(tmp_path / place)
    with pytest.raises(kind, match=words) as caught, explained(folder):
        raise failing(number, path)
    assert type(caught.value) is kind
    assert f"--resume --output {folder.path}" in str(caught.value)


def test_a_study_whose_lock_is_gone_is_an_error_of_the_runs_folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    lock = JournalFileSymlinkLock(str(folder.path / "study.journal"))
    words = r"run cannot be written: .*No such file"
    with pytest.raises(OutputError, match=words), explained(folder):
        lock.release()


def test_another_error_of_a_library_keeps_its_traceback(tmp_path):
    folder = RunFolder(tmp_path / "run")
    for error in (RuntimeError("a bug"), ValueError("a bug")):
        with pytest.raises(type(error)) as caught, explained(folder):
            raise error
        assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [
        StorageInternalError("postgresql://me:pa/ss@db/x\nis gone"),
        OperationalError("SELECT 1", {}, Exception("postgresql://db/x?password=pa/ss is gone")),
    ],
    ids=["optuna", "sqlalchemy"],
)
def test_a_storage_that_fails_is_one_line_without_its_password(tmp_path, error):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(InputError) as caught, explained(folder):
        raise error
    message = str(caught.value)
    assert message.startswith("--storage failed: ")
    assert message.endswith(f"; continue with --resume --output {folder.path}")
    assert "is gone" in message
    assert "\n" not in message
    assert "pa/ss" not in message


def test_a_mistake_of_the_program_is_not_said_to_be_the_storages(tmp_path):
    with pytest.raises(KeyError), explained(RunFolder(tmp_path)):
        raise KeyError("x")
