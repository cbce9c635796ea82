"""Take a run's folder for one search. The lock comes first, before anything is made or removed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from autotune.shared.errors import OutputError, ResumeError
from autotune.shared.paths import kind_of
from autotune.store.folder import RunFolder, create
from autotune.store.journal import Journal

LEFTOVERS = {".work", "trials.jsonl", "workload", "study.journal", "manifest.json.partial"}
"""Names that a search killed before its manifest was written may leave in its folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A run's folder that belongs to this search until `journal`, which holds the lock, is closed.

    `fresh`: the run starts anew. `existed`: the folder was there before the search.
    """

    folder: RunFolder
    journal: Journal
    fresh: bool
    existed: bool

    def give_up(self) -> None:
        """Remove everything that the search wrote. A folder that was there before stays, empty."""
        _empty(self.folder.path, keep=set())
        if not self.existed:
            shutil.rmtree(self.folder.path, ignore_errors=True)


def claim(path: Path, *, resume: bool) -> Claim:
    """Take the folder `path`: that of a run to `resume`, else a new one or an empty one.

    A folder that a search left before its manifest was written is emptied and taken as a new one.
    Raises OutputError if another search has the folder, or if it cannot be written. Raises
    ResumeError if it holds something else than a run.
    """
    kind = kind_of(path, "--output", OutputError)
    existed = kind is not None
    if resume and kind == "file":
        raise OutputError(f"--output {path} is a file; pass the folder of a run")
    if not (resume and kind == "folder"):
        folder = create(path)
        return Claim(folder=folder, journal=Journal(folder.trials), fresh=True, existed=existed)
    folder = RunFolder(path)
    _check_is_run(folder)
    journal = Journal(folder.trials)
    try:
        fresh = not folder.manifest.exists()  # another search may have written it meanwhile
        if fresh:
            if journal.trials:
                raise ResumeError(
                    f"{path} has {len(journal.trials)} trials and no manifest.json; put the "
                    "manifest back, or pass another --output"
                )
            _empty(path, keep={folder.trials.name})
            folder.work.mkdir()
    except BaseException:
        journal.close()
        raise
    return Claim(folder=folder, journal=journal, fresh=fresh, existed=existed)


def _check_is_run(folder: RunFolder) -> None:
    """Raises ResumeError if the folder has no manifest and holds files that no search leaves."""
    try:
        left = {path.name for path in folder.path.iterdir()}
    except OSError as error:
        raise OutputError(f"--output {folder.path} cannot be read: {error.strerror}") from error
    if not folder.manifest.exists() and left - LEFTOVERS:
        raise ResumeError(f"--output {folder.path} holds no run (no manifest.json)")


def _empty(path: Path, *, keep: set[str]) -> None:
    """Remove everything in the folder `path` except the names `keep`."""
    for entry in path.iterdir():
        if entry.name in keep:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
