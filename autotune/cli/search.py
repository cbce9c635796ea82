"""`autotune search`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from autotune.cli.common import (
    EXIT_NOTHING_FOUND,
    Interruptible,
    Reported,
    debug_option,
    drop_option,
    objective_option,
    set_option,
)
from autotune.cli.parameters import (
    SEED,
    Duration,
    FilePath,
    Finite,
    SamplerName,
    Share,
    Size,
    SpaceName,
    TaskName,
)


@click.command()
@click.option("--model", help="A model folder, a hub id, or `demo`.  [required]")
@click.option(
    "--task",
    type=TaskName(),
    help="What the model does, such as qa, text-classification, token-classification, "
    "feature-extraction or image-classification.  [default: by the model's config.json, else qa]",
)
@click.option(
    "--dataset",
    help="A .json, .jsonl, .csv or .tsv file, a folder of images, or a dataset id.  [default: the "
    "task's, such as rajpurkar/squad; for demo its own]",
)
@click.option("--text-column", help="Column of the text (or words).  [default: the usual names]")
@click.option("--text-pair-column", help="Column of the second text of a pair.")
@click.option("--label-column", help="Column of the label (or tags).  [default: the usual names]")
@click.option("--dataset-split", help="Split of a dataset id.  [default: validation]")
@click.option(
    "--calibration",
    metavar="DATASET",
    help="Rows that static int8 calibrates on.  [default: rows that are not scored]",
)
@click.option(
    "--space",
    type=SpaceName(),
    help="A search space: its name or a .yaml file.  [default: the task's]",
)
@click.option(
    "--stack",
    "stacks",
    multiple=True,
    metavar="NAME[=PYTHON]",
    help="Search this interpreter's torch too; NAME alone is a stack of `autotune stack list`; "
    "repeatable.",
)
@objective_option
@click.option(
    "--max-latency-ms",
    type=Finite(min=0, min_open=True),
    help="Limit of the p99 latency of requests, with --objective server.",
)
@click.option(
    "--max-accuracy-drop",
    type=Share(),
    default="1%",
    show_default=True,
    help="Largest relative loss of the main metric against eager float32.",
)
@click.option(
    "--gate",
    type=click.Choice(["point", "proven"]),
    default="point",
    show_default=True,
    help="What must be within that limit: the measured loss, or its whole 95% interval.",
)
@click.option(
    "--accept-degenerate",
    is_flag=True,
    help="Search although the baseline scores no better than chance; judge by agreement with it.",
)
@click.option("--trials", type=click.IntRange(min=1), help="Stop after this many configurations.")
@click.option(
    "--time-budget",
    "time_budget_s",
    type=Duration(),
    help="Stop after this long, finals included.  [default: 10m without --trials]",
)
@click.option(
    "--sampler",
    type=SamplerName(),
    default="autotune",
    show_default=True,
    help="What suggests the next configuration: autotune, or Optuna's tpe, tpe-multivariate, gp, "
    "nsga2 or random.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the sampler.")
@set_option
@drop_option
@click.option(
    "--max-seq-length",
    type=click.IntRange(min=16),
    help="Tokens of the longest input.  [default: 384 for qa; for embeddings what the model's "
    "folder says; else 128]",
)
@click.option(
    "--doc-stride",
    type=click.IntRange(min=0),
    help="Overlap of the windows of a long context, in tokens.  [default: 128 for qa]",
)
@click.option(
    "--max-samples",
    type=click.IntRange(min=0),
    help="Rows to run, spread evenly over the dataset; 0 for all.  [default: 256, or fewer if "
    "eager float32 would need over 4% of --time-budget for them]",
)
@click.option(
    "--output",
    type=FilePath(),
    help="Folder of the run.  [default: reports/<time>-<model>-<task>]",
)
@click.option("--resume", is_flag=True, help="Continue the run in --output.")
@click.option("--storage", help="Optuna RDB URL instead of the run's own journal.")
@click.option(
    "--learned/--no-learned",
    default=True,
    help="First try what earlier searches on this host found (`autotune learned`).",
)
@click.option(
    "--save-engine",
    is_flag=True,
    help="Keep the prepared engine beside best.yaml; launch.sh starts from it.",
)
@click.option("--revision", help="Revision of a hub model.")
@click.option("--trust-remote-code", is_flag=True, help="Run code that the model repository holds.")
@click.option("--allow-pickle", is_flag=True, help="Load pickled weights, which can run code.")
@click.option(
    "--trial-timeout",
    "trial_timeout_s",
    type=Duration(),
    default="10m",
    show_default=True,
    help="Longest time for one trial.",
)
@click.option(
    "--max-memory",
    "max_memory_bytes",
    type=Size(),
    help="Memory limit for the workers of one configuration, e.g. 4g.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print each event as a line of JSON; the last is the report.",
)
@click.option("--quiet", is_flag=True, help="Print only the result.")
@debug_option
@click.pass_context
def search(
    context: click.Context,
    /,
    *,
    output: Path | None,
    resume: bool,
    as_json: bool,
    quiet: bool,
    debug: bool,
    **options: Any,
) -> None:
    """Search for the best configuration of one model on this host."""
    with Reported(debug), Interruptible():
        from autotune.cli.display import chosen
        from autotune.commands.search.options import settings_from
        from autotune.commands.search.tune import Tuning
        from autotune.search.objective import objective_named

        given = {name: value for name, value in options.items() if _is_given(context, name)}
        settings, decided = settings_from(given, resumed=output if resume else None)
        with chosen(objective_named(settings.objective), as_json=as_json, quiet=quiet) as display:
            for line in decided:
                display.announce(line)
            finished = Tuning(
                settings,
                output=output,
                resume=resume,
                command_line=sys.argv[1:],
                listener=display,
                announce=display.announce,
            ).run()
            display.result(finished.report, finished.folder.path)
        report = finished.report
        tried = report["trials"]["others"] or report["significant"]
        if not tried and not report["interrupted"]:
            sys.exit(EXIT_NOTHING_FOUND)


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
