"""The figures of report.html, as plotly figures in plain dicts and lists.

Names are escaped here because plotly interprets some HTML tags.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from autotune.report import text
from autotune.shared.engines import known_engines

PALETTE = ("#bcbd22", "#8c564b", "#e07b91", "#5e8c31", "#4f6bed", "#b8860b", "#00a087", "#a05195")
"""Colours of engines whose descriptor names none, legible on white and on black."""
ACCENT, PLAIN = "#d62728", "#7f7f7f"
SHOWN_KNOBS = 10


def colour_of(mode: str) -> str:
    """The colour of an engine: its descriptor's, else always the same one of PALETTE.

    `mode` may be unknown: the report may be of an engine that is no longer installed.
    """
    engine = known_engines().get(mode)
    if engine is not None and engine.colour is not None:
        return engine.colour
    return PALETTE[zlib.crc32(mode.encode()) % len(PALETTE)]


def label_of(mode: str) -> str:
    """The name of an engine in pictures."""
    engine = known_engines().get(mode)
    return mode if engine is None else engine.shown


def figures(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures: `title`, `about`, `height` in pixels and the plotly `figure` of each."""
    objective = report["objective"]
    scale = 1.0 if objective["maximize"] else 1000.0
    unit = objective["unit"] if objective["maximize"] else "ms (p90 of one example)"
    metric = report["metrics"][0].replace("_", " ")
    engines = bars(report)
    found = [
        {
            "title": "Accuracy against speed",
            "about": f"Each point is a configuration: {metric} over the dataset and {unit}. The "
            "solid line joins the best trade-offs of speed and accuracy (Pareto front). Points "
            "below the dashed line lose more accuracy than allowed.",
            "height": 460,
            "figure": scatter(report, scale, unit, metric),
        },
        {
            "title": "Speed by engine and precision",
            "about": "The best allowed configuration of each, with the interval of its median; the "
            "best of all stands for its kind. A hollow bar loses more accuracy than allowed. A "
            "hatched bar is an estimate: a few batches showed that the configuration is slower "
            "(screening)." + longer_bars(engines, report),
            "height": 120 + 26 * len(engines),
            "figure": by_mode(engines, scale, unit),
        },
        {
            "title": "Progress of the search",
            "about": "The line is the best allowed configuration so far. Each dot is a trial.",
            "height": 320,
            "figure": progress(report, scale, unit),
        },
        {
            "title": "Time of an example",
            "about": "The time of a batch for each of its model inputs: the share of batches "
            "within a time, over all passes of the finals. So batches of different sizes compare.",
            "height": 320,
            "figure": batches(report),
        },
    ]
    if report["knobs"]:
        shown = report["knobs"][:SHOWN_KNOBS]
        found.append(
            {
                "title": "What each knob reached",
                "about": f"The best allowed {unit} measured with each value of a knob. The other "
                "knobs may differ. Neighbouring knobs have different colours, to tell them apart.",
                "height": 90 + 20 * sum(len(one["values"]) for one in shown),
                "figure": reached(shown, scale, unit),
            }
        )
    if report["one_at_a_time"]:
        found.append(
            {
                "title": "Around the best, one knob at a time",
                "about": "Configurations that differ from the best in this knob only, and how many "
                "times as good each is. A hollow point loses more accuracy than allowed.",
                "height": 120 + 24 * len(report["one_at_a_time"]),
                "figure": around(report["one_at_a_time"]),
            }
        )
    return found


def scatter(report: Mapping[str, Any], scale: float, unit: str, metric: str) -> dict[str, Any]:
    points = [p for p in report["points"] if p["metric"] is not None]
    traces: list[dict[str, Any]] = []
    modes = [*dict.fromkeys([*known_engines(), *(p["config"]["mode"] for p in points)])]
    for mode in modes:
        some = [p for p in points if p["config"]["mode"] == mode]
        if some:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": escape(label_of(mode)),
                    "x": [scale * p["value"] for p in some],
                    "y": [p["metric"] for p in some],
                    "text": [escape(p["description"]) for p in some],
                    "hovertemplate": "%{text}<br>%{x:.1f}, %{y:.2f}<extra></extra>",
                    "marker": {
                        "color": colour_of(mode),
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
    label = f"limit of the gate: {metric} {limit:.2f}"
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
                    "label": {
                        "text": label,
                        "textposition": "start",
                        "yanchor": "bottom",
                        "font": {"color": ACCENT, "size": 11},
                    },
                }
            ],
        },
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """The bar of one engine and precision. `value`, `low`, `high` are in the objective's unit."""

    name: str
    mode: str
    words: str
    value: float
    low: float
    high: float
    description: str
    hollow: bool = False  # it loses too much accuracy
    hatched: bool = False  # estimated

    @property
    def colour(self) -> str:
        return colour_of(self.mode)


