"""`autotune report`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from autotune.cli.common import Reported, debug_option, json_option


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@json_option
@debug_option
def report(*, run: Path, as_json: bool, debug: bool) -> None:
    """Write the report of RUN (a run's folder) again, from its trials.

    Of a search that was killed too.
    """
    with Reported(debug):
        from autotune.folder import RunFolder
        from autotune.rebuild import rebuild

        folder = RunFolder(run)
        written = rebuild(folder)
        click.echo(json.dumps(written, indent=2) if as_json else f"{folder.report_html}")
