"""The result of a search as tables and sentences on standard output."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.cli.common import printable, printing
from autotune.shared.paths import shell_word

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


def show_result(report: dict[str, Any], folder: Path) -> None:
    """Print the final table and the paths of the report and launch.sh."""
    from autotune.report.text import (
        accuracy_sentence,
        by_reason,
        engine_sentence,
        falls_short,
        launch_sentence,
        memory_sentence,
        noise_sentence,
        split_sentence,
        table,
    )

    console = _console()
    header, rows = table(report)

    def word(path: Path) -> str:
        return shell_word(path, console.encoding)

    with printing():
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
        for sentence in (
            accuracy_sentence(report),
            split_sentence(report),
            memory_sentence(report),
            engine_sentence(report["engine"]),
        ):
            if sentence:
                console.print(text(sentence))
        launched = launch_sentence(report)
        if launched:
            short = falls_short(report["launch_check"])
            console.print(text(launched, style="yellow" if short else ""))
        lines = []
        if report["interrupted"]:
            lines.append(
                f"Interrupted; continue with: autotune search --resume --output {word(folder)}"
            )
        page, script = word(folder / "report.html"), word(folder / "launch.sh")
        lines.append(f"Report: {page}    Run it: bash {script}")
        for line in lines:
            console.print(text(line), soft_wrap=True)  # so that the command can be pasted


def show_table(title: str, rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column names its rows."""
    with printing():
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
    """Untrusted words as plain text, without markup or terminal control characters."""
    from rich.text import Text

    return Text(printable(words), style=style)


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 150)
