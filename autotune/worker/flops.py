"""The floating-point operations that a model needs for one row, counted by torch."""

from __future__ import annotations

import traceback

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from autotune.shared.records import ModelSource
from autotune.worker.slim import transformers

FITTED_WIDTHS_TOKENS = (16, 32, 64)
"""The padded widths that determine the polynomial."""
CHECKED_WIDTH_TOKENS = 48
"""The padded width at which the polynomial is checked against a count."""


def fit_work_polynomial(source: ModelSource) -> tuple[float, float, float] | None:
    """(c, a, b): a row padded to w tokens takes c + a w + b w^2 floating-point operations.

    An addition and a multiplication count as one operation each. Only matrix products are
    counted, because they take most of the time. torch counts them on the meta device, where the
    model has no weights in memory.

    None if the work of the model is no such polynomial (the check differs by more than 0.1%), or
    if the model cannot run on the meta device.
    """
    checked = CHECKED_WIDTH_TOKENS
    try:
        counts = {
            width: _count_operations(source, width) for width in (*FITTED_WIDTHS_TOKENS, checked)
        }
    except Exception:  # a model's own code may raise anything on the meta device
        traceback.print_exc()
        return None
    fitted = [counts[width] for width in FITTED_WIDTHS_TOKENS]
    b, a, c = np.polyfit(FITTED_WIDTHS_TOKENS, fitted, 2)
    expected = c + a * checked + b * checked**2
    if not np.isclose(expected, counts[checked], rtol=1e-3):
        return None
    return float(c), float(a), float(b)


def _count_operations(source: ModelSource, width: int) -> int:
    """The operations of one row of `width` tokens."""
    config = transformers.AutoConfig.from_pretrained(
        source.path, revision=source.revision, trust_remote_code=source.trust_remote_code
    )
    head = getattr(transformers, source.head)
    with torch.device("meta"), torch.no_grad():
        # torch cannot count the operations of the CPU's fused attention.
        model = head.from_config(
            config, attn_implementation="eager", trust_remote_code=source.trust_remote_code
        ).eval()
        ids = torch.zeros((1, width), dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return int(counter.get_total_flops())
