"""From the options that a user gave to the settings of a search.

The command line and `autotune.tune` both decide here what the user left open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from autotune.commands.search.settings import Settings, infer_task, model_folder, resolve_model
from autotune.search.objective import ServerObjective
from autotune.shared.axes import WIDTH
from autotune.shared.errors import InputError, ModelError, OutputError, ResumeError
from autotune.shared.objectives import OBJECTIVES
from autotune.shared.paths import kind_of
from autotune.shared.words import suggestion
from autotune.store.folder import RunFolder
from autotune.tasks import task_named

OPTIONS = frozenset({field.name for field in fields(Settings)} | {"max_latency_ms"})
"""The options of a search: the fields of `Settings`, and the limit of the server objective."""


def settings_from(
    given: Mapping[str, Any], *, resumed: Path | None = None
) -> tuple[Settings, list[str]]:
    """The settings of a search, and what was decided for the user, in lines for people.

    `given` holds the options that the user named, of OPTIONS. `resumed` is the folder of a run
    whose options hold where the user named none. Raises InputError.
    """
    for name in given:
        if name not in OPTIONS:
            raise InputError(f"{name} is no option of a search{suggestion(name, OPTIONS)}")
    options = {**_stored(resumed, given), **given}
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
        options["max_seq_length"] = task.max_seq_length_of(model_folder(str(options["model"])))
    if options.get("doc_stride") is None:
        options["doc_stride"] = task.default_doc_stride or 0
    elif "doc_stride" in given and task.default_doc_stride is None:
        raise InputError(f"--doc-stride: {task.name} cuts long texts off, drop the option")
    if options["doc_stride"] >= options["max_seq_length"]:
        raise InputError(
            f"--doc-stride must be below --max-seq-length {options['max_seq_length']}, "
            f"got {options['doc_stride']}"
        )
    limit_ms = options.pop("max_latency_ms", None)
    if limit_ms is not None:
        limited = [one.name for one in OBJECTIVES.values() if one.takes_limit]
        if str(options.get("objective", "")).partition("-")[0] not in limited:
            raise InputError(
                f"--max-latency-ms is the limit of --objective {' or '.join(limited)}; add that"
            )
        options["objective"] = ServerObjective(limit_ms / 1000).name
    return Settings(**options), decided


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
