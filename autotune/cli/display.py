"""Progress of a search: drawn on a terminal, as lines, as JSON events, or not at all."""

from __future__ import annotations

import collections
import contextlib
import json
import math
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from autotune.cli.common import printable, say, show
from autotune.cli.result import show_result
from autotune.search.objective import Objective
from autotune.search.outlook import WANTED, Outlook
from autotune.search.ranking import AGAIN, BASELINE
from autotune.shared.records import Config, Trial
from autotune.space import knobs

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from autotune.search.progress import Progress

REDRAWN_PER_S = 1
"""Redraws a second. Few, because redrawing takes CPU time from the measurements."""
FINISHED_SHOWN = 5
"""Number of finished trials on the screen."""


class Quiet:
    """Shows only the result. The base class of the other displays."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def announce(self, line: str) -> None:
        """Work other than a trial has begun."""

    def started(self, config: Config, origin: str, number: int) -> None:
        """A configuration is about to be measured."""

    def finished(self, progress: Progress) -> None:
        """A trial is over and stored."""

    def expects(self, outlook: Outlook) -> None:
        """It is known about what the search will cost."""

    def result(self, report: dict[str, Any], folder: Path) -> None:
        show_result(report, folder)

    def _speed(self, trial: Trial) -> str:
        """The measured speed and metrics; empty without a measurement."""
        if trial.measurement is None:
            return ""
        speed = self._objective.shown(self._objective.value(trial.measurement))
        scores = trial.accuracy.metrics.items() if trial.accuracy else ()
        return " ".join([speed, *(f"{name} {score:.2f}" for name, score in scores)])


class Lines(Quiet):
    """One line for each trial, on standard error."""

    def announce(self, line: str) -> None:
        say(line)

    def started(self, config: Config, origin: str, number: int) -> None:
        if origin == BASELINE:
            say(f"measuring the baseline: {knobs.describe(config)}")

    def expects(self, outlook: Outlook) -> None:
        say(expected(outlook))

    def finished(self, progress: Progress) -> None:
        trial = progress.trial
        count = f"{progress.done}" + (f"/{progress.trials}" if progress.trials else "")
        left = "" if progress.remaining_s is None else f", {clock(progress.remaining_s)} left"
        head = f"[{progress.phase} {count}, {clock(progress.elapsed_s)}{left}]"
        outcome = self._speed(trial)
        if outcome and trial.failure is not None:
            outcome += f" REJECTED {trial.failure.kind}"
        elif trial.failure is not None and trial.screen is not None:
            outcome = short(trial.failure.detail)  # screened out: no fault, only slower
        elif trial.failure is not None:
            outcome = f"FAILED {trial.failure.kind}: {short(trial.failure.detail)}"
        gain = progress.gain
        so_far = f" | best {gain.median:.2f}x" if gain else ""
        say(f"{head} {_named(trial)}: {outcome}{so_far}")


class Events(Quiet):
    """One line of JSON for each event, on standard output; the report is last."""

    def announce(self, line: str) -> None:
        _event("note", text=line)

    def started(self, config: Config, origin: str, number: int) -> None:
        _event(
            "started",
            number=number,
            origin=origin,
            config=dict(config),
            description=knobs.describe(config),
        )

    def expects(self, outlook: Outlook) -> None:
        _event("outlook", **asdict(outlook))

    def finished(self, progress: Progress) -> None:
        trial, gain = progress.trial, progress.gain
        measured = trial.measurement
        _event(
            "trial",
            phase=progress.phase,
            number=trial.number,
            origin=trial.origin,
            config=dict(trial.config),
            description=knobs.describe(trial.config),
            value=None if measured is None else self._objective.value(measured),
            metrics=trial.accuracy.metrics if trial.accuracy else None,
            failure=None
            if trial.failure is None
            else {"kind": trial.failure.kind, "detail": trial.failure.detail},
            duration_s=trial.duration_s,
            done=progress.done,
            elapsed_s=progress.elapsed_s,
            remaining_s=progress.remaining_s,
            best={
                "trial": progress.best.number,
                "description": knobs.describe(progress.best.config),
                "speedup": None if gain is None else gain.median,
            },
        )

    def result(self, report: dict[str, Any], folder: Path) -> None:
        with contextlib.suppress(BrokenPipeError):
            show(_line("finished", folder=str(folder), report=report))


class Drawn(Quiet):
    """A view of the search on standard error, redrawn every second."""

    def __init__(self, objective: Objective) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__(objective)
        self._note = ""
        self._now: tuple[str, float] | None = (
            None  # the configuration being measured, and its start
        )
        self._progress: tuple[Progress, float] | None = None  # the latest, and when it arrived
        self._last: collections.deque[Trial] = collections.deque(maxlen=FINISHED_SHOWN)
        self._outcomes: collections.Counter[str] = collections.Counter()
        self._began = time.monotonic()
        self._live = Live(
            get_renderable=self.view,
            console=Console(stderr=True),
            refresh_per_second=REDRAWN_PER_S,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def announce(self, line: str) -> None:
        self._note, self._now = line, None

    def started(self, config: Config, origin: str, number: int) -> None:
        self._note, self._now = "", (knobs.describe(config), time.monotonic())

    def expects(self, outlook: Outlook) -> None:
        self._live.console.print(expected(outlook), markup=False, highlight=False)

    def finished(self, progress: Progress) -> None:
        trial = progress.trial
        self._now, self._progress = None, (progress, time.monotonic())
        self._last.append(trial)
        if progress.phase == "search":
            self._outcomes[trial.failure.kind if trial.failure else "measured"] += 1

    def result(self, report: dict[str, Any], folder: Path) -> None:
        self._live.stop()
        super().result(report, folder)

    def view(self) -> RenderableType:
        """The view of the search now."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now = time.monotonic()
        parts: list[RenderableType] = [Text(self._head(now), style="bold")]
        if self._progress is not None:
            progress, came = self._progress
            share = _share_done(progress, now - came)
            if share is not None:
                parts.append(ProgressBar(total=1.0, completed=share, width=60))
            counts = ", ".join(f"{count} {kind}" for kind, count in self._outcomes.most_common())
            parts.append(Text(f"{progress.done} tried: {counts}"))
            facts = Table.grid(padding=(0, 2))
            facts.add_row(Text("best", style="green"), self._described(progress.best, progress))
            facts.add_row("baseline", self._described(progress.baseline))
            parts += [Text(), facts, Text()]
            rows = Table.grid(padding=(0, 2))
            rows.add_column(justify="right", style="dim")
            for trial in list(self._last):
                rows.add_row(str(trial.number), self._line(trial))
            parts.append(rows)
        if self._now is not None:
            words, since = self._now
            parts.append(Text(f"now {clock(now - since):>5}  {words}", style="cyan"))
        elif self._note:
            parts.append(Text(printable(self._note), style="cyan"))
        return Group(*parts)

    def _head(self, now: float) -> str:
        if self._progress is None:
            return f"{clock(now - self._began)}"
        progress, came = self._progress
        passed = now - came
        words = f"{progress.phase}  {clock(progress.elapsed_s + passed)}"
        if progress.remaining_s is not None:
            words += f", {clock(max(0.0, progress.remaining_s - passed))} left"
        return words + "  (Ctrl-C: end with the best so far)"

    def _described(self, trial: Trial, progress: Progress | None = None) -> Text:
        from rich.text import Text

        gain = progress.gain if progress is not None else None
        times = f"{gain.median:.2f}x  " if gain else ""
        return Text(f"{times}{self._speed(trial)}\n{knobs.describe(trial.config)}")

    def _line(self, trial: Trial) -> Text:
        from rich.text import Text

        words = Text(f"{_named(trial)}: ")
        if trial.failure is None:
            return words.append(self._speed(trial), style="bold")
        if trial.failure.kind == "slow":
            return words.append(short(trial.failure.detail), style="dim")
        speed = self._speed(trial)
        why = f"{speed} {trial.failure.kind}" if speed else trial.failure.kind
        detail = "" if speed else f": {short(trial.failure.detail)}"
        return words.append(f"{why}{detail}", style="red")


