"""`autotune` as tests start it: with short finals, and with a stub worker where that is asked.

python command_line.py [--stub] search --model demo ...
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

STUB = Path(__file__).parent / "stub_worker.py"


def shorten_searches() -> None:
    """Visits of the finals and the check of launch.sh take tenths of a second."""
    from dataclasses import replace

    from autotune.commands.search import tune
    from autotune.commands.search.context import Pace
    from autotune.commands.search.launch_check import MIN_ROUNDS, CheckLimits
    from autotune.emit.launch_script import LAUNCH_RULE
    from autotune.search.finals import VISIT_RULE, FinalsLimits
    from autotune.search.split import STEP_RULE, SplitLimits

    short = {"budget_s": 0.1, "patience_s": 0.1}
    step = replace(STEP_RULE, **short, part_s=0.2)
    pace = Pace(
        split=SplitLimits(visit=step, max_rounds=3, time_s=2.0),
        finals=FinalsLimits(visit=replace(VISIT_RULE, **short, part_s=0.2), rounds_s=0.5),
        launch=replace(LAUNCH_RULE, min_passes=2, **short),
        check=CheckLimits(max_turn_s=0.05, min_turn_s=0.05, max_rounds=MIN_ROUNDS),
    )
    tune.Tuning = functools.partial(tune.Tuning, pace=pace)


def shorten_verification() -> None:
    from dataclasses import replace

    from autotune.commands.promise import verify
    from autotune.search.finals import VISIT_RULE

    visit = replace(VISIT_RULE, budget_s=0.1, patience_s=0.1, part_s=0.2)
    verify.verify = functools.partial(verify.verify, visit=visit)


def use_stub() -> None:
    """Start the stub in the place of every worker, launch.sh's too."""
    from autotune.driver import command, forkserver

    command.WORKER = STUB
    forkserver.IMPORTS_WITH_TORCH = forkserver.IMPORTS_WITHOUT_TORCH


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stub"]:
        del sys.argv[1]
        use_stub()
    if sys.argv[1:2] == ["search"]:
        shorten_searches()
    if sys.argv[1:2] == ["verify"]:
        shorten_verification()
    from autotune.cli import main

    main()
