"""Engines: what turns a loaded model into a callable, one file a mode.

`ENGINES` maps the value of the `mode` knob to the class that serves it, as a string, so that
nothing is imported before it is asked for. To add one, see docs/extending.md.
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
    """The class that serves `mode`. Raises TrialFailure `unsupported` for an unknown one."""
    if mode not in ENGINES:
        raise TrialFailure("unsupported", f"mode must be one of {sorted(ENGINES)}, got {mode!r}")
    module, _, name = ENGINES[mode].partition(":")
    found = getattr(importlib.import_module(module), name)
    assert issubclass(found, Engine)
    return found
