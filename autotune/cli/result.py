"""The result of a search, for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def show_result(report: dict[str, Any], folder: Path) -> None:
    """The final table and where the files are, on standard output."""
    from rich.table import Table
    from rich.text import Text

    from autotune.report.text import (
        by_reason,
        engine_sentence,
        launch_sentence,
        noise_sentence,
        table,
    )

    console = _console()
    header, rows = table(report)
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in header:
        shown.add_column(name, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    console.print(shown)
    for kind, failed in report["failures"].items():
        first = f"{failed[0]['description']}: {' '.join(failed[0]['detail'].split())}"
        console.print(Text(f"{kind} ({len(failed)}): {first[:300]}"))
    for names, why in by_reason(report["unavailable"]):
        console.print(Text(f"not available, {names}: {why}"))
    console.print()
    console.print(Text(report["verdict"]))
    if not report["noise"]["quiet"]:
        console.print(Text(noise_sentence(report["noise"]), style="yellow"))
    for sentence in (engine_sentence(report["engine"]), launch_sentence(report)):
        if sentence:
            console.print(Text(sentence))
    if report["interrupted"]:
        console.print(Text(f"Interrupted; go on with: autotune search --resume --output {folder}"))
    console.print(Text(f"Report: {folder / 'report.html'}    Run it: bash {folder / 'launch.sh'}"))


def show_table(title: str, rows: Sequence[Sequence[str]]) -> None:
    """A table whose first column names its rows, on standard output."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        show_header=False,
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for _ in rows[0]:
        shown.add_column(overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    _console().print(shown)


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 150)
