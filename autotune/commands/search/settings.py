"""What the user asked for, and finding what it names: model, space, rows."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from autotune import demo
from autotune.search.loop import Limits
from autotune.shared.errors import ModelError, SpaceError
from autotune.tasks.base import Columns, Row, Task
from autotune.tasks.workload import split

DEFAULT_TIME_BUDGET_S = 600.0
LAUNCH_S, LAUNCH_SHARE = 40.0, 0.25
"""Of a time budget, what running launch.sh once at the end is given."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
HIDDEN = "***"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user asked for, checked only for type. Stored in the manifest."""

    model: str
    task: str = "qa"
    dataset: str | None = None
    dataset_split: str | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    space: str | None = None
    objective: str = "throughput"
    max_accuracy_drop: float = 0.01
    trials: int | None = None
    time_budget_s: float | None = None
    seed: int = 0
    max_seq_length: int = 384
    doc_stride: int = 128
    max_samples: int = 256
    calibration: str | None = None
    stacks: tuple[str, ...] = ()
    storage: str | None = None
    overrides: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    trial_timeout_s: float = 600.0
    max_memory_bytes: int | None = None
    learned: bool = True
    save_engine: bool = False

    @property
    def unlimited(self) -> bool:
        """Whether the user said nothing of when to stop: then DEFAULT_TIME_BUDGET_S holds."""
        return self.trials is None and self.time_budget_s is None

    @property
    def launch_s(self) -> float:
        """What running the script that a search writes may take of its time, in seconds."""
        budget = DEFAULT_TIME_BUDGET_S if self.unlimited else self.time_budget_s
        return LAUNCH_S if budget is None else min(LAUNCH_S, LAUNCH_SHARE * budget)

    @property
    def limits(self) -> Limits:
        """Those of the search, which leave time to run the script it writes."""
        budget = DEFAULT_TIME_BUDGET_S if self.unlimited else self.time_budget_s
        if budget is not None:
            budget -= self.launch_s
        return Limits(trials=self.trials, time_budget_s=budget)


def without_password(text: str) -> str:
    """`text` with the credentials of a URL in it replaced, for what is written down."""
    return re.sub(r"//[^/@\s]*@", f"//{HIDDEN}@", text)


def resolve_model(name: str) -> str:
    """A folder's absolute path, or a hub id as it is. Raises ModelError."""
    if name == demo.NAME:
        return str(demo.MODEL)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"--model {name}: the folder has no config.json; pass a model folder")
        return str(path.resolve())
    if path.exists():
        raise ModelError(f"--model {name} is a file; pass the folder that holds config.json")
    if name.startswith((".", "/", "~")) or not HUB_ID.fullmatch(name):
        raise ModelError(f"--model {name}: no such folder, and not a model id (owner/name)")
    return name


def shipped_spaces() -> dict[str, Path]:
    """Name -> file of the search spaces that travel with the package."""
    package = Path(__file__).parents[2]
    for folder in (package / "search_spaces", package.parent / "search_spaces"):
        found = sorted(folder.glob("*.yaml"))
        if found:
            return {path.stem: path for path in found}
    raise SpaceError("the package's search_spaces are missing; reinstall autotune-cpu")


def find_space(name: str) -> Path:
    """A space file: a path, or the name of one that travels with the package."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or os.sep in name:
        return path
    known = shipped_spaces()
    if name not in known:
        raise SpaceError(
            f"--space {name}: no such space; known: {', '.join(known)}, or pass a .yaml file"
        )
    return known[name]


def load_rows(settings: Settings, task: Task) -> tuple[list[Row], list[Row]]:
    """The rows to score, at most `max_samples` of them, and those to calibrate on, of which
    there may be none. Raises DatasetError."""
    dataset, calibration = settings.dataset, settings.calibration
    if dataset is None:
        dataset = str(demo.DATASET) if settings.model == demo.NAME else task.default_dataset
        if settings.model == demo.NAME and calibration is None:
            calibration = str(demo.CALIBRATION)
    columns = Columns(
        text=settings.text_column,
        text_pair=settings.text_pair_column,
        label=settings.label_column,
    )
    rows = task.load(dataset, settings.dataset_split, columns)
    others = None if calibration is None else task.load(calibration, None, columns)
    return split(rows, settings.max_samples, others)
