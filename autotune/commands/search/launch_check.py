"""launch.sh as the search runs it: as a user would, and then its workers in turn with the
search's own.

The script promises what the search measured. A host changes from one minute to the next by more
than the two could differ, so that one measurement after the other says little: round by round,
both within seconds of each other, the host is the same for both.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from autotune.driver.channel import Channel, WorkerFailed
from autotune.driver.runner import Runner, measure_request
from autotune.emit.launch_script import THEN
from autotune.search.finals import VISIT_RULE
from autotune.search.objective import Objective
from autotune.shared.records import Config, Failure, Measurement, StoppingRule
from autotune.shared.stats import CONFIDENCE, Interval, gain_interval, in_turn
from autotune.shared.stopping import of_each
from autotune.store.wire import parse

TIMEOUT_S = 1800
TURN_S, LEAST_TURN_S = 0.5, 0.1
"""One turn of either side, at most and at least: a host may change by a tenth every few seconds,
and does so between fewer of the turns the shorter they are."""
FEWEST, ROUNDS, HALF_WIDTH, ROUNDS_SHARE = 6, 24, 0.038, 0.5
"""The fewest rounds that give an interval of 95%, for which turns are shorter where time is; and no
more once the ratio is so well known (what two processes differ by is in it), or they have taken
this share of the time."""
LEAST_SHARE = 0.25
"""What of the time rounds may take where the script has used up all: fewer of them if need be."""
GONE = Failure(kind="crash", detail="a worker of launch.sh closed its pipes")
DIE_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM: the script then ends its workers
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class ScriptFailed(Exception):
    """launch.sh did not do what it should, in words."""


class Launched:
    """A running launch.sh, whose `instances` workers can be asked more than it asks them.

    A context manager: leaving it ends what still runs.
    """

    def __init__(self, script: Path, *, instances: int, folder: Path, timeout_s: float) -> None:
        """`folder` is for the pipes and what the script writes; `timeout_s` is for each answer.
        Raises ScriptFailed."""
        self._timeout_s = timeout_s
        self._channels: list[Channel] = []
        environment = {**os.environ, **({THEN: str(folder.resolve())} if instances else {})}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(instances):
                self._channels.append(self._channel(folder / str(index)))
            self._output = (folder / "output").open("w+b")
            self._errors = (folder / "errors").open("w+b")
            here = str(os.getpid())
            self._script = subprocess.Popen(
                [sys.executable, "-c", DIE_WITH_PARENT, here, "bash", str(script), "--json"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._errors,
            )
        except OSError as error:
            raise ScriptFailed(str(error)) from error

    def _channel(self, folder: Path) -> Channel:
        folder.mkdir()
        ends = []
        for name in ("requests", "replies"):
            os.mkfifo(folder / name)
            ends.append(os.open(folder / name, os.O_RDWR))  # waits for nobody at the other end
        return Channel(*ends, explain_exit=lambda: GONE, end_worker=lambda: None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._script.poll() is None:
            self._script.terminate()  # not killed: it ends its workers first
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._script.wait(10.0)
            self._script.kill()
            self._script.wait()
        for channel in self._channels:
            channel.close()
        for file in (self._output, self._errors):
            file.close()

    def measure(self, config: Config, rule: StoppingRule) -> Measurement:
        """What its workers measure of `config`, whose engine they have. Raises WorkerFailed, or
        ScriptFailed where the script has ended."""
        request = measure_request(config, of_each(rule, len(self._channels)))
        for channel in self._channels:
            channel.send("measure", request)
        replies = [
            channel.receive(timeout_s=self._timeout_s, watch=self._check_running)
            for channel in self._channels
        ]
        try:
            return Measurement.merge([parse(Measurement, reply) for reply in replies])
        except ValueError as error:
            raise WorkerFailed(Failure(kind="protocol", detail=str(error))) from error

    def finish(self) -> dict[str, Any]:
        """Ask no more, and what the script says. Raises ScriptFailed."""
        for channel in self._channels:
            channel.close()
        try:
            self._script.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise ScriptFailed(f"launch.sh timed out after {TIMEOUT_S} s") from error
        if self._script.returncode:
            raise ScriptFailed(self._words())
        self._output.seek(0)
        found: dict[str, Any] = json.loads(self._output.read())
        return found

    def _check_running(self) -> None:
        if self._script.poll() is not None:
            raise ScriptFailed(self._words())

    def _words(self) -> str:
        """The last line that the script wrote to standard error."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self._script.returncode}"


def launch_check(
    script: Path,
    runner: Runner,
    best: Config,
    objective: Objective,
    *,
    work: Path,
    beside: bool,
    time_s: float,
    timeout_s: float,
) -> dict[str, Any]:
    """What `script` measured over what was promised, and `beside`, over what `runner`'s own
    process measures in turn with it for a share of about `time_s`; `error` where it failed.

    Not `beside` where memory has no room for both, nor for a rate, which takes long to find.
    """
    instances = int(best["instances"]) if beside and objective.limit_s is None else 0
    try:
        with Launched(script, instances=instances, folder=work, timeout_s=timeout_s) as launched:
            ratio = None
            if instances:
                ratio = _in_turn(launched, runner, best, objective, time_s)
            check = launched.finish()
    except (ScriptFailed, WorkerFailed, OSError, ValueError) as error:
        return {"error": str(error)}
    finally:
        runner.close()
    if ratio is not None:
        check["beside"] = ratio
    return check


def _in_turn(
    launched: Launched, runner: Runner, best: Config, objective: Objective, time_s: float
) -> Interval | None:
    """How many times as good launch.sh's workers are as the search's own, round by round; None
    where the search's own cannot be measured any more. `time_s` is for the script's measurement
    as well, which is awaited first."""

    def own(rule: StoppingRule) -> Measurement | None:
        return runner.run(best, rule).measurement

    sides: Sequence[Callable[[StoppingRule], Measurement | None]] = (
        lambda rule: launched.measure(best, rule),
        own,
    )
    turn_s = min(TURN_S, max(LEAST_TURN_S, ROUNDS_SHARE * time_s / (2 * FEWEST)))
    rule = replace(VISIT_RULE, budget_s=turn_s, patience_s=turn_s, part_s=2 * turn_s)
    asked = time.monotonic()
    for side in sides:  # the first waits until the script has measured, the other opens
        side(rule)
    ratios: list[float] = []
    began = time.monotonic()
    late = max(asked + time_s, began + LEAST_SHARE * time_s)
    for _ in range(ROUNDS):
        found: dict[int, Measurement] = {}
        for index in in_turn((0, 1)):
            measured = sides[index](rule)
            if measured is None:
                return None
            found[index] = measured
        ratios.append(objective.ratio(found[0], found[1]))
        known = gain_interval(ratios)
        narrow = known.coverage >= CONFIDENCE and known.half_width <= HALF_WIDTH
        now = time.monotonic()
        many = len(ratios) >= FEWEST and now - began > ROUNDS_SHARE * time_s
        if narrow or many or now > late:
            break
    return known
