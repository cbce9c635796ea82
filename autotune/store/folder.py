"""The folder of one run: the paths of its files, and writing a file in one step."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from autotune.shared.errors import OutputError, ResumeError
from autotune.shared.paths import kind_of
from autotune.shared.records import to_jsonable

FILES_OF_A_RUN = (
    *("best.yaml", "manifest.json", "launch.sh"),
    *("report.json", "report.html", "report.md"),
)
"""Files that stand for the run that holds them."""
FORMAT = 1
"""The version of manifest.json that this code writes and reads."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of one run's files."""

    path: Path

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def trials(self) -> Path:
        return self.path / "trials.jsonl"

    @property
    def study(self) -> Path:
        return self.path / "study.journal"

    @property
    def best(self) -> Path:
        return self.path / "best.yaml"

    @property
    def launch(self) -> Path:
        return self.path / "launch.sh"

    @property
    def requests(self) -> Path:
        """The requests that launch.sh sends to the worker, one a line."""
        return self.path / "launch.jsonl"

    @property
    def report_json(self) -> Path:
        return self.path / "report.json"

    @property
    def report_markdown(self) -> Path:
        return self.path / "report.md"

    @property
    def report_html(self) -> Path:
        return self.path / "report.html"

    @property
    def workload(self) -> Path:
        """The encoded dataset, its rows, and the reference outputs."""
        return self.path / "workload"

    @property
    def data(self) -> Path:
        """The scored rows, in the layout that the example script reads."""
        return self.workload / "validation.json"

    @property
    def calibration(self) -> Path:
        """The encoded calibration rows. They are not scored."""
        return self.workload / "calibration"

    @property
    def cache(self) -> Path:
        """Files that engines keep from one process of a search to the next."""
        return self.work / "cache"

    @property
    def engine(self) -> Path:
        """The saved files of the prepared engine: one folder for each stack."""
        return self.path / "engine"

    @property
    def reference(self) -> Path:
        """The reference outputs."""
        return self.workload / "reference.npz"

    @property
    def work(self) -> Path:
        """Scratch space of the workers, deleted when the search ends."""
        return self.path / ".work"

    def read_manifest(self) -> dict[str, Any]:
        """The content of manifest.json. Raises ResumeError if it is missing or damaged."""
        try:
            manifest = json.loads(self.manifest.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ResumeError(f"{self.path} holds no run (no manifest.json)") from None
        except (OSError, ValueError) as error:
            raise ResumeError(f"{self.manifest} cannot be read: {error}") from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise ResumeError(f"{self.manifest} is not of format {FORMAT}; start a new run")
        return manifest

    def write_manifest(self, content: Mapping[str, Any]) -> None:
        """Replace manifest.json by `content` and the format. Raises OutputError."""
        write(self.manifest, json.dumps({"format": FORMAT, **to_jsonable(content)}, indent=2))

    def clean(self) -> None:
        """Delete the scratch space."""
        shutil.rmtree(self.work, ignore_errors=True)


def folder_of(path: Path) -> RunFolder:
    """The run folder `path`, or the one that holds the file `path` of a run (its best.yaml).

    Raises ResumeError if there is nothing at `path`, if it is another file, or if that cannot be
    known.
    """
    kind = kind_of(path, "the run", ResumeError)
    if kind == "folder":
        return RunFolder(path)
    if kind is None:
        raise ResumeError(f"{path} does not exist; pass the folder of a run, or its best.yaml")
    if path.name not in FILES_OF_A_RUN:
        raise ResumeError(f"{path} is no file of a run; pass the folder of a run, or its best.yaml")
    return RunFolder(path.parent)


def write(path: Path, text: str, *, executable: bool = False) -> None:
    """Replace the file `path` by `text` in one step. Raises OutputError if that fails."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if executable:
            partial.chmod(0o755)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def default_path(model: str, task: str, now: datetime) -> Path:
    """`reports/<time>-<model>-<task>`. Characters unsafe in a file name become `-`."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model).name).strip("-.") or "model"
    return Path("reports") / f"{now:%Y%m%d-%H%M%S}-{name[:60]}-{task}"


def create(path: Path) -> RunFolder:
    """Make an empty run folder at `path`.

    Raises OutputError if `path` is not empty, is no folder, or cannot be written.
    """
    kind = kind_of(path, "--output", OutputError)
    if kind == "file":
        raise OutputError(f"--output {path} is a file; pass a folder")
    try:
        if kind == "folder" and any(path.iterdir()):
            raise OutputError(
                f"--output {path} exists and is not empty; add --resume to continue it, "
                "or pass another folder"
            )
        path.mkdir(parents=True, exist_ok=True)
        (path / ".work").mkdir()
    except OSError as error:
        raise OutputError(
            f"--output {path} cannot be written: {error.strerror}; pass a folder you may write to"
        ) from error
    return RunFolder(path)
