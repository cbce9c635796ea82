"""Run launch.sh once, then measure its workers in turn with the search's own process.

The speed of a host drifts within minutes by more than launch.sh and the search could differ.
Turns of less than a second, one after the other, see the same host.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from autotune.driver.channel import Channel, WorkerFailed, receive_all
from autotune.driver.runner import Runner, measure_request
from autotune.emit.launch_script import THEN
from autotune.search.finals import VISIT_RULE
from autotune.search.objective import Objective
from autotune.shared.records import Config, Failure, Measurement
from autotune.shared.stats import (
    CONFIDENCE,
    UNKNOWN_HOST,
    Interval,
    ProcessSpread,
    gain_interval,
    ratio_interval,
    shuffled,
)
from autotune.shared.stopping import StoppingRule, rule_per_instance
from autotune.store.wire import parse

TIMEOUT_S = 1800
MIN_ROUNDS, HALF_WIDTH, ROUNDS_SHARE = 6, 0.018, 0.5
"""Rounds end when the half width of their own interval is 1.8%, or when they have taken half of the
time. More rounds cannot narrow the difference of the two processes. Six rounds are the fewest whose
ranks give a 95% interval; if time is short, turns are shortened."""
MIN_ROUNDS_SHARE = 0.25
"""Share of the time for rounds if the script has used all the time; they may be fewer than six."""
GONE = Failure(kind="crash", detail="a worker of launch.sh closed its pipes")
DIE_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM: the script then ends its workers
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckLimits:
    """How long launch.sh is compared with the search's own process.

    A turn of either side takes at most `max_turn_s` and at least `min_turn_s` seconds. A host may
    change by 10% every few seconds; with short turns fewer of them see such a change.
    """

    max_turn_s: float = 0.5
    min_turn_s: float = 0.1
    max_rounds: int = 24


CHECK_LIMITS = CheckLimits()


class ScriptFailed(Exception):
    """launch.sh failed; the message says how."""


class Launched:
    """A running launch.sh whose `instances` workers accept further requests.

    A context manager: leaving it ends the script and its workers.
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
        """Measure `config`, whose engine the script's workers hold.

        Raises WorkerFailed, or ScriptFailed if the script has ended.
        """
        request = measure_request(config, rule_per_instance(rule, len(self._channels)))
        for channel in self._channels:
            channel.send("measure", request)
        replies = receive_all(self._channels, timeout_s=self._timeout_s, watch=self._check_running)
        try:
            return Measurement.merge([parse(Measurement, reply) for reply in replies])
        except ValueError as error:
            raise WorkerFailed(Failure(kind="protocol", detail=str(error))) from error

    def finish(self) -> dict[str, Any]:
        """Send no more requests; return the script's JSON. Raises ScriptFailed."""
        for channel in self._channels:
            channel.close()
        try:
            self._script.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise ScriptFailed(f"launch.sh timed out after {TIMEOUT_S} s") from error
        if self._script.returncode:
            raise ScriptFailed(self._last_error())
        self._output.seek(0)
        found: dict[str, Any] = json.loads(self._output.read())
        return found

    def _check_running(self) -> None:
        if self._script.poll() is not None:
            raise ScriptFailed(self._last_error())

    def _last_error(self) -> str:
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
    limits: CheckLimits = CHECK_LIMITS,
    spread: ProcessSpread = UNKNOWN_HOST,
) -> dict[str, Any]:
    """The script's JSON: its speed over the promised speed; or `error` if the script failed.

    With `beside` (memory has room for both) the key `beside` has the ratio to `runner`'s own
    process, measured in turn for part of `time_s`. A rate of requests takes too long for that.
    """
    instances = int(best["instances"]) if beside and not objective.by_requests else 0
    try:
        with Launched(script, instances=instances, folder=work, timeout_s=timeout_s) as launched:
            ratio = None
            if instances:
                ratio = _in_turn(launched, runner, best, objective, time_s, limits, spread)
            check = launched.finish()
    except (ScriptFailed, WorkerFailed, OSError, ValueError) as error:
        return {"error": str(error)}
    finally:
        runner.close()
    if ratio is not None:
        check["beside"] = ratio
    return check


def _in_turn(
    launched: Launched,
    runner: Runner,
    best: Config,
    objective: Objective,
    time_s: float,
    limits: CheckLimits,
    spread: ProcessSpread,
) -> Interval | None:
    """The ratio of launch.sh's workers to the search's own process, over the rounds.

    None if the search's own process fails. `time_s` includes the script's own measurement, which
    comes first.
    """

    def own(rule: StoppingRule) -> Measurement | None:
        return runner.run(best, rule).measurement

    sides: Sequence[Callable[[StoppingRule], Measurement | None]] = (
        lambda rule: launched.measure(best, rule),
        own,
    )
    wanted_s = ROUNDS_SHARE * time_s / (2 * MIN_ROUNDS)
    turn_s = min(limits.max_turn_s, max(limits.min_turn_s, wanted_s))
    rule = replace(VISIT_RULE, budget_s=turn_s, patience_s=turn_s, part_s=2 * turn_s)
    asked = time.monotonic()
    for side in sides:  # the first waits until the script has measured, the other opens
        side(rule)
    ratios: list[float] = []
    rng = random.Random(0)
    began = time.monotonic()
    late = max(asked + time_s, began + MIN_ROUNDS_SHARE * time_s)
    for _ in range(limits.max_rounds):
        found: dict[int, Measurement] = {}
        for index in shuffled((0, 1), rng):
            measured = sides[index](rule)
            if measured is None:
                return None
            found[index] = measured
        ratios.append(objective.ratio(found[0], found[1]))
        own_width = ratio_interval(ratios)
        narrow = own_width.coverage >= CONFIDENCE and own_width.half_width <= HALF_WIDTH
        now = time.monotonic()
        many = len(ratios) >= MIN_ROUNDS and now - began > ROUNDS_SHARE * time_s
        if narrow or many or now > late:
            break
    return gain_interval(ratios, spread=spread)
