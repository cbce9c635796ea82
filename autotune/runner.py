"""Runners: what turns a configuration into an outcome."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from autotune import knobs
from autotune.host import Host
from autotune.launch import worker_command
from autotune.process import WorkerFailed, WorkerProcess
from autotune.records import Config, Failure, Measure, Measurement, ModelSource, to_jsonable
from autotune.wire import WireError, parse
from autotune.worker_files import read_arrays

OutputArrays = Mapping[str, npt.NDArray[np.float32]]

SESSION_KNOBS = knobs.names("process") | knobs.names("engine")
ENGINE_KNOBS = knobs.names("engine")
POINT_KNOBS = knobs.names("point")
OUTPUTS_FILE = "outputs.npz"
MEMORY_SHARE = 0.7
"""Of the host's memory, what the peaks of sessions kept side by side may add up to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of running one configuration: `measurement` and `outputs`, or `failure`."""

    measurement: Measurement | None = None
    outputs: OutputArrays = field(default_factory=dict)
    failure: Failure | None = None
    log: str = ""


class Runner(Protocol):
    """Runs configurations one at a time."""

    def run(self, config: Config, rule: Measure) -> Outcome:
        """Measure `config` by `rule`; every failure is in the outcome, never raised."""

    def keep(self, configs: Sequence[Config]) -> None:
        """Until `close`, keep what these configurations need between runs, memory permitting."""

    def close(self) -> None:
        """End whatever is still running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What every measurement of a workload must agree with."""

    examples: int
    features: int
    tokens: int


def open_request(config: Config, source: ModelSource, features: str) -> dict[str, object]:
    """Arguments of the worker's `open` for `config`."""
    return {
        "source": to_jsonable(source),
        "engine": config.only(ENGINE_KNOBS).as_dict(),
        "threads": config["threads"],
        "features": features,
    }


def measure_request(config: Config, rule: Measure) -> dict[str, object]:
    """Arguments of the worker's `measure` for `config`."""
    return {"point": config.only(POINT_KNOBS).as_dict(), "rule": to_jsonable(rule)}


def read_outputs(
    path: Path, kinds: Mapping[str, str], expected: Expected
) -> dict[str, npt.NDArray[np.float32]]:
    """The outputs a worker left, checked against the workload. Raises WireError."""
    lengths = {"token": expected.tokens, "feature": expected.features}
    found = read_arrays(path)
    if set(found) != set(kinds):
        raise WireError(f"expected outputs {sorted(kinds)}, got {sorted(found)}")
    arrays = {name: found[name] for name in kinds}
    for name, array in arrays.items():
        if array.dtype != np.float32 or array.shape[:1] != (lengths[kinds[name]],):
            raise WireError(
                f"output {name} must be float32 of {lengths[kinds[name]]} rows, "
                f"got {array.dtype} of shape {array.shape}"
            )
        if not np.isfinite(array).all():
            raise WireError(f"output {name} holds NaN or infinity")
    return arrays


class ProcessRunner:
    """Measures in worker processes; configurations that differ only in point knobs share one.

    The last session stays open for the next run, and those that `keep` named beside it.
    """

    def __init__(
        self,
        *,
        host: Host,
        python: str,
        source: ModelSource,
        features: Path,
        expected: Expected,
        workdir: Path,
        timeout_s: float,
    ) -> None:
        self._host = host
        self._python = python
        self._source = source
        self._features = features
        self._expected = expected
        self._workdir = workdir
        self._timeout_s = timeout_s
        self._sessions: dict[Config, WorkerProcess] = {}
        self._peak_bytes: dict[Config, int] = {}
        self._kept: frozenset[Config] = frozenset()

    def keep(self, configs: Sequence[Config]) -> None:
        self._kept = frozenset(config.only(SESSION_KNOBS) for config in configs)

    def run(self, config: Config, rule: Measure) -> Outcome:
        key = config.only(SESSION_KNOBS)
        try:
            worker = self._opened(key, config)
            reply = worker.request(
                "measure", measure_request(config, rule), timeout_s=self._timeout_s
            )
            measurement = parse(Measurement, reply)
            self._check(measurement)
            outputs = read_outputs(
                worker.workdir / OUTPUTS_FILE, self._source.outputs, self._expected
            )
        except WorkerFailed as failed:
            return self._failed(key, failed.failure)
        except WireError as error:
            return self._failed(key, Failure(kind="protocol", detail=str(error)))
        except OSError as error:
            detail = f"no worker could start: {error}"
            return self._failed(key, Failure(kind="crash", detail=detail))
        self._peak_bytes[key] = max(self._peak_bytes.get(key, 0), measurement.peak_rss_bytes)
        return Outcome(measurement=measurement, outputs=outputs)

    def _opened(self, key: Config, config: Config) -> WorkerProcess:
        if key in self._sessions:
            return self._sessions[key]
        peaks = [self._peak_bytes.get(k, 0) for k in {key, *self._kept}]
        crowded = sum(peaks) > MEMORY_SHARE * self._host.memory_bytes
        for other in list(self._sessions):
            if crowded or other not in self._kept:
                self._end(self._sessions.pop(other))
        worker = WorkerProcess(
            worker_command(config, self._host, self._python), workdir=self._workdir / key.id
        )
        self._sessions[key] = worker
        worker.request(
            "open",
            open_request(config, self._source, str(self._features.resolve())),
            timeout_s=self._timeout_s,
        )
        return worker

    def _check(self, measurement: Measurement) -> None:
        found = Expected(
            examples=measurement.examples,
            features=measurement.features,
            tokens=measurement.tokens,
        )
        if found != self._expected:
            raise WireError(f"expected {self._expected}, got {found}")
        if sum(measurement.batch_features) != measurement.features:
            raise WireError("the batches do not hold every feature once")
        if not measurement.passes:
            raise WireError("a measurement of no passes")
        counts = {len(p.batch_s) for p in measurement.passes}
        if counts != {len(measurement.batch_features)}:
            raise WireError(f"passes of {counts} batches, not {len(measurement.batch_features)}")
        if min(min(p.batch_s) for p in measurement.passes) <= 0:
            raise WireError("a batch took no time")

    def _failed(self, key: Config, failure: Failure) -> Outcome:
        worker = self._sessions.pop(key, None)
        if worker is None:
            return Outcome(failure=failure)
        log = worker.log
        self._end(worker)
        return Outcome(failure=failure, log=log)

    def close(self) -> None:
        self._kept = frozenset()
        while self._sessions:
            self._end(self._sessions.popitem()[1])

    @staticmethod
    def _end(worker: WorkerProcess) -> None:
        worker.close()
        shutil.rmtree(worker.workdir, ignore_errors=True)
