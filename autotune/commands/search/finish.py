"""The end of a search: write best.yaml, launch.sh and the report."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from autotune.commands.search.context import Run
from autotune.commands.search.launch_check import launch_check
from autotune.commands.search.saved import engine_files, save_engine, save_exported
from autotune.driver.command import process_variables, worker_commands
from autotune.driver.runner import MEMORY_SHARE, EngineFiles, Runner
from autotune.emit.best import best_yaml
from autotune.emit.huggingface import ScriptLine, script_line
from autotune.emit.launch_script import launch_script, requests
from autotune.report.build import Context, build
from autotune.report.html import failed, html
from autotune.report.text import falls_short, markdown
from autotune.search.ranking import measured
from autotune.search.result import Result
from autotune.shared.records import Trial, to_jsonable
from autotune.space import knobs
from autotune.store.folder import RunFolder, write
from autotune.tasks.workload import inputs_of, kept_by


def finish(
    run: Run,
    result: Result,
    *,
    elapsed_s: float,
    runner: Runner,
    exported: EngineFiles | None,
) -> dict[str, Any]:
    """Write the run's files, then measure launch.sh in turn with `runner`. Returns the report.

    `exported` is the best configuration's engine, where that engine runs from files alone.
    """
    line = _script_line(run, result)
    report = build(
        result,
        Context(
            manifest=as_stored(run.manifest),
            metrics=run.workload.task.metrics,
            objective=run.objective,
            line=line,
            elapsed_s=elapsed_s,
            bounds=run.bounds,
        ),
    )
    over = report["gain"]["over_dynamic"]
    promise = {
        "objective": run.objective.name,
        **report["best"]["objective"],
        "speedup": report["best"]["speedup"]["median"],
        "baseline": report["baseline"]["objective"]["median"],
        "over_dynamic": None if over is None else over["median"],
        "metrics": report["best"]["metrics"],
        "accuracy": report["accuracy"],
    }
    report["engine"] = _save_engine(run, result, exported)
    _write_launch_files(run, result, line, promise, engine_by_hand(run.folder, exported))
    write_report(run.folder, report)
    if not result.interrupted:
        report["launch_check"] = _check_launch(run, result, runner)
        write_report(run.folder, report)
    return report


def _script_line(run: Run, result: Result) -> ScriptLine | None:
    """The best configuration as Hugging Face's command line; None for a task without a script."""
    if run.workload.task.script is None:
        return None
    best, folder = result.best.config, run.folder
    stack = run.stacks[str(best["stack"])]
    return script_line(
        best,
        script=run.workload.task.script,
        transformers=stack.versions["transformers"],
        model=run.workload.source.path,
        data=str(folder.data.relative_to(folder.path)),
        max_seq_length=run.settings.max_seq_length,
        doc_stride=run.settings.doc_stride,
        variables=process_variables(best, run.host, stack.libiomp5),
        data_flags=run.workload.task.script_flags,
    )


def _save_engine(run: Run, result: Result, exported: EngineFiles | None) -> dict[str, Any] | None:
    """Keep the prepared engine in the run's folder. Returns what the report says about it."""
    best = result.best.config
    if run.settings.save_engine and not result.interrupted:
        run.announce("saving the prepared engine")
        return save_engine(
            best,
            folder=run.folder,
            host=run.host,
            found=run.stacks,
            inputs=run.inputs,
            expected=run.workload.expected,
            timeout_s=run.settings.trial_timeout_s,
        )
    if exported is not None:
        return save_exported(exported, run.folder, str(best["stack"]))
    return None


def _write_launch_files(
    run: Run,
    result: Result,
    line: ScriptLine | None,
    promise: dict[str, Any],
    engine: Mapping[str, Any],
) -> None:
    """Write best.yaml, launch.jsonl and launch.sh."""
    best, folder, settings = result.best.config, run.folder, run.settings
    stack = run.stacks[str(best["stack"])]
    commands = worker_commands(best, run.host, stack.python, stack.libiomp5)
    write(
        folder.best,
        best_yaml(
            best,
            source=run.workload.source,
            task=run.workload.task.name,
            max_seq_length=settings.max_seq_length,
            doc_stride=settings.doc_stride,
            stack={"python": stack.python, **stack.versions},
            host=run.host.fingerprint(),
            promise=promise,
            engine=engine,
            environment=commands[0].variables,
            cpus=[str(command.expected.get("cpus", "any")) for command in commands],
        ),
    )
    kept = kept_by(folder, str(best["stack"]))
    cache = None if kept.engine is None else f"{folder.engine.name}/{best['stack']}"
    rate = promise["median"] if run.objective.by_requests else None
    text = requests(
        best,
        inputs_of(folder, run.workload.source, run.host, kept=kept),
        cache,
        rule=run.pace.launch,
        rate=rate,
        features=run.workload.expected.features,
    )
    write(folder.requests, text)
    script = launch_script(
        commands,
        title=f"{settings.model}: {knobs.describe(best)}",
        line=line,
        checker=(sys.executable, "-m", "autotune", "changes"),
        scorer=(sys.executable, "-m", "autotune", "score"),
    )
    write(folder.launch, script, executable=True)


def engine_by_hand(folder: RunFolder, exported: EngineFiles | None) -> dict[str, Any]:
    """How to build the engine: its files in the run's folder and its library's options."""
    rows = folder.calibration
    return {
        "files": [str(file.relative_to(folder.path)) for file in sorted(engine_files(folder))],
        "calibration": str(rows.relative_to(folder.path)) if rows.is_dir() else None,
        "properties": {} if exported is None else dict(exported.properties),
    }


def _check_launch(run: Run, result: Result, runner: Runner) -> dict[str, Any]:
    """What the report says about running launch.sh. Where it falls short it is run once more,
    since a host may be busy for some seconds; the second run counts."""
    run.announce("running the launch script once")
    check = as_stored(_launch_once(run, result, runner, "launch"))
    if not falls_short(check):
        return check
    reached = "failed" if "error" in check else f"reached {check['ratio']:.0%} of the promise"
    run.announce(f"launch.sh {reached}; running it once more")
    again = as_stored(_launch_once(run, result, runner, "launch-again"))
    if "error" not in again and "error" not in check:
        again["first_ratio"] = check["ratio"]
    return again


def _launch_once(run: Run, result: Result, runner: Runner, name: str) -> dict[str, Any]:
    peak = measured(result.best).peak_rss_bytes
    return launch_check(
        run.folder.launch,
        runner,
        result.best.config,
        run.objective,
        work=run.folder.work / name,
        beside=2 * peak <= MEMORY_SHARE * run.host.memory_bytes,
        time_s=run.settings.launch_check_s,
        timeout_s=run.settings.trial_timeout_s,
        limits=run.pace.check,
        spread=result.spread,
    )


def as_stored(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` as they would be read back from a JSON file."""
    stored: dict[str, Any] = json.loads(json.dumps(to_jsonable(values)))
    return stored


def write_failure(
    folder: RunFolder, manifest: Mapping[str, Any], trials: Sequence[Trial], error: str
) -> None:
    """Write report.html of a search that measured no baseline."""
    write(folder.report_html, failed(as_stored(manifest), trials, error))


def write_report(folder: RunFolder, report: Mapping[str, Any]) -> None:
    """report.json, report.md and report.html."""
    write(folder.report_json, json.dumps(report, indent=2, allow_nan=False) + "\n")
    write(folder.report_markdown, markdown(report))
    write(folder.report_html, html(report))
