"""`autotune spaces`."""

from __future__ import annotations

import json
from typing import Any

import click

from autotune.cli.common import (
    Reported,
    debug_option,
    drop_option,
    json_option,
    objective_option,
    set_option,
    show,
)
from autotune.shared.errors import SpaceError
from autotune.shared.words import suggestion


@click.group()
def spaces() -> None:
    """Search spaces, for `search --space`."""


@spaces.command("list")
@json_option
@debug_option
def list_spaces(*, as_json: bool, debug: bool) -> None:
    """List the search spaces that come with autotune."""
    with Reported(debug):
        from autotune.commands.search.settings import known_spaces
        from autotune.space import load_space

        found = {name: load_space(path) for name, path in known_spaces().items()}
        if as_json:
            described = {
                name: {"task": file.task, "description": file.description}
                for name, file in found.items()
            }
            show(json.dumps(described, indent=2))
        for name, file in () if as_json else found.items():
            show(f"{name:22} {file.description}")


@spaces.command("show")
@click.argument("space")
@click.option(
    "--stack",
    "named_stacks",
    multiple=True,
    metavar="NAME[=PYTHON]",
    help="Include this interpreter; repeatable.",
)
@objective_option
@set_option
@drop_option
@json_option
@debug_option
def show_space(*, space: str, as_json: bool, debug: bool, **options: Any) -> None:
    """Show the knobs and values of SPACE (a name or a .yaml file) on this host."""
    with Reported(debug):
        from autotune.commands.search.settings import find_space
        from autotune.commands.spaces import compile_here, describe

        shown = compile_here(find_space(space), **options)
        show(json.dumps(shown, indent=2) if as_json else "\n".join(describe(shown)))


@spaces.command()
@click.argument("space")
@debug_option
def validate(*, space: str, debug: bool) -> None:
    """Check that SPACE (a name or a .yaml file) is well formed; exit code 2 if not.

    Independent of this host, unlike `show`.
    """
    with Reported(debug):
        from autotune.commands.search.settings import find_space
        from autotune.space import load_space
        from autotune.tasks import TASKS

        path = find_space(space)
        file = load_space(path)
        if file.task not in TASKS:
            raise SpaceError(
                f"{path}: task must be one of {', '.join(TASKS)}; got {file.task!r}"
                f"{suggestion(file.task, TASKS)}"
            )
        show(
            f"{path}: {len(file.knobs)} knobs, {len(file.constraints)} constraints, "
            f"{len(file.priors)} priors for {file.task}"
        )
