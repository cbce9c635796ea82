"""The floating-point operations that a model's matrix products take, counted as torch runs them."""

from __future__ import annotations

import functools
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

FITTED_WIDTHS_TOKENS = (16, 32, 64)
"""The padded widths that determine the polynomial."""
CHECKED_WIDTH_TOKENS, MAX_CHECKED_WIDTH_TOKENS = 48, 512
"""The padded width at which the polynomial is checked against a count. The workload's own width
is checked, too, up to the second one: Longformer's work is constant up to its window."""
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
LINEAR_LIBRARIES = ("mkldnn", "mkl", "quantized", "torch_ipex", "zentorch")
"""Namespaces of operators that compute a Linear layer with packed weights."""


class WorkCounter(TorchDispatchMode):
    """Counts the operations of matrix products inside the block, by the type they are computed in.

    An addition and a multiplication count as one operation each. Products inside a kernel that
    torch does not dispatch are not seen: fused groups of IPEX's graph mode, and what inductor
    compiled. A float32 product whose inner type torch may choose (`set_float32_matmul_precision`)
    runs a second time in full precision: if the result is another, it was bf16.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_type: Counter[str] = Counter()  # "fp32", "bf16", "int8" -> operations
        self.onednn = 0  # of these, in Linear layers that torch runs through oneDNN

    @property
    def total(self) -> int:
        return sum(self.by_type.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        packet, library = func._overloadpacket, func.namespace
        if packet not in flop_registry:
            with (
                self
            ):  # under inference_mode, torch passes whole layers: count what they consist of
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if packet in flop_registry:
            count = flop_registry[packet](*args, **kwargs, out_val=result)
            in_bf16 = runs_in_bf16(lambda: func(*args, **kwargs), result)
            self.by_type["bf16" if in_bf16 else TYPES.get(result.dtype, "other")] += int(count)
        elif packet.__name__ == "_scaled_dot_product_flash_attention_for_cpu":
            query, key, value = args[:3]
            count = sdpa_flop_count(query.shape, key.shape, value.shape)
            self.by_type[TYPES.get(query.dtype, "other")] += int(count)
        elif library in LINEAR_LIBRARIES and _is_linear(packet.__name__, result):
            count = 2 * result.numel() * args[0].shape[-1]
            kind = "int8" if library == "quantized" else TYPES.get(result.dtype, "other")
            if runs_in_bf16(lambda: func(*args, **kwargs), result):
                kind = "bf16"
            self.by_type[kind] += count
            self.onednn += count if library == "mkldnn" else 0
        return result


def runs_in_bf16(call: Callable[[], Any], result: Any) -> bool:
    """Whether the float32 product `call` multiplied bf16 numbers when it gave `result`.

    torch may do so after `set_float32_matmul_precision("medium")`, and does so on few CPUs. Only
    the numbers show it: in full precision the same product gives others.
    """
    chosen = torch.get_float32_matmul_precision()
    if chosen != "medium" or result.dtype != torch.float32:
        return False
    torch.set_float32_matmul_precision("highest")
    try:
        return not torch.equal(call(), result)
    finally:
        torch.set_float32_matmul_precision(chosen)


def _is_linear(name: str, result: Any) -> bool:
    """Whether the operator `name` computed a Linear layer: not only packed its weight."""
    computes = "linear" in name.lower() or "gemm" in name.lower()
    return computes and "pack" not in name and "weight" not in name and torch.is_tensor(result)


def count_work(call: Callable[[], object]) -> WorkCounter:
    """The operations of one call."""
    with torch.no_grad(), WorkCounter() as counter:
        call()
    return counter


def fit_work_polynomial(
    model: Any, make_row: Callable[[int], Mapping[str, torch.Tensor]], max_seq_length: int
) -> tuple[float, float, float] | None:
    """(c, a, b): a row padded to a width w takes c + a w + b w^2 floating-point operations.

    `make_row` gives the inputs of one row of a width.

    c + a w are the products with weights, b w^2 the products of attention. Only matrix products
    are counted, because they take most of the time.

    None if the work of the model is no such polynomial: a check at another width, or at the
    workload's own, differs by more than 0.1%. None also if the model cannot run such a row.
    """
    checked = {CHECKED_WIDTH_TOKENS, min(max_seq_length, MAX_CHECKED_WIDTH_TOKENS)}
    try:
        counts = {
            width: count_work(functools.partial(model, **make_row(width))).total
            for width in {*FITTED_WIDTHS_TOKENS, *checked}
        }
    except Exception:  # a model's own code may raise anything
        traceback.print_exc()
        return None
    b, a, c = np.polyfit(FITTED_WIDTHS_TOKENS, [counts[w] for w in FITTED_WIDTHS_TOKENS], 2)
    if not all(np.isclose(c + a * w + b * w**2, counts[w], rtol=1e-3) for w in checked):
        return None
    return float(c), float(a), float(b)
