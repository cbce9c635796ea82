"""Compare one measurement of the best configuration with its promise: `autotune run` and launch.sh.

The baseline is not measured again; `verify` does that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autotune.commands.promise.differences import differences, installed
from autotune.commands.promise.reopen import FinishedRun, reopen
from autotune.driver.replies import OUTPUTS_FILE, OutputArrays, merge_served, read_outputs
from autotune.driver.runner import ProcessRunner
from autotune.emit.launch_script import LAUNCH_RULE, LAUNCH_SERVING_S
from autotune.host import Host
from autotune.search.objective import objective_named
from autotune.search.serving import LoadTest, answered
from autotune.shared.errors import SearchError
from autotune.shared.records import Measurement, ServedRequests, StackFacts, to_jsonable
from autotune.shared.stats import Interval
from autotune.store.folder import RunFolder
from autotune.store.wire import loads, parse


@dataclass(frozen=True, slots=True, kw_only=True)
class PromiseCheck:
    """One measurement beside the run's promise."""

    objective: str
    measured: Interval
    promised: Interval
    metrics: dict[str, float]
    promised_metrics: dict[str, float]
    phases_s: dict[str, float]
    """Seconds of the slowest instance: `start`, `import`, `prepare`, `warm_up` and `measure`."""

    @property
    def ratio(self) -> float:
        """Measured performance over promised: above 1 is better than promised."""
        one, other = self.measured.median, self.promised.median
        return one / other if objective_named(self.objective).maximize else other / one

    @property
    def consistent(self) -> bool:
        """Whether the two intervals overlap: the difference may be the host's noise."""
        return self.measured.low <= self.promised.high and self.promised.low <= self.measured.high

    @property
    def same_metrics(self) -> bool:
        return self.metrics == self.promised_metrics

    def as_json(self) -> dict[str, Any]:
        return {
            "objective": self.objective,
            "measured": to_jsonable(self.measured),
            "promised": to_jsonable(self.promised),
            "ratio": self.ratio,
            "consistent": self.consistent,
            "metrics": self.metrics,
            "promised_metrics": self.promised_metrics,
            "same_metrics": self.same_metrics,
            "phases_s": self.phases_s,
        }


def changes(run: FinishedRun, host: Host) -> list[str]:
    """What has changed since the run. Raises StackError if its interpreter does not run."""
    return differences(run.best, host, installed(run.best))


def best_runner(run: FinishedRun, host: Host, work: Path) -> ProcessRunner:
    """A runner of the best configuration on its own interpreter."""
    name = str(run.chosen["stack"])
    return run.runner(host, {name: parse(StackFacts, run.manifest["stacks"][name])}, work)


def measure(run: FinishedRun, host: Host, work: Path) -> PromiseCheck:
    """Measure the best configuration as launch.sh does. Raises SearchError."""
    runner = best_runner(run, host, work)
    try:
        outcome = runner.run(run.chosen, LAUNCH_RULE)
        if outcome.measurement is None:
            assert outcome.failure is not None
            raise SearchError(f"{outcome.failure.kind}: {outcome.failure.detail}")
        measurement = outcome.measurement
        if run.objective.by_requests:
            server = LoadTest(runner, run.chosen, run.expected.features, seed=0)
            served = server.serve_or_stop(run.promised.median, LAUNCH_SERVING_S)
            measurement = replace(measurement, answered=(served,))
    finally:
        runner.close()
    return judge(run, measurement, outcome.outputs)


def instances(work: Path) -> list[Path]:
    """The folders that the workers left, in order."""
    return sorted((p for p in work.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))


def _replies(folder: Path) -> tuple[Measurement, ServedRequests | None]:
    """What an instance measured, and served where that was asked."""
    replies = [loads(line) for line in (folder / "replies.jsonl").read_bytes().splitlines()]
    for reply in replies:
        if "failure" in reply:
            failure = reply["failure"]
            raise SearchError(f"{failure['kind']}: {failure['detail']}")
    served = parse(ServedRequests, replies[2]["ok"]) if len(replies) > 2 else None
    return parse(Measurement, replies[1]["ok"]), served


def score(folder: RunFolder, work: Path) -> PromiseCheck:
    """PromiseCheck the replies and outputs in `work` against the promise in `folder`.

    Raises SearchError where the measurement failed, ResumeError where the run is damaged.
    """
    run = reopen(folder)
    try:
        replies = [_replies(instance) for instance in instances(work)]
        measurement = Measurement.merge([measured for measured, _ in replies])
        served = [one for _, one in replies if one is not None]
        if served:
            requests = sum(len(one.latency_s) for one in served)
            found = answered(run.promised.median, merge_served(served, requests))
            measurement = replace(measurement, answered=(found,))
        files = [instance / OUTPUTS_FILE for instance in instances(work)]
        outputs = read_outputs(files, run.task.outputs, run.expected)
    except (OSError, IndexError, KeyError, TypeError, ValueError) as error:
        raise SearchError(f"the worker left no usable measurement: {error}") from error
    return judge(run, measurement, outputs)


def judge(run: FinishedRun, measurement: Measurement, outputs: OutputArrays) -> PromiseCheck:
    """A measurement of the run's best configuration against its promise."""
    return PromiseCheck(
        objective=run.objective.name,
        measured=run.objective.interval(measurement),
        promised=run.promised,
        metrics=run.gate().judge(outputs, run.reference()).metrics,
        promised_metrics=dict(run.best["promise"]["metrics"]),
        phases_s=dict(measurement.phases_s),
    )
