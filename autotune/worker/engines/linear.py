"""Linear layers with their weights packed once for another kernel.

Sources: torch's own operators, those that inductor's freezing and torch.ao.quantization use:
`mkldnn::_linear_pointwise` (oneDNN, float32 and bfloat16) and `quantized::linear_dynamic`
(FBGEMM or oneDNN, int8). Stock torch sends float32 Linear to MKL, which is slow on AMD.
Versions: torch 2.8 to 2.13.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn

from autotune.errors import TrialFailure

MAX_INT8 = 127


@functools.cache
def _traceable() -> Callable[..., torch.Tensor]:
    """The operator as a TorchScript function: the tracer cannot record its empty list of
    optional numbers, but records a call of a function that holds one."""
    graph = torch._C.parse_ir(
        """graph(%input : Tensor, %packed : Tensor, %bias : Tensor?):
          %activation : str = prim::Constant[value="none"]()
          %algorithm : str = prim::Constant[value=""]()
          %scalars : Scalar?[] = prim::ListConstruct()
          %output : Tensor = mkldnn::_linear_pointwise(
              %input, %packed, %bias, %activation, %scalars, %algorithm)
          return (%output)"""
    )
    made: Callable[..., torch.Tensor] = torch._C._create_function_from_graph("onednn", graph)
    return made


class OneDnnLinear(nn.Module):
    """`nn.Linear` through oneDNN, computed in `dtype`.

    Packed weights cannot be read back: a model that reads `module.weight` while running gets
    the original, which stays.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight, self.dtype = linear.weight, dtype
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype), None)
        self.register_buffer("packed", packed, persistent=False)  # tracing finds only buffers

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        input = input.to(self.dtype)
        if torch.jit.is_tracing():
            return _traceable()(input, self.packed, self.bias)
        return torch.ops.mkldnn._linear_pointwise(input, self.packed, self.bias, "none", [], "")


class DynamicInt8Linear(nn.Module):
    """`nn.Linear` with int8 weights; activations are quantised as they come, a tensor at a time.

    torch's own `quantize_dynamic` always gives activations seven bits, so that instruction
    sets without VNNI cannot saturate. Where there is VNNI the eighth bit is free, and worth
    several points of accuracy: `reduce_range` says which.
    """

    def __init__(self, linear: nn.Linear, *, per_channel: bool, reduce_range: bool) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        if per_channel:
            scales = weight.abs().amax(dim=1).clamp(min=1e-12).double() / MAX_INT8
            zeros = torch.zeros_like(scales, dtype=torch.int64)
            quantized = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        else:
            scale = max(float(weight.abs().max()), 1e-12) / MAX_INT8
            quantized = torch.quantize_per_tensor(weight, scale, 0, torch.qint8)
        bias = None if linear.bias is None else linear.bias.detach().float()
        self.packed = torch.ops.quantized.linear_prepack(quantized, bias)
        self.reduce_range = reduce_range

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.ops.quantized.linear_dynamic(input.float(), self.packed, self.reduce_range)


def replace(model: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> int:
    """Replace every `nn.Linear` of `model` in place; how many.

    A layer that stands in several places is packed for each: the tracer cannot follow two
    names of one packed weight. Raises TrialFailure `fallback`
    where there is none: nothing would have changed.
    """
    count = 0
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children skips repeats
            if type(child) is nn.Linear:
                setattr(parent, name, make(child))
                count += 1
    if not count:
        raise TrialFailure("fallback", "the model has no nn.Linear to replace")
    return count


def through_onednn(model: nn.Module, dtype: torch.dtype) -> int:
    """Send every Linear through oneDNN, computed in `dtype`."""
    return replace(model, lambda linear: OneDnnLinear(linear, dtype))


def quantized_dynamically(model: nn.Module, *, per_channel: bool, reduce_range: bool) -> int:
    """Give every Linear int8 weights."""
    return replace(
        model,
        lambda linear: DynamicInt8Linear(
            linear, per_channel=per_channel, reduce_range=reduce_range
        ),
    )
