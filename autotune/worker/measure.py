"""Warming up a prepared engine, timing passes with it, and collecting its outputs."""

from __future__ import annotations

import enum
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from autotune.shared.axes import WIDTH, Axes
from autotune.shared.errors import TrialFailure
from autotune.shared.padding import PlannedBatch
from autotune.shared.records import Pass, Screen
from autotune.shared.stopping import StoppingRule, enough
from autotune.worker.batches import Batch, Features, Shape
from autotune.worker.disturbance import Moment, Taken

Call = Callable[[Batch], Sequence[npt.NDArray[np.float32]]]
Clock = Callable[[], float]
Logits = Sequence[npt.NDArray[np.float32]]
"""The outputs of one batch, in the order of the model source."""

MIN_CORRELATION = 0.5
"""Logits that correlate less than this with eager float32's are wrong beyond rounding."""
MIN_LOGITS_TO_JUDGE = 24
"""Fewer logits than this say too little about correlation to reject an engine."""

MAX_SPREAD_BATCHES = 6
"""A warm-up round runs at most this many batches, evenly spaced over the pass.

Evenly spaced sampling cut the error of the estimated pass from 9% to 3% (standard deviation over
207 passes), compared with a sample that always holds the first and the last batch."""
PASS_BATCHES_PER_SPREAD_BATCH = 4
"""A warm-up round runs at most one batch in this many of the pass."""
MIN_SPREAD_BATCHES = 2
"""A warm-up round runs at least this many batches. It runs exactly this many of a slow point, and
of a point that was warm before."""
MAX_WARM_UP_ROUNDS = 6
"""Rounds at most, not counting the round that runs new shapes."""
SETTLED_DIFFERENCE = 0.1
"""Two successive rounds agree if they differ by at most this share of the later one."""
FIRST_ROUND_SLOWDOWN, COLD_SLOWDOWN = 8.0, 4.0
"""How many times slower than its warm speed an engine may look in its first round, and in later
rounds until it has settled: it still chooses primitives and specialises graphs by shape."""
MAX_WARM_UP_S = 2.0
"""No round begins this many seconds after the first one. If the first round took more than half
as long, one round is enough: cold caches do not matter for batches that take seconds."""
SLOW_BATCH_S = 0.4
"""If the mean batch takes longer than this, MIN_SPREAD_BATCHES are enough to estimate a pass."""
NEGLIGIBLE_EXCESS = 0.05
"""Of the seconds of a pass: what new shapes may cost in a pass that counts."""
VERY_SLOW_BATCH_S = 1.0
"""If the mean batch takes longer than this, one batch is enough to estimate a pass. Its smallest
batch, which was run to find this out, has warmed the engine up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Logits of one pass in dataset order.

    `arrays[name]` is float32: (features, ...), or (places, ...) for an output with a width, padding
    removed and rows end to end.
    """

    arrays: dict[str, npt.NDArray[np.float32]]

    @property
    def digest(self) -> str:
        digest = hashlib.sha256()
        for name in sorted(self.arrays):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(self.arrays[name]).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUp:
    """Everything `warm_up` needs to know about one point."""

    call: Call
    batches: Sequence[Batch]  # of the whole pass
    clock: Clock
    seen_shapes: set[Shape] | None  # that the engine has run; None: it does not specialise by shape
    known_pass_s: float | None = None  # estimate of a pass, if the point was warmed up before
    process_is_warm: bool = False  # some point was warmed up before, in this process
    screen_above_s: float = math.inf  # a warm pass that takes longer is not worth running
    check_outputs: Callable[[Sequence[int], Sequence[Logits]], None] = lambda *_: None
    # called with the batch numbers and outputs of the first round
    taken: Callable[[], Taken] = Taken.now

    def is_affordable(self, pass_s: float) -> bool:
        return pass_s <= self.screen_above_s


class Verdict(enum.Enum):
    """What follows a round of warming up."""

    RUN_ANOTHER = enum.auto()
    KEEP = enum.auto()  # warm enough, or no time for another round
    SCREEN_OUT = enum.auto()  # too slow


