"""What is installed in this stack, and which engines can run on it."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from autotune.shared.engine import EngineDescriptor, EngineFile
from autotune.shared.errors import TrialFailure, describe, shorten
from autotune.shared.records import StackFacts
from autotune.worker.engines.base import Engine, Environment

DISTRIBUTIONS = (
    "torch",
    "transformers",
    "intel-openmp",
    "accelerate",
    "datasets",
    "numpy",
    "tokenizers",
    "safetensors",
)
"""The packages that the records of a run name, besides those in the descriptors of engines."""
IPEX_IMPORT_SCRIPT = """
import ctypes
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: this process ends when the worker ends
import intel_extension_for_pytorch
"""
IPEX_IMPORT_TIMEOUT_S = 120


def installed_versions(distributions: Iterable[str]) -> dict[str, str]:
    """Distribution -> version, for each of `distributions` that is installed."""
    versions = {}
    for name in dict.fromkeys(distributions):
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


def _refusals(
    descriptor: EngineDescriptor, found: type[Engine], environment: Environment
) -> dict[str, str | None]:
    """Precision -> why the engine cannot run it here, or None.

    An engine of another package that raises an error cannot run. Other errors are passed on.
    """
    try:
        return {p: found.unsupported(p, environment) for p in descriptor.precision_names}
    except Exception as error:
        if descriptor.file is None:
            raise
        reason = f"the engine of {descriptor.file.distribution} fails: {describe(error)}"
        return dict.fromkeys(descriptor.precision_names, shorten(reason))


def probe(instruction_sets: list[str], engine_files: Sequence[EngineFile] = ()) -> StackFacts:
    """This interpreter's packages, and why each mode and precision is unsupported, or None.

    `engine_files` are the engines of other packages. One that does not load is unsupported.

    Raises TrialFailure `unsupported` if torch or transformers is missing or broken.
    """
    from autotune.worker.engines import ENGINES, find_engine

    engines = dict(ENGINES)
    broken: dict[str, dict[str, str | None]] = {}
    for file in engine_files:
        try:
            engines[file.name] = replace(find_engine(file.name, file)[0], file=file)
        except TrialFailure as failure:
            broken[file.name] = dict.fromkeys(file.precisions, failure.detail)
    versions = installed_versions(
        [*DISTRIBUTIONS, *(name for one in engines.values() for name in one.distributions)]
    )
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
        classes = {mode: find_engine(mode, one.file)[1] for mode, one in engines.items()}
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
            **{
                mode: _refusals(engines[mode], found, environment)
                for mode, found in classes.items()
            },
            **broken,
        },
    )
