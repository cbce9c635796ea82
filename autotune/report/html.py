"""report.html: one page that needs no other file.

The template escapes text. The figures (`report.figures`) are JSON inside a script element, and
nothing in that JSON can end the element.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape

from autotune.report import text
from autotune.report.figures import figures
from autotune.shared.records import Trial
from autotune.space.knobs import describe

INTERRUPTED = "The search was interrupted. This is the best configuration so far."
COLD_START = ("start", "import", "prepare", "warm_up")
"""The phases of a process from its start to its first timed pass."""


def html(report: Mapping[str, Any]) -> str:
    """The page."""
    from plotly.offline import get_plotlyjs

    header, rows = text.table(report)
    drawn = figures(report)
    short = report["launch_check"] is not None and text.falls_short(report["launch_check"])
    sentences = [
        text.split_sentence(report),
        text.accuracy_sentence(report),
        text.limit_sentence(report),
        text.memory_sentence(report),
        text.engine_sentence(report["engine"]),
        None if short else text.launch_sentence(report),
    ]
    warnings = [
        text.launch_sentence(report) if short else None,
        INTERRUPTED if report["interrupted"] else None,
        None if report["noise"]["quiet"] else text.noise_sentence(report["noise"]),
    ]
    return _template("report.html.j2").render(
        report=report,
        title=f"{report['model']['name']}: {report['workload']['task']}",
        headline=headline(report),
        sentences=[sentence for sentence in sentences if sentence],
        warnings=[warning for warning in warnings if warning],
        noise=text.noise_sentence(report["noise"]),
        padding=text.padding_words(report["model"]),
        comparison=comparison(report),
        header=header,
        rows=rows,
        unavailable=text.by_reason(report["unavailable"]),
        command=text.command(report),
        figures=[
            {"id": f"figure-{number}", **{k: v for k, v in figure.items() if k != "figure"}}
            for number, figure in enumerate(drawn)
        ],
        data=embedded([figure["figure"] for figure in drawn]),
        plotly=get_plotlyjs(),
    )


def failed(manifest: Mapping[str, Any], trials: Sequence[Trial], error: str) -> str:
    """The page of a search without a baseline: the error and each failed trial."""
    return _template("failed.html.j2").render(
        report=manifest,
        title=f"{manifest['model']['name']}: {manifest['workload']['task']}",
        error=error,
        padding=text.padding_words(manifest["model"]),
        failed=[
            {"description": describe(t.config), "failure": t.failure, "log": t.log}
            for t in trials
            if t.failure is not None
        ],
        command_line=shlex.join(manifest["command_line"]),
    )


def _template(name: str) -> Template:
    return Environment(
        loader=PackageLoader("autotune.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)


def embedded(value: Any) -> str:
    """JSON for a script element: nothing in the JSON can end the element."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def headline(report: Mapping[str, Any]) -> dict[str, str]:
    """The speedup in large type, the words below it, and its class in the style sheet."""
    gain = report["best"]["speedup"]
    if not report["trials"]["others"] and not report["significant"]:
        words = "nothing but the baseline was tried"
        return {"number": "not searched", "words": words, "kind": "none"}
    if not report["significant"]:
        advice = " so far" if report["interrupted"] else ": keep the baseline"
        words = f"no significant gain{advice}"
        return {"number": "1.0x", "words": words, "kind": "none"}
    return {
        "kind": "gain",
        "number": f"{gain['median']:.1f}x",
        "words": f"{report['objective']['compared']} the baseline ({gain['low']:.1f} to "
        f"{gain['high']:.1f}, {gain['coverage']:.0%} interval)",
    }


def comparison(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of the table: name, baseline, best."""
    sides = (report["baseline"], report["best"])

    def both(name: str, shown: Any) -> tuple[str, str, str]:
        return name, shown(sides[0]), shown(sides[1])

    def speed(entry: Mapping[str, Any]) -> str:
        own = entry["throughput"]
        return f"{own['median']:.1f} examples/s ({own['low']:.1f} to {own['high']:.1f})"

    def batch(name: str) -> Any:
        return lambda entry: f"{1000 * entry['batch_s'][name]:.1f} ms"

    def requests(entry: Mapping[str, Any]) -> str:
        one = entry["answered"][-1]
        return (
            f"{one['per_s']:.1f}/s: p50 {1000 * one['p50_s']:.1f} ms, p99 "
            f"{1000 * one['p99_s']:.1f} ms, {one['mean_batch']:.1f} rows a batch"
        )

    def start_up(entry: Mapping[str, Any]) -> str:
        """In the search. A forked process has paid for its start and its imports before."""
        forked = entry["effective"].get("forked", False)
        names = ("prepare", "warm_up") if forked else COLD_START
        return phase_words(entry["phases_s"], names)

    def cold_start() -> list[tuple[str, str, str]]:
        phases = (report["launch_check"] or {}).get("phases_s")
        if phases is None:
            return []
        total = sum(phases.get(name, 0.0) for name in COLD_START)
        words = f"{total:.1f} s: {phase_words(phases, COLD_START)}"
        return [("cold start of launch.sh", "not measured", words)]

    def metric(name: str) -> Any:
        return lambda entry: f"{entry['metrics'][name]:.2f}" if entry["metrics"] else "-"

    return [
        both("configuration", lambda entry: str(entry["description"])),
        both("throughput", speed),
        *([both("requests in time", requests)] if report["best"]["answered"] else []),
        both("time of a batch, p50", batch("p50")),
        both("time of a batch, p99", batch("p99")),
        *(both(name.replace("_", " "), metric(name)) for name in report["metrics"]),
        both("peak memory", lambda entry: f"{entry['peak_rss_bytes'] / 2**20:.0f} MiB"),
        both(
            "padding",
            lambda entry: f"{entry['padded_tokens'] / entry['tokens'] - 1:.1%} of the tokens more",
        ),
        both("start-up in the search", start_up),
        *cold_start(),
    ]


def phase_words(phases_s: Mapping[str, float], names: Sequence[str]) -> str:
    """The seconds of these phases, for people."""
    return ", ".join(
        f"{name.replace('_', ' ')} {phases_s[name]:.1f} s" for name in names if name in phases_s
    )
