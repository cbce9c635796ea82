"""What instruction sets mean for precisions; for the orchestrator and its workers alike.

The names are those of `autotune.host.isa`.
"""

from __future__ import annotations

BF16_SETS = frozenset({"avx512_bf16", "amx_bf16"})
"""Without one of these bf16 products are emulated."""
VNNI_SETS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Without one of these sums of int8 products saturate unless a bit is given up, and are hardly
faster than those of fp32."""
