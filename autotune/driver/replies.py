"""Check the workers' replies and output files against the workload, and merge the instances'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autotune.driver.arrays import EncodedFeatures, read_arrays
from autotune.driver.channel import WorkerFailed
from autotune.driver.command import Command
from autotune.shared.axes import WIDTH, output_axes
from autotune.shared.records import Failure, Measurement, Screen, ServedRequests
from autotune.shared.stopping import StoppingRule
from autotune.store.wire import WireError

OutputArrays = Mapping[str, npt.NDArray[np.float32]]
OUTPUTS_FILE = "outputs.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The sizes of a workload, which every measurement must repeat."""

    examples: int
    features: int
    tokens: int

    @classmethod
    def of(cls, rows: Sequence[object], features: EncodedFeatures) -> Expected:
        return cls(examples=len(rows), features=len(features.lengths), tokens=features.tokens)


def read_outputs(
    paths: Sequence[Path], outputs: Mapping[str, str], expected: Expected
) -> dict[str, npt.NDArray[np.float32]]:
    """Merge the output files of all instances into one array for each output.

    Each file has a place for every row, and NaN for the rows that another instance ran. `outputs`
    maps each output to its declared axes. Raises WireError if an output contradicts the workload,
    or if a value is missing or infinite.
    """
    sizes = {
        name: expected.tokens if WIDTH in axes else expected.features
        for name, axes in output_axes(outputs).items()
    }
    arrays: dict[str, npt.NDArray[np.float32]] = {}
    for path in paths:
        part = read_arrays(path)
        if set(part) != set(outputs):
            raise WireError(f"expected outputs {sorted(outputs)}, got {sorted(part)}")
        for name, size in sizes.items():
            array = part[name]
            if array.dtype != np.float32 or array.shape[:1] != (size,):
                raise WireError(
                    f"output {name} must be float32 of {size} rows, "
                    f"got {array.dtype} of shape {array.shape}"
                )
            merged = arrays.setdefault(name, array)
            if merged.shape != array.shape:
                raise WireError(f"output {name} has shapes {merged.shape} and {array.shape}")
            np.copyto(merged, array, where=np.isnan(merged))
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise WireError(f"output {name} holds NaN or infinity")
    return arrays


def merge_served(parts: Sequence[ServedRequests], requests: int) -> ServedRequests:
    """Merge the answers of instances that took `requests` requests in turn.

    Latencies are in the order of the requests. Raises WireError if an instance answered more or
    fewer requests than it was given, or if the batches do not add up to all requests.
    """
    latency_s = [0.0] * requests
    for index, part in enumerate(parts):
        if len(part.latency_s) != len(latency_s[index :: len(parts)]):
            raise WireError(f"an instance gave {len(part.latency_s)} answers")
        latency_s[index :: len(parts)] = part.latency_s
    batches = tuple(batch for part in parts for batch in part.batches)
    if sum(batches) != requests:
        raise WireError(f"the batches hold {sum(batches)} requests, expected {requests}")
    return ServedRequests(
        latency_s=tuple(latency_s),
        batches=batches,
        unmet=sum(part.unmet for part in parts),
    )


def screening_failure(screen: Screen, rule: StoppingRule) -> Failure:
    """The `slow` failure of a configuration that screening dropped.

    Raises WireError if `rule` has no leader to screen against.
    """
    if rule.leader_s is None:
        raise WireError("expected a measurement, got the result of a screening")
    times = screen.pass_s / rule.leader_s
    detail = (
        f"screened out: by {len(screen.batches)} batches a pass would take {screen.pass_s:.2g} s, "
        f"{times:.1f} times the leader's"
    )
    return Failure(kind="slow", detail=detail)


def check_measurement(measurement: Measurement, expected: Expected) -> None:
    """Raise WireError if a worker's measurement contradicts the workload or itself."""
    found = Expected(
        examples=measurement.examples,
        features=measurement.features,
        tokens=measurement.tokens,
    )
    if found != expected:
        raise WireError(f"expected {expected}, got {found}")
    if not measurement.passes:
        raise WireError("the measurement has no passes")
    measured_features = sum(measurement.batch_features)
    shares = {p.share for p in measurement.passes}
    valid_share = all(0 < share <= 1 for share in shares) and len(shares) <= 1
    if not valid_share or (measured_features == measurement.features) != measurement.whole:
        raise WireError("the batches do not hold every feature once")
    counts = {len(p.batch_s) for p in measurement.passes}
    if counts != {len(measurement.batch_features)}:
        raise WireError(f"passes of {counts} batches, expected {len(measurement.batch_features)}")
    if min(min(p.batch_s) for p in measurement.passes) <= 0:
        raise WireError("a batch took no time")


def check_effective(command: Command, measurement: Measurement) -> None:
    """Raise WorkerFailed `fallback` if a setting of `command` was not in effect."""
    for name, asked in command.expected.items():
        effective = measurement.effective.get(name)
        if effective != asked:
            detail = f"asked for {name} {asked}, in effect is {effective}"
            raise WorkerFailed(Failure(kind="fallback", detail=detail))
    if "cpus" not in command.expected:
        cpus = str(measurement.effective.get("cpus", "")).split(",")
        threads = int(command.expected["threads"])
        if len(cpus) < threads:
            detail = f"asked for {threads} threads, on {len(cpus)} CPUs"
            raise WorkerFailed(Failure(kind="fallback", detail=detail))
