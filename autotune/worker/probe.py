"""What this interpreter has and which engines can run on it."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

from autotune.shared.errors import TrialFailure
from autotune.shared.records import StackFacts
from autotune.worker.engines.base import Environment

DISTRIBUTIONS = (
    "torch",
    "transformers",
    "intel-extension-for-pytorch",
    "intel-openmp",
    "zentorch",
    "torchao",
    "onnxruntime",
    "onnx",
    "openvino",
    "nncf",
    "accelerate",
    "datasets",
    "numpy",
    "tokenizers",
    "safetensors",
)
IMPORT = """
import ctypes
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: it ends with the worker
import intel_extension_for_pytorch
"""
IMPORT_TIMEOUT_S = 120


def installed() -> dict[str, str]:
    """Distribution -> version, of those of `DISTRIBUTIONS` that are installed."""
    versions = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _series(version: str) -> str:
    return ".".join(version.split("+")[0].split(".")[:2])


def ipex_unusable(versions: dict[str, str]) -> str | None:
    """Why IPEX cannot be used with these versions, in words; None where they match.

    Compared before anything is imported: on a mismatch that may end the interpreter.
    """
    ipex, torch = versions.get("intel-extension-for-pytorch"), versions.get("torch")
    if ipex is None:
        return (
            "intel-extension-for-pytorch is not installed in this stack; its last release, "
            "2.8, needs torch 2.8: pip install 'autotune-cpu[ipex]' in an environment of its own"
        )
    if torch is None or _series(ipex) != _series(torch):
        return (
            f"intel-extension-for-pytorch {ipex} needs torch {_series(ipex)}.x, "
            f"this stack has {torch}: pip install 'torch=={_series(ipex)}.*'"
        )
    return None


def ipex_import_fails(importing: subprocess.Popen[str]) -> str | None:
    """Why the process `importing`, which runs IMPORT, ends badly; None where it does not."""
    try:
        output, errors = importing.communicate(timeout=IMPORT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        importing.kill()
        importing.communicate()
        return f"importing intel-extension-for-pytorch took over {IMPORT_TIMEOUT_S} s"
    if importing.returncode:
        words = (errors or output).strip().splitlines()
        last = words[-1] if words else "no message"
        return f"importing intel-extension-for-pytorch failed: {last}"
    return None


def libiomp5() -> str | None:
    """The real path of Intel's OpenMP, which `intel-openmp` puts into the environment."""
    path = Path(sys.prefix) / "lib" / "libiomp5.so"
    return str(path.resolve()) if path.is_file() else None


def probe(instruction_sets: list[str]) -> StackFacts:
    """This interpreter as a stack.

    Raises TrialFailure `unsupported` where torch or transformers is missing or broken.
    """
    versions = installed()
    for needed in ("torch", "transformers"):
        if needed not in versions:
            raise TrialFailure(
                "unsupported",
                f"{needed} is not installed for {sys.executable}; "
                "pip install 'autotune-cpu[torch]' or 'autotune-cpu[ipex]'",
            )
    ipex, importing = ipex_unusable(versions), None
    if ipex is None:  # in a process of its own, since below AVX2 it calls exit; beside our imports
        pipe = subprocess.PIPE
        importing = subprocess.Popen(
            [sys.executable, "-c", IMPORT], stdout=pipe, stderr=pipe, text=True
        )
    try:
        from autotune.worker.engines import ENGINES, engine_class

        classes = {mode: engine_class(mode) for mode in ENGINES}
    except ImportError as error:
        raise TrialFailure("unsupported", f"{sys.executable}: {error}") from error
    finally:
        if importing is not None:
            ipex = ipex_import_fails(importing)
    environment = Environment(
        instruction_sets=frozenset(instruction_sets), versions=versions, ipex=ipex
    )
    return StackFacts(
        python=sys.executable,
        python_version=platform.python_version(),
        versions=versions,
        ipex=ipex,
        libiomp5=libiomp5(),
        modes={
            mode: {p: found.unsupported(p, environment) for p in found.precisions}
            for mode, found in classes.items()
        },
    )
