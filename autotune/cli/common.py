"""What every command does alike: printing, and turning errors into one line and an exit code.

Exit codes: 0 done; 1 it ran and found nothing; 2 bad input, one line on standard error says
what to do; 3 a promise does not hold; 130 interrupted before there was anything to keep.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from autotune.errors import AutotuneError, InputError

EXIT_NOTHING_FOUND, EXIT_BAD_INPUT, EXIT_BROKEN, EXIT_INTERRUPTED = 1, 2, 3, 130

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
debug_option = click.option("--debug", is_flag=True, help="Show tracebacks.")


def say(line: str) -> None:
    """A line for people, on standard error."""
    click.echo(line, err=True)


class Reported:
    """Turns the project's errors into one line and an exit code."""

    def __init__(self, debug: bool) -> None:
        self._debug = debug

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None or self._debug:
            return
        if isinstance(error, KeyboardInterrupt):
            say("autotune: interrupted")
            sys.exit(EXIT_INTERRUPTED)
        if isinstance(error, AutotuneError):
            words = " ".join(str(error).split())
            say(f"autotune: {words}")
            sys.exit(EXIT_BAD_INPUT if isinstance(error, InputError) else EXIT_NOTHING_FOUND)
