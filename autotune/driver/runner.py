"""Runners: what turns a configuration into an outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from autotune.driver.channel import WorkerFailed
from autotune.driver.command import worker_commands
from autotune.driver.forkserver import ForkServers
from autotune.driver.process import WorkerProcess
from autotune.driver.replies import (
    OUTPUTS_FILE,
    Expected,
    OutputArrays,
    check_effective,
    check_measurement,
    merge_served,
    read_outputs,
    slow,
)
from autotune.driver.session import Session, check_memory
from autotune.host import Host
from autotune.shared.errors import TrialFailure
from autotune.shared.records import (
    Config,
    Failure,
    Measurement,
    ModelSource,
    Opened,
    Screen,
    ServedRequests,
    StackFacts,
    StoppingRule,
    to_jsonable,
)
from autotune.shared.stopping import rule_per_instance
from autotune.space import knobs
from autotune.store.wire import WireError, parse

PROCESS_KNOBS = knobs.names("process")
ENGINE_KNOBS = knobs.names("engine")
SESSION_KNOBS = PROCESS_KNOBS | ENGINE_KNOBS
POINT_KNOBS = knobs.names("point")
EXPORT_KNOBS = ENGINE_KNOBS | {"stack"}
MODEL_KNOBS = frozenset({"stack", "mode", "precision", "attention"})
"""What mostly decides whether an engine needs the model, or what was exported of it is there."""
MEMORY_SHARE = 0.7
"""Of the host's memory, what the peaks of sessions kept side by side may add up to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of running one configuration: `measurement` and `outputs` (none where only a
    part of each pass was run), or `failure`, with the `screen` that it did not pass."""

    measurement: Measurement | None = None
    screen: Screen | None = None
    outputs: OutputArrays = field(default_factory=dict)
    failure: Failure | None = None
    log: str = ""


class Runner(Protocol):
    """Runs configurations one at a time."""

    def run(self, config: Config, rule: StoppingRule) -> Outcome:
        """Measure `config` by `rule`; every failure is in the outcome, never raised."""

    def keep_open(self, configs: Sequence[Config]) -> None:
        """Until `close`, keep what these configurations need between runs, memory permitting."""

    def close(self) -> None:
        """End whatever is still running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What every worker of a workload is given, besides its configuration."""

    source: ModelSource
    features: str  # folder of encoded features
    calibration: str | None  # the same of rows that are not scored
    instruction_sets: tuple[str, ...]
    reference: str | None = None  # file of the baseline's outputs, once they are known
    cache: str | None = None  # where engines keep what they made; None: in the workdir
    for_production: bool = False  # they keep all they can, to start from in production


TOLD = ("threads", "interop_threads", "flush_denormals")
"""Process knobs that the worker sets itself, before it prepares."""


def open_request(config: Config, inputs: Inputs) -> dict[str, object]:
    """Arguments of the worker's `open` for `config`."""
    return {
        "source": to_jsonable(inputs.source),
        "engine": config.only(ENGINE_KNOBS).as_dict(),
        "process": {name: config[name] for name in TOLD},
        "features": inputs.features,
        "calibration": inputs.calibration,
        "reference": inputs.reference,
        "instruction_sets": list(inputs.instruction_sets),
        "cache": inputs.cache,
        "keep": inputs.for_production,
    }


def measure_request(config: Config, rule: StoppingRule) -> dict[str, object]:
    """Arguments of the worker's `measure` for `config`."""
    return {"point": config.only(POINT_KNOBS).as_dict(), "rule": to_jsonable(rule)}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFiles:
    """The files that an engine needs in the place of the model."""

    files: tuple[Path, ...]
    prepare_s: float  # seconds when it was prepared first, exporting them
    again_s: float | None  # and the last time, from them; None: it was prepared once


