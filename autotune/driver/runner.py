"""Runners: measure a configuration and return its outcome."""

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
    screening_failure,
)
from autotune.driver.session import Session, check_memory
from autotune.host import Host
from autotune.shared.engines import engine_named
from autotune.shared.errors import InputError, TrialFailure
from autotune.shared.records import (
    Config,
    Failure,
    Measurement,
    ModelSource,
    Opened,
    Screen,
    ServedRequests,
    StackFacts,
    to_jsonable,
)
from autotune.shared.stopping import StoppingRule, rule_per_instance
from autotune.space import knobs
from autotune.store.wire import WireError, parse

PROCESS_KNOBS = knobs.names("process")
ENGINE_KNOBS = knobs.names("engine")
SESSION_KNOBS = PROCESS_KNOBS | ENGINE_KNOBS
POINT_KNOBS = knobs.names("point")
EXPORT_KNOBS = ENGINE_KNOBS | {"stack"}
"""The knobs that decide which files an engine exports."""
TORCH_FREE_KNOBS = frozenset({"stack", "mode", "precision", "attention"})
"""The knobs that mostly decide whether an engine can start without torch, from an exported file."""
MEMORY_SHARE = 0.7
"""The share of the host's memory that the peaks of all open sessions together may use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of running one configuration: a `measurement`, or else a `failure`.

    `outputs` is empty if each pass ran only a part of the workload. A configuration that was
    screened has its estimate in `screen`, beside the failure. `log` is the log of workers that
    failed.
    """

    measurement: Measurement | None = None
    screen: Screen | None = None
    outputs: OutputArrays = field(default_factory=dict)
    failure: Failure | None = None
    log: str = ""


class Runner(Protocol):
    """Runs configurations one at a time."""

    def run(self, config: Config, rule: StoppingRule) -> Outcome:
        """Measure `config` by `rule`. A failure is returned in the outcome, never raised."""

    def keep_open(self, configs: Sequence[Config]) -> None:
        """Keep the sessions of these configurations open until `close`, if memory allows."""

    def close(self) -> None:
        """End every worker that is still running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What every worker of a workload is given in addition to its configuration."""

    source: ModelSource
    features: str  # folder of encoded features
    calibration: str | None  # folder of encoded calibration rows, which are not scored
    instruction_sets: tuple[str, ...]
    reference: str | None = None  # file of the baseline's outputs, once they are known
    cache: str | None = None  # folder for the engines' files; None: in the workdir
    for_production: bool = False  # engines keep all files that production can start from


def open_request(config: Config, inputs: Inputs) -> dict[str, object]:
    """The arguments of the worker's request `open` for `config`. Raises InputError for an unknown
    mode."""
    file = engine_named(config["mode"]).file
    return {
        "source": to_jsonable(inputs.source),
        "session": dict(config.only(SESSION_KNOBS)),
        "features": inputs.features,
        "calibration": inputs.calibration,
        "reference": inputs.reference,
        "instruction_sets": list(inputs.instruction_sets),
        "cache": inputs.cache,
        "keep": inputs.for_production,
        "engine_file": None if file is None else to_jsonable(file),
    }


def measure_request(config: Config, rule: StoppingRule) -> dict[str, object]:
    """The arguments of the worker's request `measure` for `config`."""
    return {"point": dict(config.only(POINT_KNOBS)), "rule": to_jsonable(rule)}


