"""Shared by all commands: options, printing, and errors as one line and an exit code.

Exit codes: 0 done; 1 the command ran and found nothing; 2 bad input, and one line on standard
error says what to do; 3 a promise does not hold; 130 interrupted with nothing to keep.
"""

from __future__ import annotations

import contextlib
import re
import signal
import sys
from collections.abc import Iterator
from typing import Any

import click

from autotune.shared.errors import AutotuneError, InputError, OutputError
from autotune.shared.objectives import DEFAULT, OBJECTIVES

EXIT_NOTHING_FOUND, EXIT_BAD_INPUT, EXIT_BROKEN, EXIT_INTERRUPTED = 1, 2, 3, 130

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
debug_option = click.option("--debug", is_flag=True, help="Show tracebacks.")
_ABOUT = [one.about for one in OBJECTIVES.values()]
objective_option = click.option(
    "--objective",
    type=click.Choice(list(OBJECTIVES)),
    default=DEFAULT.name,
    show_default=True,
    help=f"What to optimise: {', '.join(_ABOUT[:-1])}, or {_ABOUT[-1]}.",
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


UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters except tab and newline, and those that change the direction of writing.
Names and errors may contain them; they must not move the cursor or disguise the text."""


def printable(text: str) -> str:
    """`text` made safe for a terminal."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def say(line: str) -> None:
    """Print a line on standard error. A closed standard error is no reason to stop."""
    with contextlib.suppress(OSError):
        click.echo(printable(line), err=True)


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Turns an error of standard output into one line. A closed pipe is no error."""
    try:
        yield
    except BrokenPipeError:  # click ends the command in silence
        raise
    except OSError as error:
        raise OutputError(f"standard output cannot be written: {error.strerror}") from error


def show(text: str) -> None:
    """Print a result, which may hold names of any kind, on standard output. Raises OutputError."""
    with printing():
        click.echo(printable(text))


class Interruptible:
    """A context in which SIGTERM, and SIGHUP unless ignored, end a search as Ctrl-C does."""

    def __enter__(self) -> None:
        both = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
        self._before = {number: found for number, found in both.items() if found != signal.SIG_IGN}
        for number in self._before:
            signal.signal(number, signal.default_int_handler)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Reported:
    """Turns the project's errors, and those of files and disks, into one line and an exit code."""

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
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            place = f": {error.filename}" if error.filename else ""
            say(f"autotune: {error.strerror or error}{place} (--debug shows where)")
            sys.exit(EXIT_BAD_INPUT)
