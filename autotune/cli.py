"""The command line: the only place that prints or chooses an exit code.

Exit codes: 0 done; 1 the search ran and found nothing; 2 bad input, one line on standard
error says what to do; 130 interrupted before there was anything to keep. Results go to
standard output, progress to standard error. What is slow to import is imported by the
command that needs it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from autotune import __version__
from autotune.errors import AutotuneError, InputError
from autotune.parameters import Duration, Share

EXIT_NOTHING_FOUND, EXIT_BAD_INPUT, EXIT_BROKEN, EXIT_INTERRUPTED = 1, 2, 3, 130


def say(line: str) -> None:
    click.echo(line, err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="autotune")
def cli() -> None:
    """Find the fastest correct way to run a Hugging Face model on this CPU."""


@cli.command()
@click.option("--model", help="A model folder, a hub id, or `demo`.  [required]")
@click.option(
    "--task",
    default="qa",
    show_default=True,
    help="What the model does: qa, text-classification or token-classification.",
)
@click.option(
    "--dataset",
    help="A .json, .jsonl or .csv file, or a dataset id.  [default: squad, stanfordnlp/sst2, "
    "eriktks/conll2003; for demo its own]",
)
@click.option("--text-column", help="Column of the text (or words).  [default: the usual names]")
@click.option("--text-pair-column", help="Column of the second text of a pair.")
@click.option("--label-column", help="Column of the label (or tags).  [default: the usual names]")
@click.option("--dataset-split", help="Split of a dataset id.  [default: validation]")
@click.option(
    "--calibration",
    metavar="DATASET",
    help="Rows for static int8 to calibrate on.  [default: rows that are not scored]",
)
@click.option("--space", help="A search space: its name or a .yaml file.  [default: the task's]")
@click.option(
    "--stack",
    "stacks",
    multiple=True,
    metavar="NAME[=PYTHON]",
    help="Search this interpreter's torch too (NAME alone: one of `autotune stack list`); "
    "repeatable.",
)
@click.option(
    "--objective",
    type=click.Choice(["throughput", "latency"]),
    default="throughput",
    show_default=True,
    help="Examples a second, or p90 of one example at a time.",
)
@click.option(
    "--max-accuracy-drop",
    type=Share(),
    default="1%",
    show_default=True,
    help="Largest relative loss of the main metric against eager float32.",
)
@click.option("--trials", type=click.IntRange(min=1), help="Stop after this many configurations.")
@click.option(
    "--time-budget",
    type=Duration(),
    help="Stop after this long, finals included.  [default: 10m without --trials]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the sampler.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KNOB=VALUE[,VALUE]",
    help="Fix or narrow a knob; repeatable.",
)
@click.option(
    "--drop", "dropped", multiple=True, metavar="KNOB", help="Do not search a knob; repeatable."
)
@click.option(
    "--max-seq-length",
    type=click.IntRange(min=16),
    help="Tokens of the longest input.  [default: 384 for qa, else 128]",
)
@click.option(
    "--doc-stride",
    type=click.IntRange(min=0),
    help="Tokens that windows of a long context share.  [default: 128 for qa]",
)
@click.option(
    "--max-samples",
    type=click.IntRange(min=0),
    default=256,
    show_default=True,
    help="Rows to run, spread evenly over the dataset; 0 for all.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder of the run.  [default: reports/<time>-<model>-<task>]",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --output.")
@click.option("--storage", help="Optuna RDB URL instead of the run's own journal.")
@click.option(
    "--learned/--no-learned",
    default=True,
    help="Begin with what earlier searches on this host found (`autotune learned`).",
)
@click.option("--revision", help="Revision of a hub model.")
@click.option("--trust-remote-code", is_flag=True, help="Run code that the model repository holds.")
@click.option("--allow-pickle", is_flag=True, help="Load pickled weights, which can run code.")
@click.option(
    "--trial-timeout", type=Duration(), default="10m", show_default=True, help="For one trial."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def search(
    context: click.Context,
    /,
    *,
    output: Path | None,
    resume: bool,
    as_json: bool,
    debug: bool,
    **options: Any,
) -> None:
    """Search for the best configuration of one model on this host."""
    with _reported(debug):
        from autotune.tune import Tuning

        if resume and output is not None:
            options = _resumed(context, options, output)
        settings = _settings(options)
        finished = Tuning(
            settings,
            output=output,
            resume=resume,
            command_line=sys.argv[1:],
            listener=PlainLines(settings.objective),
            announce=say,
        ).run()
        if as_json:
            click.echo(json.dumps(finished.report, indent=2))
        else:
            _show(finished.report, finished.folder.path)


def _settings(options: dict[str, Any]) -> Any:
    from autotune.settings import Settings
    from autotune.tasks import task_named

    if not options["model"]:
        raise InputError("--model is needed: a model folder, a hub id, or demo")
    task = task_named(options["task"])
    if options["max_seq_length"] is None:
        options["max_seq_length"] = task.default_max_seq_length
    if options["doc_stride"] is None:
        options["doc_stride"] = task.default_doc_stride or 0
    elif task.default_doc_stride is None:
        raise InputError(f"--doc-stride: {task.name} cuts long texts off, drop the option")
    if options["doc_stride"] >= options["max_seq_length"]:
        raise InputError(
            f"--doc-stride must be below --max-seq-length {options['max_seq_length']}, "
            f"got {options['doc_stride']}"
        )
    return Settings(
        time_budget_s=options.pop("time_budget"),
        trial_timeout_s=options.pop("trial_timeout"),
        **options,
    )


def _resumed(context: click.Context, options: dict[str, Any], output: Path) -> dict[str, Any]:
    """The options of the run to resume, where this command line does not name its own."""
    from autotune.folder import RunFolder

    folder = RunFolder(output)
    if not folder.manifest.exists():
        return options
    stored = folder.read_manifest()["settings"]
    stored["time_budget"] = stored.pop("time_budget_s", None)
    stored["trial_timeout"] = stored.pop("trial_timeout_s", None)
    explicit = click.core.ParameterSource.COMMANDLINE
    kept = {
        name: value if context.get_parameter_source(name) is explicit else stored.get(name, value)
        for name, value in options.items()
    }
    if options["trials"] is not None and options["time_budget"] is None:
        kept["time_budget"] = None  # a new limit replaces the old one, whichever it was
    if options["time_budget"] is not None and options["trials"] is None:
        kept["trials"] = None
    return {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}


class PlainLines:
    """Progress as one line a trial on standard error."""

    def __init__(self, objective: str) -> None:
        from autotune.search.objective import objective_named

        self._objective = objective_named(objective)

    def started(self, config: Any, origin: str, number: int) -> None:
        from autotune import knobs

        if origin == "baseline":
            say(f"measuring the baseline: {knobs.describe(config)}")

    def finished(self, progress: Any) -> None:
        from autotune import knobs

        trial, objective = progress.trial, self._objective
        count = f"{progress.done}" + (f"/{progress.trials}" if progress.trials else "")
        left = "" if progress.remaining_s is None else f", {clock(progress.remaining_s)} left"
        head = f"[{progress.phase} {count}, {clock(progress.elapsed_s)}{left}]"
        if trial.measurement is not None:
            speed = objective.shown(objective.value(trial.measurement))
            scores = " ".join(f"{k} {v:.2f}" for k, v in trial.accuracy.metrics.items())
            outcome = f"{speed} {scores}"
            if trial.failure is not None:
                outcome += f" REJECTED {trial.failure.kind}"
        else:
            outcome = f"FAILED {trial.failure.kind}: {' '.join(trial.failure.detail.split())[:160]}"
        best = progress.best
        gain = (
            objective.speedup(
                objective.interval(best.measurement),
                objective.interval(progress.baseline.measurement),
            )
            if best.measurement and progress.baseline.measurement
            else None
        )
        so_far = f" | best {gain.median:.2f}x" if gain else ""
        say(f"{head} {knobs.describe(trial.config)}: {outcome}{so_far}")


def clock(seconds: float) -> str:
    """Seconds as 4:05 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _show(report: dict[str, Any], folder: Path) -> None:
    """The final table and where the files are."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from autotune.report.text import by_reason, launch_sentence, noise_sentence, table

    console = Console(width=None if sys.stdout.isatty() else 150)
    header, rows = table(report)
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in header:
        shown.add_column(name, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    console.print(shown)
    for kind, failed in report["failures"].items():
        first = f"{failed[0]['description']}: {' '.join(failed[0]['detail'].split())}"
        console.print(Text(f"{kind} ({len(failed)}): {first[:300]}"))
    for names, why in by_reason(report["unavailable"]):
        console.print(Text(f"not available, {names}: {why}"))
    console.print()
    console.print(Text(report["verdict"]))
    if not report["noise"]["quiet"]:
        console.print(Text(noise_sentence(report["noise"]), style="yellow"))
    sentence = launch_sentence(report)
    if sentence:
        console.print(Text(sentence))
    if report["interrupted"]:
        console.print(Text(f"Interrupted; go on with: autotune search --resume --output {folder}"))
    console.print(Text(f"Report: {folder / 'report.md'}    Run it: bash {folder / 'launch.sh'}"))


@cli.command()
@click.option(
    "--stack",
    "stacks",
    multiple=True,
    metavar="NAME[=PYTHON]",
    help="Look at this interpreter too; repeatable.",
)
@click.option("--peak", is_flag=True, help="Measure how fast it multiplies matrices at most.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def doctor(*, stacks: tuple[str, ...], peak: bool, as_json: bool, debug: bool) -> None:
    """What this host and this Python can run, and why not the rest."""
    with _reported(debug):
        from autotune.doctor import examine, lines

        found = examine(stacks, peak)
        click.echo(json.dumps(found, indent=2) if as_json else "\n".join(lines(found)))


@cli.command()
@click.argument("best", type=click.Path(path_type=Path))
@click.option(
    "--min-speedup",
    type=click.FloatRange(min=0, min_open=True),
    help="Over the baseline.  [default: 80% of what was promised]",
)
@click.option("--rounds", type=click.IntRange(min=3, max=50), default=6, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def verify(
    *, best: Path, min_speedup: float | None, rounds: int, as_json: bool, debug: bool
) -> None:
    """Measure BEST (best.yaml, or its run's folder) against the baseline again.

    Exit code 0 where its promise holds here, 3 where it does not.
    """
    with _reported(debug):
        from autotune import verify as verifying

        found = verifying.verify(best, min_speedup=min_speedup, rounds=rounds)
        if as_json:
            click.echo(json.dumps(found.as_json(), indent=2))
        else:
            click.echo("\n".join(verifying.lines(found)))
        if not found.holds:
            sys.exit(EXIT_BROKEN)


@cli.command()
@click.option("--forget", is_flag=True, help="Remove it all.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def learned(*, forget: bool, as_json: bool, debug: bool) -> None:
    """What earlier searches on this host found, with which new ones begin."""
    with _reported(debug):
        from autotune import knobs, learned
        from autotune.host import detect
        from autotune.records import to_jsonable

        host = detect()
        if forget:
            learned.forget(host)
        found = learned.recall(host)
        if as_json:
            click.echo(json.dumps({"file": str(learned.place(host)), "found": to_jsonable(found)}))
            return
        for one in found:
            click.echo(
                f"{one.created}  {one.model}, {one.model_type}, "
                f"{one.parameters / 1e6:.0f} million parameters, {one.task}, {one.objective}"
            )
            for config, speedup in zip(one.configs, one.speedups, strict=True):
                click.echo(f"    {speedup:6.2f}x  {knobs.describe(config)}")
        click.echo(f"{len(found)} searches in {learned.place(host)}")


@cli.group()
def stack() -> None:
    """Interpreters with their own torch, for `search --stack`."""


@stack.command("create")
@click.argument("name")
@click.option(
    "--extra",
    "extras",
    multiple=True,
    required=True,
    help="What to install: ipex, torch, onnxruntime, openvino, zentorch, openmp; repeatable.",
)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def stack_create(*, name: str, extras: tuple[str, ...], debug: bool) -> None:
    """Make an environment NAME with pip, in the user's cache folder."""
    with _reported(debug):
        from autotune import stacks

        click.echo(stacks.create(name, extras, say))


@stack.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def stack_list(*, as_json: bool, debug: bool) -> None:
    """The stacks made with `create`, and what is in them."""
    with _reported(debug):
        from autotune import stacks

        listed = stacks.fingerprints()
        if as_json:
            click.echo(json.dumps(listed, indent=2))
        for name, entry in () if as_json else listed.items():
            words = " ".join(f"{k} {v}" for k, v in entry["versions"].items())
            click.echo(f"{name}: {entry['python']}\n    {entry.get('error') or words}")


@cli.command(hidden=True)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def score(*, run: Path, work: Path, as_json: bool, debug: bool) -> None:
    """Judge the replies in WORK against the promise of RUN: what launch.sh ends with."""
    with _reported(debug):
        from autotune.folder import RunFolder
        from autotune.score import score as judge
        from autotune.search.objective import objective_named

        found = judge(RunFolder(run), work)
        if as_json:
            click.echo(json.dumps(found.as_json()))
            return
        objective = objective_named(found.objective)
        measured = found.measured
        metrics = ", ".join(
            f"{name} {value:.4f} (promised {found.promised_metrics[name]:.4f})"
            for name, value in found.metrics.items()
        )
        click.echo(
            f"{objective.shown(measured.median)} ({objective.shown(measured.low)} to "
            f"{objective.shown(measured.high)}), promised "
            f"{objective.shown(found.promised.median)} ({objective.shown(found.promised.low)} to "
            f"{objective.shown(found.promised.high)}), ratio {found.ratio:.3f}, intervals "
            f"{'overlap' if found.consistent else 'are apart'}; {metrics}"
        )


class _reported:
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


def main() -> NoReturn:
    """The console script."""
    run: Callable[[], None] = cli
    run()
    raise AssertionError("click exits by itself")
