"""What is installed in this stack, and which engines can run on it."""

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
"""The packages whose versions engines may ask about, and that the records of a run name."""
IPEX_IMPORT_SCRIPT = """
import ctypes
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: this process ends when the worker ends
import intel_extension_for_pytorch
"""
IPEX_IMPORT_TIMEOUT_S = 120


def installed_versions() -> dict[str, str]:
    """Distribution -> version, for each of `DISTRIBUTIONS` that is installed."""
    versions = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def ipex_mismatch(versions: dict[str, str]) -> str | None:
    """Why IPEX cannot be used with these versions, and the remedy. None if the versions match.

    The versions are compared before IPEX is imported, because importing IPEX beside another
    series of torch may end the interpreter.
    """
    # Imported here, because a stack without transformers may lack `packaging`, too.
    from autotune.worker.versions import series

    ipex, torch = versions.get("intel-extension-for-pytorch"), versions.get("torch")
    if ipex is None:
        return (
            "intel-extension-for-pytorch is not installed in this stack; its last release, "
            "2.8, needs torch 2.8: run `autotune stack create ipex --extra ipex`"
        )
    if torch is None or series(ipex) != series(torch):
        return (
            f"intel-extension-for-pytorch {ipex} needs torch {series(ipex)}.x, "
            f"this stack has {torch}: pip install 'torch=={series(ipex)}.*'"
        )
    return None


def ipex_import_failure(importing: subprocess.Popen[str]) -> str | None:
    """Why `importing`, a process that runs IPEX_IMPORT_SCRIPT, failed. None if it succeeded."""
    try:
        output, errors = importing.communicate(timeout=IPEX_IMPORT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        importing.kill()
        importing.communicate()
        return f"importing intel-extension-for-pytorch took over {IPEX_IMPORT_TIMEOUT_S} s"
    if importing.returncode:
        lines = (errors or output).strip().splitlines()
        message = lines[-1] if lines else "no message"
        return f"importing intel-extension-for-pytorch failed: {message}"
    return None


def find_libiomp5() -> str | None:
    """The real path of Intel's OpenMP library, which the package `intel-openmp` installs."""
    path = Path(sys.prefix) / "lib" / "libiomp5.so"
    return str(path.resolve()) if path.is_file() else None


def probe(instruction_sets: list[str]) -> StackFacts:
    """This interpreter's packages, and why each mode and precision is unsupported, or None.

    Raises TrialFailure `unsupported` if torch or transformers is missing or broken.
    """
    versions = installed_versions()
    for needed in ("torch", "transformers"):
        if needed not in versions:
            raise TrialFailure(
                "unsupported",
                f"{needed} is not installed for {sys.executable}; "
                "pip install torch transformers safetensors",
            )
    importing = None
    try:
        ipex = ipex_mismatch(versions)
        if ipex is None:
            # IPEX calls exit on a CPU without AVX2, so another process imports it. That process
            # runs while this one imports the engines.
            importing = subprocess.Popen(
                [sys.executable, "-c", IPEX_IMPORT_SCRIPT],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        from autotune.worker.engines import ENGINES, engine_class

        classes = {mode: engine_class(mode) for mode in ENGINES}
    except ImportError as error:
        raise TrialFailure("unsupported", f"{sys.executable}: {error}") from error
    finally:
        if importing is not None:
            ipex = ipex_import_failure(importing)
    environment = Environment(
        instruction_sets=frozenset(instruction_sets), versions=versions, ipex=ipex
    )
    return StackFacts(
        python=sys.executable,
        python_version=platform.python_version(),
        versions=versions,
        ipex=ipex,
        libiomp5=find_libiomp5(),
        modes={
            mode: {p: found.unsupported(p, environment) for p in found.precisions}
            for mode, found in classes.items()
        },
    )