def bars(report: Mapping[str, Any]) -> list[Bar]:
    """One bar for each engine and precision, measured or estimated by screening; best last."""
    objective = report["objective"]
    found = [
        Bar(
            name=f"{label_of(entry['config']['mode'])} {entry['config']['precision']}",
            mode=entry["config"]["mode"],
            words=text.shown(entry["objective"]["median"], objective),
            value=entry["objective"]["median"],
            low=entry["objective"]["low"],
            high=entry["objective"]["high"],
            description=entry["description"],
            hollow=entry["failure"] is not None,
        )
        for entry in report["best_by_mode"]
    ]
    found += [
        Bar(
            name=name,
            mode=entry["config"]["mode"],
            words=text.shown(entry["objective"]["median"], objective),
            value=entry["objective"]["median"],
            low=entry["objective"]["low"],
            high=entry["objective"]["high"],
            description=entry["description"],
        )
        for name, entry in (
            ("eager, dynamic padding", report["dynamic_baseline"]),
            ("eager (the baseline)", report["baseline"]),
        )
        if entry is not None
    ]
    found += [
        Bar(
            name=one["name"],
            mode=one["name"].split()[0],
            words=text.estimated(one, objective),
            value=one["value"],
            low=one["value"],
            high=one["value"],
            description=one["description"],
            hatched=True,
        )
        for one in report["screened"]
    ]
    return sorted(found, key=lambda bar: bar.value, reverse=not objective["maximize"])


def longer_bars(found: Sequence[Bar], report: Mapping[str, Any]) -> str:
    """A sentence on allowed bars that are better than the best's; empty if there are none."""
    best, maximize = report["best"]["objective"]["median"], report["objective"]["maximize"]
    better = [
        bar.name
        for bar in found
        if not bar.hollow and (bar.value > best if maximize else bar.value < best)
    ]
    if not better:
        return ""
    return (
        f" {escape(', '.join(better))}: better than the best by a single measurement in the "
        "search, which was partly luck; the best was measured again in the finals."
    )


def by_mode(found: Sequence[Bar], scale: float, unit: str) -> dict[str, Any]:
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "y": [bar.name for bar in found],
                "x": [scale * bar.value for bar in found],
                "text": [bar.words for bar in found],
                "textposition": [
                    "outside" if bar.hollow or bar.hatched else "auto" for bar in found
                ],
                "customdata": [escape(bar.description) for bar in found],
                "hovertemplate": "%{customdata}<br>%{x:.1f}<extra></extra>",
                "marker": {
                    "color": ["rgba(0,0,0,0)" if bar.hollow else bar.colour for bar in found],
                    "pattern": {
                        "shape": ["/" if bar.hatched else "" for bar in found],
                        "fgcolor": [bar.colour for bar in found],
                        "fgopacity": 0.7,  # legible on white and on black
                        "solidity": 0.35,
                    },
                    "line": {"color": [bar.colour for bar in found], "width": 1.5},
                },
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [scale * (bar.high - bar.value) for bar in found],
                    "arrayminus": [scale * (bar.value - bar.low) for bar in found],
                    "color": PLAIN,
                    "thickness": 1,
                },
            }
        ],
        "layout": named_rows(unit, rangemode="tozero"),
    }


def named_rows(unit: str, **axis: str) -> dict[str, Any]:
    """The layout of a figure whose rows have names."""
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
    traces, seen_ms = [], []
    for name, colour in (("baseline", PLAIN), ("best", ACCENT)):
        quantiles = [1000 * seconds for seconds in report["example_quantiles"][name]]
        seen_ms += quantiles
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": quantiles,
                "y": [100 * n / (len(quantiles) - 1) for n in range(len(quantiles))],
                "line": {"color": colour},
                "hovertemplate": "%{y:.0f}% within %{x:.2f} ms<extra>" + name + "</extra>",
            }
        )
    ticks = plain_ticks(min(seen_ms), max(seen_ms))
    return {
        "data": traces,
        "layout": {
            "xaxis": {
                "title": {"text": "ms for a model input"},
                "type": "log",
                "tickvals": ticks,
                "ticktext": [f"{tick:g}" for tick in ticks],
            },
            "yaxis": {"title": {"text": "% of batches"}, "range": [0, 100]},
        },
    }


def plain_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... from just below `low` to just above `high`, for a logarithmic axis."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    steps = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    below = [tick for tick in steps if tick <= low]
    above = [tick for tick in steps if tick >= high]
    return [tick for tick in steps if below[-1] <= tick <= above[0]]


def reached(shown: Sequence[Mapping[str, Any]], scale: float, unit: str) -> dict[str, Any]:
    rows = [
        (f"{one['knob']}: {knob_value(value['value'])}", value, ACCENT if number % 2 else PLAIN)
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
    best: dict[tuple[str, str], Mapping[str, Any]] = {}
    for change in changes:  # one dot a value: the best one, an allowed one first
        key = (change["knob"], str(change["to"]))
        known = best.get(key)
        if known is None or (change["allowed"], change["times"]) > (
            known["allowed"],
            known["times"],
        ):
            best[key] = change
    rows = list(reversed(best.values()))
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "y": [
                    f"{c['knob']}: {knob_value(c['from'])} → {knob_value(c['to'])}" for c in rows
                ],
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


def knob_value(value: object) -> str:
    """A knob's value as on the command line, with HTML escaped."""
    return escape(str(value).lower() if isinstance(value, bool) else str(value))
