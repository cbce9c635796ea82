"""The fastest matrix products of this host, with the threads of this process."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.nn import functional

from autotune.shared.precisions import precision_named

LINEAR_SHAPES = (
    (512, 384, 384),
    (512, 384, 1536),
    (512, 768, 3072),
    (1024, 1024, 1024),
    (2048, 1024, 4096),
)
"""Rows, inputs and outputs of Linear layers, as in transformers of common sizes. The smallest fit
into one core's cache, the largest keep many cores busy."""
REPEATED_S = 0.1
"""How long each product is repeated, in seconds."""


def peak(threads: int, precisions: list[str]) -> dict[str, float]:
    """Precision -> floating-point operations a second, for each of `precisions`.

    The value is an upper limit: the fastest repetition of the fastest shape in LINEAR_SHAPES, with
    the faster of torch's own library and oneDNN.
    """
    torch.set_num_threads(threads)
    found = {}
    with torch.no_grad():
        for precision in precisions:
            dtype = getattr(torch, precision_named(precision).dtype)
            found[precision] = max(
                2 * m * k * n / _fastest_s(call)
                for m, k, n in LINEAR_SHAPES
                for call in _products(m, k, n, dtype)
            )
    return found


def _products(m: int, k: int, n: int, dtype: torch.dtype) -> list[Callable[[], object]]:
    """Functions that multiply (m, k) by (k, n): torch's own library, and oneDNN if available."""
    rows, weight = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
    calls: list[Callable[[], object]] = [lambda: functional.linear(rows, weight)]
    if torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        calls.append(lambda: torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], ""))
    return calls


def _fastest_s(call: Callable[[], object]) -> float:
    """The shortest time of one call, in seconds, after one warm-up call."""
    call()
    fastest, end = float("inf"), time.perf_counter() + REPEATED_S
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest
