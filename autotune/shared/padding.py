"""Which rows go together in a batch, and how wide the batch is padded.

The worker runs the batches. The orchestrator counts their work before they run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Lengths = npt.NDArray[np.integer[Any]]

PADDINGS = ("max_length", "longest", "length_sorted", "buckets", "token_budget")
"""Values of the knob `padding`; `plan` describes each."""
UNPADDED = "longest"
"""The padding of inputs without a width. They have no knob `padding`: each row is one place."""

MIN_BATCHES_PER_INSTANCE = 4
"""Instances split a pass if each gets this many batches. Fewer would not be typical of the
workload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBatch:
    """The rows of one batch, by number, and the tokens to which each is padded."""

    rows: tuple[int, ...]
    width: int


def batch_width(
    longest: int, *, max_seq_length: int, padding: str = UNPADDED, bucket_step: int = 0
) -> int:
    """The padded width, in tokens, of a batch whose longest row has `longest` tokens."""
    if padding == "max_length":
        return max_seq_length
    if padding == "buckets":
        return min(-(-longest // bucket_step) * bucket_step, max_seq_length)
    return longest


def fits_one_batch(
    lengths: Sequence[int],
    *,
    padding: str = UNPADDED,
    batch_size: int = 0,
    batch_tokens: int = 0,
    **_: Any,
) -> bool:
    """Whether rows of these lengths (in tokens) may share a batch. A single row always may."""
    if len(lengths) == 1:
        return True
    if padding == "token_budget":
        return max(lengths) * len(lengths) <= batch_tokens
    return len(lengths) <= batch_size


def batches_of_instance(batches: int, index: int, count: int) -> slice:
    """Which of the `batches` of a pass instance `index` of `count` runs.

    The instances take turns, so that together they run each batch once. Example: instance 0 of 2
    runs batches 0, 2, 4, ... If there are fewer than MIN_BATCHES_PER_INSTANCE for each, every
    instance runs all batches.
    """
    if count == 1 or batches < MIN_BATCHES_PER_INSTANCE * count:
        return slice(None)
    return slice(index, None, count)


def plan(
    lengths: Lengths,
    *,
    max_seq_length: int,
    padding: str = UNPADDED,
    batch_size: int = 0,
    bucket_step: int = 0,
    batch_tokens: int = 0,
) -> tuple[PlannedBatch, ...]:
    """The batches of one pass over rows of these `lengths` (in tokens), in the order to run.

    - `max_length`: dataset order; every batch is `max_seq_length` wide. Tutorials use this.
    - `longest`: dataset order; a batch is as wide as its longest row.
    - `length_sorted`: longest rows first, so that the largest batch runs first; a batch is as
      wide as its longest row.
    - `buckets`: as `length_sorted`, with widths rounded up to a multiple of `bucket_step`. This
      bounds the number of different shapes.
    - `token_budget`: as `length_sorted`, but a batch holds as many rows as fit `batch_tokens`
      with their padding, and at least one. Long rows form small batches, short rows large ones.

    Raises ValueError on any other padding.
    """
    if padding not in PADDINGS:
        raise ValueError(f"unknown padding {padding!r}")
    order = np.arange(len(lengths))
    if padding not in ("max_length", "longest"):
        order = np.argsort(-lengths, kind="stable")
    planned = []
    start = 0
    while start < len(order):
        size = batch_size
        if padding == "token_budget":  # rows are sorted: the first one sets the width
            size = max(1, batch_tokens // int(lengths[order[start]]))
        rows = tuple(int(row) for row in order[start : start + size])
        start += size
        width = batch_width(
            max(int(lengths[row]) for row in rows),
            padding=padding,
            max_seq_length=max_seq_length,
            bucket_step=bucket_step,
        )
        planned.append(PlannedBatch(rows=rows, width=width))
    return tuple(planned)


def shapes(
    lengths: Lengths,
    *,
    max_seq_length: int,
    padding: str = UNPADDED,
    batch_size: int = 0,
    bucket_step: int = 0,
    batch_tokens: int = 0,
) -> list[tuple[int, int]]:
    """Every shape (rows, width) that a batch of any of these rows can have, fewest rows first.

    A server meets more shapes than a pass, since any requests may come together.
    """
    widths = {
        batch_width(
            int(length), padding=padding, max_seq_length=max_seq_length, bucket_step=bucket_step
        )
        for length in np.unique(lengths)
    }
    found = []
    for width in widths:
        max_rows = max(1, batch_tokens // width) if padding == "token_budget" else batch_size
        found += [(rows, width) for rows in range(1, max_rows + 1)]
    return sorted(found)
