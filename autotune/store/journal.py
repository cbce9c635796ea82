"""trials.jsonl: one trial a line. Each is on disk before the next trial begins."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from autotune.shared.errors import OutputError, ResumeError
from autotune.shared.records import Trial, dumps
from autotune.store.wire import WireError, parse_trial


class Journal:
    """An append-only file of trials, locked by one process at a time.

    Opening removes a last line without a newline, because a killed process left it unfinished.

    Raises ResumeError if another line is damaged, and OutputError if another process has locked
    the file, or if it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("a+b")
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}") from error
        try:
            self._lock()
            self.trials = self._read()
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = os.fstat(self._file.fileno()).st_nlink == 0  # its search has just removed it
        except BlockingIOError:
            taken = True
        except OSError as error:  # a file system without locks
            raise OutputError(f"{self._path} cannot be locked: {error.strerror}") from error
        if taken:
            raise OutputError(
                f"another search is writing to {self._path.parent}; wait for it or pass another "
                "--output"
            )

    def _read(self) -> list[Trial]:
        """The trials in the file, after removing an unfinished last line."""
        self._file.seek(0)
        data = self._file.read()
        complete = _complete_lines(data)
        if len(complete) != len(data):
            self._file.truncate(len(complete))
        return _parse_trials(self._path, complete)

    def append(self, trial: Trial) -> None:
        """Write `trial` and wait until it is on disk. Raises OutputError if that fails."""
        unwritten, descriptor = dumps(trial).encode() + b"\n", self._file.fileno()
        try:
            while unwritten:
                unwritten = unwritten[os.write(descriptor, unwritten) :]
            os.fsync(descriptor)
            if os.fstat(descriptor).st_nlink == 0:
                raise OSError("the file was removed")
        except OSError as error:
            raise OutputError(f"{self._path} cannot be written: {error}") from error
        self.trials.append(trial)

    def close(self) -> None:
        """Close the file and release its lock."""
        self._file.close()


def read_trials(path: Path) -> list[Trial]:
    """The trials of the journal `path`, without locking it.

    An unfinished last line is skipped. Raises ResumeError if another line is damaged.
    """
    return _parse_trials(path, _complete_lines(path.read_bytes()))


def _complete_lines(data: bytes) -> bytes:
    """`data` up to its last newline."""
    return data[: data.rfind(b"\n") + 1]


def _parse_trials(path: Path, data: bytes) -> list[Trial]:
    """One trial for each line of `data`. Raises ResumeError, which names `path` and the line."""
    trials = []
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            trials.append(parse_trial(line))
        except WireError as error:
            raise ResumeError(
                f"{path}, line {number} is damaged ({error}); remove that line and resume"
            ) from error
    return trials
