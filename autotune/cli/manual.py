"""Updates docs/commands.md from the output of each command's `--help`.

python -m autotune.cli.manual docs/commands.md
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner

from autotune.cli import cli

BLOCK = re.compile(r"```text\n\$ autotune(?P<words>(?: [a-z-]+)*) --help\n.*?```", re.DOTALL)
WIDTH = 100


def commands(
    command: click.Command = cli, words: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """The words of every command that `--help` lists, groups before what is in them."""
    yield words
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            if not inner.hidden:
                yield from commands(inner, (*words, name))


def block(words: tuple[str, ...]) -> str:
    """The block of docs/commands.md for one command: its `--help`."""
    arguments = [*words, "--help"]
    done = CliRunner().invoke(cli, arguments, prog_name="autotune", terminal_width=WIDTH)
    assert done.exit_code == 0, done.output
    lines = "\n".join(line.rstrip() for line in done.output.rstrip().splitlines())
    return f"```text\n$ {' '.join(['autotune', *arguments])}\n{lines}\n```"


def updated(page: str) -> str:
    """`page` with every block updated. Raises ValueError if a command has no block."""
    shown = {tuple(found["words"].split()) for found in BLOCK.finditer(page)}
    missing = [" ".join(words) for words in commands() if words not in shown]
    if missing:
        raise ValueError(f"no page of: {', '.join(missing)}")
    return BLOCK.sub(lambda found: block(tuple(found["words"].split())), page)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
