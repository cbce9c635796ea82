"""How fast this host multiplies matrices at most, with the threads this process has."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.nn import functional

SHAPES = (
    (512, 384, 384),
    (512, 384, 1536),
    (512, 768, 3072),
    (1024, 1024, 1024),
    (2048, 1024, 4096),
)
"""Rows, inputs and outputs of a Linear: what transformers of ordinary sizes multiply. The smallest
stay in a core's own cache, the largest keep many cores busy."""
SECONDS = 0.1


def peak(threads: int, precisions: list[str]) -> dict[str, float]:
    """Operations a second for each of `precisions` (fp32, bf16): the best of torch's own
    library and oneDNN, over SHAPES; the fastest repetition, for it is a limit."""
    torch.set_num_threads(threads)
    found = {}
    with torch.no_grad():
        for precision in precisions:
            dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
            found[precision] = max(
                2 * m * k * n / _fastest_s(call)
                for m, k, n in SHAPES
                for call in _products(m, k, n, dtype)
            )
    return found


def _products(m: int, k: int, n: int, dtype: torch.dtype) -> list[Callable[[], object]]:
    rows, weight = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
    calls: list[Callable[[], object]] = [lambda: functional.linear(rows, weight)]
    if torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        calls.append(lambda: torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], ""))
    return calls


def _fastest_s(call: Callable[[], object]) -> float:
    call()
    fastest, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest
