"""Linear layers whose weights are packed once, for oneDNN or for int8 kernels.

Stock torch runs float32 Linear layers through MKL, which is slow on AMD CPUs.

Source: torch's own operators.
- `mkldnn::_linear_pointwise` (oneDNN, float32 and bfloat16), which inductor's freezing uses.
- `quantized::linear_dynamic` (FBGEMM or oneDNN, int8), which torch.ao.quantization uses.
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
from autotune.worker.slim import transformers

MAX_INT8 = 127


@functools.cache
def _traceable_linear(activation: str, algorithm: str) -> Callable[..., torch.Tensor]:
    """oneDNN's Linear with this activation, as a TorchScript function.

    The tracer cannot record the operator itself, because one argument is an empty list of
    optional numbers. It can record the call of a function that contains that list.
    """
    graph = torch._C.parse_ir(
        f"""graph(%input : Tensor, %packed : Tensor, %bias : Tensor?):
          %activation : str = prim::Constant[value="{activation}"]()
          %algorithm : str = prim::Constant[value="{algorithm}"]()
          %scalars : Scalar?[] = prim::ListConstruct()
          %output : Tensor = mkldnn::_linear_pointwise(
              %input, %packed, %bias, %activation, %scalars, %algorithm)
          return (%output)"""
    )
    function: Callable[..., torch.Tensor] = torch._C._create_function_from_graph(
        f"onednn_{activation}", graph
    )
    return function


class OneDnnLinear(nn.Module):
    """`nn.Linear` through oneDNN, computed in `dtype`. `fuse_gelus` may fuse a GELU into it.

    Packed weights cannot be read back. The original weights stay in `weight`, for models that
    read them while they run.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight, self.dtype = linear.weight, dtype
        self.activation, self.algorithm = "none", ""
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype), None)
        self.register_buffer("packed", packed, persistent=False)  # the tracer finds only buffers

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        input = input.to(self.dtype)
        if torch.jit.is_tracing():
            call = _traceable_linear(self.activation, self.algorithm)
            return call(input, self.packed, self.bias)
        return torch.ops.mkldnn._linear_pointwise(
            input, self.packed, self.bias, self.activation, [], self.algorithm
        )


class DynamicInt8Linear(nn.Module):
    """`nn.Linear` with int8 weights. Activations are quantised in every call, one scale a tensor.

    With `reduce_range`, activations get seven bits, so that sums cannot saturate on CPUs without
    VNNI. torch's own `quantize_dynamic` always does so. With VNNI the eighth bit costs nothing,
    and gains several points of accuracy.
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

    def weight(self) -> torch.Tensor:
        """The quantised weight. As in torch's own quantised layers, a method and no tensor.

        Models that ask for the type of a layer's `weight` (T5) then see that it is none.
        """
        return torch.ops.quantized.linear_unpack(self.packed)[0]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.ops.quantized.linear_dynamic(input.float(), self.packed, self.reduce_range)


def unify_linears(model: nn.Module) -> None:
    """Replace in place what computes the same as `nn.Linear` under another name by `nn.Linear`.

    That is `Conv1D` of transformers (GPT-2 and OpenAI GPT), whose weight lies the other way
    round. Everything that looks for `nn.Linear` then finds it: IPEX and PT2E, too.
    """
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if type(child) is transformers.pytorch_utils.Conv1D:
                rows, columns = child.weight.shape
                same = nn.Linear(rows, columns, device="meta", dtype=child.weight.dtype)
                same.weight = nn.Parameter(child.weight.detach().t().contiguous())
                same.bias = child.bias
                setattr(parent, name, same.eval())


def replace_linears(model: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> int:
    """Replace every `nn.Linear` of `model` in place by `make` of it. Returns their number.

    `Conv1D` counts as `nn.Linear` (see `unify_linears`).

    A layer that is used under several names is packed once for each name, because the tracer
    cannot follow two names of one packed weight. Raises TrialFailure `fallback` if the model has
    no `nn.Linear`.
    """
    unify_linears(model)
    count = 0
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children skips repeats
            if type(child) is nn.Linear:
                setattr(parent, name, make(child))
                count += 1
    if not count:
        raise TrialFailure("fallback", "the model has no nn.Linear to replace")
    return count


def pack_for_onednn(model: nn.Module, dtype: torch.dtype) -> int:
    """Run every Linear through oneDNN, computed in `dtype`. Returns their number."""
    return replace_linears(model, lambda linear: OneDnnLinear(linear, dtype))


def quantize_linears(model: nn.Module, *, per_channel: bool, reduce_range: bool) -> int:
    """Give every Linear int8 weights. Returns their number."""
    return replace_linears(
        model,
        lambda linear: DynamicInt8Linear(
            linear, per_channel=per_channel, reduce_range=reduce_range
        ),
    )


class _ReaderCounter(TorchFunctionMode):
    """Counts how often torch functions read each output of a OneDnnLinear.

    Tensors are identified by `id`. `outputs` keeps them alive, so that no id is used twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[int, tuple[torch.Tensor, OneDnnLinear]] = {}
        self.readers: collections.Counter[int] = collections.Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in (*args, *(kwargs or {}).values()):
            for one in value if isinstance(value, list | tuple) else (value,):
                if id(one) in self.outputs:
                    self.readers[id(one)] += 1
        return func(*args, **(kwargs or {}))


def fuse_gelus(model: nn.Module, example: Mapping[str, torch.Tensor]) -> int:
    """Fuse exact GELUs into the OneDnnLinear in front of them. Returns the number of fused layers.

    A GELU is fused if no other function reads the output of that layer. A forward pass of
    `example` shows which modules read which outputs, so this works for any model. The caller must
    compare the outputs of the model before and after.
    """
    counter = _ReaderCounter()
    sources: dict[nn.Module, list[OneDnnLinear | None]] = {}  # GELU -> layers in front of it

    def note_output(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        assert isinstance(module, OneDnnLinear)
        counter.outputs[id(output)] = (output, module)

    def note_input(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        _, linear = counter.outputs.get(id(inputs[0]), (None, None))
        sources.setdefault(module, []).append(linear)

    hooks = [
        module.register_forward_hook(note_output)
        if isinstance(module, OneDnnLinear)
        else module.register_forward_pre_hook(note_input)
        for module in model.modules()
        if isinstance(module, OneDnnLinear) or _is_exact_gelu(module)
    ]
    with counter:
        model(**example)
    for hook in hooks:
        hook.remove()
    output_ids = {linear: id(output) for output, linear in counter.outputs.values()}
    fused = 0
    for gelu, linears in sources.items():
        fusable = [x for x in linears if x is not None and counter.readers[output_ids[x]] == 1]
        if len(fusable) < len(linears):
            continue
        for linear in fusable:
            linear.activation, linear.algorithm = "gelu", "none"
            fused += 1
        for parent in list(model.modules()):
            for name, child in list(parent._modules.items()):
                if child is gelu:
                    setattr(parent, name, nn.Identity())
    return fused


def _is_exact_gelu(module: nn.Module) -> bool:
    """Whether `module` is torch's or transformers' exact GELU, not an approximation."""
    if isinstance(module, nn.GELU):
        return module.approximate == "none"
    is_transformers = type(module).__name__ == "GELUActivation"
    return is_transformers and getattr(module, "act", None) is nn.functional.gelu
