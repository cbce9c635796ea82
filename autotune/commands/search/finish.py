"""What a search leaves in its folder: best.yaml, launch.sh and the report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autotune.commands.search.launch_check import launch_check
from autotune.commands.search.saved import save_engine, save_exported
from autotune.commands.search.settings import Settings
from autotune.driver.command import process_variables, worker_commands
from autotune.driver.runner import MEMORY_SHARE, EngineFiles, Inputs, Runner
from autotune.emit.best import best_yaml
from autotune.emit.huggingface import ScriptLine, script_line
from autotune.emit.launch_script import launch_script, requests
from autotune.host import Host
from autotune.report.build import Context, build
from autotune.report.html import failed, html
from autotune.report.text import markdown
from autotune.search.bounds import Bounds
from autotune.search.objective import Objective
from autotune.search.ranking import measured
from autotune.search.result import Result
from autotune.shared.records import StackFacts, Trial, to_jsonable
from autotune.space import knobs
from autotune.store.folder import RunFolder, write
from autotune.tasks.workload import Workload


def finish(
    result: Result,
    *,
    folder: RunFolder,
    settings: Settings,
    workload: Workload,
    inputs: Inputs,
    host: Host,
    found: Mapping[str, StackFacts],
    manifest: Mapping[str, Any],
    objective: Objective,
    bounds: Bounds | None,
    elapsed_s: float,
    runner: Runner,
    exported: EngineFiles | None,
    announce: Callable[[str], None],
) -> dict[str, Any]:
    """Write it, run the script in turn with `runner`, and write what that gave. Returns the report.

    `exported` is what the best configuration's engine runs from, where that is files alone.
    """
    best = result.best.config
    stack = found[str(best["stack"])]
    line = None
    if workload.task.script is not None:
        line = script_line(
            best,
            script=workload.task.script,
            transformers=stack.versions["transformers"],
            model=workload.source.path,
            data=str(folder.data.relative_to(folder.path)),
            max_seq_length=settings.max_seq_length,
            doc_stride=settings.doc_stride,
            variables=process_variables(best, host, stack.libiomp5),
        )
    report = build(
        result,
        Context(
            manifest=plain(manifest),
            metrics=workload.task.metrics,
            objective=objective,
            line=line,
            elapsed_s=elapsed_s,
            bounds=bounds,
        ),
    )
    promise = {
        "objective": objective.name,
        **report["best"]["objective"],
        "speedup": report["best"]["speedup"]["median"],
        "baseline": report["baseline"]["objective"]["median"],
        "metrics": report["best"]["metrics"],
    }
    if settings.save_engine and not result.interrupted:
        announce("saving the prepared engine")
        report["engine"] = save_engine(
            best,
            folder=folder,
            host=host,
            found=found,
            inputs=inputs,
            expected=workload.expected,
            timeout_s=settings.trial_timeout_s,
        )
    elif exported is not None:
        report["engine"] = save_exported(exported, folder, str(best["stack"]))
    _emit(result, line, promise, objective, folder, settings, workload, inputs, host, stack)
    write_report(folder, report)
    if not result.interrupted:
        announce("running the launch script once")
        peak = measured(result.best).peak_rss_bytes
        check = launch_check(
            folder.launch,
            runner,
            best,
            objective,
            work=folder.work / "launch",
            beside=2 * peak <= MEMORY_SHARE * host.memory_bytes,
            time_s=settings.launch_s,
            timeout_s=settings.trial_timeout_s,
        )
        report["launch_check"] = plain(check)
        write_report(folder, report)
    return report


def _emit(
    result: Result,
    line: ScriptLine | None,
    promise: dict[str, Any],
    objective: Objective,
    folder: RunFolder,
    settings: Settings,
    workload: Workload,
    inputs: Inputs,
    host: Host,
    stack: StackFacts,
) -> None:
    best = result.best.config
    write(
        folder.best,
        best_yaml(
            best,
            source=workload.source,
            task=workload.task.name,
            max_seq_length=settings.max_seq_length,
            doc_stride=settings.doc_stride,
            stack={"python": stack.python, **stack.versions},
            host=host.fingerprint(),
            promise=promise,
        ),
    )
    cache = f"{folder.engine.name}/{best['stack']}" if folder.engine.exists() else None
    rate = promise["median"] if objective.limit_s is not None else None
    text = requests(best, inputs, cache, rate=rate, features=workload.expected.features)
    write(folder.requests, text)
    script = launch_script(
        worker_commands(best, host, stack.python, stack.libiomp5),
        title=f"{settings.model}: {knobs.describe(best)}",
        line=line,
        checker=(sys.executable, "-m", "autotune", "changes"),
        scorer=(sys.executable, "-m", "autotune", "score"),
    )
    write(folder.launch, script, executable=True)


def plain(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest as it is read back from its file."""
    found: dict[str, Any] = json.loads(json.dumps(to_jsonable(manifest)))
    return found


def write_failure(
    folder: RunFolder, manifest: Mapping[str, Any], trials: Sequence[Trial], error: str
) -> None:
    """report.html of a search that has nothing to report."""
    write(folder.report_html, failed(plain(manifest), trials, error))


def write_report(folder: RunFolder, report: Mapping[str, Any]) -> None:
    """report.json, report.md and report.html."""
    write(folder.report_json, json.dumps(report, indent=2, allow_nan=False) + "\n")
    write(folder.report_markdown, markdown(report))
    write(folder.report_html, html(report))
