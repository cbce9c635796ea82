"""How tests start the command line."""

from __future__ import annotations

import sys
from pathlib import Path

STUB = Path(__file__).parent / "stub"


def command(*arguments: object, stub: bool = False) -> list[str]:
    """`autotune ARGUMENTS` with short finals; with `stub`, its workers need no torch."""
    line = [sys.executable, str(STUB / "command_line.py"), *(["--stub"] if stub else [])]
    return [*line, *map(str, arguments)]
