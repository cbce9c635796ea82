"""What workers answer and leave: checked against the workload, and merged over the instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autotune.driver.arrays import EncodedFeatures, read_arrays
from autotune.driver.channel import WorkerFailed
from autotune.driver.command import Command
from autotune.shared.records import Failure, Measurement, Screen, ServedRequests, StoppingRule
from autotune.store.wire import WireError

OutputArrays = Mapping[str, npt.NDArray[np.float32]]
OUTPUTS_FILE = "outputs.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What every measurement of a workload must agree with."""

    examples: int
    features: int
    tokens: int

    @classmethod
    def of(cls, rows: Sequence[object], features: EncodedFeatures) -> Expected:
        return cls(examples=len(rows), features=len(features.lengths), tokens=features.tokens)


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