def chosen(objective: Objective, *, as_json: bool, quiet: bool) -> Quiet:
    """The display for these flags and this standard error."""
    if as_json:
        return Events(objective)
    if quiet:
        return Quiet(objective)
    drawn = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return (Drawn if drawn else Lines)(objective)


def _named(trial: Trial) -> str:
    again = "again: " if trial.origin == AGAIN else ""
    return again + knobs.describe(trial.config)


def clock(seconds: float) -> str:
    """Seconds as 4:05 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def expected(outlook: Outlook) -> str:
    """About what a search of this model costs, in one line."""
    each = f"a configuration takes about {max(1, round(outlook.configuration_s))} s"
    if outlook.configurations is None or outlook.wanted_budget_s is None:
        return each
    line = f"{each}, so about {outlook.configurations} fit into the time budget"
    if outlook.configurations >= WANTED:
        return line
    minutes = math.ceil(outlook.wanted_budget_s / 60)
    return f"{line}; {WANTED} would need --time-budget {minutes}m"


def short(detail: str) -> str:
    """The first 160 characters of a failure's detail, on one line."""
    return printable(" ".join(detail.split())[:160])


def _share_done(progress: Progress, passed: float) -> float | None:
    """The share of the expected time that has passed; None without an expectation."""
    if progress.remaining_s is None:
        return None
    elapsed = progress.elapsed_s + passed
    return min(1.0, elapsed / max(progress.elapsed_s + progress.remaining_s, elapsed))


def _event(kind: str, **content: Any) -> None:
    with contextlib.suppress(OSError):  # a closed standard output does not end the search
        click.echo(_line(kind, **content))


def _line(kind: str, **content: Any) -> str:
    return json.dumps({"event": kind, **content}, allow_nan=False)
