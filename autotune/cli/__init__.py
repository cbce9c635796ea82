"""The command line: the only place that prints or chooses an exit code.

Results go to standard output, progress to standard error. A command imports slow modules itself,
so that `--help` is fast.
"""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import click

from autotune import __version__
from autotune.cli.common import Reported, printing
from autotune.cli.evaluate import run_glue, run_ner, run_qa
from autotune.cli.host import doctor, learned, stack
from autotune.cli.report import compare, export, report
from autotune.cli.run import changes, run, score, serve_test, verify
from autotune.cli.search import search
from autotune.cli.spaces import spaces


class Commands(click.Group):
    """The commands. A run or its best.yaml in the place of a command is named as what it is."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if self.get_command(ctx, word) is None and not word.startswith("-"):
            path = Path(word)
            if path.suffix in (".yaml", ".yml") or (path / "best.yaml").is_file():
                raise click.UsageError(
                    f"{word} is no command; to run it: autotune run {shlex.quote(word)} "
                    "(or verify, serve-test)",
                    ctx,
                )
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="autotune")
def cli() -> None:
    """Find the fastest correct way to run a Hugging Face model on this CPU."""


@click.command()
def version() -> None:
    """Print the version of autotune."""
    click.echo(f"autotune, version {__version__}")


SHOWN = (
    search,
    report,
    compare,
    export,
    run,
    verify,
    serve_test,
    run_qa,
    run_glue,
    run_ner,
    spaces,
    doctor,
    learned,
    stack,
    version,
)
HIDDEN = (changes, score)
for command in (*SHOWN, *HIDDEN):
    cli.add_command(command)


def main() -> NoReturn:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that it cannot print ends no command
            stream.reconfigure(errors="backslashreplace")
    start: Callable[[], None] = cli
    with Reported("--debug" in sys.argv), printing():
        start()
    raise AssertionError("click exits by itself")
