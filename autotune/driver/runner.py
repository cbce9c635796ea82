"""Runners: what turns a configuration into an outcome."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from autotune.driver.arrays import EncodedFeatures, read_arrays
from autotune.driver.channel import WorkerFailed
from autotune.driver.command import Command, worker_commands
from autotune.driver.forkserver import ForkServers
from autotune.driver.process import WorkerProcess
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
from autotune.shared.stopping import of_each
from autotune.space import knobs
from autotune.store.wire import WireError, parse

OutputArrays = Mapping[str, npt.NDArray[np.float32]]

PROCESS_KNOBS = knobs.names("process")
ENGINE_KNOBS = knobs.names("engine")
SESSION_KNOBS = PROCESS_KNOBS | ENGINE_KNOBS
POINT_KNOBS = knobs.names("point")
EXPORT_KNOBS = ENGINE_KNOBS | {"stack"}
MODEL_KNOBS = frozenset({"stack", "mode", "precision", "attention"})
"""What mostly decides whether an engine needs the model, or what was exported of it is there."""
OUTPUTS_FILE = "outputs.npz"
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
class Expected:
    """What every measurement of a workload must agree with."""

    examples: int
    features: int
    tokens: int

    @classmethod
    def of(cls, rows: Sequence[object], features: EncodedFeatures) -> Expected:
        return cls(examples=len(rows), features=len(features.lengths), tokens=features.tokens)


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


def read_outputs(
    paths: Sequence[Path], kinds: Mapping[str, str], expected: Expected
) -> dict[str, npt.NDArray[np.float32]]:
    """The outputs that the instances left, each NaN where another ran a row, checked against the
    workload. Raises WireError."""
    lengths = {"token": expected.tokens, "feature": expected.features}
    arrays: dict[str, npt.NDArray[np.float32]] = {}
    for path in paths:
        found = read_arrays(path)
        if set(found) != set(kinds):
            raise WireError(f"expected outputs {sorted(kinds)}, got {sorted(found)}")
        for name, kind in kinds.items():
            array = found[name]
            if array.dtype != np.float32 or array.shape[:1] != (lengths[kind],):
                raise WireError(
                    f"output {name} must be float32 of {lengths[kind]} rows, "
                    f"got {array.dtype} of shape {array.shape}"
                )
            known = arrays.setdefault(name, array)
            if known.shape != array.shape:
                raise WireError(f"output {name} has shapes {known.shape} and {array.shape}")
            np.copyto(known, array, where=np.isnan(known))
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise WireError(f"output {name} holds NaN or infinity")
    return arrays


def merge_served(parts: Sequence[ServedRequests], requests: int) -> ServedRequests:
    """What instances answered of so many requests that were dealt to them in turn.

    Raises WireError where one answered more or fewer than it was dealt, or ran other batches.
    """
    latency_s = [0.0] * requests
    for index, part in enumerate(parts):
        if len(part.latency_s) != len(latency_s[index :: len(parts)]):
            raise WireError(f"{len(part.latency_s)} answers of an instance")
        latency_s[index :: len(parts)] = part.latency_s
    batches = tuple(batch for part in parts for batch in part.batches)
    if sum(batches) != requests:
        raise WireError(f"batches of {sum(batches)} requests, {requests} were asked for")
    return ServedRequests(
        latency_s=tuple(latency_s),
        batches=batches,
        unmet=sum(part.unmet for part in parts),
    )


def slow(screen: Screen, rule: StoppingRule) -> Failure:
    """The failure of a configuration that did not pass its screen. Raises WireError where the
    rule asked for none."""
    if rule.leader_s is None:
        raise WireError("a screen where a measurement was asked for")
    times = screen.pass_s / rule.leader_s
    detail = (
        f"screened out: by {len(screen.batches)} batches a pass would take {screen.pass_s:.2g} s, "
        f"{times:.1f} times the leader's"
    )
    return Failure(kind="slow", detail=detail)


def check_measurement(measurement: Measurement, expected: Expected) -> None:
    """Whether a worker's measurement is one of this workload. Raises WireError."""
    found = Expected(
        examples=measurement.examples,
        features=measurement.features,
        tokens=measurement.tokens,
    )
    if found != expected:
        raise WireError(f"expected {expected}, got {found}")
    if not measurement.passes:
        raise WireError("a measurement of no passes")
    held = sum(measurement.batch_features)
    shares = {p.share for p in measurement.passes}
    possible = all(0 < share <= 1 for share in shares) and len(shares) <= 1
    if not possible or (held == measurement.features) != measurement.whole:
        raise WireError("the batches do not hold every feature once")
    counts = {len(p.batch_s) for p in measurement.passes}
    if counts != {len(measurement.batch_features)}:
        raise WireError(f"passes of {counts} batches, not {len(measurement.batch_features)}")
    if min(min(p.batch_s) for p in measurement.passes) <= 0:
        raise WireError("a batch took no time")


