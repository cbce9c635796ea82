"""Which rows go together in a batch, and how wide it is padded.

Shared by both programs (the worker runs the batches, the orchestrator counts their work), so:
standard library and numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Lengths = npt.NDArray[np.integer[Any]]

PADDINGS = ("max_length", "longest", "length_sorted", "buckets", "token_budget")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBatch:
    rows: tuple[int, ...]
    width: int


def batch_width(longest: int, *, padding: str, max_seq_length: int, bucket_step: int = 0) -> int:
    """How wide a batch is padded whose longest row has `longest` tokens."""
    if padding == "max_length":
        return max_seq_length
    if padding == "buckets":
        return min(-(-longest // bucket_step) * bucket_step, max_seq_length)
    return longest


def fits_one_batch(
    lengths: Sequence[int], *, padding: str, batch_size: int = 0, batch_tokens: int = 0, **_: Any
) -> bool:
    """Whether rows of these lengths may go in one batch. One always may."""
    if len(lengths) == 1:
        return True
    if padding == "token_budget":
        return max(lengths) * len(lengths) <= batch_tokens
    return len(lengths) <= batch_size


MIN_BATCHES_PER_INSTANCE = 4
"""Fewer batches than this for each of several instances do not stand for the workload."""


def batches_of_instance(batches: int, index: int, count: int) -> slice:
    """Which of a pass's batches instance `index` of `count` runs: one in so many, so that together
    they run the workload once; all where that would be too few to tell how fast it is."""
    if count == 1 or batches < MIN_BATCHES_PER_INSTANCE * count:
        return slice(None)
    return slice(index, None, count)


def plan(
    lengths: Lengths,
    *,
    padding: str,
    max_seq_length: int,
    batch_size: int = 0,
    bucket_step: int = 0,
    batch_tokens: int = 0,
) -> tuple[PlannedBatch, ...]:
    """Which rows go together, and how wide.

    - `max_length`: dataset order, every batch `max_seq_length` wide (the guides' default);
    - `longest`: dataset order, as wide as the batch's longest row;
    - `length_sorted`: rows ordered by length, longest first (so that the largest batch is
      met first), as wide as the batch's longest row;
    - `buckets`: as `length_sorted`, widths rounded up to a multiple of `bucket_step`, which
      bounds the number of distinct shapes;
    - `token_budget`: as `length_sorted`, as many rows as fit `batch_tokens` with their
      padding, at least one: long rows go in small batches, short ones in large.
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
        if padding == "token_budget":  # the first row is the longest
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
    padding: str,
    max_seq_length: int,
    batch_size: int = 0,
    bucket_step: int = 0,
    batch_tokens: int = 0,
) -> list[tuple[int, int]]:
    """Every shape (rows, width) that a batch of some of these rows can have, fewest rows first."""
    widths = {
        batch_width(
            int(length), padding=padding, max_seq_length=max_seq_length, bucket_step=bucket_step
        )
        for length in np.unique(lengths)
    }
    found = []
    for width in widths:
        most = max(1, batch_tokens // width) if padding == "token_budget" else batch_size
        found += [(rows, width) for rows in range(1, most + 1)]
    return sorted(found)
