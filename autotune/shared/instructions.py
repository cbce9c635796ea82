"""What instruction sets mean for precisions; for the orchestrator and its workers alike.

The names are those of `autotune.host.isa`.
"""

from __future__ import annotations

from collections.abc import Iterable

BF16_SETS = frozenset({"avx512_bf16", "amx_bf16"})
VNNI_SETS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


def has_bf16(sets: Iterable[str]) -> bool:
    """Whether a CPU with these multiplies bf16 itself: others emulate it."""
    return not BF16_SETS.isdisjoint(sets)


def has_vnni(sets: Iterable[str]) -> bool:
    """Whether a CPU with these sums int8 products without saturating: others give a bit up, and
    gain less over fp32."""
    return not VNNI_SETS.isdisjoint(sets)
