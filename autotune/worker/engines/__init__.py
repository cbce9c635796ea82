"""Engines turn a loaded model into a callable. There is one file for each mode or family of modes.

`ENGINES` maps the value of the knob `mode` to the engine's class. The class is named as a string,
so that its libraries are imported only when the mode is asked for. docs/extending.md says how to
add an engine.
"""

from __future__ import annotations

import importlib

from autotune.shared.errors import TrialFailure
from autotune.worker.engines.base import Engine

ENGINES = {
    "eager": "autotune.worker.engines.eager:EagerEngine",
    "jit": "autotune.worker.engines.jit:JitEngine",
    "ipex": "autotune.worker.engines.ipex:IpexEngine",
    "ipex_jit": "autotune.worker.engines.ipex:IpexJitEngine",
    "inductor": "autotune.worker.engines.inductor:InductorEngine",
    "zentorch": "autotune.worker.engines.zentorch:ZentorchEngine",
    "onnxruntime": "autotune.worker.engines.onnxruntime:OnnxRuntimeEngine",
    "openvino": "autotune.worker.engines.openvino:OpenVinoEngine",
}


def engine_class(mode: str) -> type[Engine]:
    """The engine class of `mode`. Raises TrialFailure `unsupported` for an unknown mode."""
    if mode not in ENGINES:
        raise TrialFailure("unsupported", f"mode must be one of {sorted(ENGINES)}, got {mode!r}")
    module, _, name = ENGINES[mode].partition(":")
    found = getattr(importlib.import_module(module), name)
    assert issubclass(found, Engine)
    return found
