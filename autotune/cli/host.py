"""Commands about this host: `autotune doctor`, `learned` and `stack`."""

from __future__ import annotations

import json

import click

from autotune.cli.common import Reported, debug_option, json_option, say, show


@click.command()
@click.option(
    "--stack",
    "stacks",
    multiple=True,
    metavar="NAME[=PYTHON]",
    help="Examine this interpreter too; repeatable.",
)
@click.option("--peak", is_flag=True, help="Measure the peak speed of matrix products.")
@json_option
@debug_option
def doctor(*, stacks: tuple[str, ...], peak: bool, as_json: bool, debug: bool) -> None:
    """Show what this host and this Python can run, and why the rest cannot run."""
    with Reported(debug):
        from autotune.commands.doctor import describe, examine

        found = examine(stacks, peak)
        show(json.dumps(found, indent=2) if as_json else "\n".join(describe(found)))


@click.command()
@click.option("--forget", is_flag=True, help="Forget all earlier searches.")
@json_option
@debug_option
def learned(*, forget: bool, as_json: bool, debug: bool) -> None:
    """Show what earlier searches on this host found; new searches try it first."""
    with Reported(debug):
        from autotune.host import detect
        from autotune.shared.records import to_jsonable
        from autotune.space import knobs
        from autotune.store import learned

        host = detect()
        if forget:
            learned.forget(host)
        found = learned.recall(host)
        if as_json:
            show(json.dumps({"file": str(learned.locate(host)), "found": to_jsonable(found)}))
            return
        for one in found:
            show(
                f"{one.created}  {one.model}, {one.model_type}, "
                f"{one.parameters / 1e6:.0f} million parameters, {one.task}, {one.objective}"
            )
            for config, speedup in zip(one.configs, one.speedups, strict=True):
                show(f"    {speedup:6.2f}x  {knobs.describe(config)}")
        show(f"{len(found)} searches in {learned.locate(host)}")


@click.group()
def stack() -> None:
    """Interpreters with their own torch, for `search --stack`."""


@stack.command("create")
@click.argument("name")
@click.option(
    "--extra",
    "extras",
    multiple=True,
    required=True,
    help="What to install: torch, openmp, or an engine's packages, such as ipex or openvino; "
    "repeatable.",
)
@debug_option
def stack_create(*, name: str, extras: tuple[str, ...], debug: bool) -> None:
    """Create the environment NAME with pip, in the user's cache folder."""
    with Reported(debug):
        from autotune.driver import stacks

        show(stacks.create(name, extras, say))


@stack.command("list")
@json_option
@debug_option
def stack_list(*, as_json: bool, debug: bool) -> None:
    """List the stacks made with `create` and their packages."""
    with Reported(debug):
        from autotune.driver import stacks

        listed = stacks.fingerprints()
        if as_json:
            show(json.dumps(listed, indent=2))
        elif not listed:
            show("no stacks; make one: autotune stack create NAME --extra torch")
        for name, entry in () if as_json else listed.items():
            words = " ".join(f"{k} {v}" for k, v in entry["versions"].items())
            show(f"{name}: {entry['python']}\n    {entry.get('error') or words}")