def warm_up(inputs: WarmUp) -> tuple[Screen, bool]:
    """Run a spread of batches until two successive rounds agree; estimate a pass by the last round.

    Returns the estimate, and whether to screen the point out: a pass would take over
    `screen_above_s`. While rounds still differ, that limit is COLD_SLOWDOWN times higher
    (FIRST_ROUND_SLOWDOWN after the first round).

    Phases:
    1. The smallest batch, which may show that few batches are enough. If they are very slow, and
       there is nothing to screen the point against, its estimate is the result.
    2. New shapes: an engine that specialises by shape first runs those of the spread. If that
       round is already within `screen_above_s`, it is the only one, and its screen is not settled.
       `run_new_shapes` later sees to the shapes outside the spread.
    3. Rounds: at most MAX_WARM_UP_ROUNDS, or one if the point was warm before. If there is also
       nothing to screen it against, its smallest batch is run, and the earlier estimate is kept.
    4. A verdict after each round, by `_judge`.
    """
    if inputs.known_pass_s is not None and inputs.screen_above_s == math.inf:
        # The CPU caches may hold another process's data by now. Any batch brings the weights back.
        return replace(_run_smallest(inputs), pass_s=inputs.known_pass_s, settled=True), False
    batch_s = 0.0  # not known
    if inputs.known_pass_s is None and len(inputs.batches) > MIN_SPREAD_BATCHES:
        probed = _probe(inputs)
        batch_s = probed.pass_s / len(inputs.batches)
        if batch_s > VERY_SLOW_BATCH_S and inputs.screen_above_s == math.inf:
            return probed, False
    numbers = _spread(inputs, batch_s)
    shapes = shapes_of([inputs.batches[number] for number in numbers])
    seen = inputs.seen_shapes
    has_run_new_shapes = False
    if seen is not None and inputs.known_pass_s is None and not shapes <= seen:
        screen = _run_round(inputs, numbers, is_first=True)
        seen |= shapes
        has_run_new_shapes = True
        if _is_affordable_by_bound(inputs, screen):
            return screen, False

    previous_s, deadline = math.inf, math.inf
    for number in range(MAX_WARM_UP_ROUNDS if inputs.known_pass_s is None else 1):
        is_first = number == 0
        screen = _run_round(inputs, numbers, is_first=is_first and not has_run_new_shapes)
        round_s = sum(screen.batch_s)
        if is_first:
            deadline = inputs.clock() + (MAX_WARM_UP_S if round_s < MAX_WARM_UP_S / 2 else 0.0)
        screen = replace(screen, settled=_is_settled(inputs, screen, previous_s))
        verdict = _judge(inputs, screen, is_first=is_first, deadline=deadline)
        if verdict is not Verdict.RUN_ANOTHER:
            return screen, verdict is Verdict.SCREEN_OUT
        previous_s = round_s
    return screen, False


def _is_settled(inputs: WarmUp, screen: Screen, previous_s: float) -> bool:
    """Whether this round agrees with the previous one.

    In a warm process one round is enough if the point is within the bound: its passes will show
    the same.
    """
    round_s = sum(screen.batch_s)
    if abs(previous_s - round_s) <= SETTLED_DIFFERENCE * round_s:
        return True
    return inputs.process_is_warm and inputs.is_affordable(screen.pass_s)


def _judge(inputs: WarmUp, screen: Screen, *, is_first: bool, deadline: float) -> Verdict:
    """What follows a round that ran no new shapes.

    A first round over the bound gets another round even after the deadline.
    """
    slowdown = FIRST_ROUND_SLOWDOWN if is_first else COLD_SLOWDOWN
    if screen.pass_s > inputs.screen_above_s * (1.0 if screen.settled else slowdown):
        return Verdict.SCREEN_OUT
    if screen.settled:
        return Verdict.KEEP
    if inputs.seen_shapes is not None and _is_affordable_by_bound(inputs, screen):
        return Verdict.KEEP
    is_late = inputs.clock() >= deadline
    if is_late and (inputs.is_affordable(screen.pass_s) or not is_first):
        return Verdict.KEEP
    return Verdict.RUN_ANOTHER


def _is_affordable_by_bound(inputs: WarmUp, screen: Screen) -> bool:
    """Whether there is a bound, and a pass would keep it even as cold as this round."""
    return inputs.is_affordable(screen.pass_s) and inputs.screen_above_s < math.inf


def _run_round(inputs: WarmUp, numbers: Sequence[int], *, is_first: bool) -> Screen:
    """Run these batches once; the estimate of a pass, as not settled."""
    spread = [inputs.batches[number] for number in numbers]
    share = sum(map(_tokens, spread)) / sum(map(_tokens, inputs.batches))
    before = inputs.taken()
    batch_s, outputs = run_pass(inputs.call, spread, inputs.clock)
    if is_first:
        inputs.check_outputs(numbers, outputs)
    loss = inputs.taken().since(before)
    return Screen(
        batches=tuple(numbers),
        batch_s=batch_s,
        pass_s=sum(batch_s) / share,
        phases_s={},
        settled=False,
        taken_s=loss.waited_s + loss.stolen_s,
        held_up_s=loss.held_up_s,
    )


