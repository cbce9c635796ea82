"""report.html: one file with everything in it, for people.

Text is escaped by the template; what the pictures show is passed to them as JSON in which no
markup can end the script, and the names in it are escaped, since plotly reads some tags.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape

from autotune.knobs import describe
from autotune.records import Trial
from autotune.report import text

COLOURS = {
    "eager": "#7f7f7f",
    "jit": "#1f77b4",
    "ipex": "#17becf",
    "ipex_jit": "#2ca02c",
    "inductor": "#9467bd",
    "zentorch": "#e377c2",
    "onnxruntime": "#ff7f0e",
    "openvino": "#d62728",
}
"""Of the modes; legible on white and on black."""
ACCENT, PLAIN = "#d62728", "#7f7f7f"
SHOWN_KNOBS = 10


def html(report: Mapping[str, Any]) -> str:
    """The page."""
    from plotly.offline import get_plotlyjs

    header, rows = text.table(report)
    drawn = figures(report)
    sentences = [
        text.accuracy_sentence(report),
        text.limit_sentence(report["limit"]),
        text.engine_sentence(report["engine"]),
        text.launch_sentence(report),
    ]
    return _template("report.html.j2").render(
        report=report,
        title=f"{report['model']['name']}: {report['workload']['task']}",
        headline=headline(report),
        sentences=[sentence for sentence in sentences if sentence],
        noise=text.noise_sentence(report["noise"]),
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
    """The page of a search that has no baseline: why, in the words of what failed."""
    return _template("failed.html.j2").render(
        report=manifest,
        title=f"{manifest['model']['name']}: {manifest['workload']['task']}",
        error=error,
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
    """JSON that may stand in a script element: nothing in it can end the element."""
    plain = json.dumps(value, allow_nan=False)
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def headline(report: Mapping[str, Any]) -> dict[str, str]:
    """The verdict's number, large."""
    gain = report["best"]["speedup"]
    if not report["significant"]:
        return {"number": "1.0x", "words": "no significant gain: keep the baseline"}
    return {
        "number": f"{gain['median']:.1f}x",
        "words": f"{report['objective']['compared']} the baseline ({gain['low']:.1f} to "
        f"{gain['high']:.1f}, {gain['coverage']:.0%} interval)",
    }


