"""What the CPU's instruction sets mean for precisions.

Instruction sets have the names of `autotune.host.isa`.
"""

from __future__ import annotations

from collections.abc import Iterable

BF16_SETS = frozenset({"avx512_bf16", "amx_bf16"})
"""Sets that multiply bf16 numbers."""

VNNI_SETS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Sets that add up products of int8 numbers in 32 bits, without overflow."""


def has_bf16(sets: Iterable[str]) -> bool:
    """Whether a CPU with these sets multiplies bf16 in hardware. Other CPUs emulate bf16."""
    return not BF16_SETS.isdisjoint(sets)


def has_vnni(sets: Iterable[str]) -> bool:
    """Whether a CPU with these sets adds up int8 products without saturating.

    On other CPUs the engines quantise to 7 bits instead of 8, so int8 gains less over fp32.
    """
    return not VNNI_SETS.isdisjoint(sets)