def _spread(inputs: WarmUp, batch_s: float) -> list[int]:
    """The numbers of the batches of a round, evenly spaced over the pass.

    The more seconds a batch is expected to take (`batch_s`), the fewer there are.
    """
    count = len(inputs.batches)
    size = min(MAX_SPREAD_BATCHES, count // PASS_BATCHES_PER_SPREAD_BATCH)
    size = min(max(MIN_SPREAD_BATCHES, size), count)
    if batch_s > VERY_SLOW_BATCH_S:
        size = 1
    elif batch_s > SLOW_BATCH_S or inputs.known_pass_s is not None:
        size = min(size, MIN_SPREAD_BATCHES)
    numbers: list[int] = ((np.arange(size) + 0.5) * count / size).astype(int).tolist()
    return numbers


def _probe(inputs: WarmUp) -> Screen:
    """The estimate of a pass by its smallest batch.

    If that seems slow it is run again, for an engine prepares itself in its first call.
    """
    screen = _run_smallest(inputs)
    if screen.pass_s > SLOW_BATCH_S * len(inputs.batches):
        screen = _run_smallest(inputs)
    return replace(screen, settled=True)


def _run_smallest(inputs: WarmUp) -> Screen:
    """Run the smallest batch. Its outputs are too few to be compared with the reference's."""
    number = min(range(len(inputs.batches)), key=lambda n: _tokens(inputs.batches[n]))
    screen = _run_round(inputs, [number], is_first=False)
    if inputs.seen_shapes is not None:
        inputs.seen_shapes.add(inputs.batches[number].shape)
    return screen


def _tokens(batch: Batch) -> int:
    """The places of a batch, padding included."""
    return batch.size


def shapes_of(batches: Sequence[Batch]) -> set[Shape]:
    return {batch.shape for batch in batches}


def run_new_shapes(call: Call, batches: Sequence[Batch], seen_shapes: set[Shape]) -> None:
    """Run a batch of each distinct shape not in `seen_shapes`, and add the shape there."""
    for batch in batches:
        shape = batch.shape
        if shape not in seen_shapes:
            seen_shapes.add(shape)
            call(batch)


def run_pass(
    call: Call, batches: Sequence[Batch], clock: Clock
) -> tuple[tuple[float, ...], list[Sequence[npt.NDArray[np.float32]]]]:
    """Run every batch once; the seconds of each, from padded inputs to float32 logits, and the
    logits."""
    times, outputs = [], []
    for batch in batches:
        start = clock()
        output = call(batch)
        times.append(clock() - start)
        outputs.append(output)
    return tuple(times), outputs


def collect(
    declared: Mapping[str, Axes],
    planned: Sequence[PlannedBatch],
    batches: Sequence[Batch],
    outputs: Sequence[Sequence[npt.NDArray[np.float32]]],
    features: Features,
) -> Outputs:
    """The outputs of a pass as arrays in dataset order, padding removed.

    Rows that other instances run are NaN. `declared` maps each output to the axes that it begins
    with. Raises TrialFailure `non-finite`, or `crash` if the shape of an output does not match its
    batch.
    """
    arrays = {}
    for position, (name, axes) in enumerate(declared.items()):
        rows: dict[int, np.ndarray] = {}
        varies = WIDTH in axes
        for plan, batch, output in zip(planned, batches, outputs, strict=True):
            array = output[position]
            if not _fits(array, axes, batch):
                raise TrialFailure(
                    "crash", f"output {name} has shape {array.shape} for a batch of {batch.shape}"
                )
            rows.update(zip(plan.rows, features.unpad(array, plan.rows, axes), strict=True))
        if not all(np.isfinite(row).all() for row in rows.values()):
            raise TrialFailure("non-finite", f"output {name} holds NaN or infinity")
        if len(rows) < len(features):
            example = next(iter(rows.values()))
            for row, length in enumerate(features.lengths):
                if row not in rows:
                    longer = (int(length), *example.shape[1:])
                    missing_shape = longer if varies else example.shape
                    rows[row] = np.full(missing_shape, np.nan, example.dtype)
        ordered = [rows[row] for row in range(len(features))]
        arrays[name] = np.concatenate(ordered) if varies else np.stack(ordered)
    return Outputs(arrays=arrays)


def _fits(array: npt.NDArray[np.float32], axes: Axes, batch: Batch) -> bool:
    """Whether the rows of an output, and its width if it has one, are those of the batch."""
    rows, width = batch.shape
    if len(array.shape) < len(axes) or array.shape[0] != rows:
        return False
    return WIDTH not in axes or array.shape[axes.index(WIDTH)] == width


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceOutputs:
    """The outputs of eager float32, to reject an engine early whose outputs are plainly wrong.

    `arrays` are as `Outputs.arrays`. Only unrelated outputs are rejected here; the gate judges
    accuracy.
    """

    arrays: Mapping[str, npt.NDArray[np.float32]]
    axes: Mapping[str, Axes]
    features: Features

    def check(self, planned: Sequence[PlannedBatch], outputs: Sequence[Logits]) -> None:
        """Raises TrialFailure `inaccurate` if the logits correlate less than MIN_CORRELATION with
        the reference's, or `crash` if they have another shape.

        Fewer logits than MIN_LOGITS_TO_JUDGE always pass.
        """
        starts = self.features.starts
        for position, (name, axes) in enumerate(self.axes.items()):
            reference = self.arrays[name]
            expected, found = [], []
            for batch, output in zip(planned, outputs, strict=True):
                if WIDTH in axes:
                    expected += [reference[starts[r] : starts[r + 1]] for r in batch.rows]
                else:
                    expected += list(reference[list(batch.rows)])
                found += self.features.unpad(output[position], batch.rows, axes)
            for one, other in zip(expected, found, strict=True):
                if one.shape != other.shape:
                    raise TrialFailure(
                        "crash",
                        f"output {name} has shape {other.shape}, but {one.shape} in eager float32",
                    )
            expected_logits, found_logits = (
                np.concatenate([np.ravel(a) for a in arrays]) for arrays in (expected, found)
            )
            agreement = correlation(expected_logits, found_logits)
            if len(expected_logits) >= MIN_LOGITS_TO_JUDGE and not agreement >= MIN_CORRELATION:
                raise TrialFailure(
                    "inaccurate",
                    f"screened out: on {len(expected)} rows output {name} has a correlation of "
                    f"{agreement:.2f} with eager float32's, at least {MIN_CORRELATION} is expected",
                )


def correlation(expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> float:
    """Pearson's correlation: 1 for equal arrays, 0 if one is constant or not finite."""
    if np.array_equal(expected, found):
        return 1.0
    a, b = expected.ravel() - expected.mean(), found.ravel() - found.mean()
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 0 and np.isfinite(size) else 0.0


def measure(
    call: Call,
    declared: Mapping[str, Axes],
    planned: Sequence[PlannedBatch],
    features: Features,
    rule: StoppingRule,
    clock: Clock = time.perf_counter,
    instance: int = 0,
    read_counters: Callable[[], Moment] = Moment.now,
    share: float = 1.0,
    complete: bool = True,
    settled: bool = True,
    warm_pass_s: float | None = None,
) -> tuple[tuple[Pass, ...], Outputs | None, bool]:
    """Repeat passes until `rule` has enough of them. The rungs "first" and "answers" run one.

    `planned` is a `share` of the workload's padded tokens. It is `complete` if it is all that
    this instance has to run, not a part of it chosen for speed.

    The first pass is cold in two cases:
    - `warm_pass_s` is given: the engine runs new shapes in this pass, and `warm_pass_s` is what
      warm batches said a pass takes. The excess over it is `Pass.meeting_s`. A pass of at least
      `rule.budget_s` whose excess is below NEGLIGIBLE_EXCESS is warm nevertheless.
    - The engine had not `settled`, unless the pass is at least `rule.patience_s` long: most of
      so long a pass is warm.

    Returns the passes, the outputs of the last one (None unless `complete`), and whether all
    passes gave the same outputs.
    """
    batches = [features.batch(plan.rows, plan.width) for plan in planned]
    passes: list[Pass] = []
    digests = set()
    before = read_counters()
    while True:
        batch_s, outputs = run_pass(call, batches, clock)
        after = read_counters()
        loss, total_s = after.taken.since(before.taken), sum(batch_s)
        met_shapes = warm_pass_s is not None and not _negligible(total_s, warm_pass_s, rule)
        cold = not passes and (met_shapes or (not settled and total_s < rule.patience_s))
        passes.append(
            Pass(
                batch_s=batch_s,
                instance=instance,
                waited_s=loss.waited_s,
                stolen_s=loss.stolen_s,
                held_up_s=loss.held_up_s,
                reference_s=(before.reference_s + after.reference_s) / 2,
                share=share,
                cold=cold,
                meeting_s=max(0.0, total_s - warm_pass_s)
                if cold and warm_pass_s is not None
                else 0.0,
            )
        )
        collected = collect(declared, planned, batches, outputs, features) if complete else None
        digests.add(collected.digest if collected else "")
        if rule.rung in ("first", "answers") or enough(passes, rule):
            return tuple(passes), collected, len(digests) == 1
        before = read_counters()


def _negligible(total_s: float, warm_pass_s: float, rule: StoppingRule) -> bool:
    """Whether new shapes cost a long pass so little that its seconds are those of a warm one."""
    return total_s >= rule.budget_s and total_s - warm_pass_s < NEGLIGIBLE_EXCESS * total_s


def part_of_pass(batches: int, pass_s: float, max_s: float | None) -> slice:
    """Which of a number of `batches` to run, if all of them take `pass_s`, so that they take
    about `max_s`: all (also if `max_s` is None), or every nth. Example: 12 s of batches and
    `max_s` 4 give every third batch."""
    every = 1 if max_s is None else min(math.ceil(pass_s / max_s), batches)
    return slice((every - 1) // 2, None, every)
