"""What every command does alike: printing, and turning errors into one line and an exit code.

Exit codes: 0 done; 1 it ran and found nothing; 2 bad input, one line on standard error says
what to do; 3 a promise does not hold; 130 interrupted before there was anything to keep.
"""

from __future__ import annotations

import contextlib
import re
import signal
import sys
from typing import Any

import click

from autotune.shared.errors import AutotuneError, InputError

EXIT_NOTHING_FOUND, EXIT_BAD_INPUT, EXIT_BROKEN, EXIT_INTERRUPTED = 1, 2, 3, 130

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
debug_option = click.option("--debug", is_flag=True, help="Show tracebacks.")
objective_option = click.option(
    "--objective",
    type=click.Choice(["throughput", "latency", "server"]),
    default="throughput",
    show_default=True,
    help="Examples a second, p90 of one example at a time, or the highest rate of requests "
    "served in time.",
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KNOB=VALUE[,VALUE]",
    help="Fix or narrow a knob; repeatable.",
)
drop_option = click.option(
    "--drop", "dropped", multiple=True, metavar="KNOB", help="Do not search a knob; repeatable."
)


UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and newline, and those that turn the direction of writing: a name or
an error that holds some must not move the cursor or read as something else."""


def printable(text: str) -> str:
    """`text` as it may go to a terminal."""
    return UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text)


def say(line: str) -> None:
    """A line for people, on standard error. Work goes on where nobody reads it any more."""
    with contextlib.suppress(OSError):
        click.echo(printable(line), err=True)


class Interruptible:
    """Within it SIGTERM, and SIGHUP where it is not ignored, end a search as Ctrl-C does."""

    def __enter__(self) -> None:
        both = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
        self._before = {number: found for number, found in both.items() if found != signal.SIG_IGN}
        for number in self._before:
            signal.signal(number, signal.default_int_handler)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


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
