"""Where do the seconds of a search go, and how many of them are timed passes?

    python bench/overhead.py [--time-budget 10m] [--output DIR] [--model demo ...]

Runs the search as a user would, or reads the run that is already in DIR. Other flags are passed on
to the search. Prints the share of each activity in the wall time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

from autotune.shared.records import Trial
from autotune.store.folder import RunFolder
from autotune.store.journal import read_trials

TIMED = "timed passes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--time-budget", default="10m")
    parser.add_argument("--output", type=Path)
    options, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="autotune-overhead-") as temporary:
        output = options.output or Path(temporary) / "run"
        begun = None
        if not RunFolder(output).manifest.exists():
            begun = datetime.now(UTC)
            subprocess.run(
                [
                    *(sys.executable, "-m", "autotune", "search"),
                    *("--model", options.model, "--task", "qa"),
                    *("--time-budget", options.time_budget, "--output", str(output)),
                    *more,
                ],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        show(read_trials(RunFolder(output).trials), begun, datetime.now(UTC))


def passes_s(trial: Trial, only_cold: bool = False) -> float:
    """Seconds of timed passes: those of the slowest instance, since instances run side by side."""
    if trial.measurement is None:
        return 0.0
    by_instance: dict[int, float] = defaultdict(float)
    for one in trial.measurement.passes:
        by_instance[one.instance] += one.total_s if one.cold or not only_cold else 0.0
    return max(by_instance.values())


def show(trials: list[Trial], begun: datetime | None, ended: datetime) -> None:
    first, last = (datetime.fromisoformat(t.started) for t in (trials[0], trials[-1]))
    done = last + timedelta(seconds=trials[-1].duration_s)
    if (
        begun is None
    ):  # a run read from disk: only the time from its first to its last trial is known
        begun, ended = first, done
    wall_s = (ended - begun).total_seconds()
    shares: dict[str, float] = defaultdict(float)
    opened: set[int] = set()
    for number, trial in enumerate(trials):
        measured = trial.measurement
        if measured is None:
            kind = "failed trials" if trial.screen is None else "screening, preparation included"
            shares[kind] += trial.duration_s
            continue
        phases = measured.phases_s
        timed, warming = passes_s(trial), phases.get("warm_up", 0.0)
        left = trial.duration_s - timed - warming
        preparing = min(left, phases.get("import", 0.0) + phases.get("prepare", 0.0))
        before = trials[number - 1].measurement if number else None
        fresh = before is None or before.phases_s.get("prepare") != phases.get("prepare")
        if fresh and trial.origin != "final":
            opened.add(number)
        else:
            preparing = 0.0
        shares[TIMED] += timed
        shares["warming up"] += warming
        shares["importing and preparing"] += preparing
        shares["starting, judging, writing"] += left - preparing
    shares["before the first trial"] = (first - begun).total_seconds()
    shares["after the last trial: the report, launch.sh"] = (ended - done).total_seconds()
    between = (done - first).total_seconds() - sum(t.duration_s for t in trials)
    shares["between trials: choosing, ending processes"] = between
    for name, seconds in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"{seconds / wall_s:6.1%}  {seconds:7.1f} s  {name}")
        if name == TIMED:
            cold = sum(passes_s(trial, only_cold=True) for trial in trials)
            print(f"{'':6}  {cold:7.1f} s  of these were cold passes")
    points = {t.config for t in trials if t.measurement is not None}
    screened = {t.config for t in trials if t.screen is not None}
    print(
        f"{wall_s:.0f} s in all; {len(trials)} trials, {len(points)} points measured, "
        f"{len(screened)} more screened, {len(opened)} sessions opened"
    )


if __name__ == "__main__":
    main()
