"""A prepared callable and a clock -> samples and outputs."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autotune.errors import TrialFailure
from autotune.records import HOPELESS, Measure, Pass
from autotune.stats import median_interval
from autotune.worker.batches import Batch, Features, PlannedBatch

Call = Callable[[Batch], Sequence[npt.NDArray[np.float32]]]
Clock = Callable[[], float]

WARM_UP_BATCHES = 6
WARM_UP_ROUNDS = 6
WARM_UP_AGREEMENT = 0.05
WARM_UP_S = 3.0
"""No new round begins this long after the first, in which engines may still compile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Logits of one pass in dataset order.

    `arrays[name]` is float32: (features, ...) for an output with one vector a feature,
    (tokens, ...) for one with a vector a token, padding removed and rows end to end.
    """

    arrays: dict[str, npt.NDArray[np.float32]]

    @property
    def digest(self) -> str:
        digest = hashlib.sha256()
        for name in sorted(self.arrays):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(self.arrays[name]).tobytes())
        return digest.hexdigest()


def warm_up(
    call: Call,
    batches: Sequence[Batch],
    *,
    every_shape: bool,
    clock: Clock,
    rounds: int = WARM_UP_ROUNDS,
) -> None:
    """Run until it is warm: each distinct shape once where the engine specialises by shape,
    then a spread of batches until two successive rounds agree, or `rounds` are over."""
    if every_shape:
        seen = set()
        for batch in batches:
            shape = next(iter(batch.values())).shape
            if shape not in seen:
                seen.add(shape)
                call(batch)
                call(batch)
    indices = np.unique(np.linspace(0, len(batches) - 1, WARM_UP_BATCHES).astype(int))
    before, deadline = math.inf, math.inf
    for _ in range(rounds):
        start = clock()
        if start > deadline:
            return
        for index in indices:
            call(batches[index])
        now = clock() - start
        if abs(before - now) <= WARM_UP_AGREEMENT * now:
            return
        if before == math.inf:
            deadline = clock() + WARM_UP_S
        before = now


def run_pass(
    call: Call, batches: Sequence[Batch], clock: Clock
) -> tuple[tuple[float, ...], list[Sequence[npt.NDArray[np.float32]]]]:
    """Seconds of every batch, from padded inputs to logits on the host, and the logits."""
    times, outputs = [], []
    for batch in batches:
        start = clock()
        output = call(batch)
        times.append(clock() - start)
        outputs.append(output)
    return tuple(times), outputs


def collect(
    kinds: Mapping[str, str],
    planned: Sequence[PlannedBatch],
    batches: Sequence[Batch],
    outputs: Sequence[Sequence[npt.NDArray[np.float32]]],
    features: Features,
) -> Outputs:
    """Per-batch outputs as arrays in dataset order, padding removed.

    `kinds` says of each output whether it has a vector a `token` or a `feature`.
    Raises TrialFailure `non-finite`, or `crash` where a shape is not the batch's.
    """
    arrays = {}
    for position, (name, kind) in enumerate(kinds.items()):
        rows: dict[int, np.ndarray] = {}
        for plan, batch, output in zip(planned, batches, outputs, strict=True):
            array = output[position]
            shape = batch["attention_mask"].shape
            expected = shape if kind == "token" else shape[:1]
            if array.shape[: len(expected)] != expected:
                raise TrialFailure(
                    "crash", f"output {name} has shape {array.shape} for a batch of {shape}"
                )
            kept = features.unpad(array, plan.rows) if kind == "token" else list(array)
            rows.update(zip(plan.rows, kept, strict=True))
        ordered = [rows[row] for row in range(len(features))]
        arrays[name] = np.concatenate(ordered) if kind == "token" else np.stack(ordered)
        if not np.isfinite(arrays[name]).all():
            raise TrialFailure("non-finite", f"output {name} holds NaN or infinity")
    return Outputs(arrays=arrays)


def measure(
    call: Call,
    kinds: Mapping[str, str],
    planned: Sequence[PlannedBatch],
    features: Features,
    rule: Measure,
    clock: Clock = time.perf_counter,
    instance: int = 0,
) -> tuple[tuple[Pass, ...], Outputs, bool]:
    """Repeat passes until the median is known to `rule.half_width` or the budget is gone.

    Returns the passes, the outputs of the last one, and whether all passes gave the same.
    """
    batches = [features.batch(plan.rows, plan.width) for plan in planned]
    passes: list[Pass] = []
    digests = set()
    while True:
        batch_s, outputs = run_pass(call, batches, clock)
        passes.append(Pass(batch_s=batch_s, instance=instance))
        collected = collect(kinds, planned, batches, outputs, features)
        digests.add(collected.digest)
        totals = [p.total_s for p in passes]
        if rule.leader_s is not None and totals[0] > HOPELESS * rule.leader_s:
            return tuple(passes), collected, True
        if len(passes) < rule.min_passes and sum(totals) < rule.patience_s:
            continue
        if (
            len(passes) >= rule.max_passes
            or (len(passes) > 1 and median_interval(totals).half_width <= rule.half_width)
            or sum(totals) >= rule.budget_s
        ):
            return tuple(passes), collected, len(digests) == 1
