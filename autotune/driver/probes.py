"""What interpreters can run, remembered between searches.

A probe imports torch and IPEX, seconds that every search would pay. It is remembered under
everything it depends on: the interpreter, the folders it imports from and when they last
changed (installing anything changes them), the host's instruction sets, PATH (compilers), and
the worker's own source.
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
from autotune.shared.records import Config, StackFacts, dumps
from autotune.store import cache
from autotune.store.wire import WireError, loads, parse

LIST_PATHS = "import sys; print(*sys.path, sep='\\n')"
TIMEOUT_S = 60


def key(python: str, host: Host) -> str | None:
    """The name to remember under; None where the interpreter does not answer."""
    (command,) = worker_commands(Config.of({"threads": 1}), host, python)
    caller = environment(command, os.environ, tempfile.gettempdir())
    try:
        done = subprocess.run(
            [python, "-P", "-c", LIST_PATHS],
            env=caller,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    source = sorted(WORKER.parent.rglob("*.py"))
    parts = [
        __version__,
        python,
        caller.get("PATH", ""),
        " ".join(host.instruction_sets),
        *(f"{path} {_changed(Path(path))}" for path in done.stdout.splitlines() if path),
        *(f"{path} {_changed(path)}" for path in source),
    ]
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _changed(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def recall(name: str) -> StackFacts | None:
    """What was remembered under this name; None where nothing usable was."""
    try:
        return parse(StackFacts, loads((_file(name)).read_bytes()))
    except (OSError, WireError):
        return None


def remember(name: str, facts: StackFacts) -> None:
    """Keep `facts` for the next search."""
    cache.write(_file(name), dumps(facts))


def _file(name: str) -> Path:
    return cache.folder() / "probes" / f"{name}.json"
