"""The user's settings, and how to find the model, the space and the rows that they name."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from autotune import demo
from autotune.search.limits import Limits
from autotune.shared.errors import DatasetError, ModelError, SpaceError
from autotune.shared.folders import refusal_of_folder
from autotune.shared.hub import download_elsewhere, hub_answers
from autotune.shared.objectives import DEFAULT
from autotune.shared.paths import check_downloads, kind_of, written
from autotune.shared.words import known_names
from autotune.tasks import task_of_architectures, tasks_of_others
from autotune.tasks.base import Columns, Dataset, Task
from autotune.tasks.gate import GateRule
from autotune.tasks.workload import RowSets, split

DEFAULT_TIME_BUDGET_S = 600.0
LAUNCH_CHECK_MAX_S = 40.0
LAUNCH_CHECK_SHARE = 0.25
"""A search ends with one run of launch.sh. It may take 25% of the time budget, at most 40 s."""
DEFAULT_MAX_SAMPLES = 256
"""Rows that a search scores if the user does not say how many."""
REFERENCE_SHARE, MIN_ROWS = 0.04, 64
"""The answers of eager float32 may take this share of the time budget. If they would take longer, a
search scores fewer rows, but at least MIN_ROWS. The winner is judged on the others too."""
EAGER_EFFICIENCY = 0.65
"""Eager float32 reaches about this share of the host's fastest matrix product."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
HUB_CACHE_VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE")
"""Environment variables that name the folder of downloaded models; the last two are older names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The user's settings, checked only for type. The manifest stores them."""

    model: str
    task: str = "qa"
    dataset: str | None = None
    dataset_split: str | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    space: str | None = None
    sampler: str = "autotune"
    objective: str = DEFAULT.name
    max_accuracy_drop: float = 0.01
    trials: int | None = None
    time_budget_s: float | None = None
    seed: int = 0
    max_seq_length: int = 384
    doc_stride: int = 128
    max_samples: int | None = None  # 0: all; None: DEFAULT_MAX_SAMPLES, or fewer for a large model
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
    gate: str = "point"
    accept_degenerate: bool = False

    @property
    def gate_rule(self) -> GateRule:
        """What the gate demands."""
        return GateRule(
            max_drop=self.max_accuracy_drop,
            proven=self.gate == "proven",
            accept_degenerate=self.accept_degenerate,
        )

    @property
    def limits_unset(self) -> bool:
        """Whether the user gave neither limit. Then DEFAULT_TIME_BUDGET_S is the time budget."""
        return self.trials is None and self.time_budget_s is None

    @property
    def launch_check_s(self) -> float:
        """Most seconds that running launch.sh at the end of the search may take."""
        budget = DEFAULT_TIME_BUDGET_S if self.limits_unset else self.time_budget_s
        return (
            LAUNCH_CHECK_MAX_S
            if budget is None
            else min(LAUNCH_CHECK_MAX_S, LAUNCH_CHECK_SHARE * budget)
        )

    @property
    def limits(self) -> Limits:
        """The limits of the search, which leave time to run launch.sh at the end."""
        budget = DEFAULT_TIME_BUDGET_S if self.limits_unset else self.time_budget_s
        if budget is not None:
            budget -= self.launch_check_s
        return Limits(trials=self.trials, time_budget_s=budget, check_s=self.launch_check_s)


def resolve_model(name: str) -> str:
    """Return a folder's absolute path, or a hub id unchanged. Raises ModelError."""
    if name == demo.NAME:
        return str(demo.MODEL)
    path = written(name, "--model", ModelError)
    kind = kind_of(path, "--model", ModelError)
    if kind == "folder":
        if kind_of(path / "config.json", "--model", ModelError) != "file":
            raise ModelError(f"--model {name}: {refusal_of_folder(path, allow_pickle=False)}")
        return str(path.resolve())
    if kind == "file":
        raise ModelError(f"--model {name} is a file; pass the folder that holds config.json")
    if name.startswith((".", "/", "~")) or not HUB_ID.fullmatch(name):
        raise ModelError(f"--model {name}: neither a folder nor a model id (owner/name)")
    check_downloads(f"--model {name}", ModelError)
    return name


def check_reachable(model: str) -> None:
    """Raise ModelError at once for a hub id that no cache holds, if the hub does not answer.

    `model` is what `resolve_model` returns. A worker would say the same, but only after it has
    imported torch.
    """
    if not os.path.isabs(model) and _config_of(model) is None and not hub_answers():
        raise ModelError(
            f"--model {model}: it is not in the local cache, and the model hub does not answer: "
            f"{download_elsewhere(model)}"
        )