class ProcessRunner:
    """Measures in worker processes; configurations that differ only in point knobs share one.

    The last session stays open for the next run, and those that `keep` named beside it.
    """

    def __init__(
        self,
        *,
        host: Host,
        stacks: Mapping[str, StackFacts],
        inputs: Inputs,
        expected: Expected,
        workdir: Path,
        timeout_s: float,
        parents: ForkServers | None = None,
        most_bytes: int | None = None,
    ) -> None:
        """Without `parents` every session is a fresh process; `most_bytes` is what the workers
        of one may hold in memory together."""
        self._host = host
        self._parents = parents
        self._stacks = stacks
        self._inputs = inputs
        self._expected = expected
        self._workdir = workdir
        self._timeout_s = timeout_s
        self._most_bytes = most_bytes
        self._sessions: dict[Config, Session] = {}
        self._peak_bytes: dict[Config, int] = {}
        self._kept: frozenset[Config] = frozenset()
        self._exported: dict[Config, EngineFiles] = {}  # by what of a configuration decides it
        self._light: set[Config] = set()  # MODEL_KNOBS of what runs from exported files

    def keep_open(self, configs: Sequence[Config]) -> None:
        self._kept = frozenset(config.only(SESSION_KNOBS) for config in configs)

    def run(self, config: Config, rule: StoppingRule) -> Outcome:
        key = config.only(SESSION_KNOBS)
        rule = rule_per_instance(rule, int(config["instances"]))
        try:
            session = self._opened(key, config)
            measurement = self._measured(session, config, rule)
            if isinstance(measurement, Screen):
                return Outcome(failure=slow(measurement, rule), screen=measurement)
            outputs: OutputArrays = {}
            if measurement.whole:
                outputs = read_outputs(
                    [worker.workdir / OUTPUTS_FILE for worker in session.workers],
                    self._inputs.source.outputs,
                    self._expected,
                )
        except WorkerFailed as failed:
            return self._failed(key, failed.failure)
        except TrialFailure as failure:
            return self._failed(key, Failure(kind=failure.kind, detail=failure.detail))
        except WireError as error:
            return self._failed(key, Failure(kind="protocol", detail=str(error)))
        except OSError as error:
            detail = f"no worker could start: {error}"
            return self._failed(key, Failure(kind="crash", detail=detail))
        self._peak_bytes[key] = max(self._peak_bytes.get(key, 0), measurement.peak_rss_bytes)
        return Outcome(measurement=measurement, outputs=outputs)

    def serve(
        self, config: Config, rows: Sequence[int], arrivals_s: Sequence[float]
    ) -> ServedRequests:
        """Answer requests for `rows` that arrive at `arrivals_s`, dealt to the instances in
        turn.

        `run` of the configuration has gone before. Raises WorkerFailed.
        """
        key = config.only(SESSION_KNOBS)
        session, point = self._sessions[key], config.only(POINT_KNOBS).as_dict()
        count = len(session.workers)
        dealt = [
            {
                "point": point,
                "rows": list(rows[index::count]),
                "arrivals_s": list(arrivals_s[index::count]),
            }
            for index in range(count)
        ]
        try:
            replies = session.ask_each("serve", dealt, more_s=max(arrivals_s))
            return merge_served([parse(ServedRequests, reply) for reply in replies], len(rows))
        except WorkerFailed as failed:
            raise self._serving_failed(key, failed.failure) from failed
        except WireError as error:
            failure = Failure(kind="protocol", detail=str(error))
            raise self._serving_failed(key, failure) from error

    def _serving_failed(self, key: Config, failure: Failure) -> WorkerFailed:
        return WorkerFailed(failure, log=self._failed(key, failure).log)

    def _measured(
        self, session: Session, config: Config, rule: StoppingRule
    ) -> Measurement | Screen:
        replies = session.ask("measure", measure_request(config, rule))
        if isinstance(replies[0], dict) and "pass_s" in replies[0]:
            return max((parse(Screen, reply) for reply in replies), key=lambda s: s.pass_s)
        measurements = [parse(Measurement, reply) for reply in replies]
        for command, measurement in zip(session.commands, measurements, strict=True):
            check_measurement(measurement, self._expected)
            check_effective(command, measurement)
        try:
            measurement = Measurement.merge(measurements)
        except ValueError as error:
            raise WireError(str(error)) from error
        check_memory(measurement.peak_rss_bytes, self._most_bytes)
        return measurement

    def _opened(self, key: Config, config: Config) -> Session:
        if key in self._sessions:
            return self._sessions[key]
        peaks = [self._peak_bytes.get(k, 0) for k in {key, *self._kept}]
        crowded = sum(peaks) > MEMORY_SHARE * self._host.memory_bytes
        for other in list(self._sessions):
            if crowded or other not in self._kept:
                self._sessions.pop(other).close()
        stack = self._stacks[str(config["stack"])]
        folder = self._workdir / key.id
        folder.mkdir(parents=True, exist_ok=True)
        commands = worker_commands(config, self._host, stack.python, stack.libiomp5)
        session = Session(commands, [], folder, self._timeout_s, self._most_bytes)
        self._sessions[key] = session
        exported = config.only(EXPORT_KNOBS)
        for index, command in enumerate(commands):
            workdir = folder / str(index)
            beside = folder if len(commands) > 1 else None
            if self._parents is None:
                worker = WorkerProcess(command, workdir=workdir, together=beside)
            else:
                light = config.only(MODEL_KNOBS) in self._light
                worker = self._parents.worker(
                    command, workdir=workdir, together=beside, light=light
                )
            session.workers.append(worker)
        cache = None
        if self._inputs.cache is not None:
            cache = str(Path(self._inputs.cache) / str(config["stack"]))
        request = open_request(config, replace(self._inputs, cache=cache))
        opened = parse(Opened, session.ask("open", request)[0])
        if opened.files and cache is not None:
            self._light.add(config.only(MODEL_KNOBS))
            first = self._exported.get(exported)
            self._exported[exported] = EngineFiles(
                files=tuple(Path(cache) / name for name in opened.files),
                prepare_s=first.prepare_s if first else opened.phases_s["prepare"],
                again_s=opened.phases_s["prepare"] if first else None,
            )
        return session

    def exported(self, config: Config) -> EngineFiles | None:
        """What the engine of `config` runs from, where that is files alone and it was opened."""
        return self._exported.get(config.only(EXPORT_KNOBS))

    def _failed(self, key: Config, failure: Failure) -> Outcome:
        session = self._sessions.pop(key, None)
        if session is None:
            return Outcome(failure=failure)
        log = session.log
        session.close()
        return Outcome(failure=failure, log=log)

    def close(self) -> None:
        self._kept = frozenset()
        while self._sessions:
            self._sessions.popitem()[1].close()
