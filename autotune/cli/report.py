"""Commands that read finished runs: `autotune report`, `compare` and `export`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from autotune.cli.common import Reported, debug_option, json_option, show
from autotune.cli.parameters import FilePath


@click.command()
@click.argument("run", type=FilePath())
@json_option
@debug_option
def report(*, run: Path, as_json: bool, debug: bool) -> None:
    """Write the report of RUN (a run's folder) again, from its trials.

    Works for a search that was killed too.
    """
    with Reported(debug):
        from autotune.commands.rebuild import rebuild
        from autotune.store.folder import folder_of

        folder = folder_of(run)
        written = rebuild(folder)
        show(json.dumps(written, indent=2) if as_json else f"{folder.report_html}")


@click.command()
@click.argument("runs", nargs=-1, required=True, type=FilePath())
@json_option
@debug_option
def compare(*, runs: tuple[Path, ...], as_json: bool, debug: bool) -> None:
    """Compare RUNS (folders of finished runs), for example of two hosts, models or versions."""
    with Reported(debug):
        from autotune.cli.result import show_table
        from autotune.commands.compare import compare, tables

        found = compare(runs)
        if as_json:
            show(json.dumps(found, indent=2))
            return
        for title, rows in tables(found):
            if rows:
                show_table(title, rows)


@click.command()
@click.argument("run", type=FilePath())
@click.option(
    "--output",
    type=FilePath(),
    required=True,
    help="Folder to write into.",
)
@debug_option
def export(*, run: Path, output: Path, debug: bool) -> None:
    """Write best and baseline of RUN as optimum-benchmark's reports."""
    with Reported(debug):
        from autotune.commands.export import export
        from autotune.store.folder import folder_of

        for path in export(folder_of(run), output):
            show(str(path))
