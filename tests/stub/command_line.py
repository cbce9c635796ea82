"""`autotune` as tests start it: with short finals, and with a stub worker where that is asked.

python command_line.py [--stub] search --model demo ...
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from autotune.commands.search import launch_check
from autotune.driver import command, forkserver
from autotune.emit import launch_script
from autotune.search import finals

STUB = Path(__file__).parent / "stub_worker.py"


def shorten() -> None:
    """Visits of the finals and the check of launch.sh take tenths of a second."""
    short = {"budget_s": 0.1, "patience_s": 0.1}
    finals.VISIT_RULE = replace(finals.VISIT_RULE, **short, part_s=0.2)
    finals.ROUNDS_S = 0.5
    launch_script.LAUNCH_RULE = replace(launch_script.LAUNCH_RULE, min_passes=2, **short)
    launch_check.TURN_S = launch_check.LEAST_TURN_S = 0.05
    launch_check.ROUNDS = launch_check.FEWEST


def use_stub() -> None:
    """Start the stub in the place of every worker, launch.sh's too."""
    command.WORKER = STUB
    forkserver.IMPORTS_WITH_TORCH = forkserver.IMPORTS_WITHOUT_TORCH


if __name__ == "__main__":
    shorten()
    if sys.argv[1:2] == ["--stub"]:
        del sys.argv[1]
        use_stub()
    from autotune.cli import main

    main()