def infer_task(model: str) -> tuple[str, str]:
    """Return the task of a model by its config.json, and the architecture that says so.

    `model` is what `resolve_model` returns. A hub id is looked for in the hub's local cache.
    Raises ModelError if there is no config.json to read, or if it does not say.
    """
    config = _config_of(model)
    if config is None:
        raise ModelError(f"--task: {model} is not on this machine yet, so its task is unknown")
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
        architectures = [str(name) for name in content.get("architectures") or ()]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ModelError(f"--model {model}: config.json cannot be read: {error}") from error
    task = task_of_architectures(architectures)
    if task is None:
        said = ", ".join(architectures) or "no architecture"
        raise ModelError(f"--task: config.json names {said}, which fits no task; pass --task")
    return task, architectures[0]


def model_folder(name: str) -> Path | None:
    """Return the folder of `--model`, or the latest one of a hub id in the hub's cache.

    None if the model is not on this machine. Raises ModelError as `resolve_model` does.
    """
    config = _config_of(resolve_model(name))
    return None if config is None else config.parent


def _config_of(model: str) -> Path | None:
    """The config.json of a folder, or the latest one of a hub id in the hub's cache."""
    if os.path.isabs(model):
        config = Path(model) / "config.json"
        return config if config.is_file() else None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    named = (os.environ.get(name) for name in HUB_CACHE_VARIABLES)
    places = [*(Path(place) for place in named if place), home / "hub"]
    pattern = f"models--{model.replace('/', '--')}/snapshots/*/config.json"
    found = [config for place in places for config in place.expanduser().glob(pattern)]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def shipped_spaces() -> dict[str, Path]:
    """Return the file of each search space in the package, by the name of the space."""
    package = Path(__file__).parents[2]
    for folder in (package / "search_spaces", package.parent / "search_spaces"):
        found = sorted(folder.glob("*.yaml"))
        if found:
            return {path.stem: path for path in found}
    raise SpaceError("the package has no search_spaces; reinstall autotune-cpu")


def known_spaces() -> dict[str, Path]:
    """Return the file of each search space by its name: `shipped_spaces`, and those of tasks of
    other packages."""
    tasks = tasks_of_others().items()
    others = {name: Path(task.space) for name, task in tasks if task.space is not None}
    return {**shipped_spaces(), **others}


def find_space(name: str) -> Path:
    """Return a space file. `name` is a path, or the name of a known search space.

    Raises SpaceError for an unknown name. A path is not checked.
    """
    path = written(name, "--space", SpaceError)
    if path.suffix in (".yaml", ".yml") or os.sep in name:
        return path
    known = known_spaces()
    if name not in known:
        raise SpaceError(
            f"--space {name}: no such space; {known_names(name, known)}, or pass a .yaml file"
        )
    return known[name]


def dataset_of(settings: Settings, task: Task) -> str:
    """Return the file or dataset id to read: the user's, else the demo's or the task's default.

    Raises DatasetError if the task has none.
    """
    if settings.dataset is not None:
        return settings.dataset
    if not task.default_dataset:
        raise DatasetError(f"--dataset is needed: {task.name} has no default dataset")
    return str(demo.DATASET) if settings.model == demo.NAME else task.default_dataset


def load_rows(settings: Settings, task: Task) -> tuple[Dataset, RowSets]:
    """Return the dataset, and its rows by what they serve for.

    There may be no rows for calibration. Raises DatasetError.
    """
    dataset, calibration = dataset_of(settings, task), settings.calibration
    if settings.dataset is None and settings.model == demo.NAME and calibration is None:
        calibration = str(demo.CALIBRATION)
    columns = Columns(
        text=settings.text_column,
        text_pair=settings.text_pair_column,
        label=settings.label_column,
    )
    found = task.load(dataset, settings.dataset_split, columns)
    others = None if calibration is None else task.load(calibration, None, columns).rows
    most = DEFAULT_MAX_SAMPLES if settings.max_samples is None else settings.max_samples
    return found, split(found.rows, most, others)


def affordable_rows(settings: Settings, rows: int, reference_s: float) -> int:
    """Return how many of `rows` the search scores, if eager float32 would take `reference_s` for
    all of them. All, if the user said how many, or set no limit of time."""
    budget_s = settings.limits.time_budget_s
    if settings.max_samples is not None or budget_s is None:
        return rows
    return min(rows, max(MIN_ROWS, int(rows * REFERENCE_SHARE * budget_s / reference_s)))
