"""The result of a search, for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.cli.common import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


def show_result(report: dict[str, Any], folder: Path) -> None:
    """The final table and where the files are, on standard output."""
    from autotune.report.text import (
        by_reason,
        engine_sentence,
        launch_sentence,
        noise_sentence,
        table,
    )

    console = _console()
    header, rows = table(report)
    console.print(_table(rows, header=header))
    for kind, failed in report["failures"].items():
        first = f"{failed[0]['description']}: {' '.join(failed[0]['detail'].split())}"
        console.print(text(f"{kind} ({len(failed)}): {first[:300]}"))
    for names, why in by_reason(report["unavailable"]):
        console.print(text(f"not available, {names}: {why}"))
    console.print()
    console.print(text(report["verdict"]))
    if not report["noise"]["quiet"]:
        console.print(text(noise_sentence(report["noise"]), style="yellow"))
    for sentence in (engine_sentence(report["engine"]), launch_sentence(report)):
        if sentence:
            console.print(text(sentence))
    if report["interrupted"]:
        console.print(text(f"Interrupted; go on with: autotune search --resume --output {folder}"))
    console.print(text(f"Report: {folder / 'report.html'}    Run it: bash {folder / 'launch.sh'}"))


def show_table(title: str, rows: Sequence[Sequence[str]]) -> None:
    """A table whose first column names its rows, on standard output."""
    _console().print(_table(rows, title=title))


def _table(
    rows: Sequence[Sequence[str]], *, header: Sequence[str] = (), title: str | None = None
) -> Table:
    from rich.table import Table

    shown = Table(
        title=None if title is None else text(title, style="bold"),
        title_justify="left",
        show_header=bool(header),
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for name in header or [""] * len(rows[0]):
        shown.add_column(name, overflow="fold")
    for row in rows:
        shown.add_row(*(text(cell) for cell in row))
    return shown


def text(words: str, style: str = "") -> Text:
    """Words that may be of anyone: nothing in them is markup, or moves the cursor."""
    from rich.text import Text

    return Text(printable(words), style=style)


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 150)
