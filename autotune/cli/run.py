"""Commands that run a search's result: `run`, `verify`, `serve-test`, and those of launch.sh."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune.cli.common import EXIT_BROKEN, Reported, debug_option, json_option, say, show
from autotune.cli.parameters import SEED, FilePath, Finite

if TYPE_CHECKING:
    from autotune.commands.promise.reopen import FinishedRun
    from autotune.commands.promise.score import PromiseCheck
    from autotune.host import Host


model_option = click.option(
    "--model", help="Where the model is now, if not where BEST says: a folder or a hub id."
)


@click.command()
@click.argument("best", type=FilePath())
@model_option
@click.option(
    "--min-speedup",
    type=Finite(min=0, min_open=True),
    help="Least speedup over the baseline.  [default: 80% of the promised speedup]",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=3, max=50),
    default=12,
    show_default=True,
    help="Measurements of each, in turn.",
)
@json_option
@debug_option
def verify(
    *,
    best: Path,
    model: str | None,
    min_speedup: float | None,
    rounds: int,
    as_json: bool,
    debug: bool,
) -> None:
    """Measure BEST (best.yaml, or its run's folder) against the baseline again.

    Exit code 0 if the promised speedup and accuracy hold here, else 3.
    """
    with Reported(debug):
        from autotune.commands.promise import verify as verifying

        found = verifying.verify(best, min_speedup=min_speedup, model=model, rounds=rounds)
        if as_json:
            show(json.dumps(found.as_json(), indent=2))
        else:
            show("\n".join(verifying.lines(found)))
        if not found.holds:
            sys.exit(EXIT_BROKEN)


@click.command()
@click.argument("best", type=FilePath())
@model_option
@json_option
@debug_option
def run(*, best: Path, model: str | None, as_json: bool, debug: bool) -> None:
    """Measure BEST (best.yaml, or its run's folder) as its launch.sh does.

    Uses the rows of the search. Prints speed and accuracy beside those promised.
    """
    with Reported(debug):
        import tempfile

        from autotune.commands.promise.score import measure

        opened, host = _opened(best, model)
        with tempfile.TemporaryDirectory(prefix="autotune-run-") as work:
            _show_score(measure(opened, host, Path(work)), as_json)


@click.command("serve-test")
@click.argument("best", type=FilePath())
@model_option
@click.option("--rate", type=Finite(min=0, min_open=True), help="Requests a second to serve.")
@click.option(
    "--max-latency-ms",
    type=Finite(min=0, min_open=True),
    help="Limit of the p99 latency. Without --rate the highest rate that keeps it is searched.",
)
@click.option(
    "--seconds",
    type=Finite(min=1),
    default=10.0,
    show_default=True,
    help="Length of the test at each rate.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the arrivals.")
@json_option
@debug_option
def serve_test(
    *,
    best: Path,
    model: str | None,
    rate: float | None,
    max_latency_ms: float | None,
    seconds: float,
    seed: int,
    as_json: bool,
    debug: bool,
) -> None:
    """Serve Poisson arrivals with BEST (best.yaml, or its run's folder).

    Requests are rows of the search; waiting requests are batched. Exit code 3 if p99 exceeds the
    limit.
    """
    with Reported(debug):
        import tempfile

        from autotune.commands.promise.score import best_runner
        from autotune.commands.promise.serve_test import ServeTest, check_serving, lines

        opened, host = _opened(best, model)
        with tempfile.TemporaryDirectory(prefix="autotune-serve-") as work:
            runner = best_runner(opened, host, Path(work))
            features = len(opened.features.lengths)
            server = ServeTest(runner, opened.chosen, features, seed=seed, announce=say)
            try:
                found = check_serving(
                    server,
                    rate=rate,
                    limit_s=None if max_latency_ms is None else max_latency_ms / 1000,
                    seconds=seconds,
                )
            finally:
                runner.close()
        show(json.dumps(found.as_json(), indent=2) if as_json else "\n".join(lines(found)))
        if not found.holds:
            sys.exit(EXIT_BROKEN)


@click.command(hidden=True)
@click.argument("run", type=FilePath())
@debug_option
def changes(*, run: Path, debug: bool) -> None:
    """Print what has changed since RUN was made. launch.sh starts with this command."""
    with Reported(debug):
        from autotune.commands.promise.reopen import reopen
        from autotune.commands.promise.score import changes as found
        from autotune.host import detect
        from autotune.store.folder import RunFolder

        for line in found(reopen(RunFolder(run)), detect()):
            show(f"then and now: {line}")


@click.command(hidden=True)
@click.argument("run", type=FilePath())
@click.argument("work", type=FilePath())
@json_option
@debug_option
def score(*, run: Path, work: Path, as_json: bool, debug: bool) -> None:
    """Compare the replies in WORK with the promise of RUN. launch.sh ends with this command."""
    with Reported(debug):
        from autotune.commands.promise.score import score as judge
        from autotune.store.folder import RunFolder

        _show_score(judge(RunFolder(run), work), as_json)


def _opened(best: Path, model: str | None) -> tuple[FinishedRun, Host]:
    """The run of `best` and this host. Prints what has changed since the run."""
    from autotune.commands.promise.reopen import reopen_with
    from autotune.commands.promise.score import changes
    from autotune.host import detect

    host = detect()
    opened = reopen_with(best, model, host)
    for line in changes(opened, host):
        say(f"then and now: {line}")
    return opened, host


def _show_score(found: PromiseCheck, as_json: bool) -> None:
    from autotune.search.objective import objective_named

    if as_json:
        show(json.dumps(found.as_json()))
        return
    objective, measured = objective_named(found.objective), found.measured
    metrics = ", ".join(
        f"{name} {value:.4f} (promised {found.promised_metrics[name]:.4f})"
        for name, value in found.metrics.items()
    )
    show(
        f"{objective.shown(measured.median)} ({objective.shown(measured.low)} to "
        f"{objective.shown(measured.high)}), promised "
        f"{objective.shown(found.promised.median)} ({objective.shown(found.promised.low)} to "
        f"{objective.shown(found.promised.high)}), ratio {found.ratio:.3f}: {_judged(found)}; "
        f"{metrics}"
    )


def _judged(found: PromiseCheck) -> str:
    """How a measurement compares with its promise, in words."""
    if found.consistent:
        return "as promised, the intervals overlap"
    better = found.ratio > 1
    return f"{'better' if better else 'worse'} than promised, the intervals do not overlap"
