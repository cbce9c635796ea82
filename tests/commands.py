"""How tests start the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

STUB = Path(__file__).parent / "stub"


def command(*arguments: object, stub: bool = False) -> list[str]:
    """`autotune ARGUMENTS` with short finals; with `stub`, its workers need no torch."""
    line = [sys.executable, str(STUB / "command_line.py"), *(["--stub"] if stub else [])]
    return [*line, *map(str, arguments)]


def command_line(folder, *, stub=False):
    """The command line in `folder`: run("search", ...) -> CompletedProcess."""

    def run(*arguments, cwd=folder, timeout=300, **environment):
        return subprocess.run(
            command(*arguments, stub=stub),
            capture_output=True,
            text=True,
            cwd=cwd,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        )

    return run