def comparison(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What, baseline, best."""
    sides = (report["baseline"], report["best"])

    def both(name: str, shown: Any) -> tuple[str, str, str]:
        return name, shown(sides[0]), shown(sides[1])

    def speed(entry: Mapping[str, Any]) -> str:
        own = entry["throughput"]
        return f"{own['median']:.1f}/s ({own['low']:.1f} to {own['high']:.1f})"

    def batch(name: str) -> Any:
        return lambda entry: f"{1000 * entry['batch_s'][name]:.1f} ms"

    def requests(entry: Mapping[str, Any]) -> str:
        one = entry["answered"][-1]
        return (
            f"{one['per_s']:.1f}/s: p50 {1000 * one['p50_s']:.1f} ms, p99 "
            f"{1000 * one['p99_s']:.1f} ms, {one['mean_batch']:.1f} rows a batch"
        )

    def start_up(entry: Mapping[str, Any]) -> str:
        phases = entry["phases_s"]
        return ", ".join(
            f"{name.replace('_', ' ')} {phases[name]:.1f} s"
            for name in ("import", "prepare", "warm_up")
            if name in phases
        )

    def metric(name: str) -> Any:
        return lambda entry: f"{entry['metrics'][name]:.2f}" if entry["metrics"] else "-"

    return [
        both("configuration", lambda entry: str(entry["description"])),
        both("throughput", speed),
        *([both("requests in time", requests)] if report["best"]["answered"] else []),
        both("time of a batch, p50", batch("p50")),
        both("time of a batch, p99", batch("p99")),
        *(both(name.replace("_", " "), metric(name)) for name in report["metrics"]),
        both("memory at its peak", lambda entry: f"{entry['peak_rss_bytes'] / 2**20:.0f} MiB"),
        both(
            "padding",
            lambda entry: f"{entry['padded_tokens'] / entry['tokens'] - 1:.1%} of the tokens more",
        ),
        both("start-up", start_up),
    ]


def figures(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each with `title`, `about`, `height` in pixels and the plotly `figure`."""
    objective = report["objective"]
    scale = 1.0 if objective["maximize"] else 1000.0
    unit = objective["unit"] if objective["maximize"] else "ms (p90 of one example)"
    metric = report["metrics"][0].replace("_", " ")
    found = [
        {
            "title": "Accuracy against speed",
            "about": f"Each point is a configuration: {metric} over the dataset and {unit}. The "
            "line joins those than which none is both better and as accurate; below the dashed "
            "line the loss is over the limit.",
            "height": 460,
            "figure": scatter(report, scale, unit, metric),
        },
        {
            "title": "Speed by engine and precision",
            "about": "The best configuration of each that the accuracy limit allows, else the "
            "best there is (hollow); bars with the interval of the median.",
            "height": 120 + 26 * len(report["best_by_mode"]),
            "figure": by_mode(report, scale, unit),
        },
        {
            "title": "Progress of the search",
            "about": "The best allowed configuration so far; dots are the trials.",
            "height": 320,
            "figure": progress(report, scale, unit),
        },
        {
            "title": "Time of a batch",
            "about": "Share of batches done within a time, over all passes of the finals. A batch "
            "is as large as its configuration says.",
            "height": 320,
            "figure": batches(report),
        },
    ]
    if report["knobs"]:
        shown = report["knobs"][:SHOWN_KNOBS]
        found.append(
            {
                "title": "What each knob reached",
                "about": f"For each value of a knob, the best allowed {unit} measured with it, "
                "whatever the others were.",
                "height": 90 + 20 * sum(len(one["values"]) for one in shown),
                "figure": reached(shown, scale, unit),
            }
        )
    if report["one_at_a_time"]:
        found.append(
            {
                "title": "Around the best, one knob at a time",
                "about": "How many times as good a configuration is that differs from the best in "
                "this knob only; hollow where it loses too much accuracy.",
                "height": 120 + 24 * len(report["one_at_a_time"]),
                "figure": around(report["one_at_a_time"]),
            }
        )
    return found


def scatter(report: Mapping[str, Any], scale: float, unit: str, metric: str) -> dict[str, Any]:
    points = [p for p in report["points"] if p["metric"] is not None]
    traces: list[dict[str, Any]] = []
    for mode, colour in COLOURS.items():
        some = [p for p in points if p["config"]["mode"] == mode]
        if some:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": mode,
                    "x": [scale * p["value"] for p in some],
                    "y": [p["metric"] for p in some],
                    "text": [escape(p["description"]) for p in some],
                    "hovertemplate": "%{text}<br>%{x:.1f}, %{y:.2f}<extra></extra>",
                    "marker": {
                        "color": colour,
                        "size": 9,
                        "symbol": ["circle" if p["allowed"] else "circle-open" for p in some],
                    },
                }
            )
    by_trial = {p["trial"]: p for p in points}
    line = [by_trial[number] for number in report["front"]]
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "front",
            "x": [scale * p["value"] for p in line],
            "y": [p["metric"] for p in line],
            "line": {"color": PLAIN, "width": 1},
            "hoverinfo": "skip",
        }
    )
    reference = report["baseline"]["metrics"][report["metrics"][0]]
    limit = reference * (1 - report["max_accuracy_drop"])
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": unit}},
            "yaxis": {"title": {"text": f"{metric}, %"}},
            "shapes": [
                {
                    "type": "line",
                    "xref": "paper",
                    "x0": 0,
                    "x1": 1,
                    "y0": limit,
                    "y1": limit,
                    "line": {"color": ACCENT, "width": 1, "dash": "dash"},
                }
            ],
        },
    }


def by_mode(report: Mapping[str, Any], scale: float, unit: str) -> dict[str, Any]:
    entries = sorted(
        report["best_by_mode"],
        key=lambda e: e["objective"]["median"],
        reverse=not report["objective"]["maximize"],
    )
    names = [f"{e['config']['mode']} {e['config']['precision']}" for e in entries]
    colours = [COLOURS[e["config"]["mode"]] for e in entries]
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "y": names,
                "x": [scale * e["objective"]["median"] for e in entries],
                "text": [
                    text.shown(e["objective"]["median"], report["objective"]) for e in entries
                ],
                "customdata": [escape(e["description"]) for e in entries],
                "hovertemplate": "%{customdata}<br>%{x:.1f}<extra></extra>",
                "marker": {
                    "color": [
                        colour if e["failure"] is None else "rgba(0,0,0,0)"
                        for e, colour in zip(entries, colours, strict=True)
                    ],
                    "line": {"color": colours, "width": 1.5},
                },
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [
                        scale * (e["objective"]["high"] - e["objective"]["median"]) for e in entries
                    ],
                    "arrayminus": [
                        scale * (e["objective"]["median"] - e["objective"]["low"]) for e in entries
                    ],
                    "color": PLAIN,
                    "thickness": 1,
                },
            }
        ],
        "layout": named_rows(unit, rangemode="tozero"),
    }


