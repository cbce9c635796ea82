"""One engine behind a queue: requests arrive at given times and wait until the engine is free.

The load is open loop: an arrival never waits for the answer to an earlier request, because users
do not wait for each other (Schroeder, Wierman and Harchol-Balter, Open Versus Closed, 2006).
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Sequence
from typing import Any

from autotune.shared.padding import batch_width, fits_one_batch, shapes
from autotune.shared.records import Config, ServedRequests
from autotune.worker.batches import Batch, Features, Shape

Clock = Callable[[], float]

MAX_WARM_UP_SHAPES = 256
"""If the requests of a point can make more shapes than this, none is run beforehand."""
MAX_SHAPES_WARM_UP_S = 20.0
"""No further shape is run beforehand once this many seconds have passed."""


def warm_up_shapes(
    call: Callable[[Batch], Any],
    features: Features,
    *,
    point: Config,
    seen_shapes: set[Shape],
    clock: Clock = time.monotonic,
) -> None:
    """Run one batch of each shape that requests can make and that is not in `seen_shapes`.

    Afterwards no request waits while the engine specialises for its shape. Adds the shapes that
    it ran to `seen_shapes`. Stops after MAX_SHAPES_WARM_UP_S. Does nothing if there are more than
    MAX_WARM_UP_SHAPES possible shapes.
    """
    possible = shapes(features.lengths, max_seq_length=features.max_seq_length, **point)
    if len(possible) > MAX_WARM_UP_SHAPES:
        return
    shortest_row, start = int(features.lengths.argmin()), clock()
    for row_count, width in possible:
        if (row_count, width) not in seen_shapes and clock() - start < MAX_SHAPES_WARM_UP_S:
            call(features.batch([shortest_row] * row_count, width))
            seen_shapes.add((row_count, width))


def serve(
    call: Callable[[Batch], Any],
    features: Features,
    rows: Sequence[int],
    arrivals_s: Sequence[float],
    *,
    point: Config,
    seen_shapes: set[Shape] | None = None,
    clock: Clock = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> ServedRequests:
    """Answer requests in order of arrival. Request i is `rows[i]`, `arrivals_s[i]` after the start.

    Waiting requests are batched when the engine is free: as many as fit in one batch of `point`,
    padded as `point` says.

    `seen_shapes` holds the shapes (rows, width) that the engine has run. Batches of other shapes
    are counted as `unmet`, and their shapes are added. None: the engine does not specialise by
    shape, and nothing is counted.
    """
    latency_s, batch_sizes, unseen = [0.0] * len(rows), [], 0
    waiting: collections.deque[int] = collections.deque()
    arrived, start = 0, clock()
    while arrived < len(rows) or waiting:
        now = clock() - start
        while arrived < len(rows) and arrivals_s[arrived] <= now:
            waiting.append(arrived)
            arrived += 1
        if not waiting:
            sleep(arrivals_s[arrived] - now)
            continue
        requests, width = _take_batch(waiting, features, rows, point)
        call(features.batch([rows[request] for request in requests], width))
        done = clock() - start
        for request in requests:
            latency_s[request] = done - arrivals_s[request]
        batch_sizes.append(len(requests))
        shape = (len(requests), width)
        if seen_shapes is not None and shape not in seen_shapes:
            seen_shapes.add(shape)
            unseen += 1
    return ServedRequests(latency_s=tuple(latency_s), batches=tuple(batch_sizes), unmet=unseen)


def _take_batch(
    waiting: collections.deque[int],
    features: Features,
    rows: Sequence[int],
    point: Config,
) -> tuple[list[int], int]:
    """Remove the first requests of `waiting` that fit in one batch; return them and its width."""
    requests = [waiting.popleft()]
    lengths = [int(features.lengths[rows[requests[0]]])]
    while waiting:
        length = int(features.lengths[rows[waiting[0]]])
        if not fits_one_batch([*lengths, length], **point):
            break
        lengths.append(length)
        requests.append(waiting.popleft())
    width = batch_width(
        max(lengths),
        max_seq_length=features.max_seq_length,
        **point.only(frozenset({"padding", "bucket_step"})),
    )
    return requests, width
