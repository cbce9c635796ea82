"""How much floating-point work one row is, exactly: counted, not estimated."""

from __future__ import annotations

import traceback

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from autotune.shared.records import ModelSource
from autotune.worker.slim import transformers

WIDTHS = (16, 32, 64)
CHECKED = 48


def polynomial(source: ModelSource) -> tuple[float, float, float] | None:
    """(c, a, b): a row padded to w tokens takes c + a w + b w^2 operations, an addition and a
    multiplication each counted (products of matrices only: the rest is not what takes time).

    Counted by torch on a model without memory. None for a model whose work is no such
    polynomial, or that cannot be run without weights.
    """
    try:
        counts = {width: _count(source, width) for width in (*WIDTHS, CHECKED)}
    except Exception:  # whatever a model's own code does on the meta device
        traceback.print_exc()
        return None
    b, a, c = np.polyfit(WIDTHS, [counts[width] for width in WIDTHS], 2)
    expected = c + a * CHECKED + b * CHECKED**2
    if not np.isclose(expected, counts[CHECKED], rtol=1e-3):
        return None
    return float(c), float(a), float(b)


def _count(source: ModelSource, width: int) -> int:
    config = transformers.AutoConfig.from_pretrained(
        source.path, revision=source.revision, trust_remote_code=source.trust_remote_code
    )
    head = getattr(transformers, source.head)
    with torch.device("meta"), torch.no_grad():
        # The fused attention of the CPU is not among what torch can count.
        model = head.from_config(
            config, attn_implementation="eager", trust_remote_code=source.trust_remote_code
        ).eval()
        ids = torch.zeros((1, width), dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return int(counter.get_total_flops())
