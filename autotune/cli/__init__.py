"""The command line: the only place that prints or chooses an exit code.

Results go to standard output, progress to standard error. A command imports slow modules itself,
so that `--help` is fast.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
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


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="autotune")
def cli() -> None:
    """Find the fastest correct way to run a Hugging Face model on this CPU."""


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
