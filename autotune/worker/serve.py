"""One engine behind a queue: requests come when they come, and wait for their turn.

Open loop: the arrivals are given beforehand and never wait for an answer, as users do not
(Schroeder, Wierman and Harchol-Balter, Open Versus Closed, 2006).
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Sequence
from typing import Any

from autotune.shared.padding import batch_width, fits_one_batch, shapes
from autotune.shared.records import ServedRequests
from autotune.worker.batches import Batch, Features, Shape

Clock = Callable[[], float]
MOST_SHAPES, MEET_S = 256, 20.0
"""Up to so many shapes are all run before the first request, for so many seconds at most."""


def meet(
    call: Callable[[Batch], Any],
    features: Features,
    *,
    point: dict[str, Any],
    met: set[Shape],
    clock: Clock = time.monotonic,
) -> None:
    """Run once each shape that requests can come in, where those are few, so that none waits
    while the engine specialises. What is in `met` is left out; what was run is added."""
    wanted = shapes(features.lengths, max_seq_length=features.max_seq_length, **point)
    if len(wanted) > MOST_SHAPES:
        return
    shortest, start = int(features.lengths.argmin()), clock()
    for rows, width in wanted:
        if (rows, width) not in met and clock() - start < MEET_S:
            call(features.batch([shortest] * rows, width))
            met.add((rows, width))


def serve(
    call: Callable[[Batch], Any],
    features: Features,
    rows: Sequence[int],
    arrivals_s: Sequence[float],
    *,
    point: dict[str, Any],
    met: set[Shape] | None = None,
    clock: Clock = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> ServedRequests:
    """Answer `rows[i]`, which arrives `arrivals_s[i]` after the start, in order of arrival.

    Whatever waits when the engine is free goes together, as many as a batch of `point` holds,
    padded as `point` pads. `met` are the shapes (rows, width) that the engine has run before,
    where that matters to it; those of the batches are added.
    """
    latency, batches, unmet = [0.0] * len(rows), [], 0
    waiting: collections.deque[int] = collections.deque()
    come, start = 0, clock()
    while come < len(rows) or waiting:
        now = clock() - start
        while come < len(rows) and arrivals_s[come] <= now:
            waiting.append(come)
            come += 1
        if not waiting:
            sleep(arrivals_s[come] - now)
            continue
        together = [waiting.popleft()]
        lengths = [int(features.lengths[rows[together[0]]])]
        while waiting:
            length = int(features.lengths[rows[waiting[0]]])
            if not fits_one_batch([*lengths, length], **point):
                break
            lengths.append(length)
            together.append(waiting.popleft())
        width = batch_width(
            max(lengths),
            padding=point["padding"],
            max_seq_length=features.max_seq_length,
            bucket_step=point.get("bucket_step", 0),
        )
        call(features.batch([rows[index] for index in together], width))
        done = clock() - start
        for index in together:
            latency[index] = done - arrivals_s[index]
        batches.append(len(together))
        if met is not None and (len(together), width) not in met:
            met.add((len(together), width))
            unmet += 1
    return ServedRequests(latency_s=tuple(latency), batches=tuple(batches), unmet=unmet)