def serve_request(
    config: Config, rows: Sequence[int], arrivals_s: Sequence[float]
) -> dict[str, object]:
    """The arguments of the worker's request `serve` for `config`."""
    return {
        "point": dict(config.only(POINT_KNOBS)),
        "rows": list(rows),
        "arrivals_s": list(arrivals_s),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFiles:
    """The exported files that an engine starts from, instead of the model."""

    files: tuple[Path, ...]
    prepare_s: float  # seconds of the first preparation, which exported the files
    again_s: float | None  # of the latest one, from the files; None: prepared once only
    properties: Mapping[str, str]  # what the engine's library was told


class ProcessRunner:
    """Measures configurations in worker processes.

    Configurations that differ only in point knobs share a session. The latest session stays open
    for the next run, beside the sessions that `keep_open` named.
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
        fork_servers: ForkServers | None = None,
        max_memory_bytes: int | None = None,
    ) -> None:
        """Without `fork_servers` every worker is a fresh process.

        `expected` are the sizes of the workload, which every reply must repeat. `timeout_s` is
        the time for one reply. `max_memory_bytes` limits the memory of one session's workers
        together; None means no limit.
        """
        self._host = host
        self._fork_servers = fork_servers
        self._stacks = stacks
        self._inputs = inputs
        self._expected = expected
        self._workdir = workdir
        self._timeout_s = timeout_s
        self._max_memory_bytes = max_memory_bytes
        self._sessions: dict[Config, Session] = {}  # by SESSION_KNOBS, in order of opening
        self._peak_bytes: dict[Config, int] = {}  # by SESSION_KNOBS
        self._kept: frozenset[Config] = frozenset()  # SESSION_KNOBS of the sessions to keep open
        self._exported: dict[Config, EngineFiles] = {}  # by EXPORT_KNOBS
        self._torch_free: set[Config] = set()  # TORCH_FREE_KNOBS of engines with exported files

    @property
    def open_sessions(self) -> tuple[Session, ...]:
        """The sessions that are open now, in the order in which they were opened."""
        return tuple(self._sessions.values())

    def keep_open(self, configs: Sequence[Config]) -> None:
        self._kept = frozenset(config.only(SESSION_KNOBS) for config in configs)

    def run(self, config: Config, rule: StoppingRule) -> Outcome:
        key = config.only(SESSION_KNOBS)
        rule = rule_per_instance(rule, int(config["instances"]))
        try:
            session = self._open_session(key, config)
            measurement = self._measure(session, config, rule)
            if isinstance(measurement, Screen):
                failure = screening_failure(measurement, rule)
                return Outcome(failure=failure, screen=measurement)
            outputs: OutputArrays = {}
            if measurement.whole:
                outputs = read_outputs(
                    [worker.workdir / OUTPUTS_FILE for worker in session.workers],
                    self._inputs.source.outputs,
                    self._expected,
                )
        except WorkerFailed as failed:
            return self._close_failed(key, failed.failure)
        except TrialFailure as refused:
            return self._close_failed(key, Failure(kind=refused.kind, detail=refused.detail))
        except InputError as refused:
            return self._close_failed(key, Failure(kind="unsupported", detail=str(refused)))
        except WireError as error:
            return self._close_failed(key, Failure(kind="protocol", detail=str(error)))
        except OSError as error:
            detail = f"no worker could start: {error}"
            return self._close_failed(key, Failure(kind="crash", detail=detail))
        self._peak_bytes[key] = max(self._peak_bytes.get(key, 0), measurement.own_peak_bytes)
        return Outcome(measurement=measurement, outputs=outputs)

    def serve(
        self, config: Config, rows: Sequence[int], arrivals_s: Sequence[float]
    ) -> ServedRequests:
        """Answer requests for `rows`, which arrive `arrivals_s` seconds after the start.

        Instances take the requests in turn: the first request goes to the first instance, the
        second to the second. The session must be open from a `run` of this configuration. Raises
        WorkerFailed.
        """
        key = config.only(SESSION_KNOBS)
        session = self._sessions[key]
        count = len(session.workers)
        requests = [
            serve_request(config, rows[index::count], arrivals_s[index::count])
            for index in range(count)
        ]
        try:
            replies = session.ask_each("serve", requests, extra_timeout_s=max(arrivals_s))
            return merge_served([parse(ServedRequests, reply) for reply in replies], len(rows))
        except WorkerFailed as failed:
            raise self._serving_failed(key, failed.failure) from failed
        except WireError as error:
            failure = Failure(kind="protocol", detail=str(error))
            raise self._serving_failed(key, failure) from error

    def _serving_failed(self, key: Config, failure: Failure) -> WorkerFailed:
        return WorkerFailed(failure, log=self._close_failed(key, failure).log)

    def _measure(
        self, session: Session, config: Config, rule: StoppingRule
    ) -> Measurement | Screen:
        """Measure the point of `config`, and check the replies of all instances.

        Returns the merged measurement, or the slowest instance's estimate if the configuration
        was screened. Raises WorkerFailed and WireError.
        """
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
        check_memory(measurement.own_peak_bytes, self._max_memory_bytes)
        return measurement

    def _open_session(self, key: Config, config: Config) -> Session:
        """The session of `key`, opened with the engine of `config` if it is not open yet."""
        if key in self._sessions:
            return self._sessions[key]
        self._make_room(key)
        session = self._start_workers(key, config)
        cache = None
        if self._inputs.cache is not None:
            cache = str(Path(self._inputs.cache) / str(config["stack"]))
        request = open_request(config, replace(self._inputs, cache=cache))
        try:
            opened = parse(Opened, session.ask("open", request)[0])
        except WorkerFailed as failed:
            raise WorkerFailed(replace(failed.failure, preparing=True), failed.log) from failed
        if opened.files and cache is not None:
            self._torch_free.add(config.only(TORCH_FREE_KNOBS))
            exported = config.only(EXPORT_KNOBS)
            first = self._exported.get(exported)
            self._exported[exported] = EngineFiles(
                files=tuple(Path(cache) / name for name in opened.files),
                prepare_s=first.prepare_s if first else opened.phases_s["prepare"],
                again_s=opened.phases_s["prepare"] if first else None,
                properties=opened.properties,
            )
        return session

    def _make_room(self, key: Config) -> None:
        """Close the sessions that must not be open beside the session of `key`.

        These are the sessions that `keep_open` did not name. If the peaks of `key` and the named
        sessions exceed MEMORY_SHARE of the host's memory, all sessions are closed.
        """
        peaks = [self._peak_bytes.get(k, 0) for k in {key, *self._kept}]
        short_of_memory = sum(peaks) > MEMORY_SHARE * self._host.memory_bytes
        for other in list(self._sessions):
            if short_of_memory or other not in self._kept:
                self._sessions.pop(other).close()

    def _start_workers(self, key: Config, config: Config) -> Session:
        """A new session with a worker for each instance. Raises TrialFailure and OSError."""
        stack = self._stacks[str(config["stack"])]
        folder = self._workdir / key.id
        folder.mkdir(parents=True, exist_ok=True)
        commands = worker_commands(config, self._host, stack.python, stack.libiomp5)
        session = Session(commands, [], folder, self._timeout_s, self._max_memory_bytes)
        self._sessions[key] = session
        for index, command in enumerate(commands):
            workdir = folder / str(index)
            meeting = folder if len(commands) > 1 else None
            if self._fork_servers is None:
                worker = WorkerProcess(command, workdir=workdir, meeting_folder=meeting)
            else:
                worker = self._fork_servers.start(
                    command,
                    workdir=workdir,
                    meeting_folder=meeting,
                    torch_free=config.only(TORCH_FREE_KNOBS) in self._torch_free,
                )
            session.workers.append(worker)
        return session

    def exported(self, config: Config) -> EngineFiles | None:
        """The files that the engine of `config` starts from.

        None if this runner has not opened that engine, or if the engine needs the model.
        """
        return self._exported.get(config.only(EXPORT_KNOBS))

    def _close_failed(self, key: Config, failure: Failure) -> Outcome:
        """Close the session of `key`, if it is open. Returns the failure with the session's log."""
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