def named_rows(unit: str, **axis: str) -> dict[str, Any]:
    """The layout of a picture whose rows have names."""
    return {
        "xaxis": {"title": {"text": unit}, **axis},
        "yaxis": {"automargin": True},
        "showlegend": False,
    }


def progress(report: Mapping[str, Any], scale: float, unit: str) -> dict[str, Any]:
    steps = [one for one in report["progress"] if one["best"] is not None]
    at = {one["trial"]: one["elapsed_s"] for one in report["progress"]}
    points = report["points"]
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "name": "best so far",
                "x": [one["elapsed_s"] for one in steps],
                "y": [scale * one["best"] for one in steps],
                "line": {"shape": "hv", "color": ACCENT},
            },
            {
                "type": "scatter",
                "mode": "markers",
                "name": "trials",
                "x": [at[p["trial"]] for p in points],
                "y": [scale * p["value"] for p in points],
                "text": [escape(p["description"]) for p in points],
                "hovertemplate": "%{text}<br>%{y:.1f}<extra></extra>",
                "marker": {
                    "color": PLAIN,
                    "size": 7,
                    "symbol": ["circle" if p["allowed"] else "circle-open" for p in points],
                },
            },
        ],
        "layout": {
            "xaxis": {"title": {"text": "seconds since the baseline began"}},
            "yaxis": {"title": {"text": unit}, "rangemode": "tozero"},
        },
    }


def batches(report: Mapping[str, Any]) -> dict[str, Any]:
    traces = []
    for name, colour in (("baseline", PLAIN), ("best", ACCENT)):
        quantiles = report["batch_quantiles"][name]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": [1000 * seconds for seconds in quantiles],
                "y": [100 * n / (len(quantiles) - 1) for n in range(len(quantiles))],
                "line": {"color": colour},
                "hovertemplate": "%{y:.0f}% within %{x:.2f} ms<extra>" + name + "</extra>",
            }
        )
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": "ms"}, "type": "log"},
            "yaxis": {"title": {"text": "% of batches"}, "range": [0, 100]},
        },
    }


def reached(shown: Sequence[Mapping[str, Any]], scale: float, unit: str) -> dict[str, Any]:
    rows = [
        (f"{one['knob']}: {plain(value['value'])}", value, ACCENT if number % 2 else PLAIN)
        for number, one in enumerate(reversed(shown))
        for value in reversed(one["values"])
    ]
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "y": [name for name, _, _ in rows],
                "x": [scale * value["best"] for _, value, _ in rows],
                "customdata": [escape(value["description"]) for _, value, _ in rows],
                "hovertemplate": "%{y}, %{x:.1f}<br>%{customdata}<extra></extra>",
                "marker": {"color": [colour for _, _, colour in rows], "size": 9},
            }
        ],
        "layout": named_rows(unit, rangemode="tozero"),
    }


def around(changes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rows = list(reversed(changes))
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "y": [f"{c['knob']}: {plain(c['from'])} → {plain(c['to'])}" for c in rows],
                "x": [c["times"] for c in rows],
                "hovertemplate": "%{y}: %{x:.2f}x<extra></extra>",
                "marker": {
                    "color": ACCENT,
                    "size": 9,
                    "symbol": ["circle" if c["allowed"] else "circle-open" for c in rows],
                },
            }
        ],
        "layout": {
            **named_rows("times the best"),
            "shapes": [
                {
                    "type": "line",
                    "yref": "paper",
                    "x0": 1,
                    "x1": 1,
                    "y0": 0,
                    "y1": 1,
                    "line": {"color": PLAIN, "width": 1, "dash": "dash"},
                }
            ],
        },
    }


def plain(value: object) -> str:
    """A knob's value as it is written on the command line, escaped."""
    return escape(str(value).lower() if isinstance(value, bool) else str(value))
