"""Engine options: knobs that some engines take. A descriptor names the options of its engine.

`autotune.space.knobs` makes a knob of each option. The engines that take the option and the
precisions below decide when the knob is active. An option of one engine may also be defined in the
file of that engine's descriptor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from autotune.shared.declared import check_tuple
from autotune.shared.precisions import BF16, FP32, INT8_DYNAMIC, INT8_STATIC, Precision

NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option: its values, when it applies, and what Hugging Face's scripts do instead."""

    name: str
    about: str
    default: bool | int | str
    allowed: tuple[str, ...] | None = None  # values of a str option
    precisions: tuple[Precision, ...] = ()  # it applies at these; empty: at all
    minor: bool = False  # the search assumes that it changes speed by a few percent
    script: str | None = None
    """What the example script does instead, or how to do it there. None: there is nothing to say,
    because a flag stands for it, or because the script lacks the engine or precision itself."""
    holds_precision: bool = False
    """Its values are names of precisions, which the engine must be able to run too."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise ValueError(f"an option's name is lower case, digits and _; got {self.name!r}")
        owner = f"option {self.name}"
        check_tuple(owner, "precisions", self.precisions, Precision)
        if self.allowed is not None:
            check_tuple(owner, "allowed", self.allowed, str)
        if type(self.default) not in (bool, int, str):
            raise ValueError(
                f"{owner}: the default must be true or false, a whole number or text; got "
                f"{self.default!r}"
            )
        if (self.allowed is not None) != isinstance(self.default, str):
            raise ValueError(f"option {self.name}: text needs allowed values, other types none")
        if self.allowed is not None and self.default not in self.allowed:
            raise ValueError(
                f"option {self.name}: the default must be one of {', '.join(self.allowed)}; "
                f"got {self.default}"
            )


BF16_METHOD = Option(
    name="bf16_method",
    allowed=("autocast", "full"),
    default="autocast",
    precisions=(BF16,),
    about="autocast: the Trainer's --bf16; full (the whole model): its --bf16_full_eval",
)
LINEAR = Option(
    name="linear",
    allowed=("torch", "onednn", "onednn_fused"),
    default="torch",
    precisions=(FP32, BF16),
    about="Linear as in torch, or in oneDNN with weights packed once (fused: with GELU)",
    script="the script runs torch's own Linear",
)
AUTO_KERNEL_SELECTION = Option(
    name="auto_kernel_selection",
    default=False,
    precisions=(FP32,),
    about="IPEX may run float32 Linear in oneDNN instead of MKL if it expects more speed",
    script="the Trainer does not pass it to ipex.optimize",
)
INT8_WEIGHTS = Option(
    name="int8_weights",
    allowed=("per_tensor", "per_channel"),
    default="per_channel",
    precisions=(INT8_DYNAMIC,),
    about="one scale for all weights of a layer, or one scale for each output channel",
)
INT8_REST = Option(
    name="int8_rest",
    allowed=(FP32.name, BF16.name),
    default=FP32.name,
    precisions=(INT8_STATIC, INT8_DYNAMIC),
    about="data type of the operators that are not int8",
    holds_precision=True,
)
DYNAMIC_SHAPES = Option(
    name="dynamic_shapes",
    default=True,
    about="one compiled graph for all shapes, or one graph for each shape",
    script="torch.compile decides",
)
MAX_AUTOTUNE = Option(
    name="max_autotune",
    default=False,
    about="inductor times its own kernels against the library's for each matrix product",
    script="pass --torch_compile_mode max-autotune",
)
GRAPH_OPTIMIZATION = Option(
    name="graph_optimization",
    allowed=("all", "extended", "basic", "none"),
    default="all",
    minor=True,
    about="ONNX Runtime's graph optimisation level",
)
SHARED = (
    BF16_METHOD,
    LINEAR,
    AUTO_KERNEL_SELECTION,
    INT8_WEIGHTS,
    INT8_REST,
    DYNAMIC_SHAPES,
    MAX_AUTOTUNE,
    GRAPH_OPTIMIZATION,
)
"""The options above, in the order of their knobs. Options of other files come after them."""
