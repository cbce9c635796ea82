"""Draw the curves of bench/replay.py as an SVG that is readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 360, 300, 52, 34, 12, 44
COLOURS = ("#d1495b", "#2a9d8f", "#8d99ae", "#3a86ff", "#9b5de5", "#f4a261", "#6c757d")
LOWEST_GAP = 1e-3
"""Smaller gaps are drawn at the bottom of the logarithmic axis."""
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #222 }
.grid { stroke: #8884; stroke-width: 1 } .line { fill: none; stroke-width: 2 }
@media (prefers-color-scheme: dark) { text { fill: #ddd } }
"""

Series = Mapping[str, Sequence[float]]
"""Strategy -> its gap to the best configuration (0 to 1) after 1, 2, ... configurations."""


def draw(panels: Mapping[str, Series], counts: Mapping[str, int], path: Path) -> None:
    """Draw one panel for each table: the gap (log scale) over the share of configurations tried."""
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    colour = dict(zip(names, COLOURS, strict=False))
    height = HEIGHT + 20 * ((len(names) + 2) // 3)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH * len(panels)}" '
        f'height="{height}" role="img" aria-label="Gap to the best configuration by the share of '
        f'configurations tried"><style>{STYLE}</style>'
    ]
    for number, (title, series) in enumerate(panels.items()):
        parts.append(f'<g transform="translate({WIDTH * number} 0)">')
        parts += _panel(title, series, counts[title], colour)
        parts.append("</g>")
    for number, name in enumerate(names):
        x, y = LEFT + 200 * (number % 3), HEIGHT + 14 + 20 * (number // 3)
        parts.append(
            f'<path class="line" stroke="{colour[name]}" d="M{x} {y - 4}h24"/>'
            f'<text x="{x + 30}" y="{y}">{escape(name)}</text>'
        )
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


def _panel(title: str, series: Series, count: int, colour: Mapping[str, str]) -> list[str]:
    longest = max(len(gaps) for gaps in series.values())
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x(tried: int) -> float:
        return LEFT + (right - LEFT) * tried / longest

    def y(gap: float) -> float:
        share = math.log(max(gap, LOWEST_GAP)) / math.log(LOWEST_GAP)  # 0 at 100%, 1 at the lowest
        return TOP + (bottom - TOP) * share

    parts = [f'<text x="{LEFT}" y="18" font-weight="600">{escape(title)}</text>']
    for gap in (1.0, 0.1, 0.01, 0.001):
        parts.append(
            f'<path class="grid" d="M{LEFT} {y(gap):.1f}H{right}"/>'
            f'<text x="{LEFT - 6}" y="{y(gap) + 4:.1f}" text-anchor="end">{gap:.3g}</text>'
        )
    for share in (0.0, 0.05, 0.1, 0.15, 0.2):
        if share * count <= longest:
            place = x(round(share * count))
            parts.append(
                f'<path class="grid" d="M{place:.1f} {TOP}V{bottom}"/>'
                f'<text x="{place:.1f}" y="{bottom + 16}" text-anchor="middle">{share:.0%}</text>'
            )
    parts.append(
        f'<text x="{(LEFT + right) / 2}" y="{bottom + 34}" text-anchor="middle">'
        "of the configurations measured</text>"
    )
    for name, gaps in series.items():
        points = " ".join(f"{x(n):.1f},{y(gap):.1f}" for n, gap in enumerate(gaps, start=1))
        parts.append(f'<polyline class="line" stroke="{colour[name]}" points="{points}"/>')
    return parts
