"""trials.jsonl: one line a trial, on disk before the next trial begins."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from autotune.shared.errors import OutputError, ResumeError
from autotune.shared.records import Trial, dumps
from autotune.store.wire import WireError, parse_trial


class Journal:
    """An append-only file of trials, held by one process at a time.

    A last line without its newline is what a killed process left; opening drops it. Any
    other damage raises ResumeError. Raises OutputError while another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise OutputError(
                f"another search is writing to {path.parent}; wait for it or pass another --output"
            ) from None
        try:
            self.trials = self._read()
        except ResumeError:
            self._file.close()
            raise

    def _read(self) -> list[Trial]:
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) != len(data):
            self._file.truncate(len(whole))
        return read_trials(self._path, whole)

    def append(self, trial: Trial) -> None:
        """Write `trial` and wait until it is on disk. Raises OutputError where it cannot be."""
        left, descriptor = dumps(trial).encode() + b"\n", self._file.fileno()
        try:
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
            if os.fstat(descriptor).st_nlink == 0:
                raise OSError("the file was removed")
        except OSError as error:
            raise OutputError(f"{self._path} cannot be written: {error}") from error
        self.trials.append(trial)

    def close(self) -> None:
        self._file.close()


def read_trials(path: Path, data: bytes | None = None) -> list[Trial]:
    """The trials of a journal, without locking it. Raises ResumeError where it is damaged."""
    if data is None:
        data = path.read_bytes()
        data = data[: data.rfind(b"\n") + 1]
    trials = []
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            trials.append(parse_trial(line))
        except WireError as error:
            raise ResumeError(
                f"{path}, line {number} is damaged ({error}); remove that line and resume"
            ) from error
    return trials
