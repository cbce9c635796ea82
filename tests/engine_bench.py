"""The embedded model encoded once, and runners of real workers over it."""

from __future__ import annotations

from autotune import demo
from autotune.host import detect
from autotune.tasks import task_named
from autotune.testing import EngineBench, baseline_with
from autotune.testing.engines import TWO_PASSES

TASK = task_named("qa")
HOST = detect()
SOURCE = TASK.source(str(demo.MODEL))
ONE_PASS = TWO_PASSES
Bench = EngineBench


def config(**knobs):
    """The baseline with these knobs, and the defaults of those that they make active."""
    return baseline_with(HOST, **knobs)