def check_effective(command: Command, measurement: Measurement) -> None:
    """Whether what was asked was in effect. Raises WorkerFailed `fallback` where it was not."""
    for name, asked in command.expected.items():
        found = measurement.effective.get(name)
        if found != asked:
            raise WorkerFailed(
                Failure(kind="fallback", detail=f"asked for {name} {asked}, in effect is {found}")
            )
    if "cpus" not in command.expected:
        cpus = str(measurement.effective.get("cpus", "")).split(",")
        threads = int(command.expected["threads"])
        if len(cpus) < threads:
            detail = f"asked for {threads} threads, on {len(cpus)} CPUs"
            raise WorkerFailed(Failure(kind="fallback", detail=detail))


def check_memory(held_bytes: int, most_bytes: int | None) -> None:
    """Raises WorkerFailed `out-of-memory` where workers hold more than they may."""
    if most_bytes is not None and held_bytes > most_bytes:
        detail = (
            f"{held_bytes / 2**30:.1f} GiB in use, --max-memory is {most_bytes / 2**30:.1f} GiB"
        )
        raise WorkerFailed(Failure(kind="out-of-memory", detail=detail))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFiles:
    """The files that an engine needs in the place of the model."""

    files: tuple[Path, ...]
    prepare_s: float  # seconds when it was prepared first, exporting them
    again_s: float | None  # and the last time, from them; None: it was prepared once


@dataclass(frozen=True, slots=True)
class Session:
    """The workers of one configuration's process and engine knobs, one an instance."""

    commands: tuple[Command, ...]
    workers: list[WorkerProcess]
    folder: Path
    timeout_s: float
    most_bytes: int | None

    @property
    def log(self) -> str:
        """What the workers wrote, a failing one's traceback last."""
        return "".join(worker.log for worker in reversed(self.workers))

    def ask(self, op: str, arguments: Mapping[str, object]) -> list[object]:
        """The answer of every worker. Raises the WorkerFailed of the first that fails, or of
        all where together they hold more than `most_bytes`."""
        return self.ask_each(op, [arguments] * len(self.workers))

    def ask_each(
        self, op: str, arguments: Sequence[Mapping[str, object]], more_s: float = 0.0
    ) -> list[object]:
        """As `ask`, each worker with arguments of its own, and with `more_s` to answer."""
        for worker, own in zip(self.workers, arguments, strict=True):
            worker.send(op, own)
        watch = None if self.most_bytes is None else self._check_memory
        timeout_s = self.timeout_s + more_s
        return [worker.receive(timeout_s=timeout_s, watch=watch) for worker in self.workers]

    def _check_memory(self) -> None:
        check_memory(sum(worker.resident_bytes for worker in self.workers), self.most_bytes)

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        shutil.rmtree(self.folder, ignore_errors=True)


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
        rule = of_each(rule, int(config["instances"]))
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
