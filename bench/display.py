"""Does drawing the terminal disturb what is measured?

    python bench/display.py reports/RUN [--rounds 12]

Visits the run's best configuration in turn with and without the display of `autotune search`. The
display draws on a pseudo-terminal that is read all the time. Prints the ratio of both speeds: the
Hodges-Lehmann estimate over rounds, with its interval. If drawing costs nothing measurable, the
interval holds 1.
"""

from __future__ import annotations

import argparse
import os
import pty
import random
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from opened import VISIT, OpenedRun, open_run, speeds

from autotune.cli.display import Drawn
from autotune.driver.runner import Outcome
from autotune.search.objective import objective_named
from autotune.search.progress import Progress
from autotune.shared.records import Trial
from autotune.shared.stats import ratio_interval, shuffled
from autotune.space.knobs import describe
from autotune.store.folder import RunFolder
from autotune.store.journal import read_trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    trials = read_trials(RunFolder(options.run).trials)
    screen, stderr = pty.openpty()
    drawn_bytes = [0]
    threading.Thread(target=drain, args=(screen, drawn_bytes), daemon=True).start()
    pairs = []
    with tempfile.TemporaryDirectory(prefix="autotune-display-") as work:
        run = open_run(RunFolder(options.run), Path(work))
        run.runner.keep_open([run.chosen])
        visit(run)
        for _ in range(options.rounds):
            ways: dict[str, Callable[[], Outcome]] = {
                "drawn": lambda: with_display(run, trials, stderr),
                "plain": lambda: visit(run),
            }
            found = {way: speeds([ways[way]()])[0] for way in shuffled(list(ways), random.Random())}
            pairs.append(found["drawn"] / found["plain"])
            print(f"{pairs[-1]:.3f}", flush=True)
        run.runner.close()
    ratio = ratio_interval(pairs)
    print(
        f"{describe(run.chosen)}: with the display {ratio.median:.3f} times as fast "
        f"({ratio.low:.3f} to {ratio.high:.3f}); {drawn_bytes[0]} bytes drawn"
    )


def drain(screen: int, count: list[int]) -> None:
    while data := os.read(screen, 1 << 16):
        count[0] += len(data)


def visit(run: OpenedRun) -> Outcome:
    outcome = run.runner.run(run.chosen, VISIT)
    assert outcome.failure is None, outcome.failure
    return outcome


def with_display(run: OpenedRun, trials: list[Trial], stderr: int) -> Outcome:
    """A visit while the display draws, after it was shown all of `trials`."""
    before = sys.stderr
    with open(os.dup(stderr), "w") as sys.stderr:
        try:
            with Drawn(objective_named("throughput")) as display:
                for trial in trials:
                    display.finished(progress(trial, trials))
                display.started(run.chosen, "search", len(trials))
                return visit(run)
        finally:
            sys.stderr = before


def progress(trial: Trial, trials: list[Trial]) -> Progress:
    return Progress(
        phase="search",
        trial=trial,
        done=trial.number,
        trials=None,
        elapsed_s=100.0,
        remaining_s=100.0,
        baseline=trials[0],
        best=trials[0],
        gain=None,
    )


if __name__ == "__main__":
    main()
