"""From the options that a user gave to the settings of a search.

The command line and `autotune.tune` both decide here what the user left open.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from autotune.commands.search.settings import Settings, infer_task, model_folder, resolve_model
from autotune.search.objective import ServerObjective
from autotune.shared.axes import WIDTH
from autotune.shared.errors import InputError, ModelError, OutputError, ResumeError
from autotune.shared.objectives import OBJECTIVES
from autotune.shared.paths import kind_of
from autotune.shared.words import suggestion
from autotune.store.folder import RunFolder
from autotune.tasks import task_named
from autotune.tasks.base import Task

LIMIT = "max_latency_ms"
OPTIONS = frozenset({field.name for field in fields(Settings)} | {LIMIT})
"""The options of a search: the fields of `Settings`, and the limit of the server objective."""
MAX_SEED = 2**31 - 1
"""The largest number that every library here takes as a seed, also with the number of trials."""


@dataclass(frozen=True, slots=True)
class Range:
    """The values that a number may have. `open_` leaves out the least one."""

    least: float
    open_: bool = False
    below: float = math.inf

    def holds(self, value: float) -> bool:
        above = value > self.least if self.open_ else value >= self.least
        return above and value < self.below

    @property
    def words(self) -> str:
        low = f"above {self.least:g}" if self.open_ else f"of at least {self.least:g}"
        return low if self.below == math.inf else f"{low} and below {self.below:g}"


POSITIVE = Range(0, open_=True)
RANGES = {
    "trials": Range(1),
    "time_budget_s": POSITIVE,
    "trial_timeout_s": POSITIVE,
    "max_memory_bytes": POSITIVE,
    LIMIT: POSITIVE,
    "max_samples": Range(0),
    "doc_stride": Range(0),
    "max_seq_length": Range(1),
    "seed": Range(0, below=MAX_SEED + 1),
    "max_accuracy_drop": Range(0, below=1),
}
LEAST_WIDTH = 16
"""The least `max_seq_length` of inputs that have a width."""
CHOICES = {"gate": ("point", "proven")}


def settings_from(
    given: Mapping[str, Any], *, resumed: Path | None = None
) -> tuple[Settings, list[str]]:
    """The settings of a search, and what was decided for the user, in lines for people.

    `given` holds the options that the user named, of OPTIONS; None stands for an option that is not
    named. `resumed` is the folder of a run whose options hold where the user named none. Raises
    InputError.
    """
    for name in given:
        if name not in OPTIONS:
            raise InputError(f"{name} is no option of a search{suggestion(name, OPTIONS)}")
    given = {name: value for name, value in given.items() if value is not None}
    stored = {name: value for name, value in _stored(resumed, given).items() if value is not None}
    options = {name: _checked(name, value) for name, value in {**stored, **given}.items()}
    if not options.get("model"):
        raise InputError("--model is needed: a model folder, a hub id, or demo")
    decided = []
    if options.get("task") is None:
        options["task"], line = _task_of(str(options["model"]))
        decided.append(line)
    task = task_named(options["task"])
    options["task"] = task.name
    if "max_seq_length" in given and WIDTH not in task.input_axes:
        raise InputError(f"--max-seq-length: inputs of {task.name} have no width, drop the option")
    if options.get("max_seq_length") is None:
        folder = model_folder(str(options["model"]))
        options["max_seq_length"] = length = task.max_seq_length_of(folder)
        if folder is None and type(task).max_seq_length_of is not Task.max_seq_length_of:
            decided.append(
                f"max_seq_length: {length}, as the model is not on this machine yet; "
                "pass --max-seq-length"
            )
    elif "max_seq_length" in given and options["max_seq_length"] < LEAST_WIDTH:
        raise InputError(
            f"max_seq_length must be a whole number of at least {LEAST_WIDTH}, "
            f"got {options['max_seq_length']}"
        )
    if options.get("doc_stride") is None:
        options["doc_stride"] = task.default_doc_stride or 0
    elif "doc_stride" in given and task.default_doc_stride is None:
        raise InputError(f"--doc-stride: {task.name} cuts long texts off, drop the option")
    if options["doc_stride"] >= options["max_seq_length"]:
        raise InputError(
            f"--doc-stride must be below --max-seq-length {options['max_seq_length']}, "
            f"got {options['doc_stride']}"
        )
    limit_ms = options.pop(LIMIT, None)
    if limit_ms is not None:
        limited = [one.name for one in OBJECTIVES.values() if one.takes_limit]
        if str(options.get("objective", "")).partition("-")[0] not in limited:
            raise InputError(
                f"--max-latency-ms is the limit of --objective {' or '.join(limited)}; add that"
            )
        options["objective"] = ServerObjective(limit_ms / 1000).name
    return Settings(**options), decided


def _checked(name: str, value: Any) -> Any:
    """The value of an option, which may stand for several of text. Raises InputError.

    A path stands for its text, one text for several texts of which there is one.
    """
    kind = KINDS[name]
    if isinstance(value, os.PathLike) and kind is not int and kind is not float:
        value = os.fspath(value)
    if kind is tuple:
        items = [value] if isinstance(value, str) else value
        if isinstance(items, list | tuple) and all(isinstance(item, str) for item in items):
            return tuple(items)
        raise InputError(f"{name} must be text, or a list of texts, got {_shown(value)}")
    if kind is bool or kind is str:
        if not isinstance(value, kind):
            expected = "text" if kind is str else "True or False"
            raise InputError(f"{name} must be {expected}, got {_shown(value)}")
        if name in CHOICES and value not in CHOICES[name]:
            raise InputError(f"{name} must be {' or '.join(CHOICES[name])}, got {_shown(value)}")
        return value
    types = (int,) if kind is int else (int, float)
    number = isinstance(value, types) and not isinstance(value, bool)
    number = number and (kind is int or abs(value) <= sys.float_info.max)
    if not number or not RANGES[name].holds(value):
        expected = "a whole number" if kind is int else "a number"
        raise InputError(f"{name} must be {expected} {RANGES[name].words}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    return ascii(value)[:60]


def _kinds() -> dict[str, type]:
    """The type of each option: str, int, float, bool, or tuple for several of text."""
    found: dict[str, type] = {LIMIT: float}
    for name, hint in get_type_hints(Settings).items():
        if name not in OPTIONS:
            continue
        kinds = [kind for kind in (str, bool, int, float) if kind in (hint, *get_args(hint))]
        found[name] = tuple if get_origin(hint) is tuple else kinds[0]
    return found


KINDS = _kinds()
"""Option -> its type, by the fields of `Settings`."""


def _stored(resumed: Path | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the run in `resumed`, empty if it holds none yet. Raises ResumeError."""
    if resumed is None:
        return {}
    folder = RunFolder(resumed)
    if kind_of(folder.manifest, "--output", OutputError) is None:
        return {}
    stored = folder.read_manifest().get("settings")
    if not isinstance(stored, dict):
        raise ResumeError(f"{folder.manifest} has no settings; start a new run")
    kept = {name: value for name, value in stored.items() if name in OPTIONS}
    # A new limit replaces the old limit, whichever of the two it is.
    if given.get("trials") is not None:
        kept.pop("time_budget_s", None)
    if given.get("time_budget_s") is not None:
        kept.pop("trials", None)
    return {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}


def _task_of(model: str) -> tuple[str, str]:
    """The task of a model for which none was named, and the words that say so.

    A model that is still on the hub cannot be asked: it is taken to be for question answering.
    """
    resolved = resolve_model(model)
    try:
        task, architecture = infer_task(resolved)
    except ModelError:
        if Path(resolved).is_absolute():
            raise
        return "qa", "task: qa, as --task is not given and the model is not on this machine yet"
    return task, f"task: {task}, by the model's {architecture}"
