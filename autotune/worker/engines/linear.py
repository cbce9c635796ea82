"""Linear layers with their weights packed once for another kernel.

Sources: torch's own operators, those that inductor's freezing and torch.ao.quantization use:
`mkldnn::_linear_pointwise` (oneDNN, float32 and bfloat16) and `quantized::linear_dynamic`
(FBGEMM or oneDNN, int8). Stock torch sends float32 Linear to MKL, which is slow on AMD.
Versions: torch 2.8 to 2.13.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from autotune.shared.errors import TrialFailure

MAX_INT8 = 127


@functools.cache
def _traceable(activation: str, algorithm: str) -> Callable[..., torch.Tensor]:
    """The operator as a TorchScript function: the tracer cannot record its empty list of
    optional numbers, but records a call of a function that holds one."""
    graph = torch._C.parse_ir(
        f"""graph(%input : Tensor, %packed : Tensor, %bias : Tensor?):
          %activation : str = prim::Constant[value="{activation}"]()
          %algorithm : str = prim::Constant[value="{algorithm}"]()
          %scalars : Scalar?[] = prim::ListConstruct()
          %output : Tensor = mkldnn::_linear_pointwise(
              %input, %packed, %bias, %activation, %scalars, %algorithm)
          return (%output)"""
    )
    made: Callable[..., torch.Tensor] = torch._C._create_function_from_graph(
        f"onednn_{activation}", graph
    )
    return made


class OneDnnLinear(nn.Module):
    """`nn.Linear` through oneDNN, computed in `dtype`, with a GELU fused into it where `fuse`
    has found one behind it.

    Packed weights cannot be read back: a model that reads `module.weight` while running gets
    the original, which stays.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight, self.dtype = linear.weight, dtype
        self.activation, self.algorithm = "none", ""
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype), None)
        self.register_buffer("packed", packed, persistent=False)  # tracing finds only buffers

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        input = input.to(self.dtype)
        if torch.jit.is_tracing():
            call = _traceable(self.activation, self.algorithm)
            return call(input, self.packed, self.bias)
        return torch.ops.mkldnn._linear_pointwise(
            input, self.packed, self.bias, self.activation, [], self.algorithm
        )


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
    names of one packed weight. Raises TrialFailure `fallback` where there is none: nothing
    would have changed.
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


def quantize_linears(model: nn.Module, *, per_channel: bool, reduce_range: bool) -> int:
    """Give every Linear int8 weights."""
    return replace(
        model,
        lambda linear: DynamicInt8Linear(
            linear, per_channel=per_channel, reduce_range=reduce_range
        ),
    )


class _Uses(TorchFunctionMode):
    """Counts how often each of some tensors is an argument of a torch function."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[torch.Tensor, OneDnnLinear]] = {}  # alive: ids stay unique
        self.count: collections.Counter[int] = collections.Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in (*args, *(kwargs or {}).values()):
            for one in value if isinstance(value, list | tuple) else (value,):
                if id(one) in self.made:
                    self.count[id(one)] += 1
        return func(*args, **(kwargs or {}))


def fuse(model: nn.Module, example: Mapping[str, torch.Tensor]) -> int:
    """Move each exact GELU that alone reads the output of a OneDnnLinear into it; how many.

    What follows what is observed on one forward pass of `example`, so that it needs no
    knowledge of the model; the caller compares the outcome with what was there before.
    """
    uses = _Uses()
    pairs: dict[nn.Module, list[OneDnnLinear | None]] = {}

    def linear_made(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        assert isinstance(module, OneDnnLinear)
        uses.made[id(output)] = (output, module)

    def activation_met(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        _, linear = uses.made.get(id(inputs[0]), (None, None))
        pairs.setdefault(module, []).append(linear)

    hooks = [
        module.register_forward_hook(linear_made)
        if isinstance(module, OneDnnLinear)
        else module.register_forward_pre_hook(activation_met)
        for module in model.modules()
        if isinstance(module, OneDnnLinear) or _exact_gelu(module)
    ]
    with uses:
        model(**example)
    for hook in hooks:
        hook.remove()
    outputs = {linear: id(output) for output, linear in uses.made.values()}
    fused = 0
    for activation, linears in pairs.items():
        alone = [x for x in linears if x is not None and uses.count[outputs[x]] == 1]
        if len(alone) < len(linears):
            continue
        for linear in alone:
            linear.activation, linear.algorithm = "gelu", "none"
            fused += 1
        for parent in list(model.modules()):
            for name, child in list(parent._modules.items()):
                if child is activation:
                    setattr(parent, name, nn.Identity())
    return fused


def _exact_gelu(module: nn.Module) -> bool:
    """torch's GELU, or transformers' that calls it, not one of the approximations."""
    if isinstance(module, nn.GELU):
        return module.approximate == "none"
    is_transformers = type(module).__name__ == "GELUActivation"
    return is_transformers and getattr(module, "act", None) is nn.functional.gelu
