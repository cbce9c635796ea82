"""A prepared callable and a clock -> samples and outputs."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autotune.shared.errors import TrialFailure
from autotune.shared.padding import PlannedBatch
from autotune.shared.records import Pass, Screen, StoppingRule
from autotune.shared.stopping import enough
from autotune.worker.batches import Batch, Features, Shape
from autotune.worker.disturbance import Moment, taken_s

Call = Callable[[Batch], Sequence[npt.NDArray[np.float32]]]
Clock = Callable[[], float]
Logits = Sequence[npt.NDArray[np.float32]]
"""The outputs of one batch, in the order of the model source."""

UNRELATED, TELLING = 0.5, 24
"""So many logits that correlate less than this with eager float32's answer another question."""

WARM_UP_BATCHES, WARM_UP_SHARE = 6, 4
"""So many batches of a pass, and at most one in so many, each from the middle of its part of the
pass: with the first and the last among them, the longest and the shortest where they are sorted,
what they said of a pass was off by 9% (standard deviation of 207 passes); so it is by 3%."""
WARM_UP_ROUNDS = 6
WARM_UP_AGREEMENT = 0.1
COLD, FIRST_COLD = 4.0, 8.0
"""How many times too slow an engine may seem before it has settled, and in its first round:
primitives are chosen and graphs specialised by then unseen shapes."""
KNOWN_BATCHES = 2
"""A point that was warm before needs no more: caches may be another process's by now."""
WARM_UP_S = 2.0
"""No new round begins this long after the first, in which engines may still compile, nor any
where the first took half as long: what takes seconds is not a matter of caches."""
SLOW_BATCH_S = 0.4
"""Where one takes so long, KNOWN_BATCHES of them are enough to say how slow."""


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
    met: set[Shape] | None,
    clock: Clock,
    known: bool = False,
    warm: bool = False,
    hopeless_s: float = math.inf,
    look_at: Callable[[Sequence[int], Sequence[Logits]], None] = lambda *_: None,
    taken_s: Callable[[], float] = taken_s,
) -> tuple[Screen, bool]:
    """Run a spread of batches until two successive rounds agree, or WARM_UP_ROUNDS are over;
    fewer where the point is `known` to have been warm before. `met` are the shapes that an
    engine which specialises by shape has run, None for any other: a round that meets new ones
    comes before, and what is not in the spread is left to `meet_shapes`.

    A round that is not over `hopeless_s` is enough where there is a bound and the process is
    `warm`, having measured other points, or is yet to meet the other shapes: the passes will
    say the same. One that is over it is looked at once more, however late it is.

    Returns what the last round says of a pass, and whether that is hopeless: it takes over
    `hopeless_s`, or COLD times that (FIRST_COLD after the first round) while rounds still
    differ. Ends at once where it is. `look_at` is given the numbers and the outputs of the
    batches of the first round.
    """
    some = max(KNOWN_BATCHES, min(WARM_UP_BATCHES, len(batches) // WARM_UP_SHARE))
    some = min(some, len(batches))
    if known or (some > KNOWN_BATCHES and _is_slow(call, batches, met, clock)):
        some = KNOWN_BATCHES
    indices = ((np.arange(some) + 0.5) * len(batches) / some).astype(int).tolist()
    spread = [batches[index] for index in indices]
    share = sum(map(_tokens, spread)) / sum(map(_tokens, batches))
    shapes = shapes_of(spread)
    meeting = met is not None and not known and not shapes <= met
    before, deadline = math.inf, math.inf
    for number in range(1 if known else WARM_UP_ROUNDS + meeting):
        cold = meeting and number == 0
        taken_before_s = taken_s()
        times, outputs = run_pass(call, spread, clock)
        now = sum(times)
        pass_s = now / share
        if number == 0:
            look_at(indices, outputs)
        if number == meeting:
            deadline = clock() + (WARM_UP_S if now < WARM_UP_S / 2 else 0.0)
        worth_it = pass_s <= hopeless_s
        settled = not cold and (abs(before - now) <= WARM_UP_AGREEMENT * now or (warm and worth_it))
        screen = Screen(
            batches=tuple(indices),
            batch_s=times,
            pass_s=pass_s,
            phases_s={},
            settled=settled,
            taken_s=taken_s() - taken_before_s,
        )
        if cold:
            assert met is not None
            met |= shapes
            margin = math.inf
        else:
            margin = 1.0 if settled else FIRST_COLD if before == math.inf else COLD
            before = now
        hopeless = pass_s > hopeless_s * margin
        enough = settled or (met is not None and pass_s <= hopeless_s < math.inf)
        late = clock() >= deadline and (worth_it or number > meeting)
        if hopeless or enough or late:
            break
    return screen, hopeless


def _tokens(batch: Batch) -> int:
    """Padding included."""
    return batch["attention_mask"].size


def _is_slow(call: Call, batches: Sequence[Batch], met: set[Shape] | None, clock: Clock) -> bool:
    """Whether a batch takes SLOW_BATCH_S on average, by the largest, which also sees to memory."""
    largest = max(batches, key=_tokens)
    start = clock()
    call(largest)
    if met is not None:
        met.add(largest["attention_mask"].shape)
    mean = sum(map(_tokens, batches)) / len(batches)
    return (clock() - start) * mean / _tokens(largest) > SLOW_BATCH_S


def shapes_of(batches: Sequence[Batch]) -> set[Shape]:
    return {batch["attention_mask"].shape for batch in batches}


def meet_shapes(call: Call, batches: Sequence[Batch], met: set[Shape]) -> None:
    """Run a batch of each distinct shape that is not in `met`, and add it there."""
    for batch in batches:
        shape = batch["attention_mask"].shape
        if shape not in met:
            met.add(shape)
            call(batch)


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
    """Per-batch outputs as arrays in dataset order, padding removed; NaN for the rows that other
    instances run.

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
        if not all(np.isfinite(row).all() for row in rows.values()):
            raise TrialFailure("non-finite", f"output {name} holds NaN or infinity")
        if len(rows) < len(features):
            left_out = next(iter(rows.values()))
            for row, length in enumerate(features.lengths):
                if row not in rows:
                    like = (int(length), *left_out.shape[1:]) if kind == "token" else left_out.shape
                    rows[row] = np.full(like, np.nan, left_out.dtype)
        ordered = [rows[row] for row in range(len(features))]
        arrays[name] = np.concatenate(ordered) if kind == "token" else np.stack(ordered)
    return Outputs(arrays=arrays)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceOutputs:
    """What eager float32 answered, to see at once that something else does not.

    `arrays` are as `Outputs.arrays`. Only what has nothing to do with it is caught here: the
    gate judges the rest.
    """

    arrays: Mapping[str, npt.NDArray[np.float32]]
    kinds: Mapping[str, str]
    features: Features

    def check(self, planned: Sequence[PlannedBatch], outputs: Sequence[Logits]) -> None:
        """Raises TrialFailure `inaccurate` where the logits of some batches do not go with the
        reference's, or `crash` where they have another shape. Few logits say nothing."""
        starts = np.concatenate([[0], np.cumsum(self.features.lengths)])
        for position, (name, kind) in enumerate(self.kinds.items()):
            whole = self.arrays[name]
            expected, found = [], []
            for batch, output in zip(planned, outputs, strict=True):
                if kind == "token":
                    expected += [whole[starts[r] : starts[r + 1]] for r in batch.rows]
                    found += self.features.unpad(output[position], batch.rows)
                else:
                    expected += list(whole[list(batch.rows)])
                    found += list(output[position])
            for one, other in zip(expected, found, strict=True):
                if one.shape != other.shape:
                    raise TrialFailure(
                        "crash", f"output {name} has shape {other.shape}, eager's {one.shape}"
                    )
            before, after = (
                np.concatenate([np.ravel(a) for a in some]) for some in (expected, found)
            )
            agreement = correlation(before, after)
            if len(before) >= TELLING and not agreement >= UNRELATED:
                raise TrialFailure(
                    "inaccurate",
                    f"screened out: on {len(expected)} rows {name} goes with eager float32's by a "
                    f"correlation of {agreement:.2f}",
                )


def correlation(expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> float:
    """Pearson's, 1 for equal arrays and 0 where one is constant or not finite."""
    if np.array_equal(expected, found):
        return 1.0
    a, b = expected.ravel() - expected.mean(), found.ravel() - found.mean()
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 0 and np.isfinite(size) else 0.0


def measure(
    call: Call,
    kinds: Mapping[str, str],
    planned: Sequence[PlannedBatch],
    features: Features,
    rule: StoppingRule,
    clock: Clock = time.perf_counter,
    instance: int = 0,
    look: Callable[[], Moment] = Moment.now,
    share: float = 1.0,
    complete: bool = True,
    settled: bool = True,
    warm_s: float | None = None,
) -> tuple[tuple[Pass, ...], Outputs | None, bool]:
    """Repeat passes until `rule` has enough of them, or once for a "first" rung.

    The first pass is cold where the engine meets shapes in it: what it takes over `warm_s`, which
    warm batches said of it, is `Pass.meeting_s`. So it is where the engine had not `settled`, but
    for a pass so long that most of it was warm. Returns the passes, the outputs of the last one
    (None where `planned`, a `share` of the workload, is not the `complete` part of this
    instance), and whether all passes gave the same.
    """
    batches = [features.batch(plan.rows, plan.width) for plan in planned]
    passes: list[Pass] = []
    digests = set()
    before = look()
    while True:
        batch_s, outputs = run_pass(call, batches, clock)
        after = look()
        total_s = sum(batch_s)
        cold = not passes and (warm_s is not None or (not settled and total_s < rule.patience_s))
        passes.append(
            Pass(
                batch_s=batch_s,
                instance=instance,
                waited_s=after.waited_s - before.waited_s,
                stolen_s=after.stolen_s - before.stolen_s,
                reference_s=(before.reference_s + after.reference_s) / 2,
                share=share,
                cold=cold,
                meeting_s=max(0.0, total_s - warm_s) if cold and warm_s is not None else 0.0,
            )
        )
        collected = collect(kinds, planned, batches, outputs, features) if complete else None
        digests.add(collected.digest if collected else "")
        if rule.rung == "first" or enough(passes, rule):
            return tuple(passes), collected, len(digests) == 1
        before = look()


def part(batches: int, pass_s: float, most_s: float | None) -> slice:
    """Which batches to run of a pass that would take `pass_s`, so that it takes `most_s`:
    all, or one in so many, evenly spread."""
    every = 1 if most_s is None else min(math.ceil(pass_s / most_s), batches)
    return slice((every - 1) // 2, None, every)
