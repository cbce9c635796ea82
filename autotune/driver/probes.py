"""A cache of probes: what each interpreter can run, kept between searches.

A probe imports torch and IPEX, which takes seconds. The cache key covers everything that a probe
depends on:

- the version of autotune, the source of the worker and of what it shares with the orchestrator;
- the files of the engines of other packages;
- the interpreter, the folders it imports from, and when they last changed (installing a package
  changes them);
- the host's instruction sets;
- PATH, where compilers are found.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from autotune import __version__
from autotune.driver.command import WORKER, environment, worker_commands
from autotune.host import Host
from autotune.shared.engines import engine_files
from autotune.shared.records import Config, StackFacts, dumps
from autotune.store import cache
from autotune.store.wire import WireError, loads, parse

PRINT_IMPORT_PATHS = "import sys; print(*sys.path, sep='\\n')"
IMPORT_PATHS_TIMEOUT_S = 60


def key(python: str, host: Host) -> str | None:
    """The cache key of a probe of `python` on `host`; None if the interpreter does not run."""
    (command,) = worker_commands(Config.of({"threads": 1}), host, python)
    variables = environment(command, os.environ, tempfile.gettempdir())
    try:
        done = subprocess.run(
            [python, "-P", "-X", "utf8", "-c", PRINT_IMPORT_PATHS],
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=IMPORT_PATHS_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    shared = WORKER.parents[1] / "shared"
    source = [*sorted(WORKER.parent.rglob("*.py")), *sorted(shared.rglob("*.py"))]
    parts = [
        __version__,
        python,
        variables.get("PATH", ""),
        " ".join(host.instruction_sets),
        *(f"{path} {_modified_ns(Path(path))}" for path in done.stdout.splitlines() if path),
        *(f"{path} {_modified_ns(path)}" for path in source),
        *(f"{dumps(file)} {_modified_ns(Path(file.file))}" for file in engine_files()),
    ]
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _modified_ns(path: Path) -> int | None:
    """When `path` last changed, in nanoseconds; None if `path` does not exist."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def recall(key: str) -> StackFacts | None:
    """The probe kept under `key`; None if there is none, or if its file is damaged."""
    try:
        return parse(StackFacts, loads(_file(key).read_bytes()))
    except (OSError, WireError):
        return None


def remember(key: str, facts: StackFacts) -> None:
    """Keep a probe under `key` for the next search."""
    cache.write(_file(key), dumps(facts))


def _file(key: str) -> Path:
    return cache.folder() / "probes" / f"{key}.json"
