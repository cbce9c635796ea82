"""Write a run's report again from its stored trials: `autotune report`; `export` reads them too.

Nothing is measured; `promise.reopen` opens a run to measure it.
"""

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

TAKEN_FROM_REPORT = ("huggingface", "limit", "engine", "launch_check")
"""Keys that the trials cannot give: copied from the existing report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run's manifest and trials; `before` is the existing report."""

    manifest: dict[str, Any]
    task: Task
    objective: Objective
    result: Result
    before: dict[str, Any]


def read_run(folder: RunFolder) -> StoredRun:
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
    return StoredRun(
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
    run = read_run(folder)
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
    report |= {name: run.before.get(name) for name in TAKEN_FROM_REPORT}
    write_report(folder, report)
    return report


def _before(folder: RunFolder) -> dict[str, Any]:
    """The existing report; empty if the search was killed before writing one."""
    try:
        found = json.loads(folder.report_json.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ResumeError(f"{folder.report_json} cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}
