"""`autotune compare`: finished runs side by side."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.report.build import FORMAT
from autotune.report.text import shown
from autotune.shared.errors import ResumeError
from autotune.shared.paths import shell_word
from autotune.store.folder import folder_of


def read_report(path: Path) -> dict[str, Any]:
    """The report of the run at `path` (its folder or its best.yaml). Raises ResumeError."""
    file = folder_of(path).report_json
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResumeError(
            f"{path} has no report; write it with: autotune report {shell_word(path)}"
        ) from None
    except (OSError, ValueError) as error:
        raise ResumeError(f"{file} cannot be read: {error}") from error
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise ResumeError(
            f"{file} is not of format {FORMAT}; write it with: autotune report {shell_word(path)}"
        )
    return report


def compare(paths: Sequence[Path]) -> dict[str, Any]:
    """The runs at `paths` as JSON: `runs`, the facts that `differs` names with their value in
    each run, and the best value of each engine in each run (`engines`; None if not measured).

    Raises ResumeError for a run that cannot be read, or has another objective than the first.
    """
    reports = [read_report(path) for path in paths]
    objectives = [report["objective"]["name"] for report in reports]
    for path, objective in zip(paths, objectives, strict=True):
        if objective != objectives[0]:
            raise ResumeError(
                f"{path} was searched for {objective}, {paths[0]} for {objectives[0]}; "
                "compare runs of one objective"
            )
    return {
        "objective": reports[0]["objective"],
        "runs": [_run(path, report) for path, report in zip(paths, reports, strict=True)],
        "differs": _differing([_surroundings(report) for report in reports]),
        "engines": _engines(reports),
    }


def _run(path: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    def side(name: str) -> dict[str, Any]:
        entry = report[name]
        wanted = ("description", "config", "objective", "metrics", "peak_rss_bytes")
        return {key: entry[key] for key in wanted}

    check = report["launch_check"] or {}
    return {
        "path": str(path),
        "created": report["created"],
        "model": report["model"]["name"],
        "task": report["workload"]["task"],
        "significant": report["significant"],
        "baseline": side("baseline"),
        "best": side("best"),
        "speedup": report["best"]["speedup"],
        "launched": check["beside"]["median"] if "beside" in check else check.get("ratio"),
    }


def _surroundings(report: Mapping[str, Any]) -> dict[str, str]:
    """Facts that may differ between runs and explain different speeds."""
    found = {
        "model": report["model"]["name"],
        "weights": report["model"]["digest"][:12],
        "task": report["workload"]["task"],
        "rows": f"{report['workload']['examples']} ({report['workload']['rows'][:12]})",
        "max_seq_length": str(report["workload"]["max_seq_length"]),
        "max_accuracy_drop": f"{report['max_accuracy_drop']:.1%}",
        "searched for": f"{report['elapsed_s']:.0f} s",
        "autotune": report["autotune"],
    }
    found |= {f"host {name}": str(value) for name, value in report["host"].items()}
    for name, stack in report["stacks"].items():
        found |= {f"{name}: {package}": v for package, v in stack["versions"].items()}
    return found


def _differing(found: Sequence[Mapping[str, str]]) -> dict[str, list[str | None]]:
    names = dict.fromkeys(name for one in found for name in one)
    rows = {name: [one.get(name) for one in found] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def _engines(reports: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Mode and precision -> the best allowed value in each run, those of the first run first."""
    best = [
        {
            f"{entry['config']['mode']} {entry['config']['precision']}": entry["objective"][
                "median"
            ]
            for entry in report["best_by_mode"]
            if entry["failure"] is None
        }
        for report in reports
    ]
    names = dict.fromkeys(name for one in best for name in one)
    return {name: [one.get(name) for one in best] for name in names}


def tables(found: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """Title and rows of each table: the first column has names, then one column for each run."""
    runs, objective = found["runs"], found["objective"]

    def row(name: str, cells: Iterable[str]) -> list[str]:
        return [name, *cells]

    def speed(entry: Mapping[str, Any]) -> str:
        own = entry["objective"]
        low, high = sorted((own["low"], own["high"]))
        median, *ends = (shown(value, objective) for value in (own["median"], low, high))
        return f"{median} ({' to '.join(ends)})"

    def scores(run: Mapping[str, Any], metric: str) -> str:
        best, baseline = (run[side]["metrics"][metric] for side in ("best", "baseline"))
        return f"{best:.2f} against {baseline:.2f}"

    def gain(run: Mapping[str, Any]) -> str:
        own = run["speedup"]
        if not run["significant"]:
            return "no significant gain"
        return f"{own['median']:.2f}x ({own['low']:.2f} to {own['high']:.2f})"

    metrics = [
        name
        for name in runs[0]["best"]["metrics"]
        if all(name in r["best"]["metrics"] for r in runs)
    ]
    results = [
        row("run", (run["path"] for run in runs)),
        row("best", (run["best"]["description"] for run in runs)),
        row("speed", (speed(run["best"]) for run in runs)),
        row("baseline", (speed(run["baseline"]) for run in runs)),
        row("speedup", (gain(run) for run in runs)),
        *(row(name.replace("_", " "), (scores(run, name) for run in runs)) for name in metrics),
        row("peak memory", (f"{r['best']['peak_rss_bytes'] / 2**20:.0f} MiB" for r in runs)),
        row(
            "launch.sh reached",
            ("-" if r["launched"] is None else f"{r['launched']:.2f}" for r in runs),
        ),
    ]
    engines = [
        row(name, ("-" if value is None else shown(value, objective) for value in values))
        for name, values in found["engines"].items()
    ]
    differing = [
        row(name, ("-" if value is None else value for value in values))
        for name, values in found["differs"].items()
    ]
    return [("results", results), ("by engine", engines), ("what differs", differing)]
