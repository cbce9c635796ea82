"""A run read again from its trials: `autotune report` and `export`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from autotune.commands.search.finish import write_report
from autotune.report.build import Context, build
from autotune.search.finals import Finals
from autotune.search.objective import Objective, objective_named
from autotune.search.result import Result, conclude
from autotune.shared.errors import ResumeError
from autotune.store.folder import RunFolder
from autotune.store.journal import read_trials
from autotune.store.wire import WireError
from autotune.tasks import task_named
from autotune.tasks.base import Task

KEPT = ("huggingface", "limit", "engine", "launch_check")
"""What the trials do not say: taken from the report that is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reread:
    """A run as its manifest and trials have it; `before` is the report that was there."""

    manifest: dict[str, Any]
    task: Task
    objective: Objective
    result: Result
    before: dict[str, Any]


def reread(folder: RunFolder) -> Reread:
    """Raises ResumeError where the folder holds no run with a baseline."""
    manifest = folder.read_manifest()
    before = _before(folder)
    try:
        trials = read_trials(folder.trials)
        objective = objective_named(manifest["objective"])
        task = task_named(manifest["workload"]["task"])
    except (OSError, KeyError, TypeError, WireError) as error:
        raise ResumeError(f"{folder.path} holds no run that can be read: {error}") from error
    if not trials or not trials[0].succeeded:
        raise ResumeError(f"{folder.path}: no baseline was measured, there is nothing to report")
    interrupted = bool(before.get("interrupted", True))
    return Reread(
        manifest=manifest,
        task=task,
        objective=objective,
        result=conclude(trials, Finals(objective, None), interrupted=interrupted),
        before=before,
    )


def rebuild(folder: RunFolder) -> dict[str, Any]:
    """Write report.json, report.md and report.html again. Returns the report.

    Raises ResumeError where the folder holds no run with a baseline.
    """
    run = reread(folder)
    trials = run.result.trials
    first, last = (datetime.fromisoformat(t.started) for t in (trials[0], trials[-1]))
    measured_s = (last - first).total_seconds() + trials[-1].duration_s
    report = build(
        run.result,
        Context(
            manifest=run.manifest,
            metrics=run.task.metrics,
            objective=run.objective,
            line=None,
            elapsed_s=float(run.before.get("elapsed_s", measured_s)),
        ),
    )
    report |= {name: run.before.get(name) for name in KEPT}
    write_report(folder, report)
    return report


def _before(folder: RunFolder) -> dict[str, Any]:
    """The report that is there, empty where there is none: the search was killed."""
    try:
        found = json.loads(folder.report_json.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ResumeError(f"{folder.report_json} cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}
